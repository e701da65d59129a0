//! The plain vision transformer with windowed and global blocks.
//!
//! Follows `ViT`, <https://github.com/facebookresearch/sam3/blob/99d02f2/sam3/model/vitdet.py#L592>.
//!
//! Easy to get wrong: the absolute positions are tiled over the grid, not interpolated; rotary
//! positions restart in every window; in global blocks they are scaled down to the grid that the
//! model was pre-trained on; there is no norm after the last block.

mod block;
mod patches;
pub mod sam1;

use candle::{Device, Result, Tensor};
use candle_nn::{Module, VarBuilder};

use crate::nn::rope::AxialRope;
use crate::nn::{LayerNorm, layer_norm, window};
use block::{Block, BlockConfig, Positions};
use patches::PatchEmbed;

/// Layer norms of the ViT and its blocks.
const EPS: f64 = 1e-5;

/// Sizes of a vision transformer.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Side of the square input, in pixels.
    pub image_size: usize,
    /// Side of a patch, in pixels.
    pub patch_size: usize,
    /// Width of the tokens.
    pub dim: usize,
    /// Number of blocks.
    pub depth: usize,
    /// Attention heads.
    pub num_heads: usize,
    /// Hidden width of each block's MLP.
    pub mlp_dim: usize,
    /// Side of an attention window, in patches.
    pub window_size: usize,
    /// Side of the grid that `pos_embed` was trained on, in patches.
    pub pretrain_grid: usize,
    /// Blocks whose attention spans the whole grid.
    pub global_blocks: Vec<usize>,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
}

impl Config {
    /// The trunk of SAM 3: 446 M parameters.
    pub fn sam3() -> Self {
        Self {
            image_size: 1008,
            patch_size: 14,
            dim: 1024,
            depth: 32,
            num_heads: 16,
            mlp_dim: 4736,
            window_size: 24,
            pretrain_grid: 24,
            global_blocks: vec![7, 15, 23, 31],
            rope_theta: 10_000.,
        }
    }

    /// Side of the token grid.
    pub fn grid(&self) -> usize {
        self.image_size / self.patch_size
    }

    fn rope(&self, side: usize, scale: f64, device: &Device) -> Result<AxialRope> {
        AxialRope::new(
            self.dim / self.num_heads,
            side,
            scale,
            self.rope_theta,
            device,
        )
    }
}

/// A vision transformer that turns pixels into one feature map.
#[derive(Debug)]
pub struct Vit {
    patch_embed: PatchEmbed,
    pos_embed: Tensor, // (1, grid, grid, dim)
    ln_pre: LayerNorm,
    blocks: Vec<Block>,
    window_size: usize,
    global_blocks: Vec<usize>,
}

impl Vit {
    /// Reads `patch_embed.proj.weight`, `pos_embed` (its first row, of a class token, is unused), `ln_pre`, `blocks.*`.
    pub fn new(cfg: &Config, vb: VarBuilder) -> Result<Self> {
        let (dim, grid) = (cfg.dim, cfg.grid());
        if grid % cfg.window_size != 0 {
            candle::bail!(
                "a grid of {grid} does not divide into windows of {}",
                cfg.window_size
            );
        }
        let cells = cfg.pretrain_grid.pow(2);
        let pretrained = vb
            .get((1, 1 + cells, dim), "pos_embed")?
            .narrow(1, 1, cells)?;
        let scale = cfg.pretrain_grid as f64 / grid as f64;
        let window_rope = cfg.rope(cfg.window_size, 1., vb.device())?;
        let global_rope = cfg
            .rope(grid, scale, vb.device())?
            .in_windows(cfg.window_size)?;
        let block = BlockConfig {
            dim,
            num_heads: cfg.num_heads,
            mlp_dim: cfg.mlp_dim,
            eps: EPS,
            mlp_names: ["norm2", "mlp.fc1", "mlp.fc2"],
        };
        let blocks = (0..cfg.depth).map(|i| {
            let rope = match cfg.global_blocks.contains(&i) {
                true => &global_rope,
                false => &window_rope,
            };
            let positions = Positions::Rotary(rope.clone());
            Block::new(&block, None, positions, vb.pp("blocks").pp(i))
        });
        let patches = vb.pp("patch_embed.proj");
        Ok(Self {
            patch_embed: PatchEmbed::new(cfg.patch_size, dim, grid, None, patches)?,
            pos_embed: tile(&pretrained, cfg.pretrain_grid, grid)?,
            ln_pre: layer_norm(dim, EPS, vb.pp("ln_pre"))?,
            blocks: blocks.collect::<Result<_>>()?,
            window_size: cfg.window_size,
            global_blocks: cfg.global_blocks.clone(),
        })
    }
}

impl Module for Vit {
    /// Normalised pixels (b, 3, s, s) -> features (b, dim, g, g)
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let xs = self
            .patch_embed
            .forward(xs)?
            .broadcast_add(&self.pos_embed)?
            .apply(&self.ln_pre)?;
        let ((b, h, w, c), size) = (xs.dims4()?, self.window_size);
        // Tokens stay in the order of the windows from the first block to the last: a global block
        // only sees them one after the other, each turned by its own position.
        let mut xs = window::partition(&xs, size)?;
        for (i, block) in self.blocks.iter().enumerate() {
            let shape = match self.global_blocks.contains(&i) {
                true => (b, h * w / size, size, c),
                false => (b * h * w / (size * size), size, size, c),
            };
            xs = block.forward(&xs.reshape(shape)?)?;
        }
        let xs = window::merge(&xs.reshape(((), size, size, c))?, h, w)?;
        xs.permute((0, 3, 1, 2))?.contiguous()
    }
}

/// Repeats a (1, side², dim) table over a larger grid -> (1, grid, grid, dim)
fn tile(table: &Tensor, side: usize, grid: usize) -> Result<Tensor> {
    let repeats = grid.div_ceil(side);
    table
        .reshape((1, side, side, ()))?
        .repeat((1, repeats, repeats, 1))?
        .narrow(1, 0, grid)?
        .narrow(2, 0, grid)?
        .contiguous()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::Precision;
    use crate::nn::golden::{Golden, assert_close};

    #[test]
    fn equals_the_official_vit() -> Result<()> {
        check("vit", Precision::Highest, 1e-5)
    }

    #[test]
    fn in_medium_precision_it_stays_near() -> Result<()> {
        check("vit", Precision::Medium, 3e-2)
    }

    #[test]
    fn equals_the_official_vit_with_three_windows_a_side() -> Result<()> {
        check("vit_grid12", Precision::Highest, 1e-5)
    }

    fn check(name: &str, precision: Precision, tolerance: f64) -> Result<()> {
        let golden = Golden::open(name);
        let cfg = golden.config();
        let n = |key| golden.size(key);
        let cfg = Config {
            image_size: n("img_size"),
            patch_size: n("patch_size"),
            dim: n("embed_dim"),
            depth: n("depth"),
            num_heads: n("num_heads"),
            mlp_dim: golden.tensor("weights.blocks.0.mlp.fc1.bias").elem_count(),
            window_size: n("window_size"),
            pretrain_grid: n("pretrain_img_size") / n("patch_size"),
            global_blocks: serde_json::from_value(cfg["global_att_blocks"].clone()).unwrap(),
            rope_theta: 10_000.,
        };
        let vit = precision.scope(|| Vit::new(&cfg, golden.weights()))?;
        let got = vit.forward(&golden.tensor("in.pixels"))?;
        assert_close(&got, &golden.tensor("out.trunk"), tolerance);
        Ok(())
    }
}
