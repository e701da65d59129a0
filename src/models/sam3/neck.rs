//! The feature pyramid on top of the trunk.
//!
//! Follows `Sam3DualViTDetNeck`,
//! <https://github.com/facebookresearch/sam3/blob/99d02f2/sam3/model/necks.py#L13>.
//!
//! The detector (`convs`) and the interactive head (`sam2_convs`, in SAM 3.1 `interactive_convs`) have
//! one each, equal in shape and with different weights, and SAM 3.1 a third one for video
//! (`propagation_convs`). SAM 3 files have a fourth level (half size),
//! which is not computed: the model drops it.
//!
//! Two steps with nothing between them are one: a transposed convolution and the 1x1 convolution
//! after it are multiplied when they are read, and where a student's features are smaller than the
//! trunk's they are resized after the first map of each level, which sees one pixel at a time.

use candle::{Result, Tensor};
use candle_nn::VarBuilder;

use crate::nn::conv::{Conv2d, ConvConfig, conv2d};
use crate::nn::conv_transpose::ConvTranspose2x2;
use crate::nn::sample::resize_bilinear;

/// Three levels at four, two and one times the trunk's resolution.
#[derive(Debug, Clone)]
pub struct Neck {
    grid: usize,
    up4: (ConvTranspose2x2, ConvTranspose2x2),
    up2: ConvTranspose2x2,
    project: Conv2d,
    smooth: [Conv2d; 3],
}

impl Neck {
    /// Reads levels `0`, `1` and `2` below `convs` or `sam2_convs`, for a trunk of `grid` cells a
    /// side.
    pub fn new(trunk_dim: usize, d_model: usize, grid: usize, vb: VarBuilder) -> Result<Self> {
        let (half, quarter) = (trunk_dim / 2, trunk_dim / 4);
        let level = |level: usize, name: &str| vb.pp(level).pp(name);
        let smooth = |i: usize| {
            let window = ConvConfig::same(3);
            conv2d(d_model, d_model, 3, window, level(i, "conv_3x3"))
        };
        let pointwise = ConvConfig::default();
        Ok(Self {
            grid,
            up4: (
                ConvTranspose2x2::new(trunk_dim, half, level(0, "dconv_2x2_0"))?,
                ConvTranspose2x2::with_pointwise(
                    [half, quarter, d_model],
                    level(0, "dconv_2x2_1"),
                    level(0, "conv_1x1"),
                )?,
            ),
            up2: ConvTranspose2x2::with_pointwise(
                [trunk_dim, half, d_model],
                level(1, "dconv_2x2"),
                level(1, "conv_1x1"),
            )?,
            project: conv2d(trunk_dim, d_model, 1, pointwise, level(2, "conv_1x1"))?,
            smooth: [smooth(0)?, smooth(1)?, smooth(2)?],
        })
    }

    /// Cells on a side of the trunk's features, after a student resized them.
    pub fn grid(&self) -> usize {
        self.grid
    }

    /// Trunk features (b, c, h, w), of `g` cells a side or to be resized to that
    /// -> maps (b, d, 4g, 4g), (b, d, 2g, 2g), (b, d, g, g)
    pub fn forward(&self, trunk: &Tensor) -> Result<[Tensor; 3]> {
        let [p4, p2, p1] = &self.smooth;
        let up4 = self.up4.0.forward_resized_gelu(trunk, self.grid)?;
        let up2 = self.up2.forward_resized(trunk, self.grid)?;
        let same = resize_bilinear(&trunk.apply(&self.project)?, self.grid)?;
        Ok([
            up4.apply(&self.up4.1)?.apply(p4)?,
            up2.apply(p2)?,
            same.apply(p1)?,
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::golden::{Golden, assert_close};

    #[test]
    fn both_necks_equal_the_official_one() -> Result<()> {
        let golden = Golden::open("neck");
        let trunk = golden.tensor("in.trunk");
        for (part, out) in [("convs", "out.fpn"), ("sam2_convs", "out.sam2")] {
            let d_model = golden.tensor("out.fpn.2").dim(1)?;
            let new = |grid| Neck::new(trunk.dim(1)?, d_model, grid, golden.weights().pp(part));
            let (neck, larger) = (new(trunk.dim(2)?)?, new(13)?);
            for (level, got) in neck.forward(&trunk)?.iter().enumerate() {
                assert_close(got, &golden.tensor(&format!("{out}.{level}")), 1e-5);
            }
            // a map that is resized on the way, against the same resized before
            let want = larger.forward(&resize_bilinear(&trunk, 13)?)?;
            for (got, want) in larger.forward(&trunk)?.iter().zip(&want) {
                assert_close(got, want, 1e-5);
            }
        }
        Ok(())
    }
}
