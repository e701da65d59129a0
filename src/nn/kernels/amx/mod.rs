//! Products of bf16 and of bytes by AMX: eight registers, here called tiles, of 16 rows of 64 bytes.
//!
//! Four of them hold 32 x 32 sums, two the rows of the left operand, two the columns of the right
//! one; an instruction multiplies 16 rows of 32 bf16, or of 64 bytes, with 16 columns. Numbers split
//! in a high and a low bf16 take three products: high by high, low by high and high by low. Low by
//! low is less than what the parts leave out.
//!
//! Verified by emulating the instructions only, never on a processor that has them, and
//! therefore off unless `CANDLE_SAM3_CPU=amx` asks for it.
//!
//! Configuration and contents of the tiles belong to the thread. Each product configures them and
//! leaves the configuration that it found: another user of AMX may rely on its own.

use std::arch::asm;

use super::view::Block;

/// Rows of a strip, at most.
pub const ROWS: usize = 32;
/// Columns of a panel.
pub const COLS: usize = 32;
/// Rows of a tile, and elements of a row.
const SIDE: usize = 16;

/// How the left operand is cut.
#[derive(Clone, Copy)]
pub struct Strips {
    /// Rows of a strip, at most [`ROWS`].
    pub rows: usize,
    /// Elements of the summation, of both operands: whole tiles.
    pub depth: usize,
    /// What an element of 32 bits is.
    pub elements: Elements,
}

/// What is multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Elements {
    /// Two bf16.
    Pairs,
    /// Two bf16, the high parts of numbers in one tile and the low ones in the next.
    Split,
    /// Four bytes, on the right with a sign. Sums are integers.
    Bytes,
}

/// `c (+)= a b`: `a` holds a strip for each [`Strips::rows`] rows of `c`, `b` a panel for each
/// [`COLS`] columns.
///
/// # Safety
/// The processor has AMX; the operands are as long as that.
pub type Multiply = unsafe fn(Strips, &[f32], &[f32], Block, bool);

/// The code that multiplies at [`Level::Amx`](super::level::Level::Amx).
pub fn code() -> Multiply {
    #[cfg(test)]
    if emulation::is_asked_for() {
        return emulation::multiply;
    }
    |strips, a, b, c, add| {
        // SAFETY: passed on to the caller.
        unsafe {
            multiply(
                &mut Processor,
                strips,
                a.as_ptr().cast(),
                b.as_ptr().cast(),
                c,
                add,
            )
        }
    }
}

/// Sums of 32 bits of products of bytes: `a` holds strips of [`Strips::rows`] rows, `b` a panel of [`COLS`]
/// columns, and the sums are those of all rows of the strips.
///
/// # Safety
/// As of [`Multiply`].
pub type MultiplyBytes = unsafe fn(Strips, &[u32], &[i8], &mut [i32]);

/// See [`code`].
pub fn code_of_bytes() -> MultiplyBytes {
    #[cfg(test)]
    if emulation::is_asked_for() {
        return emulation::multiply_bytes;
    }
    |strips, a, b, sums| {
        // SAFETY: passed on to the caller.
        unsafe { multiply_bytes(&mut Processor, strips, a, b, sums) }
    }
}

/// What LDTILECFG reads.
#[repr(C, align(64))]
#[derive(Debug, Clone, PartialEq, Eq)]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    bytes: [u16; 16], // of a row of each tile
    rows: [u8; 16],   // of each tile
}

impl Configuration {
    const NONE: Self = Self {
        palette: 0,
        start_row: 0,
        reserved: [0; 14],
        bytes: [0; 16],
        rows: [0; 16],
    };

    /// For `m` x `n` sums.
    fn of(m: usize, n: usize) -> Self {
        let mut new = Self {
            palette: 1,
            ..Self::NONE
        };
        let halves = |size: usize| [size.min(SIDE), size.saturating_sub(SIDE)];
        let mut set = |tile: usize, rows: usize, elements: usize| {
            if rows * elements > 0 {
                new.rows[tile] = rows as u8;
                new.bytes[tile] = 4 * elements as u16;
            }
        };
        for (i, m) in halves(m).into_iter().enumerate() {
            set(LEFT + i, m, SIDE);
            for (j, n) in halves(n).into_iter().enumerate() {
                set(2 * i + j, m, n);
            }
        }
        for (j, n) in halves(n).into_iter().enumerate() {
            set(RIGHT + j, SIDE, n);
        }
        new
    }
}

/// The first tile of the left operand; the sums come before.
const LEFT: usize = 4;
/// The first tile of the right operand.
const RIGHT: usize = 6;

