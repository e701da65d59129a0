//! The MobileCLIP students of the text encoder.
//!
//! Follows `TextStudentEncoder`,
//! <https://github.com/SimonZeng7108/efficientsam3/blob/c1f0b02/sam3/sam3/model/text_encoder_student.py>.
//!
//! Easy to get wrong: attention has no mask at all, so padding takes part and the padded length
//! changes the result; the embedding is not scaled; `projection_layer` is never used.

use candle::{D, Result, Tensor};
use candle_nn::{Embedding, Module, VarBuilder, embedding};

use super::rep_mixer::RepMixerBlock;
use crate::device::upload;
use crate::nn::attention::{merge_heads, split_qkv};
use crate::nn::{FeedForward, LayerNorm, Linear, Precision, layer_norm, linear, sdpa};

const EPS: f64 = 1e-5;

/// Sizes of a student text encoder.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Number of token ids.
    pub vocab_size: usize,
    /// Tokens per prompt, padding included.
    pub context_length: usize,
    /// Rows of the stored positional table; resampled where it is not `context_length`.
    pub position_rows: usize,
    /// Width of the transformer.
    pub width: usize,
    /// Attention heads.
    pub num_heads: usize,
    /// Transformer layers between the optional RepMixer blocks.
    pub layers: usize,
    /// True if a RepMixer block comes first and last, as in S0.
    pub rep_mixer: bool,
    /// Width of the features that leave the projector.
    pub output_dim: usize,
}

impl Config {
    /// MobileCLIP-S0 with a positional table of `position_rows`.
    pub fn s0(position_rows: usize) -> Self {
        Self {
            layers: 4,
            rep_mixer: true,
            ..Self::s1(position_rows)
        }
    }

    /// MobileCLIP-S1 with a positional table of `position_rows`.
    pub fn s1(position_rows: usize) -> Self {
        Self {
            vocab_size: 49408,
            // As released files were trained: tables of 77 rows were resampled to 32 tokens, shorter
            // ones are used row by row.
            context_length: position_rows.min(32),
            position_rows,
            width: 512,
            num_heads: 8,
            layers: 12,
            rep_mixer: false,
            output_dim: 256,
        }
    }

    /// MobileCLIP2-L with a positional table of `position_rows`.
    pub fn l(position_rows: usize) -> Self {
        Self {
            width: 768,
            num_heads: 12,
            ..Self::s1(position_rows)
        }
    }
}

/// A student text encoder and its projection to the detector's width.
#[derive(Debug)]
pub struct MobileClipText {
    embedding_layer: Embedding,
    pos_embed: Tensor, // (s, width)
    transformer: Vec<Layer>,
    final_layer_norm: LayerNorm,
    projector: Linear,
}

impl MobileClipText {
    /// Reads `encoder.*` and `projector`.
    pub fn new(cfg: &Config, vb: VarBuilder) -> Result<Self> {
        let encoder = vb.pp("encoder");
        let table = encoder
            .pp("positional_embedding.pos_embed")
            .get((1, 1, cfg.position_rows, cfg.width), "pos_embed")?;
        let table = table.reshape((cfg.position_rows, cfg.width))?;
        let count = cfg.layers + if cfg.rep_mixer { 2 } else { 0 };
        let layer = |i: usize| {
            let vb = encoder.pp("transformer").pp(i);
            if cfg.rep_mixer && (i == 0 || i == count - 1) {
                RepMixerBlock::new(cfg.width, vb).map(Layer::RepMixer)
            } else {
                TransformerLayer::new(cfg, vb).map(Layer::Transformer)
            }
        };
        Ok(Self {
            embedding_layer: embedding(cfg.vocab_size, cfg.width, encoder.pp("embedding_layer"))?,
            pos_embed: resample_rows(&table, cfg.context_length)?,
            transformer: (0..count).map(layer).collect::<Result<_>>()?,
            final_layer_norm: layer_norm(cfg.width, EPS, encoder.pp("final_layer_norm"))?,
            projector: linear(cfg.width, cfg.output_dim, vb.pp("projector"))?,
        })
    }

    /// Token ids (b, s), u32, `s` = context length -> features (b, s, output_dim)
    pub fn forward(&self, ids: &Tensor) -> Result<Tensor> {
        let mut xs = self
            .embedding_layer
            .forward(ids)?
            .broadcast_add(&self.pos_embed)?;
        for layer in &self.transformer {
            xs = match layer {
                Layer::RepMixer(block) => block.forward(&xs)?,
                Layer::Transformer(layer) => layer.forward(&xs)?,
            };
        }
        xs.apply(&self.final_layer_norm)?.apply(&self.projector)
    }
}

