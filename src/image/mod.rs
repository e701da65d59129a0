//! Floor 0: pixels. Decoding, resizing, and the transform into a model's input.
//!
//! Files are read as PIL reads them for the reference implementation (`Image.open(..).convert("RGB")`),
//! with one addition: the EXIF orientation is applied, so a photograph is seen as it was taken.
//! Color profiles are not applied, as in PIL.
//!
//! JPEG pixels differ from libjpeg-turbo's by 0.01 to 0.05 levels of 255 on average in photographs,
//! and by up to 16 where colors change abruptly: the inverse cosine transform and the chroma
//! upsampling round differently.
//!
//! Where PIL makes up what a damaged or cut file does not yield, the file is refused instead.

mod decode;
mod orient;
pub(crate) mod passes;
pub(crate) mod resample;
pub mod resize;
pub mod transform;

use std::fs::File;
use std::io::{BufReader, Cursor, Read};
use std::ops::Range;
use std::path::Path;

use image::{DynamicImage, RgbImage};

pub use decode::{DecodeOptions, MAX_PIXELS, MAX_SIDE};

use crate::error::{Error, Result};
use crate::size::Size;

/// The most that is read of something that is not a regular file, such as a pipe.
const MAX_STREAM: u64 = 1 << 30;

/// An image of 8-bit RGB pixels.
#[derive(Clone, PartialEq, Eq)]
pub struct Image {
    width: usize,
    height: usize,
    pixels: Vec<u8>,
}

/// An image, and what a user should know about how it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecodedImage {
    /// The pixels.
    pub image: Image,
    /// What was used with a caveat, in words; empty for nearly every picture.
    pub warnings: Vec<String>,
}

