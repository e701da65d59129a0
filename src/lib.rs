//! Promptable segmentation in pure Rust: SAM 3, EfficientSAM3, SAM3-LiteText, SAM 1, MobileSAM and
//! SAM 2.1 on candle, from the checkpoints that their authors publish.
//!
//! ```no_run
//! use candle_sam3::{Checkpoint, Image, LoadOptions, models};
//!
//! let model = models::load(&Checkpoint::open("sam3.pt")?, &LoadOptions::default())?;
//! for instance in model.segment(&Image::open("photo.jpg")?, "wheel")? {
//!     println!("{:.2} {:?} {} pixels", instance.score, instance.bbox, instance.mask.area());
//! }
//! # Ok::<(), candle_sam3::Error>(())
//! ```
//!
//! Many prompts on an image that is encoded once, and texts that are encoded once for many images:
//!
//! ```no_run
//! use candle_sam3::predict::concept::{self, Options, Prompt};
//! use candle_sam3::{Checkpoint, Image, LoadOptions, Run, Sam3};
//!
//! let model = Sam3::load(&Checkpoint::open("sam3.pt")?, &LoadOptions::default())?;
//! let run = &mut Run::default();
//! let prompts = [Prompt::text("wheel"), Prompt::text("a red car")];
//! let prompts = concept::encode(&model, &prompts, run)?;
//! let embedding = model.encode_image(&Image::open("photo.jpg")?, run)?;
//! for found in concept::predict(&model, &embedding, &prompts, &Options::default(), run)? {
//!     println!("{} objects, presence {:.2}", found.instances.len(), found.presence);
//! }
//! # Ok::<(), candle_sam3::Error>(())
//! ```
//!
//! # Layers
//!
//! | modules | what they do |
//! |---|---|
//! | [`predict`] | [`concept`](predict::concept) for words and exemplars, [`interactive`](predict::interactive) for points, boxes and masks, [`everything`](predict::everything); [`tiled`](predict::tiled) for large pictures, [`dataset`](predict::dataset) for many, [`video`](predict::video) |
//! | [`models`] | [`load`](models::load) for any file; [`sam3`](models::sam3), [`sam2`](models::sam2), [`sam`](models::sam) and their stages |
//! | `backbones`, [`text`] | image encoders; tokenizer and text encoders |
//! | `nn`, [`weights`], [`image`], [`mask`] | layers and CPU kernels; checkpoints of any layout; pixels; mask arithmetic |
//! | [`eval`] | average precision, cgF1, clicks of simulated users |
//! | [`output`] | results as overlay, PNG, JSON and COCO records; data sets; tracks |
//! | `server` | HTTP API, hover socket and page |
//!
//! `nn` and `backbones` are internals, left out of this documentation and of semantic versioning.
//!
//! Coordinates are pixels of the original image, x to the right and y down.
//!
//! # Errors
//!
//! [`Error`] has one variant per class of failure: a missing file, an unusable checkpoint, an invalid
//! image, mask, prompt or argument, something unsupported, NaN from the network, a cancelled call.
//! Prompts and options are checked before any long work. Tensor arithmetic returns candle's own
//! error, which arrives as [`Error::Tensor`].
//!
//! # Threads
//!
//! Kernels run in rayon's global pool. Set `RAYON_NUM_THREADS` when the process starts, to the number of
//! processors if to nothing else: without it candle reads `/proc/cpuinfo` for each product of matrices that is
//! left to it, which the kernel writes anew each time. The command does so. What takes milliseconds, such as a
//! click on an encoded image, is best called from a thread that is part of a pool
//! (`rayon::ThreadPoolBuilder::use_current_thread`): from outside, each product wakes the pool up.
//!
//! # Features
//!
//! `cli` (default) builds the command line with `demo`, and `server` (default) its `serve`. A library
//! needs neither: `default-features = false` is enough for files, and `features = ["demo"]` adds a
//! tiny built-in model, see `weights::demo`. `heic` decodes HEIC; `cuda`, `cudnn` and `metal` pass
//! through to candle. The library never downloads: name a file, or let the command line or `hf-hub`
//! fetch one.
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

#[cfg(feature = "server")]
pub mod server;

pub use error::{Error, Result};
pub use image::Image;
pub use mask::{BoxXyxy, Mask, Rle};
pub use models::sam::Sam;
pub use models::sam2::Sam2;
pub use models::sam3::Sam3;
pub use models::{InteractiveModel, LoadOptions, Model, Point, VisualPrompt};
pub use nn::{Precision, WeightFormat};
pub use run::{CancelToken, Progress, Run};
pub use size::Size;
pub use trace::Trace;
pub use weights::Checkpoint;

/// Number formats that a model can compute in, and devices that it can run on.
pub use candle::{DType, Device};
