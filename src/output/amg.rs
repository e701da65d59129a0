//! The files that the original's automatic mask generator writes.
//!
//! Follows `write_masks_to_folder` and the COCO RLE mode of
//! <https://github.com/facebookresearch/segment-anything/blob/dca509f/scripts/amg.py>. The folder holds
//! `0.png`, `1.png`, … and `metadata.csv`.

use rayon::prelude::*;

use super::answer::{Found, Sample};
use super::{ImageResults, masks};
use crate::error::{Error, Result};
use crate::mask::Rle;
use crate::predict::everything::MaskRecord;

/// Name of the table in the folder of masks.
pub const METADATA_FILE: &str = "metadata.csv";

/// The first line of the table.
pub const HEADER: &str = "id,area,bbox_x0,bbox_y0,bbox_w,bbox_h,point_input_x,point_input_y,\
                          predicted_iou,stability_score,crop_box_x0,crop_box_y0,crop_box_w,crop_box_h";

/// Every mask as a PNG, and the table of them.
///
/// # Errors
/// As [`metadata_csv`] and [`masks::mask_png`].
pub fn files(results: &ImageResults) -> Result<Vec<(String, Vec<u8>)>> {
    let found = results.found();
    let masks = found.par_iter().enumerate();
    let masks = masks.map(|(id, found)| {
        let png = masks::encode_mask(&found.mask, results.source)?;
        Ok((format!("{id}.png"), png))
    });
    let mut files = masks.collect::<Result<Vec<_>>>()?;
    files.push((
        METADATA_FILE.to_string(),
        metadata_csv(&found)?.into_bytes(),
    ));
    Ok(files)
}

/// The table of masks, one line each, numbers as Python writes them.
///
/// # Errors
/// [`Error::Unsupported`] for an object that no grid point found.
pub fn metadata_csv(found: &[&Found]) -> Result<String> {
    let mut table = HEADER.to_string();
    for (id, found) in found.iter().enumerate() {
        let record = record(found)?;
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
    Ok(table)
}

/// All objects as one JSON list of the original's records, masks run-length encoded as COCO and
/// pycocotools read them. Not a COCO dataset: that is [`super::coco`].
///
/// # Errors
/// [`Error::Unsupported`] for an object that no grid point found, [`Error::InvalidArgument`] for a
/// score that is NaN or infinite.
pub fn list(found: &[&Found]) -> Result<Vec<u8>> {
    let records = found.iter().map(|found| record(found));
    let records = records.collect::<Result<Vec<_>>>()?;
    if let Some(wrong) = records
        .iter()
        .find(|r| !(r.predicted_iou.is_finite() && r.stability_score.is_finite()))
    {
        let (iou, stability) = (wrong.predicted_iou, wrong.stability_score);
        return Err(Error::argument(format!(
            "a mask has predicted IoU {iou} and stability {stability}"
        )));
    }
    serde_json::to_vec(&records).map_err(|error| Error::argument(error.to_string()))
}

/// The record that an object was made of.
fn record(found: &Found) -> Result<MaskRecord> {
    let (Some(Sample { point, crop_box }), Some(stability_score)) = (found.sample, found.stability)
    else {
        return Err(Error::Unsupported {
            what: "a record of the mask generator for an object that no grid point found".into(),
            instead: "write masks, csv or coco".into(),
        });
    };
    // From the first pixel to the last, and zeros for an empty mask, as in the original.
    let bbox = found.mask.extent().map_or([0; 4], |extent| {
        let (x, y) = (extent.columns, extent.rows);
        [x.start, y.start, x.len() - 1, y.len() - 1]
    });
    Ok(MaskRecord {
        segmentation: Rle::encode(&found.mask),
        area: found.mask.area(),
        bbox,
        predicted_iou: found.score,
        point_coords: [point],
        stability_score,
        crop_box,
    })
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
    let Some((digits, exponent)) = text.split_once('e') else {
        return text;
    };
    match exponent.strip_prefix('-') {
        Some(exponent) => format!("{digits}e-{exponent:0>2}"),
        None => format!("{digits}e+{exponent:0>2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mask::Mask;
    use crate::output::answer::Answer;

    fn record_of(mask: &Mask, bbox: [usize; 4]) -> MaskRecord {
        MaskRecord {
            segmentation: Rle::encode(mask),
            area: mask.area(),
            bbox,
            predicted_iou: 0.9,
            point_coords: [[50.0, 37.5]],
            stability_score: 0.96875,
            crop_box: [0, 0, 4, 3],
        }
    }

    fn records() -> [MaskRecord; 2] {
        let bar = Mask::from_fn(4, 3, |x, y| x == 1 && y > 0);
        [
            record_of(&bar, [1, 1, 0, 1]),
            record_of(&Mask::new(4, 3), [0; 4]),
        ]
    }

    #[test]
    fn records_come_through_an_answer_unchanged() {
        let answer = Answer::try_from(&records()[..]).unwrap();
        let back: Vec<MaskRecord> = answer
            .instances
            .iter()
            .map(|f| record(f).unwrap())
            .collect();
        assert_eq!(back, records());
    }

    #[test]
    fn the_table_is_the_originals() {
        // The row that the original writes for this record.
        let want = concat!(
            "id,area,bbox_x0,bbox_y0,bbox_w,bbox_h,point_input_x,point_input_y,predicted_iou,",
            "stability_score,crop_box_x0,crop_box_y0,crop_box_w,crop_box_h\n",
            "0,2,1,1,0,1,50.0,37.5,0.8999999761581421,0.96875,0,0,4,3"
        );
        let answer = Answer::try_from(&records()[..1]).unwrap();
        assert_eq!(metadata_csv(&[&answer.instances[0]]).unwrap(), want);
        assert_eq!(metadata_csv(&[]).unwrap().lines().count(), 1);
    }

    #[test]
    fn the_list_is_the_originals() {
        let answer = Answer::try_from(&records()[..]).unwrap();
        let found: Vec<&Found> = answer.instances.iter().collect();
        assert_eq!(
            list(&found).unwrap(),
            serde_json::to_vec(&records()).unwrap()
        );
        assert_eq!(list(&[]).unwrap(), b"[]");
        let mut wrong = found[0].clone();
        wrong.score = f32::NAN;
        assert!(list(&[&wrong]).is_err());
        wrong.sample = None;
        let error = list(&[&wrong]).unwrap_err().to_string();
        assert!(error.contains("write masks, csv or coco"), "{error}");
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
