//! The parts of a mask as one closed path.
//!
//! Parts hang together by lines there and back between nearest points, as in Ultralytics'
//! `merge_multi_segment`,
//! <https://github.com/ultralytics/ultralytics/blob/v8.3.0/ultralytics/data/converter.py>. That one
//! joins parts in the order of the list, from vertex to vertex; here each part is joined to the nearest
//! one that is in already, also from the middle of an edge, because readers draw the lines.

use std::ops::Range;

use super::Path;

/// More parts than this are noise. The largest are joined.
const MAX_PARTS: usize = 1000;

/// A part of a mask: a closed path, and how many pixels it stands for.
pub(super) struct Part {
    pub(super) path: Path,
    pub(super) pixels: f64,
}

/// One path through the parts, vertices in pixels. A part is left out if a reader sees more of the mask
/// without it, and without the line to it.
pub(super) fn joined(mut parts: Vec<Part>) -> Path {
    // The largest is in, whatever lies where.
    parts.sort_by(|a, b| b.pixels.total_cmp(&a.pixels));
    parts.truncate(MAX_PARTS);
    // Overlap with the mask is `shown` pixels of `seen`: all of the mask, and the lines.
    let mut seen: f64 = parts.iter().map(|part| part.pixels).sum();
    let mut parts = parts.into_iter();
    let Some(Part { path, pixels }) = parts.next() else {
        return Path::new();
    };
    let (mut joined, mut shown) = (path, pixels);
    let first = |part: Part| {
        let line = nearest(&joined, 0..joined.len(), &part.path, Line::NONE);
        (part, line)
    };
    let mut waiting: Vec<(Part, Line)> = parts.map(first).collect();
    while let Some(next) = position_of_shortest(&waiting) {
        let (part, line) = waiting.swap_remove(next);
        if (shown + part.pixels) / (seen + line.drawn()) < shown / seen {
            continue;
        }
        shown += part.pixels;
        seen += line.drawn();
        let new = splice(&mut joined, &part.path, &line);
        for (part, line) in &mut waiting {
            line.moved(&joined, &new);
            *line = nearest(&joined, new.clone(), &part.path, *line);
        }
    }
    // Lines that begin at a vertex repeat it.
    joined.dedup();
    joined
}

/// The shortest line from a path to another one.
#[derive(Clone, Copy)]
struct Line {
    squared: f64,
    /// On the edge of the path that begins at this vertex.
    edge: usize,
    from: [f64; 2],
    /// On the edge of the other path that begins at this vertex.
    other_edge: usize,
    to: [f64; 2],
}

impl Line {
    const NONE: Self = Self {
        squared: f64::INFINITY,
        edge: 0,
        from: [0.0; 2],
        other_edge: 0,
        to: [0.0; 2],
    };

    /// The pixels between its ends, which belong to other parts.
    fn drawn(&self) -> f64 {
        let across = (self.from[0] - self.to[0]).abs();
        across.max((self.from[1] - self.to[1]).abs()) - 1.0
    }

    /// Finds its edge again after vertices `new` were put into the path.
    fn moved(&mut self, path: &Path, new: &Range<usize>) {
        // `new` begins with the point at which the edge before it is cut in two.
        let (start, cut) = (path[new.start - 1], path[new.start]);
        let is_cut = self.edge + 1 == new.start;
        if self.edge >= new.start || (is_cut && squared(start, self.from) > squared(start, cut)) {
            self.edge += new.len();
        }
    }
}

fn position_of_shortest(waiting: &[(Part, Line)]) -> Option<usize> {
    let lines = waiting.iter().enumerate();
    let shortest = lines.min_by(|(_, (_, a)), (_, (_, b))| a.squared.total_cmp(&b.squared));
    shortest.map(|(position, _)| position)
}

/// The shortest line from `edges` of `path` to `other`, if it is shorter than `best`. Straight edges are
/// nearest at an end of one of them; ends in the middle of an edge are rounded to pixels, like vertices.
fn nearest(path: &Path, edges: Range<usize>, other: &Path, mut best: Line) -> Line {
    let bounds = bounds(other);
    for edge in edges {
        let ends = [path[edge], path[(edge + 1) % path.len()]];
        if gap_squared(self::bounds(&ends), bounds) >= best.squared {
            continue;
        }
        for other_edge in 0..other.len() {
            let other_ends = [other[other_edge], other[(other_edge + 1) % other.len()]];
            let lines = [
                (ends[0], on(other_ends, ends[0])),
                (on(ends, other_ends[0]), other_ends[0]),
            ];
            for (from, to) in lines {
                let squared = squared(from, to);
                if squared < best.squared {
                    best = Line {
                        squared,
                        edge,
                        from,
                        other_edge,
                        to,
                    };
                }
            }
        }
    }
    best
}

/// The least and the greatest coordinates.
fn bounds(points: &[[f64; 2]]) -> [[f64; 2]; 2] {
    let least = |a: [f64; 2], b: [f64; 2]| [a[0].min(b[0]), a[1].min(b[1])];
    let most = |a: [f64; 2], b: [f64; 2]| [a[0].max(b[0]), a[1].max(b[1])];
    let none = [[f64::INFINITY; 2], [f64::NEG_INFINITY; 2]];
    points.iter().fold(none, |[low, high], &point| {
        [least(low, point), most(high, point)]
    })
}

/// How far apart two bounds are, squared; what lies in them is no nearer, but for the rounding of ends.
fn gap_squared([low, high]: [[f64; 2]; 2], [other_low, other_high]: [[f64; 2]; 2]) -> f64 {
    let gap = |axis: usize| {
        (low[axis] - other_high[axis])
            .max(other_low[axis] - high[axis])
            .max(0.0)
    };
    gap(0).powi(2) + gap(1).powi(2)
}

/// The point of an edge that is nearest to `point`, in whole pixels.
fn on([start, end]: [[f64; 2]; 2], point: [f64; 2]) -> [f64; 2] {
    let length = squared(start, end);
    if length == 0.0 {
        return start;
    }
    let along = [end[0] - start[0], end[1] - start[1]];
    let dot = (point[0] - start[0]) * along[0] + (point[1] - start[1]) * along[1];
    let share = (dot / length).clamp(0.0, 1.0);
    [0, 1].map(|axis| (start[axis] + share * along[axis]).round())
}

fn squared(a: [f64; 2], b: [f64; 2]) -> f64 {
    (a[0] - b[0]).powi(2) + (a[1] - b[1]).powi(2)
}

/// Puts `other` into `path` by a line there and back; returns where the new vertices are.
fn splice(path: &mut Path, other: &Path, line: &Line) -> Range<usize> {
    let mut new = vec![line.from, line.to];
    new.extend(&other[line.other_edge + 1..]);
    new.extend(&other[..=line.other_edge]);
    new.extend([line.to, line.from]);
    let range = line.edge + 1..line.edge + 1 + new.len();
    path.splice(line.edge + 1..line.edge + 1, new);
    range
}
