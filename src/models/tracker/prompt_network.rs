//! Answers to prompts on a frame, with pointers to what was answered.

use std::ops::Range;

use candle::{DType, Result, Tensor};
use candle_nn::VarBuilder;

use super::entry::{ABSENT_LOGIT, Answers};
use super::object_pointer::PointerHead;
use super::{Config, Generation};
use crate::device::download_rows;
use crate::models::head::{Decoded, ImageTokens, Label, MaskDecoder, NUM_MASKS, SamHead};
use crate::nn::conv::{Conv2d, ConvConfig, conv2d};

/// A point or a corner of a box, in pixels of the model's input.
pub type LabeledPoint = ([f32; 2], Label);

/// A point that is none.
pub(super) const PADDING: LabeledPoint = ([0., 0.], Label::Padding);
/// A mask is stable if moving the threshold by this much either way...
const STABILITY_DELTA: f32 = 0.05;
/// ...keeps at least this share of its pixels.
const STABILITY_THRESHOLD: f32 = 0.98;

/// What a tracker answers prompts with: the head that is shared with clicks on images, and what makes
/// pointers of its tokens.
#[derive(Debug, Clone)]
pub(super) struct PromptNetwork {
    head: SamHead,
    pointers: PointerHead,
    mask_downsample: Conv2d,
    no_memory: Tensor, // (1, 1, d)
    /// Masks that are given are looked at without memory, too; else on the features as they are.
    masks_without_memory: bool,
}

impl PromptNetwork {
    /// Reads `no_mem_embed`, `mask_downsample` and what [`PointerHead::new`] reads; of SAM 3.1
    /// `interactivity_no_mem_embed`, `interactive_mask_downsample`, `interactive_obj_ptr_proj` and
    /// `no_obj_ptr_linear`.
    pub(super) fn new(cfg: &Config, head: &SamHead, vb: VarBuilder) -> Result<Self> {
        let d = head.config().dim;
        let is_multiplex = cfg.generation == Generation::Sam31;
        let (no_memory, downsample, pointers) = match is_multiplex {
            false => (
                "no_mem_embed",
                "mask_downsample",
                PointerHead::new(d, vb.clone())?,
            ),
            true => (
                "interactivity_no_mem_embed",
                "interactive_mask_downsample",
                PointerHead::multiplex(d, "interactive_obj_ptr_proj", vb.clone())?,
            ),
        };
        Ok(Self {
            head: head.clone(),
            pointers,
            mask_downsample: mask_downsample(vb.pp(downsample))?,
            no_memory: vb.get((1, 1, d), no_memory)?,
            masks_without_memory: is_multiplex,
        })
    }

    /// The mask decoder of the head.
    pub(super) fn decoder(&self) -> &MaskDecoder {
        self.head.mask_decoder()
    }

    /// What makes pointers of the head's tokens.
    pub(super) fn pointers(&self) -> &PointerHead {
        &self.pointers
    }

    /// Answers one prompt on `tokens` (1, g * g, d) of a frame, which know of other frames or, if there
    /// are none, of nothing else.
    pub(super) fn prompt(
        &self,
        image: &ImageTokens,
        tokens: Option<Tensor>,
        points: &[LabeledPoint],
        earlier: Option<&Tensor>,
    ) -> Result<Answers> {
        let padded = [points, &[PADDING]].concat();
        let tokens = match tokens {
            Some(tokens) => tokens,
            None => image.tokens.broadcast_add(&self.no_memory)?,
        };
        let decoded = self.decode(&tokens, &[&padded], earlier)?;
        self.answers(image, &decoded, points.len() <= 1)
    }

    /// See [`super::Tracker::point_to_mask`].
    pub(super) fn point_to_mask(&self, image: &ImageTokens, mask: &Tensor) -> Result<Tensor> {
        let prompt = mask
            .unsqueeze(1)?
            .apply(&self.mask_downsample)?
            .squeeze(1)?;
        let tokens = match self.masks_without_memory {
            true => image.tokens.broadcast_add(&self.no_memory)?,
            false => image.tokens.clone(),
        };
        let decoded = self.decode(&tokens, &[&[PADDING; 2]], Some(&prompt))?;
        let is_drawn = mask.flatten_from(1)?.max(1)?.gt(0f64)?;
        let token = decoded.mask_tokens.narrow(1, 0, 1)?.squeeze(1)?;
        let pointer = self.pointers.forward(&token, &present(&decoded)?)?;
        self.pointers.without_absent(&pointer, &is_drawn)
    }

    /// What is followed to `tokens` (b, g * g, d) that know of other frames, one object each.
    pub(super) fn follow(&self, image: &ImageTokens, tokens: &Tensor) -> Result<Answers> {
        let points = vec![&[PADDING; 2][..]; tokens.dim(0)?];
        let decoded = self.decode(tokens, &points, None)?;
        self.answers(image, &decoded, true)
    }

