//! The vision transformer of SAM 1.
//!
//! Follows `ImageEncoderViT`,
//! <https://github.com/facebookresearch/segment-anything/blob/dca509f/segment_anything/modeling/image_encoder.py#L16>.
//!
//! Easy to get wrong: the windows do not divide the grid, and the zeros that complete them come
//! after the norm and are attended to; the norms' eps is 1e-6.

use candle::{Result, Tensor};
use candle_nn::VarBuilder;

use super::block::{Block, BlockConfig, Positions};
use super::patches::PatchEmbed;
use crate::nn::attention::RelativePositions;

/// Sizes of a SAM 1 vision transformer.
#[derive(Debug, Clone, PartialEq, Eq)]
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
    /// Side of an attention window, in patches.
    pub window_size: usize,
    /// Blocks whose attention spans the whole grid.
    pub global_blocks: Vec<usize>,
}

impl Config {
    /// ViT-B: 90 M parameters.
    pub fn base() -> Self {
        Self::with_sizes(768, 12, 12)
    }

    /// ViT-L: 308 M parameters.
    pub fn large() -> Self {
        Self::with_sizes(1024, 24, 16)
    }

    /// ViT-H: 637 M parameters.
    pub fn huge() -> Self {
        Self::with_sizes(1280, 32, 16)
    }

    /// Every fourth part of the blocks ends with a global one.
    fn with_sizes(dim: usize, depth: usize, num_heads: usize) -> Self {
        Self {
            image_size: 1024,
            patch_size: 16,
            dim,
            depth,
            num_heads,
            window_size: 14,
            global_blocks: (1..=4).map(|i| i * depth / 4 - 1).collect(),
        }
    }

    /// Side of the token grid.
    pub fn grid(&self) -> usize {
        self.image_size / self.patch_size
    }
}

/// A vision transformer that turns pixels into one feature map.
#[derive(Debug)]
pub struct SamVit {
    patch_embed: PatchEmbed,
    pos_embed: Tensor, // (1, grid, grid, dim)
    blocks: Vec<Block>,
}

impl SamVit {
    /// Reads `patch_embed.proj`, `pos_embed` and `blocks.*`.
    pub fn new(cfg: &Config, vb: VarBuilder) -> Result<Self> {
        let (dim, grid) = (cfg.dim, cfg.grid());
        let block = BlockConfig {
            dim,
            num_heads: cfg.num_heads,
            mlp_dim: 4 * dim,
            eps: 1e-6,
            mlp_names: ["norm2", "mlp.lin1", "mlp.lin2"],
        };
        let blocks = (0..cfg.depth).map(|i| {
            let vb = vb.pp("blocks").pp(i);
            let window = (!cfg.global_blocks.contains(&i)).then_some(cfg.window_size);
            let side = window.unwrap_or(grid);
            let positions = RelativePositions::new(side, dim / cfg.num_heads, vb.pp("attn"))?;
            Block::new(&block, window, Positions::Relative(positions), vb)
        });
        let proj = vb.pp("patch_embed.proj");
        let bias = proj.get(dim, "bias")?;
        Ok(Self {
            patch_embed: PatchEmbed::new(cfg.patch_size, dim, grid, Some(bias), proj)?,
            pos_embed: vb.get((1, grid, grid, dim), "pos_embed")?,
            blocks: blocks.collect::<Result<_>>()?,
        })
    }

    /// Normalised pixels (b, 3, s, s) -> features (b, g, g, dim), channels last
    pub fn forward(&self, pixels: &Tensor) -> Result<Tensor> {
        let xs = self.patch_embed.forward(pixels)?;
        let xs = xs.broadcast_add(&self.pos_embed)?;
        self.blocks
            .iter()
            .try_fold(xs, |xs, block| block.forward(&xs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::golden::{Golden, assert_close};

    #[test]
    fn equals_the_official_vit_with_windows_that_do_not_divide_the_grid() -> Result<()> {
        let golden = Golden::open("sam_vit");
        let cfg = golden.config();
        let n = |key| golden.size(key);
        let cfg = Config {
            image_size: n("img_size"),
            patch_size: n("patch_size"),
            dim: n("embed_dim"),
            depth: n("depth"),
            num_heads: n("num_heads"),
            window_size: n("window_size"),
            global_blocks: serde_json::from_value(cfg["global_attn_indexes"].clone()).unwrap(),
        };
        assert_ne!(cfg.grid() % cfg.window_size, 0);
        let got = SamVit::new(&cfg, golden.weights())?.forward(&golden.tensor("in.pixels"))?;
        let want = golden.tensor("out.trunk").permute((0, 2, 3, 1))?;
        assert_close(&got, &want, 2e-6);
        Ok(())
    }

    #[test]
    fn global_blocks_are_the_released_ones() {
        assert_eq!(Config::base().global_blocks, [2, 5, 8, 11]);
        assert_eq!(Config::large().global_blocks, [5, 11, 17, 23]);
        assert_eq!(Config::huge().global_blocks, [7, 15, 23, 31]);
    }
}
