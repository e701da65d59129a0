//! The feature pyramid on top of Hiera.
//!
//! Follows `FpnNeck`,
//! <https://github.com/facebookresearch/sam2/blob/2b90b9f/sam2/modeling/backbones/image_encoder.py#L45>.
//!
//! # Easy to get wrong
//! - The convolutions are numbered from the deepest stage.
//! - Only the third map gets the one below added, enlarged to the nearest pixel; the deepest map
//!   itself is dropped.

use candle::{Result, Tensor};
use candle_nn::VarBuilder;

use crate::nn::conv::{Conv2d, ConvConfig, conv2d};
use crate::nn::sample::upsample_nearest_add;

/// Maps at a quarter, an eighth and a sixteenth of the input's resolution.
#[derive(Debug)]
pub struct Neck {
    /// From the first stage to the last.
    convs: [Conv2d; 4],
}

impl Neck {
    /// Reads `convs.0` to `convs.3` for stages of these channels.
    ///
    /// # Errors
    /// If a tensor is missing or has another shape.
    pub fn new([d0, d1, d2, d3]: [usize; 4], d_model: usize, vb: VarBuilder) -> Result<Self> {
        let conv = |channels: usize, name: &str| {
            conv2d(channels, d_model, 1, ConvConfig::default(), vb.pp(name))
        };
        Ok(Self {
            convs: [
                conv(d0, "convs.3.conv")?,
                conv(d1, "convs.2.conv")?,
                conv(d2, "convs.1.conv")?,
                conv(d3, "convs.0.conv")?,
            ],
        })
    }

    /// Maps of the four stages, channels last, the third of `g` cells a side
    /// -> maps (b, d, 4g, 4g), (b, d, 2g, 2g), (b, d, g, g)
    ///
    /// # Errors
    /// For maps of other shapes.
    pub fn forward(&self, stages: &[Tensor; 4]) -> Result<[Tensor; 3]> {
        let lateral = |stage: usize| -> Result<Tensor> {
            let map = stages[stage].permute((0, 3, 1, 2))?.contiguous()?;
            map.apply(&self.convs[stage])
        };
        let coarse = upsample_nearest_add(&lateral(3)?, &lateral(2)?)?;
        Ok([lateral(0)?, lateral(1)?, coarse])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backbones::hiera::tests::pixels;
    use crate::backbones::hiera::{Config, Hiera};
    use crate::nn::golden::{Golden, assert_close};

    #[test]
    fn equals_the_official_neck_on_the_official_stages() -> Result<()> {
        let golden = Golden::open("sam2");
        let vb = golden.weights().pp("image_encoder");
        let cfg = Config::of(golden.config());
        let neck = Neck::new(cfg.dims(), golden.size("d_model"), vb.pp("neck"))?;
        // the last block of each stage
        let stage = |block: usize| golden.tensor(&format!("out.block.{block}"));
        let got = neck.forward(&[stage(0), stage(2), stage(5), stage(6)])?;
        for level in [1, 2] {
            let want = golden.tensor(&format!("out.fpn.{level}"));
            assert_close(&got[level], &want, 5e-6);
        }
        let trunk = Hiera::new(&cfg, vb.pp("trunk"))?;
        let got = neck.forward(&trunk.forward(&pixels(&golden))?)?;
        assert_close(&got[2], &golden.tensor("out.fpn.2"), 5e-6);
        Ok(())
    }
}
