//! Attention without the matrix of scores: blocks of keys pass by, and the softmax is corrected
//! when a larger score appears.
//!
//! Scores are computed transposed, keys by queries. A panel of queries then fills the lanes of
//! registers: maxima, exponentials and sums take no step across lanes, and the weights come out
//! packed for the product with the values.

mod scratch;

use candle::Result;
use rayon::prelude::*;

use super::layout::Format;
use super::pack::{stack, transpose};
use super::tile::Tile;
use super::view::{Block, Rows, Shared, elements, filled};
use crate::run;
use scratch::Scratch;

/// Keys of a block, at most: their scores with a panel of queries stay in the first cache.
const KEYS: usize = 144;
/// Panels of queries that share a block.
const PANELS: usize = 4;

/// Added to the scores before the softmax; negative infinity hides a key.
#[derive(Clone, Copy)]
pub enum Bias<'a> {
    /// Nothing.
    None,
    /// One value for each key, the same for all queries.
    Keys(&'a [f32]),
    /// One value for each query and key (n, m).
    Each(Rows<'a>),
    /// Keys form a grid; the bias is the sum of one value for the key's row (n, grid rows) and one
    /// for its column (n, grid columns).
    Grid {
        /// For each query, the values of the grid's rows.
        rows: Rows<'a>,
        /// For each query, the values of the grid's columns.
        columns: Rows<'a>,
    },
}

/// What one head attends with.
#[derive(Clone, Copy)]
pub struct Head<'a> {
    /// Queries (n, c).
    pub q: Rows<'a>,
    /// Keys (m, c).
    pub k: Rows<'a>,
    /// Values (m, d).
    pub v: Rows<'a>,
    /// For queries and keys (n, m).
    pub bias: Bias<'a>,
}

/// `softmax(q k^T * scale + bias) v` of each head -> (batch, n, heads, d)
///
/// `head(b, h)` gives head `h` of image `b`; all have the same sizes. Without keys the result is 0.
///
/// # Errors
/// When there is no memory for the result, or the run is cancelled.
///
/// # Panics
/// When the sizes disagree.
pub fn attend<'a>(
    (batch, heads): (usize, usize),
    head: impl Fn(usize, usize) -> Head<'a> + Sync,
    scale: f32,
    format: Format,
) -> Result<Vec<f32>> {
    if batch == 0 || heads == 0 {
        return Ok(vec![]);
    }
    let Head { q, k, v, .. } = head(0, 0);
    let (n, d) = (q.count, v.len);
    let sizes = [batch, n, heads, d];
    if k.count == 0 {
        return Ok(vec![0.; elements(&sizes)?]);
    }
    let tile = Tile::of(format);
    let panels = n.div_ceil(tile.cols);
    let write = |shared: Shared| {
        let share = (panels * batch * heads).div_ceil(2 * rayon::current_num_threads());
        let group = PANELS.min(share).min(panels).max(1);
        let check = run::checker();
        let all = (0..batch * heads).into_par_iter();
        all.try_for_each_init(Room::default, |room, i| {
            check()?;
            let (b, h) = (i / heads, i % heads);
            let head = head(b, h);
            assert!(head.q.count == n && head.v.len == d && head.k.len == head.q.len);
            let keys = room.keys.get_or_insert_with(|| Keys::of(&head, tile));
            keys.pack(&head);
            let keys = &*keys;
            let scratch = || Scratch::new(keys, group, &head.bias);
            let attend = |scratch: &mut Scratch, g: usize| {
                check()?;
                let first = g * group * tile.cols;
                let count = (group * tile.cols).min(n - first);
                scratch.attend(&head, keys, first..first + count, scale);
                let at = ((b * n + first) * heads + h) * d;
                // SAFETY: these queries' part of this head's result belongs to this task.
                scratch.write(unsafe { shared.block(at, heads * d, count, d) });
                Ok(())
            };
            match panels.div_ceil(group) {
                1 => attend(room.scratch.get_or_insert_with(scratch), 0),
                groups => {
                    let groups = (0..groups).into_par_iter();
                    groups.try_for_each_init(scratch, attend)
                }
            }
        })
    };
    // SAFETY: the tasks write every head's result for every query.
    unsafe { filled(&sizes, write) }
}

/// Keys and values of a head, packed as left operands.
struct Keys {
    tile: Tile,        // of keys
    values_tile: Tile, // of channels of the values
    strips: Vec<f32>,  // [m / tile.rows][elements of c][tile.rows]
    values: Vec<f32>,  // [d / values_tile.rows][elements of m][values_tile.rows]
    depth: usize,      // elements of c
    count: usize,      // m
    channels: usize,   // d
    block: usize,      // keys of a block: whole strips, whole elements or groups of them
}

/// What a task keeps from one head to the next, which are all of the same sizes: packing a small head
/// takes no longer than asking for memory.
#[derive(Default)]
struct Room {
    keys: Option<Keys>,
    scratch: Option<Scratch>,
}

