//! 3x3 convolution with stride 1 and padding 1 in Winograd's way: a quarter of the products.
//!
//! A tile of 4x4 output pixels depends on 6x6 input pixels. Seen as polynomials, a row of input
//! and a row of weights are multiplied by multiplying their values at six points; in two
//! dimensions that is 36 products per tile and channel instead of 144. The sums over channels at
//! one point, for many tiles and output channels, are a product of matrices.
//!
//! The points are 0, ±5/8, ±3/2 and infinity: with them the rounding error of the result is about
//! five times that of the plain sum (1.4e-6 of its norm at 256 channels), half of that with the
//! usual 0, ±1, ±2. An infinity or NaN in the input reaches all pixels of its tiles.
//!
//! Products here are of f32 on any processor: five times the error of numbers split for AMX would
//! be a lot for a single layer.

use rayon::prelude::*;

use super::convolution::copy_shifted;
use super::level::dispatch;
use super::math::fma;
use super::tile::{Block, MAX_COLS, Shared, TILE};

/// Side of a tile of the output.
const STEP: usize = 4;
/// Side of the input of a tile, and the number of points of an axis.
const SIDE: usize = 6;
const POINTS: usize = SIDE * SIDE;
/// Steps of the summation that one pass covers.
const DEPTH: usize = 256;
/// Panels of tiles that share a pass over the weights.
const PANELS: usize = 2;

/// Pixels that a row of tiles reads, in whole steps.
const WIDTH: usize = STEP * (MAX_COLS + 2);

const A: f32 = 0.625;
const B: f32 = 1.5;

/// A weight (out, in, 3, 3) as its values at the points, packed for multiplying from the left.
pub struct TransformedKernel {
    strips: Vec<f32>, // [points][out / rows][channels][rows], the last strip filled up with zeros
    out: usize,
    channels: usize,
}

impl TransformedKernel {
    /// From a row-major `weight` (out, channels, 3, 3).
    ///
    /// # Panics
    /// When the sizes disagree.
    pub fn new(weight: &[f32], out: usize, channels: usize) -> Self {
        let len = weight.len();
        assert_eq!(
            len,
            out * channels * 9,
            "{len} values for {out} x {channels} kernels"
        );
        let rows = TILE.rows;
        let plane = out.div_ceil(rows) * channels * rows;
        let mut strips = vec![0f32; POINTS * plane];
        let shared = Shared::new(&mut strips);
        weight
            .par_chunks(channels * 9)
            .enumerate()
            .for_each(|(o, weight)| {
                for (c, weight) in weight.as_chunks::<9>().0.iter().enumerate() {
                    for (point, value) in values_at_points(weight).iter().enumerate() {
                        let strip = point * plane + o / rows * channels * rows;
                        // SAFETY: inside `strips`, and only this task writes for this `o`.
                        unsafe { *shared.at(strip + c * rows + o % rows) = *value };
                    }
                }
            });
        Self {
            strips,
            out,
            channels,
        }
    }

    /// (out, channels, 3, 3)
    pub fn dims(&self) -> [usize; 4] {
        [self.out, self.channels, 3, 3]
    }
}

