//! EfficientViT-B of MIT's Han lab: convolutions, and attention that is linear in the pixels.
//!
//! Follows `EfficientViTBackbone`,
//! <https://github.com/SimonZeng7108/efficientsam3/blob/c1f0b02/sam3/sam3/backbones/efficientvit/efficientvit/backbone.py>.
//! (Microsoft's EfficientViT is another network.)
//!
//! # Easy to get wrong
//! - In the attention stages two of a block's three convolutions have a bias and no norm.
//! - Queries, keys and values are packed per head, and the multi-scale copy comes after all of them.
//! - The official code has a second formula for maps with fewer pixels than a head has channels. It
//!   is the same function with the products taken in another order, so it is left out.

use candle::{DType, Module, Result, Tensor};
use candle_nn::VarBuilder;

use crate::nn::conv::{Conv2d, ConvConfig, conv2d, conv2d_bn, conv2d_no_bias};

/// The kernel of the spatial convolutions outside attention.
const KERNEL: usize = 3;
/// The kernel that gathers the second scale of queries, keys and values.
const AGGREGATION_KERNEL: usize = 5;
/// Keeps the division of the linear attention finite where all products are zero.
const ATTENTION_EPS: f64 = 1e-15;

/// The sizes of an EfficientViT-B.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Channels of the stem and of the four stages; the last two stages have attention.
    pub widths: [usize; 5],
    /// Blocks of the stem and of the stages; in the stages of attention after the downsampling.
    pub depths: [usize; 5],
    /// Channels of an attention head.
    pub head_dim: usize,
    /// Expansion ratio of a block.
    pub expand_ratio: usize,
}

impl Config {
    /// EfficientViT-B0 (EV-S): 0.7 million parameters, 128 channels out.
    pub fn b0() -> Self {
        Self {
            widths: [8, 16, 32, 64, 128],
            depths: [1, 2, 2, 2, 2],
            head_dim: 16,
            expand_ratio: 4,
        }
    }

    /// EfficientViT-B1 (EV-M): 4.6 million parameters, 256 channels out.
    pub fn b1() -> Self {
        Self {
            widths: [16, 32, 64, 128, 256],
            depths: [1, 2, 3, 3, 4],
            head_dim: 16,
            expand_ratio: 4,
        }
    }

    /// EfficientViT-B2 (EV-L): 15.0 million parameters, 384 channels out.
    pub fn b2() -> Self {
        Self {
            widths: [24, 48, 96, 192, 384],
            depths: [1, 3, 4, 4, 6],
            head_dim: 32,
            expand_ratio: 4,
        }
    }

    /// Channels of the output.
    pub fn out_channels(&self) -> usize {
        self.widths[4]
    }
}

/// The EfficientViT trunk: (b, 3, s, s) -> (b, c, s / 32, s / 32), each halving rounded up.
///
/// A convolution to half the size and depthwise separable ones make the stem.
#[derive(Debug, Clone)]
pub struct EfficientVit {
    stem: Conv2d,
    /// The blocks of the stem, then of the stages.
    stages: Vec<Vec<Block>>,
}

impl EfficientVit {
    /// Reads `input_stem.*` and `stages.*`.
    pub fn new(cfg: &Config, vb: VarBuilder) -> Result<Self> {
        let (c, stem) = (cfg.widths[0], vb.pp("input_stem.op_list"));
        let halve = ConvConfig::same(KERNEL).with_stride(2);
        let separable = MbConvConfig {
            in_channels: c,
            out_channels: c,
            stride: 1,
            expand_ratio: 1,
            fewer_norms: false,
        };
        let blocks = (1..=cfg.depths[0])
            .map(|i| MbConv::new(&separable, stem.pp(i).pp("main")).map(Block::Local));
        let mut stages = vec![blocks.collect::<Result<_>>()?];
        for (i, width) in cfg.widths.windows(2).enumerate() {
            let vb = vb.pp("stages").pp(i).pp("op_list");
            stages.push(stage(
                cfg,
                (width[0], width[1]),
                cfg.depths[i + 1],
                i >= 2,
                vb,
            )?);
        }
        Ok(Self {
            stem: with_norm(3, c, KERNEL, halve, stem.pp(0))?,
            stages,
        })
    }
}

