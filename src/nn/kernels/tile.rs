//! The innermost loop of every matrix product: a tile of sums in registers.
//!
//! Operands are packed so that the loop reads them front to back: the left one in strips of
//! [`Tile::rows`] rows, the right one in panels of [`Tile::cols`] columns, the summation index
//! outermost. The loop is written once and compiled for each instruction set; the widest one that
//! the processor has is chosen at run time.

use std::marker::PhantomData;
use std::sync::LazyLock;

use super::lanes::{Four, Lanes, Product, Single, unroll};
use super::pack::Format;

/// An instruction set that the kernels are compiled for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Level {
    /// What the compiler makes of plain code.
    Portable,
    /// 8 lanes.
    Avx2,
    /// 16 lanes.
    Avx512,
}

/// Names a [`Level`] below the processor's own, for tests and for finding faults.
pub const LEVEL_VARIABLE: &str = "CANDLE_SAM3_CPU";

/// The instruction set that kernels run with: the widest that this processor has, or the lesser
/// one that the environment variable `CANDLE_SAM3_CPU` names: `avx512`, `avx2` or `portable`.
pub fn level() -> Level {
    static LEVEL: LazyLock<Level> = LazyLock::new(|| {
        let widest = widest();
        let Some(name) = std::env::var_os(LEVEL_VARIABLE) else {
            return widest;
        };
        let asked = match name.to_str() {
            Some("avx512") => Level::Avx512,
            Some("avx2") => Level::Avx2,
            Some("portable") => Level::Portable,
            _ => {
                tracing::warn!("{LEVEL_VARIABLE}={name:?} is none of avx512, avx2, portable");
                return widest;
            }
        };
        if asked > widest {
            tracing::warn!("{LEVEL_VARIABLE}={name:?}, but this processor has {widest:?} at most");
        }
        asked.min(widest)
    });
    *LEVEL
}

fn widest() -> Level {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::is_x86_feature_detected as has;
        if has!("avx512f") && has!("avx512dq") && has!("avx512vl") && has!("fma") {
            return Level::Avx512;
        }
        if has!("avx2") && has!("fma") {
            return Level::Avx2;
        }
    }
    Level::Portable
}

/// Whether products of bf16 are faster here than those of f32.
///
/// AMD's processors with the instruction take pairs at the rate of single products; Intel's take
/// longer for a pair than for two products of f32, and are meant to use AMX.
pub fn has_fast_bf16() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::is_x86_feature_detected as has;
        static FAST: LazyLock<bool> = LazyLock::new(|| {
            // Asked last: not every place that runs the other levels has the instruction.
            let is_amd = || {
                let vendor = std::arch::x86_64::__cpuid(0);
                [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes)
                    == [*b"Auth", *b"enti", *b"cAMD"]
            };
            level() == Level::Avx512 && has!("avx512bf16") && has!("avx512bw") && is_amd()
        });
        *FAST
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Defines a function whose body is compiled for each instruction set and run in the widest.
macro_rules! dispatch {
    ($(#[$doc:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)? $body:block) => {
        $(#[$doc])*
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn body($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512dq,avx512vl,fma")]
                fn avx512($($arg: $ty),*) $(-> $ret)? { body($($arg),*) }
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($arg: $ty),*) $(-> $ret)? { body($($arg),*) }
                match $crate::nn::kernels::tile::level() {
                    // SAFETY: `level` reports what this processor has.
                    $crate::nn::kernels::tile::Level::Avx512 => return unsafe { avx512($($arg),*) },
                    // SAFETY: as above.
                    $crate::nn::kernels::tile::Level::Avx2 => return unsafe { avx2($($arg),*) },
                    $crate::nn::kernels::tile::Level::Portable => {}
                }
            }
            body($($arg),*)
        }
    };
}
pub(crate) use dispatch;

/// The shape of a tile of sums, and the code that computes one.
#[derive(Clone, Copy)]
pub struct Tile {
    /// Rows of a strip of the left operand.
    pub rows: usize,
    /// Columns of a panel of the right operand.
    pub cols: usize,
    /// What an element of a strip or panel holds.
    pub format: Format,
    /// Code for strips of 1, 2, … rows.
    code: &'static [Multiply],
}

type Multiply = unsafe fn(Step, usize, &[f32], &[f32], *mut f32);

/// The largest [`Tile::cols`].
pub const MAX_COLS: usize = 32;
/// The largest [`Tile::rows`].
const MAX_ROWS: usize = 14;

/// Where a tile of sums goes.
#[derive(Clone, Copy)]
struct Step {
    stride: usize,
    m: usize,
    n: usize,
    add: bool,
}

/// The tile of this processor for f32, with the most rows.
pub static TILE: LazyLock<Tile> = LazyLock::new(|| Tile::new(level(), Format::Single));

impl Tile {
    /// The tile of this processor with the most rows. Where it has no fast products of bf16, its
    /// format is [`Format::Single`] whatever is asked for.
    pub fn of(format: Format) -> Self {
        match format {
            Format::Pairs if has_fast_bf16() => Self::new(level(), format),
            _ => *TILE,
        }
    }

