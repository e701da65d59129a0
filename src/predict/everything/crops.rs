//! Where the generator looks: overlapping crops of the image, and a grid of points in each.

use super::Options;
use crate::image::Image;
use crate::{Result, Size};

/// A part of the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Crop {
    pub(super) x0: usize,
    pub(super) y0: usize,
    /// Right and bottom edge, excluded.
    pub(super) x1: usize,
    pub(super) y1: usize,
    /// 0 for the whole image.
    pub(super) layer: usize,
}

impl Crop {
    pub(super) fn width(self) -> usize {
        self.x1 - self.x0
    }

    pub(super) fn height(self) -> usize {
        self.y1 - self.y0
    }

    /// The pixels of the crop.
    pub(super) fn cut(self, image: &Image) -> Result<Image> {
        image.cropped(self.x0..self.x1, self.y0..self.y1)
    }
}

/// The whole image and then the crops of each layer, x outer and y inner.
///
/// Follows `generate_crop_boxes`,
/// <https://github.com/facebookresearch/segment-anything/blob/dca509f/segment_anything/utils/amg.py#L202>.
/// Crops without a pixel, which tiny images have, are left out; the original fails on them.
pub(super) fn crops(Size { width, height }: Size, options: &Options) -> Vec<Crop> {
    let whole = Crop {
        x0: 0,
        y0: 0,
        x1: width,
        y1: height,
        layer: 0,
    };
    let mut crops = vec![whole];
    let short_side = width.min(height) as f64;
    for layer in 1..=options.crop_n_layers {
        let per_side = 1 << layer;
        let overlap = (options.crop_overlap_ratio * short_side * (2.0 / per_side as f64)) as usize;
        let length = |side: usize| (overlap * (per_side - 1) + side).div_ceil(per_side);
        let (crop_width, crop_height) = (length(width), length(height));
        for column in 0..per_side {
            for row in 0..per_side {
                // The overlap is at most the short side, hence at most a crop's side.
                let x0 = (crop_width - overlap) * column;
                let y0 = (crop_height - overlap) * row;
                if x0 < width && y0 < height {
                    crops.push(Crop {
                        x0,
                        y0,
                        x1: (x0 + crop_width).min(width),
                        y1: (y0 + crop_height).min(height),
                        layer,
                    });
                }
            }
        }
    }
    crops
}

/// The points of one layer of crops, as fractions of a crop.
pub(super) fn grid(options: &Options, layer: usize) -> Vec<[f64; 2]> {
    if let Some(grids) = &options.point_grids {
        return grids.get(layer).cloned().unwrap_or_default();
    }
    let side = options.points_per_side.unwrap_or_default();
    regular_grid(points_in_layer(
        side,
        options.crop_n_points_downscale_factor,
        layer,
    ))
}

/// Points along one side in a layer of crops.
pub(super) fn points_in_layer(points_per_side: usize, factor: usize, layer: usize) -> usize {
    let divisor = factor.checked_pow(layer as u32);
    divisor.map_or(0, |divisor| points_per_side / divisor.max(1))
}

/// `side` x `side` points at the centres of equal cells, x fastest.
///
/// The arithmetic of `numpy.linspace`, which `build_point_grid` calls, to the last bit.
fn regular_grid(side: usize) -> Vec<[f64; 2]> {
    let offset = 1.0 / (2 * side) as f64;
    let last = 1.0 - offset;
    let step = (last - offset) / side.saturating_sub(1).max(1) as f64;
    let at = |i: usize| match i {
        i if i > 0 && i + 1 == side => last,
        i => i as f64 * step + offset,
    };
    (0..side * side)
        .map(|i| [at(i % side), at(i / side)])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crops_overlap_and_columns_come_before_rows() {
        let options = Options {
            crop_n_layers: 1,
            ..Options::default()
        };
        let crops = crops(Size::new(800, 600), &options);
        let edges: Vec<_> = crops.iter().map(|c| [c.x0, c.y0, c.x1, c.y1]).collect();
        // What the original returns for this size.
        let want = [
            [0, 0, 800, 600],
            [0, 0, 502, 402],
            [0, 198, 502, 600],
            [298, 0, 800, 402],
            [298, 198, 800, 600],
        ];
        assert_eq!(edges, want);
    }

    #[test]
    fn every_pixel_of_any_image_is_in_a_crop_of_each_layer() {
        for (width, height) in [(1, 1), (3, 3), (2, 50), (97, 31), (1000, 7)] {
            for ratio in [0.0, 0.34, 1.0] {
                let options = Options {
                    crop_n_layers: 3,
                    crop_overlap_ratio: ratio,
                    ..Options::default()
                };
                let crops = crops(Size::new(width, height), &options);
                assert!(crops.iter().all(|c| c.x0 < c.x1 && c.y0 < c.y1));
                assert!(crops.iter().all(|c| c.x1 <= width && c.y1 <= height));
                for layer in 0..=3 {
                    let covered = |x: usize, y: usize| {
                        let mut crops = crops.iter().filter(|c| c.layer == layer);
                        crops.any(|c| (c.x0..c.x1).contains(&x) && (c.y0..c.y1).contains(&y))
                    };
                    let all = (0..width).all(|x| (0..height).all(|y| covered(x, y)));
                    assert!(all, "{width}x{height}, ratio {ratio}, layer {layer}");
                }
            }
        }
    }

    #[test]
    fn a_crop_has_the_pixels_of_its_place() {
        let pixels = (0..5 * 4 * 3).collect();
        let image = Image::from_rgb8(5, 4, pixels).unwrap();
        let (x0, y0, x1, y1, layer) = (1, 2, 3, 4, 1);
        let crop = Crop {
            x0,
            y0,
            x1,
            y1,
            layer,
        };
        let cut = crop.cut(&image).unwrap();
        assert_eq!((cut.width(), cut.height()), (2, 2));
        assert_eq!(
            cut.pixels(),
            [33, 34, 35, 36, 37, 38, 48, 49, 50, 51, 52, 53]
        );
    }

    #[test]
    fn points_lie_at_the_centres_of_cells_and_x_is_fastest() {
        assert_eq!(regular_grid(1), [[0.5, 0.5]]);
        assert_eq!(
            regular_grid(2),
            [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]
        );
        assert_eq!(points_in_layer(32, 2, 3), 4);
        assert_eq!(points_in_layer(32, 10, 40), 0);
    }
}
