//! Promptable segmentation in pure Rust: SAM 3, EfficientSAM3 and SAM3-LiteText on candle.
#![warn(missing_docs)]

pub mod device;
pub mod error;
pub mod trace;

pub mod image;
pub mod mask;
pub mod nn;
pub mod weights;

pub mod backbones;
pub mod text;

pub mod models;

pub mod predict;

pub mod output;

pub use error::{Error, Result};
pub use trace::Trace;

/// Number formats that a model can compute in.
pub use candle::DType;