    fn new(level: Level, format: Format) -> Self {
        let (cols, code): (_, &[Multiply]) = match (level, format) {
            #[cfg(target_arch = "x86_64")]
            (Level::Avx512, Format::Single) => (32, &x86::AVX512),
            #[cfg(target_arch = "x86_64")]
            (Level::Avx512, Format::Pairs) => (32, &x86::AVX512_BF16),
            #[cfg(target_arch = "x86_64")]
            (Level::Avx2, _) => (16, &x86::AVX2),
            _ => (8, &PORTABLE),
        };
        Self {
            rows: code.len(),
            cols,
            format,
            code,
        }
    }

    /// The tile whose strips cover `m` rows with the fewest rows left over, as high as possible.
    pub fn fitting(self, m: usize) -> Self {
        let strips = m.div_ceil(self.code.len()).max(1);
        Self {
            rows: m.div_ceil(strips).max(1),
            ..self
        }
    }

    /// `c[i * stride + j] (+)= Σ a[k * rows + i] * b[k * cols + j]` for `i < m`, `j < n`.
    ///
    /// `a` and `b` hold `depth` steps of a full strip and a full panel; `m` and `n` cut the tile at
    /// the edge of the matrix. With `add` the sums are added to what `c` holds.
    #[allow(clippy::too_many_arguments)]
    pub fn multiply(
        &self,
        depth: usize,
        a: &[f32],
        b: &[f32],
        c: &mut [f32],
        stride: usize,
        (m, n): (usize, usize),
        add: bool,
    ) {
        assert!(m >= 1 && c.len() >= (m - 1) * stride + n);
        // SAFETY: `c` holds m rows of n elements.
        unsafe { self.multiply_at(depth, a, b, c.as_mut_ptr(), stride, (m, n), add) }
    }

    /// Like [`Self::multiply`] with the result in the first rows of a block, as many as it has, but
    /// at most [`Self::rows`]; the same for columns.
    pub fn multiply_into(&self, depth: usize, a: &[f32], b: &[f32], c: Block, add: bool) {
        let (m, n) = (self.rows.min(c.count), self.cols.min(c.width));
        if m > 0 && n > 0 {
            // SAFETY: a block's rows are its own.
            unsafe { self.multiply_at(depth, a, b, c.first, c.stride, (m, n), add) }
        }
    }

    /// Like [`Self::multiply`] with the result at a pointer.
    ///
    /// # Safety
    /// `m` rows of `n` elements, `stride` apart, can be written at `c`, with `add` also read, and
    /// no other thread touches them.
    #[allow(clippy::too_many_arguments)]
    pub unsafe fn multiply_at(
        &self,
        depth: usize,
        a: &[f32],
        b: &[f32],
        c: *mut f32,
        stride: usize,
        (m, n): (usize, usize),
        add: bool,
    ) {
        assert!(a.len() >= depth * self.rows && b.len() >= depth * self.cols);
        assert!(m >= 1 && m <= self.rows && n >= 1 && n <= self.cols);
        // SAFETY: `code` is what this processor runs; the lengths of a and b were checked above,
        // the caller answers for c.
        unsafe { self.code[self.rows - 1](Step { stride, m, n, add }, depth, a, b, c) }
    }
}

/// `R` rows times 2 registers of sums.
///
/// # Safety
/// `a` holds `depth * R` and `b` `depth * 2 * COUNT` elements; `c` is as for
/// [`Tile::multiply_at`]; the processor has the instructions of `L` and `P`.
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

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{__m256, __m512};

    use super::{Multiply, Step, tile};
    use crate::nn::kernels::lanes::{Single, x86::Pairs};

    macro_rules! code {
        ($vis:vis $table:ident[$len:literal]: $features:literal, $lanes:ty, $product:ty; $($rows:literal)*) => {
            $vis static $table: [Multiply; $len] = {
                #[target_feature(enable = $features)]
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
                [$(multiply::<$rows>),*]
            };
        };
    }
    code!(pub AVX512[14]: "avx512f", __m512, Single; 1 2 3 4 5 6 7 8 9 10 11 12 13 14);
    code!(pub AVX512_BF16[14]: "avx512f,avx512bf16", __m512, Pairs; 1 2 3 4 5 6 7 8 9 10 11 12 13 14);
    code!(pub AVX2[6]: "avx2,fma", __m256, Single; 1 2 3 4 5 6);
}

unsafe fn portable<const R: usize>(step: Step, depth: usize, a: &[f32], b: &[f32], c: *mut f32) {
    // SAFETY: passed on to the caller.
    unsafe { tile::<Four, Single, R>(step, depth, a, b, c) }
}

static PORTABLE: [Multiply; 8] = [
    portable::<1>,
    portable::<2>,
    portable::<3>,
    portable::<4>,
    portable::<5>,
    portable::<6>,
    portable::<7>,
    portable::<8>,
];

