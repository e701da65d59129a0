//! Differences between two results, and their limits.

use std::borrow::Borrow;

use candle::{DType, Tensor};

use crate::device::download;
use crate::mask::Mask;
use crate::{Precision, Result, WeightFormat};

/// One comparison.
#[derive(Debug, Clone)]
pub struct Check {
    /// Name of the stage: `trunk`, `t.encoder`, …; end-to-end results begin with `end to end`.
    pub stage: String,
    /// The difference.
    pub figures: Figures,
    /// Its limit.
    pub limit: Limit,
}

impl Check {
    /// True if the difference is within its limit.
    pub fn passes(&self) -> bool {
        self.limit.holds(&self.figures)
    }
}

/// Difference between two results.
#[derive(Debug, Clone, Copy)]
pub struct Figures {
    /// The largest difference of two elements.
    pub max_error: f64,
    /// ‖got − want‖ / ‖want‖
    pub relative_error: f64,
    /// ⟨got, want⟩ / (‖got‖ ‖want‖)
    pub cosine: f64,
    /// The worst overlap of two masks; `None` for other results. Where masks have fewer pixels
    /// than a thousandth of the image, these stand for the union, so that a pixel at the edge of
    /// a speck does not decide.
    pub mask_iou: Option<f64>,
}

/// A bound on one of the [`Figures`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Limit {
    /// At most this relative error.
    Relative(f64),
    /// At least this cosine.
    Cosine(f64),
    /// At most this difference of two elements.
    Difference(f64),
    /// At least this IoU of every pair of masks.
    MaskIou(f64),
}

impl Limit {
    fn holds(&self, figures: &Figures) -> bool {
        match *self {
            Self::Relative(limit) => figures.relative_error <= limit,
            Self::Cosine(limit) => figures.cosine >= limit,
            Self::Difference(limit) => figures.max_error <= limit,
            Self::MaskIou(limit) => figures.mask_iou.is_some_and(|iou| iou >= limit),
        }
    }
}

/// Limits for each kind of result.
#[derive(Debug, Clone, PartialEq)]
pub struct Tolerances {
    /// For the pixels that the network sees.
    pub pixels: Limit,
    /// For a stage that was fed the reference's inputs.
    pub stage: Limit,
    /// For the presence and the scores from end to end, in 0..1.
    pub score: Limit,
    /// For the boxes from end to end, as a fraction of the image's longer side.
    pub box_error: f64,
    /// For the masks from end to end.
    pub mask: Limit,
    /// Queries that score less than this both in the reference and here have no say in boxes and
    /// masks from end to end: nobody gets to see them.
    pub least_score: f32,
}

impl Tolerances {
    /// Limits for a model in `dtype` with `precision` and `weights` against a reference in f32.
    ///
    /// Weights of 8 bits have those of [`Precision::Medium`].
    pub fn of(dtype: DType, precision: Precision, weights: WeightFormat) -> Self {
        let precision = match weights {
            WeightFormat::Int8 => Precision::Medium,
            _ => precision,
        };
        let stage = match precision {
            Precision::Highest => 2e-5,
            _ => 1e-4,
        };
        let loose = |pixels, stage| Self {
            pixels,
            stage,
            score: Limit::Difference(0.1),
            box_error: 0.02,
            mask: Limit::MaskIou(0.8),
            least_score: 0.1,
        };
        match (dtype, precision) {
            (DType::F32, Precision::Medium) => loose(Limit::Relative(1e-5), Limit::Cosine(0.99)),
            (DType::F16 | DType::BF16, _) => loose(Limit::Cosine(0.9999), Limit::Cosine(0.999)),
            _ => Self {
                pixels: Limit::Relative(1e-5),
                stage: Limit::Relative(stage),
                score: Limit::Difference(1e-3),
                box_error: 3e-4,
                mask: Limit::MaskIou(0.999),
                least_score: 0.,
            },
        }
    }
}

/// All elements as f32.
pub(super) fn values(tensor: &Tensor) -> Result<Vec<f32>> {
    Ok(download(&tensor.to_dtype(DType::F32)?)?)
}

/// Of what cannot be compared: within no limit.
pub(super) const INCOMPARABLE: Figures = Figures {
    max_error: f64::INFINITY,
    relative_error: f64::INFINITY,
    cosine: f64::NAN,
    mask_iou: None,
};

