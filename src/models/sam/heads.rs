//! Prompt encoder and mask decoder together: prompts in pixels of the input become masks.

use std::collections::BTreeMap;
use std::ops::Range;

use candle::{Result, Tensor};
use candle_nn::VarBuilder;

use super::mask_decoder::{ImageTokens, MaskDecoder};
use super::prompt_encoder::{Label, PromptEncoder};
use crate::Error;
use crate::models::{ClickMasks, ClickPrompt};

/// Prompts decoded at a time: more are slower, because they leave the cache.
const MAX_BATCH: usize = 16;

/// Which model the heads are from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Generation {
    /// SAM 1 and MobileSAM.
    Sam1,
    /// SAM 3: fine features of the image, an object score, IoU through a sigmoid.
    Sam3,
}

/// Sizes of the heads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Which model the heads are from.
    pub generation: Generation,
    /// Width of the tokens.
    pub dim: usize,
    /// Side of the grid of image tokens.
    pub grid: usize,
    /// Side of the model's input, in pixels.
    pub image_size: usize,
    /// Attention heads.
    pub num_heads: usize,
    /// Hidden width of the transformer's MLPs.
    pub mlp_dim: usize,
    /// Hidden width of the IoU head.
    pub iou_hidden_dim: usize,
}

impl Config {
    /// The heads of every SAM 1 and of MobileSAM.
    pub fn sam1() -> Self {
        Self {
            generation: Generation::Sam1,
            dim: 256,
            grid: 64,
            image_size: 1024,
            num_heads: 8,
            mlp_dim: 2048,
            iou_hidden_dim: 256,
        }
    }

    /// The heads of every released SAM 3 with `grid`² image tokens.
    pub fn sam3(grid: usize, image_size: usize) -> Self {
        Self {
            generation: Generation::Sam3,
            grid,
            image_size,
            ..Self::sam1()
        }
    }

    /// Side of the low-resolution masks.
    pub fn low_res_side(&self) -> usize {
        4 * self.grid
    }
}

/// One prompt as the model sees it.
#[derive(Debug, Clone)]
pub struct Prompt<'a> {
    /// Points, corners of the box and padding in pixels of the model's input.
    pub points: Vec<([f32; 2], Label)>,
    /// Low-resolution logits, by rows.
    pub mask: Option<&'a [f32]>,
}

/// Prompt encoder and mask decoder.
#[derive(Debug, Clone)]
pub struct Heads {
    prompt_encoder: PromptEncoder,
    mask_decoder: MaskDecoder,
    cfg: Config,
}

impl Heads {
    /// Reads `prompt_encoder` and `mask_decoder`, whose names are the caller's.
    pub fn new(cfg: &Config, prompt_encoder: VarBuilder, mask_decoder: VarBuilder) -> Result<Self> {
        Ok(Self {
            prompt_encoder: PromptEncoder::new(cfg, prompt_encoder)?,
            mask_decoder: MaskDecoder::new(cfg, mask_decoder)?,
            cfg: cfg.clone(),
        })
    }

    /// The sizes.
    pub fn config(&self) -> &Config {
        &self.cfg
    }

    /// The prompt encoder.
    pub fn prompt_encoder(&self) -> &PromptEncoder {
        &self.prompt_encoder
    }

    /// The mask decoder.
    pub fn mask_decoder(&self) -> &MaskDecoder {
        &self.mask_decoder
    }

