//! The multi-layer perceptron of the detection heads.

use candle::{Module, Result, Tensor};
use candle_nn::VarBuilder;

use super::linear::{Linear, linear};

/// Linear layers with a ReLU between them, none after the last.
///
/// Follows `MLP`, <https://github.com/facebookresearch/sam3/blob/99d02f2/sam3/model/model_misc.py#L155>.
#[derive(Debug, Clone)]
pub struct Mlp {
    layers: Vec<Linear>,
}

impl Mlp {
    /// `dims` are the widths from input to output: `[in, hidden, …, out]`.
    pub fn new(dims: &[usize], vb: VarBuilder) -> Result<Self> {
        let vb = vb.pp("layers");
        let layers = dims
            .windows(2)
            .enumerate()
            .map(|(i, d)| linear(d[0], d[1], vb.pp(i)))
            .collect::<Result<_>>()?;
        Ok(Self { layers })
    }
}

impl Module for Mlp {
    /// (…, in) -> (…, out)
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let (last, hidden) = match self.layers.split_last() {
            Some(layers) => layers,
            None => return Ok(xs.clone()),
        };
        let mut xs = xs.clone();
        for layer in hidden {
            xs = layer.forward_relu(&xs)?;
        }
        last.forward(&xs)
    }
}
