//! Polygons to pixels, by the rules of the programs that read them.

use crate::error::{Error, Result};
use crate::mask::{Mask, Rle};

/// Vertices farther from the image than this many pixels are refused: the reference walks every
/// border on a grid five times as fine.
const FARTHEST: f64 = 1e6;

/// The pixels of a polygon in edge coordinates, as pycocotools fills it.
///
/// Self-crossing polygons are filled by parity. Follows `rleFrPoly`,
/// <https://github.com/cocodataset/cocoapi/blob/8c9bcc3cf640524c4c20a9c40e89cb6a2f2fa0e9/common/maskApi.c#L154>.
///
/// # Errors
/// [`Error::InvalidMask`] when a coordinate is not finite or over a million pixels away.
pub fn rasterize_edges(path: &[[f64; 2]], width: usize, height: usize) -> Result<Rle> {
    check(path)?;
    // Rounded to a fifth of a pixel; the cast truncates towards zero as in C.
    let fine: Vec<[i64; 2]> = path
        .iter()
        .map(|point| point.map(|v| (5.0 * v + 0.5) as i64))
        .collect();
    let mut crossings = Vec::new();
    let mut previous: Option<[i64; 2]> = None;
    for (i, &from) in fine.iter().enumerate() {
        walk(from, fine[(i + 1) % fine.len()], |[u, v]| {
            if let Some([pu, pv]) = previous
                && u != pu
            {
                crossings.extend(crossing(u.min(pu), v.min(pv), width, height));
            }
            previous = Some([u, v]);
        });
    }
    crossings.sort_unstable();
    Ok(from_crossings(crossings, width, height))
}

fn check(path: &[[f64; 2]]) -> Result<()> {
    let mut coordinates = path.iter().flatten();
    match coordinates.find(|v| !v.is_finite() || v.abs() > FARTHEST) {
        Some(far) => Err(Error::InvalidMask(format!(
            "polygon with the coordinate {far}; they must lie within {FARTHEST} pixels"
        ))),
        None => Ok(()),
    }
}

/// Calls `visit` with every point of a segment of the fine grid, both ends included.
fn walk([x0, y0]: [i64; 2], [x1, y1]: [i64; 2], mut visit: impl FnMut([i64; 2])) {
    let (dx, dy) = ((x1 - x0).abs(), (y1 - y0).abs());
    let wide = dx >= dy;
    // Always computed from the same end, so that there and back visit the same points.
    let flip = if wide { x0 > x1 } else { y0 > y1 };
    let ([xs, ys], [xe, ye]) = if flip {
        ([x1, y1], [x0, y0])
    } else {
        ([x0, y0], [x1, y1])
    };
    let length = dx.max(dy);
    let slope = match (wide, length) {
        (_, 0) => 0.0,
        (true, _) => (ye - ys) as f64 / dx as f64,
        (false, _) => (xe - xs) as f64 / dy as f64,
    };
    for d in 0..=length {
        let t = if flip { length - d } else { d };
        visit(if wide {
            [xs + t, (ys as f64 + slope * t as f64 + 0.5) as i64]
        } else {
            [(xs as f64 + slope * t as f64 + 0.5) as i64, ys + t]
        });
    }
}

/// Where a border that crosses column `u` of the fine grid changes the mask, as a position down the
/// columns of pixels; only the middle column of each pixel counts.
fn crossing(u: i64, v: i64, width: usize, height: usize) -> Option<usize> {
    if u < 0 || u % 5 != 2 || u / 5 >= width as i64 {
        return None;
    }
    let y = ((v as f64 + 0.5) / 5.0 - 0.5).clamp(0.0, height as f64);
    Some((u / 5) as usize * height + y.ceil() as usize)
}

/// Runs that begin and end at sorted positions; a pair of equal positions is no run.
fn from_crossings(crossings: Vec<usize>, width: usize, height: usize) -> Rle {
    let mut ends: Vec<usize> = Vec::with_capacity(crossings.len());
    for position in crossings {
        if ends.last() == Some(&position) {
            ends.pop();
        } else {
            ends.push(position);
        }
    }
    // No empty run at the end, as in the original.
    if ends.last() != Some(&(width * height)) {
        ends.push(width * height);
    }
    let mut start = 0;
    let counts = ends.into_iter().map(|end| {
        let count = end - start;
        start = end;
        count as u32
    });
    Rle {
        size: [height, width],
        counts: counts.collect(),
    }
}

/// The pixels of a polygon through pixel centers, as OpenCV's `fillPoly` fills it: everything inside
/// by parity, and the border itself. Vertices are whole pixels; fractions are cut off.
///
/// Follows `CollectPolyEdges` and `FillEdgeCollection`,
/// <https://github.com/opencv/opencv/blob/4.10.0/modules/imgproc/src/drawing.cpp#L1286>.
///
/// # Errors
/// [`Error::InvalidMask`] when a coordinate is not finite or over a million pixels away.
pub fn rasterize_centers(path: &[[f64; 2]], width: usize, height: usize) -> Result<Mask> {
    check(path)?;
    let mut mask = Mask::new(width, height);
    let pixels: Vec<[i64; 2]> = path.iter().map(|point| point.map(|v| v as i64)).collect();
    let edges = || (0..pixels.len()).map(|i| (pixels[i], pixels[(i + 1) % pixels.len()]));
    // Crossings of each row with the edges, as fractions of 2^16 like the original.
    let mut rows: Vec<Vec<i64>> = vec![Vec::new(); height];
    for ([x0, y0], [x1, y1]) in edges() {
        draw_line(&mut mask, [x0, y0], [x1, y1]);
        let ([xs, ys], [xe, ye]) = if y0 <= y1 {
            ([x0, y0], [x1, y1])
        } else {
            ([x1, y1], [x0, y0])
        };
        if ys == ye {
            continue;
        }
        let slope = ((xe - xs) << 16) / (ye - ys);
        for y in ys.max(0)..ye.min(height as i64) {
            rows[y as usize].push((xs << 16) + slope * (y - ys));
        }
    }
    for (y, row) in rows.iter_mut().enumerate() {
        row.sort_unstable();
        for pair in row.chunks_exact(2) {
            let start = (pair[0] + 0xffff) >> 16;
            let end = (pair[1] >> 16) + 1;
            if end > start.max(0) {
                mask.set_run(y, start.max(0) as usize..(end as usize).min(width), true);
            }
        }
    }
    Ok(mask)
}

/// All pixels of a segment, 8-connected, as OpenCV's `LineIterator` visits them from the left.
fn draw_line(mask: &mut Mask, a: [i64; 2], b: [i64; 2]) {
    let ([x0, y0], [x1, y1]) = if a[0] <= b[0] { (a, b) } else { (b, a) };
    let (dx, dy, down) = (x1 - x0, (y1 - y0).abs(), (y1 - y0).signum());
    let (long, short) = (dx.max(dy), dx.min(dy));
    for step in 0..=long {
        // The other coordinate rounded, halves toward the start.
        let across = if long == 0 {
            0
        } else {
            (2 * step * short + long - 1) / (2 * long)
        };
        let (x, y) = if dx >= dy {
            (x0 + step, y0 + down * across)
        } else {
            (x0 + across, y0 + down * step)
        };
        if let (Ok(x), Ok(y)) = (usize::try_from(x), usize::try_from(y)) {
            mask.set(x, y, true);
        }
    }
}