impl Keys {
    /// Room for heads of the sizes of this one.
    fn of(head: &Head, tile: Tile) -> Self {
        let Head { k, v, .. } = *head;
        let (values_tile, tile) = (tile.fitting(v.len), tile.fitting(k.count));
        let (depth, elements) = (tile.left.elements(k.len), tile.left.elements(k.count));
        let rows = values_tile.rows;
        Self {
            tile,
            values_tile,
            strips: vec![0f32; k.count.div_ceil(tile.rows) * depth * tile.rows],
            values: vec![0f32; v.len.div_ceil(rows) * elements * rows],
            depth,
            count: k.count,
            channels: v.len,
            block: KEYS / (2 * tile.rows) * 2 * tile.rows,
        }
    }

    fn pack(&mut self, head: &Head) {
        let (Head { k, v, .. }, tile) = (*head, self.tile);
        assert!(k.count == self.count && v.count == self.count && v.len == self.channels);
        let chunks = self
            .strips
            .chunks_exact_mut((self.depth * tile.rows).max(1));
        for (first, strip) in (0..).step_by(tile.rows).zip(chunks) {
            let rows = k.rows(first, tile.rows);
            transpose(rows, 1., tile.left, Block::new(strip, tile.rows));
        }
        let (rows, elements) = (self.values_tile.rows, tile.left.elements(self.count));
        let chunks = self.values.chunks_exact_mut(elements * rows);
        for (first, strip) in (0..).step_by(rows).zip(chunks) {
            stack(v.columns(first, rows), tile.left, Block::new(strip, rows));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::kernels::{is_affordable, random};
    use crate::run::{CancelToken, Run};

    /// The definition, in double; `bias(i, j)` is added to the score of query i and key j.
    fn defined(head: &Head, scale: f64, bias: impl Fn(usize, usize) -> f64) -> Vec<f64> {
        let dot = |a: &[f32], b: &[f32]| -> f64 {
            a.iter().zip(b).map(|(a, b)| *a as f64 * *b as f64).sum()
        };
        let mut out = vec![];
        for i in 0..head.q.count {
            let scores: Vec<f64> = (0..head.k.count)
                .map(|j| dot(head.q.row(i), head.k.row(j)) * scale + bias(i, j))
                .collect();
            let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|x| (x - max).exp()).collect();
            let total: f64 = weights.iter().sum();
            out.extend((0..head.v.len).map(|t| {
                let sum: f64 = weights
                    .iter()
                    .enumerate()
                    .map(|(j, w)| w * head.v.row(j)[t] as f64)
                    .sum();
                sum / total
            }));
        }
        out
    }

    fn assert_near(got: &[f32], want: &[f64], tolerance: f64, what: &str) {
        assert_eq!(got.len(), want.len());
        for (i, (got, want)) in got.iter().zip(want).enumerate() {
            let diff = (*got as f64 - want).abs();
            assert!(diff < tolerance, "{what} at {i}: {diff:.1e}");
        }
    }

    #[test]
    fn heads_of_all_sizes_and_biases_equal_the_softmax_in_double() {
        for (n, m, c, d) in [
            (1, 1, 1, 1),
            (5, 7, 6, 6),
            (9, 20, 2, 2),
            (2, 150, 1, 1), // more than one block of keys
            (57, 1100, 64, 40),
            (201, 600, 32, 32),
        ] {
            if !is_affordable(n * m * (c + d)) {
                continue;
            }
            let q: Vec<f32> = random(n * c, 1).iter().map(|x| x * 10.).collect();
            let (k, v) = (random(m * c, 2), random(m * d, 3));
            let mut values = random(n * m, 4);
            let hidden = |x: &mut f32| *x = f32::NEG_INFINITY;
            values.iter_mut().step_by(3).for_each(hidden);
            values[..m.min(520)].iter_mut().for_each(hidden); // whole blocks of the first query
            values[m - 1] = 0.;
            let width = (1..=m)
                .rev()
                .find(|w| m % w == 0 && w * w <= m)
                .unwrap_or(1);
            let (rows, columns) = (random(n * (m / width), 5), random(n * width, 6));
            let rows = Rows::new(&rows, m / width, n, m / width);
            let columns = Rows::new(&columns, width, n, width);
            for bias in [
                Bias::None,
                Bias::Keys(&values[..m]),
                Bias::Each(Rows::new(&values, m, n, m)),
                Bias::Grid { rows, columns },
            ] {
                let head = Head {
                    q: Rows::new(&q, c, n, c),
                    k: Rows::new(&k, c, m, c),
                    v: Rows::new(&v, d, m, d),
                    bias,
                };
                let want = defined(&head, 0.3, |i, j| match bias {
                    Bias::None => 0.,
                    Bias::Keys(bias) => bias[j] as f64,
                    Bias::Each(bias) => bias.row(i)[j] as f64,
                    Bias::Grid { rows, columns } => {
                        rows.row(i)[j / width] as f64 + columns.row(i)[j % width] as f64
                    }
                });
                for format in Format::ALL {
                    let tolerance = match Tile::of(format).format {
                        Format::Single => 3e-6,
                        Format::Pairs => 2e-2,
                        Format::Split => 3e-5,
                    };
                    let got = attend((1, 1), |_, _| head, 0.3, format).unwrap();
                    assert_near(&got, &want, tolerance, &format!("{n}x{m}x{c} {format:?}"));
                }
            }
        }
    }

    #[test]
    fn heads_and_images_keep_apart() {
        // (batch 2, n 3, heads 2, c 4), as a linear layer leaves them
        let xs = random(2 * 3 * 2 * 4, 7);
        let head = |b: usize, h: usize| {
            let rows = Rows::new(&xs[b * 24 + h * 4..], 8, 3, 4);
            Head {
                q: rows,
                k: rows,
                v: rows,
                bias: Bias::None,
            }
        };
        let got = attend((2, 2), head, 1., Format::Single).unwrap();
        for (b, h) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let rows = Rows::new(&got[b * 24 + h * 4..], 8, 3, 4);
            let got: Vec<f32> = (0..3).flat_map(|i| rows.row(i)).copied().collect();
            assert_near(&got, &defined(&head(b, h), 1., |_, _| 0.), 1e-6, "a head");
        }
    }

