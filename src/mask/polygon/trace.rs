//! Border following along pixel edges.

use crate::mask::Mask;

/// A closed border between a mask and its outside.
pub(super) struct Contour {
    /// Corners of pixels, one unit step apart, the mask to the right of each step. Pixel (x, y) has
    /// the corners (x, y) to (x + 1, y + 1).
    corners: Vec<[i32; 2]>,
    /// For the border of a hole: index of the outer border of the same part.
    pub(super) parent: Option<usize>,
}

impl Contour {
    /// The corners at which the border turns.
    pub(super) fn turns(&self) -> Vec<[f64; 2]> {
        without_straight(self.corners.iter().map(|c| c.map(f64::from)).collect())
    }

    /// The middle of every pixel edge of the border, in edge coordinates.
    pub(super) fn midpoints(&self) -> Vec<[f64; 2]> {
        let middle = |([x, y], [dx, dy]): ([i32; 2], [i32; 2])| {
            [
                f64::from(x) + 0.5 * f64::from(dx),
                f64::from(y) + 0.5 * f64::from(dy),
            ]
        };
        without_straight(self.steps().map(middle).collect())
    }

    /// The border pixels of the mask by their index, as 8-connected border following visits them.
    pub(super) fn centers(&self) -> Vec<[f64; 2]> {
        // The pixel to the right of the step: of the two that share the edge, the one inside.
        let inside = |([x, y], [dx, dy]): ([i32; 2], [i32; 2])| {
            [x + (dx - dy - 1) / 2, y + (dy + dx - 1) / 2].map(f64::from)
        };
        let mut path: Vec<_> = self.steps().map(inside).collect();
        path.dedup();
        while path.len() > 1 && path.first() == path.last() {
            path.pop();
        }
        without_straight(path)
    }

    /// Every corner with the step that leaves it.
    fn steps(&self) -> impl Iterator<Item = ([i32; 2], [i32; 2])> + '_ {
        let next = self.corners.iter().cycle().skip(1);
        let pairs = self.corners.iter().zip(next);
        pairs.map(|(&[x, y], &[nx, ny])| ([x, y], [nx - x, ny - y]))
    }
}

/// Leaves out the points at which a closed path of short steps keeps its direction.
fn without_straight(path: Vec<[f64; 2]>) -> Vec<[f64; 2]> {
    let count = path.len();
    let step = |i: usize| {
        let ([x0, y0], [x1, y1]) = (path[i % count], path[(i + 1) % count]);
        [x1 - x0, y1 - y0]
    };
    let turns = |&i: &usize| count < 3 || step(i + count - 1) != step(i);
    (0..count).filter(turns).map(|i| path[i]).collect()
}

/// All borders of a mask, ordered by their first pixel edge by rows; parts are 8-connected, holes
/// 4-connected, so that pixels which touch at a corner lie in one part.
///
/// The vertical edges of each row are the ends of its runs. The first edge of an outer border is a
/// left end and that of a hole a right end, and the border at the left end of the same run then
/// belongs to the part with the hole.
pub(super) fn contours(mask: &Mask) -> Vec<Contour> {
    let mut ends = RunEnds::new(mask);
    let mut contours: Vec<Contour> = Vec::new();
    for y in 0..mask.height() {
        for index in ends.rows[y]..ends.rows[y + 1] {
            if ends.border[index] != UNSEEN {
                continue;
            }
            let is_hole = (index - ends.rows[y]) % 2 == 1;
            let x = ends.columns[index] as i32;
            let (step, parent) = if is_hole {
                let left = ends.border[index - 1] as usize;
                ([0, 1], Some(contours[left].parent.unwrap_or(left)))
            } else {
                ([1, 0], None)
            };
            let number = contours.len() as u32;
            let corners = follow(mask, [x, y as i32], step, &mut ends, number);
            contours.push(Contour { corners, parent });
        }
    }
    contours
}

const UNSEEN: u32 = u32::MAX;