/// `xs` (channels, h, w) -> (out, h, w)
pub fn conv3x3(
    xs: &[f32],
    (h, w): (usize, usize),
    kernel: &TransformedKernel,
    bias: Option<&[f32]>,
) -> Vec<f32> {
    let tile = *TILE;
    let TransformedKernel { out, channels, .. } = *kernel;
    let (tiles_x, tiles_y) = (w.div_ceil(STEP), h.div_ceil(STEP));
    let tiles = tiles_x * tiles_y;
    let mut result = vec![0f32; out * h * w];
    let result_at = Shared::new(&mut result);
    let image = Image { xs, h, w };
    let panels = tiles.div_ceil(tile.cols);
    let group = PANELS
        .min(panels.div_ceil(2 * rayon::current_num_threads()))
        .max(1);
    let (input, output) = (POINTS * channels * tile.cols, POINTS * out * tile.cols);
    (0..panels.div_ceil(group)).into_par_iter().for_each_init(
        || (vec![0f32; group * input], vec![0f32; group * output]),
        |(values, sums), g| {
            let panels = g * group..panels.min((g + 1) * group);
            let runs_of = |panel: usize| {
                let first = panel * tile.cols;
                runs(first..tiles.min(first + tile.cols), tiles_x)
            };
            for (panel, values) in panels.clone().zip(values.chunks_exact_mut(input)) {
                to_points(&image, &runs_of(panel), tile.cols, values);
            }
            let strips = kernel.strips.chunks_exact(channels * tile.rows);
            let rows = (0..POINTS)
                .flat_map(|point| (0..out).step_by(tile.rows).map(move |row| (point, row)));
            for ((point, row), strip) in rows.zip(strips) {
                let values = values.chunks_exact(input);
                let sums = sums.chunks_exact_mut(output);
                for ((_, values), sums) in panels.clone().zip(values).zip(sums) {
                    let values = &values[point * channels * tile.cols..];
                    let sums = &mut sums[(point * out + row) * tile.cols..];
                    let rows = tile.rows.min(out - row);
                    let mut sums = Block::new(&mut sums[..rows * tile.cols], tile.cols);
                    for start in (0..channels).step_by(DEPTH) {
                        let depth = DEPTH.min(channels - start);
                        let (a, b) = (&strip[start * tile.rows..], &values[start * tile.cols..]);
                        tile.multiply_into(depth, a, b, sums.rows(0, rows), start > 0);
                    }
                }
            }
            for (panel, sums) in panels.zip(sums.chunks_exact(output)) {
                let shape = [out, h, w];
                from_points(sums, &runs_of(panel), tile.cols, bias, shape, result_at);
            }
        },
    );
    result
}

/// Planes of pixels.
struct Image<'a> {
    xs: &'a [f32], // (channels, h, w)
    h: usize,
    w: usize,
}

/// Tiles of a panel that lie in one row of tiles.
struct Run {
    column: usize,
    len: usize,
    y: usize,
    x: usize,
}

/// The tiles of a panel, counted by rows of `tiles_x`.
fn runs(tiles: std::ops::Range<usize>, tiles_x: usize) -> Vec<Run> {
    let (mut runs, mut at) = (vec![], tiles.start);
    while at < tiles.end {
        let x = at % tiles_x;
        let len = (tiles_x - x).min(tiles.end - at);
        runs.push(Run {
            column: at - tiles.start,
            len,
            y: at / tiles_x,
            x,
        });
        at += len;
    }
    runs
}

// The loops below run over plain arrays to bounds that only the caller knows: that is what the
// compiler turns into registers of lanes. Short loops of known length it unrolls instead.

dispatch! {
    /// The tiles of a panel -> their values at the points [points][channels][cols]
    fn to_points(image: &Image, runs: &[Run], cols: usize, values: &mut [f32]) {
        let Image { xs, h, w } = *image;
        let channels = xs.len() / (h * w);
        let mut pixels = [[0f32; WIDTH]; SIDE];
        let mut columns = pixels; // evaluated along y
        let mut phases = [[0f32; MAX_COLS]; SIDE]; // the pixels of a tile's row, tile by tile
        let mut points = phases; // evaluated along x
        for (c, plane) in xs.chunks_exact(h * w).enumerate() {
            let mut rows = [[[0f32; MAX_COLS]; SIDE]; SIDE];
            for run in runs {
                let width = STEP * run.len + SIDE - STEP;
                let left = (STEP * run.x) as isize - 1;
                for (i, line) in pixels.iter_mut().enumerate() {
                    match (STEP * run.y + i).checked_sub(1).filter(|y| *y < h) {
                        Some(y) => copy_shifted(&plane[y * w..][..w], left, &mut line[..width]),
                        None => line[..width].fill(0.),
                    }
                }
                for x in 0..width.min(WIDTH) {
                    let column = evaluate([
                        pixels[0][x],
                        pixels[1][x],
                        pixels[2][x],
                        pixels[3][x],
                        pixels[4][x],
                        pixels[5][x],
                    ]);
                    columns[0][x] = column[0];
                    columns[1][x] = column[1];
                    columns[2][x] = column[2];
                    columns[3][x] = column[3];
                    columns[4][x] = column[4];
                    columns[5][x] = column[5];
                }
                for (line, row) in columns.iter().zip(&mut rows) {
                    for (k, phase) in row.iter_mut().enumerate() {
                        let pixels = line[k..].as_chunks::<STEP>().0;
                        let phase = &mut phase[run.column..run.column + run.len];
                        for (to, four) in phase.iter_mut().zip(pixels) {
                            *to = four[0];
                        }
                    }
                }
            }
            for (i, row) in rows.iter().enumerate() {
                phases = *row;
                for j in 0..cols.min(MAX_COLS) {
                    let value = evaluate([
                        phases[0][j],
                        phases[1][j],
                        phases[2][j],
                        phases[3][j],
                        phases[4][j],
                        phases[5][j],
                    ]);
                    points[0][j] = value[0];
                    points[1][j] = value[1];
                    points[2][j] = value[2];
                    points[3][j] = value[3];
                    points[4][j] = value[4];
                    points[5][j] = value[5];
                }
                for (k, points) in points.iter().enumerate() {
                    let at = ((i * SIDE + k) * channels + c) * cols;
                    values[at..at + cols].copy_from_slice(&points[..cols]);
                }
            }
        }
    }
}