impl Module for EfficientVit {
    /// (b, 3, s, s) -> (b, c, s / 32, s / 32)
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let stem = self.stem.forward_hard_swish(xs)?;
        let mut blocks = self.stages.iter().flatten();
        blocks.try_fold(stem, |xs, block| xs.apply(block))
    }
}

/// A downsampling block, then `depth` blocks of attention or `depth - 1` of convolutions.
fn stage(
    cfg: &Config,
    (in_channels, channels): (usize, usize),
    depth: usize,
    attention: bool,
    vb: VarBuilder,
) -> Result<Vec<Block>> {
    let shape = |in_channels, stride| MbConvConfig {
        in_channels,
        out_channels: channels,
        stride,
        expand_ratio: cfg.expand_ratio,
        fewer_norms: attention,
    };
    let down = MbConv::new(&shape(in_channels, 2), vb.pp("0.main"))?;
    let mut blocks = vec![Block::Downsample(down)];
    for i in 1..depth + usize::from(attention) {
        let vb = vb.pp(i);
        if attention {
            let context = vb.pp("context_module.main");
            let context = LiteMla::new(channels, cfg.head_dim, context)?;
            blocks.push(Block::Context(context));
        }
        let local = match attention {
            true => vb.pp("local_module.main"),
            false => vb.pp("main"),
        };
        blocks.push(Block::Local(MbConv::new(&shape(channels, 1), local)?));
    }
    Ok(blocks)
}

#[derive(Debug, Clone)]
enum Block {
    Downsample(MbConv),
    Context(LiteMla),
    Local(MbConv),
}

impl Module for Block {
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        match self {
            Self::Downsample(conv) => xs.apply(conv),
            Self::Context(attention) => xs + xs.apply(attention)?,
            Self::Local(conv) => xs + xs.apply(conv)?,
        }
    }
}

#[derive(Debug, Clone)]
struct MbConvConfig {
    in_channels: usize,
    out_channels: usize,
    stride: usize,
    /// 1 leaves out the widening convolution, as `DSConv` does.
    expand_ratio: usize,
    /// The first two convolutions have a bias instead of a norm.
    fewer_norms: bool,
}

/// Widens, mixes pixels within each channel, and narrows.
#[derive(Debug, Clone)]
struct MbConv {
    inverted_conv: Option<Conv2d>,
    depth_conv: Conv2d,
    point_conv: Conv2d,
}

impl MbConv {
    fn new(cfg: &MbConvConfig, vb: VarBuilder) -> Result<Self> {
        let layer = |from, to, kernel, conv, vb: VarBuilder| match cfg.fewer_norms {
            true => conv2d(from, to, kernel, conv, vb.pp("conv")),
            false => with_norm(from, to, kernel, conv, vb),
        };
        let (c, out) = (cfg.in_channels, cfg.out_channels);
        let inner = c * cfg.expand_ratio;
        let pointwise = ConvConfig::default();
        let depthwise = ConvConfig::same(KERNEL)
            .with_stride(cfg.stride)
            .with_groups(inner);
        let inverted_conv = match cfg.expand_ratio {
            1 => None,
            _ => Some(layer(c, inner, 1, pointwise, vb.pp("inverted_conv"))?),
        };
        Ok(Self {
            inverted_conv,
            depth_conv: layer(inner, inner, KERNEL, depthwise, vb.pp("depth_conv"))?,
            point_conv: with_norm(inner, out, 1, pointwise, vb.pp("point_conv"))?,
        })
    }
}

impl Module for MbConv {
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let xs = match &self.inverted_conv {
            Some(conv) => &conv.forward_hard_swish(xs)?,
            None => xs,
        };
        let xs = self.depth_conv.forward_hard_swish(xs)?;
        xs.apply(&self.point_conv)
    }
}

