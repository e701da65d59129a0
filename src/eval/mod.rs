//! Floor 4: how good results are, without a model.
//!
//! * [`average_precision`]: COCO's AP and AR of masks, boxes and boundaries, as COCOeval computes them;
//! * [`concept`]: cgF1, pmF1 and IL_MCC of SA-Co, as SAM 3's evaluator computes them;
//! * [`interactive`]: the clicks of simulated users, and mean IoU.
//!
//! [`data`] reads ground truth and results.

mod assignment;
pub mod average_precision;
pub mod concept;
pub mod data;
pub mod interactive;
mod overlap;

use serde::{Deserialize, Serialize};

/// What of two objects is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Their pixels.
    Mask,
    /// Their boxes.
    Box,
    /// Their pixels near the border: the smaller of the IoU of the masks and that of bands of 2 % of
    /// the image diagonal along their borders.
    Boundary,
}

/// Number of IoU thresholds.
pub const THRESHOLDS: usize = 10;

/// The IoU thresholds 0.5, 0.55 … 0.95, to the last bit as NumPy's `linspace` computes them.
pub fn thresholds() -> [f64; THRESHOLDS] {
    let step = (0.95 - 0.5) / 9.0;
    let mut thresholds = std::array::from_fn(|i| i as f64 * step + 0.5);
    thresholds[THRESHOLDS - 1] = 0.95;
    thresholds
}

fn mean(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values
        .into_iter()
        .fold((0.0, 0), |(sum, count), value| (sum + value, count + 1));
    (count > 0).then(|| sum / f64::from(count))
}

#[cfg(test)]
mod tests;
