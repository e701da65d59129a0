//! Operands in the order in which [`Tile`](super::tile::Tile) reads them.
//!
//! A packed operand is a list of elements of 32 bits: one f32, or two bf16 that follow each other
//! in the summation. It is a list of f32 in either case, so that all code but the packing and the
//! innermost loop is the same.

#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(target_arch = "x86_64")]
use super::level::{Level, level};
use super::tile::Block;

/// What products are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// f32.
    Single,
    /// Both factors rounded to bf16, two products at a time.
    Pairs,
    /// Both factors split in two bf16, a high and a low part: three products of parts give that of
    /// the factors within some 1e-5. Where one factor is infinite, so is the product; where both
    /// are, it is not a number.
    Split,
}

impl Format {
    /// All formats.
    #[cfg(test)]
    pub const ALL: [Self; 3] = [Self::Single, Self::Pairs, Self::Split];
}

/// How a packed operand lies in memory. Its width is the number of rows of a left, of columns of a
/// right operand.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))] // tiles are AMX's
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// [elements][width], an element is a f32.
    Singles,
    /// [elements][width], an element is two bf16, the first in the low bits.
    Pairs,
    /// [groups of 16 elements][parts][width][16] of pairs: the left operand of AMX.
    LeftTiles {
        /// Whether there are two parts, high and low, or one.
        split: bool,
    },
    /// [groups of 16 elements][parts][16][width] of pairs: the right operand of AMX.
    RightTiles {
        /// As in [`Self::LeftTiles`].
        split: bool,
    },
}

/// Values in a group of 16 pairs: a row of a left tile, a column of a right one.
const GROUP: usize = 32;

impl Layout {
    /// Values to an element.
    pub fn values(self) -> usize {
        match self {
            Self::Singles => 1,
            Self::Pairs => 2,
            Self::LeftTiles { split } | Self::RightTiles { split } => match split {
                true => 1, // one for two parts
                false => 2,
            },
        }
    }

    /// Elements that hold `len` values; zeros fill up the last one, or the last group.
    pub fn elements(self, len: usize) -> usize {
        match self {
            Self::Singles | Self::Pairs => len.div_ceil(self.values()),
            _ => len.next_multiple_of(GROUP) / self.values(),
        }
    }
}

/// A view of a matrix: `count` rows of `len` values, `stride` apart.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    xs: &'a [f32],
    stride: usize,
    /// The number of rows.
    pub count: usize,
    /// Values in a row.
    pub len: usize,
}

impl<'a> Rows<'a> {
    /// The rows that start at the first value of `xs`.
    ///
    /// # Panics
    /// When `xs` is too short for them.
    pub fn new(xs: &'a [f32], stride: usize, count: usize, len: usize) -> Self {
        assert!(count == 0 || xs.len() >= (count - 1) * stride + len);
        Self {
            xs,
            stride,
            count,
            len,
        }
    }

    /// Rows `start..start + count`, or as many of them as there are.
    pub fn rows(self, start: usize, count: usize) -> Self {
        let start = start.min(self.count);
        Self {
            xs: &self.xs[(start * self.stride).min(self.xs.len())..],
            count: count.min(self.count - start),
            ..self
        }
    }

    /// Columns `start..start + len`, or as many of them as there are.
    pub fn columns(self, start: usize, len: usize) -> Self {
        let start = start.min(self.len);
        Self {
            xs: &self.xs[start.min(self.xs.len())..],
            len: len.min(self.len - start),
            ..self
        }
    }

    /// The values of a row.
    pub fn row(&self, i: usize) -> &'a [f32] {
        &self.xs[i * self.stride..][..self.len]
    }
}

/// Writes rows as columns, multiplied by `scale`: element `e` of row `i` goes to row `e`, column
/// `i` of `to`, as `layout` has it; columns without a row become 0.
///
/// # Panics
/// When `to` has fewer rows than there are elements, or fewer columns than rows to pack.
pub fn transpose(xs: Rows, scale: f32, layout: Layout, mut to: Block) {
    assert!(layout.elements(xs.len) <= to.count() && xs.count <= to.width());
    #[cfg(target_arch = "x86_64")]
    if level() >= Level::Avx512 {
        // SAFETY: the level is as asked for; pairs exist only where their instructions do.
        unsafe {
            match layout {
                Layout::Singles => x86::transpose_singles(xs, scale, to),
                Layout::LeftTiles { .. } => x86::copy_to_tiles(xs, scale, layout, to),
                _ => x86::transpose_pairs(xs, scale, layout, to),
            }
        }
        return;
    }
    assert_eq!(layout, Layout::Singles, "pairs exist with AVX-512 only");
    for t in 0..xs.len {
        to.row(t)[xs.count..].fill(0.);
    }
    for i in 0..xs.count {
        for (t, x) in xs.row(i).iter().enumerate() {
            to.row(t)[i] = x * scale;
        }
    }
}

