//! A mask that someone drew, as the mask prompt that an earlier answer would be.
//!
//! The models were trained on logits of their own. What is drawn becomes +10 inside and -10
//! outside, with the slope of a bilinear reduction between, as SAM 2 and SAM 3 make logits of a
//! mask that is given for a frame of a video,
//! <https://github.com/facebookresearch/sam3/blob/99d02f2/sam3/model/sam3_tracker_base.py#L387>.

use crate::Result;
use crate::image::Image;
use crate::image::resize::{resize_bilinear_antialias, resize_pillow_bilinear};
use crate::image::transform::LongestSide;
use crate::mask::Mask;

/// Logit inside the mask; outside it is the negative.
const MAGNITUDE: f32 = 10.;

/// For a model that stretches images to a square: logits (side, side), by rows.
pub(crate) fn stretched(mask: &Mask, side: usize) -> Result<Vec<f32>> {
    logits(&picture(mask)?, side)
}

/// For a model that makes the longer side of images fit and pads the other: logits (side, side),
/// by rows; the padding is outside.
pub(crate) fn padded(mask: &Mask, transform: LongestSide, side: usize) -> Result<Vec<f32>> {
    let size = transform.size;
    let (width, height) = transform.resized(mask.width(), mask.height());
    let resized = resize_pillow_bilinear(&picture(mask)?, width, height)?;
    let mut square = vec![0; 3 * size * size];
    let rows = resized.pixels().chunks_exact(3 * width);
    for (to, from) in square.chunks_exact_mut(3 * size).zip(rows) {
        to[..3 * width].copy_from_slice(from);
    }
    logits(&Image::from_rgb8(size, size, square)?, side)
}

/// White where the mask is.
fn picture(mask: &Mask) -> Result<Image> {
    let pixels = mask.to_bytes(255).into_iter().flat_map(|v| [v; 3]);
    Image::from_rgb8(mask.width(), mask.height(), pixels.collect())
}

fn logits(square: &Image, side: usize) -> Result<Vec<f32>> {
    let small = resize_bilinear_antialias(square, side, side)?;
    let samples = small.pixels().iter().step_by(3);
    let logit = |v: &u8| (f32::from(*v) / 255. * 2. - 1.) * MAGNITUDE;
    Ok(samples.map(logit).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Size;
    use crate::mask::upsample::upsample_bilinear;

    #[test]
    fn a_drawn_mask_has_logits_of_ten_and_padding_is_outside() {
        let mask = Mask::from_fn(90, 60, |x, y| x < 45 && y < 60);
        let wide = padded(&mask, LongestSide { size: 128 }, 32).unwrap();
        assert_eq!(wide.len(), 32 * 32);
        assert_eq!((wide[0], wide[31]), (10., -10.));
        // 60 of 90 pixels are 85 of 128 rows, so 21 and a quarter of 32
        assert_eq!((wide[19 * 32], wide[23 * 32]), (10., -10.));
        assert!(wide[21 * 32].abs() < 10., "{}", wide[21 * 32]);
        let square = stretched(&mask, 32).unwrap();
        assert_eq!((square[31 * 32], square[31 * 32 + 31]), (10., -10.));
    }

    #[test]
    fn a_drawn_mask_comes_back_from_its_logits() {
        let disc = |x: usize, y: usize| (x as f32 - 70.).hypot(y as f32 - 40.) < 25.;
        let mask = Mask::from_fn(150, 90, disc);
        let logits = stretched(&mask, 72).unwrap();
        let back = upsample_bilinear(&logits, Size::square(72), Size::new(150, 90)).unwrap();
        let back = Mask::from_fn(150, 90, |x, y| back[y * 150 + x] > 0.);
        assert!(back.iou(&mask) > 0.97, "{}", back.iou(&mask));
    }
}
