//! Polygons to pixels, by the rules of the programs that read them.

mod edges;
mod opencv;
mod pillow;

pub use edges::rasterize_edges;
pub use opencv::rasterize_centers;
pub(super) use opencv::rasterize_resampled;
pub(super) use pillow::rasterize_rows;

use super::Path;
use crate::Size;
use crate::error::{Error, Result};
use crate::mask::Mask;

/// Added to the index of a pixel where vertices lie on centers of pixels. A bit less than half a pixel:
/// programs that cut fractions off and those that round find the same pixels; and points that
/// Ultralytics adds on a slope of one pixel in one hardly ever leave it.
pub const CENTER_OFFSET: f64 = 0.4995;

/// How a program fills a polygon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fill {
    Pycocotools,
    OpenCv,
    Pillow,
    Ultralytics,
}

impl Fill {
    /// The pixels in any of the paths.
    pub(super) fn union(self, paths: &[Path], size: Size) -> Result<Mask> {
        let Size { width, height } = size;
        let mut mask = Mask::new(width, height);
        for path in paths {
            mask.unite(&match self {
                Self::Pycocotools => rasterize_edges(path, width, height)?.decode()?,
                Self::OpenCv => rasterize_centers(path, width, height)?,
                Self::Pillow => rasterize_rows(path, width, height)?,
                Self::Ultralytics => {
                    let moved = path.iter().map(|point| point.map(|v| v + CENTER_OFFSET));
                    rasterize_resampled(&moved.collect::<Path>(), width, height)?
                }
            });
        }
        Ok(mask)
    }
}

/// Vertices farther from the image than this many pixels are refused: the reference walks every
/// border on a grid five times as fine.
const FARTHEST: f64 = 1e6;

fn check(path: &[[f64; 2]]) -> Result<()> {
    let mut coordinates = path.iter().flatten();
    match coordinates.find(|v| !v.is_finite() || v.abs() > FARTHEST) {
        Some(far) => Err(Error::InvalidMask(format!(
            "polygon with the coordinate {far}; they must lie within {FARTHEST} pixels"
        ))),
        None => Ok(()),
    }
}
