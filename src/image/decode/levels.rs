//! From samples of more than 8 bits to 8-bit levels.

use super::canvas::Layout;

/// The sample values that become black and white.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Levels {
    pub black: f64,
    pub white: f64,
}

impl Levels {
    /// The whole range of 16 bits: a division by 257, rounded.
    pub const SIXTEEN_BITS: Self = Self {
        black: 0.,
        white: 65535.,
    };
    /// What floating-point pictures mean by black and white.
    pub const UNIT: Self = Self {
        black: 0.,
        white: 1.,
    };

    /// NaN is black.
    pub fn level(self, value: f64) -> u8 {
        ((value - self.black) / (self.white - self.black) * 255.).round() as u8
    }

    /// The level of each 16-bit sample.
    pub fn table(self) -> Vec<u8> {
        (0..=u16::MAX).map(|v| self.level(v.into())).collect()
    }
}

/// 16-bit samples of pixels as `read` takes their bytes, and of each whether it is color rather than
/// alpha.
pub fn sixteen_bits(
    bytes: &[u8],
    layout: Layout,
    read: impl Fn([u8; 2]) -> u16,
) -> impl Iterator<Item = (u16, bool)> {
    let channels = (0..layout.channels()).cycle();
    let samples = bytes.as_chunks::<2>().0.iter().zip(channels);
    samples.map(move |(sample, channel)| (read(*sample), layout.is_color(channel)))
}

/// From 16 bits to 8.
pub struct EightBits {
    colors: Vec<u8>,
    alpha: Vec<u8>,
    /// The largest sample of color.
    pub largest: u16,
}

impl EightBits {
    /// With these levels for color.
    pub fn new(levels: Levels) -> Self {
        Self {
            colors: levels.table(),
            alpha: Levels::SIXTEEN_BITS.table(),
            largest: 0,
        }
    }

    pub fn level(&mut self, (sample, is_color): (u16, bool)) -> u8 {
        if !is_color {
            return self.alpha[usize::from(sample)];
        }
        self.largest = self.largest.max(sample);
        self.colors[usize::from(sample)]
    }
}

/// What the samples of a picture are like, gathered while they go by.
pub struct Survey {
    /// Every how many samples one is kept for the percentiles.
    step: usize,
    seen: usize,
    kept: Vec<f64>,
    pub smallest: f64,
    pub largest: f64,
    /// Samples that are NaN or infinite.
    pub not_finite: usize,
}

impl Survey {
    /// More samples than this are thinned out evenly.
    const MAX_KEPT: usize = 1 << 22;

    /// For a picture of so many samples.
    pub fn new(samples: usize) -> Self {
        Self {
            step: samples.div_ceil(Self::MAX_KEPT).max(1),
            seen: 0,
            kept: vec![],
            smallest: f64::INFINITY,
            largest: f64::NEG_INFINITY,
            not_finite: 0,
        }
    }

    /// Notes the extremes only.
    pub fn note(&mut self, value: f64) {
        if !value.is_finite() {
            self.not_finite += 1;
            return;
        }
        self.smallest = self.smallest.min(value);
        self.largest = self.largest.max(value);
    }

    /// Notes a sample and keeps it, if it is its turn.
    pub fn keep(&mut self, value: f64) {
        self.note(value);
        if self.seen.is_multiple_of(self.step) && value.is_finite() {
            self.kept.push(value);
        }
        self.seen += 1;
    }

    /// Keeps the colors among 16-bit samples.
    pub fn keep_colors(&mut self, samples: impl Iterator<Item = (u16, bool)>) {
        let colors = samples.filter(|(_, is_color)| *is_color);
        colors.for_each(|(sample, _)| self.keep(sample.into()));
    }

    /// The values below and above which `percent` of the samples lie, each.
    ///
    /// A flat picture becomes black; one without a finite sample too.
    pub fn stretched(mut self, percent: f64) -> Levels {
        let Some(last) = self.kept.len().checked_sub(1) else {
            return Levels::UNIT;
        };
        let low = (last as f64 * percent / 100.).round() as usize;
        let mut at = |index: usize| *self.kept.select_nth_unstable_by(index, f64::total_cmp).1;
        let (black, white) = (at(low), at(last - low.min(last)));
        let white = if white > black { white } else { black + 1. };
        Levels { black, white }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stretch_leaves_out_the_extremes() {
        let mut survey = Survey::new(101);
        (0..=100).for_each(|v| survey.keep(f64::from(v)));
        let levels = survey.stretched(2.);
        assert_eq!((levels.black, levels.white), (2., 98.));
        assert_eq!(
            [0., 2., 50., 98., 100.].map(|v| levels.level(v)),
            [0, 0, 128, 255, 255]
        );
    }

    #[test]
    fn flat_and_empty_pictures_have_levels_too() {
        let mut flat = Survey::new(3);
        [7.; 3].into_iter().for_each(|v| flat.keep(v));
        assert_eq!(flat.stretched(1.).level(7.), 0);
        let mut none = Survey::new(2);
        [f64::NAN, f64::INFINITY]
            .into_iter()
            .for_each(|v| none.keep(v));
        assert_eq!(none.not_finite, 2);
        assert_eq!(none.stretched(1.).level(f64::NAN), 0);
    }

    #[test]
    fn many_samples_are_thinned_out() {
        let count = 3 * Survey::MAX_KEPT;
        let mut survey = Survey::new(count);
        (0..count).for_each(|v| survey.keep(v as f64));
        assert_eq!(survey.kept.len(), Survey::MAX_KEPT);
        let levels = survey.stretched(10.);
        assert!((levels.black / count as f64 - 0.1).abs() < 1e-3);
    }
}
