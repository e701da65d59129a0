//! Outlines of masks.

use super::{BITS, Mask};

/// The pixels of the mask that touch its outside: those with a neighbour above, below, left or
/// right that is not in the mask or not in the image.
pub fn outline(mask: &Mask) -> Mask {
    let mut outline = Mask::new(mask.width, mask.height);
    let empty = vec![0; mask.stride];
    for y in 0..mask.height {
        let row = mask.row(y);
        let above = if y > 0 { mask.row(y - 1) } else { &empty };
        let below = if y + 1 < mask.height {
            mask.row(y + 1)
        } else {
            &empty
        };
        for (x, to) in outline.row_mut(y).iter_mut().enumerate() {
            let left = row[x] << 1 | if x > 0 { row[x - 1] >> (BITS - 1) } else { 0 };
            let right = row[x] >> 1 | row.get(x + 1).map_or(0, |word| word << (BITS - 1));
            *to = row[x] & !(above[x] & below[x] & left & right);
        }
    }
    outline
}

/// The pixels of the mask all of whose eight neighbors are in the mask and in the image.
pub fn eroded(mask: &Mask) -> Mask {
    let mut across = Mask::new(mask.width, mask.height);
    for y in 0..mask.height {
        let row = mask.row(y);
        for (x, to) in across.row_mut(y).iter_mut().enumerate() {
            let left = row[x] << 1 | if x > 0 { row[x - 1] >> (BITS - 1) } else { 0 };
            let right = row[x] >> 1 | row.get(x + 1).map_or(0, |word| word << (BITS - 1));
            *to = row[x] & left & right;
        }
    }
    let mut eroded = Mask::new(mask.width, mask.height);
    for y in 1..mask.height.saturating_sub(1) {
        for (x, to) in eroded.row_mut(y).iter_mut().enumerate() {
            *to = across.row(y - 1)[x] & across.row(y)[x] & across.row(y + 1)[x];
        }
    }
    eroded
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mask::tests::{drawn, noise};

    #[test]
    fn the_outline_of_a_block_is_its_rim() {
        let block = drawn(&["......", ".####.", ".####.", ".####.", "......"]);
        let rim = drawn(&["......", ".####.", ".#..#.", ".####.", "......"]);
        assert_eq!(outline(&block), rim);
    }

    #[test]
    fn the_edge_of_the_image_counts_as_outside() {
        let full = drawn(&["###", "###", "###"]);
        assert_eq!(outline(&full), drawn(&["###", "#.#", "###"]));
    }

    #[test]
    fn word_boundaries_are_no_edges() {
        let mask = noise(200, 20, 4, 80);
        let want = Mask::from_fn(200, 20, |x, y| {
            let inside = |dx: isize, dy: isize| {
                mask.get(x.wrapping_add_signed(dx), y.wrapping_add_signed(dy))
            };
            mask.get(x, y) && !(inside(-1, 0) && inside(1, 0) && inside(0, -1) && inside(0, 1))
        });
        assert_eq!(outline(&mask), want);
    }

    #[test]
    fn erosion_leaves_what_is_surrounded() {
        let mask = noise(200, 20, 4, 90);
        let want = Mask::from_fn(200, 20, |x, y| {
            let neighbors = (-1..=1).flat_map(|dy| (-1..=1).map(move |dx| (dx, dy)));
            neighbors
                .into_iter()
                .all(|(dx, dy)| mask.get(x.wrapping_add_signed(dx), y.wrapping_add_signed(dy)))
        });
        assert!(!want.is_empty());
        assert_eq!(eroded(&mask), want);
        assert!(eroded(&drawn(&["##", "##"])).is_empty());
    }
}
