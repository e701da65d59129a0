//! RepViT, the smallest of the three student families: a convolutional network without attention.
//!
//! Follows `RepViT`,
//! <https://github.com/SimonZeng7108/efficientsam3/blob/c1f0b02/sam3/sam3/backbones/repvit.py>,
//! whose training-time branches (a 3x3, a 1x1 and an identity, each block's BatchNorms) are folded
//! into single convolutions while loading.

use candle::{Module, Result, Tensor};
use candle_nn::VarBuilder;

use super::folded;
use crate::nn::conv::{ChannelMixer, Conv2d, ConvConfig, batch_norm, conv2d, get_f64};
use crate::nn::in_f32;

/// The kernel of every spatial convolution.
const KERNEL: usize = 3;

/// One entry of `features` after the stem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockConfig {
    /// Channels of the output.
    pub channels: usize,
    /// 1 keeps the size and the channels, 2 halves the size.
    pub stride: usize,
    /// True if the channels are weighted by a squeeze-and-excite gate.
    pub squeeze_excite: bool,
}

/// The sizes of a RepViT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Channels of the stem's output, at a quarter of the image size.
    pub stem_channels: usize,
    /// The blocks, in order.
    pub blocks: Vec<BlockConfig>,
}

impl Config {
    /// RepViT-M0.9 (RV-S): 4.7 million parameters, 384 channels out.
    pub fn m0_9() -> Self {
        Self::from_stages(&[(48, 3), (96, 3), (192, 15), (384, 2)])
    }

    /// RepViT-M1.1 (RV-M): 7.8 million parameters, 512 channels out.
    pub fn m1_1() -> Self {
        Self::from_stages(&[(64, 3), (128, 3), (256, 13), (512, 2)])
    }

    /// RepViT-M2.3 (RV-L): 22.4 million parameters, 640 channels out.
    pub fn m2_3() -> Self {
        Self::from_stages(&[(80, 7), (160, 7), (320, 35), (640, 2)])
    }

    /// Each stage: its channels and how many stride-1 blocks follow the downsampling.
    fn from_stages(stages: &[(usize, usize)]) -> Self {
        let mut blocks = Vec::new();
        for (stage, &(channels, depth)) in stages.iter().enumerate() {
            if stage > 0 {
                blocks.push(BlockConfig {
                    channels,
                    stride: 2,
                    squeeze_excite: false,
                });
            }
            // Every other block is gated, the last of a stage never.
            blocks.extend((0..depth).map(|i| BlockConfig {
                channels,
                stride: 1,
                squeeze_excite: i % 2 == 0 && i + 1 < depth,
            }));
        }
        Self {
            stem_channels: stages[0].0,
            blocks,
        }
    }

    /// Channels of the output.
    pub fn out_channels(&self) -> usize {
        self.blocks
            .last()
            .map_or(self.stem_channels, |block| block.channels)
    }
}

/// The RepViT trunk: (b, 3, s, s) -> (b, c, s / 32, s / 32), each halving rounded up.
#[derive(Debug, Clone)]
pub struct RepVit {
    stem: [Conv2d; 2],
    blocks: Vec<Block>,
}

impl RepVit {
    /// Reads `features.*`.
    pub fn new(cfg: &Config, vb: VarBuilder) -> Result<Self> {
        let vb = vb.pp("features");
        let c = cfg.stem_channels;
        let halve = ConvConfig::same(KERNEL).with_stride(2);
        let stem = [
            folded(3, c / 2, KERNEL, halve, vb.pp("0.0"))?,
            folded(c / 2, c, KERNEL, halve, vb.pp("0.2"))?,
        ];
        let mut channels = c;
        let mut blocks = Vec::with_capacity(cfg.blocks.len());
        for (i, block) in cfg.blocks.iter().enumerate() {
            blocks.push(Block::new(channels, block, vb.pp(i + 1))?);
            channels = block.channels;
        }
        Ok(Self { stem, blocks })
    }

    fn stem(&self, xs: &Tensor) -> Result<Tensor> {
        let [first, second] = &self.stem;
        first.forward_gelu(xs)?.apply(second)
    }
}

impl Module for RepVit {
    /// (b, 3, s, s) -> (b, c, s / 32, s / 32)
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let stem = self.stem(xs)?;
        self.blocks
            .iter()
            .try_fold(stem, |xs, block| xs.apply(block))
    }
}

/// A depthwise convolution that mixes pixels, then a pointwise network that mixes channels.
#[derive(Debug, Clone)]
struct Block {
    depthwise: Conv2d,
    squeeze_excite: Option<SqueezeExcite>,
    /// Only with stride 2: to the wider channels.
    widen: Option<Conv2d>,
    channel_mixer: ChannelMixer,
}

impl Block {
    fn new(in_channels: usize, cfg: &BlockConfig, vb: VarBuilder) -> Result<Self> {
        let c = cfg.channels;
        let (tokens, channel_mixer) = (vb.pp("token_mixer"), vb.pp("channel_mixer.m"));
        let pointwise = ConvConfig::default();
        let (depthwise, widen) = if cfg.stride == 1 {
            if in_channels != c {
                candle::bail!("a block of stride 1 cannot go from {in_channels} to {c} channels")
            }
            (rep_vgg_depthwise(c, tokens.pp(0))?, None)
        } else {
            let window = ConvConfig::same(KERNEL)
                .with_stride(cfg.stride)
                .with_groups(in_channels);
            let depthwise = folded(in_channels, in_channels, KERNEL, window, tokens.pp(0))?;
            let widen = folded(in_channels, c, 1, pointwise, tokens.pp(2))?;
            (depthwise, Some(widen))
        };
        let squeeze_excite = || SqueezeExcite::new(in_channels, tokens.pp(1));
        let channel_mixer = ChannelMixer::new(
            folded(c, 2 * c, 1, pointwise, channel_mixer.pp(0))?,
            folded(2 * c, c, 1, pointwise, channel_mixer.pp(2))?,
        )?;
        Ok(Self {
            depthwise,
            squeeze_excite: cfg.squeeze_excite.then(squeeze_excite).transpose()?,
            widen,
            channel_mixer,
        })
    }
}

