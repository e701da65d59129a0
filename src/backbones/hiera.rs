//! Hiera: a vision transformer whose map becomes smaller and wider from stage to stage.
//!
//! Follows `Hiera`,
//! <https://github.com/facebookresearch/sam2/blob/2b90b9f/sam2/modeling/backbones/hieradet.py#L168>.
//! Everything is channels last, where tokens and pixels are the same tensor.
//!
//! # Easy to get wrong
//! - The first block of a stage has that stage's width and heads, but the window of the stage before:
//!   queries are pooled within each window, which halves it.
//! - The shortcut of such a block is taken after the norm, not before.
//! - The zeros that complete the last windows come after the norm and are attended to.
//! - Positions are a small map enlarged by bicubic interpolation (a = -0.75) and the positions within
//!   a window of the first stage, repeated.

use candle::{DType, Device, Module, Result, Tensor};
use candle_nn::VarBuilder;

use crate::nn::attention::{merge_heads, split_qkv};
use crate::nn::conv::{Conv2d, ConvConfig, conv2d};
use crate::nn::sample::max_pool_2x2;
use crate::nn::{FeedForward, LayerNorm, Linear, Precision};
use crate::nn::{layer_norm, linear, sdpa, window};

/// Epsilon of all norms.
const EPS: f64 = 1e-6;
/// Of the convolution that makes tokens of pixels.
const PATCH_KERNEL: usize = 7;
const PATCH_STRIDE: usize = 4;
const MLP_RATIO: usize = 4;

/// The sizes of a Hiera.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Side of the square input, in pixels.
    pub image_size: usize,
    /// Width of the first stage; each later one is twice as wide as the one before.
    pub embed_dim: usize,
    /// Attention heads of the first stage; they double as well.
    pub num_heads: usize,
    /// Blocks of the four stages.
    pub stages: [usize; 4],
    /// Side of the attention windows of the four stages, in tokens.
    pub window_sizes: [usize; 4],
    /// Blocks whose attention spans the whole map.
    pub global_blocks: Vec<usize>,
    /// Side of the stored map of positions.
    pub pos_embed_side: usize,
}

impl Config {
    /// Hiera-T: 27 M parameters.
    pub fn tiny() -> Self {
        Self {
            image_size: 1024,
            embed_dim: 96,
            num_heads: 1,
            stages: [1, 2, 7, 2],
            window_sizes: [8, 4, 14, 7],
            global_blocks: vec![5, 7, 9],
            pos_embed_side: 7,
        }
    }

    /// Hiera-S: 34 M parameters.
    pub fn small() -> Self {
        Self {
            stages: [1, 2, 11, 2],
            global_blocks: vec![7, 10, 13],
            ..Self::tiny()
        }
    }

    /// Hiera-B+: 69 M parameters.
    pub fn base_plus() -> Self {
        Self {
            embed_dim: 112,
            num_heads: 2,
            stages: [2, 3, 16, 3],
            global_blocks: vec![12, 16, 20],
            pos_embed_side: 14,
            ..Self::tiny()
        }
    }

    /// Hiera-L: 213 M parameters.
    pub fn large() -> Self {
        Self {
            embed_dim: 144,
            num_heads: 2,
            stages: [2, 6, 36, 4],
            window_sizes: [8, 4, 16, 8],
            global_blocks: vec![23, 33, 43],
            ..Self::tiny()
        }
    }

    /// Channels of the four stages.
    pub fn dims(&self) -> [usize; 4] {
        [0, 1, 2, 3].map(|stage| self.embed_dim << stage)
    }

    /// Side of the map of the first stage.
    fn grid(&self) -> usize {
        self.image_size / PATCH_STRIDE
    }
}

/// The Hiera trunk.
#[derive(Debug)]
pub struct Hiera {
    patch_embed: Conv2d,
    positions: Tensor, // (1, g, g, d)
    stages: Vec<Vec<Block>>,
}

