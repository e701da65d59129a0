//! Through the centers of pixels, by Pillow.

use super::check;
use crate::error::Result;
use crate::mask::Mask;

/// An edge that is not horizontal.
struct Edge {
    start: [i64; 2],
    /// The first and the last row.
    rows: [i64; 2],
    /// Columns per row.
    slope: f32,
}

impl Edge {
    /// The column at which it crosses a row.
    fn at(&self, row: i64) -> f32 {
        (row - self.start[1]) as f32 * self.slope + self.start[0] as f32
    }

    fn covers(&self, row: i64) -> bool {
        (self.rows[0]..=self.rows[1]).contains(&row)
    }

    /// Whether it begins or ends in a row, and not straight below or above.
    fn turns_in(&self, row: i64) -> bool {
        self.rows.contains(&row) && self.slope != 0.0
    }
}

/// The pixels of a polygon as Pillow's `ImageDraw.polygon` fills it: from crossing to crossing of each
/// row, and the horizontal edges. Vertices are whole pixels; fractions are cut off.
///
/// Follows `polygon_generic`,
/// <https://github.com/python-pillow/Pillow/blob/12.0.0/src/libImaging/Draw.c>.
///
/// # Errors
/// [`Error::InvalidMask`](crate::Error::InvalidMask) when a coordinate is not finite or over a million pixels
/// away.
pub(in crate::mask::polygon) fn rasterize_rows(
    path: &[[f64; 2]],
    width: usize,
    height: usize,
) -> Result<Mask> {
    check(path)?;
    let mut mask = Mask::new(width, height);
    let pixels: Vec<[i64; 2]> = path.iter().map(|point| point.map(|v| v as i64)).collect();
    let mut edges: Vec<Edge> = Vec::new();
    let mut last_row = 0;
    for (i, &[x0, y0]) in pixels.iter().enumerate() {
        let [x1, y1] = pixels[(i + 1) % pixels.len()];
        last_row = last_row.max(y0.min(height as i64));
        if y0 == y1 {
            set_run(&mut mask, y0, x0.min(x1), x0.max(x1));
        } else {
            edges.push(Edge {
                start: [x0, y0],
                rows: [y0.min(y1), y0.max(y1)],
                slope: (x1 - x0) as f32 / (y1 - y0) as f32,
            });
        }
    }
    let mut waiting: Vec<usize> = (0..edges.len()).collect();
    waiting.sort_by_key(|&edge| std::cmp::Reverse(edges[edge].rows[0]));
    let mut active: Vec<usize> = Vec::new();
    for row in 0..height as i64 {
        active.retain(|&edge| edges[edge].covers(row));
        while let Some(edge) = waiting.pop_if(|edge| edges[*edge].rows[0] <= row) {
            if edges[edge].covers(row) {
                active.push(edge);
            }
        }
        // What an edge does at a corner depends on those before it.
        active.sort_unstable();
        let active: Vec<&Edge> = active.iter().map(|&edge| &edges[edge]).collect();
        for pair in crossings(&active, row, last_row).chunks_exact(2) {
            set_run(&mut mask, row, round_out(pair[0]), round_in(pair[1]));
        }
    }
    Ok(mask)
}

/// Sorted columns between which a row is filled.
fn crossings(active: &[&Edge], row: i64, last_row: i64) -> Vec<f32> {
    let mut columns = Vec::with_capacity(active.len());
    let mut corners: Vec<&Edge> = Vec::new();
    for &edge in active {
        let column = edge.at(row);
        if row == edge.rows[1] && row < last_row {
            // The edge below begins in this row, too, so that both ends count.
            columns.extend([column, column]);
        } else if edge.turns_in(row) {
            columns.push(tip(edge, &corners, row));
        } else {
            columns.push(column);
        }
        if edge.turns_in(row) {
            corners.push(edge);
        }
    }
    columns.sort_by(f32::total_cmp);
    columns
}

/// Where an edge ends; drawn in to the pixel beside the next row's where it makes a sharp tip with one
/// of the edges before it.
fn tip(edge: &Edge, corners: &[&Edge], row: i64) -> f32 {
    let column = edge.at(row);
    let next = if row == edge.rows[1] {
        row - 1
    } else {
        row + 1
    };
    let mut partners = corners.iter();
    let partner =
        partners.find(|other| column.round() == other.at(row).round() && other.covers(next));
    let Some(partner) = partner else {
        return column;
    };
    let (a, b) = (edge.at(next), partner.at(next));
    if column > a + 1.0 && column > b + 1.0 {
        a.max(b).round() + 1.0
    } else if column < a - 1.0 && column < b - 1.0 {
        a.min(b).round() - 1.0
    } else {
        column
    }
}

/// Halves away from zero.
fn round_out(column: f32) -> i64 {
    ((column.abs() + 0.5).floor() * column.signum()) as i64
}

/// Halves toward zero.
fn round_in(column: f32) -> i64 {
    ((column.abs() - 0.5).ceil() * column.signum()) as i64
}

/// Sets the pixels from one column to another, both included, as far as they are in the picture.
fn set_run(mask: &mut Mask, row: i64, from: i64, to: i64) {
    let Some(row) = usize::try_from(row).ok().filter(|row| *row < mask.height()) else {
        return;
    };
    let (start, end) = (from.max(0), (to + 1).min(mask.width() as i64));
    if start < end {
        mask.set_run(row, start as usize..end as usize, true);
    }
}
