//! The image with its instances drawn on it.

use std::borrow::Borrow;

use rayon::prelude::*;

use super::answer::Found;
use super::{canvas, labels, palette};
use crate::image::Image;
use crate::mask::Mask;

/// How [`overlay`] draws.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OverlayOptions {
    /// How much of the image the color of a mask hides, 0 to 1; 0.45 by default.
    pub fill_opacity: f32,
    /// Whether objects have labels with their phrase and score; where there is not enough room for
    /// all, those of the highest scores have. For letters that the font lacks see
    /// [`super::stand_ins`]. On by default.
    pub labels: bool,
}

impl Default for OverlayOptions {
    fn default() -> Self {
        Self {
            fill_opacity: 0.45,
            labels: true,
        }
    }
}

/// Draws masks, outlines and labels over a copy of the image.
///
/// Each instance has a color of its own; the first one of a label has the same color in every
/// image. A pixel of several masks is tinted by the smallest of them only, so that colors do not
/// mix and small masks stay visible. Lines and text scale with the image; outlines have a dark edge
/// and labels a solid ground, to be seen on any background.
pub fn overlay(image: &Image, found: &[impl Borrow<Found>], options: &OverlayOptions) -> Image {
    let found: Vec<&Found> = found.iter().map(Borrow::borrow).collect();
    let colors = palette::colors(found.iter().map(|found| found.label.as_str()));
    overlay_in(&colors, image, &found, options)
}

/// As [`overlay`], in a color for each object: the frames of a video need the same for all.
pub(super) fn overlay_in(
    colors: &[palette::Color],
    image: &Image,
    found: &[&Found],
    options: &OverlayOptions,
) -> Image {
    let mut drawn = image.clone();
    let mut by_area: Vec<usize> = (0..found.len()).collect();
    by_area.sort_by_cached_key(|&index| std::cmp::Reverse(found[index].mask.area()));

    let mut covered = Mask::new(image.width(), image.height());
    for &index in by_area.iter().rev() {
        let mut visible = found[index].mask.clone();
        visible.subtract(&covered);
        canvas::fill(&mut drawn, &visible, colors[index], options.fill_opacity);
        covered.unite(&found[index].mask);
    }
    let side = (image.width() as f32 * image.height() as f32).sqrt();
    let line = 1.2 + side * 0.0012;
    let edge = (line * 0.4).max(0.6);
    let width = line + 2.0 * edge;
    // A few at a time: each takes four bytes per pixel.
    for indices in by_area.chunks(rayon::current_num_threads()) {
        let outlines = indices.par_iter();
        let outlines = outlines.map(|&index| canvas::Outline::new(&found[index].mask, width));
        for (outline, &index) in outlines.collect::<Vec<_>>().iter().zip(indices) {
            outline.stroke(&mut drawn, width, [0, 0, 0], 0.5);
            outline.stroke(&mut drawn, line, colors[index], 1.0);
        }
    }
    if options.labels {
        for label in labels::place(image, found, colors) {
            labels::draw(&mut drawn, &label);
        }
    }
    drawn
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::format::tests::found;

    fn grey(width: usize, height: usize) -> Image {
        Image::from_rgb8(width, height, vec![120; width * height * 3]).unwrap()
    }

    #[test]
    fn pixels_far_from_masks_and_labels_stay_as_they_are() {
        let image = grey(400, 300);
        let mask = Mask::from_fn(400, 300, |x, y| {
            (20..80).contains(&x) && (120..180).contains(&y)
        });
        let cup = found("cup", mask, 0.8);
        let drawn = overlay(&image, &[&cup], &OverlayOptions::default());
        let at = |x: usize, y: usize| &drawn.pixels()[(y * 400 + x) * 3..][..3];
        assert_ne!(at(50, 160), [120; 3]);
        for (x, y) in [(200, 150), (50, 220), (399, 299), (300, 10)] {
            assert_eq!(at(x, y), [120; 3], "({x}, {y})");
        }
    }

    #[test]
    fn a_small_mask_stays_visible_within_a_large_one() {
        let image = grey(200, 200);
        let large = Mask::from_fn(200, 200, |_, _| true);
        let small = Mask::from_fn(200, 200, |x, y| {
            (90..110).contains(&x) && (90..110).contains(&y)
        });
        let (small, large) = (found("a", small, 0.9), found("b", large, 0.9));
        let options = OverlayOptions {
            labels: false,
            fill_opacity: 1.0,
        };
        // The small one comes first in the list and is still drawn last.
        let drawn = overlay(&image, &[&small, &large], &options);
        let colors = palette::colors(["a", "b"].into_iter());
        assert_eq!(&drawn.pixels()[(100 * 200 + 100) * 3..][..3], colors[0]);
        assert_eq!(&drawn.pixels()[(50 * 200 + 50) * 3..][..3], colors[1]);
    }

    #[test]
    fn without_instances_the_image_stays_as_it_is() {
        let image = grey(5, 4);
        assert_eq!(
            overlay(&image, &[] as &[Found], &OverlayOptions::default()),
            image
        );
    }
}