    /// `tokens` (1 or b, g * g, d) with as many points for each of `b` objects
    fn decode(
        &self,
        tokens: &Tensor,
        points: &[&[LabeledPoint]],
        mask: Option<&Tensor>,
    ) -> Result<Decoded> {
        let encoder = self.head.prompt_encoder();
        let dense = match mask {
            Some(mask) => encoder.embed_masks(mask)?,
            None => encoder.no_mask().clone(),
        };
        self.head.mask_decoder().attend(
            &tokens.broadcast_add(&dense)?,
            encoder.dense_pe(),
            &encoder.embed_points(points)?,
        )
    }

    /// The best of three masks where the prompt is `ambiguous`, else the first one, or the best of
    /// the others if it is not stable.
    ///
    /// Easy to get wrong: the pointer of a mask that is not stable is still that of the first one.
    fn answers(&self, image: &ImageTokens, decoded: &Decoded, ambiguous: bool) -> Result<Answers> {
        let masks: Range<usize> = if ambiguous {
            1..NUM_MASKS
        } else {
            0..NUM_MASKS
        };
        let logits = self.head.draw(image, decoded, masks.clone())?;
        // In one transfer: of each object its score, its IoUs and what tells whether its first mask is
        // stable.
        let mut said = vec![
            object_scores(decoded)?.unsqueeze(1)?,
            decoded.iou.narrow(1, masks.start, masks.len())?,
        ];
        if !ambiguous {
            said.push(areas(&logits.narrow(1, 0, 1)?)?);
        }
        let said = download_rows::<f32>(&Tensor::cat(&said, 1)?)?;
        let (mut chosen, mut pointed) = (vec![], vec![]);
        let (mut object_scores, mut iou_scores) = (vec![], vec![]);
        for (i, said) in said.iter().enumerate() {
            let (ious, areas) = said[1..].split_at(masks.len());
            let best = match ambiguous || !is_stable(areas) {
                true => first_largest(ious, usize::from(!ambiguous)),
                false => 0,
            };
            chosen.push(logits.narrow(0, i, 1)?.narrow(1, best, 1)?.squeeze(1)?);
            let token = if ambiguous { masks.start + best } else { 0 };
            pointed.push(
                decoded
                    .mask_tokens
                    .narrow(0, i, 1)?
                    .narrow(1, token, 1)?
                    .squeeze(1)?,
            );
            object_scores.push(said[0]);
            iou_scores.push(ious[best]);
        }
        let is_there = present(decoded)?;
        let pointed = Tensor::cat(&pointed, 0)?;
        Ok(Answers {
            low_res_logits: without_absent(&Tensor::cat(&chosen, 0)?, &is_there)?,
            pointers: self.pointers.forward(&pointed, &is_there)?,
            object_scores,
            iou_scores,
        })
    }
}

/// Makes of a mask (b, 1, 16g, 16g) a mask prompt of a quarter of its side.
fn mask_downsample(vb: VarBuilder) -> Result<Conv2d> {
    let quarter = ConvConfig::default().with_stride(4);
    conv2d(1, 1, 4, quarter, vb)
}

/// Logits (b, h, w), and [`ABSENT_LOGIT`] where `is_present` (b) is 0.
pub(super) fn without_absent(logits: &Tensor, is_present: &Tensor) -> Result<Tensor> {
    let absent = Tensor::full(ABSENT_LOGIT, logits.shape(), logits.device())?;
    let is_present = is_present
        .reshape(((), 1, 1))?
        .broadcast_as(logits.shape())?;
    is_present.where_cond(logits, &absent)
}

pub(super) fn object_scores(decoded: &Decoded) -> Result<&Tensor> {
    match &decoded.object_score {
        Some(scores) => Ok(scores),
        None => candle::bail!("a tracker needs a head that scores objects"),
    }
}

/// Of each object whether it is there (b), u8
fn present(decoded: &Decoded) -> Result<Tensor> {
    object_scores(decoded)?.gt(0f64)
}

/// The index of the largest value from `start` on, of equal ones the first.
pub(crate) fn first_largest(values: &[f32], start: usize) -> usize {
    let mut best = start;
    for i in start..values.len() {
        if values[i] > values[best] {
            best = i;
        }
    }
    best
}

/// Pixels of masks (b, 1, h, w) at a lower threshold, and at a higher one: (b, 2)
fn areas(logits: &Tensor) -> Result<Tensor> {
    let above = |threshold: f32| {
        let above = logits.gt(f64::from(threshold))?.to_dtype(DType::F32)?;
        above.flatten_from(1)?.sum_keepdim(1)
    };
    Tensor::cat(&[above(-STABILITY_DELTA)?, above(STABILITY_DELTA)?], 1)
}

/// Whether a mask of such [`areas`] hardly depends on the threshold.
fn is_stable(areas: &[f32]) -> bool {
    areas[0] == 0. || areas[1] / areas[0] >= STABILITY_THRESHOLD
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::golden::{Golden, assert_close};

    #[test]
    fn a_mask_becomes_the_prompt_that_it_is_to_the_original() -> Result<()> {
        let golden = Golden::open("object_pointer");
        let prompt = mask_downsample(golden.weights().pp("mask_downsample"))?;
        let got = golden.tensor("in.mask").apply(&prompt)?;
        assert_close(&got, &golden.tensor("out.mask_prompt"), 5e-6);
        Ok(())
    }
}
