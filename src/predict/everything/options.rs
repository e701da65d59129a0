//! Options of the generator.

use super::crops;
use crate::predict::fraction;
use crate::{Error, Result};

/// Most points along a side: the model's input has one pixel for each.
const MAX_POINTS_PER_SIDE: usize = 1024;

/// Most layers of crops; layer n cuts the image into 4^n.
const MAX_CROP_LAYERS: usize = 6;

/// The options of `SamAutomaticMaskGenerator`, with its names and defaults.
///
/// The built-in demo model predicts lower IoUs than the large ones: with 0.6 and a stability of 0.8
/// most of its shapes are kept.
///
/// Thresholds are 64-bit, as in Python, so that comparisons at a threshold come out alike.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Points along one side of the grid, 32 by default; `None` where [`Options::point_grids`] are given.
    pub points_per_side: Option<usize>,
    /// Points decoded at a time; 64 by default.
    pub points_per_batch: usize,
    /// Keep masks of a higher predicted IoU than this, in 0..=1; 0 keeps all. Some models predict
    /// IoUs above 1, so that 1 need not drop all. 0.88 by default.
    pub pred_iou_thresh: f64,
    /// Keep masks of at least this stability score, in 0..=1; 0 keeps all. 0.95 by default.
    pub stability_score_thresh: f64,
    /// Distance by which the logit threshold is moved up and down to measure stability; 1 by
    /// default.
    pub stability_score_offset: f64,
    /// Drop a mask whose box overlaps that of a better one in the same crop by more than this IoU;
    /// 0.7 by default.
    pub box_nms_thresh: f64,
    /// Layers of crops to look at besides the whole image; layer n has 4^n of them. 0 by
    /// default.
    pub crop_n_layers: usize,
    /// Drop a mask whose box overlaps that of a mask of a smaller crop by more than this IoU; 0.7 by
    /// default.
    pub crop_nms_thresh: f64,
    /// Overlap of the crops of the first layer, as a fraction of the short side; less in the
    /// layers below. 512/1500 by default.
    pub crop_overlap_ratio: f64,
    /// Points along a side in layer n are divided by this to the power of n; 1 by default.
    pub crop_n_points_downscale_factor: usize,
    /// A grid of points for the whole image and each layer of crops, x and y in 0..=1, in place of
    /// regular ones. `None` by default.
    pub point_grids: Option<Vec<Vec<[f64; 2]>>>,
    /// Fill holes and remove islands of fewer pixels than this; 0, the default, leaves
    /// masks as they are.
    pub min_mask_region_area: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            points_per_side: Some(32),
            points_per_batch: 64,
            pred_iou_thresh: 0.88,
            stability_score_thresh: 0.95,
            stability_score_offset: 1.0,
            box_nms_thresh: 0.7,
            crop_n_layers: 0,
            crop_nms_thresh: 0.7,
            crop_overlap_ratio: 512.0 / 1500.0,
            crop_n_points_downscale_factor: 1,
            point_grids: None,
            min_mask_region_area: 0,
        }
    }
}

impl Options {
    /// Checks everything that needs no image.
    ///
    /// Stricter than the original, which runs into a division by zero or an index out of range, or
    /// quietly keeps or drops everything, with the values refused here.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] with the option, its value and its limits.
    pub fn validate(&self) -> Result<()> {
        for (name, value) in [
            ("pred_iou_thresh", self.pred_iou_thresh),
            ("stability_score_thresh", self.stability_score_thresh),
            ("box_nms_thresh", self.box_nms_thresh),
            ("crop_nms_thresh", self.crop_nms_thresh),
            ("crop_overlap_ratio", self.crop_overlap_ratio),
        ] {
            fraction(name, value).map_err(Error::argument)?;
        }
        let offset = self.stability_score_offset;
        if !(offset.is_finite() && offset >= 0.) {
            return Err(Error::argument(format!(
                "stability_score_offset is {offset}; it must be 0 or more"
            )));
        }
        let at_least_one = |name: &str, value: usize| match value {
            0 => Err(Error::argument(format!(
                "{name} is 0; it must be at least 1"
            ))),
            _ => Ok(()),
        };
        at_least_one("points_per_batch", self.points_per_batch)?;
        at_least_one(
            "crop_n_points_downscale_factor",
            self.crop_n_points_downscale_factor,
        )?;
        if self.crop_n_layers > MAX_CROP_LAYERS {
            return Err(Error::argument(format!(
                "crop_n_layers is {}; it must be in 0..{MAX_CROP_LAYERS}",
                self.crop_n_layers
            )));
        }
        match (self.points_per_side, &self.point_grids) {
            (Some(side), None) => self.validate_side(side),
            (None, Some(grids)) => self.validate_grids(grids),
            _ => Err(Error::argument(
                "exactly one of points_per_side and point_grids is needed",
            )),
        }
    }

