//! Floor 4: results as files.
//!
//! * [`answer`]: what the writers take, made of prompts and predictions;
//! * [`overlay()`]: the image with coloured masks, outlines and labels, to look at;
//! * [`masks`]: one PNG per instance and one label map, for other programs;
//! * [`json`]: everything as one document, masks run-length encoded as in COCO;
//! * [`records`]: what the original's automatic mask generator writes.

pub mod answer;
mod canvas;
pub mod json;
mod labels;
mod logits;
pub mod masks;
mod overlay;
mod palette;
pub mod records;
pub mod video;
mod write;

use std::fmt;
use std::str::FromStr;

pub use logits::{decode_logits, encode_logits};
pub use overlay::{OverlayOptions, overlay};
pub use write::write_file;

use crate::error::{Error, Result};
use crate::image::Image;
use crate::mask::{BoxXyxy, Mask};

/// One found object as the writers of this module see it.
#[derive(Debug, Clone, Copy)]
pub struct LabeledInstance<'a> {
    /// The phrase it was found by; may be empty.
    pub label: &'a str,
    /// Its pixels, in the size of the image.
    pub mask: &'a Mask,
    /// Its box in pixels of the image.
    pub bbox: BoxXyxy,
    /// Its confidence in 0..=1.
    pub score: f32,
}

/// What to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Format {
    /// The image with coloured masks, as PNG.
    Overlay,
    /// One PNG per mask and a label map.
    Masks,
    /// One JSON document.
    Json,
}

impl Format {
    /// Every format, in the order they are listed to a user.
    pub const ALL: [Self; 3] = [Self::Overlay, Self::Masks, Self::Json];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Overlay => "overlay",
            Self::Masks => "masks",
            Self::Json => "json",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Format {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let known = Self::ALL.into_iter().find(|format| format.name() == name);
        known.ok_or_else(|| Error::Unsupported {
            what: format!("output format {name:?}"),
            instead: format!("use one of {}", Self::ALL.map(Self::name).join(", ")),
        })
    }
}

/// Encodes an image as an RGB PNG file.
///
/// # Errors
/// [`Error::InvalidImage`] when a side is over the limit of the PNG format (2^31).
pub fn encode_png(image: &Image) -> Result<Vec<u8>> {
    masks::encode_png(
        image.width(),
        image.height(),
        image.pixels(),
        ::image::ExtendedColorType::Rgb8,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_read_by_name_and_an_unknown_one_lists_them() {
        for format in Format::ALL {
            assert_eq!(format.to_string().parse::<Format>().unwrap(), format);
        }
        let error = "gif".parse::<Format>().unwrap_err().to_string();
        assert!(
            error.contains("\"gif\"") && error.contains("overlay, masks, json"),
            "{error}"
        );
    }

    #[test]
    fn a_png_holds_the_pixels() {
        let image = Image::from_rgb8(2, 1, vec![1, 2, 3, 4, 5, 6]).unwrap();
        assert_eq!(Image::decode(&encode_png(&image).unwrap()).unwrap(), image);
    }
}