/// Writes rows as they are: row `e` of `to` holds element `e` of each column, as `layout` has it;
/// columns and values that are not there become 0.
///
/// # Panics
/// When `to` has fewer rows than there are elements, or fewer columns.
pub fn stack(xs: Rows, layout: Layout, mut to: Block) {
    assert!(layout.elements(xs.count) <= to.count() && xs.len <= to.width());
    match layout {
        Layout::Singles => {
            for i in 0..xs.count {
                let to = to.row(i);
                to[..xs.len].copy_from_slice(xs.row(i));
                to[xs.len..].fill(0.);
            }
        }
        #[cfg(target_arch = "x86_64")]
        // SAFETY: pairs exist only where their instructions do.
        Layout::LeftTiles { .. } => unsafe { x86::transpose_to_tiles(xs, layout, to) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        _ => unsafe { x86::stack_pairs(xs, layout, to) },
        #[cfg(not(target_arch = "x86_64"))]
        _ => unreachable!("pairs exist with AVX-512 only"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::kernels::level::{Level, has_bf16, level};
    use crate::nn::kernels::random;

    /// Layouts that this processor can pack, and their largest error.
    fn layouts() -> Vec<(Layout, f32)> {
        let mut layouts = vec![(Layout::Singles, 0.)];
        if has_bf16() && level() >= Level::Avx512 {
            layouts.push((Layout::Pairs, 4e-3));
            for (split, error) in [(false, 4e-3), (true, 8e-6)] {
                layouts.push((Layout::LeftTiles { split }, error));
                layouts.push((Layout::RightTiles { split }, error));
            }
        }
        layouts
    }

    /// The values of packed elements, one list for each row or column.
    fn values(packed: &[f32], width: usize, layout: Layout) -> Vec<Vec<f32>> {
        let halves = |x: f32| [x.to_bits() << 16, x.to_bits() & 0xffff_0000].map(f32::from_bits);
        let parts = match layout {
            Layout::Singles => {
                let column = |i| packed.iter().skip(i).step_by(width).copied().collect();
                return (0..width).map(column).collect();
            }
            Layout::LeftTiles { split } | Layout::RightTiles { split } => 1 + usize::from(split),
            Layout::Pairs => 1,
        };
        let pairs = packed.len() / width / parts;
        let at = |i: usize, e: usize, part: usize| match layout {
            Layout::LeftTiles { .. } => ((e / 16 * parts + part) * width + i) * 16 + e % 16,
            _ => ((e / 16 * parts + part) * 16 + e % 16) * width + i,
        };
        let sum = |i, t: usize| {
            (0..parts)
                .map(|part| halves(packed[at(i, t / 2, part)])[t % 2])
                .sum()
        };
        (0..width)
            .map(|i| (0..2 * pairs).map(|t| sum(i, t)).collect())
            .collect()
    }

    #[test]
    fn packed_rows_and_columns_hold_their_values_and_zeros_elsewhere() {
        for (layout, error) in layouts() {
            for (count, len, width) in [
                (1, 1, 1),
                (5, 7, 14),
                (14, 33, 14),
                (20, 64, 32),
                (31, 5, 32),
                (17, 100, 23),
                (0, 40, 3),
            ] {
                // a view into something larger
                let (stride, xs) = (len + 3, random(count * (len + 3), 1));
                let xs = Rows::new(&xs, stride, count, len);
                let close = |got: f32, want: f32| (got - want).abs() <= want.abs() * error;

                let elements = layout.elements(len);
                let mut to = vec![f32::NAN; (elements + 1) * width];
                transpose(xs, 2., layout, Block::new(&mut to, width));
                let (to, beyond) = to.split_at(elements * width);
                assert!(beyond.iter().all(|x| x.is_nan()), "{layout:?}: {beyond:?}");
                for (i, got) in values(to, width, layout).iter().enumerate() {
                    for (t, got) in got.iter().enumerate() {
                        let there = i < count && t < len;
                        let want = if there { 2. * xs.row(i)[t] } else { 0. };
                        assert!(
                            close(*got, want),
                            "{layout:?} {count}x{len} at {i}, {t}: {got} {want}"
                        );
                    }
                }

                let wide = len.next_multiple_of(10);
                let elements = layout.elements(count);
                let mut to = vec![f32::NAN; (elements + 1) * wide];
                stack(xs, layout, Block::new(&mut to, wide));
                let (to, beyond) = to.split_at(elements * wide);
                assert!(beyond.iter().all(|x| x.is_nan()), "{layout:?}: {beyond:?}");
                for (j, got) in values(to, wide, layout).iter().enumerate() {
                    for (i, got) in got.iter().enumerate() {
                        let there = i < count && j < len;
                        let want = if there { xs.row(i)[j] } else { 0. };
                        assert!(
                            close(*got, want),
                            "{layout:?} {count}x{len} at {i}, {j}: {got} {want}"
                        );
                    }
                }
            }
        }
    }
}
