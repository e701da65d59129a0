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
    for span in mask.spans(image.size()) {
        let pixels = &mut image.pixels_mut()[3 * span.start..3 * span.end];
        for pixel in pixels.chunks_exact_mut(3) {
            mix(pixel, color, opacity);
        }
    }
}

/// Numbers that are compared at once.
const LANES: usize = 8;

/// The outline of a mask, to be drawn as a line.
pub(super) struct Outline {
    /// Column and row in the image of the first distance.
    left: isize,
    top: isize,
    columns: usize,
    /// Of each pixel of a rectangle, row by row: how far away the outline is, in pixels; infinity
    /// where that is farther than a line reaches.
    distances: Vec<f32>,
}

impl Outline {
    /// For lines up to `width` pixels wide.
    pub(super) fn new(mask: &Mask, width: f32) -> Self {
        let points = smooth(&contour::outline(mask));
        let reach = width / 2.0 + 0.5;
        let [mut least, mut most] = [points.first().map_or([0.0; 2], |&(x, y)| [x, y]); 2];
        for &(x, y) in &points {
            least = [x.min(least[0]), y.min(least[1])];
            most = [x.max(most[0]), y.max(most[1])];
        }
        let first = |x: f32| (x - reach).ceil() as isize;
        let [left, top] = least.map(first);
        // Whole registers, though the last distances of each are farther than a line reaches.
        let span = ((2.0 * reach) as usize + 1).next_multiple_of(LANES);
        let columns = (first(most[0]) - left) as usize + span;
        let rows = ((most[1] + reach) as isize + 1 - top) as usize;
        let mut squares = vec![f32::INFINITY; columns * rows];
        let mut across = vec![0.; span];
        for (x, y) in points {
            for (column, square) in (first(x)..).zip(&mut across) {
                *square = (column as f32 - x).powi(2);
            }
            for row in first(y)..=(y + reach) as isize {
                let down = (row as f32 - y).powi(2);
                let squares = &mut squares[(row - top) as usize * columns..];
                let squares = &mut squares[(first(x) - left) as usize..][..span];
                let squares = squares.as_chunks_mut::<LANES>().0.iter_mut();
                for (squares, across) in squares.zip(across.as_chunks::<LANES>().0) {
                    *squares = std::array::from_fn(|i| squares[i].min(across[i] + down));
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
