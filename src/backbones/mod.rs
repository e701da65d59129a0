//! Floor 1: image encoders.

pub mod efficientvit;
pub mod repvit;
pub mod student;
pub mod tiny_vit;