/// The instructions, by the numbers of the tiles.
///
/// # Safety
/// The processor has AMX; tiles are configured for what is done with them, and rows of that size
/// lie in memory, `stride` elements apart.
trait Instructions {
    /// STTILECFG: the configuration of this thread.
    unsafe fn configuration(&mut self) -> Configuration;
    /// LDTILECFG
    unsafe fn configure(&mut self, configuration: &Configuration);
    /// TILERELEASE: no configuration any more.
    unsafe fn release(&mut self);
    /// TILEZERO
    unsafe fn zero<const TILE: usize>(&mut self);
    /// TILELOADD
    unsafe fn load<const TILE: usize>(&mut self, from: *const u32, stride: usize);
    /// TILESTORED
    unsafe fn store<const TILE: usize>(&mut self, to: *mut u32, stride: usize);
    /// TDPBF16PS: adds the products of rows of `A` with columns of `B` to `SUM`.
    unsafe fn add_pairs<const SUM: usize, const A: usize, const B: usize>(&mut self);
    /// TDPBUSD: the same for bytes, those of `B` with a sign.
    unsafe fn add_bytes<const SUM: usize, const A: usize, const B: usize>(&mut self);
}

/// Repeats an expression for the tiles of sums that there are, each with its number as a constant
/// and its place: 32 rows have two tiles, one below the other, and so do 32 columns.
macro_rules! each_sum {
    ($has:ident, $sum:ident, $i:ident, $j:ident => $body:expr) => {{
        each_sum!(@ true, $sum, $i, $j => $body; 0);
        each_sum!(@ $has.1, $sum, $i, $j => $body; 1);
        each_sum!(@ $has.0, $sum, $i, $j => $body; 2);
        each_sum!(@ $has.0 && $has.1, $sum, $i, $j => $body; 3);
    }};
    (@ $there:expr, $sum:ident, $i:ident, $j:ident => $body:expr; $number:literal) => {
        if $there {
            const $sum: usize = $number;
            let ($i, $j) = ($sum / 2, $sum % 2);
            $body
        }
    };
}

/// See [`MultiplyBytes`].
///
/// # Safety
/// As it says.
unsafe fn multiply_bytes<I: Instructions>(
    amx: &mut I,
    strips: Strips,
    a: &[u32],
    b: &[i8],
    sums: &mut [i32],
) {
    // SAFETY: both types are 32 bits, and any are valid.
    let sums = unsafe { std::slice::from_raw_parts_mut(sums.as_mut_ptr().cast(), sums.len()) };
    let sums = Block::new(sums, COLS);
    // SAFETY: the caller's promises.
    unsafe { multiply(amx, strips, a.as_ptr(), b.as_ptr().cast(), sums, false) }
}

/// Products of all strips in `a` with all panels in `b`, which need not be aligned.
///
/// # Safety
/// As [`Multiply`] says.
unsafe fn multiply<I: Instructions>(
    amx: &mut I,
    strips: Strips,
    a: *const u32,
    b: *const u32,
    mut c: Block,
    add: bool,
) {
    let Strips { rows, depth, .. } = strips;
    let mut configured = (0, 0);
    // SAFETY: a strip or panel is `depth` elements of its rows or columns, and configured are those
    // that `c` has.
    unsafe {
        let found = amx.configuration();
        for (s, i) in (0..c.count()).step_by(rows).enumerate() {
            for (p, j) in (0..c.width()).step_by(COLS).enumerate() {
                let (a, b) = (a.add(s * depth * rows), b.add(p * depth * COLS));
                let mut c = c.rows(i, rows);
                let c = c.columns(j, COLS);
                let size = (c.count(), c.width());
                if size != configured {
                    amx.configure(&Configuration::of(size.0, size.1));
                    configured = size;
                }
                multiply_one(amx, strips, a, b, c, add);
            }
        }
        match found.palette {
            0 => amx.release(),
            _ => amx.configure(&found),
        }
    }
}

/// The product of one strip with one panel.
///
/// # Safety
/// As [`Multiply`] says; the tiles are configured for the size of `c`.
#[inline(always)]
unsafe fn multiply_one<I: Instructions>(
    amx: &mut I,
    strips: Strips,
    mut a: *const u32,
    mut b: *const u32,
    c: Block,
    add: bool,
) {
    let Strips {
        rows,
        depth,
        elements,
    } = strips;
    let has = (c.count() > SIDE, c.width() > SIDE); // second tiles
    let (stride, to) = (c.stride, |i: usize, j: usize| {
        let first = c.first.cast::<u32>();
        first.wrapping_add(i * SIDE * c.stride + j * SIDE)
    });
    let parts = match elements {
        Elements::Split => 2,
        Elements::Pairs | Elements::Bytes => 1,
    };
    let (a_part, b_part) = (rows * SIDE, SIDE * COLS);
    // SAFETY: the caller's promises.
    unsafe {
        match add {
            true => each_sum!(has, SUM, i, j => amx.load::<SUM>(to(i, j), stride)),
            false => each_sum!(has, SUM, _i, _j => amx.zero::<SUM>()),
        }
        for _ in 0..depth / (parts * SIDE) {
            load_left(amx, has, a);
            load_right(amx, has, b);
            match elements {
                Elements::Bytes => add_bytes(amx, has),
                Elements::Pairs => add_pairs(amx, has),
                Elements::Split => {
                    add_pairs(amx, has);
                    load_left(amx, has, a.add(a_part));
                    add_pairs(amx, has);
                    load_left(amx, has, a);
                    load_right(amx, has, b.add(b_part));
                    add_pairs(amx, has);
                }
            }
            a = a.add(parts * a_part);
            b = b.add(parts * b_part);
        }
        each_sum!(has, SUM, i, j => amx.store::<SUM>(to(i, j), stride));
    }
}

