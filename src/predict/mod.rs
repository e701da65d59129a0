//! Floor 3: what a user calls.

pub mod concept;

use crate::mask::{BoxXyxy, Mask};

/// One found object.
#[derive(Debug, Clone)]
pub struct Instance {
    /// Its pixels, at the size of the original image.
    pub mask: Mask,
    /// Its box in pixels of the original image, as the model predicts it: not clipped.
    pub bbox: BoxXyxy,
    /// How sure the model is, in 0..1.
    pub score: f32,
}
