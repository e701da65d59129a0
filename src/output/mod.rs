//! Floor 4: results as files.
//!
//! * [`answer`]: what the writers take, made of prompts and predictions;
//! * [`Format`]: every format of one image, each a file or a folder of its own:
//!   [`overlay()`] to look at, [`masks`], [`cutout`], [`json`], [`csv`], [`coco`] for other programs,
//!   [`amg`] for those of the original's automatic mask generator;
//! * [`dataset`]: the objects of many pictures, for training and annotation tools;
//! * [`video`]: the objects of the frames of a video;
//! * [`Place`]: where they go, and what may be replaced there.
//!
//! ```no_run
//! use candle_sam3::output::{self, Found, OverlayOptions};
//! # use candle_sam3::{Image, Model, Result};
//! # fn draw(model: &Model) -> Result<()> {
//! let image = Image::open("photo.jpg")?;
//! let instances = model.segment(&image, "wheel")?.into_iter();
//! let found: Vec<Found> = instances.map(|instance| Found::new("wheel", instance)).collect();
//! let drawn = output::overlay(&image, &found, &OverlayOptions::default());
//! output::write_file("overlay.png", &output::encode_png(&drawn)?)?;
//! output::write_file("mask.png", &output::masks::mask_png(&found[0].mask)?)
//! # }
//! ```

/// Gives formats their names: to list, print and read them by. `$kind` is what errors call them.
macro_rules! named_formats {
    ($formats:ty, $kind:literal, [$($format:ident = $name:literal),* $(,)?]) => {
        impl $formats {
            /// Every format, in the order they are listed to a user.
            pub const ALL: [Self; [$($name),*].len()] = [$(Self::$format),*];

            /// The name on the command line.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$format => $name,)*
                }
            }
        }

        impl std::fmt::Display for $formats {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.name())
            }
        }

        impl std::str::FromStr for $formats {
            type Err = $crate::Error;

            fn from_str(name: &str) -> $crate::Result<Self> {
                let known = Self::ALL.into_iter().find(|format| format.name() == name);
                known.ok_or_else(|| $crate::Error::Unsupported {
                    what: format!("{} {name:?}", $kind),
                    instead: format!("use one of {}", Self::ALL.map(Self::name).join(", ")),
                })
            }
        }
    };
}

pub mod amg;
pub mod answer;
pub(crate) mod brush;
mod canvas;
pub mod coco;
pub mod csv;
pub mod cutout;
pub mod dataset;
mod folder;
mod format;
pub mod json;
mod labels;
mod logits;
pub mod masks;
mod overlay;
mod palette;
mod place;
mod png;
pub mod video;

pub use answer::{Answer, Found};
pub use folder::write_folder;
pub use format::{Files, Format, FormatOptions, ImageResults, Kind};
pub use labels::stand_ins;
pub use logits::{decode_logits, encode_logits};
pub use overlay::{OverlayOptions, overlay};
pub use place::{Place, check_file};

pub use crate::write::write_file;

use crate::error::Result;
use crate::image::Image;

/// Encodes an image as an RGB PNG file.
///
/// # Errors
/// [`crate::Error::InvalidImage`] when a side is over the limit of the PNG format (2^31).
pub fn encode_png(image: &Image) -> Result<Vec<u8>> {
    png::encode_rgb(image, None)
}
