//! Tiles of pixels to their values at the points, and back.
//!
//! A panel of tiles fills the lanes of registers: the tiles' pixels at one place side by side, then
//! their values at one point.

use super::super::convolution::copy_shifted;
use super::super::epilogue::Activation;
use super::super::lanes::{Lanes, unroll, vectorised};
use super::super::tile::MAX_COLS;
use super::super::view::Shared;
use super::super::window::Run;

/// Side of a tile of the output.
pub(super) const STEP: usize = 4;
/// Side of the input of a tile, and the number of points of an axis.
const SIDE: usize = 6;
/// The number of points.
pub(super) const POINTS: usize = SIDE * SIDE;
/// Room for the pixels that a row of tiles reads, in whole registers.
const WIDTH: usize = STEP * (MAX_COLS + 4);

const A: f32 = 0.625;
const B: f32 = 1.5;

/// Planes of pixels.
pub(super) struct Image<'a> {
    /// (channels, h, w)
    pub xs: &'a [f32],
    /// Rows.
    pub h: usize,
    /// Columns.
    pub w: usize,
}

vectorised! {
    /// The tiles of a panel -> their values at the points [points][channels][cols]
    pub(super) fn to_points<L>(image: &Image, runs: &[Run], values: &mut [f32]) {
        let Image { xs, h, w } = *image;
        let (channels, cols) = (xs.len() / (h * w), 2 * L::COUNT);
        assert!(values.len() == POINTS * channels * cols);
        let mut pixels = [[0f32; WIDTH]; SIDE];
        let mut columns = pixels; // evaluated along y
        let mut places = [[[0f32; MAX_COLS]; SIDE]; SIDE]; // a tile's row and column, tile by tile
        for (c, plane) in xs.chunks_exact(h * w).enumerate() {
            for run in runs {
                let width = STEP * run.len + SIDE - STEP;
                let left = (STEP * run.x) as isize - 1;
                for (i, line) in pixels.iter_mut().enumerate() {
                    match (STEP * run.y + i).checked_sub(1).filter(|y| *y < h) {
                        Some(y) => copy_shifted(&plane[y * w..][..w], left, &mut line[..width]),
                        None => line[..width].fill(0.),
                    }
                }
                for x in (0..width).step_by(L::COUNT) {
                    // SAFETY: lines have room for whole registers.
                    unsafe { evaluate_lines::<L>(&pixels, &mut columns, x) }
                }
                for (line, [p0, p1, p2, p3, p4, p5]) in columns.iter().zip(&mut places) {
                    let tiles = run.at..run.at + run.len;
                    let line = line.as_chunks::<STEP>().0;
                    let to = p0[tiles.clone()].iter_mut().zip(&mut p1[tiles.clone()]);
                    let to = to.zip(&mut p2[tiles.clone()]).zip(&mut p3[tiles.clone()]);
                    for ((((p0, p1), p2), p3), four) in to.zip(line) {
                        [*p0, *p1, *p2, *p3] = *four;
                    }
                    let to = p4[tiles.clone()].iter_mut().zip(&mut p5[tiles]);
                    for ((p4, p5), four) in to.zip(&line[1..]) {
                        [*p4, *p5] = [four[0], four[1]];
                    }
                }
            }
            for (i, row) in places.iter().enumerate() {
                for j in [0, L::COUNT] {
                    // SAFETY: rows are as long as the widest panel, and `values` was measured.
                    unsafe {
                        let at = |k: usize| L::load(row[k].as_ptr().add(j));
                        let points = evaluate([at(0), at(1), at(2), at(3), at(4), at(5)]);
                        unroll!(SIDE, k => {
                            let at = ((i * SIDE + k) * channels + c) * cols + j;
                            points[k].store(values.as_mut_ptr().add(at));
                        });
                    }
                }
            }
        }
    }
}

/// Evaluates a register of columns.
///
/// # Safety
/// A register from column `x` on lies inside the lines; the processor has the instructions of `L`.
#[inline(always)]
unsafe fn evaluate_lines<L: Lanes>(
    pixels: &[[f32; WIDTH]; SIDE],
    columns: &mut [[f32; WIDTH]; SIDE],
    x: usize,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let at = |k: usize| L::load(pixels[k].as_ptr().add(x));
        let values = evaluate([at(0), at(1), at(2), at(3), at(4), at(5)]);
        unroll!(SIDE, k => values[k].store(columns[k].as_mut_ptr().add(x)));
    }
}

