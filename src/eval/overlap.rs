//! Intersection over union of objects as COCO defines it.

use super::Kind;
use super::data::Shape;
use crate::mask::{Rle, contour};

/// An object in the form that comparing it needs.
pub(super) struct Outline<'a> {
    mask: &'a Rle,
    /// As given when boxes are compared, else around the mask.
    bbox: [f64; 4],
    area: usize,
    /// For [`Kind::Boundary`]: its pixels near its border.
    band: Option<Rle>,
}

impl<'a> Outline<'a> {
    pub(super) fn new(shape: &'a Shape, kind: Kind) -> Self {
        Self {
            mask: &shape.mask,
            bbox: match kind {
                Kind::Box => shape.bbox,
                Kind::Mask | Kind::Boundary => tight_box(&shape.mask),
            },
            area: shape.mask.area(),
            band: (kind == Kind::Boundary).then(|| band(&shape.mask)),
        }
    }

    /// The IoU of a result with a truth; for a crowd, the share of the result that is in it. -1 when
    /// the masks differ in size, so that they never match.
    pub(super) fn iou(&self, truth: &Self, is_crowd: bool, kind: Kind) -> f64 {
        if kind != Kind::Box && self.mask.size != truth.mask.size {
            return -1.0;
        }
        let boxes = box_iou(self.bbox, truth.bbox, is_crowd);
        if kind == Kind::Box || boxes == 0.0 {
            return boxes;
        }
        let common = self.mask.intersection(truth.mask);
        let masks = share(common, self.area, truth.area, is_crowd);
        match (&self.band, &truth.band) {
            (Some(band), Some(other)) => {
                let common = band.intersection(other);
                masks.min(share(common, band.area(), other.area(), is_crowd))
            }
            _ => masks,
        }
    }
}

fn share(common: usize, area: usize, truth: usize, is_crowd: bool) -> f64 {
    let all = if is_crowd {
        area
    } else {
        area + truth - common
    };
    if common == 0 {
        0.0
    } else {
        common as f64 / all as f64
    }
}

/// Left, top, width and height; zeros for an empty mask.
pub(super) fn tight_box(mask: &Rle) -> [f64; 4] {
    mask.bbox().map_or([0.0; 4], |b| b.to_xywh().map(f64::from))
}

/// Follows `bbIou`,
/// <https://github.com/cocodataset/cocoapi/blob/8c9bcc3cf640524c4c20a9c40e89cb6a2f2fa0e9/common/maskApi.c#L104>.
pub(super) fn box_iou(a: [f64; 4], b: [f64; 4], is_crowd: bool) -> f64 {
    let width = (a[0] + a[2]).min(b[0] + b[2]) - a[0].max(b[0]);
    let height = (a[1] + a[3]).min(b[1] + b[3]) - a[1].max(b[1]);
    if width <= 0.0 || height <= 0.0 {
        return 0.0;
    }
    let common = width * height;
    let (area, truth) = (a[2] * a[3], b[2] * b[3]);
    common
        / if is_crowd {
            area
        } else {
            area + truth - common
        }
}

/// The pixels within 2 % of the image diagonal of the border of a mask; the edge of the image is a
/// border too.
///
/// Follows `mask_to_boundary`,
/// <https://github.com/bowenc0221/boundary-iou-api/blob/37d25586a677b043ed585f10e5c42d4e80176ea9/boundary_iou/utils/boundary_utils.py#L12>.
fn band(rle: &Rle) -> Rle {
    let [height, width] = rle.size;
    // Run lengths in a ground truth or in results were checked when they were read.
    let Ok(mask) = rle.decode() else {
        return rle.clone();
    };
    let distance = (0.02 * (width as f64).hypot(height as f64))
        .round()
        .max(1.0);
    let mut inner = mask.clone();
    for _ in 0..distance as usize {
        inner = contour::eroded(&inner);
    }
    let mut band = mask;
    band.subtract(&inner);
    Rle::encode(&band)
}
