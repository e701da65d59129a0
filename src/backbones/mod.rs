//! Floor 1: image encoders.

pub mod repvit;