/// # Safety
/// As [`Instructions`] says, for 16 elements of each row.
#[inline(always)]
unsafe fn load_left<I: Instructions>(amx: &mut I, has: (bool, bool), from: *const u32) {
    // SAFETY: the caller's promise.
    unsafe {
        amx.load::<LEFT>(from, SIDE);
        if has.0 {
            amx.load::<{ LEFT + 1 }>(from.add(SIDE * SIDE), SIDE);
        }
    }
}

/// # Safety
/// As [`Instructions`] says, for 16 elements of each column.
#[inline(always)]
unsafe fn load_right<I: Instructions>(amx: &mut I, has: (bool, bool), from: *const u32) {
    // SAFETY: the caller's promise.
    unsafe {
        amx.load::<RIGHT>(from, COLS);
        if has.1 {
            amx.load::<{ RIGHT + 1 }>(from.add(SIDE), COLS);
        }
    }
}

/// # Safety
/// As [`Instructions`] says.
#[inline(always)]
unsafe fn add_pairs<I: Instructions>(amx: &mut I, has: (bool, bool)) {
    // SAFETY: the caller's promise.
    unsafe {
        each_sum!(has, SUM, _i, _j => {
            amx.add_pairs::<SUM, { LEFT + SUM / 2 }, { RIGHT + SUM % 2 }>()
        });
    }
}

/// # Safety
/// As [`Instructions`] says.
#[inline(always)]
unsafe fn add_bytes<I: Instructions>(amx: &mut I, has: (bool, bool)) {
    // SAFETY: the caller's promise.
    unsafe {
        each_sum!(has, SUM, _i, _j => {
            amx.add_bytes::<SUM, { LEFT + SUM / 2 }, { RIGHT + SUM % 2 }>()
        });
    }
}

/// The instructions as they are: those of Rust are not stable yet.
///
/// Tiles keep their contents from one instruction to the next because nothing else uses them: a
/// compiler does so only when asked for it, and the system keeps each thread's.
struct Processor;

/// One instruction; all tiles count as overwritten.
macro_rules! instruction {
    ($text:literal, $($operands:tt)*) => {
        asm!(
            $text,
            $($operands)*
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack, preserves_flags),
        )
    };
}

// SAFETY of each function: the caller's promises, see the trait.
impl Instructions for Processor {
    #[inline(always)]
    unsafe fn configuration(&mut self) -> Configuration {
        let mut now = Configuration::NONE;
        unsafe { instruction!("sttilecfg [{}]", in(reg) &mut now,) }
        now
    }

    #[inline(always)]
    unsafe fn configure(&mut self, configuration: &Configuration) {
        unsafe { instruction!("ldtilecfg [{}]", in(reg) configuration,) }
    }

    #[inline(always)]
    unsafe fn release(&mut self) {
        unsafe { instruction!("tilerelease",) }
    }

    #[inline(always)]
    unsafe fn zero<const TILE: usize>(&mut self) {
        unsafe { instruction!("tilezero tmm{}", const TILE,) }
    }

    #[inline(always)]
    unsafe fn load<const TILE: usize>(&mut self, from: *const u32, stride: usize) {
        unsafe {
            instruction!("tileloadd tmm{}, [{} + 4*{}]", const TILE, in(reg) from, in(reg) stride,)
        }
    }

    #[inline(always)]
    unsafe fn store<const TILE: usize>(&mut self, to: *mut u32, stride: usize) {
        unsafe {
            instruction!("tilestored [{} + 4*{}], tmm{}", in(reg) to, in(reg) stride, const TILE,)
        }
    }

    #[inline(always)]
    unsafe fn add_pairs<const SUM: usize, const A: usize, const B: usize>(&mut self) {
        unsafe { instruction!("tdpbf16ps tmm{}, tmm{}, tmm{}", const SUM, const A, const B,) }
    }

    #[inline(always)]
    unsafe fn add_bytes<const SUM: usize, const A: usize, const B: usize>(&mut self) {
        unsafe { instruction!("tdpbusd tmm{}, tmm{}, tmm{}", const SUM, const A, const B,) }
    }
}

#[cfg(test)]
pub mod emulation;
