//! The innermost loop of every matrix product: a tile of sums in registers.
//!
//! Operands are packed so that the loop reads them front to back: the left one in strips of
//! [`Tile::rows`] rows, the right one in panels of [`Tile::cols`] columns, the summation index
//! outermost. For registers of lanes the loop is written once and compiled for each instruction
//! set; AMX has a loop of its own. The widest that the processor has is chosen at run time.

use std::sync::LazyLock;

#[cfg(target_arch = "x86_64")]
use super::amx::{self, Elements, Strips};
use super::lanes::{Four, Lanes, Product, Single, unroll};
use super::layout::{Format, Layout};
use super::level::{Level, has_fast_bf16, level};
use super::view::Block;

/// The shape of a tile of sums, and the code that computes one.
#[derive(Clone, Copy)]
pub struct Tile {
    /// Rows of a strip of the left operand.
    pub rows: usize,
    /// Columns of a panel of the right operand.
    pub cols: usize,
    /// What products are made of.
    // Only AMX and tests ask.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    pub format: Format,
    /// How a strip lies in memory.
    pub left: Layout,
    /// How a panel lies in memory.
    pub right: Layout,
    code: Code,
}

#[derive(Clone, Copy)]
enum Code {
    /// In registers of lanes: code for strips of 1, 2, … rows.
    Lanes(&'static [Multiply]),
    /// In tiles of AMX.
    #[cfg(target_arch = "x86_64")]
    Amx(amx::Multiply),
}

type Multiply = unsafe fn(Step, usize, &[f32], &[f32], *mut f32);

/// The largest [`Tile::cols`].
pub const MAX_COLS: usize = 32;
/// The largest [`Tile::rows`] of lanes.
pub const MAX_ROWS: usize = 14;

/// Where a tile of sums goes.
#[derive(Clone, Copy)]
struct Step {
    stride: usize,
    m: usize,
    n: usize,
    add: bool,
}

/// The tile of this processor for f32, with the most rows.
pub static TILE: LazyLock<Tile> = LazyLock::new(|| Tile::of_lanes(level(), Format::Single));

impl Tile {
    /// The tile of this processor with the most rows, for products in `format` where it is faster
    /// at these than at those of f32. Elsewhere its format is [`Format::Single`].
    pub fn of(format: Format) -> Self {
        match (level(), format) {
            #[cfg(target_arch = "x86_64")]
            (Level::Amx, Format::Pairs | Format::Split) => Self::of_amx(format, amx::code()),
            (level, Format::Pairs) if has_fast_bf16() => Self::of_lanes(level, format),
            _ => *TILE,
        }
    }

    fn of_lanes(level: Level, format: Format) -> Self {
        let (cols, code): (_, &[Multiply]) = match (level, format) {
            #[cfg(target_arch = "x86_64")]
            (Level::Amx | Level::Avx512, Format::Single) => (32, x86::AVX512),
            #[cfg(target_arch = "x86_64")]
            (Level::Amx | Level::Avx512, Format::Pairs) => (32, x86::AVX512_BF16),
            #[cfg(target_arch = "x86_64")]
            (Level::Avx2, _) => (16, x86::AVX2),
            #[cfg(target_arch = "aarch64")]
            (Level::Neon, _) => (8, NEON),
            _ => (8, PORTABLE),
        };
        let layout = match format {
            Format::Pairs => Layout::Pairs,
            _ => Layout::Singles,
        };
        Self {
            rows: code.len(),
            cols,
            format,
            left: layout,
            right: layout,
            code: Code::Lanes(code),
        }
    }

    #[cfg(target_arch = "x86_64")]
    pub(super) fn of_amx(format: Format, code: amx::Multiply) -> Self {
        let split = format == Format::Split;
        Self {
            rows: amx::ROWS,
            cols: amx::COLS,
            format,
            left: Layout::LeftTiles { split },
            right: Layout::RightTiles { split },
            code: Code::Amx(code),
        }
    }

    /// The tile whose strips cover `m` rows with the least work, as high as possible.
    pub fn fitting(self, m: usize) -> Self {
        let rows = match self.code {
            Code::Lanes(code) => m.div_ceil(m.div_ceil(code.len()).max(1)),
            // Rows that are not there cost nothing: the last strip is configured without them.
            #[cfg(target_arch = "x86_64")]
            Code::Amx(_) => m.min(amx::ROWS),
        };
        Self {
            rows: rows.max(1),
            ..self
        }
    }

