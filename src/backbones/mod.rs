//! Floor 1: image encoders.

pub mod efficientvit;
pub mod repvit;