vectorised! {
    /// Sums at the points [points][out][cols] -> pixels of `result` (out, h, w), which nobody else
    /// touches
    pub(super) fn from_points<L>(
        sums: &[f32],
        runs: &[Run],
        bias: Option<&[f32]>,
        activation: Activation,
        shape: [usize; 3],
        result: Shared,
    ) {
        let ([out, h, w], cols) = (shape, 2 * L::COUNT);
        assert!(sums.len() == POINTS * out * cols && bias.is_none_or(|bias| bias.len() == out));
        let mut pixels = [[[0f32; MAX_COLS]; STEP]; STEP]; // of a tile, tile by tile
        for o in 0..out {
            // SAFETY: `sums` was measured, rows of pixels are as long as the widest panel; these
            // tiles belong to this panel's task.
            unsafe {
                let bias = L::splat(bias.map_or(0., |bias| bias[o]));
                for j in [0, L::COUNT] {
                    let mut rows = [[L::splat(0.); STEP]; SIDE]; // interpolated along x
                    unroll!(SIDE, i => {
                        let at = |k: usize| {
                            L::load(sums.as_ptr().add(((i * SIDE + k) * out + o) * cols + j))
                        };
                        rows[i] = interpolate([at(0), at(1), at(2), at(3), at(4), at(5)]);
                    });
                    unroll!(STEP, q => {
                        let at = |i: usize| rows[i][q];
                        let column = interpolate([at(0), at(1), at(2), at(3), at(4), at(5)]);
                        unroll!(STEP, p => {
                            column[p].add(bias).store(pixels[p][q].as_mut_ptr().add(j));
                        });
                    });
                }
                for run in runs {
                    let x = STEP * run.x;
                    let len = (STEP * run.len).min(w - x);
                    for (y, phases) in (STEP * run.y..h).zip(&pixels) {
                        let mut line = result.block((o * h + y) * w + x, len, 1, len);
                        interleave(phases, run, line.row(0));
                        activation.apply_here(line.row(0));
                    }
                }
            }
        }
    }
}

/// A row of a run's tiles, column by column of a tile, becomes a line of pixels.
#[inline(always)]
fn interleave([p0, p1, p2, p3]: &[[f32; MAX_COLS]; STEP], run: &Run, to: &mut [f32]) {
    let (p0, p1) = (&p0[run.at..][..run.len], &p1[run.at..][..run.len]);
    let (p2, p3) = (&p2[run.at..][..run.len], &p3[run.at..][..run.len]);
    let (fours, rest) = to.as_chunks_mut::<STEP>();
    let pixels = p0.iter().zip(p1).zip(p2).zip(p3);
    for (four, (((p0, p1), p2), p3)) in fours.iter_mut().zip(pixels) {
        *four = [*p0, *p1, *p2, *p3];
    }
    for (x, phase) in rest.iter_mut().zip([p0, p1, p2, p3]) {
        *x = phase[run.len - 1];
    }
}

/// The values at the points of the polynomial that multiplies six pixels.
///
/// # Safety
/// The processor has the instructions of `L`.
#[inline(always)]
unsafe fn evaluate<L: Lanes>([d0, d1, d2, d3, d4, d5]: [L; SIDE]) -> [L; SIDE] {
    // SAFETY: the caller's promise.
    unsafe {
        let less = |factor: f32, x: L, from: L| L::splat(-factor).mul_add(x, from);
        let (even_a, odd_a) = (less(B * B, d2, d4), L::splat(A).mul(less(B * B, d1, d3)));
        let (even_b, odd_b) = (less(A * A, d2, d4), L::splat(B).mul(less(A * A, d1, d3)));
        let product = L::splat(A * A * B * B);
        [
            product.mul_add(d0, less(A * A + B * B, d2, d4)),
            even_a.add(odd_a),
            even_a.sub(odd_a),
            even_b.add(odd_b),
            even_b.sub(odd_b),
            product.mul_add(d1, less(A * A + B * B, d3, d5)),
        ]
    }
}

/// Four pixels from the products at the points.
///
/// # Safety
/// The processor has the instructions of `L`.
#[inline(always)]
unsafe fn interpolate<L: Lanes>([m0, m1, m2, m3, m4, m5]: [L; SIDE]) -> [L; STEP] {
    // SAFETY: the caller's promise.
    unsafe {
        let (sum_a, difference_a) = (m1.add(m2), m1.sub(m2));
        let (sum_b, difference_b) = (m3.add(m4), m3.sub(m4));
        let mixed = |a: f32, x: L, y: L| L::splat(a).mul_add(x, y);
        [
            m0.add(sum_a).add(sum_b),
            mixed(A, difference_a, L::splat(B).mul(difference_b)),
            mixed(A * A, sum_a, L::splat(B * B).mul(sum_b)),
            mixed(A * A * A, difference_a, mixed(B * B * B, difference_b, m5)),
        ]
    }
}

/// A kernel's values at the points, in double while they are computed.
pub(super) fn values_at_points(weight: &[f32; 9]) -> [f32; POINTS] {
    let (a, b) = (f64::from(A), f64::from(B));
    let scale_a = 1. / (2. * a * a * (a * a - b * b));
    let scale_b = 1. / (2. * b * b * (b * b - a * a));
    let scale_0 = 1. / (a * a * b * b);
    let along = |g: [f64; 3]| {
        let at = |x: f64, scale: f64| scale * (g[0] + x * (g[1] + x * g[2]));
        [
            g[0] * scale_0,
            at(a, scale_a),
            at(-a, scale_a),
            at(b, scale_b),
            at(-b, scale_b),
            g[2],
        ]
    };
    let rows: [[f64; SIDE]; 3] =
        std::array::from_fn(|i| along(std::array::from_fn(|j| f64::from(weight[3 * i + j]))));
    let mut values = [0f32; POINTS];
    for k in 0..SIDE {
        for (i, value) in along(std::array::from_fn(|i| rows[i][k]))
            .iter()
            .enumerate()
        {
            values[i * SIDE + k] = *value as f32;
        }
    }
    values
}
