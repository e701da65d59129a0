//! TinyViT: convolutions first, then attention within windows.
//!
//! Follows `TinyViT`,
//! <https://github.com/SimonZeng7108/efficientsam3/blob/c1f0b02/sam3/sam3/backbones/tiny_vit.py>.
//! After the stem everything is channels last, where tokens and pixels are the same tensor.
//!
//! # Easy to get wrong
//! - Every downsampling halves the size; MobileSAM's TinyViT keeps it in its last one.
//! - The map is padded with zeros to whole windows before the norm, so the padding attends as the
//!   norm's bias.
//! - Queries, keys and values are packed per head.
//! - The convolution between attention and network has no residual and no activation.

use candle::{Device, Module, Result, Tensor};
use candle_nn::VarBuilder;

use super::folded;
use crate::nn::attention::split_qkv;
use crate::nn::conv::{Conv2d, ConvConfig, pointwise_bn};
use crate::nn::{FeedForward, LayerNorm, Linear, Precision};
use crate::nn::{gelu, layer_norm, linear, sdpa, window};

const LAYER_NORM_EPS: f64 = 1e-5;
/// The kernel of every spatial convolution.
const KERNEL: usize = 3;

/// The sizes of a TinyViT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Channels of the four stages.
    pub embed_dims: [usize; 4],
    /// Blocks of the four stages.
    pub depths: [usize; 4],
    /// Attention heads; the first stage has none.
    pub num_heads: [usize; 4],
    /// Side of the attention windows; the first stage has none.
    pub window_sizes: [usize; 4],
    /// Expansion ratio of the MLP of an attention block.
    pub mlp_ratio: usize,
    /// Expansion ratio of a block of the first stage.
    pub mbconv_expand_ratio: usize,
    /// Stride of the downsampling after each of the first three stages.
    pub downsample_strides: [usize; 3],
}

impl Config {
    /// TinyViT-5M (TV-S): 320 channels out.
    pub fn m5() -> Self {
        Self::with_sizes([64, 128, 160, 320])
    }

    /// TinyViT-11M (TV-M): 448 channels out.
    pub fn m11() -> Self {
        Self::with_sizes([64, 128, 256, 448])
    }

    /// TinyViT-21M (TV-L): 576 channels out.
    pub fn m21() -> Self {
        Self::with_sizes([96, 192, 384, 576])
    }

    /// The image encoder of MobileSAM: TinyViT-5M at stride 16.
    pub fn mobile_sam() -> Self {
        Self {
            downsample_strides: [2, 2, 1],
            ..Self::m5()
        }
    }

    fn with_sizes(embed_dims: [usize; 4]) -> Self {
        Self {
            embed_dims,
            depths: [2, 2, 6, 2],
            num_heads: embed_dims.map(|dim| dim / 32),
            window_sizes: [7, 7, 14, 7],
            mlp_ratio: 4,
            mbconv_expand_ratio: 4,
            downsample_strides: [2; 3],
        }
    }

    /// Channels of the output.
    pub fn out_channels(&self) -> usize {
        self.embed_dims[3]
    }
}

/// The TinyViT trunk: (b, 3, s, s) -> (b, c, s / 32, s / 32), each halving rounded up; MobileSAM's
/// to s / 16.
#[derive(Debug, Clone)]
pub struct TinyVit {
    patch_embed: [Conv2d; 2],
    layers: Vec<Layer>,
}

impl TinyVit {
    /// Reads `patch_embed.*` and `layers.*`.
    pub fn new(cfg: &Config, vb: VarBuilder) -> Result<Self> {
        let dim = cfg.embed_dims[0];
        let seq = vb.pp("patch_embed.seq");
        let halve = ConvConfig::same(KERNEL).with_stride(2);
        let patch_embed = [
            folded(3, dim / 2, KERNEL, halve, seq.pp(0))?,
            folded(dim / 2, dim, KERNEL, halve, seq.pp(2))?,
        ];
        let layers = (0..cfg.embed_dims.len())
            .map(|stage| Layer::new(cfg, stage, vb.pp("layers").pp(stage)))
            .collect::<Result<_>>()?;
        Ok(Self {
            patch_embed,
            layers,
        })
    }

    /// (b, 3, s, s) -> (b, s / 4, s / 4, c)
    fn patch_embed(&self, xs: &Tensor) -> Result<Tensor> {
        let [first, second] = &self.patch_embed;
        let xs = first.forward_gelu(xs)?.apply(second)?;
        xs.permute((0, 2, 3, 1))?.contiguous()
    }

    /// (b, 3, s, s) -> (b, s / 32, s / 32, c)
    pub fn forward_channels_last(&self, xs: &Tensor) -> Result<Tensor> {
        let xs = self.patch_embed(xs)?;
        let mut layers = self.layers.iter();
        layers.try_fold(xs, |xs, layer| xs.apply(layer))
    }
}

