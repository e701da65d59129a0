//! Along the edges of pixels.

use super::check;
use crate::error::Result;
use crate::mask::Rle;

/// The pixels of a polygon in edge coordinates, as pycocotools fills it.
///
/// Self-crossing polygons are filled by parity. Follows `rleFrPoly`,
/// <https://github.com/cocodataset/cocoapi/blob/8c9bcc3cf640524c4c20a9c40e89cb6a2f2fa0e9/common/maskApi.c#L154>.
///
/// # Errors
/// [`Error::InvalidMask`](crate::Error::InvalidMask) when a coordinate is not finite or over a million pixels away.
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