    #[test]
    fn empty_sides_give_empty_results_or_zeros() {
        let xs = random(64, 8);
        for (n, m, c, d) in [(0, 5, 4, 4), (5, 0, 4, 4), (5, 3, 4, 0), (3, 5, 0, 4)] {
            let head = Head {
                q: Rows::new(&xs, c, n, c),
                k: Rows::new(&xs, c, m, c),
                v: Rows::new(&xs, d, m, d),
                bias: Bias::None,
            };
            let got = attend((1, 1), |_, _| head, 1., Format::Single).unwrap();
            assert_eq!(got.len(), n * d);
            let mean = |t: usize| (0..m).map(|j| xs[j * d + t]).sum::<f32>() / m.max(1) as f32;
            for (i, got) in got.iter().enumerate() {
                assert!((got - mean(i % d)).abs() < 1e-6, "{n}x{m}x{c}x{d}: {got}");
            }
        }
        let none = attend((0, 1), |_, _| unreachable!(), 1., Format::Single);
        assert!(none.unwrap().is_empty());
    }

    #[test]
    fn a_run_that_is_cancelled_stops_between_panels_of_queries() {
        let (cancel, xs) = (CancelToken::default(), random(40 * 4, 9));
        let run = Run {
            cancel: Some(cancel.clone()),
            ..Run::default()
        };
        let rows = Rows::new(&xs, 4, 40, 4);
        let head = |_, h| {
            if h == 1 {
                cancel.cancel();
            }
            Head {
                q: rows,
                k: rows,
                v: rows,
                bias: Bias::None,
            }
        };
        let mut result = Ok(vec![]);
        let stage = run.stage("attention", || -> crate::Result<()> {
            result = attend((1, 2), head, 1., Format::Single);
            Ok(())
        });
        assert!(result.is_err());
        assert!(matches!(stage, Err(crate::Error::Cancelled)));
    }

    #[test]
    fn a_result_that_no_memory_holds_is_an_error() {
        let values = [0.; 12];
        let head = Head {
            q: Rows::new(&[], 0, 1 << 62, 0),
            k: Rows::new(&[], 0, 3, 0),
            v: Rows::new(&values, 4, 3, 4),
            bias: Bias::None,
        };
        assert!(attend((1, 1), |_, _| head, 1., Format::Single).is_err());
    }

    #[test]
    fn what_is_not_a_number_stays_in_its_query_and_infinity_hides_a_key() {
        let (n, m, c) = if cfg!(miri) { (8, 20, 2) } else { (40, 300, 8) };
        let (mut q, k, mut v) = (random(n * c, 1), random(m * c, 2), random(m * c, 3));
        q[3 * c] = f32::NAN;
        v[7 * c] = f32::NAN;
        let mut hidden = vec![0f32; n * m];
        hidden[5 * m..][..m].fill(f32::NEG_INFINITY); // all keys of query 5
        hidden[6 * m + 9] = f32::INFINITY;
        let head = Head {
            q: Rows::new(&q, c, n, c),
            k: Rows::new(&k, c, m, c),
            v: Rows::new(&v, c, m, c),
            bias: Bias::Each(Rows::new(&hidden, m, n, m)),
        };
        for format in Format::ALL {
            let got = attend((1, 1), |_, _| head, 1., format).unwrap();
            for (i, row) in got.chunks_exact(c).enumerate() {
                assert!(
                    row[0].is_nan(),
                    "a value that is not a number reaches query {i}"
                );
                let expected = matches!(i, 3 | 5 | 6); // as the definition has it
                assert_eq!(
                    row[1..].iter().all(|x| x.is_nan()),
                    expected,
                    "{format:?}, query {i}: {row:?}"
                );
                assert_eq!(
                    row[1..].iter().any(|x| x.is_nan()),
                    expected,
                    "{format:?}, query {i}: {row:?}"
                );
            }
        }
    }
}
