//! Operands in the order in which a [`Tile`](super::tile::Tile) reads them.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
pub(super) mod avx512;

use super::layout::Layout;
#[cfg(target_arch = "x86_64")]
use super::level::{Level, level};
use super::view::{Block, Rows};

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
                Layout::Singles => avx512::transpose_singles(xs, scale, to),
                Layout::LeftTiles { .. } => avx512::copy_to_tiles(xs, scale, layout, to),
                _ => avx512::transpose_pairs(xs, scale, layout, to),
            }
        }
        return;
    }
    assert_eq!(layout, Layout::Singles, "pairs exist with AVX-512 only");
    for t in 0..xs.len {
        to.row(t)[xs.count..].fill(0.);
    }
    #[cfg(target_arch = "x86_64")]
    let has_avx2 = level() == Level::Avx2;
    let mut i = 0;
    while i < xs.count {
        i += match xs.count - i {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the level is as asked for.
            8.. if has_avx2 => unsafe { avx2::transpose::<8>(xs, i, scale, &mut to) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            6.. if has_avx2 => unsafe { avx2::transpose::<6>(xs, i, scale, &mut to) },
            6.. => transpose_some::<6>(xs, i, scale, &mut to),
            4.. => transpose_some::<4>(xs, i, scale, &mut to),
            2.. => transpose_some::<2>(xs, i, scale, &mut to),
            _ => transpose_some::<1>(xs, i, scale, &mut to),
        };
    }
}

/// [`transpose`], unscaled, of as many rows at a time as a piece of `to` has columns; the pieces lie one
/// behind the other.
pub fn transpose_pieces(xs: Rows, layout: Layout, width: usize, to: &mut [f32]) {
    let pieces = to.chunks_exact_mut((layout.elements(xs.len) * width).max(1));
    for (first, piece) in (0..xs.count).step_by(width).zip(pieces) {
        transpose(xs.rows(first, width), 1., layout, Block::new(piece, width));
    }
}

/// Rows `first..first + N` side by side, so that they are written together: `N`.
fn transpose_some<const N: usize>(xs: Rows, first: usize, scale: f32, to: &mut Block) -> usize {
    let rows: [&[f32]; N] = std::array::from_fn(|i| &xs.row(first + i)[..xs.len]);
    for t in 0..xs.len {
        let to = &mut to.row(t)[first..first + N];
        for (to, row) in to.iter_mut().zip(rows) {
            *to = row[t] * scale;
        }
    }
    N
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
                let (to, rest) = to.row(i).split_at_mut(xs.len);
                copy_row(xs.row(i), to);
                rest.fill(0.);
            }
        }
        #[cfg(target_arch = "x86_64")]
        // SAFETY: pairs exist only where their instructions do.
        Layout::LeftTiles { .. } => unsafe { avx512::transpose_to_tiles(xs, layout, to) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        _ => unsafe { avx512::stack_pairs(xs, layout, to) },
        #[cfg(not(target_arch = "x86_64"))]
        _ => unreachable!("pairs exist with AVX-512 only"),
    }
}

/// [`stack`] of as many columns at a time as a piece of `to` has; the pieces lie one behind the other.
pub fn stack_pieces(xs: Rows, layout: Layout, width: usize, to: &mut [f32]) {
    let pieces = to.chunks_exact_mut((layout.elements(xs.count) * width).max(1));
    for (first, piece) in (0..xs.len).step_by(width).zip(pieces) {
        stack(xs.columns(first, width), layout, Block::new(piece, width));
    }
}

/// Copies a row of an operand: those as wide as a tile, the most frequent, without a call.
///
/// # Panics
/// When the lengths differ.
#[inline(always)]
pub fn copy_row(from: &[f32], to: &mut [f32]) {
    match to.len() {
        6 => copy_lanes::<6>(from, to),
        8 => copy_lanes::<8>(from, to),
        12 => copy_lanes::<12>(from, to),
        14 => copy_lanes::<14>(from, to),
        16 => copy_lanes::<16>(from, to),
        32 => copy_lanes::<32>(from, to),
        _ => to.copy_from_slice(from),
    }
}

#[inline(always)]
fn copy_lanes<const N: usize>(from: &[f32], to: &mut [f32]) {
    match (
        <&[f32; N]>::try_from(from),
        <&mut [f32; N]>::try_from(&mut *to),
    ) {
        (Ok(from), Ok(to)) => *to = *from,
        _ => to.copy_from_slice(from),
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
