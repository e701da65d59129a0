//! What to say when the built-in demo model meets an image that is not of its world.

use candle_sam3::Result;
use candle_sam3::image::{Image, resize::resize_pillow_bilinear};

use crate::progress;

/// Images are compared as this many cells along each side.
const CELLS: usize = 32;

/// Colors whose channels differ by no more than this look like one.
const NEAR: u8 = 32;

/// In a scene of colored shapes, nothing but the background, one color covers two thirds or more; in
/// photographs no color covers half.
const BACKGROUND: f32 = 0.58;

/// Says in one line that the demo model does not know photographs, if it is the one in use and `image`
/// looks like one. A photograph of something before an even background passes for a scene.
pub fn hint(model: &str, image: &Image) -> Result<()> {
    if model.starts_with("demo") && commonest_color(image)? < BACKGROUND {
        progress::say(
            "hint: this looks like a photograph, and the built-in demo model knows only colored \
             shapes; name a real model with -m (`sam3 models` lists them)",
        );
    }
    Ok(())
}

/// The share of the image that looks like the color that covers most of it, in 0..1.
fn commonest_color(image: &Image) -> Result<f32> {
    let small = resize_pillow_bilinear(image, CELLS, CELLS)?;
    let (cells, _) = small.pixels().as_chunks::<3>();
    let near = |a: &[u8; 3], b: &[u8; 3]| a.iter().zip(b).all(|(a, b)| a.abs_diff(*b) <= NEAR);
    let alike = |color| cells.iter().filter(|cell| near(cell, color)).count();
    let most = cells.iter().map(alike).max().unwrap_or(0);
    Ok(most as f32 / cells.len() as f32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(pixel: impl Fn(usize, usize) -> [u8; 3]) -> f32 {
        let pixels = (0..64 * 64).flat_map(|i| pixel(i % 64, i / 64)).collect();
        commonest_color(&Image::from_rgb8(64, 64, pixels).unwrap()).unwrap()
    }

    #[test]
    fn a_flat_background_with_a_square_is_a_scene() {
        let square = |x: usize, y: usize| x.max(y) < 32;
        let share = share(|x, y| {
            if square(x, y) {
                [200, 20, 20]
            } else {
                [90, 100, 90]
            }
        });
        assert!(share > 0.7 && share < 0.8, "{share}");
    }

    #[test]
    fn many_colors_are_no_scene() {
        let share = share(|x, y| [x as u8 * 4, y as u8 * 4, (x + y) as u8]);
        assert!(share < 0.5, "{share}");
    }
}
