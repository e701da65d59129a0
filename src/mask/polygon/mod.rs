//! Outlines of masks as polygons, and polygons as masks.
//!
//! Programs read polygons in two ways that must not be mixed, see [`Convention`]: an outline of the
//! wrong kind loses a rim of half a pixel, 12 % of a disc of radius 10. Holes and separate parts are
//! kept; formats that know neither get them by cuts of no width, see [`Polygons::cut`].

mod join;
mod raster;
mod simplify;
mod trace;

pub use raster::{CENTER_OFFSET, rasterize_centers, rasterize_edges};

use serde::{Deserialize, Serialize};

use super::{Extent, Mask};
use crate::Size;
use crate::error::Result;
use raster::Fill;
use simplify::simplify;
use trace::Contour;

/// A closed path; the last point is joined to the first. Filled by parity.
pub type Path = Vec<[f64; 2]>;

/// What the vertices of a polygon lie on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Convention {
    /// The edges of pixels: pixel (x, y) is the square from (x, y) to (x + 1, y + 1). Read so by
    /// pycocotools and everything built on it.
    PixelEdges,
    /// The centers of the border pixels, by their index: a filled polygon includes its border. Read
    /// so by OpenCV and Pillow, hence by YOLO and LabelMe tools.
    PixelCenters,
}

impl Convention {
    /// How the programs that read it so fill polygons, the most common way first.
    fn fills(self) -> &'static [Fill] {
        match self {
            Self::PixelEdges => &[Fill::Pycocotools],
            Self::PixelCenters => &[Fill::OpenCv, Fill::Pillow],
        }
    }
}

/// How far outlines may be simplified.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Simplify {
    /// The farthest that a left-out point may be from the outline, in pixels; 0 keeps every turn.
    pub tolerance: f64,
    /// The least intersection over union of the filled polygons and the mask, whichever program
    /// fills them. The tolerance is lowered until it is reached.
    pub min_iou: f64,
}

impl Default for Simplify {
    fn default() -> Self {
        Self {
            tolerance: 1.0,
            min_iou: 0.98,
        }
    }
}

impl Simplify {
    /// Outlines that give back every pixel.
    pub const EXACT: Self = Self {
        tolerance: 0.0,
        min_iou: 1.0,
    };
}

/// A connected part of a mask.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// Around the part.
    pub outer: Path,
    /// Around each of its holes.
    pub holes: Vec<Path>,
}

impl Part {
    /// How many pixels lie in the part, borders included, in [`Convention::PixelCenters`].
    fn pixels(&self) -> f64 {
        // Pick's theorem: a polygon of area A with B grid points on its border has A + B / 2 + 1 grid
        // points, and A - B / 2 + 1 of them inside.
        let around = |path: &Path| {
            let edges = (0..path.len()).map(|i| (path[i], path[(i + 1) % path.len()]));
            edges.fold((0.0, 0.0), |(area, border), ([x0, y0], [x1, y1])| {
                (
                    area + (x0 * y1 - x1 * y0) / 2.0,
                    border + common_divisor((x1 - x0).abs(), (y1 - y0).abs()),
                )
            })
        };
        let (area, border) = around(&self.outer);
        let holes = self.holes.iter().map(|hole| {
            let (area, border) = around(hole);
            area.abs() - border / 2.0 + 1.0
        });
        area.abs() + border / 2.0 + 1.0 - holes.sum::<f64>()
    }
}

/// Of two whole numbers.
fn common_divisor(a: f64, b: f64) -> f64 {
    match b == 0.0 {
        true => a,
        false => common_divisor(b, a % b),
    }
}

/// The outlines of a mask.
#[derive(Debug, Clone, PartialEq)]
pub struct Polygons {
    /// What the vertices lie on.
    pub convention: Convention,
    /// The 8-connected parts, by their first pixel by rows.
    pub parts: Vec<Part>,
}

impl Polygons {
    /// The outlines of a mask, with as few points as `limits` allow.
    pub fn outline(mask: &Mask, convention: Convention, limits: &Simplify) -> Self {
        Self::fitted(mask, convention, limits, convention.fills(), Self::cut)
    }

    /// The outline of a mask as one path in [`Convention::PixelCenters`]: [`Polygons::cut`], and the
    /// parts joined in the same way. Readers draw the lines between parts, so that they count in the
    /// overlap that `limits` ask for, as OpenCV and Ultralytics fill the path. A part is left out if
    /// that loses less than the line to it.
    pub fn joined_outline(mask: &Mask, limits: &Simplify) -> Path {
        let joined = |polygons: &Self| vec![polygons.joined()];
        let fills = [Fill::OpenCv, Fill::Ultralytics];
        Self::fitted(mask, Convention::PixelCenters, limits, &fills, joined).joined()
    }