impl Module for Block {
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let mut xs = xs.apply(&self.depthwise)?;
        if let Some(squeeze_excite) = &self.squeeze_excite {
            xs = xs.apply(squeeze_excite)?;
        }
        if let Some(widen) = &self.widen {
            xs = xs.apply(widen)?;
        }
        xs.apply(&self.channel_mixer)
    }
}

/// Weighs each channel by a gate computed from the means of all channels.
#[derive(Debug, Clone)]
struct SqueezeExcite {
    fc1: Conv2d,
    fc2: Conv2d,
}

impl SqueezeExcite {
    fn new(channels: usize, vb: VarBuilder) -> Result<Self> {
        // A quarter of the channels, rounded to the nearest multiple of eight.
        let reduced = ((channels / 4 + 4) / 8 * 8).max(8);
        let pointwise = ConvConfig::default();
        Ok(Self {
            fc1: conv2d(channels, reduced, 1, pointwise, vb.pp("fc1"))?,
            fc2: conv2d(reduced, channels, 1, pointwise, vb.pp("fc2"))?,
        })
    }
}

impl Module for SqueezeExcite {
    /// (b, c, h, w) -> (b, c, h, w)
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        // Sums over up to 252² pixels overflow f16.
        let means = in_f32(xs, |xs| xs.mean_keepdim((2, 3)))?; // (b, c, 1, 1)
        let gate = means.apply(&self.fc1)?.relu()?.apply(&self.fc2)?;
        xs.broadcast_mul(&candle_nn::ops::sigmoid(&gate)?)
    }
}

/// `RepVGGDW`: `bn(conv(x) + conv1(x) + x)` with its own norm inside `conv`, as one 3x3 convolution.
fn rep_vgg_depthwise(channels: usize, vb: VarBuilder) -> Result<Conv2d> {
    let weight = get_f64((channels, 1, KERNEL, KERNEL), "conv.c.weight", &vb)?;
    let (weight, bias) = batch_norm(channels, vb.pp("conv.bn"))?.fold(&weight, None)?;
    // The 1x1 branch and the identity act on the centre of the 3x3 window.
    let centre = (get_f64((channels, 1, 1, 1), "conv1.weight", &vb)? + 1.)?;
    let centre = centre
        .pad_with_zeros(2, KERNEL / 2, KERNEL / 2)?
        .pad_with_zeros(3, KERNEL / 2, KERNEL / 2)?;
    let bias = (bias + get_f64(channels, "conv1.bias", &vb)?)?;
    let norm = batch_norm(channels, vb.pp("bn"))?;
    let (weight, bias) = norm.fold(&(weight + centre)?, Some(&bias))?;
    let cfg = ConvConfig::same(KERNEL).with_groups(channels);
    Conv2d::from_folded(&weight, &bias, cfg, &vb)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::golden::{Golden, assert_close};

    #[test]
    fn every_block_equals_the_official_one() {
        let golden = Golden::open("repvit");
        let cfgs = golden.config()["cfgs"].clone();
        let rows: Vec<[usize; 6]> = serde_json::from_value(cfgs).unwrap();
        let cfg = Config {
            stem_channels: rows[0][2],
            blocks: rows
                .iter()
                .map(|&[_, _, channels, se, _, stride]| BlockConfig {
                    channels,
                    stride,
                    squeeze_excite: se == 1,
                })
                .collect(),
        };
        let model = RepVit::new(&cfg, golden.weights()).unwrap();
        let pixels = golden.tensor("in.pixels");
        let mut xs = model.stem(&pixels).unwrap();
        assert_close(&xs, &golden.tensor("out.features.0"), 1e-6);
        for (i, block) in model.blocks.iter().enumerate() {
            xs = block.forward(&xs).unwrap();
            let want = golden.tensor(&format!("out.features.{}", i + 1));
            assert_close(&xs, &want, 2e-6);
        }
        let whole = model.forward(&pixels).unwrap();
        assert_close(&whole, &xs, 0.);
        assert_eq!(whole.dim(1).unwrap(), cfg.out_channels());
    }

    #[test]
    fn the_gated_blocks_are_those_of_the_checkpoints() {
        let gated = |cfg: Config| -> Vec<usize> {
            let blocks = cfg.blocks.iter().enumerate();
            let gated = blocks.filter(|(_, block)| block.squeeze_excite);
            gated.map(|(i, _)| i + 1).collect()
        };
        assert_eq!(gated(Config::m0_9()), [1, 5, 9, 11, 13, 15, 17, 19, 21, 25]);
        assert_eq!(gated(Config::m1_1()), [1, 5, 9, 11, 13, 15, 17, 19, 23]);
        let mut m2_3 = vec![1, 3, 5, 9, 11, 13];
        m2_3.extend((17..=49).step_by(2));
        m2_3.push(53);
        assert_eq!(gated(Config::m2_3()), m2_3);
    }
}
