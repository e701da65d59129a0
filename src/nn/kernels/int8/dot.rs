//! The innermost loop of products of 8-bit integers: a tile of sums in registers.
//!
//! The left operand, activations in 0..=255, comes in strips of [`Tile::rows`] rows, the right one,
//! weights in -128..=127, in panels of [`Tile::cols`] columns. An element of the summation is as
//! many values as an instruction takes at a time, [`Tile::group`]. All sums are of 32 bits and
//! exact, so every instruction set gives the same: AVX2 has an instruction for bytes, but its sums
//! of two products saturate at 16 bits; its products of 16-bit integers cannot.

use std::sync::LazyLock;

#[cfg(target_arch = "aarch64")]
use super::neon;
#[cfg(target_arch = "x86_64")]
use super::x86;
#[cfg(target_arch = "x86_64")]
use crate::nn::kernels::amx::{self, Elements, Strips};
use crate::nn::kernels::lanes::{instructions, unroll};
use crate::nn::kernels::level::{Level, level};

/// The longest summation, in values: sums of as many products of 255 and -128 fit into 32 bits.
pub const MAX_DEPTH: usize = 1 << 16;

/// The shape of a tile of sums, and the code that computes one.
#[derive(Clone, Copy)]
pub struct Tile {
    /// Rows of a strip.
    pub rows: usize,
    /// Columns of a panel.
    pub cols: usize,
    /// Values of an element: 4 or 8 bytes, or on the left 2 integers of 16 bits.
    pub group: usize,
    /// What is taken from the bytes of the left operand before they are multiplied: half of their range where
    /// the instruction takes signed bytes.
    pub offset: u8,
    code: Code,
}

