//! The instructions in plain code, as Intel's manual defines them, for processors without AMX.
//!
//! What the processor answers with a fault is a panic here.

use super::{Block, Configuration, Elements, Instructions, SIDE, Strips};
use crate::nn::kernels::level::{EMULATED_AMX, LEVEL_VARIABLE};

/// Whether [`LEVEL_VARIABLE`] asks for it.
pub fn is_asked_for() -> bool {
    std::env::var_os(LEVEL_VARIABLE).is_some_and(|name| name == EMULATED_AMX)
}

/// A [`super::Multiply`].
///
/// # Safety
/// As there; no processor needs to have AMX.
pub unsafe fn multiply(strips: Strips, a: &[f32], b: &[f32], c: Block, add: bool) {
    // SAFETY: the caller's promise.
    unsafe {
        super::multiply(
            &mut Emulation::new(),
            strips,
            a.as_ptr().cast(),
            b.as_ptr().cast(),
            c,
            add,
        )
    }
}

/// A [`super::MultiplyBytes`].
///
/// # Safety
/// As there; no processor needs to have AMX.
pub unsafe fn multiply_bytes(strips: Strips, a: &[u32], b: &[i8], sums: &mut [i32]) {
    // SAFETY: the caller's promise.
    unsafe { super::multiply_bytes(&mut Emulation::new(), strips, a, b, sums) }
}

struct Emulation {
    configuration: Configuration,
    tiles: [[[u32; SIDE]; SIDE]; 8],
}

impl Emulation {
    fn new() -> Self {
        Self {
            configuration: Configuration::NONE,
            tiles: [[[0; SIDE]; SIDE]; 8],
        }
    }

    /// Rows of a tile, and elements of a row.
    fn size(&self, tile: usize) -> (usize, usize) {
        let Configuration { rows, bytes, .. } = &self.configuration;
        assert!(
            rows[tile] > 0 && bytes[tile] > 0,
            "tile {tile} is not configured"
        );
        (usize::from(rows[tile]), usize::from(bytes[tile]) / 4)
    }

    /// Rows, depth and columns of a product, in elements.
    fn product<const SUM: usize, const A: usize, const B: usize>(&self) -> [usize; 3] {
        let ((m, n), depth) = (self.size(SUM), self.size(A).1);
        assert!(SUM != A && SUM != B && A != B);
        assert!(self.size(A) == (m, depth) && self.size(B) == (depth, n));
        [m, depth, n]
    }
}

/// Numbers too small for the usual precision count as 0.
fn flushed(x: f32) -> f32 {
    match x.abs() < f32::MIN_POSITIVE {
        true => 0f32.copysign(x),
        false => x,
    }
}

/// The lower and the upper bf16 of an element.
fn halves(pair: u32) -> [f32; 2] {
    [pair << 16, pair & 0xffff_0000].map(|bits| flushed(f32::from_bits(bits)))
}

impl Instructions for Emulation {
    unsafe fn configuration(&mut self) -> Configuration {
        self.configuration.clone()
    }

    unsafe fn configure(&mut self, new: &Configuration) {
        assert_eq!(new.palette, 1);
        assert_eq!((new.start_row, new.reserved), (0, [0; 14]));
        assert!(new.rows[8..].iter().all(|x| *x == 0) && new.bytes[8..].iter().all(|x| *x == 0));
        for (rows, bytes) in new.rows.iter().zip(&new.bytes) {
            assert!(usize::from(*rows) <= SIDE && *bytes <= 64);
            assert_eq!(*rows == 0, *bytes == 0);
        }
        self.tiles = [[[0; SIDE]; SIDE]; 8];
        self.configuration = new.clone();
    }

    unsafe fn release(&mut self) {
        *self = Self::new();
    }

    unsafe fn zero<const TILE: usize>(&mut self) {
        self.size(TILE);
        self.tiles[TILE] = [[0; SIDE]; SIDE];
    }

    unsafe fn load<const TILE: usize>(&mut self, from: *const u32, stride: usize) {
        let (rows, elements) = self.size(TILE);
        self.tiles[TILE] = [[0; SIDE]; SIDE];
        for (i, row) in self.tiles[TILE].iter_mut().take(rows).enumerate() {
            for (j, x) in row.iter_mut().take(elements).enumerate() {
                // SAFETY: the caller's promise.
                *x = unsafe { from.add(i * stride + j).read_unaligned() };
            }
        }
    }