    /// The outlines with the largest tolerance at which all readers of `paths` see enough of the mask.
    fn fitted(
        mask: &Mask,
        convention: Convention,
        limits: &Simplify,
        fills: &[Fill],
        paths_of: impl Fn(&Self) -> Vec<Path>,
    ) -> Self {
        let Some(extent) = mask.extent() else {
            let parts = Vec::new();
            return Self { convention, parts };
        };
        let mask = mask.cropped(&extent);
        let contours = trace::contours(&mask);
        let exact: Vec<Path> = match convention {
            Convention::PixelEdges => contours.iter().map(Contour::turns).collect(),
            Convention::PixelCenters => contours.iter().map(Contour::centers).collect(),
        };
        // The middles of the edges lose less to simplification than the corners.
        let fine: Vec<Path> = match convention {
            Convention::PixelEdges => contours.iter().map(Contour::midpoints).collect(),
            Convention::PixelCenters => exact.clone(),
        };
        let points = |paths: &[Path]| paths.iter().map(Vec::len).sum::<usize>();
        let simplified = tolerances(limits.tolerance).find_map(|tolerance| {
            let paths: Vec<Path> = fine.iter().map(|path| reduced(path, tolerance)).collect();
            let polygons = Self::assemble(convention, &contours, &paths);
            if points(&paths) >= points(&exact) {
                return None;
            }
            let read = paths_of(&polygons);
            let good = fills.iter().all(|fill| {
                let filled = fill.union(&read, mask.size());
                filled.is_ok_and(|filled| f64::from(filled.iou(&mask)) >= limits.min_iou)
            });
            good.then_some(polygons)
        });
        let polygons = simplified.unwrap_or_else(|| Self::assemble(convention, &contours, &exact));
        polygons.shifted(&extent)
    }

    /// The mask of the given size that pycocotools or OpenCV sees, by the convention.
    ///
    /// # Errors
    /// [`Error::InvalidMask`](crate::Error::InvalidMask) when a coordinate is not finite or over a
    /// million pixels away; never for polygons from [`Polygons::outline`].
    pub fn fill(&self, width: usize, height: usize) -> Result<Mask> {
        self.convention.fills()[0].union(&self.cut(), Size::new(width, height))
    }

    /// One path for each part, its holes cut open: outline and hole are joined there and back by a
    /// line between two near vertices, which no reader sees that fills by parity.
    pub fn cut(&self) -> Vec<Path> {
        let parts = self.parts.iter();
        let cut = |part: &Part| {
            let outer = part.outer.clone();
            part.holes.iter().fold(outer, spliced)
        };
        parts.map(cut).collect()
    }

    /// One path through all parts that are worth the line to them.
    fn joined(&self) -> Path {
        let paths = self.cut().into_iter();
        let parts = paths.zip(&self.parts).map(|(path, part)| join::Part {
            path,
            pixels: part.pixels(),
        });
        join::joined(parts.collect())
    }

    /// Paths, one for each contour, grouped by part.
    fn assemble(convention: Convention, contours: &[Contour], paths: &[Path]) -> Self {
        let mut parts: Vec<Part> = Vec::new();
        let mut part_of = vec![0; contours.len()];
        for (i, (contour, path)) in contours.iter().zip(paths).enumerate() {
            match contour.parent {
                Some(outer) => parts[part_of[outer]].holes.push(path.clone()),
                None => {
                    part_of[i] = parts.len();
                    parts.push(Part {
                        outer: path.clone(),
                        holes: Vec::new(),
                    });
                }
            }
        }
        Self { convention, parts }
    }

    /// From the coordinates of a cropped mask to those of the whole one.
    fn shifted(mut self, extent: &Extent) -> Self {
        let (x0, y0) = (extent.columns.start as f64, extent.rows.start as f64);
        for part in &mut self.parts {
            for path in std::iter::once(&mut part.outer).chain(&mut part.holes) {
                for [x, y] in path {
                    *x += x0;
                    *y += y0;
                }
            }
        }
        self
    }
}

/// The tolerances to try, largest first; each keeps about 1.5 times the points of the one before.
fn tolerances(largest: f64) -> impl Iterator<Item = f64> {
    let smaller = [1.0, 0.71, 0.5, 0.36, 0.25].into_iter();
    let all = std::iter::once(largest).chain(smaller.filter(move |&t| t < largest));
    all.filter(|&tolerance| tolerance > 0.0)
}

/// A simplified path; as it was where less than a triangle would be left.
fn reduced(path: &Path, tolerance: f64) -> Path {
    let reduced = simplify(path, tolerance);
    if reduced.len() < 3 {
        path.clone()
    } else {
        reduced
    }
}

/// `other` hung into `path` by a cut of no width between their nearest vertices.
fn spliced(path: Path, other: &Path) -> Path {
    let Some((at, start)) = nearest(&path, other) else {
        return if path.is_empty() { other.clone() } else { path };
    };
    let mut spliced = Vec::with_capacity(path.len() + other.len() + 2);
    spliced.extend(&path[..=at]);
    spliced.extend(&other[start..]);
    spliced.extend(&other[..=start]);
    spliced.extend(&path[at..]);
    spliced
}

/// Over this many pairs, only the first vertex of the second path is compared, so that outlines of
/// noise do not take minutes.
const MAX_PAIRS: usize = 1 << 20;

/// The indices of the nearest vertices of two paths, of equal ones the first.
fn nearest(path: &Path, other: &Path) -> Option<(usize, usize)> {
    let compared = if path.len() * other.len() > MAX_PAIRS {
        1
    } else {
        other.len()
    };
    let mut best: Option<(f64, usize, usize)> = None;
    for (i, a) in path.iter().enumerate() {
        for (j, b) in other[..compared].iter().enumerate() {
            let squared = (a[0] - b[0]).powi(2) + (a[1] - b[1]).powi(2);
            if best.is_none_or(|(least, ..)| squared < least) {
                best = Some((squared, i, j));
            }
        }
    }
    best.map(|(_, i, j)| (i, j))
}

#[cfg(test)]
mod tests;
