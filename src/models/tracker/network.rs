//! The network of a tracker: head, memory encoder and memory attention together.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use candle::{DType, Result, Tensor};
use candle_nn::VarBuilder;

use super::memory_attention::{MemoryAttention, MemoryTokens};
use super::memory_bank::{ABSENT_LOGIT, Answers};
use super::memory_encoder::{MaskProbability, MemoryEncoder};
use super::object_pointer::ObjectPointers;
use super::{Config, Memories, Tracker};
use crate::Size;
use crate::models::head::{Decoded, ImageTokens, Label, NUM_MASKS, SamHead};
use crate::nn::conv::{Conv2d, ConvConfig, conv2d};
use crate::nn::posenc::sine_2d;

/// A point or a corner of a box, in pixels of the model's input.
pub type LabeledPoint = ([f32; 2], Label);

/// A mask is stable if moving the threshold by this much either way...
const STABILITY_DELTA: f32 = 0.05;
/// ...keeps at least this share of its pixels.
const STABILITY_THRESHOLD: f32 = 0.98;

/// A frame as every object of it sees it: cheap to clone.
#[derive(Debug, Clone)]
pub struct FrameFeatures {
    /// Features of the neck, without the "no memory" embedding.
    pub image: ImageTokens,
    /// Size of the original frame.
    pub size: Size,
    /// The first self-attention of the memory attention, the same for all objects; computed when
    /// the frame is first tracked.
    attended: Arc<OnceLock<Tensor>>,
}

impl FrameFeatures {
    /// A frame that was not tracked yet.
    pub fn new(image: ImageTokens, size: Size) -> Self {
        Self {
            image,
            size,
            attended: Arc::default(),
        }
    }

    /// Memory that the features keep, in bytes.
    pub fn bytes(&self) -> usize {
        let attended = self.attended.get();
        let attended = attended.map_or(0, |t| t.elem_count() * t.dtype().size_in_bytes());
        self.image.bytes() + attended
    }
}

/// The network of a tracker. Objects that are tracked together are a batch.
#[derive(Debug, Clone)]
pub struct TrackerNetwork {
    cfg: Config,
    head: SamHead,
    encoder: MemoryEncoder,
    attention: MemoryAttention,
    pointers: ObjectPointers,
    mask_downsample: Conv2d,
    no_memory: Tensor,             // (1, 1, d)
    frame_positions: Tensor,       // (1, g * g, d)
    memory_positions: Vec<Tensor>, // of each row of the temporal embedding (1, g * g, m)
}

impl TrackerNetwork {
    /// Reads everything below `tracker` but the head, which is shared with clicks on images, and
    /// `no_mem_pos_enc`, which is not used.
    ///
    /// # Errors
    /// If a tensor is missing or has another shape.
    pub fn new(cfg: &Config, head: &SamHead, vb: VarBuilder) -> Result<Self> {
        let (d, m, g) = (cfg.dim, cfg.memory_dim, cfg.grid);
        let positions = |width| -> Result<Tensor> {
            let map = sine_2d(g, g, width, vb.device())?.to_dtype(vb.dtype())?;
            map.flatten_from(2)?.transpose(1, 2)?.contiguous()
        };
        let in_space = positions(m)?;
        let in_time = vb.get((cfg.num_memories, 1, 1, m), "maskmem_tpos_enc")?;
        let row = |i| in_space.broadcast_add(&in_time.narrow(0, i, 1)?.squeeze(0)?);
        Ok(Self {
            head: head.clone(),
            encoder: MemoryEncoder::new(cfg, vb.clone())?,
            attention: MemoryAttention::new(cfg, vb.pp("transformer.encoder"))?,
            pointers: ObjectPointers::new(cfg, vb.clone())?,
            mask_downsample: mask_downsample(vb.clone())?,
            no_memory: vb.get((1, 1, d), "no_mem_embed")?,
            frame_positions: positions(d)?,
            memory_positions: (0..cfg.num_memories).map(row).collect::<Result<_>>()?,
            cfg: cfg.clone(),
        })
    }

    /// Prompt encoder and mask decoder.
    pub fn head(&self) -> &SamHead {
        &self.head
    }

    fn memory_tokens(&self, memory: Memories) -> Result<MemoryTokens> {
        let Memories {
            bank,
            selection,
            num_frames,
        } = memory;
        let missing = |t: usize| candle::Error::msg(format!("frame {t} is not remembered"));
        let entry = |t: usize| bank.get(t).ok_or_else(|| missing(t));
        let (mut tokens, mut positions) = (vec![], vec![]);
        for (t, row) in &selection.memories {
            let memory = entry(*t)?.memory.as_ref();
            tokens.push(memory.ok_or_else(|| missing(*t))?.clone());
            positions.push(self.memory_positions[*row].clone());
        }
        let mut pointer_tokens = 0;
        if !selection.pointers.is_empty() {
            let (frames, offsets): (Vec<usize>, Vec<i64>) =
                selection.pointers.iter().copied().unzip();
            let pointers = frames.iter().map(|t| Ok(&entry(*t)?.pointers));
            let pointers = self
                .pointers
                .tokens(&pointers.collect::<Result<Vec<_>>>()?)?;
            pointer_tokens = pointers.dim(1)?;
            tokens.push(pointers);
            positions.push(self.pointers.positions(&offsets, num_frames)?);
        }
        Ok(MemoryTokens {
            tokens: Tensor::cat(&tokens, 1)?,
            positions: Tensor::cat(&positions, 1)?,
            pointer_tokens,
        })
    }

