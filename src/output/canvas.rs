//! Drawing on an image with antialiasing.

use rayon::prelude::*;

use super::palette::Color;
use crate::image::Image;
use crate::mask::{Mask, contour};

/// A rectangle in pixels; may reach outside the image.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Rect {
    pub(super) x: f32,
    pub(super) y: f32,
    pub(super) width: f32,
    pub(super) height: f32,
}

impl Rect {
    pub(super) fn grown(self, margin: f32) -> Self {
        Self {
            x: self.x - margin,
            y: self.y - margin,
            width: self.width + 2.0 * margin,
            height: self.height + 2.0 * margin,
        }
    }

    pub(super) fn overlap(self, other: Self) -> f32 {
        let side = |a: f32, a_size: f32, b: f32, b_size: f32| {
            ((a + a_size).min(b + b_size) - a.max(b)).max(0.0)
        };
        side(self.x, self.width, other.x, other.width)
            * side(self.y, self.height, other.y, other.height)
    }
}

/// Mixes `color` into one pixel; `opacity` 0 leaves it, 1 replaces it.
pub(super) fn blend(image: &mut Image, x: isize, y: isize, color: Color, opacity: f32) {
    let (width, height) = (image.width() as isize, image.height() as isize);
    if (0..width).contains(&x) && (0..height).contains(&y) {
        let index = (y * width + x) as usize * 3;
        mix(&mut image.pixels_mut()[index..index + 3], color, opacity);
    }
}

fn mix(pixel: &mut [u8], color: Color, opacity: f32) {
    // 8 fractional bits are finer than what one level can show.
    let weight = (opacity.clamp(0.0, 1.0) * 256.0 + 0.5) as i32;
    for (sample, target) in pixel.iter_mut().zip(color) {
        let old = i32::from(*sample);
        *sample = (old + (((i32::from(target) - old) * weight + 128) >> 8)) as u8;
    }
}

/// Tints all pixels of the mask.
pub(super) fn fill(image: &mut Image, mask: &Mask, color: Color, opacity: f32) {
    let width = image.width();
    for y in 0..mask.height().min(image.height()) {
        for run in mask.runs(y) {
            let row = &mut image.pixels_mut()[y * width * 3..][..width * 3];
            let run = run.start.min(width) * 3..run.end.min(width) * 3;
            for pixel in row[run].chunks_exact_mut(3) {
                mix(pixel, color, opacity);
            }
        }
    }
}

/// The outline of a mask, to be drawn as a line.
pub(super) struct Outline {
    /// Column and row in the image of the first distance.
    left: isize,
    top: isize,
    columns: usize,
    /// Of each pixel of a rectangle, row by row: how far away the outline is, in pixels.
    distances: Vec<f32>,
}

impl Outline {
    /// For lines up to `width` pixels wide.
    pub(super) fn new(mask: &Mask, width: f32) -> Self {
        let points = smooth(&contour::outline(mask));
        let reach = (width / 2.0 + 0.5).ceil() as isize;
        let fold = |pick: fn(&(f32, f32)) -> f32, least: fn(f32, f32) -> f32| {
            points.iter().map(pick).reduce(least).unwrap_or(0.) as isize
        };
        let (left, top) = (
            fold(|p| p.0, f32::min) - reach,
            fold(|p| p.1, f32::min) - reach,
        );
        let columns = (fold(|p| p.0, f32::max) + reach + 2 - left) as usize;
        let rows = (fold(|p| p.1, f32::max) + reach + 2 - top) as usize;
        let mut squares = vec![f32::INFINITY; columns * rows];
        for (x, y) in points {
            let first = (x as isize - reach - left) as usize;
            for pixel_y in y as isize - reach..=y as isize + reach + 1 {
                let row = &mut squares[(pixel_y - top) as usize * columns..][..columns];
                let row = &mut row[first..][..2 * reach as usize + 2];
                let dy = pixel_y as f32 - y;
                let start = (x as isize - reach) as f32 - x;
                for (column, square) in row.iter_mut().enumerate() {
                    let dx = start + column as f32;
                    *square = square.min(dx * dx + dy * dy);
                }
            }
        }
        squares
            .iter_mut()
            .for_each(|square| *square = square.sqrt());
        Self {
            left,
            top,
            columns,
            distances: squares,
        }
    }

    /// Draws the outline as a line `width` pixels wide, half of it on either side.
    pub(super) fn stroke(&self, image: &mut Image, width: f32, color: Color, opacity: f32) {
        let edge = width / 2.0 + 0.5;
        let bytes = image.width() * 3;
        let rows = image.pixels_mut().par_chunks_exact_mut(bytes.max(3));
        rows.enumerate().for_each(|(y, row)| {
            for (column, distance) in self.row(y).iter().enumerate() {
                let covered = (edge - distance).min(1.0);
                let x = self.left + column as isize;
                if covered > 0.0 && x >= 0 && (x as usize) < bytes / 3 {
                    mix(&mut row[x as usize * 3..][..3], color, opacity * covered);
                }
            }
        });
    }

