//! Two 1x1 convolutions that mix the channels of each pixel.

use candle::{Module, Result, Tensor};

use super::{Conv2d, Weight, by_rows, dense};
use crate::nn::kernels::convolution;
use crate::nn::kernels::epilogue::{Activation, Epilogue};
use crate::nn::kernels::view::{Rows, elements};
use crate::nn::kernels::window::Window;
use crate::nn::values;
use crate::run;

/// `x + project(gelu(expand(x)))`, with GELU by the error function.
///
/// On the CPU in f32 the expanded channels never leave the cache.
#[derive(Debug, Clone)]
pub struct ChannelMixer {
    expand: Conv2d,
    project: Conv2d,
}

impl ChannelMixer {
    /// From 1x1 convolutions (c -> n) and (n -> c).
    ///
    /// # Errors
    /// For any others.
    pub fn new(expand: Conv2d, project: Conv2d) -> Result<Self> {
        match (expand.pointwise_dims(), project.pointwise_dims()) {
            (Some((n, c)), Some((out, input))) if (out, input) == (c, n) => {
                Ok(Self { expand, project })
            }
            _ => candle::bail!("{expand:?} and {project:?} do not mix channels"),
        }
    }
}

impl Module for ChannelMixer {
    /// (b, c, h, w) -> (b, c, h, w)
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let Self { expand, project } = self;
        let (Weight::Packed(first), Weight::Packed(second)) = (&expand.weight, &project.weight)
        else {
            return xs + expand.forward_gelu(xs)?.apply(project)?;
        };
        run::check()?;
        let first_bias = values(expand.bias.as_ref())?;
        let first_epilogue = by_rows(first_bias.as_deref(), Activation::Gelu);
        let (out, bias) = (second.dims()[0], project.bias.as_ref());
        let dims = [out, first.dims()[1], 1, 1];
        dense(xs, dims, Window::UNIT, bias, |image, (h, w), bias| {
            let pixels = elements(&[h, w])?;
            let epilogue = Epilogue {
                residual: Some(Rows::new(image, pixels, out, pixels)),
                ..by_rows(bias, Activation::Identity)
            };
            let epilogues = [&first_epilogue, &epilogue];
            let ys = convolution::pointwise_pair(image, pixels, [first, second], epilogues)?;
            Ok((ys, (h, w)))
        })
    }
}
