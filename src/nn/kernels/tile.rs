//! The innermost loop of every matrix product: a tile of sums in registers.
//!
//! Operands are packed so that the loop reads them front to back: the left one in strips of
//! [`Tile::rows`] rows, the right one in panels of [`Tile::cols`] columns, the summation index
//! outermost. The loop is written once and compiled for each instruction set; the widest one that
//! the processor has is chosen at run time.

use std::sync::LazyLock;

/// What the processor can do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Level {
    /// 16 lanes.
    Avx512,
    /// 8 lanes.
    Avx2,
    /// What the compiler makes of plain code.
    Portable,
}

/// The widest instruction set that this processor has.
pub fn level() -> Level {
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
    multiply: unsafe fn(Step, usize, &[f32], &[f32], *mut f32),
}

/// The largest [`Tile::cols`].
pub const MAX_COLS: usize = 32;

/// Where a tile of sums goes.
#[derive(Clone, Copy)]
struct Step {
    stride: usize,
    m: usize,
    n: usize,
    add: bool,
}

/// The tile of this processor.
pub static TILE: LazyLock<Tile> = LazyLock::new(|| match level() {
    #[cfg(target_arch = "x86_64")]
    Level::Avx512 => Tile {
        rows: 14,
        cols: 32,
        multiply: x86::avx512,
    },
    #[cfg(target_arch = "x86_64")]
    Level::Avx2 => Tile {
        rows: 6,
        cols: 16,
        multiply: x86::avx2,
    },
    _ => Tile {
        rows: 8,
        cols: 8,
        multiply: portable,
    },
});

impl Tile {
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

    /// Like [`Self::multiply`] with the result at a pointer.
    ///
    /// # Safety
    /// `m` rows of `n` elements, `stride` apart, can be read and written at `c`, and no other
    /// thread touches them.
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
        // SAFETY: `TILE` holds code that this processor runs; the lengths of a and b were checked
        // above, the caller answers for c.
        unsafe { (self.multiply)(Step { stride, m, n, add }, depth, a, b, c) }
    }
}

