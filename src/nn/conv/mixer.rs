//! Two 1x1 convolutions that mix the channels of each pixel.

use candle::{Module, Result, Tensor};

use super::{Conv2d, Weight, dense};
use crate::nn::kernels::convolution;
use crate::nn::kernels::epilogue::{Activation, Bias, Epilogue};
use crate::nn::kernels::view::{Rows, elements};
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
    pub fn new(expand: Conv2d, project: Conv2d) -> Self {
        Self { expand, project }
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
        let first_epilogue = Epilogue {
            bias: first_bias.as_deref().map_or(Bias::None, Bias::Rows),
            activation: Activation::Gelu,
            residual: None,
        };
        let window = expand.window();
        let (out, channels) = (second.dims()[0], first.dims()[1]);
        let bias = project.bias.as_ref();
        dense(
            xs,
            [out, channels, 1, 1],
            window,
            bias,
            |image, (h, w), bias| {
                let pixels = elements(&[h, w])?;
                let epilogue = Epilogue {
                    bias: bias.map_or(Bias::None, Bias::Rows),
                    activation: Activation::Identity,
                    residual: Some(Rows::new(image, pixels, out, pixels)),
                };
                let epilogues = [&first_epilogue, &epilogue];
                let ys = convolution::pointwise_pair(image, pixels, [first, second], epilogues)?;
                Ok((ys, (h, w)))
            },
        )
    }
}