#[derive(Clone, Copy)]
enum Code {
    /// In registers of sums: code for strips of 1, 2, … rows, whose elements lie side by side.
    Lanes(&'static [Multiply]),
    /// In tiles of AMX: 16 elements of each row lie side by side, then those of the next.
    #[cfg(target_arch = "x86_64")]
    Amx(amx::MultiplyBytes),
}

/// Elements of a row that a tile of AMX holds.
#[cfg(target_arch = "x86_64")]
const SIDE: usize = 16;

/// The number of elements, a strip, a panel, the sums of a tile.
pub(super) type Multiply = unsafe fn(usize, &[u32], &[i8], &mut [i32]);

/// The tile of this processor, with the most rows.
pub static TILE: LazyLock<Tile> = LazyLock::new(|| Tile::of(level()));

/// Defines the tile of `$sums` whose strips have at most as many rows as are listed from 1 on.
macro_rules! tile_of {
    ($(#[$doc:meta])* $tile:ident: $sums:ty $(, $features:literal)?; $($rows:literal)*) => {
        $(#[$doc])*
        pub const $tile: $crate::nn::kernels::int8::dot::Tile = {
            use $crate::nn::kernels::int8::dot::{Tile, tile};
            $(#[target_feature(enable = $features)])?
            unsafe fn multiply<const R: usize>(
                depth: usize,
                a: &[u32],
                b: &[i8],
                to: &mut [i32],
            ) {
                // SAFETY: passed on to the caller.
                unsafe { tile::<$sums, R>(depth, a, b, to) }
            }
            Tile::of_lanes::<$sums>(&[$(multiply::<$rows>),*])
        };
    };
}
pub(super) use tile_of;

impl Tile {
    /// The best of this processor up to `level`.
    fn of(level: Level) -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            match level {
                Level::Amx => Self::of_amx(amx::code_of_bytes()),
                Level::Avx512 if has!("avx512vnni") => x86::AVX512_VNNI,
                Level::Avx512 | Level::Avx2 if has!("avxvnni") => x86::AVX_VNNI,
                Level::Avx512 | Level::Avx2 => x86::AVX2,
                Level::Neon | Level::Portable => x86::SSE2,
            }
        }
        #[cfg(target_arch = "aarch64")]
        {
            use std::arch::is_aarch64_feature_detected as has;
            match level {
                Level::Portable => PORTABLE,
                _ if has!("i8mm") => neon::MATRIX,
                _ if has!("dotprod") => neon::DOT,
                _ => neon::WORDS,
            }
        }
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        {
            let _ = level;
            PORTABLE
        }
    }

    /// Of [`tile`] for 1, 2, … rows.
    pub(super) const fn of_lanes<S: Sums>(code: &'static [Multiply]) -> Self {
        Self::of_code(2 * S::COUNT, S::GROUP, S::OFFSET, code)
    }

    /// Of code for strips of 1, 2, … rows.
    pub(super) const fn of_code(
        cols: usize,
        group: usize,
        offset: u8,
        code: &'static [Multiply],
    ) -> Self {
        Self {
            rows: code.len(),
            cols,
            group,
            offset,
            code: Code::Lanes(code),
        }
    }

    #[cfg(target_arch = "x86_64")]
    fn of_amx(code: amx::MultiplyBytes) -> Self {
        Self {
            rows: amx::ROWS,
            cols: amx::COLS,
            group: 4,
            offset: 0,
            code: Code::Amx(code),
        }
    }

    /// The tile whose strips cover `m` rows with the least work, as high as possible.
    pub fn fitting(self, m: usize) -> Self {
        let most = match self.code {
            Code::Lanes(code) => code.len(),
            #[cfg(target_arch = "x86_64")]
            Code::Amx(_) => amx::ROWS,
        };
        let rows = m.div_ceil(m.div_ceil(most).max(1)).max(1);
        // Two rows at a time with elements of 8 bytes.
        let rows = rows.next_multiple_of(self.words());
        Self { rows, ..self }
    }

    /// Words of an element on the left.
    fn words(&self) -> usize {
        self.group.div_ceil(4)
    }

    /// Words of a strip of rows of `len` values.
    pub fn strip(&self, len: usize) -> usize {
        self.elements(len) * self.words() * self.rows
    }

    /// Elements that hold `len` values. Of weights, zeros fill up the last ones.
    pub fn elements(&self, len: usize) -> usize {
        let elements = len.div_ceil(self.group);
        match self.code {
            Code::Lanes(_) => elements,
            #[cfg(target_arch = "x86_64")]
            Code::Amx(_) => elements.next_multiple_of(SIDE),
        }
    }

    /// Puts a row of values between those of its strip.
    pub fn pack_row(&self, values: &[u8], i: usize, strip: &mut [u32]) {
        match self.code {
            Code::Lanes(_) => {
                let words = self.words();
                let Some(strip) = strip.get_mut(i * words..) else {
                    return; // no values
                };
                match words {
                    1 => self.pack(values, strip.iter_mut().step_by(self.rows)),
                    _ => {
                        let elements = strip.chunks_mut(words).step_by(self.rows);
                        self.pack(values, elements.flatten());
                    }
                }
            }
            #[cfg(target_arch = "x86_64")]
            Code::Amx(_) => {
                let tiles = strip.chunks_exact_mut(self.rows * SIDE);
                for (tile, values) in tiles.zip(values.chunks(SIDE * self.group)) {
                    self.pack(values, tile[i * SIDE..][..SIDE].iter_mut());
                }
            }
        }
    }

    /// Writes values as elements.
    fn pack<'a>(&self, values: &[u8], to: impl Iterator<Item = &'a mut u32>) {
        match self.group {
            2 => {
                let (pairs, rest) = values.as_chunks();
                let rest = rest.first().map(|last| [*last, 0]);
                let element = |[low, high]: [u8; 2]| u32::from(low) | u32::from(high) << 16;
                let elements = pairs.iter().copied().chain(rest);
                to.zip(elements).for_each(|(to, pair)| *to = element(pair));
            }
            _ => {
                let (fours, rest) = values.as_chunks();
                let rest = (!rest.is_empty()).then(|| {
                    let mut last = [0; 4];
                    last[..rest.len()].copy_from_slice(rest);
                    last
                });
                let elements = fours.iter().copied().chain(rest);
                let offset = u32::from_le_bytes([self.offset; 4]); // its bit alone: nothing is carried
                to.zip(elements)
                    .for_each(|(to, four)| *to = u32::from_le_bytes(four) ^ offset);
            }
        }
    }

    /// `to[i][j] = Σ (strips[k][i] - offset) * panel[k][j]` over `depth` elements, for all rows of the strips
    /// that `to` has and all [`Self::cols`].
    ///
    /// # Panics
    /// When the operands are too short, or `to` is not one of whole strips.
    pub fn multiply(&self, depth: usize, strips: &[u32], panel: &[i8], to: &mut [i32]) {
        let holds = |len: usize, width: usize| {
            let all = depth.checked_mul(width);
            all.is_some_and(|all| len >= all)
        };
        let sums = self.rows * self.cols;
        assert!(to.len().is_multiple_of(sums));
        assert!(holds(strips.len(), to.len() / self.cols * self.words()));
        assert!(holds(panel.len(), self.cols * self.group));
        match self.code {
            Code::Lanes(code) => {
                let strips = strips.chunks((depth * self.words() * self.rows).max(1));
                let strips = strips.chain(std::iter::repeat(&[][..])); // of no elements
                for (to, strip) in to.chunks_exact_mut(sums).zip(strips) {
                    // SAFETY: the lengths were checked; the code is what this processor runs.
                    unsafe { code[self.rows - 1](depth, strip, panel, to) }
                }
            }
            #[cfg(target_arch = "x86_64")]
            Code::Amx(code) => {
                let tiles = Strips {
                    rows: self.rows,
                    depth,
                    elements: Elements::Bytes,
                };
                // SAFETY: as above.
                unsafe { code(tiles, strips, panel, to) }
            }
        }
    }
}

/// A register of 32-bit sums.
///
/// # Safety
/// The functions may only run on a processor that has the type's instructions. Pointers are good
/// for [`Self::COUNT`] sums or elements, aligned or not.
pub(super) trait Sums: Copy {
    /// Sums of a register.
    const COUNT: usize;
    /// Values of an element.
    const GROUP: usize;
    /// See [`Tile::offset`].
    const OFFSET: u8 = 0;
    /// An element of the left operand in each lane.
    type Left: Copy;
    /// An element of the right operand for each lane.
    type Right: Copy;
    unsafe fn zero() -> Self;
    unsafe fn splat(element: u32) -> Self::Left;
    unsafe fn load(from: *const i8) -> Self::Right;
    unsafe fn add_products(self, left: Self::Left, right: Self::Right) -> Self;
    unsafe fn store(self, to: *mut i32);
}

/// `R` rows times 2 registers of sums.
///
/// # Safety
/// `a` holds `depth * R` elements, `b` `depth * 2 * COUNT` and `to` `R * 2 * COUNT` sums; the
/// processor has the instructions of `S`.
#[inline(always)]
pub(super) unsafe fn tile<S: Sums, const R: usize>(
    depth: usize,
    a: &[u32],
    b: &[i8],
    to: &mut [i32],
) {
    // SAFETY: the caller's promises.
    unsafe {
        let mut sums = [[S::zero(); 2]; R];
        let (mut a, mut b) = (a.as_ptr(), b.as_ptr());
        for _ in 0..depth {
            let cols = [S::load(b), S::load(b.add(S::COUNT * S::GROUP))];
            unroll!(R, i => {
                let x = S::splat(*a.add(i));
                sums[i][0] = sums[i][0].add_products(x, cols[0]);
                sums[i][1] = sums[i][1].add_products(x, cols[1]);
            });
            a = a.add(R);
            b = b.add(2 * S::COUNT * S::GROUP);
        }
        let to = to.as_mut_ptr();
        unroll!(R, i => {
            sums[i][0].store(to.add(2 * i * S::COUNT));
            sums[i][1].store(to.add((2 * i + 1) * S::COUNT));
        });
    }
}

/// Four sums of pairs.
type Four = [i32; 4];

impl Sums for Four {
    const COUNT: usize = 4;
    const GROUP: usize = 2;
    type Left = [i16; 2];
    type Right = [[i16; 2]; 4];
    instructions! {
        zero() -> Self = [0; 4];
        splat(element: u32) -> [i16; 2] = [element as i16, (element >> 16) as i16];
        load(from: *const i8) -> [[i16; 2]; 4] = {
            let bytes = from.cast::<[[i8; 2]; 4]>().read_unaligned();
            bytes.map(|pair| pair.map(i16::from))
        };
        add_products(self: Self, left: [i16; 2], right: [[i16; 2]; 4]) -> Self = {
            let product = |i: usize| i32::from(left[i]);
            let mut sums = self;
            for (sum, right) in sums.iter_mut().zip(right) {
                *sum += product(0) * i32::from(right[0]) + product(1) * i32::from(right[1]);
            }
            sums
        };
        store(self: Self, to: *mut i32) -> () = to.cast::<Self>().write_unaligned(self);
    }
}

tile_of! {
    /// What the compiler makes of plain code. On x86-64, which always has SSE2, in tests only: it makes
    /// a slow loop of it there.
    #[cfg_attr(target_arch = "x86_64", allow(dead_code))]
    PORTABLE: Four; 1 2 3 4
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Every tile that this processor runs, also those it would not choose, and those of AVX-512 VNNI and AMX
    /// with their instructions emulated.
    pub fn tiles() -> Vec<Tile> {
        let mut tiles = vec![PORTABLE, Tile::of(level()), EMULATED];
        #[cfg(target_arch = "x86_64")]
        {
            for (level, tile) in [
                (Level::Portable, x86::SSE2),
                (Level::Avx2, x86::AVX2),
                (Level::Avx512, Tile::of(Level::Avx2)),
            ] {
                if super::level() >= level {
                    tiles.push(tile);
                }
            }
            tiles.push(Tile::of_amx(amx::emulation::multiply_bytes));
        }
        #[cfg(target_arch = "aarch64")]
        {
            tiles.push(neon::WORDS);
            if std::arch::is_aarch64_feature_detected!("dotprod") {
                tiles.push(neon::DOT);
            }
        }
        tiles
    }

    /// VPDPBUSD on 16 sums, by the letter of Intel's manual.
    impl Sums for [i32; 16] {
        const COUNT: usize = 16;
        const GROUP: usize = 4;
        type Left = [u8; 4];
        type Right = [[i8; 4]; 16];

        unsafe fn zero() -> Self {
            [0; 16]
        }

        unsafe fn splat(element: u32) -> [u8; 4] {
            element.to_le_bytes()
        }

        unsafe fn load(from: *const i8) -> Self::Right {
            // SAFETY: the caller's promise.
            unsafe { from.cast::<Self::Right>().read_unaligned() }
        }

        unsafe fn add_products(mut self, left: [u8; 4], right: Self::Right) -> Self {
            for (sum, right) in self.iter_mut().zip(right) {
                for (x, w) in left.iter().zip(right) {
                    *sum += i32::from(i16::from(*x) * i16::from(w));
                }
            }
            self
        }

        unsafe fn store(self, to: *mut i32) {
            // SAFETY: the caller's promise.
            unsafe { to.cast::<Self>().write_unaligned(self) }
        }
    }

    tile_of!(EMULATED: [i32; 16]; 1 2 3);

    #[test]
    fn the_largest_products_do_not_saturate() {
        for tile in tiles() {
            let k = 64;
            let mut strip = vec![0; tile.strip(k)];
            for i in 0..tile.rows {
                tile.pack_row(&[255; 64], i, &mut strip);
            }
            for weight in [i8::MIN, i8::MAX] {
                let panel = vec![weight; k * tile.cols];
                let mut sums = vec![0; tile.rows * tile.cols];
                tile.multiply(tile.elements(k), &strip, &panel, &mut sums);
                let want = (255 - i32::from(tile.offset)) * i32::from(weight) * 64;
                assert!(sums.iter().all(|sum| *sum == want), "{sums:?} {want}");
            }
        }
    }

    #[test]
    #[should_panic]
    fn a_panel_that_is_too_short_is_refused() {
        let tile = *TILE;
        let mut sums = vec![0; tile.rows * tile.cols];
        tile.multiply(2, &vec![0; tile.strip(2 * tile.group)], &[0; 3], &mut sums);
    }
}