/// A register of f32 lanes.
trait Lanes: Copy {
    const COUNT: usize;
    unsafe fn splat(x: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    unsafe fn add(self, other: Self) -> Self;
    /// `self * b + c`
    unsafe fn mul_add(self, b: Self, c: Self) -> Self;
}

/// `R` rows times `P` registers of sums.
///
/// # Safety
/// `a` holds `depth * R` and `b` `depth * P * COUNT` elements; `c` is as for
/// [`Tile::multiply_at`]; the processor has the instructions of `L`.
#[inline(always)]
unsafe fn tile<L: Lanes, const R: usize, const P: usize>(
    step: Step,
    depth: usize,
    a: &[f32],
    b: &[f32],
    c: *mut f32,
) {
    let Step { stride, m, n, add } = step;
    // SAFETY: the caller's promises, see above.
    unsafe {
        let mut sums = [[L::splat(0.); P]; R];
        let (mut a, mut b) = (a.as_ptr(), b.as_ptr());
        for _ in 0..depth {
            let mut cols = [L::splat(0.); P];
            for (p, col) in cols.iter_mut().enumerate() {
                *col = L::load(b.add(p * L::COUNT));
            }
            for (i, row) in sums.iter_mut().enumerate() {
                let x = L::splat(*a.add(i));
                for (sum, col) in row.iter_mut().zip(cols) {
                    *sum = x.mul_add(col, *sum);
                }
            }
            a = a.add(R);
            b = b.add(P * L::COUNT);
        }
        if m == R && n == P * L::COUNT {
            for (i, row) in sums.iter().enumerate() {
                for (p, sum) in row.iter().enumerate() {
                    let to = c.add(i * stride + p * L::COUNT);
                    let sum = if add { sum.add(L::load(to)) } else { *sum };
                    sum.store(to);
                }
            }
            return;
        }
        let mut edge = [0f32; MAX_COLS];
        for (i, row) in sums.iter().enumerate().take(m) {
            for (p, sum) in row.iter().enumerate() {
                sum.store(edge.as_mut_ptr().add(p * L::COUNT));
            }
            for (j, x) in edge.iter().enumerate().take(n) {
                let to = c.add(i * stride + j);
                *to = if add { *to + x } else { *x };
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Lanes, Step, tile};
    use std::arch::x86_64::*;

    macro_rules! lanes {
        ($reg:ty, $count:literal, $splat:ident, $load:ident, $store:ident, $add:ident, $fma:ident) => {
            // SAFETY of each call: whoever uses these lanes has checked for their instructions.
            impl Lanes for $reg {
                const COUNT: usize = $count;
                #[inline(always)]
                unsafe fn splat(x: f32) -> Self {
                    unsafe { $splat(x) }
                }
                #[inline(always)]
                unsafe fn load(from: *const f32) -> Self {
                    unsafe { $load(from) }
                }
                #[inline(always)]
                unsafe fn store(self, to: *mut f32) {
                    unsafe { $store(to, self) }
                }
                #[inline(always)]
                unsafe fn add(self, other: Self) -> Self {
                    unsafe { $add(self, other) }
                }
                #[inline(always)]
                unsafe fn mul_add(self, b: Self, c: Self) -> Self {
                    unsafe { $fma(self, b, c) }
                }
            }
        };
    }
    lanes!(
        __m512,
        16,
        _mm512_set1_ps,
        _mm512_loadu_ps,
        _mm512_storeu_ps,
        _mm512_add_ps,
        _mm512_fmadd_ps
    );
    lanes!(
        __m256,
        8,
        _mm256_set1_ps,
        _mm256_loadu_ps,
        _mm256_storeu_ps,
        _mm256_add_ps,
        _mm256_fmadd_ps
    );

    #[target_feature(enable = "avx512f")]
    pub unsafe fn avx512(step: Step, depth: usize, a: &[f32], b: &[f32], c: *mut f32) {
        // SAFETY: passed on to the caller.
        unsafe { tile::<__m512, 14, 2>(step, depth, a, b, c) }
    }

    #[target_feature(enable = "avx2,fma")]
    pub unsafe fn avx2(step: Step, depth: usize, a: &[f32], b: &[f32], c: *mut f32) {
        // SAFETY: passed on to the caller.
        unsafe { tile::<__m256, 6, 2>(step, depth, a, b, c) }
    }
}

/// Four lanes that a compiler turns into one register where there is one.
#[derive(Clone, Copy)]
struct Four([f32; 4]);

// SAFETY of each function: plain code; pointers are as the caller promises.
impl Lanes for Four {
    const COUNT: usize = 4;
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Self([x; 4])
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        Self(unsafe { from.cast::<[f32; 4]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { to.cast::<[f32; 4]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] + other.0[i]))
    }
    #[inline(always)]
    unsafe fn mul_add(self, b: Self, c: Self) -> Self {
        Self(std::array::from_fn(|i| {
            super::math::fma(self.0[i], b.0[i], c.0[i])
        }))
    }
}

unsafe fn portable(step: Step, depth: usize, a: &[f32], b: &[f32], c: *mut f32) {
    // SAFETY: passed on to the caller.
    unsafe { tile::<Four, 8, 2>(step, depth, a, b, c) }
}

/// A pointer into a result whose columns several tasks fill.
#[derive(Clone, Copy)]
pub(super) struct Shared(*mut f32);

// SAFETY: whoever writes through it keeps to columns that no other task touches.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    pub fn new(out: &mut [f32]) -> Self {
        Self(out.as_mut_ptr())
    }

    /// # Safety
    /// `index` lies inside the slice this was made from.
    pub unsafe fn at(self, index: usize) -> *mut f32 {
        // SAFETY: the caller's promise.
        unsafe { self.0.add(index) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every tile that this processor runs, also those it would not choose.
    fn tiles() -> Vec<Tile> {
        let mut tiles = vec![
            Tile {
                rows: 8,
                cols: 8,
                multiply: portable,
            },
            *TILE,
        ];
        #[cfg(target_arch = "x86_64")]
        if level() != Level::Portable {
            tiles.push(Tile {
                rows: 6,
                cols: 16,
                multiply: x86::avx2,
            });
        }
        tiles
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
                (tile.rows - 1, tile.cols),
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
