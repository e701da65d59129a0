//! The distilled image encoders of EfficientSAM3: a small backbone in the place of SAM 3's ViT.
//!
//! Follows `ImageStudentEncoder`,
//! <https://github.com/SimonZeng7108/efficientsam3/blob/c1f0b02/sam3/sam3/model_builder.py#L764>.

use std::fmt;

use candle::{Module, Result, Tensor};
use candle_nn::VarBuilder;

use super::efficientvit::{self, EfficientVit};
use super::repvit::{self, RepVit};
use super::tiny_vit::{self, TinyVit};
use crate::nn::conv::{Conv2d, ConvConfig, conv2d, conv2d_bn};
use crate::nn::sample::resize_bilinear;

/// Which backbone, and its sizes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackboneConfig {
    /// RV-S, RV-M, RV-L.
    RepVit(repvit::Config),
    /// TV-S, TV-M, TV-L.
    TinyVit(tiny_vit::Config),
    /// EV-S, EV-M, EV-L.
    EfficientVit(efficientvit::Config),
}

impl BackboneConfig {
    /// The backbone, which reads its own names, and the channels of its output.
    fn build(&self, vb: VarBuilder) -> Result<(Box<dyn Backbone>, usize)> {
        Ok(match self {
            Self::RepVit(cfg) => (Box::new(RepVit::new(cfg, vb)?), cfg.out_channels()),
            Self::TinyVit(cfg) => (Box::new(TinyVit::new(cfg, vb)?), cfg.out_channels()),
            Self::EfficientVit(cfg) => (Box::new(EfficientVit::new(cfg, vb)?), cfg.out_channels()),
        })
    }
}

/// The sizes of a student.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The backbone.
    pub backbone: BackboneConfig,
    /// Channels of the output, those of the ViT it replaces.
    pub embed_dim: usize,
    /// Side of the output, that of the ViT it replaces.
    pub grid: usize,
}

impl Config {
    /// The student of a SAM 3 at 1008 pixels: 1024 channels on a grid of 72.
    pub fn new(backbone: BackboneConfig) -> Self {
        Self {
            backbone,
            embed_dim: 1024,
            grid: 72,
        }
    }
}

/// A trunk of any family: (b, 3, s, s) -> (b, c, s / 32, s / 32).
trait Backbone: Module + fmt::Debug + Send + Sync {}

impl<T: Module + fmt::Debug + Send + Sync> Backbone for T {}

/// Takes a backbone's features to the channels that SAM 3's neck expects.
#[derive(Debug, Clone)]
pub struct StudentHead {
    project: Conv2d,
    refine: Conv2d,
}

impl StudentHead {
    /// Reads `0.*` (1x1 convolution), `1.*` (its BatchNorm) and `3.*` (3x3 convolution).
    pub fn new(in_channels: usize, embed_dim: usize, vb: VarBuilder) -> Result<Self> {
        let pointwise = ConvConfig::default();
        Ok(Self {
            project: conv2d_bn(in_channels, embed_dim, 1, pointwise, vb.pp(0), vb.pp(1))?,
            refine: conv2d(embed_dim, embed_dim, 3, ConvConfig::same(3), vb.pp(3))?,
        })
    }
}

impl Module for StudentHead {
    /// (b, c, h, w) -> (b, embed_dim, h, w)
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        self.project.forward_gelu(xs)?.apply(&self.refine)
    }
}

/// A distilled image encoder: (b, 3, s, s) -> (b, embed_dim, grid, grid).
#[derive(Debug)]
pub struct Student {
    backbone: Box<dyn Backbone>,
    head: StudentHead,
    grid: usize,
}

impl Student {
    /// Reads `backbone.model.*` and `head.*`.
    pub fn new(cfg: &Config, vb: VarBuilder) -> Result<Self> {
        let (backbone, channels) = cfg.backbone.build(vb.pp("backbone.model"))?;
        Ok(Self {
            backbone,
            head: StudentHead::new(channels, cfg.embed_dim, vb.pp("head"))?,
            grid: cfg.grid,
        })
    }

    /// The features before they are resized: (b, 3, s, s) -> (b, embed_dim, s / 32, s / 32)
    pub fn features(&self, xs: &Tensor) -> Result<Tensor> {
        self.backbone.forward(xs)?.apply(&self.head)
    }
}

impl Module for Student {
    /// (b, 3, s, s) -> (b, embed_dim, grid, grid)
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        resize_bilinear(&self.features(xs)?, self.grid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::golden::{Golden, assert_close};

    #[test]
    fn the_head_and_the_resize_equal_the_official_ones() {
        let golden = Golden::open("student_head");
        let size = |key| golden.size(key);
        let vb = golden.weights().pp("head");
        let head = StudentHead::new(size("in_channels"), size("embed_dim"), vb).unwrap();
        let features = head.forward(&golden.tensor("in.features")).unwrap();
        assert_close(&features, &golden.tensor("out.head"), 1e-6);
        let resized = resize_bilinear(&features, size("embed_size")).unwrap();
        assert_close(&resized, &golden.tensor("out.trunk"), 1e-6);
    }
}