/// A result of which several tasks fill parts.
#[derive(Clone, Copy)]
pub(super) struct Shared(*mut f32);

// SAFETY: whoever writes through it keeps to parts that no other task touches.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    /// All that `out` has room for, whatever its length.
    pub fn new(out: &mut Vec<f32>) -> Self {
        Self(out.as_mut_ptr())
    }

    /// # Safety
    /// `index` lies inside the room of the vector this was made from.
    pub unsafe fn at(self, index: usize) -> *mut f32 {
        // SAFETY: the caller's promise.
        unsafe { self.0.add(index) }
    }

    /// `count` rows of `width` elements, `stride` apart, the first at `index`.
    ///
    /// # Safety
    /// They lie inside the room of the vector this was made from, which outlives the block and does
    /// not grow, and nobody else touches them as long as it exists.
    pub unsafe fn block<'a>(
        self,
        index: usize,
        stride: usize,
        count: usize,
        width: usize,
    ) -> Block<'a> {
        Block {
            // SAFETY: the caller's promise.
            first: unsafe { self.at(index) },
            stride,
            count,
            width,
            of: PhantomData,
        }
    }
}

/// Rows of a matrix that one task writes.
pub struct Block<'a> {
    first: *mut f32,
    stride: usize,
    count: usize,
    width: usize,
    of: PhantomData<&'a mut [f32]>,
}

impl<'a> Block<'a> {
    /// All of `xs`, in rows of `width` elements.
    pub fn new(xs: &'a mut [f32], width: usize) -> Self {
        Self {
            first: xs.as_mut_ptr(),
            stride: width,
            count: xs.len() / width.max(1),
            width,
            of: PhantomData,
        }
    }

    /// The number of rows.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Elements of a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The elements of row `i`.
    ///
    /// # Panics
    /// When there is no such row.
    pub fn row(&mut self, i: usize) -> &mut [f32] {
        assert!(i < self.count);
        // SAFETY: the row is one of the block's, which is borrowed as long as the slice.
        unsafe { std::slice::from_raw_parts_mut(self.first.add(i * self.stride), self.width) }
    }

    /// Rows `start..start + count`, or as many of them as there are.
    pub fn rows(&mut self, start: usize, count: usize) -> Block<'_> {
        let start = start.min(self.count);
        Block {
            first: self.first.wrapping_add(start * self.stride),
            count: count.min(self.count - start),
            of: PhantomData,
            ..*self
        }
    }

    /// Columns `start..start + width`, or as many of them as there are.
    pub fn columns(&mut self, start: usize, width: usize) -> Block<'_> {
        let start = start.min(self.width);
        Block {
            first: self.first.wrapping_add(start),
            width: width.min(self.width - start),
            of: PhantomData,
            ..*self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every tile that this processor runs, also those it would not choose.
    fn tiles() -> Vec<Tile> {
        let mut levels = vec![Level::Portable, level()];
        #[cfg(target_arch = "x86_64")]
        if level() == Level::Avx512 {
            levels.push(Level::Avx2);
        }
        let highest = levels
            .into_iter()
            .map(|level| Tile::new(level, Format::Single));
        highest
            .flat_map(|tile| (1..=tile.rows).map(move |rows| Tile { rows, ..tile }))
            .collect()
    }

    #[test]
    fn a_product_fills_a_block_that_nobody_wrote_before() {
        let Tile { rows, cols, .. } = *TILE;
        let mut out = Vec::with_capacity(rows * cols);
        // SAFETY: the block is all of `out`.
        let block = unsafe { Shared::new(&mut out).block(0, cols, rows, cols) };
        TILE.multiply_into(1, &vec![2.; rows], &vec![3.; cols], block, false);
        // SAFETY: as many were written.
        unsafe { out.set_len(rows * cols) };
        assert_eq!(out, vec![6.; rows * cols]);
    }

    #[test]
    fn full_and_cut_tiles_hold_the_sums() {
        for tile in tiles() {
            let depth = 5;
            let a: Vec<f32> = (0..depth * tile.rows)
                .map(|i| (i % 7) as f32 - 3.)
                .collect();
            let b: Vec<f32> = (0..depth * tile.cols)
                .map(|i| (i % 5) as f32 - 2.)
                .collect();
            for (m, n) in [
                (tile.rows, tile.cols),
                (1, 1),
                (tile.rows.div_ceil(2), tile.cols),
                (tile.rows, 3),
            ] {
                let stride = tile.cols + 2;
                let mut c = vec![1f32; tile.rows * stride];
                tile.multiply(depth, &a, &b, &mut c, stride, (m, n), true);
                for (i, row) in c.chunks_exact(stride).enumerate() {
                    for (j, got) in row.iter().enumerate() {
                        let sum: f32 = (0..depth)
                            .map(|k| a[k * tile.rows + i] * b[(k * tile.cols + j) % b.len()])
                            .sum();
                        let want = if i < m && j < n { 1. + sum } else { 1. };
                        assert_eq!(*got, want, "{m} x {n} at {i}, {j}");
                    }
                }
            }
        }
    }
}
