//! What follows a product while its result is in the cache.

use candle::Result;
use rayon::prelude::*;

use super::lanes::vectorised;
use super::math;
use super::view::{Block, Rows, Shared, filled};

/// An elementwise function.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Activation {
    /// x
    #[default]
    Identity,
    /// max(x, 0)
    Relu,
    /// GELU with the error function.
    Gelu,
    /// `x * clamp(x + 3, 0, 6) / 6`
    HardSwish,
}

impl Activation {
    /// Applies the function in place.
    pub fn apply(self, xs: &mut [f32]) {
        if self != Self::Identity {
            activate(xs, self);
        }
    }

    /// Compiled into its caller, for the caller's instruction set.
    #[inline(always)]
    pub(super) fn apply_here(self, xs: &mut [f32]) {
        match self {
            Self::Identity => {}
            Self::Relu => xs.iter_mut().for_each(|x| *x = math::relu(*x)),
            Self::Gelu => xs.iter_mut().for_each(|x| *x = math::gelu(*x)),
            Self::HardSwish => xs.iter_mut().for_each(|x| *x = math::hard_swish(*x)),
        }
    }

    /// The function of each value.
    ///
    /// # Errors
    /// When there is no memory for the result.
    pub fn map(self, xs: &[f32]) -> Result<Vec<f32>> {
        const CHUNK: usize = 1 << 12; // stays in the first cache
        let write = |shared: Shared| {
            let chunks = xs.par_chunks(CHUNK).enumerate();
            chunks.for_each(|(i, from)| {
                // SAFETY: this chunk belongs to this task.
                let mut to = unsafe { shared.block(i * CHUNK, from.len(), 1, from.len()) };
                to.row(0).copy_from_slice(from);
                self.apply(to.row(0));
            });
            Ok(())
        };
        // SAFETY: the tasks write all chunks.
        unsafe { filled(&[xs.len()], write) }
    }
}

/// `activation(x + bias) + residual`
#[derive(Clone, Copy, Default)]
pub struct Epilogue<'a> {
    /// Added first.
    pub bias: Bias<'a>,
    /// Applied to the sum.
    pub activation: Activation,
    /// Added last; of the size of the result.
    pub residual: Option<Rows<'a>>,
}

/// One value for each channel.
#[derive(Clone, Copy, Default)]
pub enum Bias<'a> {
    /// 0
    #[default]
    None,
    /// Rows are the channels.
    Rows(&'a [f32]),
    /// Columns are the channels.
    Columns(&'a [f32]),
}

impl Epilogue<'_> {
    /// Whether bias and residual are of the size of a result of `m` rows and `n` columns.
    pub fn fits(&self, m: usize, n: usize) -> bool {
        let bias = match self.bias {
            Bias::None => true,
            Bias::Rows(bias) => bias.len() == m,
            Bias::Columns(bias) => bias.len() == n,
        };
        bias && self
            .residual
            .is_none_or(|rows| (rows.count, rows.len) == (m, n))
    }

    /// Finishes a part of the result whose first element lies at `row` and `column`.
    pub fn apply(&self, part: Block, row: usize, column: usize) {
        let (count, width) = (part.count(), part.width());
        let bias = match self.bias {
            Bias::None => Bias::None,
            Bias::Rows(bias) => Bias::Rows(&bias[row..]),
            Bias::Columns(bias) => Bias::Columns(&bias[column..]),
        };
        let residual = self
            .residual
            .map(|rows| rows.rows(row, count).columns(column, width));
        finish(part, bias, self.activation, residual);
    }
}

/// Adds a bias to rows of `width` columns, and other rows if there are any.
pub fn add_to_rows(xs: &mut [f32], width: usize, bias: &[f32], residual: Option<Rows>) {
    let epilogue = Epilogue {
        bias: Bias::Columns(bias),
        activation: Activation::Identity,
        residual,
    };
    epilogue.apply(Block::new(xs, width), 0, 0);
}

