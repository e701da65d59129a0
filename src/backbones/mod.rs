//! Floor 1: image encoders.

pub mod efficientvit;
pub mod hiera;
pub mod repvit;
pub mod student;
pub mod tiny_vit;
pub mod vit;

use candle::{Module, Result, Tensor};
use candle_nn::VarBuilder;

use crate::nn::conv::{Conv2d, ConvConfig, conv2d_bn};

/// Which image encoder, and its sizes.
#[derive(Debug, Clone, PartialEq)]
pub enum Config {
    /// The trunk of SAM 3.
    Vit(vit::Config),
    /// A student of it.
    Student(student::Config),
}

impl Config {
    /// Channels of the feature map.
    pub fn dim(&self) -> usize {
        match self {
            Self::Vit(cfg) => cfg.dim,
            Self::Student(cfg) => cfg.embed_dim,
        }
    }

    /// Side of the feature map.
    pub fn grid(&self) -> usize {
        match self {
            Self::Vit(cfg) => cfg.grid(),
            Self::Student(cfg) => cfg.grid,
        }
    }
}

/// Any image encoder of the SAM 3 family.
#[derive(Debug)]
pub enum ImageEncoder {
    /// The trunk of SAM 3.
    Vit(vit::Vit),
    /// A student of it.
    Student(student::Student),
}

impl ImageEncoder {
    /// Reads everything below `backbone.vision_backbone.trunk`.
    pub fn new(cfg: &Config, vb: VarBuilder) -> Result<Self> {
        Ok(match cfg {
            Config::Vit(cfg) => Self::Vit(vit::Vit::new(cfg, vb)?),
            Config::Student(cfg) => Self::Student(student::Student::new(cfg, vb.pp("model"))?),
        })
    }

    /// Raw trunk features of pixels (b, 3, s, s), before a student's resize to the ViT grid: (b, dim, h, w),
    /// to be seen as a map of [`Config::grid`] cells a side.
    pub fn features(&self, xs: &Tensor) -> Result<Tensor> {
        match self {
            Self::Vit(vit) => vit.forward(xs),
            Self::Student(student) => student.features(xs),
        }
    }
}

impl Module for ImageEncoder {
    /// Normalised pixels (b, 3, s, s) -> features (b, dim, g, g)
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        match self {
            Self::Vit(vit) => vit.forward(xs),
            Self::Student(student) => student.forward(xs),
        }
    }
}

/// `Conv2d_BN` of RepViT and TinyViT: a convolution `c` without bias and its BatchNorm `bn`.
fn folded(
    in_channels: usize,
    out_channels: usize,
    kernel: usize,
    cfg: ConvConfig,
    vb: VarBuilder,
) -> Result<Conv2d> {
    conv2d_bn(
        in_channels,
        out_channels,
        kernel,
        cfg,
        vb.pp("c"),
        vb.pp("bn"),
    )
}