impl Module for TinyVit {
    /// (b, 3, s, s) -> (b, c, s / 32, s / 32)
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let xs = self.forward_channels_last(xs)?;
        xs.permute((0, 3, 1, 2))?.contiguous()
    }
}

/// One stage: its blocks, and between two stages the downsampling.
#[derive(Debug, Clone)]
struct Layer {
    blocks: Vec<Block>,
    downsample: Option<MbConv>,
}

impl Layer {
    fn new(cfg: &Config, stage: usize, vb: VarBuilder) -> Result<Self> {
        let dim = cfg.embed_dims[stage];
        let inner = dim * cfg.mbconv_expand_ratio;
        let blocks = (0..cfg.depths[stage]).map(|i| {
            let vb = vb.pp("blocks").pp(i);
            Ok(match stage {
                0 => Block::Convolution(MbConv::new([dim, inner, dim], 1, vb)?),
                _ => Block::Attention(TinyVitBlock::new(cfg, stage, vb)?),
            })
        });
        let blocks = blocks.collect::<Result<_>>()?;
        let downsample = cfg.downsample_strides.get(stage).map(|stride| {
            let next = cfg.embed_dims[stage + 1];
            MbConv::new([dim, next, next], *stride, vb.pp("downsample"))
        });
        Ok(Self {
            blocks,
            downsample: downsample.transpose()?,
        })
    }
}

impl Module for Layer {
    /// (b, h, w, c) -> (b, h / stride, w / stride, c')
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let mut blocks = self.blocks.iter();
        let xs = blocks.try_fold(xs.clone(), |xs, block| match block {
            Block::Convolution(block) => block.forward_onto(&xs),
            Block::Attention(block) => xs.apply(block),
        })?;
        match &self.downsample {
            Some(downsample) => xs.apply(downsample),
            None => Ok(xs),
        }
    }
}

#[derive(Debug, Clone)]
enum Block {
    Convolution(MbConv),
    Attention(TinyVitBlock),
}

/// Changes the channels, mixes pixels within each, and changes them again: a block widens and narrows,
/// what lies between two stages mostly halves the size.
#[derive(Debug, Clone)]
struct MbConv {
    conv1: Linear,
    conv2: Conv2d,
    conv3: Linear,
}

impl MbConv {
    /// From `dim` channels by way of `inner` to `out`.
    fn new([dim, inner, out]: [usize; 3], stride: usize, vb: VarBuilder) -> Result<Self> {
        let depthwise = ConvConfig::same(KERNEL).with_groups(inner);
        let strided = depthwise.with_stride(stride);
        Ok(Self {
            conv1: pointwise_bn(dim, inner, vb.pp("conv1.c"), vb.pp("conv1.bn"))?,
            conv2: folded(inner, inner, KERNEL, strided, vb.pp("conv2"))?,
            conv3: pointwise_bn(inner, out, vb.pp("conv3.c"), vb.pp("conv3.bn"))?,
        })
    }

    /// What the last layer takes: (b, h, w, c) -> (b, h / stride, w / stride, inner)
    fn mix(&self, xs: &Tensor) -> Result<Tensor> {
        let xs = self.conv1.forward_gelu(xs)?;
        self.conv2.forward_gelu_channels_last(&xs)
    }

    /// As a block, added to what it is made of; the last activation follows the sum.
    fn forward_onto(&self, xs: &Tensor) -> Result<Tensor> {
        gelu(&self.conv3.forward_onto(xs, &self.mix(xs)?)?)
    }
}

impl Module for MbConv {
    /// Between two stages: (b, h, w, c) -> (b, h / stride, w / stride, c')
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        self.mix(xs)?.apply(&self.conv3)
    }
}

/// Attention within windows, a depthwise convolution across them, then a network per token.
#[derive(Debug, Clone)]
struct TinyVitBlock {
    attn: Attention,
    local_conv: Conv2d,
    mlp: FeedForward,
    window_size: usize,
}

impl TinyVitBlock {
    fn new(cfg: &Config, stage: usize, vb: VarBuilder) -> Result<Self> {
        let dim = cfg.embed_dims[stage];
        let window_size = cfg.window_sizes[stage];
        let depthwise = ConvConfig::same(KERNEL).with_groups(dim);
        let mlp = ["mlp.norm", "mlp.fc1", "mlp.fc2"];
        Ok(Self {
            attn: Attention::new(dim, cfg.num_heads[stage], window_size, vb.pp("attn"))?,
            local_conv: folded(dim, dim, KERNEL, depthwise, vb.pp("local_conv"))?,
            mlp: FeedForward::new([dim, dim * cfg.mlp_ratio], LAYER_NORM_EPS, mlp, &vb)?,
            window_size,
        })
    }
}

impl Module for TinyVitBlock {
    /// (b, h, w, c) -> (b, h, w, c)
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let windows = window::partition(xs, self.window_size)?;
        let attended = windows.flatten(1, 2)?.apply(&self.attn)?;
        let xs = window::merge_onto(xs, &attended.reshape(windows.shape())?)?;
        let xs = self.local_conv.forward_channels_last(&xs)?;
        self.mlp.forward_gelu(&xs)
    }
}

