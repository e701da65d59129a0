//! Promptable segmentation in pure Rust: SAM 3, EfficientSAM3, SAM3-LiteText, SAM 1 and MobileSAM
//! on candle, from the checkpoints that their authors publish.
//!
//! ```no_run
//! use candle_sam3::image::Image;
//! use candle_sam3::models::sam3::{LoadOptions, Sam3};
//! use candle_sam3::predict::concept::{self, Options, Prompt};
//! use candle_sam3::weights::Checkpoint;
//!
//! let model = Sam3::load(&Checkpoint::open("sam3.pt")?, &LoadOptions::default())?;
//! let embedding = model.encode_image(&Image::open("photo.jpg")?)?; // reuse it for any prompt
//! let prompts = [Prompt::text("wheel"), Prompt::text("a red car")];
//! for found in concept::predict(&model, &embedding, &prompts, &Options::default())? {
//!     for instance in &found.instances {
//!         println!("{:.2} {:?} {} pixels", instance.score, instance.bbox, instance.mask.area());
//!     }
//! }
//! # Ok::<(), candle_sam3::Error>(())
//! ```
//!
//! # Layers
//!
//! | modules | what they do |
//! |---|---|
//! | [`predict`] | what a user calls: [`concept`](predict::concept) for words and exemplars, [`interactive`](predict::interactive) for clicks, [`everything`](predict::everything) |
//! | [`models`] | [`sam3`](models::sam3) and [`sam`](models::sam): loading, and every stage of the networks |
//! | `backbones`, [`text`] | image encoders; tokenizer and text encoders |
//! | `nn`, [`weights`], [`image`], [`mask`] | layers and CPU kernels; checkpoints of any layout; pixels; mask arithmetic |
//! | [`eval`] | average precision, cgF1, clicks of simulated users |
//! | [`output`] | results as overlay, PNG, JSON and COCO records |
//!
//! `nn` and `backbones` are internals, left out of this documentation and of semantic versioning.
//!
//! Coordinates are pixels of the original image, x to the right and y down.
//!
//! # Errors
//!
//! [`Error`] has one variant per class of failure: a missing file, an unusable checkpoint, an invalid
//! image or prompt, something unsupported. Prompts and options are checked before any long work.
//! Tensor arithmetic returns candle's own error, which arrives as [`Error::Tensor`].
//!
//! # Features
//!
//! `cli` (default) builds the command line; `demo` embeds a tiny model, see `weights::demo`; `cuda`,
//! `cudnn` and `metal` pass through to candle.
#![warn(missing_docs)]

pub mod device;
pub mod error;
pub mod run;
pub mod size;
pub mod trace;
pub mod write;

pub mod image;
pub mod mask;
#[doc(hidden)]
pub mod nn;
pub mod weights;

#[doc(hidden)]
pub mod backbones;
pub mod text;

pub mod models;

pub mod predict;

pub mod eval;
pub mod output;

pub use error::{Error, Result};
pub use image::Image;
pub use mask::{BoxXyxy, Mask, Rle};
pub use models::sam::Sam;
pub use models::sam3::Sam3;
pub use models::{InteractiveModel, LoadOptions, Model, Point, VisualPrompt};
pub use nn::Precision;
pub use run::{CancelToken, Progress, Run};
pub use size::Size;
pub use trace::Trace;
pub use weights::Checkpoint;

/// Number formats that a model can compute in, and devices that it can run on.
pub use candle::{DType, Device};
