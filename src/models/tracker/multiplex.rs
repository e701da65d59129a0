//! What SAM 3.1's tracker follows objects with: up to 16 share a memory, an attention to memories and
//! a decoder pass.
//!
//! Follows `VideoTrackingMultiplex`,
//! <https://github.com/facebookresearch/sam3/blob/96914d2/sam3/model/video_tracking_multiplex.py#L40>.
//!
//! Tensors have the official names; all of them lie below `tracker.model` in a file of SAM 3.1.
//!
//! # Easy to get wrong
//! - Prompts and tracking have a neck and a decoder each. Of the decoders' tensors 120 have one shape.
//! - The decoder is told which slots have an object; an empty slot is answered as well.
//! - Of the three masks of an object the best is taken as it is: there is none for clear prompts.
//! - The pointer of an object that is not there is mapped, not replaced.

use candle::{Result, Tensor};
use candle_nn::VarBuilder;

use super::decoupled_attention::DecoupledAttention;
use super::entry::Answers;
use super::frame::FrameFeatures;
use super::memory_attention::MemoryTokens;
use super::network::not_remembered;
use super::object_pointer::PointerHead;
use super::prompt_network::{first_largest, object_scores, without_absent};
use super::{Config, Memories, Slots};
use crate::device::download_rows;
use crate::models::head::prompt_encoder::{frequencies, grid_positions};
use crate::models::head::{self, ImageTokens, MaskDecoder, SamHead};

/// Masks that the decoder offers for each object.
const MASKS: usize = 3;

/// The attention of SAM 3.1's tracker, and its decoder of many objects.
#[derive(Debug, Clone)]
pub(super) struct Multiplex {
    decoder: MaskDecoder,
    decoder_positions: Tensor, // (1, g * g, d)
    valid: Tensor,             // (slots, d)
    invalid: Tensor,           // (slots, d)
    attention: DecoupledAttention,
    pointer_head: PointerHead,
}

impl Multiplex {
    /// Reads `sam_mask_decoder`, which has the sizes of the interactive `head`, `image_pe_layer`, both
    /// `output_*_embed`, `transformer.encoder` and what [`PointerHead::multiplex`] reads.
    pub(super) fn new(cfg: &Config, head: &SamHead, vb: VarBuilder) -> Result<Self> {
        let (d, slots) = (cfg.dim, cfg.slots);
        let decoder = head::Config {
            slots,
            masks: MASKS,
            iou_sigmoid: false,
            ..head.config().clone()
        };
        let frequencies = frequencies(d, vb.pp("image_pe_layer"))?;
        Ok(Self {
            decoder: MaskDecoder::new(&decoder, vb.pp("sam_mask_decoder"))?,
            decoder_positions: grid_positions(cfg.grid, &frequencies, vb.dtype())?,
            valid: vb.get((slots, d), "output_valid_embed")?,
            invalid: vb.get((slots, d), "output_invalid_embed")?,
            attention: DecoupledAttention::new(cfg, vb.pp("transformer.encoder"))?,
            pointer_head: PointerHead::multiplex(d, "obj_ptr_proj", vb)?,
        })
    }

    /// The decoder of tracked frames.
    pub(super) fn decoder(&self) -> &MaskDecoder {
        &self.decoder
    }

    /// The features of a frame (buckets, g * g, d) at `positions` (1, g * g, d) that know of `memory`,
    /// whose tokens are these.
    pub(super) fn remind(
        &self,
        frame: &FrameFeatures,
        positions: &Tensor,
        memory: Memories,
        tokens: &MemoryTokens,
    ) -> Result<Tensor> {
        let looks = memory.selection.memories.iter().map(|(t, _)| {
            let features = memory.entry(*t)?.features.as_ref();
            features.ok_or_else(|| not_remembered(*t))
        });
        let looks = Tensor::cat(&looks.collect::<Result<Vec<_>>>()?, 1)?;
        let features = &frame.image.tokens;
        let attend = || self.attention.attend_frame(features, positions);
        let attended = frame.attended(attend)?;
        self.attention.forward(attended, features, &looks, tokens)
    }

