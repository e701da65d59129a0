//! The feature pyramid on top of the trunk.
//!
//! Follows `Sam3DualViTDetNeck`,
//! <https://github.com/facebookresearch/sam3/blob/99d02f2/sam3/model/necks.py#L13>.
//!
//! The detector (`convs`) and the click head (`sam2_convs`) have one each, equal in shape and with
//! different weights. The fourth level (half size) is in the files and is not computed: the model
//! drops it.

use candle::{Result, Tensor};
use candle_nn::{Module, VarBuilder};

use crate::nn::conv::{Conv2d, ConvConfig, conv2d};
use crate::nn::conv_transpose::ConvTranspose2x2;
use crate::nn::gelu;

/// Three levels at four, two and one times the trunk's resolution.
#[derive(Debug)]
pub struct Neck {
    up4: (ConvTranspose2x2, ConvTranspose2x2),
    up2: ConvTranspose2x2,
    projections: [Projection; 3],
}

impl Neck {
    /// Reads levels `0`, `1` and `2` below `convs` or `sam2_convs`.
    pub fn new(trunk_dim: usize, d_model: usize, vb: VarBuilder) -> Result<Self> {
        let (half, quarter) = (trunk_dim / 2, trunk_dim / 4);
        Ok(Self {
            up4: (
                ConvTranspose2x2::new(trunk_dim, half, vb.pp("0.dconv_2x2_0"))?,
                ConvTranspose2x2::new(half, quarter, vb.pp("0.dconv_2x2_1"))?,
            ),
            up2: ConvTranspose2x2::new(trunk_dim, half, vb.pp("1.dconv_2x2"))?,
            projections: [
                Projection::new(quarter, d_model, vb.pp(0))?,
                Projection::new(half, d_model, vb.pp(1))?,
                Projection::new(trunk_dim, d_model, vb.pp(2))?,
            ],
        })
    }

    /// Trunk features (b, c, g, g) -> maps (b, d, 4g, 4g), (b, d, 2g, 2g), (b, d, g, g)
    pub fn forward(&self, trunk: &Tensor) -> Result<[Tensor; 3]> {
        let up4 = gelu(&trunk.apply(&self.up4.0)?)?.apply(&self.up4.1)?;
        let up2 = trunk.apply(&self.up2)?;
        let [p4, p2, p1] = &self.projections;
        Ok([p4.forward(&up4)?, p2.forward(&up2)?, p1.forward(trunk)?])
    }
}

#[derive(Debug)]
struct Projection {
    conv_1x1: Conv2d,
    conv_3x3: Conv2d,
}

impl Projection {
    fn new(input: usize, d_model: usize, vb: VarBuilder) -> Result<Self> {
        Ok(Self {
            conv_1x1: conv2d(input, d_model, 1, ConvConfig::default(), vb.pp("conv_1x1"))?,
            conv_3x3: conv2d(d_model, d_model, 3, ConvConfig::same(3), vb.pp("conv_3x3"))?,
        })
    }

    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        self.conv_3x3.forward(&self.conv_1x1.forward(xs)?)
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
            let neck = Neck::new(trunk.dim(1)?, d_model, golden.weights().pp(part))?;
            for (level, got) in neck.forward(&trunk)?.iter().enumerate() {
                assert_close(got, &golden.tensor(&format!("{out}.{level}")), 1e-5);
            }
        }
        Ok(())
    }
}