    /// The features of a frame (1 or b, g * g, d) that know of `memory`.
    fn remind(&self, frame: &FrameFeatures, memory: Memories) -> Result<Tensor> {
        let memory = self.memory_tokens(memory)?;
        let attended = match frame.attended.get() {
            Some(attended) => attended.clone(),
            None => {
                let tokens = &frame.image.tokens;
                let attended = self.attention.attend_frame(tokens, &self.frame_positions)?;
                frame.attended.get_or_init(|| attended).clone()
            }
        };
        self.attention.forward(&attended, &memory)
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
    fn answers(
        &self,
        frame: &FrameFeatures,
        decoded: &Decoded,
        ambiguous: bool,
    ) -> Result<Answers> {
        let masks: Range<usize> = if ambiguous {
            1..NUM_MASKS
        } else {
            0..NUM_MASKS
        };
        let logits = self.head.draw(&frame.image, decoded, masks.clone())?;
        let ious = decoded
            .iou
            .narrow(1, masks.start, masks.len())?
            .to_vec2::<f32>()?;
        let (mut chosen, mut pointed, mut iou_scores) = (vec![], vec![], vec![]);
        for (i, ious) in ious.iter().enumerate() {
            let best = match ambiguous || !is_stable(&logits.get(i)?.get(0)?)? {
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
            iou_scores.push(ious[best]);
        }
        let is_there = present(decoded)?;
        let logits = Tensor::cat(&chosen, 0)?;
        let absent = Tensor::full(ABSENT_LOGIT, logits.shape(), logits.device())?;
        let mask = is_there.reshape(((), 1, 1))?.broadcast_as(logits.shape())?;
        Ok(Answers {
            low_res_logits: mask.where_cond(&logits, &absent)?,
            pointers: self
                .pointers
                .forward(&Tensor::cat(&pointed, 0)?, &is_there)?,
            object_scores: object_scores(decoded)?.to_vec1()?,
            iou_scores,
        })
    }
}

impl Tracker for TrackerNetwork {
    fn config(&self) -> &Config {
        &self.cfg
    }

    fn prompt(
        &self,
        frame: &FrameFeatures,
        points: &[LabeledPoint],
        earlier: Option<&Tensor>,
        memory: Option<Memories>,
    ) -> Result<Answers> {
        let padded = [points, &[PADDING]].concat();
        let tokens = match memory {
            Some(memory) => self.remind(frame, memory)?,
            None => frame.image.tokens.broadcast_add(&self.no_memory)?,
        };
        let decoded = self.decode(&tokens, &[&padded], earlier)?;
        self.answers(frame, &decoded, points.len() <= 1)
    }

    fn point_to_mask(&self, frame: &FrameFeatures, mask: &Tensor) -> Result<Tensor> {
        let prompt = mask
            .unsqueeze(1)?
            .apply(&self.mask_downsample)?
            .squeeze(1)?;
        let decoded = self.decode(&frame.image.tokens, &[&[PADDING; 2]], Some(&prompt))?;
        let is_there = present(&decoded)?;
        let is_drawn = mask.flatten_from(1)?.max(1)?.gt(0f64)?;
        let token = decoded.mask_tokens.narrow(1, 0, 1)?.squeeze(1)?;
        self.pointers.forward(&token, &(is_there * is_drawn)?)
    }

    fn track(&self, frame: &FrameFeatures, memory: Memories) -> Result<Answers> {
        let tokens = self.remind(frame, memory)?;
        let points = vec![&[PADDING; 2][..]; tokens.dim(0)?];
        let decoded = self.decode(&tokens, &points, None)?;
        self.answers(frame, &decoded, true)
    }

    fn remember(
        &self,
        frame: &FrameFeatures,
        mask_logits: &Tensor,
        object_scores: &[f32],
        probability: MaskProbability,
    ) -> Result<Tensor> {
        let features = &frame.image.tokens;
        let scores = Tensor::new(object_scores, features.device())?;
        self.encoder
            .forward(features, mask_logits, &scores, probability)
    }

    fn absent_pointer(&self) -> Tensor {
        self.pointers.absent().clone()
    }
}

/// Makes of a mask (b, 1, 16g, 16g) a mask prompt of a quarter of its side.
fn mask_downsample(vb: VarBuilder) -> Result<Conv2d> {
    let quarter = ConvConfig::default().with_stride(4);
    conv2d(1, 1, 4, quarter, vb.pp("mask_downsample"))
}

/// A point that is none.
const PADDING: LabeledPoint = ([0., 0.], Label::Padding);

fn object_scores(decoded: &Decoded) -> Result<&Tensor> {
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
fn first_largest(values: &[f32], start: usize) -> usize {
    let mut best = start;
    for i in start..values.len() {
        if values[i] > values[best] {
            best = i;
        }
    }
    best
}

/// Mask logits that hardly depend on the threshold.
fn is_stable(logits: &Tensor) -> Result<bool> {
    let above = |threshold: f32| -> Result<f32> {
        let above = logits.gt(f64::from(threshold))?.to_dtype(DType::F32)?;
        above.sum_all()?.to_scalar()
    };
    let low = above(-STABILITY_DELTA)?;
    Ok(low == 0. || above(STABILITY_DELTA)? / low >= STABILITY_THRESHOLD)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::golden::{Golden, assert_close};

    #[test]
    fn a_mask_becomes_the_prompt_that_it_is_to_the_original() -> Result<()> {
        let golden = Golden::open("object_pointer");
        let prompt = mask_downsample(golden.weights())?;
        let got = golden.tensor("in.mask").apply(&prompt)?;
        assert_close(&got, &golden.tensor("out.mask_prompt"), 5e-6);
        Ok(())
    }
}
