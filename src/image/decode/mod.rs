//! Files and bytes to RGB pixels.

mod canvas;
mod gif;
#[cfg(feature = "heic")]
mod heic;
mod jpeg;
mod levels;
mod names;
mod plain;
mod png;
mod tiff;

use std::fmt::Display;
use std::io::{BufRead, Read, Seek};

use image::metadata::Orientation;

use super::orient;
use canvas::Canvas;
use names::Format;

/// The most pixels an image may have; its header is checked before anything is allocated.
///
/// The size at which PIL refuses an image as a decompression bomb (twice its `MAX_IMAGE_PIXELS`).
pub const MAX_PIXELS: u64 = 178_956_970;

/// The longest side an image may have: resizing takes time and memory in proportion to each side.
pub const MAX_SIDE: usize = 1 << 17;

/// What decoding may hold beside the pixels of the result.
const WORKING_MEMORY: u64 = 256 << 20;

/// Bytes that tell formats apart: that of DICOM comes last.
const HEAD: u64 = 132;

const FORMATS: &str = "jpeg, png, webp, bmp, gif, tiff and pnm files can be read";

/// How to read a picture; the default is what the models were trained on.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct DecodeOptions {
    /// Percent of the samples that become black, and as many white, in pictures of 16 bits,
    /// floating-point or signed samples; what lies between is stretched over all levels, the same
    /// for every channel. `None` takes the samples as they are. 8-bit pictures never change.
    pub stretch: Option<f64>,
    /// Take the alpha channel for the picture where it is not the same everywhere: a mask may be
    /// drawn in it.
    pub alpha_as_mask: bool,
}

impl DecodeOptions {
    /// The percentage that [`DecodeOptions::stretch`] usually has.
    pub const STRETCH: f64 = 1.0;

    fn check(&self) -> Result<(), String> {
        match self.stretch {
            Some(percent) if !(0. ..50.).contains(&percent) => Err(format!(
                "cannot stretch levels by {percent} percent; give 0 or more, and less than 50"
            )),
            _ => Ok(()),
        }
    }
}

/// A picture as its decoder leaves it.
struct Decoded {
    canvas: Canvas,
    orientation: Option<Orientation>,
    warnings: Vec<String>,
}

/// The pixels of a file, upright: width, height, samples, and what a user should know about them.
pub(super) type Pixels = (usize, usize, Vec<u8>, Vec<String>);

/// Decodes a picture; the error says what is wrong and what would work.
pub(super) fn decode<R: BufRead + Seek>(
    mut input: R,
    options: &DecodeOptions,
) -> Result<Pixels, String> {
    options.check()?;
    let mut head = vec![];
    let read = input.by_ref().take(HEAD).read_to_end(&mut head);
    read.map_err(|error| error.to_string())?;
    let head = &head[..];
    input.rewind().map_err(|error| error.to_string())?;
    if head.is_empty() {
        return Err(format!("the file is empty; {FORMATS}"));
    }
    let decoded = match Format::of(head) {
        Some(Format::Jpeg) => jpeg::decode(input),
        Some(Format::Png) => png::decode(input, options),
        Some(Format::Gif) => gif::decode(input),
        Some(Format::Tiff) => tiff::decode(input, options),
        Some(Format::WebP) => plain::webp(input, options),
        Some(Format::Bmp) => plain::bmp(input, options),
        Some(Format::Pnm) => plain::pnm(input, options),
        #[cfg(feature = "heic")]
        None if names::is_heic(head) => heic::decode(input),
        None => Err(match names::unsupported(head) {
            Some((what, remedy)) => format!("{what}, which is not supported; {remedy}"),
            None => format!("not an image of a known format; {FORMATS}"),
        }),
    };
    let Decoded {
        canvas,
        orientation,
        warnings,
    } = decoded?;
    let Canvas {
        width,
        height,
        mut pixels,
        alpha,
        ..
    } = canvas;
    if let Some(alpha) = alpha.filter(|alpha| alpha.iter().any(|a| *a != alpha[0])) {
        for (pixel, alpha) in pixels.as_chunks_mut::<3>().0.iter_mut().zip(alpha) {
            *pixel = [alpha; 3];
        }
    }
    let (width, height) = match orientation {
        Some(orientation) => orient::apply(orientation, width, height, &mut pixels),
        None => (width, height),
    };
    Ok((width, height, pixels, warnings))
}

/// Refuses sizes that are zero or absurd, before anything is allocated.
fn check_size(width: usize, height: usize) -> Result<(), String> {
    if width == 0 || height == 0 {
        return Err(format!(
            "{width}x{height} pixels; both sides must be at least 1"
        ));
    }
    if width as u64 * height as u64 > MAX_PIXELS {
        return Err(format!(
            "{width}x{height} pixels are more than the limit of {MAX_PIXELS}; scale the image down"
        ));
    }
    if width.max(height) > MAX_SIDE {
        return Err(format!(
            "{width}x{height} pixels, but no side may be longer than {MAX_SIDE}; scale the image \
             down or cut it into pieces"
        ));
    }
    Ok(())
}

/// Refuses what cannot be decoded without holding much more than its pixels.
fn check_working_memory(what: &str, bytes: u64, remedy: &str) -> Result<(), String> {
    if bytes > WORKING_MEMORY {
        return Err(format!(
            "a {what} of this size takes {} MB beside its pixels, and {} are allowed; {remedy}",
            bytes >> 20,
            WORKING_MEMORY >> 20
        ));
    }
    Ok(())
}

/// What a decoder's error says of the file.
fn damaged(error: impl Display) -> String {
    format!("{error}; the file is damaged or truncated")
}

/// A warning if 16-bit samples use so little of their range that the picture is dark.
fn dark_in_16_bits(largest: u16, options: &DecodeOptions) -> Option<String> {
    /// A quarter of the range: 14-bit data and less.
    const DARK: u16 = 1 << 14;
    (largest < DARK && largest > 0 && options.stretch.is_none()).then(|| {
        format!(
            "its 16-bit samples reach {largest} of 65535, so that the picture is dark; stretch its \
             levels with --stretch if that is not meant"
        )
    })
}

#[cfg(test)]
mod tests;