    /// What is in the slots, by features (buckets, g * g, d) that know of other frames.
    pub(super) fn decode(
        &self,
        image: &ImageTokens,
        features: &Tensor,
        slots: &Slots,
    ) -> Result<Answers> {
        let is_taken = Tensor::ones(
            (slots.places().len(), 1),
            features.dtype(),
            features.device(),
        )?;
        let is_taken = slots.fill(&is_taken)?;
        let is_taken = is_taken.reshape((slots.buckets(), slots.width(), 1))?;
        let (taken, empty) = (&is_taken, (1. - &is_taken)?);
        let told = (taken.broadcast_mul(&self.valid)? + empty.broadcast_mul(&self.invalid)?)?;
        let decoded = self
            .decoder
            .attend_slots(features, &self.decoder_positions, &told)?;
        let high_res = image.high_res_features.as_ref();
        let logits = self.decoder.draw(&decoded, high_res, 0..MASKS)?;
        let [logits, ious, scores, mask_tokens] = slots.pick([
            &logits,
            &decoded.iou,
            &object_scores(&decoded)?.unsqueeze(1)?,
            &decoded.mask_tokens,
        ])?;
        // In one transfer: of each object its score and its IoUs.
        let said = download_rows::<f32>(&Tensor::cat(&[&scores, &ious], 1)?)?;
        let best: Vec<usize> = said.iter().map(|s| first_largest(&s[1..], 0)).collect();
        let of_best = |xs: &Tensor| -> Result<Tensor> {
            let rows = best.iter().enumerate();
            let rows = rows.map(|(object, best)| xs.get(object)?.narrow(0, *best, 1));
            Tensor::cat(&rows.collect::<Result<Vec<_>>>()?, 0)
        };
        let is_there = scores.squeeze(1)?.gt(0f64)?;
        Ok(Answers {
            low_res_logits: without_absent(&of_best(&logits)?, &is_there)?,
            pointers: self
                .pointer_head
                .forward(&of_best(&mask_tokens)?, &is_there)?,
            object_scores: said.iter().map(|said| said[0]).collect(),
            iou_scores: said
                .iter()
                .zip(&best)
                .map(|(said, best)| said[1 + best])
                .collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::tracker::toy::{multiplex, multiplex_head};
    use crate::nn::golden::assert_close;

    #[test]
    fn a_pass_answers_its_slots_as_officially_and_a_second_bucket_beside_them() -> Result<()> {
        let (golden, cfg) = multiplex();
        let vb = golden.weights().pp("tracker.model");
        let network = Multiplex::new(&cfg, &multiplex_head(&golden, &cfg), vb)?;
        for objects in [1, 19] {
            let input = |part: &str| golden.tensor(&format!("in.decoder.{objects}.{part}"));
            let high_res = network.decoder.by_tokens(&input("s0"), &input("s1"))?;
            let features = golden.tokens(&format!("in.decoder.{objects}.x"));
            let image = ImageTokens::new(features.clone(), Some(high_res));
            let slots = Slots::of(cfg.slots, objects);
            let got = network.decode(&image, &features, &slots)?;
            let want = |part: &str| golden.tensor(&format!("out.decoder.{objects}.{part}"));
            let masks = want("low_res_masks").squeeze(1)?;
            println!("{objects} objects");
            assert_close(&got.low_res_logits, &masks, 1e-5);
            assert_close(&got.pointers, &want("obj_ptr"), 1e-5);
            // The recorded head of the scores is steep: its last layer is twelve times a usual one.
            let scores = want("object_score_logits")
                .flatten_all()?
                .to_vec1::<f32>()?;
            for (got, want) in got.object_scores.iter().zip(scores) {
                assert!((got - want).abs() < 1e-4, "{got} {want}");
            }
        }
        Ok(())
    }
}
