//! Records of the masks that the generator finds.

use serde::{Serialize, Serializer};

use crate::Result;
use crate::mask::{Mask, Rle};

/// One mask, with the fields of the original's records under their names.
///
/// Serialises to what the original writes in its `coco_rle` mode.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MaskRecord {
    /// Its pixels, at the size of the image.
    pub segmentation: Rle,
    /// Number of pixels.
    pub area: usize,
    /// x, y, width and height of the box around the pixels.
    ///
    /// Easy to get wrong: as in the original, the extents go from the first pixel to the last, so
    /// that a single pixel has width and height 0. For a box from edge to edge use [`Rle::bbox`].
    pub bbox: [usize; 4],
    /// The model's own estimate of the mask's quality; may exceed 1.
    #[serde(serialize_with = "widened")]
    pub predicted_iou: f32,
    /// The prompt that found it: one point in pixels of the image.
    pub point_coords: [[f64; 2]; 1],
    /// IoU of the masks cut higher and lower, in 0..=1; NaN when both are empty.
    #[serde(serialize_with = "widened")]
    pub stability_score: f32,
    /// x, y, width and height of the crop that it was found in.
    pub crop_box: [usize; 4],
}

impl MaskRecord {
    /// The pixels as a mask.
    ///
    /// # Errors
    /// [`crate::Error::InvalidMask`] when the run lengths were changed and do not fill the image.
    pub fn mask(&self) -> Result<Mask> {
        self.segmentation.decode()
    }
}

/// As Python writes a 32-bit number: all digits of the equal 64-bit one.
fn widened<S: Serializer>(value: &f32, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(f64::from(*value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_written_as_the_original_writes_it() {
        let mask = Mask::from_fn(4, 3, |x, y| x == 1 && y > 0);
        let record = MaskRecord {
            segmentation: Rle::encode(&mask),
            area: 2,
            bbox: [1, 1, 0, 1],
            predicted_iou: 0.9,
            point_coords: [[1.5, 2.0]],
            stability_score: 0.96875,
            crop_box: [0, 0, 4, 3],
        };
        let want = concat!(
            r#"{"segmentation":{"size":[3,4],"counts":"426"},"area":2,"bbox":[1,1,0,1],"#,
            r#""predicted_iou":0.8999999761581421,"point_coords":[[1.5,2.0]],"#,
            r#""stability_score":0.96875,"crop_box":[0,0,4,3]}"#
        );
        assert_eq!(serde_json::to_string(&record).unwrap(), want);
        assert_eq!(record.mask().unwrap(), mask);
    }
}
