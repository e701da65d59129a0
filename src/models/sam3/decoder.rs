//! The detection decoder: queries become objects with boxes, a presence token judges the prompt.
//!
//! Follows `TransformerDecoder`,
//! <https://github.com/facebookresearch/sam3/blob/99d02f2/sam3/model/decoder.py#L190>.
//!
//! Easy to get wrong: the norms are not numbered in the order in which they run (`norm2`,
//! `catext_norm`, `norm1`, `norm3`); the presence token has no position and no box bias; cells are
//! compared with box edges at `i / n`, without half a cell; the inverse sigmoid keeps 1e-3 away
//! from 0 and 1.

use candle::{DType, Device, Result, Tensor};
use candle_nn::{Module, VarBuilder, ops::sigmoid};

use super::encoder;
use crate::device::upload;
use crate::nn::posenc::Sines;
use crate::nn::{LayerNorm, Linear, Mlp, MultiHeadAttention, Precision, ScoreBias};
use crate::nn::{inverse_sigmoid, layer_norm, linear};

const EPS: f64 = 1e-5;

/// Queries after the last layer, with their boxes.
#[derive(Debug, Clone)]
pub struct Decoded {
    /// Normed features of the queries (b, q, d).
    pub hs: Tensor,
    /// Boxes (b, q, 4): centre x, centre y, width, height in 0..1, f32.
    pub boxes: Tensor,
    /// Logit of "the prompted concept is in the image" (b), f32.
    pub presence_logit: Tensor,
}

/// The detection decoder.
#[derive(Debug)]
pub struct Decoder {
    query_embed: Tensor,      // (q, d)
    reference_points: Tensor, // (q, 4), before the sigmoid
    presence_token: Tensor,   // (1, d)
    cells: Tensor,            // (1, 1, grid, 1): where rows and columns begin, in 0..1
    sines: Sines,
    layers: Vec<DecoderLayer>,
    norm: LayerNorm,
    bbox_embed: Mlp,
    ref_point_head: Mlp,
    box_rpb_embed_x: Mlp,
    box_rpb_embed_y: Mlp,
    presence_token_head: Mlp,
    presence_token_out_norm: LayerNorm,
}

impl Decoder {
    /// Reads everything below `transformer.decoder`; memories are maps of `grid` x `grid`.
    pub fn new(
        cfg: &encoder::Config,
        num_queries: usize,
        grid: usize,
        layers: Precision,
        vb: VarBuilder,
    ) -> Result<Self> {
        let d = cfg.d_model;
        let layer = |i| DecoderLayer::new(cfg, vb.pp("layers").pp(i));
        Ok(Self {
            query_embed: vb.get((num_queries, d), "query_embed.weight")?,
            reference_points: vb.get((num_queries, 4), "reference_points.weight")?,
            presence_token: vb.get((1, d), "presence_token.weight")?,
            cells: cell_starts(grid, vb.device())?.reshape((1, 1, grid, 1))?,
            sines: Sines::new(d / 2, vb.device())?,
            layers: layers.scope(|| (0..cfg.layers).map(layer).collect::<Result<_>>())?,
            norm: layer_norm(d, EPS, vb.pp("norm"))?,
            bbox_embed: Mlp::new(&[d, d, d, 4], vb.pp("bbox_embed"))?,
            ref_point_head: Mlp::new(&[2 * d, d, d], vb.pp("ref_point_head"))?,
            box_rpb_embed_x: Mlp::new(&[2, d, cfg.num_heads], vb.pp("boxRPB_embed_x"))?,
            box_rpb_embed_y: Mlp::new(&[2, d, cfg.num_heads], vb.pp("boxRPB_embed_y"))?,
            presence_token_head: Mlp::new(&[d, d, d, 1], vb.pp("presence_token_head"))?,
            presence_token_out_norm: layer_norm(d, EPS, vb.pp("presence_token_out_norm"))?,
        })
    }