dispatch! {
    /// Sums at the points [points][out][cols] -> pixels of `result` (out, h, w)
    fn from_points(
        sums: &[f32],
        runs: &[Run],
        cols: usize,
        bias: Option<&[f32]>,
        shape: [usize; 3],
        result: Shared
    ) {
        let [out, h, w] = shape;
        let mut rows = [[[0f32; MAX_COLS]; SIDE]; STEP]; // interpolated along x
        let mut pixels = [[[0f32; MAX_COLS]; STEP]; STEP]; // of a tile, tile by tile
        for o in 0..out {
            let bias = bias.map_or(0., |bias| bias[o]);
            let [r0, r1, r2, r3] = &mut rows;
            for i in 0..SIDE {
                let at = |k: usize| ((i * SIDE + k) * out + o) * cols;
                let (s0, s1) = (&sums[at(0)..at(0) + cols], &sums[at(1)..at(1) + cols]);
                let (s2, s3) = (&sums[at(2)..at(2) + cols], &sums[at(3)..at(3) + cols]);
                let (s4, s5) = (&sums[at(4)..at(4) + cols], &sums[at(5)..at(5) + cols]);
                let (r0, r1) = (&mut r0[i][..cols], &mut r1[i][..cols]);
                let (r2, r3) = (&mut r2[i][..cols], &mut r3[i][..cols]);
                for j in 0..cols {
                    let row = interpolate([s0[j], s1[j], s2[j], s3[j], s4[j], s5[j]]);
                    r0[j] = row[0];
                    r1[j] = row[1];
                    r2[j] = row[2];
                    r3[j] = row[3];
                }
            }
            for (q, rows) in rows.iter().enumerate() {
                for j in 0..cols.min(MAX_COLS) {
                    let column = interpolate([
                        rows[0][j], rows[1][j], rows[2][j], rows[3][j], rows[4][j], rows[5][j],
                    ]);
                    pixels[0][q][j] = column[0] + bias;
                    pixels[1][q][j] = column[1] + bias;
                    pixels[2][q][j] = column[2] + bias;
                    pixels[3][q][j] = column[3] + bias;
                }
            }
            for run in runs {
                let x = STEP * run.x;
                let len = (STEP * run.len).min(w - x);
                for (y, [p0, p1, p2, p3]) in (STEP * run.y..h).zip(&pixels) {
                    // SAFETY: these pixels lie inside the result and belong to this panel's task.
                    let to = unsafe {
                        std::slice::from_raw_parts_mut(result.at((o * h + y) * w + x), len)
                    };
                    let (p0, p1) = (&p0[run.column..][..run.len], &p1[run.column..][..run.len]);
                    let (p2, p3) = (&p2[run.column..][..run.len], &p3[run.column..][..run.len]);
                    let (fours, rest) = to.as_chunks_mut::<STEP>();
                    let pixels = p0.iter().zip(p1).zip(p2).zip(p3);
                    for (four, (((p0, p1), p2), p3)) in fours.iter_mut().zip(pixels) {
                        *four = [*p0, *p1, *p2, *p3];
                    }
                    for (x, phase) in rest.iter_mut().zip([p0, p1, p2, p3]) {
                        *x = phase[run.len - 1];
                    }
                }
            }
        }
    }
}

