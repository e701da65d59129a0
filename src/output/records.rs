//! The files that the original's automatic mask generator writes.
//!
//! Follows `write_masks_to_folder` and the COCO RLE mode of
//! <https://github.com/facebookresearch/segment-anything/blob/dca509f/scripts/amg.py>. The folder holds
//! `0.png`, `1.png`, …, see [`super::masks::mask_png`], and `metadata.csv`.

use crate::error::{Error, Result};
use crate::predict::everything::MaskRecord;

/// Name of the table in the folder of masks.
pub const METADATA_FILE: &str = "metadata.csv";

const HEADER: &str = "id,area,bbox_x0,bbox_y0,bbox_w,bbox_h,point_input_x,point_input_y,\
                      predicted_iou,stability_score,crop_box_x0,crop_box_y0,crop_box_w,crop_box_h";

/// The table of masks, one line each, numbers as Python writes them.
pub fn metadata_csv(records: &[MaskRecord]) -> String {
    let mut table = HEADER.to_string();
    for (id, record) in records.iter().enumerate() {
        let [[x, y]] = record.point_coords;
        let mut row = vec![id.to_string(), record.area.to_string()];
        row.extend(record.bbox.map(|v| v.to_string()));
        row.extend([x, y].map(python_float));
        row.push(python_float(record.predicted_iou.into()));
        row.push(python_float(record.stability_score.into()));
        row.extend(record.crop_box.map(|v| v.to_string()));
        table.push('\n');
        table.push_str(&row.join(","));
    }
    table
}

/// All records as one JSON list, masks run-length encoded as COCO and pycocotools read them.
///
/// # Errors
/// [`Error::InvalidImage`] when serialising fails, which no record brings about.
pub fn coco_json(records: &[MaskRecord]) -> Result<Vec<u8>> {
    serde_json::to_vec(records).map_err(|error| Error::InvalidImage(error.to_string()))
}

/// The shortest digits that give the same number back, with an exponent where Python has one.
fn python_float(value: f64) -> String {
    let size = value.abs();
    if value.is_nan() {
        return "nan".to_string();
    }
    if size == 0.0 || (1e-4..1e16).contains(&size) {
        return format!("{value:?}");
    }
    let text = format!("{value:e}");
    match text.split_once('e') {
        Some((digits, exponent)) => {
            let (sign, exponent) = match exponent.strip_prefix('-') {
                Some(exponent) => ('-', exponent),
                None => ('+', exponent),
            };
            format!("{digits}e{sign}{exponent:0>2}")
        }
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mask::{Mask, Rle};

    fn record() -> MaskRecord {
        MaskRecord {
            segmentation: Rle::encode(&Mask::from_fn(4, 3, |x, y| x == 1 && y > 0)),
            area: 2,
            bbox: [1, 1, 0, 1],
            predicted_iou: 0.9,
            point_coords: [[50.0, 37.5]],
            stability_score: 0.96875,
            crop_box: [0, 0, 4, 3],
        }
    }

    #[test]
    fn the_table_is_the_originals() {
        // The row that the original writes for this record.
        let want = concat!(
            "id,area,bbox_x0,bbox_y0,bbox_w,bbox_h,point_input_x,point_input_y,predicted_iou,",
            "stability_score,crop_box_x0,crop_box_y0,crop_box_w,crop_box_h\n",
            "0,2,1,1,0,1,50.0,37.5,0.8999999761581421,0.96875,0,0,4,3"
        );
        assert_eq!(metadata_csv(&[record()]), want);
        assert_eq!(metadata_csv(&[]).lines().count(), 1);
    }

    #[test]
    fn the_list_is_the_originals() {
        let text = String::from_utf8(coco_json(&[record(), record()]).unwrap()).unwrap();
        let list: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
        assert_eq!(list.len(), 2);
        assert_eq!(list[1]["segmentation"]["counts"], "426");
        assert_eq!(coco_json(&[]).unwrap(), b"[]");
    }

    #[test]
    fn numbers_look_as_in_python() {
        for (value, want) in [
            (0.0, "0.0"),
            (1.0, "1.0"),
            (0.1, "0.1"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (1.5e-7, "1.5e-07"),
            (-2.5e20, "-2.5e+20"),
            (1e16, "1e+16"),
            (123456789.125, "123456789.125"),
            (f64::NAN, "nan"),
        ] {
            assert_eq!(python_float(value), want);
        }
    }
}