    fn validate_side(&self, side: usize) -> Result<()> {
        if !(1..=MAX_POINTS_PER_SIDE).contains(&side) {
            return Err(Error::argument(format!(
                "points_per_side is {side}; it must be in 1..{MAX_POINTS_PER_SIDE}"
            )));
        }
        let factor = self.crop_n_points_downscale_factor;
        match (0..=self.crop_n_layers)
            .find(|&layer| crops::points_in_layer(side, factor, layer) == 0)
        {
            None => Ok(()),
            Some(layer) => Err(Error::argument(format!(
                "points_per_side {side} divided by crop_n_points_downscale_factor {factor} to the \
                 power of {layer} leaves no points for crop layer {layer}; use fewer layers, more \
                 points or a smaller factor"
            ))),
        }
    }

    fn validate_grids(&self, grids: &[Vec<[f64; 2]>]) -> Result<()> {
        if grids.len() <= self.crop_n_layers {
            return Err(Error::argument(format!(
                "{} point grids for the image and {} crop layers; {} are needed",
                grids.len(),
                self.crop_n_layers,
                self.crop_n_layers + 1
            )));
        }
        if grids.iter().all(|grid| grid.is_empty()) {
            return Err(Error::argument("the point grids have no points"));
        }
        let outside = |point: &&[f64; 2]| !point.iter().all(|v| (0. ..=1.).contains(v));
        match grids.iter().flatten().find(outside) {
            None => Ok(()),
            Some([x, y]) => Err(Error::argument(format!(
                "point {x},{y} of a grid is outside 0..1"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        Options::default().validate().unwrap();
    }

    #[test]
    fn bad_options_are_refused_with_a_reason() {
        let ok = Options::default;
        let grids = |point_grids| Options {
            points_per_side: None,
            point_grids: Some(point_grids),
            ..ok()
        };
        #[rustfmt::skip]
        let cases = [
            (Options { points_per_side: Some(0), ..ok() }, "points_per_side is 0"),
            (Options { points_per_side: Some(5000), ..ok() }, "points_per_side is 5000"),
            (Options { points_per_side: None, ..ok() }, "exactly one of"),
            (Options { point_grids: Some(vec![]), ..ok() }, "exactly one of"),
            (Options { points_per_batch: 0, ..ok() }, "points_per_batch is 0"),
            (Options { pred_iou_thresh: 1.5, ..ok() }, "pred_iou_thresh is 1.5"),
            (Options { pred_iou_thresh: -0.1, ..ok() }, "pred_iou_thresh is -0.1"),
            (Options { stability_score_thresh: f64::NAN, ..ok() }, "stability_score_thresh is NaN"),
            (Options { stability_score_offset: -1.0, ..ok() }, "stability_score_offset is -1"),
            (Options { stability_score_offset: f64::NAN, ..ok() }, "stability_score_offset is NaN"),
            (Options { box_nms_thresh: 7.0, ..ok() }, "box_nms_thresh is 7"),
            (Options { crop_nms_thresh: f64::INFINITY, ..ok() }, "crop_nms_thresh is inf"),
            (Options { crop_overlap_ratio: 2.0, ..ok() }, "crop_overlap_ratio is 2"),
            (Options { crop_n_layers: 60, ..ok() }, "crop_n_layers is 60"),
            (Options { crop_n_points_downscale_factor: 0, ..ok() }, "downscale_factor is 0"),
            (Options { points_per_side: Some(3), crop_n_layers: 2, crop_n_points_downscale_factor: 2, ..ok() }, "crop layer 2"),
            (Options { crop_n_layers: 1, ..grids(vec![vec![[0.5, 0.5]]]) }, "2 are needed"),
            (grids(vec![vec![]]), "no points"),
            (grids(vec![vec![[0.5, 1.5]]]), "0.5,1.5"),
            (grids(vec![vec![[f64::NAN, 0.5]]]), "NaN,0.5"),
        ];
        for (options, want) in cases {
            let error = options.validate().unwrap_err().to_string();
            assert!(error.contains(want), "{error:?} lacks {want:?}");
        }
    }
}
