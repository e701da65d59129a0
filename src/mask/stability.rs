//! A mask from logits, with how much it depends on where they are cut.

use super::{BITS, Mask};
use crate::error::{Error, Result};

/// A mask and the pixel counts of a stricter and a laxer one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StableMask {
    /// Pixels above the threshold.
    pub mask: Mask,
    /// Number of pixels above the threshold plus the offset.
    pub strict: usize,
    /// Number of pixels above the threshold minus the offset.
    pub lax: usize,
}

impl StableMask {
    /// Cuts logits of `width` columns, by rows, in one pass; NaN lies outside.
    ///
    /// # Errors
    /// [`Error::InvalidMask`] when there is no whole number of rows.
    pub fn new(logits: &[f32], width: usize, threshold: f64, offset: f64) -> Result<Self> {
        if width == 0 || !logits.len().is_multiple_of(width) {
            return Err(Error::InvalidMask(format!(
                "{} logits are no whole number of rows of {width}",
                logits.len()
            )));
        }
        let mut mask = Mask::new(width, logits.len() / width);
        let (low, cut, high) = (
            (threshold - offset) as f32,
            threshold as f32,
            (threshold + offset) as f32,
        );
        let (mut strict, mut lax) = (0, 0);
        let words = mask.words.chunks_exact_mut(mask.stride);
        for (row, words) in logits.chunks_exact(width).zip(words) {
            for (logits, word) in row.chunks(BITS).zip(words) {
                let (mut above_high, mut above_low) = (0u32, 0u32);
                for (bit, &logit) in logits.iter().enumerate() {
                    *word |= u64::from(logit > cut) << bit;
                    above_high += u32::from(logit > high);
                    above_low += u32::from(logit > low);
                }
                strict += above_high as usize;
                lax += above_low as usize;
            }
        }
        Ok(Self { mask, strict, lax })
    }

    /// IoU of the stricter and the laxer mask, in 0..=1; NaN when both are empty.
    ///
    /// Follows `calculate_stability_score`,
    /// <https://github.com/facebookresearch/segment-anything/blob/dca509f/segment_anything/utils/amg.py#L158>,
    /// whose 16-bit sums overflow in rows of more than 32767 pixels; these do not.
    pub fn stability_score(&self) -> f32 {
        self.strict as f32 / self.lax as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counts_are_those_of_masks_cut_higher_and_lower() {
        let logits: Vec<f32> = (0..130 * 7).map(|i| (i % 61) as f32 * 0.1 - 3.0).collect();
        let cut = StableMask::new(&logits, 130, 0.5, 1.0).unwrap();
        let at = |t: f32| Mask::from_fn(130, 7, |x, y| logits[y * 130 + x] > t);
        assert_eq!(cut.mask, at(0.5));
        assert_eq!((cut.strict, cut.lax), (at(1.5).area(), at(-0.5).area()));
        assert_eq!(cut.stability_score(), cut.strict as f32 / cut.lax as f32);
    }

    #[test]
    fn a_logit_at_the_threshold_is_outside_and_so_is_nan() {
        let cut = StableMask::new(&[0.0, f32::NAN, 1e-9], 3, 0.0, 0.0).unwrap();
        assert_eq!(cut.mask, Mask::from_fn(3, 1, |x, _| x == 2));
        assert_eq!((cut.strict, cut.lax), (1, 1));
    }

    #[test]
    fn nothing_at_all_has_no_stability() {
        let cut = StableMask::new(&[-5.0; 6], 3, 0.0, 1.0).unwrap();
        assert!(cut.mask.is_empty() && cut.stability_score().is_nan());
    }

    #[test]
    fn logits_that_fill_no_rows_are_refused() {
        assert!(StableMask::new(&[0.0; 5], 3, 0.0, 1.0).is_err());
        assert!(StableMask::new(&[], 0, 0.0, 1.0).is_err());
    }
}
