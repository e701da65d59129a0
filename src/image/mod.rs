//! Floor 0: pixels. Decoding, resizing, and the transform into a model's input.
//!
//! Files are read as PIL reads them for the reference implementation (`Image.open(..).convert("RGB")`),
//! with one addition: the EXIF orientation is applied, so a photograph is seen as it was taken.
//! Colour profiles are not applied, as in PIL.
//!
//! JPEG pixels are within 4 levels of libjpeg-turbo's (mean 0.01 to 0.05 of 255 on photographs):
//! the inverse cosine transform and the chroma upsampling round differently.

mod decode;
pub mod resize;
pub mod transform;

use std::path::Path;

pub use decode::MAX_PIXELS;

use crate::error::{Error, Result};
use crate::size::Size;

/// An image of 8-bit RGB pixels.
#[derive(Clone, PartialEq, Eq)]
pub struct Image {
    width: usize,
    height: usize,
    pixels: Vec<u8>,
}

impl Image {
    /// Reads and decodes an image file.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is no such file, [`Error::Io`] when it cannot be read, and
    /// [`Error::InvalidImage`] for a folder and as in [`Image::decode`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        if path.is_dir() {
            let path = path.display();
            return Err(Error::InvalidImage(format!(
                "{path} is a folder; give one of the pictures in it"
            )));
        }
        let bytes = std::fs::read(path).map_err(|source| Error::io(path, source))?;
        decode::decode(&bytes)
            .map_err(|problem| Error::InvalidImage(format!("{}: {problem}", path.display())))
    }

    /// Decodes a JPEG, PNG, WebP, BMP, GIF, TIFF or PNM file held in memory.
    ///
    /// Grey becomes RGB, alpha is dropped (not blended, as PIL), 16-bit samples are divided by 257
    /// and rounded, of an animation the first frame is taken, EXIF orientation is applied.
    ///
    /// # Errors
    /// [`Error::InvalidImage`] when the bytes are empty, truncated or in no known format, or when
    /// the header announces more than [`MAX_PIXELS`] pixels.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        decode::decode(bytes).map_err(Error::InvalidImage)
    }

    /// Wraps `pixels`, rows from the top, each pixel as R, G, B: (height, width, 3).
    ///
    /// # Errors
    /// [`Error::InvalidImage`] when a side is zero or `pixels` is not `width * height * 3` long.
    pub fn from_rgb8(width: usize, height: usize, pixels: Vec<u8>) -> Result<Self> {
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

    /// All samples, to draw on; see [`Image::pixels`].
    pub fn pixels_mut(&mut self) -> &mut [u8] {
        &mut self.pixels
    }
}

impl std::fmt::Debug for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Image({}x{} rgb8)", self.width, self.height)
    }
}