/// The vertical pixel edges of all borders.
struct RunEnds {
    /// Where each row starts in the other lists, and their length.
    rows: Vec<usize>,
    /// Start and end of each run.
    columns: Vec<u32>,
    /// Index of the border that the edge belongs to.
    border: Vec<u32>,
}

impl RunEnds {
    fn new(mask: &Mask) -> Self {
        let (mut rows, mut columns) = (vec![0], Vec::new());
        for y in 0..mask.height() {
            columns.extend(mask.runs(y).flat_map(|r| [r.start as u32, r.end as u32]));
            rows.push(columns.len());
        }
        let border = vec![UNSEEN; columns.len()];
        Self {
            rows,
            columns,
            border,
        }
    }

    fn mark(&mut self, x: i32, y: i32, border: u32) {
        let start = self.rows[y as usize];
        let row = &self.columns[start..self.rows[y as usize + 1]];
        if let Ok(at) = row.binary_search(&(x as u32)) {
            self.border[start + at] = border;
        }
    }
}

/// Follows one border from a corner and its first step until both come again.
fn follow(
    mask: &Mask,
    start: [i32; 2],
    first: [i32; 2],
    ends: &mut RunEnds,
    border: u32,
) -> Vec<[i32; 2]> {
    let mut corners = Vec::new();
    let ([mut x, mut y], [mut dx, mut dy]) = (start, first);
    loop {
        corners.push([x, y]);
        if dy != 0 {
            ends.mark(x, y.min(y + dy), border);
        }
        (x, y) = (x + dx, y + dy);
        // The pixels ahead; left of (dx, dy) is (dy, -dx), since y goes down.
        let left = mask_at(mask, x + (dx + dy - 1) / 2, y + (dy - dx - 1) / 2);
        let right = mask_at(mask, x + (dx - dy - 1) / 2, y + (dy + dx - 1) / 2);
        // Left first: at a corner where two pixels touch, the border goes round both.
        (dx, dy) = match (left, right) {
            (true, _) => (dy, -dx),
            (false, true) => (dx, dy),
            (false, false) => (-dy, dx),
        };
        if [x, y] == start && [dx, dy] == first {
            return corners;
        }
    }
}

fn mask_at(mask: &Mask, x: i32, y: i32) -> bool {
    match (usize::try_from(x), usize::try_from(y)) {
        (Ok(x), Ok(y)) => mask.get(x, y),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mask::tests::drawn;

    #[test]
    fn a_block_has_four_turns_and_four_border_corners() {
        let found = contours(&drawn(&["....", ".###", ".###", "...."]));
        assert_eq!(found.len(), 1);
        let turns = [[1.0, 1.0], [4.0, 1.0], [4.0, 3.0], [1.0, 3.0]];
        assert_eq!(found[0].turns(), turns);
        let centers = [[1.0, 1.0], [3.0, 1.0], [3.0, 2.0], [1.0, 2.0]];
        assert_eq!(found[0].centers(), centers);
        assert_eq!(found[0].midpoints().len(), 8);
    }

    #[test]
    fn pixels_that_touch_at_a_corner_are_one_part() {
        let found = contours(&drawn(&["#..", ".#.", "..#"]));
        assert_eq!(found.len(), 1);
        let there_and_back = [[0.0, 0.0], [2.0, 2.0]];
        assert_eq!(found[0].centers(), there_and_back);
    }

    #[test]
    fn holes_belong_to_the_part_around_them() {
        let found = contours(&drawn(&[
            "#.#########",
            "..#...#..##",
            "..#.#.#..##",
            "..#...#..##",
            "..#########",
        ]));
        let parents: Vec<_> = found.iter().map(|c| c.parent).collect();
        // The pixel at the left, the frame, its two holes, the island in the first one.
        assert_eq!(parents, [None, None, Some(1), Some(1), None]);
        assert_eq!(found[3].turns().len(), 4);
    }

    #[test]
    fn background_that_touches_at_a_corner_is_two_holes() {
        let found = contours(&drawn(&["####", "#.##", "##.#", "####"]));
        assert_eq!(found.len(), 3);
        assert!(found[1..].iter().all(|hole| hole.parent == Some(0)));
    }
}