/// Resamples the rows of a (t, width) table linearly with half-pixel centres -> (len, width)
fn resample_rows(table: &Tensor, len: usize) -> Result<Tensor> {
    let rows = table.dim(0)?;
    if rows == len {
        return Ok(table.clone());
    }
    let mut weights = vec![0f32; len * rows];
    for (i, row) in weights.chunks_mut(rows).enumerate() {
        let at = ((i as f32 + 0.5) * (rows as f32 / len as f32) - 0.5).max(0.);
        let low = (at as usize).min(rows - 1);
        let fraction = at - low as f32;
        row[low] += 1. - fraction;
        row[(low + 1).min(rows - 1)] += fraction;
    }
    let weights = upload(weights, (len, rows), table.device())?;
    weights.to_dtype(table.dtype())?.matmul(table)
}

#[derive(Debug)]
enum Layer {
    RepMixer(RepMixerBlock),
    Transformer(TransformerLayer),
}

/// Pre-norm self-attention and feed-forward.
#[derive(Debug)]
struct TransformerLayer {
    attn_norm: LayerNorm,
    qkv_proj: Linear,
    out_proj: Linear,
    ffn: FeedForward,
    num_heads: usize,
    precision: Precision,
}

impl TransformerLayer {
    fn new(cfg: &Config, vb: VarBuilder) -> Result<Self> {
        let (width, mha) = (cfg.width, vb.pp("pre_norm_mha"));
        let ffn = vb.pp("pre_norm_ffn");
        Ok(Self {
            attn_norm: layer_norm(width, EPS, mha.pp(0))?,
            qkv_proj: linear(width, 3 * width, mha.pp("1.qkv_proj"))?,
            out_proj: linear(width, width, mha.pp("1.out_proj"))?,
            ffn: FeedForward::new([width, 4 * width], EPS, ["0", "1", "4"], &ffn)?,
            num_heads: cfg.num_heads,
            precision: Precision::current(),
        })
    }

    /// (b, s, width) -> (b, s, width)
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let (b, s, width) = xs.dims3()?;
        let qkv = xs
            .apply(&self.attn_norm)?
            .apply(&self.qkv_proj)?
            .reshape((b, s, 3, self.num_heads, width / self.num_heads))?
            .permute((2, 0, 3, 1, 4))?; // (3, b, heads, s, c)
        let [q, k, v] = split_qkv(&qkv)?;
        let scale = (q.dim(D::Minus1)? as f64).powf(-0.5);
        let attended = merge_heads(&sdpa(&q, &k, &v, scale, None, self.precision)?)?;
        let xs = self.out_proj.forward_onto(xs, &attended)?;
        self.ffn.forward_gelu(&xs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::golden::{Golden, assert_close};

    fn check(name: &str) -> Result<()> {
        let golden = Golden::open(name);
        let dims = |name: &str| golden.tensor(&format!("weights.{name}")).dims().to_vec();
        let table = dims("encoder.positional_embedding.pos_embed.pos_embed");
        let ids = golden.tensor("in.ids").to_dtype(candle::DType::U32)?;
        let rep_mixer = golden.contains("weights.encoder.transformer.0.layer_scale");
        let entries = (0..)
            .take_while(|i| {
                let name = |part: &str| format!("weights.encoder.transformer.{i}.{part}");
                golden.contains(&name("layer_scale"))
                    || golden.contains(&name("pre_norm_mha.0.weight"))
            })
            .count();
        let cfg = Config {
            vocab_size: dims("encoder.embedding_layer.weight")[0],
            context_length: ids.dim(1)?,
            position_rows: table[2],
            width: table[3],
            num_heads: golden.size("n_heads_per_layer"),
            layers: entries - if rep_mixer { 2 } else { 0 },
            rep_mixer,
            output_dim: dims("projector.weight")[0],
        };
        let got = MobileClipText::new(&cfg, golden.weights())?.forward(&ids)?;
        assert_close(&got, &golden.tensor("out.features"), 1e-5);
        Ok(())
    }

    #[test]
    fn equals_the_official_student_s0() -> Result<()> {
        check("text_mobileclip_s0")
    }

    #[test]
    fn equals_the_official_student_s1() -> Result<()> {
        check("text_mobileclip_s1")
    }

    #[test]
    fn a_longer_positional_table_is_interpolated() -> Result<()> {
        check("text_mobileclip_interp")
    }
}
