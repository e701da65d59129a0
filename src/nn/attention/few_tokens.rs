//! Attention between an image and a few tokens, both ways, in one pass over the image: for the CPU
//! in f32.

use std::f32::consts::LOG2_E;
use std::ops::Deref;

use candle::{Device, Layout, Result, Storage, Tensor};

use crate::nn::kernels::few_tokens as kernel;
use crate::nn::kernels::matmul::PackedWeight;
use crate::nn::kernels::view::Rows;
use crate::nn::{LayerNorm, Precision, cpu_slice, on_host};

/// What an image takes from `n` tokens, in `h` heads, for each of `b` prompts. The heads of a token
/// are neighbors.
pub struct FromTokens {
    /// What queries of the image are compared with (b, n * h, k), scaled.
    pub keys: Tensor,
    /// Added to the scores (b, n * h), scaled.
    pub key_bias: Tensor,
    /// What the softmax over the tokens of each head weighs (b, n * h, d).
    pub values: Tensor,
    /// (d)
    pub bias: Tensor,
    /// h, at most [`MAX_HEADS`](crate::nn::kernels::rowwise::MAX_HEADS)
    pub heads: usize,
}

/// An image of `m` tokens that takes from a few tokens and is looked at by them.
pub struct Pass<'a> {
    /// (1 or b, m, d)
    pub image: &'a Tensor,
    /// Added to the image where it is compared with tokens (1, m, d).
    pub positions: &'a Tensor,
    /// Queries of the image (1 or b, m, k); None for the image with its positions.
    pub queries: Option<&'a Tensor>,
    /// What is added to the image.
    pub from_tokens: &'a FromTokens,
    /// Of the sum.
    pub norm: &'a LayerNorm,
    /// Queries (b, c, d) of tokens that look at the result with its positions, scaled.
    pub looks: &'a Tensor,
    /// Of the products.
    pub precision: Precision,
}

impl Pass<'_> {
    /// The new image (b, m, d), and what the tokens see in it: sums of its rows (b, c, d), whose
    /// weights are the softmax over the image.
    ///
    /// # Errors
    /// For tensors of another shape.
    pub fn run(&self) -> Result<(Tensor, Tensor)> {
        let ((_, m, d), (b, c, _)) = (self.image.dims3()?, self.looks.dims3()?);
        let (image, positions) = (self.image.contiguous()?, self.positions.contiguous()?);
        let queries = self.queries.map(Tensor::contiguous).transpose()?;
        let (image, positions) = (image.storage_and_layout(), positions.storage_and_layout());
        let queries = queries.as_ref().map(Tensor::storage_and_layout);
        let (image, positions) = (Batch::new(&image)?, Batch::new(&positions)?);
        let queries = queries.as_ref().map(Batch::new).transpose()?;
        let (weight, bias, eps) = self.norm.values()?;
        let (looks, format) = (in_powers_of_2(self.looks)?, self.precision.format());
        let from_tokens = self.packed()?;
        let looks: Vec<PackedWeight> = looks
            .chunks_exact((c * d).max(1))
            .map(|looks| PackedWeight::new(looks, c, d, format))
            .collect();
        let prompts = from_tokens.iter().zip(&looks).enumerate();
        let passes: Vec<kernel::Pass> = prompts
            .map(|(prompt, (from_tokens, looks))| kernel::Pass {
                image: image.of(prompt),
                positions: positions.of(prompt),
                queries: queries.map(|queries| queries.of(prompt)),
                from_tokens,
                norm: (&weight, &bias, eps),
                looks,
                format,
            })
            .collect();
        let [out, seen] = kernel::run(&passes)?;
        let image = Tensor::from_vec(out, (b, m, d), &Device::Cpu)?;
        Ok((image, Tensor::from_vec(seen, (b, c, d), &Device::Cpu)?))
    }

    /// One for each prompt.
    fn packed(&self) -> Result<Vec<kernel::FromTokens>> {
        let FromTokens {
            keys,
            key_bias,
            values,
            bias,
            heads,
        } = self.from_tokens;
        let ((b, c, k), (_, _, d)) = (keys.dims3()?, values.dims3()?);
        let format = self.precision.format();
        let (keys, key_bias) = (in_powers_of_2(keys)?, in_powers_of_2(key_bias)?);
        let values = on_host::<f32>(&values.transpose(1, 2)?)?; // (b, d, c)
        let bias = on_host::<f32>(bias)?;
        let prompt = |i: usize| kernel::FromTokens {
            keys: PackedWeight::new(&keys[i * c * k..(i + 1) * c * k], c, k, format),
            key_bias: key_bias[i * c..(i + 1) * c].to_vec(),
            values: PackedWeight::new(&values[i * d * c..(i + 1) * d * c], d, c, format),
            bias: bias.clone(),
            heads: *heads,
        };
        Ok((0..b).map(prompt).collect())
    }
}

/// Scores whose exponentials are powers of 2.
fn in_powers_of_2(scores: &Tensor) -> Result<Vec<f32>> {
    on_host(&(scores * f64::from(LOG2_E))?)
}

/// A matrix (m, k) for each prompt, or one for all.
#[derive(Clone, Copy)]
struct Batch<'a> {
    xs: &'a [f32],
    dims: (usize, usize, usize),
}

impl<'a> Batch<'a> {
    fn new((storage, layout): &'a (impl Deref<Target = Storage>, &Layout)) -> Result<Self> {
        Ok(Self {
            xs: cpu_slice(storage, layout)?,
            dims: layout.shape().dims3()?,
        })
    }

    fn of(self, prompt: usize) -> Rows<'a> {
        let (b, m, k) = self.dims;
        let start = if b == 1 { 0 } else { prompt * m * k };
        Rows::new(&self.xs[start..], k, m, k)
    }
}