impl Hiera {
    /// Reads `patch_embed.proj`, `pos_embed`, `pos_embed_window` and `blocks.*`.
    ///
    /// # Errors
    /// If a tensor is missing or has another shape, or the windows of the first stage do not divide
    /// its map.
    pub fn new(cfg: &Config, vb: VarBuilder) -> Result<Self> {
        let patches = ConvConfig::same(PATCH_KERNEL).with_stride(PATCH_STRIDE);
        let proj = vb.pp("patch_embed.proj");
        let mut index = 0;
        let mut stages = vec![];
        for (stage, blocks) in cfg.stages.into_iter().enumerate() {
            let blocks = (0..blocks).map(|i| {
                let block = Block::new(cfg, stage, i == 0, index, vb.pp("blocks").pp(index));
                index += 1;
                block
            });
            stages.push(blocks.collect::<Result<_>>()?);
        }
        Ok(Self {
            patch_embed: conv2d(3, cfg.embed_dim, PATCH_KERNEL, patches, proj)?,
            positions: positions(cfg, &vb)?,
            stages,
        })
    }

    /// Normalized pixels (b, 3, s, s) -> maps of the four stages, channels last: (b, s / 4, s / 4, d)
    /// to (b, s / 32, s / 32, 8 d)
    ///
    /// # Errors
    /// For pixels of another size.
    pub fn forward(&self, pixels: &Tensor) -> Result<[Tensor; 4]> {
        let mut xs = self.embed(pixels)?;
        let mut maps = vec![];
        for stage in &self.stages {
            for block in stage {
                xs = xs.apply(block)?;
            }
            maps.push(xs.clone());
        }
        maps.try_into().map_err(|maps: Vec<Tensor>| {
            candle::Error::msg(format!("a Hiera of {} stages instead of 4", maps.len()))
        })
    }

    /// What the first block takes: (b, g, g, d)
    fn embed(&self, pixels: &Tensor) -> Result<Tensor> {
        let patches = pixels.apply(&self.patch_embed)?;
        let patches = patches.permute((0, 2, 3, 1))?.contiguous()?;
        patches.broadcast_add(&self.positions)
    }
}

/// What is added to the tokens of the first stage: (1, g, g, d)
fn positions(cfg: &Config, vb: &VarBuilder) -> Result<Tensor> {
    let (d, side, window, grid) = (
        cfg.embed_dim,
        cfg.pos_embed_side,
        cfg.window_sizes[0],
        cfg.grid(),
    );
    if !grid.is_multiple_of(window) {
        candle::bail!("windows of {window} do not divide a map of {grid} x {grid} tokens");
    }
    let small = vb.get((1, d, side, side), "pos_embed")?;
    let within = vb.get((1, d, window, window), "pos_embed_window")?;
    // The interpolation is linear in both directions, so it is two products of matrices.
    let weights = bicubic_weights(side, grid);
    let weights = Tensor::from_vec(weights, (grid, side), &Device::Cpu)?.to_device(vb.device())?;
    let small = small.to_dtype(DType::F32)?;
    let wide = small
        .reshape((d * side, side))?
        .matmul(&weights.t()?)? // (d side, g)
        .reshape((d, side, grid))?
        .transpose(0, 1)?
        .reshape((side, d * grid))?;
    let large = weights
        .matmul(&wide)? // (g, d g)
        .reshape((grid, d, grid))?
        .transpose(1, 2)?; // (g, g, d)
    let within = within.squeeze(0)?.permute((1, 2, 0))?.contiguous()?;
    let times = grid / window;
    let within = within.repeat((times, times, 1))?;
    (large.to_dtype(within.dtype())? + within)?.unsqueeze(0)
}

/// How much each of `old` samples contributes to each of `new` ones by bicubic interpolation with
/// corners not aligned: (new, old), by rows. Samples beyond the ends are those at the ends.
fn bicubic_weights(old: usize, new: usize) -> Vec<f32> {
    const A: f32 = -0.75;
    let near = |x: f32| ((A + 2.) * x - (A + 3.)) * x * x + 1.; // |x| <= 1
    let far = |x: f32| ((A * x - 5. * A) * x + 8. * A) * x - 4. * A; // 1 < |x| < 2
    let scale = old as f32 / new as f32;
    let mut weights = vec![0.; new * old];
    for (i, row) in weights.chunks_exact_mut(old).enumerate() {
        let position = scale * (i as f32 + 0.5) - 0.5;
        let t = position - position.floor();
        let taps = [far(t + 1.), near(t), near(1. - t), far(2. - t)];
        for (offset, weight) in (-1i64..).zip(taps) {
            let at = (position.floor() as i64 + offset).clamp(0, old as i64 - 1);
            row[at as usize] += weight;
        }
    }
    weights
}

