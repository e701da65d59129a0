//! Exemplar boxes as prompt tokens.
//!
//! Follows `SequenceGeometryEncoder`,
//! <https://github.com/facebookresearch/sam3/blob/99d02f2/sam3/model/geometry_encoders.py#L463>.
//!
//! Easy to get wrong: a CLS token comes last and is there even without any box, so every prompt,
//! text-only ones too, passes through here; boxes pool from the *normed* map but attend to the raw
//! one. The point tokens that the checkpoints also hold are used by no public entry point.

use candle::{DType, Result, Tensor};
use candle_nn::{Embedding, Module, VarBuilder, embedding};

use super::encoder::{self, EncoderLayer};
use crate::device::upload;
use crate::nn::conv::{Conv2d, ConvConfig, conv2d};
use crate::nn::posenc::Sines;
use crate::nn::sample::roi_align;
use crate::nn::{LayerNorm, Linear, ScoreBias, layer_norm, linear};

const EPS: f64 = 1e-5;

/// A box that shows what is meant, or what is not.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ExemplarBox {
    /// Centre x, centre y, width, height, as fractions of the image.
    pub cxcywh_norm: [f32; 4],
    /// True if objects like this one are wanted.
    pub positive: bool,
}

/// Encodes exemplar boxes against the image.
#[derive(Debug)]
pub struct GeometryEncoder {
    label_embed: Embedding,
    cls_embed: Tensor, // (1, d)
    boxes_direct_project: Linear,
    boxes_pool_project: Conv2d,
    boxes_pos_enc_project: Linear,
    img_pre_norm: LayerNorm,
    final_proj: Linear,
    norm: LayerNorm,
    encode: Vec<EncoderLayer>,
    encode_norm: LayerNorm,
    sines: Sines,
    roi_size: usize,
}

impl GeometryEncoder {
    /// Reads everything below `geometry_encoder` apart from `points_*`.
    pub fn new(cfg: &encoder::Config, roi_size: usize, vb: VarBuilder) -> Result<Self> {
        let d = cfg.d_model;
        let pool = vb.pp("boxes_pool_project");
        Ok(Self {
            label_embed: embedding(2, d, vb.pp("label_embed"))?,
            cls_embed: vb.get((1, d), "cls_embed.weight")?,
            boxes_direct_project: linear(4, d, vb.pp("boxes_direct_project"))?,
            boxes_pool_project: conv2d(d, d, roi_size, ConvConfig::default(), pool)?,
            boxes_pos_enc_project: linear(d + 2, d, vb.pp("boxes_pos_enc_project"))?,
            img_pre_norm: layer_norm(d, EPS, vb.pp("img_pre_norm"))?,
            final_proj: linear(d, d, vb.pp("final_proj"))?,
            norm: layer_norm(d, EPS, vb.pp("norm"))?,
            encode: (0..cfg.layers)
                .map(|i| EncoderLayer::new(cfg, vb.pp("encode").pp(i)))
                .collect::<Result<_>>()?,
            encode_norm: layer_norm(d, EPS, vb.pp("encode_norm"))?,
            sines: Sines::new(d / 2, vb.device())?,
            roi_size,
        })
    }

    /// `boxes`, image tokens (1, h * w, d) of a map `h` x `w` with positions `pos` (1, h * w, d)
    /// -> prompt tokens (1, boxes + 1, d), the CLS token last
    pub fn forward(
        &self,
        boxes: &[ExemplarBox],
        image: &Tensor,
        (h, w): (usize, usize),
        pos: &Tensor,
    ) -> Result<Tensor> {
        let mut tokens = vec![self.cls_embed.clone()];
        if !boxes.is_empty() {
            tokens.insert(0, self.embed_boxes(boxes, image, (h, w))?);
        }
        let mut xs = Tensor::cat(&tokens, 0)?
            .unsqueeze(0)?
            .apply(&self.final_proj)?
            .apply(&self.norm)?;
        let key = image.broadcast_add(pos)?;
        for layer in &self.encode {
            xs = layer.attend_self(&xs, None)?;
            xs = layer.attend_and_feed_forward(&xs, &key, image, ScoreBias::None)?;
        }
        xs.apply(&self.encode_norm)
    }

