//! Floor 3: what a user calls.
//!
//! * [`concept`]: texts and exemplar boxes -> every matching object;
//! * [`interactive`]: points, a box or a rough mask -> that object;
//! * [`everything`]: no prompt -> every object there seems to be;
//! * [`verify`]: a model against a recorded run of another implementation.

pub mod concept;
pub mod everything;
#[cfg(test)]
mod fake;
pub mod interactive;
pub mod verify;

use serde::Serialize;

use crate::mask::{BoxXyxy, Mask};

/// One found object. As JSON, its mask is run-length encoded.
#[derive(Debug, Clone, Serialize)]
pub struct Instance {
    /// Its pixels, at the size of the original image.
    pub mask: Mask,
    /// Its box in pixels of the original image, as the model predicts it: not clipped.
    pub bbox: BoxXyxy,
    /// How sure the model is, in 0..1.
    pub score: f32,
}
