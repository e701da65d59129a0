//! Floor 3: what a user calls.
//!
//! * [`concept`]: texts and exemplar boxes -> every matching object;
//! * [`tiled`]: the same on pictures much larger than the model's input;
//! * [`interactive`]: points, a box or a rough mask -> that object;
//! * [`everything`]: no prompt -> every object there seems to be;
//! * [`dataset`]: the same words, or everything, on many pictures;
//! * [`video`]: objects through a video, from clicks or a text;
//! * [`verify`]: a model against a recorded run of another implementation.

#[cfg(all(test, feature = "demo"))]
mod cancel_tests;
pub mod concept;
pub mod dataset;
mod enlarge;
pub mod everything;
#[cfg(test)]
mod fake;
#[cfg(all(test, feature = "demo"))]
mod half_tests;
pub mod interactive;
mod shortcuts;
pub mod tiled;
#[cfg(all(test, feature = "demo"))]
mod traffic_tests;
pub mod verify;
pub mod video;

use std::fmt::Display;

use candle::{DType, Tensor};
use serde::Serialize;

use crate::device::download;
use crate::mask::{BoxXyxy, Mask};
use crate::{Error, Result, Size};

/// One found object.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Instance {
    /// Its pixels, at the size of the original image.
    pub mask: Mask,
    /// Its box in pixels of the original image, as the model predicts it: not clipped.
    pub bbox: BoxXyxy,
    /// Confidence in 0..1.
    pub score: f32,
}

/// Checks a box against an image of this size; `what` names it in the message.
fn validate_box(what: &str, bbox: BoxXyxy, image: Size) -> Result<()> {
    let BoxXyxy { x0, y0, x1, y1 } = bbox;
    let name = format!("{what} {x0},{y0},{x1},{y1}");
    if ![x0, y0, x1, y1].iter().all(|v| v.is_finite()) {
        return Err(Error::prompt(format!("{name} is not finite")));
    }
    if x1 <= x0 || y1 <= y0 {
        return Err(Error::prompt(format!(
            "{name} is inverted or empty; give x0,y0,x1,y1"
        )));
    }
    if x1 <= 0. || y1 <= 0. || x0 >= image.width as f32 || y0 >= image.height as f32 {
        return Err(Error::prompt(format!(
            "{name} is outside the image of {image}"
        )));
    }
    // A corner far outside would make the pooling of an exemplar visit cells without end.
    let limit = 4. * image.width.max(image.height) as f32;
    if [x0, y0, x1, y1].iter().any(|v| v.abs() > limit) {
        return Err(Error::prompt(format!(
            "{name} has a corner more than {limit} pixels away; cut it at the edge of the image \
             of {image}"
        )));
    }
    Ok(())
}

/// Checks that an option is in 0..1; `name` names it in the message.
fn fraction<T: PartialOrd + Display + From<u8>>(name: &str, value: T) -> Result<(), String> {
    match (T::from(0)..=T::from(1)).contains(&value) {
        true => Ok(()),
        false => Err(format!("{name} is {value}; it must be in 0..1")),
    }
}

fn sigmoid(x: f32) -> f32 {
    1. / (1. + (-x).exp())
}

/// True if no value is NaN or infinite: zero times any such value is NaN, and stays so in a sum.
fn is_finite(tensor: &Tensor) -> Result<bool> {
    let zeros = (tensor.to_dtype(DType::F32)? * 0.)?;
    Ok(download::<f32>(&zeros.sum_all()?)? == [0.])
}