    /// `c[i][j] (+)= Σ a[k][i] * b[k][j]` for all rows and columns of `c`.
    ///
    /// `a` holds a strip for each [`Self::rows`] rows of `c`, one behind the other, and `b` a panel
    /// for each [`Self::cols`] columns, all of `depth` elements. With `add` the sums are added to
    /// what `c` holds.
    pub fn multiply_into(&self, depth: usize, a: &[f32], b: &[f32], mut c: Block, add: bool) {
        let holds = |xs: &[f32], width: usize, pieces: usize| {
            let all = depth
                .checked_mul(width)
                .and_then(|piece| piece.checked_mul(pieces));
            all.is_some_and(|all| xs.len() >= all)
        };
        assert!(holds(a, self.rows, c.count.div_ceil(self.rows)));
        assert!(holds(b, self.cols, c.width.div_ceil(self.cols)));
        let (strip, panel) = (depth * self.rows, depth * self.cols);
        let code = match self.code {
            Code::Lanes(code) => code[self.rows - 1],
            #[cfg(target_arch = "x86_64")]
            Code::Amx(code) => {
                let strips = Strips {
                    rows: self.rows,
                    depth,
                    elements: match self.format {
                        Format::Split => Elements::Split,
                        Format::Single | Format::Pairs => Elements::Pairs,
                    },
                };
                // SAFETY: `code` is what this processor runs; the lengths of a and b were checked.
                return unsafe { code(strips, a, b, c, add) };
            }
        };
        for (s, i) in (0..c.count).step_by(self.rows).enumerate() {
            for (p, j) in (0..c.width).step_by(self.cols).enumerate() {
                let (a, b) = (&a[s * strip..], &b[p * panel..]);
                let mut rows = c.rows(i, self.rows);
                let to = rows.columns(j, self.cols);
                let (stride, m, n) = (to.stride, to.count, to.width);
                // SAFETY: as above; a block's rows are its own.
                unsafe { code(Step { stride, m, n, add }, depth, a, b, to.first) }
            }
        }
    }
}

/// `R` rows times 2 registers of sums.
///
/// # Safety
/// `a` holds `depth * R` and `b` `depth * 2 * COUNT` elements; `m` rows of `n` elements, `stride`
/// apart, can be written at `c`, with `add` also read, and no other thread touches them; the
/// processor has the instructions of `L` and `P`.
#[inline(always)]
unsafe fn tile<L: Lanes, P: Product<L>, const R: usize>(
    step: Step,
    depth: usize,
    a: &[f32],
    b: &[f32],
    c: *mut f32,
) {
    let Step { stride, m, n, add } = step;
    // SAFETY: the caller's promises, see above.
    unsafe {
        let mut sums = [[L::splat(0.); 2]; R];
        let (mut a, mut b) = (a.as_ptr(), b.as_ptr());
        for _ in 0..depth {
            let cols = [L::load(b), L::load(b.add(L::COUNT))];
            unroll!(R, i => {
                let x = L::splat(*a.add(i));
                sums[i][0] = P::add_product(x, cols[0], sums[i][0]);
                sums[i][1] = P::add_product(x, cols[1], sums[i][1]);
            });
            a = a.add(R);
            b = b.add(2 * L::COUNT);
        }
        if m == R && n == 2 * L::COUNT {
            unroll!(R, i => {
                let to = [c.add(i * stride), c.add(i * stride + L::COUNT)];
                if add {
                    sums[i][0] = sums[i][0].add(L::load(to[0]));
                    sums[i][1] = sums[i][1].add(L::load(to[1]));
                }
                sums[i][0].store(to[0]);
                sums[i][1].store(to[1]);
            });
            return;
        }
        let mut whole = [0f32; MAX_ROWS * MAX_COLS];
        let at = whole.as_mut_ptr();
        unroll!(R, i => {
            sums[i][0].store(at.add(i * MAX_COLS));
            sums[i][1].store(at.add(i * MAX_COLS + L::COUNT));
        });
        for (i, row) in whole.chunks_exact(MAX_COLS).enumerate().take(m) {
            for (j, x) in row.iter().enumerate().take(n) {
                let to = c.add(i * stride + j);
                *to = if add { *to + x } else { *x };
            }
        }
    }
}

/// Defines the code for strips of as many rows as are listed.
macro_rules! code {
    ($(#[$doc:meta])* $vis:vis $table:ident: $lanes:ty, $product:ty $(, $features:literal)?; $($rows:literal)*) => {
        $(#[$doc])*
        $vis static $table: &[Multiply] = {
            $(#[target_feature(enable = $features)])?
            unsafe fn multiply<const R: usize>(
                step: Step,
                depth: usize,
                a: &[f32],
                b: &[f32],
                c: *mut f32,
            ) {
                // SAFETY: passed on to the caller.
                unsafe { tile::<$lanes, $product, R>(step, depth, a, b, c) }
            }
            &[$(multiply::<$rows>),*]
        };
    };
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{__m256, __m512};

    use super::{Multiply, Step, tile};
    use crate::nn::kernels::lanes::{Single, x86::Pairs};

    code!(pub AVX512: __m512, Single, "avx512f"; 1 2 3 4 5 6 7 8 9 10 11 12 13 14);
    code!(pub AVX512_BF16: __m512, Pairs, "avx512f,avx512bf16"; 1 2 3 4 5 6 7 8 9 10 11 12 13 14);
    code!(pub AVX2: __m256, Single, "avx2,fma"; 1 2 3 4 5 6);
}

#[cfg(target_arch = "aarch64")]
code! {
    /// 24 sums, 2 columns and a factor: the processor has 32 registers.
    NEON: std::arch::aarch64::float32x4_t, Single; 1 2 3 4 5 6 7 8 9 10 11 12
}

code!(PORTABLE: Four, Single; 1 2 3 4 5 6 7 8);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::kernels::view::{Shared, filled};

    /// Every tile that this processor runs, also those it would not choose.
    fn tiles() -> Vec<Tile> {
        #[cfg_attr(not(target_arch = "x86_64"), allow(unused_mut))]
        let mut levels = vec![Level::Portable, level()];
        #[cfg(target_arch = "x86_64")]
        if level() > Level::Avx2 {
            levels.push(Level::Avx2);
        }
        let highest = levels
            .into_iter()
            .map(|level| Tile::of_lanes(level, Format::Single));
        // An interpreter takes a minute for each height.
        let step = |tile: &Tile| if cfg!(miri) { tile.rows - 1 } else { 1 };
        highest
            .flat_map(|tile| {
                let heights = (1..=tile.rows).step_by(step(&tile));
                heights.map(move |rows| Tile { rows, ..tile })
            })
            .collect()
    }

    #[test]
    fn a_product_fills_a_block_that_nobody_wrote_before() {
        let Tile { rows, cols, .. } = *TILE;
        let (a, b) = (vec![2.; rows], vec![3.; cols]);
        let write = |shared: Shared| {
            // SAFETY: the block is all of the result.
            let block = unsafe { shared.block(0, cols, rows, cols) };
            TILE.multiply_into(1, &a, &b, block, false);
            Ok(())
        };
        // SAFETY: the product fills the block.
        let out = unsafe { filled(&[rows, cols], write) };
        assert_eq!(out.unwrap(), vec![6.; rows * cols]);
    }

    #[test]
    fn full_and_cut_tiles_hold_the_sums() {
        for tile in tiles() {
            let Tile { rows, cols, .. } = tile;
            let depth = 5;
            let a: Vec<f32> = (0..2 * depth * rows).map(|i| (i % 7) as f32 - 3.).collect();
            let b: Vec<f32> = (0..2 * depth * cols).map(|i| (i % 5) as f32 - 2.).collect();
            let at = |size, k, i| (i / size * depth + k) * size + i % size;
            for (m, n) in [
                (rows, cols),
                (1, 1),
                (rows.div_ceil(2), cols),
                (rows, 3),
                (rows + 1, cols),
                (2 * rows, cols + 2),
            ] {
                let stride = 2 * cols + 2;
                let mut c = vec![1f32; (2 * rows + 1) * stride];
                let mut block = Block::new(&mut c, stride);
                tile.multiply_into(depth, &a, &b, block.rows(0, m).columns(0, n), true);
                for (i, row) in c.chunks_exact(stride).enumerate() {
                    for (j, got) in row.iter().enumerate() {
                        let product = |k| a[at(rows, k, i) % a.len()] * b[at(cols, k, j) % b.len()];
                        let sum: f32 = (0..depth).map(product).sum();
                        let want = if i < m && j < n { 1. + sum } else { 1. };
                        assert_eq!(*got, want, "{m} x {n} at {i}, {j}");
                    }
                }
            }
        }
    }
}