vectorised! {
    fn activate<L>(xs: &mut [f32], activation: Activation) {
        activation.apply_here(xs);
    }
}

vectorised! {
    /// [`Epilogue::apply`] with the bias and the residual of the part.
    fn finish<L>(part: Block, bias: Bias, activation: Activation, residual: Option<Rows>) {
        match activation {
            Activation::Identity => finish_with(part, bias, residual, |x| x),
            Activation::Relu => finish_with(part, bias, residual, math::relu),
            Activation::Gelu => finish_with(part, bias, residual, math::gelu),
            Activation::HardSwish => finish_with(part, bias, residual, math::hard_swish),
        }
    }
}

/// Values that are finished together, in registers: a panel of AVX2, half of one of AVX-512.
const WIDTH: usize = 16;

#[inline(always)]
fn finish_with(
    mut part: Block,
    bias: Bias,
    residual: Option<Rows>,
    activation: impl Fn(f32) -> f32,
) {
    for i in 0..part.count() {
        let (chunks, rest) = part.row(i).as_chunks_mut::<WIDTH>();
        let start = chunks.len() * WIDTH;
        let residual = residual.map(|rows| rows.row(i));
        let (more, tail) = residual.unwrap_or_default().as_chunks::<WIDTH>();
        let bias_of = |j: usize| match bias {
            Bias::None => 0.,
            Bias::Rows(bias) => bias[i],
            Bias::Columns(bias) => bias[j],
        };
        // One pass: a second one would read back vectors that are still on their way to the cache, and
        // wait for them.
        for (c, chunk) in chunks.iter_mut().enumerate() {
            let bias = match bias {
                Bias::Columns(bias) => bias.as_chunks().0[c],
                _ => [bias_of(0); WIDTH],
            };
            let mut xs = *chunk;
            for (x, b) in xs.iter_mut().zip(bias) {
                *x = activation(*x + b);
            }
            if let Some(more) = more.get(c) {
                for (x, r) in xs.iter_mut().zip(more) {
                    *x += r;
                }
            }
            *chunk = xs;
        }
        for (j, x) in rest.iter_mut().enumerate() {
            *x = activation(*x + bias_of(start + j));
            if let Some(r) = tail.get(j) {
                *x += r;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::kernels::random;

    #[test]
    fn functions_of_more_than_one_chunk_equal_those_of_each_value() {
        let xs: Vec<f32> = random(10_000, 1).iter().map(|x| x * 8.).collect();
        for (activation, function) in [
            (Activation::Identity, (|x| x) as fn(f32) -> f32),
            (Activation::Relu, math::relu),
            (Activation::Gelu, math::gelu),
            (Activation::HardSwish, math::hard_swish),
        ] {
            let want: Vec<f32> = xs.iter().map(|x| function(*x)).collect();
            for (got, want) in activation.map(&xs).unwrap().iter().zip(&want) {
                assert!((got - want).abs() < 1e-6, "{activation:?}: {got} {want}");
            }
        }
    }

    #[test]
    fn a_part_gets_its_own_rows_and_columns() {
        let residual: Vec<f32> = (0..6).map(|x| x as f32).collect();
        let whole = |bias| Epilogue {
            bias,
            activation: Activation::Relu,
            residual: Some(Rows::new(&residual, 3, 2, 3)),
        };
        let part = |epilogue: Epilogue| {
            assert!(epilogue.fits(2, 3));
            let mut xs = [-1.; 2];
            epilogue.apply(Block::new(&mut xs, 2), 1, 1);
            xs
        };
        assert_eq!(part(whole(Bias::None)), [4., 5.]);
        assert_eq!(part(whole(Bias::Rows(&[9., 2.]))), [5., 6.]);
        assert_eq!(part(whole(Bias::Columns(&[9., 2., 3.]))), [5., 7.]);
        assert!(!whole(Bias::Rows(&[0.; 3])).fits(2, 3));
    }
}