/// Multi-head attention with a learned bias per head and distance.
#[derive(Debug, Clone)]
struct Attention {
    norm: LayerNorm,
    qkv: Linear,
    proj: Linear,
    /// (1, heads, n, n)
    biases: Tensor,
    num_heads: usize,
    precision: Precision,
}

impl Attention {
    fn new(dim: usize, num_heads: usize, window_size: usize, vb: VarBuilder) -> Result<Self> {
        let table = vb.get((num_heads, window_size * window_size), "attention_biases")?;
        let index = Tensor::new(bias_index(window_size), &Device::Cpu)?;
        let n = window_size * window_size;
        let biases = table
            .contiguous()?
            .index_select(&index.to_device(vb.device())?, 1)?
            .reshape((1, num_heads, n, n))?;
        Ok(Self {
            norm: layer_norm(dim, LAYER_NORM_EPS, vb.pp("norm"))?,
            qkv: linear(dim, 3 * dim, vb.pp("qkv"))?,
            proj: linear(dim, dim, vb.pp("proj"))?,
            biases,
            num_heads,
            precision: Precision::current(),
        })
    }
}

impl Module for Attention {
    /// (b, n, c) -> (b, n, c)
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let (b, n, c) = xs.dims3()?;
        let (h, d) = (self.num_heads, c / self.num_heads);
        let qkv = xs.apply(&self.norm)?.apply(&self.qkv)?;
        let qkv = qkv.reshape((b, n, h, 3, d))?.permute((3, 0, 2, 1, 4))?; // (3, b, h, n, d)
        let [q, k, v] = split_qkv(&qkv)?;
        let scale = (d as f64).powf(-0.5);
        let ys = sdpa(&q, &k, &v, scale, Some(&self.biases), self.precision)?;
        ys.transpose(1, 2)?.reshape((b, n, c))?.apply(&self.proj)
    }
}

/// Where each pair of tokens of a window finds its bias: one entry per |row| and |column| distance.
fn bias_index(window_size: usize) -> Vec<u32> {
    let n = window_size * window_size;
    let mut index = Vec::with_capacity(n * n);
    for a in 0..n {
        for b in 0..n {
            let rows = (a / window_size).abs_diff(b / window_size);
            let columns = (a % window_size).abs_diff(b % window_size);
            index.push((rows * window_size + columns) as u32);
        }
    }
    index
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::golden::{Golden, assert_close};

    fn config_of(golden: &Golden) -> Config {
        let config = golden.config();
        let sizes = |key: &str| serde_json::from_value(config[key].clone()).unwrap();
        let size = |key| golden.size(key);
        let strides = serde_json::from_value(config["downsample_strides"].clone());
        Config {
            embed_dims: sizes("embed_dims"),
            depths: sizes("depths"),
            num_heads: sizes("num_heads"),
            window_sizes: sizes("window_sizes"),
            mlp_ratio: size("mlp_ratio"),
            mbconv_expand_ratio: size("mbconv_expand"),
            downsample_strides: strides.unwrap_or([2; 3]),
        }
    }

    #[test]
    fn equals_the_trunk_of_mobile_sam() {
        let golden = Golden::open("sam_tiny_vit");
        let model = TinyVit::new(&config_of(&golden), golden.weights()).unwrap();
        let got = model.forward_channels_last(&golden.tensor("in.pixels"));
        assert_close(&got.unwrap(), &golden.tensor("out.trunk"), 2e-6);
    }

    #[test]
    fn every_stage_equals_the_official_one() {
        let golden = Golden::open("tiny_vit");
        let cfg = config_of(&golden);
        let model = TinyVit::new(&cfg, golden.weights()).unwrap();
        let pixels = golden.tensor("in.pixels");
        let channels_first = |xs: &Tensor| xs.permute((0, 3, 1, 2)).unwrap();
        let mut xs = model.patch_embed(&pixels).unwrap();
        assert_close(&channels_first(&xs), &golden.tensor("out.stem"), 1e-6);
        for (i, layer) in model.layers.iter().enumerate() {
            xs = layer.forward(&xs).unwrap();
            let want = golden.tensor(&format!("out.stage.{i}"));
            assert_close(&channels_first(&xs), &want, 2e-6);
        }
        let whole = model.forward(&pixels).unwrap();
        assert_close(&whole, &channels_first(&xs), 0.);
        assert_eq!(whole.dim(1).unwrap(), cfg.out_channels());
    }

    #[test]
    fn the_bias_of_two_tokens_depends_on_their_distance_per_axis() {
        // Tokens of a 2x2 window: 0 1 / 2 3.
        let index = bias_index(2);
        assert_eq!(index, [0, 1, 2, 3, 1, 0, 3, 2, 2, 3, 0, 1, 3, 2, 1, 0]);
    }
}