    /// The distances of an image row; none where the outline is not near.
    fn row(&self, y: usize) -> &[f32] {
        let row = usize::try_from(y as isize - self.top).ok();
        row.and_then(|row| self.distances.chunks_exact(self.columns).nth(row))
            .unwrap_or_default()
    }
}

/// Each pixel of an outline, moved to the mean of its neighbourhood: stairs become slopes.
fn smooth(outline: &Mask) -> Vec<(f32, f32)> {
    const REACH: isize = 2;
    let mut points = Vec::new();
    for y in 0..outline.height() {
        for x in outline.runs(y).flatten() {
            let (mut sum_x, mut sum_y, mut count) = (0, 0, 0);
            for dy in -REACH..=REACH {
                for dx in -REACH..=REACH {
                    if outline.get(x.wrapping_add_signed(dx), y.wrapping_add_signed(dy)) {
                        sum_x += dx;
                        sum_y += dy;
                        count += 1;
                    }
                }
            }
            let mean = |start: usize, sum: isize| start as f32 + sum as f32 / count as f32;
            points.push((mean(x, sum_x), mean(y, sum_y)));
        }
    }
    points
}

/// Fills a rectangle with rounded corners.
pub(super) fn fill_rounded(image: &mut Image, rect: Rect, radius: f32, color: Color, opacity: f32) {
    let radius = radius.min(rect.width / 2.0).min(rect.height / 2.0);
    let (half_width, half_height) = (rect.width / 2.0, rect.height / 2.0);
    let (center_x, center_y) = (rect.x + half_width, rect.y + half_height);
    for y in rect.y.floor() as isize..(rect.y + rect.height).ceil() as isize {
        for x in rect.x.floor() as isize..(rect.x + rect.width).ceil() as isize {
            // Distance to the rounded edge, negative inside.
            let dx = (x as f32 + 0.5 - center_x).abs() - half_width + radius;
            let dy = (y as f32 + 0.5 - center_y).abs() - half_height + radius;
            let outside = dx.max(0.0).hypot(dy.max(0.0)) + dx.max(dy).min(0.0) - radius;
            let coverage = (0.5 - outside).clamp(0.0, 1.0);
            if coverage > 0.0 {
                blend(image, x, y, color, opacity * coverage);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grey(width: usize, height: usize) -> Image {
        Image::from_rgb8(width, height, vec![100; width * height * 3]).unwrap()
    }

    fn at(image: &Image, x: usize, y: usize) -> [u8; 3] {
        let start = (y * image.width() + x) * 3;
        [0, 1, 2].map(|c| image.pixels()[start + c])
    }

    #[test]
    fn opacity_mixes_and_the_outside_is_ignored() {
        let mut image = grey(2, 1);
        blend(&mut image, 0, 0, [200, 0, 100], 0.5);
        blend(&mut image, 1, 0, [200, 0, 100], 1.0);
        blend(&mut image, 2, 0, [0, 0, 0], 1.0);
        blend(&mut image, 0, -1, [0, 0, 0], 1.0);
        assert_eq!(at(&image, 0, 0), [150, 50, 100]);
        assert_eq!(at(&image, 1, 0), [200, 0, 100]);
    }

    #[test]
    fn only_the_pixels_of_the_mask_are_filled() {
        let mut image = grey(80, 4);
        // Larger than the image on purpose.
        let mask = Mask::from_fn(100, 9, |x, _| x >= 70);
        fill(&mut image, &mask, [0, 0, 0], 1.0);
        assert_eq!(at(&image, 69, 3), [100; 3]);
        assert_eq!(at(&image, 70, 3), [0; 3]);
        assert_eq!(at(&image, 0, 3), [100; 3]);
    }

    #[test]
    fn a_stroke_follows_the_outline_and_leaves_the_inside() {
        let mut image = grey(40, 40);
        let mask = Mask::from_fn(40, 40, |x, y| {
            (10..30).contains(&x) && (10..30).contains(&y)
        });
        Outline::new(&mask, 3.0).stroke(&mut image, 3.0, [255, 0, 0], 1.0);
        assert_eq!(at(&image, 10, 20), [255, 0, 0]);
        assert_eq!(at(&image, 9, 20), [255, 0, 0]);
        assert_eq!(at(&image, 20, 20), [100; 3]);
        assert_eq!(at(&image, 5, 20), [100; 3]);
    }

    #[test]
    fn rounded_corners_are_left_out() {
        let mut image = grey(20, 12);
        let rect = Rect {
            x: 2.0,
            y: 2.0,
            width: 16.0,
            height: 8.0,
        };
        fill_rounded(&mut image, rect, 3.0, [0, 0, 0], 1.0);
        assert_eq!(at(&image, 2, 2), [100; 3]);
        assert_eq!(at(&image, 10, 2), [0; 3]);
        assert_eq!(at(&image, 2, 6), [0; 3]);
        assert_eq!(at(&image, 1, 6), [100; 3]);
    }
}
