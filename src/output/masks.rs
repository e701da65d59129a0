//! Masks as PNG files.

use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder};

use super::LabeledInstance;
use crate::error::{Error, Result};
use crate::mask::Mask;

/// The longest part of a label that goes into a file name, in characters.
const MAX_LABEL: usize = 40;

/// Name of the file for the instance at `index`, as `000_yellow-bus_0.91.png`.
///
/// Sorts by index and needs no quoting in a shell: ASCII letters and digits of the label are kept
/// in lower case, everything else becomes a single `-`; a label without any becomes `object`.
pub fn mask_file_name(index: usize, instance: &LabeledInstance) -> String {
    let mut label = String::new();
    for letter in instance.label.chars() {
        if letter.is_ascii_alphanumeric() {
            label.push(letter.to_ascii_lowercase());
        } else if !label.is_empty() && !label.ends_with('-') {
            label.push('-');
        }
        if label.len() == MAX_LABEL {
            break;
        }
    }
    let label = match label.trim_end_matches('-') {
        "" => "object",
        label => label,
    };
    format!("{index:03}_{label}_{:.2}.png", instance.score)
}

/// A mask as an 8-bit grey PNG file: 255 inside, 0 outside.
///
/// # Errors
/// [`Error::InvalidImage`] when the mask has no pixels.
pub fn mask_png(mask: &Mask) -> Result<Vec<u8>> {
    encode_png(
        mask.width(),
        mask.height(),
        &mask.to_bytes(255),
        ExtendedColorType::L8,
    )
}

/// All instances in one grey PNG file of the given size: 0 is background, i + 1 is instance i.
///
/// Where instances overlap, the one with the higher score is shown. Has 8 bits per pixel up to 255
/// instances and 16 bits above.
///
/// # Errors
/// [`Error::InvalidImage`] when a side is zero, or there are more than 65535 instances.
pub fn label_map_png(
    width: usize,
    height: usize,
    instances: &[LabeledInstance],
) -> Result<Vec<u8>> {
    if instances.len() > usize::from(u16::MAX) {
        return Err(Error::InvalidImage(format!(
            "{} instances; a label map can hold at most {}",
            instances.len(),
            u16::MAX
        )));
    }
    let mut by_score: Vec<usize> = (0..instances.len()).collect();
    by_score.sort_by(|&a, &b| instances[a].score.total_cmp(&instances[b].score));
    let mut labels = vec![0u16; width * height];
    for index in by_score {
        let mask = instances[index].mask;
        for y in 0..mask.height().min(height) {
            for run in mask.runs(y) {
                let row = &mut labels[y * width..][..width];
                row[run.start.min(width)..run.end.min(width)].fill(index as u16 + 1);
            }
        }
    }
    if instances.len() <= usize::from(u8::MAX) {
        let bytes: Vec<u8> = labels.iter().map(|&label| label as u8).collect();
        encode_png(width, height, &bytes, ExtendedColorType::L8)
    } else {
        let bytes: Vec<u8> = labels
            .iter()
            .flat_map(|label| label.to_ne_bytes())
            .collect();
        encode_png(width, height, &bytes, ExtendedColorType::L16)
    }
}

pub(super) fn encode_png(
    width: usize,
    height: usize,
    samples: &[u8],
    color: ExtendedColorType,
) -> Result<Vec<u8>> {
    let problem = |why: String| Error::InvalidImage(format!("{width}x{height} as png: {why}"));
    if width == 0 || height == 0 {
        return Err(problem("both sides must be at least 1".to_string()));
    }
    let side = |side: usize| u32::try_from(side).map_err(|error| problem(error.to_string()));
    let mut bytes = Vec::new();
    PngEncoder::new(&mut bytes)
        .write_image(samples, side(width)?, side(height)?, color)
        .map_err(|error| problem(error.to_string()))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mask::BoxXyxy;

    fn instance<'a>(label: &'a str, mask: &'a Mask, score: f32) -> LabeledInstance<'a> {
        let bbox = BoxXyxy::from([0.0; 4]);
        LabeledInstance {
            label,
            mask,
            bbox,
            score,
        }
    }

    #[test]
    fn file_names_sort_and_need_no_quotes() {
        let mask = Mask::new(1, 1);
        for (label, want) in [
            ("wheel", "007_wheel_0.91.png"),
            ("Yellow  school bus!", "007_yellow-school-bus_0.91.png"),
            ("../../$(rm -rf *)", "007_rm-rf_0.91.png"),
            ("", "007_object_0.91.png"),
            ("猫", "007_object_0.91.png"),
        ] {
            assert_eq!(mask_file_name(7, &instance(label, &mask, 0.914)), want);
        }
        let long = "a".repeat(300);
        assert!(mask_file_name(0, &instance(&long, &mask, 1.0)).len() < 60);
    }

    #[test]
    fn a_mask_comes_back_from_its_png() {
        let mask = Mask::from_fn(70, 30, |x, y| (x + y) % 3 == 0);
        let grey = image::load_from_memory(&mask_png(&mask).unwrap()).unwrap();
        assert_eq!(grey.color(), image::ColorType::L8);
        assert_eq!(grey.as_bytes(), mask.to_bytes(255));
        assert!(mask_png(&Mask::new(0, 3)).is_err());
    }

    #[test]
    fn the_label_map_shows_the_higher_score_on_top() {
        let left = Mask::from_fn(6, 1, |x, _| x < 4);
        let right = Mask::from_fn(6, 1, |x, _| (2..5).contains(&x));
        let instances = [instance("a", &left, 0.9), instance("b", &right, 0.5)];
        let png = label_map_png(6, 1, &instances).unwrap();
        let labels = image::load_from_memory(&png).unwrap();
        assert_eq!(labels.as_bytes(), [1, 1, 1, 1, 2, 0]);
    }

    #[test]
    fn more_than_255_instances_need_16_bits() {
        let masks: Vec<Mask> = (0..300)
            .map(|i| Mask::from_fn(300, 1, |x, _| x == i))
            .collect();
        let instances: Vec<_> = masks.iter().map(|mask| instance("a", mask, 0.5)).collect();
        let png = label_map_png(300, 1, &instances).unwrap();
        let labels = image::load_from_memory(&png).unwrap().into_luma16();
        let want: Vec<u16> = (1..=300).collect();
        assert_eq!(labels.as_raw(), &want);
    }
}