    unsafe fn store<const TILE: usize>(&mut self, to: *mut u32, stride: usize) {
        let (rows, elements) = self.size(TILE);
        for (i, row) in self.tiles[TILE].iter().take(rows).enumerate() {
            for (j, x) in row.iter().take(elements).enumerate() {
                // SAFETY: the caller's promise.
                unsafe { to.add(i * stride + j).write_unaligned(*x) }
            }
        }
    }

    unsafe fn add_pairs<const SUM: usize, const A: usize, const B: usize>(&mut self) {
        let [m, depth, n] = self.product::<SUM, A, B>();
        let (a, b) = (self.tiles[A], self.tiles[B].map(|row| row.map(halves)));
        for (row, a) in self.tiles[SUM].iter_mut().zip(a).take(m) {
            let mut sums = [[0f32; 2]; SIDE];
            for (x, b) in a.into_iter().map(halves).zip(&b).take(depth) {
                for (sum, y) in sums.iter_mut().zip(b) {
                    // Products of bf16 fit f32 without rounding.
                    *sum = [0, 1].map(|half| flushed(sum[half] + flushed(x[half] * y[half])));
                }
            }
            for (to, sum) in row.iter_mut().zip(sums).take(n) {
                let sum = flushed(sum[0] + sum[1]);
                *to = flushed(flushed(f32::from_bits(*to)) + sum).to_bits();
            }
        }
    }

    unsafe fn add_bytes<const SUM: usize, const A: usize, const B: usize>(&mut self) {
        let [m, depth, n] = self.product::<SUM, A, B>();
        let (a, b) = (self.tiles[A], self.tiles[B]);
        for (row, a) in self.tiles[SUM].iter_mut().zip(a).take(m) {
            for (x, b) in a.into_iter().zip(&b).take(depth) {
                for (to, y) in row.iter_mut().zip(b).take(n) {
                    for (x, y) in x.to_le_bytes().into_iter().zip(y.to_le_bytes()) {
                        let product = i32::from(x) * i32::from(y as i8);
                        *to = (*to as i32).wrapping_add(product) as u32;
                    }
                }
            }
        }
    }
}

mod tests {
    use super::*;
    use crate::nn::kernels::layout::{Format, Layout};
    use crate::nn::kernels::level::{Level, has_bf16, level};
    use crate::nn::kernels::pack::{stack, transpose};
    use crate::nn::kernels::random;
    use crate::nn::kernels::tile::Tile;
    use crate::nn::kernels::view::Rows;

    /// Tiles of AMX, if this run can pack their operands.
    fn tiles() -> Vec<Tile> {
        let formats = match has_bf16() && level() >= Level::Avx512 {
            true => vec![Format::Pairs, Format::Split],
            false => vec![],
        };
        let tiles = formats.into_iter();
        tiles.map(|format| Tile::of_amx(format, multiply)).collect()
    }

    /// Rows in pieces of `size`, one behind the other.
    fn packed(xs: Rows, size: usize, layout: Layout) -> Vec<f32> {
        let piece = layout.elements(xs.len) * size;
        let mut to = vec![f32::NAN; xs.count.div_ceil(size) * piece];
        for (i, to) in to.chunks_exact_mut(piece.max(1)).enumerate() {
            transpose(xs.rows(i * size, size), 1., layout, Block::new(to, size));
        }
        to
    }

    /// a (m, k), b (n, k) -> (m, n), added to ones
    fn product(tile: Tile, a: &[f32], b: &[f32], [m, k, n]: [usize; 3]) -> Vec<f32> {
        let tile = tile.fitting(m);
        let a = packed(Rows::new(a, k, m, k), tile.rows, tile.left);
        let b = packed(Rows::new(b, k, n, k), tile.cols, tile.right);
        let mut c = vec![1f32; m * (n + 1)];
        let depth = tile.left.elements(k);
        let mut all = Block::new(&mut c, n + 1);
        tile.multiply_into(depth, &a, &b, all.columns(0, n), true);
        assert!(
            c.chunks_exact(n + 1).all(|row| row[n] == 1.),
            "writes beyond a row"
        );
        let mut again = vec![f32::NAN; m * (n + 1)];
        let mut all = Block::new(&mut again, n + 1);
        tile.multiply_into(depth, &a, &b, all.columns(0, n), false);
        for (x, added) in again.iter().zip(&c) {
            assert!(x.is_nan() || x == added || (x + 1. - added).abs() < 1e-5);
        }
        c.chunks_exact(n + 1)
            .flat_map(|row| &row[..n])
            .copied()
            .collect()
    }