impl Image {
    /// Reads and decodes an image file; warnings are traced. See [`Image::open_with`].
    ///
    /// # Errors
    /// As in [`Image::open_with`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Ok(Self::open_with(path, &DecodeOptions::default())?.image)
    }

    /// Reads and decodes an image file. Each warning is also traced, with the file's name.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is no such file, [`Error::Io`] when it cannot be read, and
    /// [`Error::InvalidImage`] for a folder and as in [`Image::decode_with`].
    pub fn open_with(path: impl AsRef<Path>, options: &DecodeOptions) -> Result<DecodedImage> {
        let path = path.as_ref();
        if path.is_dir() {
            let path = path.display();
            return Err(Error::InvalidImage(format!(
                "{path} is a folder; give one of the pictures in it"
            )));
        }
        let file = File::open(path).map_err(|source| Error::io(path, source))?;
        let metadata = file.metadata().map_err(|source| Error::io(path, source))?;
        let decoded = if metadata.is_file() {
            decode::decode(BufReader::new(file), options)
        } else {
            let mut bytes = vec![];
            let read = file.take(MAX_STREAM).read_to_end(&mut bytes);
            read.map_err(|source| Error::io(path, source))?;
            decode::decode(Cursor::new(bytes), options)
        };
        let name = path.display();
        let decoded = decoded.map_err(|problem| format!("{name}: {problem}"));
        let decoded = DecodedImage::new(decoded)?;
        for warning in &decoded.warnings {
            tracing::warn!("{name}: {warning}");
        }
        Ok(decoded)
    }

    /// Decodes an image held in memory; warnings are traced. See [`Image::decode_with`].
    ///
    /// # Errors
    /// As in [`Image::decode_with`].
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        Ok(Self::decode_with(bytes, &DecodeOptions::default())?.image)
    }

    /// Decodes a JPEG, PNG, WebP, BMP, GIF, TIFF or PNM file held in memory. Each warning is also
    /// traced.
    ///
    /// Grey becomes RGB, alpha is dropped (not blended, as PIL), 16-bit samples are divided by 257
    /// and rounded, floating-point samples from 0 to 1 become 0 to 255, of an animation the first
    /// frame is taken, EXIF orientation is applied.
    ///
    /// # Errors
    /// [`Error::InvalidImage`] when the bytes are empty, truncated, damaged or in no known format,
    /// when the header announces more than [`MAX_PIXELS`] pixels or a side over [`MAX_SIDE`], when
    /// decoding would need much more memory than the pixels take, when nothing says which samples
    /// are black and white (see [`DecodeOptions::stretch`]), and for senseless options.
    pub fn decode_with(bytes: &[u8], options: &DecodeOptions) -> Result<DecodedImage> {
        let decoded = DecodedImage::new(decode::decode(Cursor::new(bytes), options))?;
        for warning in &decoded.warnings {
            tracing::warn!("{warning}");
        }
        Ok(decoded)
    }

    /// Wraps `pixels`, rows from the top, each pixel as R, G, B: (height, width, 3).
    ///
    /// # Errors
    /// [`Error::InvalidImage`] when a side is zero or over 2^32 - 1, or `pixels` is not
    /// `width * height * 3` long.
    pub fn from_rgb8(width: usize, height: usize, pixels: Vec<u8>) -> Result<Self> {
        if u32::try_from(width.max(height)).is_err() {
            return Err(Error::InvalidImage(format!(
                "{width}x{height} pixels; no side may be longer than {}",
                u32::MAX
            )));
        }
        if width == 0 || height == 0 {
            return Err(Error::InvalidImage(format!(
                "{width}x{height} pixels; both sides must be at least 1"
            )));
        }
        let expected = width.checked_mul(height).and_then(|n| n.checked_mul(3));
        if expected != Some(pixels.len()) {
            return Err(Error::InvalidImage(format!(
                "{} bytes for {width}x{height} RGB pixels; width * height * 3 are needed",
                pixels.len()
            )));
        }
        Ok(Self {
            width,
            height,
            pixels,
        })
    }

    /// Width and height in pixels.
    pub fn size(&self) -> Size {
        Size::new(self.width, self.height)
    }

    /// Pixels per row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Number of rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// All samples: rows from the top, each pixel as R, G, B, (height, width, 3).
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }

    /// The part in these columns and rows, which must lie in the image.
    ///
    /// # Errors
    /// [`Error::InvalidImage`] if there are none.
    pub(crate) fn cropped(&self, columns: Range<usize>, rows: Range<usize>) -> Result<Self> {
        let mut pixels = Vec::with_capacity(columns.len() * rows.len() * 3);
        for y in rows.clone() {
            let start = (y * self.width + columns.start) * 3;
            pixels.extend_from_slice(&self.pixels[start..][..columns.len() * 3]);
        }
        Self::from_rgb8(columns.len(), rows.len(), pixels)
    }

    /// All samples, to draw on; see [`Image::pixels`].
    pub fn pixels_mut(&mut self) -> &mut [u8] {
        &mut self.pixels
    }
}

impl DecodedImage {
    fn new(decoded: std::result::Result<decode::Pixels, String>) -> Result<Self> {
        let (width, height, pixels, warnings) = decoded.map_err(Error::InvalidImage)?;
        let image = Image::from_rgb8(width, height, pixels)?;
        Ok(Self { image, warnings })
    }
}

/// Fails with [`Error::InvalidImage`] for an image without pixels.
impl TryFrom<RgbImage> for Image {
    type Error = Error;

    fn try_from(image: RgbImage) -> Result<Self> {
        let (width, height) = (image.width() as usize, image.height() as usize);
        Self::from_rgb8(width, height, image.into_raw())
    }
}

/// Alpha is dropped; fails with [`Error::InvalidImage`] for an image without pixels.
impl TryFrom<DynamicImage> for Image {
    type Error = Error;

    fn try_from(image: DynamicImage) -> Result<Self> {
        image.into_rgb8().try_into()
    }
}

impl From<Image> for RgbImage {
    fn from(image: Image) -> Self {
        // from_rgb8 refuses sides that do not fit
        let (width, height) = (image.width as u32, image.height as u32);
        Self::from_raw(width, height, image.pixels).expect("an image has the samples of its size")
    }
}

impl From<Image> for DynamicImage {
    fn from(image: Image) -> Self {
        RgbImage::from(image).into()
    }
}

impl std::fmt::Debug for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Image({}x{} rgb8)", self.width, self.height)
    }
}
