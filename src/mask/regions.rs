//! Connected regions of masks: removing small islands and filling small holes.
//!
//! Regions are 8-connected (diagonal neighbours count), both those of the mask and those of its
//! background, as in `remove_small_regions`,
//! <https://github.com/facebookresearch/segment-anything/blob/dca509f/segment_anything/utils/amg.py#L267>.

use std::cmp::Reverse;
use std::ops::Range;

use super::Mask;

/// Takes the connected regions of at most `max_area` pixels out of the mask.
pub fn remove_islands(mask: &mut Mask, max_area: usize) {
    for (_, y, run) in Regions::new(mask).small(max_area) {
        mask.set_run(y, run, false);
    }
}

/// Puts the connected regions of the background of at most `max_area` pixels into the mask.
///
/// A small region of background at the edge of the image counts as a hole, as in the reference.
/// Returns whether there was any.
pub fn fill_holes(mask: &mut Mask, max_area: usize) -> bool {
    let holes = Regions::new(&complement(mask)).small(max_area);
    let any = !holes.is_empty();
    for (_, y, run) in holes {
        mask.set_run(y, run, true);
    }
    any
}

/// Fills the holes of fewer than `min_area` pixels, then takes out the islands of fewer; of islands
/// that are all small the largest stays. Returns whether there was anything to do.
///
/// As the original calls its `remove_small_regions`, for holes and then for islands. Of equal
/// islands the one that OpenCV numbers first stays: the order of the first 2x2 block by rows.
pub fn remove_small_regions(mask: &mut Mask, min_area: usize) -> bool {
    let Some(max_area) = min_area.checked_sub(1) else {
        return false;
    };
    let has_holes = fill_holes(mask, max_area);
    let mut islands = Regions::new(mask);
    let largest = islands.largest();
    // Where it is large, it is none of the runs.
    let runs = islands.small(max_area);
    for (root, y, run) in &runs {
        if largest != Some(*root) {
            mask.set_run(*y, run.clone(), false);
        }
    }
    has_holes || !runs.is_empty()
}

/// The areas of the connected regions, in the order of their first pixel by rows.
pub fn areas(mask: &Mask) -> Vec<usize> {
    let regions = Regions::new(mask);
    regions.roots().map(|root| regions.areas[root]).collect()
}

fn complement(mask: &Mask) -> Mask {
    let mut complement = mask.clone();
    for word in &mut complement.words {
        *word = !*word;
    }
    complement.clear_padding();
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

    /// The runs of all regions of at most `max_area` pixels, each with the first run of its region.
    fn small(&mut self, max_area: usize) -> Vec<(usize, usize, Range<usize>)> {
        let mut small = Vec::new();
        for index in 0..self.runs.len() {
            let root = self.root(index);
            if self.areas[root] <= max_area {
                let (y, run) = self.runs[index].clone();
                small.push((root, y, run));
            }
        }
        small
    }

    /// The first run of the largest region, the first by 2x2 blocks among equals.
    fn largest(&mut self) -> Option<usize> {
        let mut first_block = vec![(usize::MAX, 0); self.runs.len()];
        for index in 0..self.runs.len() {
            let root = self.root(index);
            let (y, run) = &self.runs[index];
            first_block[root] = first_block[root].min((y / 2, run.start / 2));
        }
        // No two regions share a block: pixels of one touch.
        self.roots()
            .max_by_key(|&root| (self.areas[root], Reverse(first_block[root])))
    }

    /// The first runs of all regions.
    fn roots(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.runs.len()).filter(|&index| self.parent[index] == index)
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
    fn small_regions_go_and_the_mask_says_whether_it_changed() {
        let mut mask = drawn(&["#####", "#.###", "#####", ".....", "#...#"]);
        assert!(remove_small_regions(&mut mask, 2));
        assert_eq!(mask, drawn(&["#####", "#####", "#####", ".....", "....."]));
        assert!(!remove_small_regions(&mut mask, 2));
        assert!(!remove_small_regions(&mut mask, 0));
        assert!(!remove_small_regions(&mut Mask::new(5, 5), 20));
    }

    #[test]
    fn a_region_of_the_smallest_area_is_not_small() {
        let mut mask = drawn(&["##...", ".....", ".....", ".....", "....#"]);
        assert!(remove_small_regions(&mut mask, 2));
        assert_eq!(mask, drawn(&["##...", ".....", ".....", ".....", "....."]));
    }

    #[test]
    fn when_all_islands_are_small_the_largest_stays() {
        let mut mask = drawn(&["#....#", "#..#.#", ".....#"]);
        assert!(remove_small_regions(&mut mask, 10));
        // 12 pixels of background are a large hole.
        assert_eq!(mask, drawn(&[".....#", ".....#", ".....#"]));
    }

    #[test]
    fn of_equal_islands_the_first_by_blocks_stays() {
        // The right one comes first by rows, the left one by 2x2 blocks, as in OpenCV.
        let mut mask = drawn(&["......#.....", "#...........", "............"]);
        assert!(remove_small_regions(&mut mask, 5));
        assert!(mask.get(0, 1) && mask.area() == 1);
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