    /// A prompt in pixels of the image, with the tokens that the model was trained to see;
    /// `to_input` takes a point to pixels of the model's input.
    ///
    /// Easy to get wrong: SAM 1 adds a point that is none where there are points and no box, and a
    /// box follows the points. SAM 3 adds one wherever there are points or a box, and a box comes
    /// first.
    ///
    /// # Errors
    /// [`Error::InvalidPrompt`] for a label that is neither 0 nor 1, and a mask of another size.
    pub fn prompt<'a>(
        &self,
        prompt: &'a ClickPrompt,
        to_input: impl Fn([f32; 2]) -> [f32; 2],
    ) -> crate::Result<Prompt<'a>> {
        let mut points = Vec::with_capacity(prompt.points.len() + 3);
        for &(xy, label) in &prompt.points {
            let label = match label {
                0 => Label::Negative,
                1 => Label::Positive,
                _ => {
                    return Err(Error::prompt(format!(
                        "a point with label {label}; 1 is on the object, 0 is not"
                    )));
                }
            };
            points.push((to_input(xy), label));
        }
        let padding = ([0., 0.], Label::Padding);
        let corners = prompt.bbox.map(|b| {
            [
                (to_input([b.x0, b.y0]), Label::TopLeft),
                (to_input([b.x1, b.y1]), Label::BottomRight),
            ]
        });
        match (self.cfg.generation, corners) {
            (Generation::Sam1, Some(corners)) => points.extend(corners),
            (Generation::Sam3, Some(corners)) => {
                points.splice(0..0, corners);
                points.push(padding);
            }
            (_, None) if points.is_empty() => {}
            (_, None) => points.push(padding),
        }
        let side = self.cfg.low_res_side();
        let mask = prompt.mask_logits.as_deref();
        if let Some(mask) = mask.filter(|mask| mask.len() != side * side) {
            return Err(Error::prompt(format!(
                "a mask of {} logits; {side} x {side} are needed, as in an earlier answer",
                mask.len()
            )));
        }
        Ok(Prompt { points, mask })
    }

    /// Answers `prompts` in their order with those of `masks`, of the four, whose predicted quality
    /// is `wanted`.
    ///
    /// Prompts of one kind (as many points, mask or none) are decoded together.
    pub fn decode(
        &self,
        image: &ImageTokens,
        prompts: &[Prompt],
        masks: Range<usize>,
        wanted: &dyn Fn(f32) -> bool,
    ) -> Result<Vec<ClickMasks>> {
        let mut kinds = BTreeMap::<(usize, bool), Vec<usize>>::new();
        for (i, prompt) in prompts.iter().enumerate() {
            let kind = (prompt.points.len(), prompt.mask.is_some());
            kinds.entry(kind).or_default().push(i);
        }
        let mut answers = vec![None; prompts.len()];
        for indices in kinds.values().flat_map(|indices| indices.chunks(MAX_BATCH)) {
            let batch: Vec<&Prompt> = indices.iter().map(|i| &prompts[*i]).collect();
            let decoded = self.decode_batch(image, &batch, masks.clone(), wanted)?;
            for (i, answer) in indices.iter().zip(decoded) {
                answers[*i] = Some(answer);
            }
        }
        Ok(answers.into_iter().flatten().collect())
    }

    /// Prompts of one kind.
    fn decode_batch(
        &self,
        image: &ImageTokens,
        prompts: &[&Prompt],
        masks: Range<usize>,
        wanted: &dyn Fn(f32) -> bool,
    ) -> Result<Vec<ClickMasks>> {
        let points: Vec<&[_]> = prompts.iter().map(|p| &p.points[..]).collect();
        let points = self.prompt_encoder.embed_points(&points)?;
        let logits: Vec<f32> = prompts
            .iter()
            .filter_map(|p| p.mask)
            .flatten()
            .copied()
            .collect();
        let dense = if logits.is_empty() {
            self.prompt_encoder.no_mask().clone()
        } else {
            let side = self.cfg.low_res_side();
            let shape = (prompts.len(), side, side);
            let logits = Tensor::from_vec(logits, shape, image.tokens.device())?;
            self.prompt_encoder.embed_masks(&logits)?
        };
        let attended = self.mask_decoder.attend(
            &image.tokens.broadcast_add(&dense)?,
            self.prompt_encoder.dense_pe(),
            &points,
        )?;

        let iou = attended.iou.narrow(1, masks.start, masks.len())?;
        let iou = iou.to_vec2::<f32>()?;
        let mut objects = match &attended.object_score {
            None => vec![],
            Some(scores) => scores.to_vec1::<f32>()?,
        }
        .into_iter();
        let mut answers: Vec<ClickMasks> = iou
            .into_iter()
            .map(|iou_scores| ClickMasks {
                low_res_logits: vec![],
                iou_scores,
                object_score: objects.next(),
            })
            .collect();

        // What is left is the image's work for each prompt: neighbours that have a wanted mask are
        // drawn together, the others not at all.
        let has_wanted = |answer: &ClickMasks| answer.iou_scores.iter().any(|iou| wanted(*iou));
        let is_drawn: Vec<bool> = answers.iter().map(has_wanted).collect();
        let mut start = 0;
        for run in is_drawn.chunk_by(|a, b| a == b) {
            if run[0] {
                let attended = attended.narrow(start, run.len())?;
                let details = image.details.as_ref();
                let logits = self.mask_decoder.draw(&attended, details, masks.clone())?;
                let logits = logits.flatten_from(2)?.to_vec3::<f32>()?;
                for (answer, logits) in answers[start..].iter_mut().zip(logits) {
                    answer.low_res_logits = logits;
                }
            }
            start += run.len();
        }
        answers.iter_mut().for_each(|answer| answer.retain(wanted));
        Ok(answers)
    }
}

#[cfg(test)]
impl Config {
    pub(super) fn of(golden: &crate::nn::golden::Golden) -> Self {
        let size = |key| golden.size(key);
        Self {
            generation: match size("generation") {
                1 => Generation::Sam1,
                3 => Generation::Sam3,
                other => panic!("generation {other}"),
            },
            dim: size("dim"),
            grid: size("grid"),
            image_size: size("image_size"),
            num_heads: size("num_heads"),
            mlp_dim: size("mlp_dim"),
            iou_hidden_dim: size("iou_hidden_dim"),
        }
    }
}