/// Compares element by element; results of different sizes are infinitely far apart, and so is
/// nothing from nothing: what was not compared must not pass.
pub(super) fn compare(got: &[f32], want: &[f32]) -> Figures {
    if got.len() != want.len() || want.is_empty() {
        return INCOMPARABLE;
    }
    let (mut max_error, mut square_error) = (0f64, 0f64);
    let (mut got_square, mut want_square, mut product) = (0f64, 0f64, 0f64);
    for (got, want) in got.iter().zip(want) {
        let (got, want) = (f64::from(*got), f64::from(*want));
        let error = (got - want).abs();
        if error > max_error || error.is_nan() {
            max_error = error; // NaN stays: nothing is larger
        }
        square_error += error * error;
        got_square += got * got;
        want_square += want * want;
        product += got * want;
    }
    Figures {
        max_error,
        relative_error: (square_error / want_square.max(1e-30)).sqrt(),
        cosine: match got_square == 0. && want_square == 0. {
            true => 1.,
            false => product / (got_square * want_square).sqrt(),
        },
        mask_iou: None,
    }
}

/// Compares masks one by one, see [`Figures::mask_iou`].
pub(super) fn compare_masks(got: &[&Mask], want: &[impl Borrow<Mask>]) -> Figures {
    let of = |iou| Figures {
        mask_iou: Some(iou),
        ..INCOMPARABLE
    };
    if got.len() != want.len() || want.is_empty() {
        return of(0.);
    }
    let overlap = |(got, want): (&&Mask, &Mask)| {
        let both = got.intersection(want);
        let either = got.area() + want.area() - both;
        let speck = got.width() * got.height() / 1000;
        1. - (either - both) as f64 / either.max(speck).max(1) as f64
    };
    let pairs = got.iter().zip(want.iter().map(Borrow::borrow));
    of(pairs.map(overlap).fold(1., f64::min))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_those_of_the_formulas() {
        let figures = compare(&[3., 4.], &[3., 0.]);
        assert_eq!(figures.max_error, 4.);
        assert!((figures.relative_error - 4. / 3.).abs() < 1e-12);
        assert!((figures.cosine - 0.6).abs() < 1e-12);
        let same = compare(&[0., 0.], &[0., 0.]);
        assert_eq!(
            (same.max_error, same.relative_error, same.cosine),
            (0., 0., 1.)
        );
    }

    #[test]
    fn weights_of_eight_bits_have_the_limits_of_bf16_with_any_precision() {
        let of = |precision, weights| Tolerances::of(DType::F32, precision, weights);
        let want = of(Precision::Medium, WeightFormat::Stored);
        for precision in [Precision::Highest, Precision::High, Precision::Medium] {
            assert_eq!(of(precision, WeightFormat::Int8), want);
        }
        assert_ne!(of(Precision::High, WeightFormat::Stored), want);
    }

    #[test]
    fn not_a_number_and_other_sizes_never_pass() {
        let limits = [
            Limit::Relative(1.),
            Limit::Cosine(0.),
            Limit::Difference(1.),
            Limit::MaskIou(0.),
        ];
        for (got, want) in [
            (&[f32::NAN, 1.][..], &[1., 1.][..]),
            (&[1.], &[1., 1.]),
            (&[], &[]),
        ] {
            let figures = compare(got, want);
            assert!(
                limits.iter().all(|limit| !limit.holds(&figures)),
                "{figures:?}"
            );
        }
        let mask = Mask::new(4, 4);
        let figures = compare_masks(&[&mask], &[] as &[Mask]);
        assert!(!Limit::MaskIou(0.5).holds(&figures));
        let figures = compare_masks(&[], &[] as &[Mask]);
        assert!(!Limit::MaskIou(0.5).holds(&figures));
    }

    #[test]
    fn a_pixel_of_a_speck_does_not_decide() {
        let square = |n: usize| Mask::from_fn(100, 100, |x, y| x < n && y < n);
        let iou = |a: usize, b: usize| compare_masks(&[&square(a)], &[square(b)]).mask_iou.unwrap();
        assert_eq!(iou(50, 50), 1.);
        assert!((iou(50, 49) - 2401. / 2500.).abs() < 1e-9);
        assert!((iou(1, 0) - 0.9).abs() < 1e-9, "1 of 10 pixels");
        assert_eq!(iou(0, 0), 1.);
    }
}