/// Attention and MLP, each behind a norm and with a residual.
#[derive(Debug)]
struct Block {
    norm1: LayerNorm,
    attn: Attention,
    /// Of the shortcut, where the width changes and the map is pooled.
    proj: Option<Linear>,
    mlp: FeedForward,
    window: Option<usize>,
}

impl Block {
    /// Reads `norm1`, `attn`, `norm2`, `mlp`, and of the first block of the later stages `proj`.
    fn new(
        cfg: &Config,
        stage: usize,
        is_first: bool,
        index: usize,
        vb: VarBuilder,
    ) -> Result<Self> {
        let pools = is_first && stage > 0;
        let before = stage - usize::from(pools);
        let (input, dim) = (cfg.dims()[before], cfg.dims()[stage]);
        let proj = || linear(input, dim, vb.pp("proj"));
        let heads = cfg.num_heads << stage;
        let mlp = ["norm2", "mlp.layers.0", "mlp.layers.1"];
        Ok(Self {
            norm1: layer_norm(input, EPS, vb.pp("norm1"))?,
            attn: Attention::new([input, dim], heads, pools, vb.pp("attn"))?,
            proj: pools.then(proj).transpose()?,
            mlp: FeedForward::new([dim, MLP_RATIO * dim], EPS, mlp, &vb)?,
            window: (!cfg.global_blocks.contains(&index)).then_some(cfg.window_sizes[before]),
        })
    }

    /// (b, h, w, c) -> (b, h, w, c'), pooled or not, without the shortcut
    fn attend(&self, xs: &Tensor) -> Result<Tensor> {
        let Some(size) = self.window else {
            return self.attn.forward(xs);
        };
        let (_, h, w, _) = xs.dims4()?;
        let windows = window::partition(xs, size)?.apply(&self.attn)?;
        let shrink = size / windows.dim(1)?; // 2 if pooled
        window::merge(&windows, h / shrink, w / shrink)
    }
}

impl Module for Block {
    /// (b, h, w, c) -> (b, h, w, c), or (b, h / 2, w / 2, 2 c)
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let normed = xs.apply(&self.norm1)?;
        let shortcut = match &self.proj {
            None => xs.clone(),
            Some(proj) => max_pool_2x2(&normed.apply(proj)?)?,
        };
        let xs = (shortcut + self.attend(&normed)?)?;
        self.mlp.forward_gelu(&xs)
    }
}

/// Attention whose queries may be pooled.
#[derive(Debug)]
struct Attention {
    qkv: Linear,
    proj: Linear,
    num_heads: usize,
    pools: bool,
    precision: Precision,
}

impl Attention {
    fn new(
        [input, dim]: [usize; 2],
        num_heads: usize,
        pools: bool,
        vb: VarBuilder,
    ) -> Result<Self> {
        Ok(Self {
            qkv: linear(input, 3 * dim, vb.pp("qkv"))?,
            proj: linear(dim, dim, vb.pp("proj"))?,
            num_heads,
            pools,
            precision: Precision::current(),
        })
    }
}

impl Module for Attention {
    /// (b, h, w, c) -> (b, h, w, c'), or half of `h` and `w`
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let (b, h, w, _) = xs.dims4()?;
        let qkv = xs.apply(&self.qkv)?;
        let dim = qkv.dim(3)? / 3;
        let head_dim = dim / self.num_heads;
        let heads = |part: &Tensor, n: usize| -> Result<Tensor> {
            part.reshape((b, n, self.num_heads, head_dim))?
                .transpose(1, 2) // (b, heads, n, c)
        };
        let parts = qkv
            .reshape((b, h * w, 3, self.num_heads, head_dim))?
            .permute((2, 0, 3, 1, 4))?; // (3, b, heads, n, c)
        let [q, k, v] = split_qkv(&parts)?;
        let (q, h, w) = match self.pools {
            false => (q, h, w),
            true => {
                let pooled = max_pool_2x2(&qkv.narrow(3, 0, dim)?)?;
                let (_, h, w, _) = pooled.dims4()?;
                (heads(&pooled, h * w)?, h, w)
            }
        };
        let scale = (head_dim as f64).powf(-0.5);
        let attended = sdpa(&q, &k, &v, scale, None, self.precision)?;
        merge_heads(&attended)?
            .reshape((b, h, w, dim))?
            .apply(&self.proj)
    }
}

