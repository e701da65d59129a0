//! Masks as PNG files.

use rayon::prelude::*;

use super::answer::Found;
use super::{ImageResults, png};
use crate::Size;
use crate::error::{Error, Result};
use crate::mask::Mask;

/// The longest part of a label that goes into a file name, in characters.
const MAX_LABEL: usize = 40;

/// Name of the file of [`label_map_png`].
pub const LABEL_MAP_FILE: &str = "label_map.png";

/// One PNG per mask, named by [`mask_file_name`], and the label map.
///
/// # Errors
/// As [`mask_png`] and [`label_map_png`].
pub fn files(results: &ImageResults) -> Result<Vec<(String, Vec<u8>)>> {
    let found = results.found();
    let masks = found.par_iter().enumerate();
    let masks = masks.map(|(index, found)| {
        let png = encode_mask(&found.mask, results.source)?;
        Ok((mask_file_name(index, &found.label, found.score), png))
    });
    let mut files = masks.collect::<Result<Vec<_>>>()?;
    let map = encode_label_map(results.image.size(), &found, results.source)?;
    files.push((LABEL_MAP_FILE.to_string(), map));
    Ok(files)
}

/// Name of the file for the object at `index`, as `000_yellow-bus_0.91.png`.
///
/// Sorts by index and needs no quoting in a shell: ASCII letters and digits of the label are kept
/// in lower case, everything else becomes a single `-`; a label without any becomes `object`.
pub fn mask_file_name(index: usize, label: &str, score: f32) -> String {
    let mut name = String::new();
    for letter in label.chars() {
        if letter.is_ascii_alphanumeric() {
            name.push(letter.to_ascii_lowercase());
        } else if !name.is_empty() && !name.ends_with('-') {
            name.push('-');
        }
        if name.len() == MAX_LABEL {
            break;
        }
    }
    let name = match name.trim_end_matches('-') {
        "" => "object",
        name => name,
    };
    format!("{index:03}_{name}_{score:.2}.png")
}

/// A mask as an 8-bit grey PNG file: 255 inside, 0 outside.
///
/// # Errors
/// [`Error::InvalidImage`] when the mask has no pixels.
pub fn mask_png(mask: &Mask) -> Result<Vec<u8>> {
    encode_mask(mask, None)
}

pub(super) fn encode_mask(mask: &Mask, source: Option<&str>) -> Result<Vec<u8>> {
    png::encode(mask.size(), &mask.to_bytes(255), png::GREY, source)
}

/// All objects in one gray PNG file of the given size: 0 is background, i + 1 is object i.
///
/// Where objects overlap, the one with the higher score is shown. Has 8 bits per pixel up to 255
/// objects and 16 bits above.
///
/// # Errors
/// [`Error::InvalidImage`] when a side is zero; [`Error::InvalidArgument`] for more than 65535 objects.
pub fn label_map_png(width: usize, height: usize, found: &[&Found]) -> Result<Vec<u8>> {
    encode_label_map(Size::new(width, height), found, None)
}

fn encode_label_map(size: Size, found: &[&Found], source: Option<&str>) -> Result<Vec<u8>> {
    if found.len() > usize::from(u16::MAX) {
        return Err(Error::argument(format!(
            "{} objects; a label map can hold at most {}",
            found.len(),
            u16::MAX
        )));
    }
    let mut by_score: Vec<usize> = (0..found.len()).collect();
    by_score.sort_by(|&a, &b| found[a].score.total_cmp(&found[b].score));
    let mut labels = vec![0u16; size.area()];
    for index in by_score {
        for span in found[index].mask.spans(size) {
            labels[span].fill(index as u16 + 1);
        }
    }
    if found.len() <= usize::from(u8::MAX) {
        let bytes: Vec<u8> = labels.iter().map(|&label| label as u8).collect();
        png::encode(size, &bytes, png::GREY, source)
    } else {
        let bytes: Vec<u8> = labels
            .iter()
            .flat_map(|label| label.to_be_bytes())
            .collect();
        png::encode(size, &bytes, png::GREY16, source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::format::tests::found;

    #[test]
    fn file_names_sort_and_need_no_quotes() {
        for (label, want) in [
            ("wheel", "007_wheel_0.91.png"),
            ("Yellow  school bus!", "007_yellow-school-bus_0.91.png"),
            ("../../$(rm -rf *)", "007_rm-rf_0.91.png"),
            ("", "007_object_0.91.png"),
            ("猫", "007_object_0.91.png"),
        ] {
            assert_eq!(mask_file_name(7, label, 0.914), want);
        }
        let long = "a".repeat(300);
        assert!(mask_file_name(0, &long, 1.0).len() < 60);
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
        let (left, right) = (found("a", left, 0.9), found("b", right, 0.5));
        let png = label_map_png(6, 1, &[&left, &right]).unwrap();
        let labels = image::load_from_memory(&png).unwrap();
        assert_eq!(labels.as_bytes(), [1, 1, 1, 1, 2, 0]);
    }

    #[test]
    fn more_than_255_instances_need_16_bits() {
        let column = |i| Mask::from_fn(300, 1, |x, _| x == i);
        let all: Vec<Found> = (0..300).map(|i| found("a", column(i), 0.5)).collect();
        let all: Vec<&Found> = all.iter().collect();
        let png = label_map_png(300, 1, &all).unwrap();
        let labels = image::load_from_memory(&png).unwrap().into_luma16();
        let want: Vec<u16> = (1..=300).collect();
        assert_eq!(labels.as_raw(), &want);
    }
}