    /// Memory (b, grid², d) with positions `pos` (1, grid², d), `prompt` (b, m, d) with `padding`
    /// (b, 1, 1, m)
    pub fn forward(
        &self,
        memory: &Tensor,
        pos: &Tensor,
        prompt: &Tensor,
        padding: &Tensor,
    ) -> Result<Decoded> {
        let (b, _, d) = memory.dims3()?;
        let dtype = memory.dtype();
        let key = memory.broadcast_add(pos)?;
        let queries = self.query_embed.shape().dims2()?.0;
        let start = Tensor::cat(&[&self.presence_token, &self.query_embed], 0)?;
        let mut xs = start.unsqueeze(0)?.repeat((b, 1, 1))?; // (b, 1 + q, d)
        let reference = sigmoid(&self.reference_points.to_dtype(DType::F32)?)?;
        let mut boxes = reference.unsqueeze(0)?.repeat((b, 1, 1))?;
        let no_pos = Tensor::zeros((b, 1, d), dtype, memory.device())?;

        let mut hs = xs.clone();
        for layer in &self.layers {
            let query_pos = self
                .ref_point_head
                .forward(&self.encode_boxes(&boxes)?.to_dtype(dtype)?)?;
            let query_pos = Tensor::cat(&[&no_pos, &query_pos], 1)?;
            let bias = self.box_bias(&boxes, dtype)?;
            xs = layer.forward(&xs, &query_pos, &key, memory, &bias, prompt, padding)?;
            hs = xs.narrow(1, 1, queries)?.apply(&self.norm)?;
            let delta = self.bbox_embed.forward(&hs)?.to_dtype(DType::F32)?;
            boxes = sigmoid(&(inverse_sigmoid(&boxes)? + delta)?)?;
        }
        let presence = xs.narrow(1, 0, 1)?.apply(&self.presence_token_out_norm)?;
        let presence_logit = self.presence_token_head.forward(&presence)?.flatten_all()?;
        Ok(Decoded {
            hs,
            boxes,
            presence_logit: presence_logit.to_dtype(DType::F32)?,
        })
    }

    /// Attention bias from the position of a cell relative to a box's edges, the sum of a part
    /// for its row and one for its column: `boxes` (b, q, 4) -> (b, heads, 1 + q, grid) both, zero
    /// for the presence token
    fn box_bias(&self, boxes: &Tensor, dtype: DType) -> Result<[Tensor; 2]> {
        let axis = |centre: usize, mlp: &Mlp| -> Result<Tensor> {
            let middle = boxes.narrow(2, centre, 1)?;
            let half = (boxes.narrow(2, centre + 2, 1)? * 0.5)?;
            let edges = Tensor::cat(&[(&middle - &half)?, (&middle + &half)?], 2)?; // (b, q, 2)
            let delta = self.cells.broadcast_sub(&edges.unsqueeze(2)?)?; // (b, q, grid, 2)
            mlp.forward(&signed_log(&delta)?.to_dtype(dtype)?)?
                .permute((0, 3, 1, 2))? // (b, heads, q, grid)
                .pad_with_zeros(2, 1, 0)
        };
        Ok([
            axis(1, &self.box_rpb_embed_y)?,
            axis(0, &self.box_rpb_embed_x)?,
        ])
    }

    /// Sine encoding of boxes (b, q, 4) in the order y, x, w, h -> (b, q, 2 d)
    fn encode_boxes(&self, boxes: &Tensor) -> Result<Tensor> {
        let all = self.sines.encode(boxes)?; // (b, q, 4, d / 2)
        let part = |start, len| all.narrow(2, start, len);
        Tensor::cat(&[part(1, 1)?, part(0, 1)?, part(2, 2)?], 2)?.flatten_from(2)
    }
}

/// 0, 1/n, 2/n …: the coordinate of each cell as the box bias sees it.
fn cell_starts(n: usize, device: &Device) -> Result<Tensor> {
    let starts: Vec<f32> = (0..n).map(|i| i as f32 / n as f32).collect();
    upload(starts, n, device)
}

/// `sign(8 d) log2(|8 d| + 1) / log2(8)`
fn signed_log(delta: &Tensor) -> Result<Tensor> {
    let delta = (delta * 8.)?;
    let magnitude = ((delta.abs()? + 1.)?.log()? / (8f64).ln())?;
    delta.sign()? * magnitude
}

