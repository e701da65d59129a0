//! Connected regions of masks: removing small islands and filling small holes.
//!
//! Regions are 8-connected (diagonal neighbours count), both those of the mask and those of its
//! background, as in `remove_small_regions`,
//! <https://github.com/facebookresearch/segment-anything/blob/dca509f/segment_anything/utils/amg.py#L267>.

use std::ops::Range;

use super::{BITS, Mask};

/// Takes the connected regions of at most `max_area` pixels out of the mask.
pub fn remove_islands(mask: &mut Mask, max_area: usize) {
    for (y, run) in small_regions(mask, max_area) {
        mask.set_run(y, run, false);
    }
}

/// Puts the connected regions of the background of at most `max_area` pixels into the mask.
///
/// A small region of background at the edge of the image counts as a hole, as in the reference.
pub fn fill_holes(mask: &mut Mask, max_area: usize) {
    let background = complement(mask);
    for (y, run) in small_regions(&background, max_area) {
        mask.set_run(y, run, true);
    }
}

/// The areas of the connected regions, in the order of their first pixel by rows.
pub fn areas(mask: &Mask) -> Vec<usize> {
    let regions = Regions::new(mask);
    (0..regions.runs.len())
        .filter(|&i| regions.parent[i] == i)
        .map(|root| regions.areas[root])
        .collect()
}

/// The runs of all regions of at most `max_area` pixels.
fn small_regions(mask: &Mask, max_area: usize) -> Vec<(usize, Range<usize>)> {
    let mut regions = Regions::new(mask);
    let mut small = Vec::new();
    for index in 0..regions.runs.len() {
        let root = regions.root(index);
        if regions.areas[root] <= max_area {
            small.push(regions.runs[index].clone());
        }
    }
    small
}

fn complement(mask: &Mask) -> Mask {
    let mut complement = mask.clone();
    let padding = mask.width % BITS;
    for y in 0..mask.height {
        let row = complement.row_mut(y);
        for word in row.iter_mut() {
            *word = !*word;
        }
        if let (Some(last), 1..) = (row.last_mut(), padding) {
            *last &= (1 << padding) - 1;
        }
    }
    complement
}

/// Union-find over the horizontal runs of a mask.
struct Regions {
    /// Row and columns of each run, by rows.
    runs: Vec<(usize, Range<usize>)>,
    /// An earlier run of the same region, or the run itself if it is the first one.
    parent: Vec<usize>,
    /// Pixels of the region, valid for its first run.
    areas: Vec<usize>,
}

impl Regions {
    fn new(mask: &Mask) -> Self {
        let mut regions = Self {
            runs: Vec::new(),
            parent: Vec::new(),
            areas: Vec::new(),
        };
        let mut above = 0..0;
        for y in 0..mask.height {
            let row_start = regions.runs.len();
            let mut candidate = above.start;
            for run in mask.runs(y) {
                let index = regions.runs.len();
                regions.parent.push(index);
                regions.areas.push(run.len());
                // Runs of the row above that end before this one starts touch no later run either.
                while candidate < above.end && regions.runs[candidate].1.end < run.start {
                    candidate += 1;
                }
                let mut touching = candidate;
                while touching < above.end && regions.runs[touching].1.start <= run.end {
                    regions.join(touching, index);
                    touching += 1;
                }
                regions.runs.push((y, run));
            }
            above = row_start..regions.runs.len();
        }
        regions
    }

    fn root(&mut self, mut index: usize) -> usize {
        while self.parent[index] != index {
            self.parent[index] = self.parent[self.parent[index]];
            index = self.parent[index];
        }
        index
    }

    fn join(&mut self, a: usize, b: usize) {
        let (a, b) = (self.root(a), self.root(b));
        if a != b {
            let (first, second) = (a.min(b), a.max(b));
            self.parent[second] = first;
            self.areas[first] += self.areas[second];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mask::tests::{drawn, noise};

    #[test]
    fn diagonal_neighbours_are_connected() {
        assert_eq!(areas(&drawn(&["#..#", ".#..", "...."])), [2, 1]);
    }

    #[test]
    fn a_spiral_is_one_region() {
        let spiral = drawn(&["#######", "......#", "#####.#", "#.....#", "#######"]);
        assert_eq!(areas(&spiral), [spiral.area()]);
    }

    #[test]
    fn small_islands_go_and_large_ones_stay() {
        let mut mask = drawn(&["##..#", "##...", "....#", "#...#"]);
        remove_islands(&mut mask, 1);
        assert_eq!(mask, drawn(&["##...", "##...", "....#", "....#"]));
        remove_islands(&mut mask, 3);
        assert_eq!(mask, drawn(&["##...", "##...", ".....", "....."]));
    }

    #[test]
    fn small_holes_are_filled_and_large_ones_stay() {
        let mut mask = drawn(&["######", "#.##.#", "####.#", "######"]);
        fill_holes(&mut mask, 1);
        assert_eq!(mask, drawn(&["######", "####.#", "####.#", "######"]));
        fill_holes(&mut mask, 2);
        assert_eq!(mask.area(), 24);
    }

    #[test]
    fn areas_equal_those_of_a_flood_fill() {
        for (seed, percent) in [(1, 20), (2, 40), (3, 60)] {
            let mask = noise(150, 40, seed, percent);
            assert_eq!(areas(&mask), flood_fill(&mask));
        }
    }

    #[test]
    fn the_complement_stays_within_the_image() {
        let mask = noise(70, 9, 3, 50);
        assert_eq!(complement(&mask).area() + mask.area(), 70 * 9);
        assert_eq!(complement(&complement(&mask)), mask);
    }

    fn flood_fill(mask: &Mask) -> Vec<usize> {
        let mut rest = mask.clone();
        let mut areas = Vec::new();
        for y in 0..mask.height() {
            for x in 0..mask.width() {
                let mut area = 0;
                let mut stack = vec![(x, y)];
                while let Some((x, y)) = stack.pop() {
                    if rest.get(x, y) {
                        rest.set(x, y, false);
                        area += 1;
                        for dy in [-1, 0, 1] {
                            for dx in [-1, 0, 1] {
                                stack.push((x.wrapping_add_signed(dx), y.wrapping_add_signed(dy)));
                            }
                        }
                    }
                }
                if area > 0 {
                    areas.push(area);
                }
            }
        }
        areas
    }
}