/// The values at the points of the polynomial that multiplies six pixels.
#[inline(always)]
fn evaluate([d0, d1, d2, d3, d4, d5]: [f32; SIDE]) -> [f32; SIDE] {
    let (even_a, odd_a) = (fma(-B * B, d2, d4), A * fma(-B * B, d1, d3));
    let (even_b, odd_b) = (fma(-A * A, d2, d4), B * fma(-A * A, d1, d3));
    [
        fma(A * A * B * B, d0, fma(-(A * A + B * B), d2, d4)),
        even_a + odd_a,
        even_a - odd_a,
        even_b + odd_b,
        even_b - odd_b,
        fma(A * A * B * B, d1, fma(-(A * A + B * B), d3, d5)),
    ]
}

/// Four pixels from the products at the points.
#[inline(always)]
fn interpolate([m0, m1, m2, m3, m4, m5]: [f32; SIDE]) -> [f32; STEP] {
    let (sum_a, difference_a) = (m1 + m2, m1 - m2);
    let (sum_b, difference_b) = (m3 + m4, m3 - m4);
    [
        m0 + sum_a + sum_b,
        fma(A, difference_a, B * difference_b),
        fma(A * A, sum_a, B * B * sum_b),
        fma(A * A * A, difference_a, fma(B * B * B, difference_b, m5)),
    ]
}

/// A kernel's values at the points, in double while they are computed.
fn values_at_points(weight: &[f32; 9]) -> [f32; POINTS] {
    let (a, b) = (f64::from(A), f64::from(B));
    let scale_a = 1. / (2. * a * a * (a * a - b * b));
    let scale_b = 1. / (2. * b * b * (b * b - a * a));
    let along = |g: [f64; 3]| {
        let at = |x: f64, scale: f64| scale * (g[0] + x * (g[1] + x * g[2]));
        [
            g[0] / (a * a * b * b),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::kernels::{is_affordable, random};

    #[test]
    fn every_size_is_close_to_the_sums_in_double() {
        for (c, o, h, w, biased) in [
            (1, 1, 1, 1, false),
            (3, 5, 4, 4, true),
            (1, 2, 9, 13, true), // several panels of four lanes
            (20, 40, 9, 7, true),
            (300, 30, 5, 150, true), // more channels than one pass, a row of several panels
            (32, 32, 37, 22, false),
        ] {
            if !is_affordable(o * h * w * c * 9) {
                continue;
            }
            let (xs, weight) = (random(c * h * w, 1), random(o * c * 9, 2));
            let bias = biased.then(|| random(o, 3));
            let kernel = TransformedKernel::new(&weight, o, c);
            let got = conv3x3(&xs, (h, w), &kernel, bias.as_deref());
            let (mut error, mut norm) = (0f64, 0f64);
            for (i, got) in got.iter().enumerate() {
                let (oc, y, x) = (i / (h * w), i / w % h, i % w);
                let mut want = bias.as_ref().map_or(0., |bias| bias[oc] as f64);
                for t in 0..c * 9 {
                    let (ci, ky, kx) = (t / 9, t / 3 % 3, t % 3);
                    if (1..=h).contains(&(y + ky)) && (1..=w).contains(&(x + kx)) {
                        let pixel = xs[(ci * h + y + ky - 1) * w + x + kx - 1];
                        want += pixel as f64 * weight[oc * c * 9 + t] as f64;
                    }
                }
                error += (*got as f64 - want).powi(2);
                norm += want * want;
            }
            let relative = (error / norm).sqrt();
            assert!(relative < 3e-6, "{c}->{o} at {h} x {w}: {relative:.1e}");
        }
    }

    #[test]
    #[should_panic(expected = "9 values for 3 x 2 kernels")]
    fn a_weight_of_another_size_is_refused() {
        TransformedKernel::new(&random(9, 1), 3, 2);
    }
}
