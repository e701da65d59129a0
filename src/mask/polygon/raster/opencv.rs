//! Through the centers of pixels, by OpenCV.

use super::check;
use crate::error::Result;
use crate::mask::Mask;

/// The pixels of a polygon through pixel centers, as OpenCV's `fillPoly` fills it: everything inside
/// by parity, and the border itself. Vertices are whole pixels; fractions are cut off.
///
/// Follows `CollectPolyEdges` and `FillEdgeCollection`,
/// <https://github.com/opencv/opencv/blob/4.10.0/modules/imgproc/src/drawing.cpp#L1286>.
///
/// # Errors
/// [`Error::InvalidMask`](crate::Error::InvalidMask) when a coordinate is not finite or over a million pixels away.
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

/// Ultralytics cuts a path into this many pieces at least.
const SAMPLES: usize = 1000;

/// The pixels of a polygon as Ultralytics trains on them: points are added along its edges, fractions
/// cut off, and the rest is [`rasterize_centers`]. A slanted edge then covers every pixel that it
/// touches. `path` is where the vertices lie, [`CENTER_OFFSET`](super::CENTER_OFFSET) included.
///
/// Follows `resample_segments`,
/// <https://github.com/ultralytics/ultralytics/blob/v8.3.0/ultralytics/utils/ops.py>, for a picture without
/// longer paths: those add points to the others.
///
/// # Errors
/// As [`rasterize_centers`].
pub(in crate::mask::polygon) fn rasterize_resampled(
    path: &[[f64; 2]],
    width: usize,
    height: usize,
) -> Result<Mask> {
    let count = path.len();
    // The path and its first point again, and what is left for points between them.
    let between = SAMPLES.saturating_sub(count + 1);
    if count == 0 || between < 2 {
        return rasterize_centers(path, width, height);
    }
    let mut points = Vec::with_capacity(SAMPLES);
    let mut added = (0..between).map(|i| (i * count) as f64 / (between - 1) as f64);
    let mut next = added.next();
    for vertex in 0..count {
        let [from, to] = [path[vertex], path[(vertex + 1) % count]];
        points.push(from);
        while let Some(at) = next.filter(|at| *at < (vertex + 1) as f64) {
            let share = at - vertex as f64;
            points.push([0, 1].map(|axis| from[axis] + share * (to[axis] - from[axis])));
            next = added.next();
        }
    }
    rasterize_centers(&points, width, height)
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