/// Post-norm: self-attention, attention to the prompt, attention to the image, feed-forward.
#[derive(Debug)]
struct DecoderLayer {
    self_attn: MultiHeadAttention,
    norm2: LayerNorm,
    ca_text: MultiHeadAttention,
    catext_norm: LayerNorm,
    cross_attn: MultiHeadAttention,
    norm1: LayerNorm,
    linear1: Linear,
    linear2: Linear,
    norm3: LayerNorm,
}

impl DecoderLayer {
    fn new(cfg: &encoder::Config, vb: VarBuilder) -> Result<Self> {
        let attention = |name| MultiHeadAttention::new(cfg.d_model, cfg.num_heads, vb.pp(name));
        let norm = |name| layer_norm(cfg.d_model, EPS, vb.pp(name));
        Ok(Self {
            self_attn: attention("self_attn")?,
            norm2: norm("norm2")?,
            ca_text: attention("ca_text")?,
            catext_norm: norm("catext_norm")?,
            cross_attn: attention("cross_attn")?,
            norm1: norm("norm1")?,
            linear1: linear(cfg.d_model, cfg.ffn_dim, vb.pp("linear1"))?,
            linear2: linear(cfg.ffn_dim, cfg.d_model, vb.pp("linear2"))?,
            norm3: norm("norm3")?,
        })
    }

    /// (b, 1 + q, d) -> (b, 1 + q, d)
    #[allow(clippy::too_many_arguments)]
    fn forward(
        &self,
        xs: &Tensor,
        query_pos: &Tensor,
        key: &Tensor,
        memory: &Tensor,
        [rows, columns]: &[Tensor; 2],
        prompt: &Tensor,
        padding: &Tensor,
    ) -> Result<Tensor> {
        let qk = (xs + query_pos)?;
        let xs = self
            .self_attn
            .forward_onto(xs, &qk, &qk, xs, ScoreBias::None)?
            .apply(&self.norm2)?;
        let (q, padding) = ((&xs + query_pos)?, ScoreBias::Whole(padding));
        let xs = self
            .ca_text
            .forward_onto(&xs, &q, prompt, prompt, padding)?
            .apply(&self.catext_norm)?;
        let (q, box_bias) = ((&xs + query_pos)?, ScoreBias::Grid([rows, columns]));
        let xs = self
            .cross_attn
            .forward_onto(&xs, &q, key, memory, box_bias)?
            .apply(&self.norm1)?;
        let hidden = self.linear1.forward_relu(&xs)?;
        let xs = self.linear2.forward_onto(&xs, &hidden)?;
        xs.apply(&self.norm3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::attention::{grid_sums, padding_bias};
    use crate::nn::golden::{Golden, assert_close};

    #[test]
    fn equals_the_official_decoder() -> Result<()> {
        let golden = Golden::open("decoder");
        let cfg = encoder::Config::of(&golden);
        let (queries, grid) = (golden.size("queries"), golden.size("grid"));
        let decoder = Decoder::new(&cfg, queries, grid, Precision::current(), golden.weights())?;
        let padding = padding_bias(&golden.tensor("in.prompt_mask"), DType::F32)?;
        let (memory, pos) = (golden.tensor("in.memory"), golden.tensor("in.pos"));
        let got = decoder.forward(&memory, &pos, &golden.tensor("in.prompt"), &padding)?;
        let last = golden.size("layers") - 1;
        assert_close(&got.hs, &golden.tensor("out.hs").get(last)?, 1e-5);
        assert_close(&got.boxes, &golden.tensor("out.pred_boxes"), 1e-5);
        assert_close(
            &got.presence_logit,
            &golden.tensor("out.presence_logits").get(last)?,
            1e-5,
        );

        let first = golden.tensor("out.reference_boxes").get(0)?;
        let [rows, columns] = decoder.box_bias(&first, DType::F32)?;
        let bias = grid_sums(&rows, &columns)?;
        assert_close(
            &bias.narrow(2, 1, golden.size("queries"))?,
            &golden.tensor("out.box_bias"),
            1e-5,
        );
        Ok(())
    }
}
