//! Pixels become image tokens: a backbone and a neck.

use candle::{Result, Tensor};
use candle_nn::VarBuilder;

use crate::backbones::tiny_vit::{self, TinyVit};
use crate::backbones::vit::sam1::{self, SamVit};
use crate::nn::conv::{Conv2d, ConvConfig, conv2d_no_bias};
use crate::nn::{LayerNorm, layer_norm};

/// Epsilon of the neck's norms.
const EPS: f64 = 1e-6;

/// Which backbone, and its sizes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum BackboneConfig {
    /// SAM 1.
    Vit(sam1::Config),
    /// MobileSAM.
    TinyVit(tiny_vit::Config),
}

#[derive(Debug)]
enum Backbone {
    Vit(SamVit),
    TinyVit(TinyVit),
}

/// The image encoder of SAM 1 or MobileSAM.
#[derive(Debug)]
pub struct ImageEncoder {
    backbone: Backbone,
    neck: Neck,
}

impl ImageEncoder {
    /// Reads everything below `image_encoder` but MobileSAM's dead classifier; `dim` is the width
    /// of the image tokens.
    pub fn new(cfg: &BackboneConfig, dim: usize, vb: VarBuilder) -> Result<Self> {
        let neck = vb.pp("neck");
        let (backbone, channels) = match cfg {
            BackboneConfig::Vit(cfg) => (Backbone::Vit(SamVit::new(cfg, vb)?), cfg.dim),
            BackboneConfig::TinyVit(cfg) => (
                Backbone::TinyVit(TinyVit::new(cfg, vb)?),
                cfg.out_channels(),
            ),
        };
        Ok(Self {
            backbone,
            neck: Neck::new(channels, dim, neck)?,
        })
    }

    /// Normalised pixels (1, 3, s, s) -> image tokens (1, g * g, dim), by rows
    pub fn forward(&self, pixels: &Tensor) -> Result<Tensor> {
        let map = match &self.backbone {
            Backbone::Vit(vit) => vit.forward(pixels)?,
            Backbone::TinyVit(vit) => vit.forward_channels_last(pixels)?,
        };
        self.neck.forward(&map)?.flatten(1, 2)
    }
}

/// Two convolutions without bias, each with a norm over channels.
#[derive(Debug)]
struct Neck {
    conv1: Conv2d,
    norm1: LayerNorm,
    conv2: Conv2d,
    norm2: LayerNorm,
}

impl Neck {
    /// Reads `0`, `1`, `2` and `3`.
    fn new(channels: usize, dim: usize, vb: VarBuilder) -> Result<Self> {
        let pointwise = ConvConfig::default();
        Ok(Self {
            conv1: conv2d_no_bias(channels, dim, 1, pointwise, vb.pp(0))?,
            norm1: layer_norm(dim, EPS, vb.pp(1))?,
            conv2: conv2d_no_bias(dim, dim, 3, ConvConfig::same(3), vb.pp(2))?,
            norm2: layer_norm(dim, EPS, vb.pp(3))?,
        })
    }

    /// (b, g, g, c) -> (b, g, g, dim)
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let xs = self.conv1.forward_channels_last(xs)?.apply(&self.norm1)?;
        self.conv2.forward_channels_last(&xs)?.apply(&self.norm2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::golden::{Golden, assert_close};

    #[test]
    fn the_neck_equals_the_official_one() -> Result<()> {
        let golden = Golden::open("sam_vit");
        let channels_last = |name: &str| golden.tensor(name).permute((0, 2, 3, 1))?.contiguous();
        let (trunk, want) = (channels_last("out.trunk")?, channels_last("out.embedding")?);
        let neck = Neck::new(trunk.dim(3)?, want.dim(3)?, golden.weights().pp("neck"))?;
        assert_close(&neck.forward(&trunk)?, &want, 2e-6);
        Ok(())
    }
}
