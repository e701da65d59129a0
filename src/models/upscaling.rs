//! From low-resolution logits to logits of the image's size.

use std::borrow::Cow;

use crate::mask::upsample::upsample_bilinear;
use crate::mask::{Mask, regions};
use crate::{Error, Result, Size};

/// Logit of the pixels in a filled hole.
const FILLED: f32 = 10.;

/// How a model brings low-resolution logits to the size of an image: as data, so that a GPU can do it
/// as well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upscaling {
    /// Size of the logits.
    pub low_res: Size,
    /// Regions of background of up to this many pixels are filled first; 0 fills none.
    pub max_hole_area: usize,
    /// Bilinear resizes, one after the other; the last one gives the size of the image.
    pub steps: Vec<UpscalingStep>,
}

/// One resize.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UpscalingStep {
    /// Size of the result, corners not aligned.
    pub to: Size,
    /// What is kept of it, from the top left corner on.
    pub kept: Size,
}

impl Upscaling {
    /// In one step, without filling holes.
    pub fn direct(low_res: Size, image: Size) -> Self {
        let step = UpscalingStep {
            to: image,
            kept: image,
        };
        Self {
            low_res,
            max_hole_area: 0,
            steps: vec![step],
        }
    }

    /// In two steps, by way of a square of which the image fills the part `inside`.
    pub fn padded(low_res: Size, square: Size, inside: Size, image: Size) -> Self {
        let step = UpscalingStep {
            to: square,
            kept: inside,
        };
        let mut direct = Self::direct(low_res, image);
        direct.steps.insert(0, step);
        direct
    }

    /// The size that the logits come to.
    pub fn size(&self) -> Size {
        self.steps.last().map_or(self.low_res, |step| step.kept)
    }

    /// Logits (h, w) of one mask -> logits at the size of the image, both by rows.
    ///
    /// # Errors
    /// [`Error::InvalidMask`] for another number of logits, and a step that keeps more than it makes.
    pub fn run(&self, low_res_logits: &[f32]) -> Result<Vec<f32>> {
        let (mut logits, mut size) = (self.filled(low_res_logits)?, self.low_res);
        for UpscalingStep { to, kept } in &self.steps {
            if kept.width > to.width || kept.height > to.height {
                return Err(Error::InvalidMask(format!(
                    "{kept} to keep of a map of {to}"
                )));
            }
            let mut larger = upsample_bilinear(&logits, size, *to)?;
            if kept != to {
                let rows = larger.chunks_exact(to.width).take(kept.height);
                larger = rows.flat_map(|row| &row[..kept.width]).copied().collect();
            }
            (logits, size) = (larger.into(), *kept);
        }
        Ok(logits.into_owned())
    }

    /// The logits with those in small regions of background lifted.
    ///
    /// # Errors
    /// [`Error::InvalidMask`] for another number of logits.
    pub(crate) fn filled<'a>(&self, logits: &'a [f32]) -> Result<Cow<'a, [f32]>> {
        let Size { width, height } = self.low_res;
        if logits.len() != self.low_res.area() {
            return Err(Error::InvalidMask(format!(
                "{} logits of a mask of {}",
                logits.len(),
                self.low_res
            )));
        }
        if self.max_hole_area == 0 {
            return Ok(logits.into());
        }
        let mask = Mask::from_fn(width, height, |x, y| logits[y * width + x] > 0.);
        let mut filled = mask.clone();
        regions::fill_holes(&mut filled, self.max_hole_area);
        let mut logits = logits.to_vec();
        for y in 0..height {
            for x in 0..width {
                if filled.get(x, y) && !mask.get(x, y) {
                    logits[y * width + x] = FILLED;
                }
            }
        }
        Ok(logits.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_up_to_the_limit_are_filled() {
        let side = 288;
        let at = |x: usize, y: usize| y * side + x;
        let mut logits = vec![3.; side * side];
        for y in 0..16 {
            logits[at(100, 100 + y)..][..16].fill(-1.); // 256 pixels
            logits[at(200, 200 + y)..][..16].fill(-1.); // 257 with the next line
        }
        logits[at(216, 216)] = 0.; // touches diagonally, and 0 is background
        let low_res = Size::square(side);
        let mut upscaling = Upscaling::direct(low_res, low_res);
        assert_eq!(upscaling.filled(&logits).unwrap(), logits);
        upscaling.max_hole_area = 256;
        let logits = upscaling.filled(&logits).unwrap();
        assert_eq!(logits[at(100, 100)], FILLED);
        assert_eq!(logits[at(200, 200)], -1.);
        assert_eq!(logits[at(216, 216)], 0.);
        assert_eq!(logits[at(0, 0)], 3.);
    }

    #[test]
    fn padding_is_cut_off_on_the_way() {
        let [low_res, square] = [4, 8].map(Size::square);
        let (inside, image) = (Size::new(8, 4), Size::new(8, 4));
        let upscaling = Upscaling::padded(low_res, square, inside, image);
        let rows: Vec<f32> = (0..16).map(|i| (i / 4) as f32).collect();
        let larger = upscaling.run(&rows).unwrap();
        let column: Vec<f32> = larger.chunks_exact(8).map(|row| row[3]).collect();
        assert_eq!(column, [0., 0.25, 0.75, 1.25]);
    }

    #[test]
    fn another_number_of_logits_is_refused() {
        let upscaling = Upscaling::direct(Size::square(4), Size::new(20, 10));
        for wrong in [0, 15, 17] {
            let error = upscaling.run(&vec![0.; wrong]).unwrap_err();
            assert!(matches!(error, Error::InvalidMask(_)), "{error}");
        }
        let image = Size::square(8);
        let wider = Upscaling::padded(Size::square(4), image, Size::new(9, 8), image);
        assert!(wider.run(&[0.; 16]).is_err());
    }
}