#[cfg(test)]
impl Config {
    /// The sizes in the metadata of a recorded run.
    pub(crate) fn of(config: &serde_json::Value) -> Self {
        let hiera = &config["hiera"];
        let size = |value: &serde_json::Value| serde_json::from_value(value.clone()).unwrap();
        let sides: [usize; 2] =
            serde_json::from_value(hiera["window_pos_embed_bkg_spatial_size"].clone()).unwrap();
        Self {
            image_size: size(&config["image_size"]),
            embed_dim: size(&hiera["embed_dim"]),
            num_heads: size(&hiera["num_heads"]),
            stages: serde_json::from_value(hiera["stages"].clone()).unwrap(),
            window_sizes: serde_json::from_value(hiera["window_spec"].clone()).unwrap(),
            global_blocks: serde_json::from_value(hiera["global_att_blocks"].clone()).unwrap(),
            pos_embed_side: sides[0],
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::image::{Image, transform::FloatSquare};
    use crate::nn::golden::{Golden, assert_close};

    /// Frame `t` of the recorded video: a disc and a square that move over a pattern.
    pub(crate) fn picture(golden: &Golden, t: usize) -> Image {
        let (width, height) = (golden.size("width"), golden.size("height"));
        let mut pixels = Vec::with_capacity(3 * width * height);
        for y in 0..height {
            for x in 0..width {
                let to = |at: usize, center: usize| at.abs_diff(center);
                let (across, down) = (to(x, 30 + 8 * t), to(y, 40 + 3 * t));
                let is_square = to(x, 80 - 5 * t) <= 11 && to(y, 30 + 2 * t) <= 11;
                let pixel = match across * across + down * down <= 14 * 14 {
                    _ if is_square => [50, 90, 230 - y % 8 * 3],
                    true => [220, 60 + x % 8 * 4, 50],
                    false => [
                        40 + (x * 3 + y * 2) % 50,
                        60 + x * y % 40,
                        90 + (x + 2 * y) % 60,
                    ],
                };
                pixels.extend(pixel.map(|v| v as u8));
            }
        }
        Image::from_rgb8(width, height, pixels).unwrap()
    }

    /// The first frame as the network sees it (1, 3, s, s)
    pub(crate) fn pixels(golden: &Golden) -> Tensor {
        let size = golden.size("image_size");
        let pixels = FloatSquare { size }.apply(&picture(golden, 0)).unwrap();
        Tensor::from_vec(pixels, (1, 3, size, size), &Device::Cpu).unwrap()
    }

    #[test]
    fn every_block_equals_the_official_one_with_whole_and_padded_windows() -> Result<()> {
        let golden = Golden::open("sam2");
        let vb = golden.weights().pp("image_encoder.trunk");
        let trunk = Hiera::new(&Config::of(golden.config()), vb)?;
        let mut blocks = 0;
        let pixels = pixels(&golden);
        let mut xs = trunk.embed(&pixels)?;
        for block in trunk.stages.iter().flatten() {
            xs = xs.apply(block)?;
            assert_close(&xs, &golden.tensor(&format!("out.block.{blocks}")), 5e-6);
            blocks += 1;
        }
        assert_eq!(blocks, 7);
        let sides = trunk.forward(&pixels)?.map(|map| map.dim(1).unwrap());
        assert_eq!(sides, [24, 12, 6, 3]);
        Ok(())
    }

    #[test]
    fn windows_that_do_not_divide_the_first_map_are_refused() {
        let golden = Golden::open("sam2");
        let cfg = Config {
            image_size: 100,
            ..Config::of(golden.config())
        };
        let vb = golden.weights().pp("image_encoder.trunk");
        let error = Hiera::new(&cfg, vb).unwrap_err().to_string();
        assert!(error.contains("do not divide"), "{error}");
    }
}