    #[test]
    fn sums_of_all_sizes_are_as_close_as_their_format_promises() {
        let sizes = [1, 2, 15, 16, 17, 31, 32, 33, 70];
        let depths = (0..=100).flat_map(|k| {
            let (m, n) = (sizes[k % 9], sizes[k / 9 % 9]);
            [[m, k, n], [n, k, m]]
        });
        for tile in tiles() {
            for [m, k, n] in depths.clone().chain([[40, 1000, 40]]) {
                let (a, b) = (random(m * k, 1), random(n * k, 2));
                let got = product(tile, &a, &b, [m, k, n]);
                let (mut error, mut norm) = (0f64, 0f64);
                for (at, got) in got.iter().enumerate() {
                    let (i, j) = (at / n, at % n);
                    let (a, b) = (&a[i * k..][..k], &b[j * k..][..k]);
                    let products = a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b));
                    let want = 1. + products.clone().sum::<f64>();
                    error += (f64::from(*got) - want).powi(2);
                    norm += products.map(|x| x * x).sum::<f64>();
                }
                let (relative, format) = ((error / norm.max(1e-9)).sqrt(), tile.format);
                let limit = match format {
                    Format::Pairs => 5e-3,
                    _ => 1.5e-5,
                };
                assert!(relative < limit, "{format:?} {m}x{k}x{n}: {relative:.1e}");
            }
        }
    }

    #[test]
    fn columns_become_rows_of_the_left_operand() {
        for tile in tiles() {
            let (m, k, n) = (21, 45, 8);
            let (a, b) = (random(m * k, 1), random(n * k, 2));
            let turned: Vec<f32> = (0..m * k).map(|at| a[at % m * k + at / m]).collect();
            let tile = tile.fitting(m);
            let depth = tile.left.elements(k);
            let mut strip = vec![f32::NAN; depth * m];
            stack(
                Rows::new(&turned, m, k, m),
                tile.left,
                Block::new(&mut strip, m),
            );
            assert_eq!(strip, packed(Rows::new(&a, k, m, k), m, tile.left));
            let turned: Vec<f32> = (0..n * k).map(|at| b[at % n * k + at / n]).collect();
            let mut panel = vec![f32::NAN; depth * tile.cols];
            let columns = Rows::new(&turned, n, k, n);
            stack(columns, tile.right, Block::new(&mut panel, tile.cols));
            assert_eq!(panel, packed(Rows::new(&b, k, n, k), tile.cols, tile.right));
        }
    }

    #[test]
    fn infinity_stays_so_and_what_is_not_a_number_too() {
        for tile in tiles() {
            let (m, k, n) = (20, 40, 3);
            // Weights with and without a low part, of both signs.
            let b: Vec<f32> = (0..n * k).map(|at| [1., 1.001, -0.999][at / k]).collect();
            let mut a = random(m * k, 1);
            (a[k + 7], a[2 * k + 38], a[3 * k]) = (f32::INFINITY, f32::NEG_INFINITY, f32::NAN);
            (a[4 * k + 5], a[5 * k + 6]) = (f32::MAX, -f32::MAX); // round to infinity
            for (got, from) in [
                (product(tile, &a, &b, [m, k, n]), "left"),
                (product(tile, &b, &a, [n, k, m]), "right"),
            ] {
                for (at, got) in got.iter().enumerate() {
                    let (i, j) = match from {
                        "left" => (at / n, at % n),
                        _ => (at % m, at / m),
                    };
                    let sign = if j == 2 { -1. } else { 1. };
                    let fits = match i {
                        1 | 4 => *got == sign * f32::INFINITY,
                        2 | 5 => *got == sign * f32::NEG_INFINITY,
                        3 => got.is_nan(),
                        _ => got.is_finite(),
                    };
                    assert!(
                        fits,
                        "{:?}, from the {from} at {i}, {j}: {got}",
                        tile.format
                    );
                }
            }
        }
    }

    #[test]
    fn anothers_configuration_stays() {
        for tile in tiles() {
            let tile = tile.fitting(1);
            let found = Configuration::of(3, 20);
            let mut amx = Emulation::new();
            let (a, b) = (vec![0.; 32], vec![0.; 32 * tile.cols]);
            for before in [&found, &Configuration::NONE] {
                amx.configuration = before.clone();
                let mut c = [1f32];
                let to = Block::new(&mut c, 1);
                let strips = Strips {
                    rows: tile.rows,
                    depth: tile.left.elements(32),
                    elements: Elements::Pairs,
                };
                let (a, b) = (a.as_ptr().cast(), b.as_ptr().cast());
                // SAFETY: the operands are as long as they should be.
                unsafe { super::super::multiply(&mut amx, strips, a, b, to, false) }
                assert_eq!((&amx.configuration, c), (before, [0.]));
            }
        }
    }
}