/// Attention without softmax at two scales; its cost is linear in the number of pixels.
///
/// Follows `LiteMLA`,
/// <https://github.com/SimonZeng7108/efficientsam3/blob/c1f0b02/sam3/sam3/backbones/efficientvit/nn/ops.py#L521>.
#[derive(Debug, Clone)]
struct LiteMla {
    qkv: Conv2d,
    /// Depthwise, then within each head's queries, keys or values.
    aggreg: [Conv2d; 2],
    proj: Conv2d,
    head_dim: usize,
}

impl LiteMla {
    fn new(channels: usize, head_dim: usize, vb: VarBuilder) -> Result<Self> {
        let heads = channels / head_dim;
        let inner = heads * head_dim;
        let pointwise = ConvConfig::default();
        let depthwise = ConvConfig::same(AGGREGATION_KERNEL).with_groups(3 * inner);
        let per_head = pointwise.with_groups(3 * heads);
        let aggreg = vb.pp("aggreg.0");
        let k = AGGREGATION_KERNEL;
        Ok(Self {
            qkv: conv2d_no_bias(channels, 3 * inner, 1, pointwise, vb.pp("qkv.conv"))?,
            aggreg: [
                conv2d_no_bias(3 * inner, 3 * inner, k, depthwise, aggreg.pp(0))?,
                conv2d_no_bias(3 * inner, 3 * inner, 1, per_head, aggreg.pp(1))?,
            ],
            proj: with_norm(2 * inner, channels, 1, pointwise, vb.pp("proj"))?,
            head_dim,
        })
    }
}

impl Module for LiteMla {
    /// (b, c, h, w) -> (b, c, h, w)
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let (b, _, h, w) = xs.dims4()?;
        let d = self.head_dim;
        let qkv = xs.apply(&self.qkv)?;
        let [gather, mix] = &self.aggreg;
        let scaled = qkv.apply(gather)?.apply(mix)?;
        // Both scales as heads: (b, 2 * heads, 3 * d, h * w). Sums over all pixels need f32.
        let qkv = Tensor::cat(&[qkv, scaled], 1)?.reshape((b, (), 3 * d, h * w))?;
        let qkv = qkv.to_dtype(DType::F32)?;
        let q = qkv.narrow(2, 0, d)?.relu()?;
        let k = qkv.narrow(2, d, d)?.relu()?;
        let v = qkv.narrow(2, 2 * d, d)?;
        // A row of ones beside the values yields the sum of the weights.
        let ones = v.narrow(2, 0, 1)?.ones_like()?;
        let v = Tensor::cat(&[v, ones], 2)?;
        let ys = v.matmul(&k.t()?)?.matmul(&q)?; // (b, 2 * heads, d + 1, h * w)
        let weights = (ys.narrow(2, d, 1)? + ATTENTION_EPS)?;
        let ys = ys.narrow(2, 0, d)?.broadcast_div(&weights)?;
        ys.reshape((b, (), h, w))?
            .to_dtype(xs.dtype())?
            .apply(&self.proj)
    }
}

/// `ConvLayer` with a norm: `conv.weight` and `norm.*`.
fn with_norm(
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
        vb.pp("conv"),
        vb.pp("norm"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::golden::{Golden, assert_close};

    #[test]
    fn every_stage_equals_the_official_one() {
        let golden = Golden::open("efficientvit");
        let config = golden.config();
        let sizes = |key: &str| serde_json::from_value(config[key].clone()).unwrap();
        let cfg = Config {
            widths: sizes("width_list"),
            depths: sizes("depth_list"),
            head_dim: golden.size("dim"),
            expand_ratio: golden.size("expand_ratio"),
        };
        let model = EfficientVit::new(&cfg, golden.weights()).unwrap();
        let pixels = golden.tensor("in.pixels");
        let mut xs = model.stem.forward_hard_swish(&pixels).unwrap();
        for (i, blocks) in model.stages.iter().enumerate() {
            for block in blocks {
                xs = block.forward(&xs).unwrap();
            }
            let want = golden.tensor(&format!("out.stage.{i}"));
            assert_close(&xs, &want, if i == 0 { 1e-6 } else { 2e-6 });
        }
        let whole = model.forward(&pixels).unwrap();
        assert_close(&whole, &xs, 0.);
        assert_eq!(whole.dim(1).unwrap(), cfg.out_channels());
    }
}
