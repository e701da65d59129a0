//! SAM 3, EfficientSAM3 and SAM3-LiteText: one detector, other encoders.

pub mod config;
pub mod decoder;
pub mod detector;
pub mod encoder;
pub mod geometry_encoder;
pub mod neck;
pub mod scoring;
pub mod segmentation_head;

pub use config::Config;