    /// The sum of what is known of each box: coordinates, content, position, label -> (boxes, d)
    fn embed_boxes(
        &self,
        boxes: &[ExemplarBox],
        image: &Tensor,
        (h, w): (usize, usize),
    ) -> Result<Tensor> {
        let (_, _, d) = image.dims3()?;
        let row = |b: &ExemplarBox| {
            let ([cx, cy, w, h], label) = (b.cxcywh_norm, u8::from(b.positive));
            [cx, cy, w, h, f32::from(label)]
        };
        let rows: Vec<f32> = boxes.iter().flat_map(row).collect();
        let rows = upload(rows, (boxes.len(), 5), image.device())?;
        let to_model = |t: Tensor| t.to_dtype(image.dtype());

        let coordinates = to_model(rows.narrow(1, 0, 4)?)?;
        let direct = self.boxes_direct_project.forward(&coordinates)?;

        let normed = self
            .img_pre_norm
            .forward(image)?
            .squeeze(0)?
            .t()?
            .reshape((d, h, w))?;
        let cells: Vec<[f32; 4]> = boxes
            .iter()
            .map(|b| to_cells(b.cxcywh_norm, w, h))
            .collect();
        let pooled = roi_align(&normed, &cells, self.roi_size)?;
        let pooled = self
            .boxes_pool_project
            .forward(&pooled)?
            .reshape((boxes.len(), d))?;

        let sines = |i: usize| self.sines.encode(&rows.narrow(1, i, 1)?.squeeze(1)?);
        let (width, height) = (rows.narrow(1, 2, 1)?, rows.narrow(1, 3, 1)?);
        let position = Tensor::cat(&[sines(1)?, sines(0)?, height, width], 1)?;
        let position = self.boxes_pos_enc_project.forward(&to_model(position)?)?;

        let labels = rows.narrow(1, 4, 1)?.squeeze(1)?.to_dtype(DType::U32)?;
        let label = self.label_embed.forward(&labels)?;
        ((direct + pooled)? + position)? + label
    }
}

/// Corners in cells of a `w` x `h` map.
fn to_cells([cx, cy, bw, bh]: [f32; 4], w: usize, h: usize) -> [f32; 4] {
    let (w, h) = (w as f32, h as f32);
    [
        (cx - 0.5 * bw) * w,
        (cy - 0.5 * bh) * h,
        (cx + 0.5 * bw) * w,
        (cy + 0.5 * bh) * h,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::golden::{Golden, assert_close};

    #[test]
    fn equals_the_official_geometry_encoder() -> Result<()> {
        let golden = Golden::open("geometry_encoder");
        let cfg = encoder::Config::of(&golden);
        let encoder = GeometryEncoder::new(&cfg, golden.size("roi_size"), golden.weights())?;
        let (image, pos) = (golden.tokens("in.features"), golden.tokens("in.pos"));
        let grid = (golden.size("grid"), golden.size("grid"));
        for case in ["no_boxes", "one_box", "three_boxes", "outside"] {
            let boxes: Vec<ExemplarBox> = match case {
                "no_boxes" => vec![],
                _ => {
                    let boxes = golden
                        .tensor(&format!("in.{case}.boxes"))
                        .to_vec2::<f32>()?;
                    let labels = golden
                        .tensor(&format!("in.{case}.labels"))
                        .to_vec1::<i64>()?;
                    let exemplar = |(b, label): (&Vec<f32>, &i64)| ExemplarBox {
                        cxcywh_norm: [b[0], b[1], b[2], b[3]],
                        positive: *label == 1,
                    };
                    boxes.iter().zip(&labels).map(exemplar).collect()
                }
            };
            let got = encoder.forward(&boxes, &image, grid, &pos)?;
            assert_close(&got, &golden.tensor(&format!("out.{case}")), 1e-5);
        }
        Ok(())
    }
}
