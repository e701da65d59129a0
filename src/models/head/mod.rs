//! Prompt encoder and mask decoder: what answers points, boxes and masks in every SAM.
//!
//! SAM 1, MobileSAM, SAM 2.1 and SAM 3 share one implementation; what differs between them is data in
//! [`Config`].

mod cross_attention;
pub(crate) mod drawn_mask;
pub mod mask_decoder;
pub mod prompt_encoder;
pub mod two_way;

use std::ops::Range;

use candle::{Device, Tensor};
use candle_nn::VarBuilder;

pub use mask_decoder::{Decoded, ImageTokens, MaskDecoder, NUM_MASKS};
pub use prompt_encoder::{Label, PromptEncoder};

use super::{InteractiveEmbedding, VisualPrompt};
use crate::device::{self, free_memory, upload};
use crate::{Error, Result};

/// Sizes and capabilities of a head.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
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
    /// The upscaling adds finer maps of the image (`conv_s0`, `conv_s1`).
    pub high_res_features: bool,
    /// A token of its own predicts whether there is an object (`pred_obj_score_head`).
    pub object_score: bool,
    /// Predicted IoUs pass through a sigmoid.
    pub iou_sigmoid: bool,
    /// The corners of a box come before the points, and a padding point follows every prompt; else
    /// they come after the points, and a padding point follows points without a box.
    pub box_first: bool,
    /// A single mask that is not stable gives way to the best of the other three.
    pub stability_fallback: bool,
    /// Largest magnitude of logits that are handed back as the next mask prompt.
    pub max_prompt_logit: Option<f32>,
    /// Objects that one pass answers, each in a slot of its own.
    pub slots: usize,
    /// Masks of each.
    pub masks: usize,
}

impl Config {
    /// The head of every SAM 1 and of MobileSAM.
    pub fn sam1() -> Self {
        Self {
            dim: 256,
            grid: 64,
            image_size: 1024,
            num_heads: 8,
            mlp_dim: 2048,
            iou_hidden_dim: 256,
            high_res_features: false,
            object_score: false,
            iou_sigmoid: false,
            box_first: false,
            stability_fallback: false,
            max_prompt_logit: None,
            slots: 1,
            masks: NUM_MASKS,
        }
    }

    /// The head of every released SAM 2.1 and SAM 3 with `grid`² image tokens.
    pub fn sam3(grid: usize, image_size: usize) -> Self {
        Self {
            grid,
            image_size,
            high_res_features: true,
            object_score: true,
            iou_sigmoid: true,
            box_first: true,
            stability_fallback: true,
            max_prompt_logit: Some(32.),
            ..Self::sam1()
        }
    }

    /// Side of the low-resolution masks.
    pub fn low_res_side(&self) -> usize {
        4 * self.grid
    }
}

/// Prompts that are decoded in one batch. On the CPU more are slower, because the activations leave
/// the cache; a GPU takes as many as its memory holds, and 64 where it does not say how much it has.
pub(crate) fn max_batch(cfg: &Config, device: &Device) -> usize {
    /// Copies of a prompt's image tokens that are there at a time, the upscaled ones included.
    const COPIES: usize = 32;
    let tokens = cfg.grid * cfg.grid * cfg.dim * size_of::<f32>();
    match device.is_cpu() {
        true => 16,
        false => device::batch(free_memory(device), (COPIES * tokens) as u64, 64, 64),
    }
}

/// Prompt encoder and mask decoder.
#[derive(Debug, Clone)]
pub struct SamHead {
    prompt_encoder: PromptEncoder,
    mask_decoder: MaskDecoder,
    cfg: Config,
}

impl SamHead {
    /// Reads `prompt_encoder` and `mask_decoder`, whose names are the caller's.
    pub fn new(
        cfg: &Config,
        prompt_encoder: VarBuilder,
        mask_decoder: VarBuilder,
    ) -> candle::Result<Self> {
        Ok(Self {
            prompt_encoder: PromptEncoder::new(cfg, prompt_encoder)?,
            mask_decoder: MaskDecoder::new(cfg, mask_decoder)?,
            cfg: cfg.clone(),
        })
    }

    /// Sizes and capabilities.
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

    /// Everything about the answers to `prompts` of one kind but their masks, see
    /// [`super::InteractiveModel::attend`]; `to_input` maps a point to pixels of the model's input.
    ///
    /// # Errors
    /// [`Error::InvalidPrompt`] for a mask of another size than [`Config::low_res_side`].
    pub fn attend(
        &self,
        image: &ImageTokens,
        prompts: &[&VisualPrompt],
        to_input: impl Fn([f32; 2]) -> [f32; 2],
    ) -> Result<Decoded> {
        let points: Vec<Vec<_>> = prompts
            .iter()
            .map(|prompt| self.labeled_points(prompt, &to_input))
            .collect();
        let points: Vec<&[_]> = points.iter().map(Vec::as_slice).collect();
        let sparse = self.prompt_encoder.embed_points(&points)?;
        let (decoder, pe) = (&self.mask_decoder, self.prompt_encoder.dense_pe());
        let decoded = match self.dense_embeddings(prompts, image.tokens.device())? {
            Some(masks) => decoder.attend(&image.tokens.broadcast_add(&masks)?, pe, &sparse)?,
            None => {
                let no_mask = self.prompt_encoder.no_mask();
                let prepare =
                    |tokens: &Tensor| decoder.prepare(&tokens.broadcast_add(no_mask)?, pe);
                decoder.attend_prepared(image.prepared(prepare)?, pe, &sparse)?
            }
        };
        Ok(decoded)
    }

    /// [`SamHead::attend`] for a model whose input is the whole image stretched to a square.
    ///
    /// # Errors
    /// As of [`SamHead::attend`].
    pub fn attend_stretched(
        &self,
        image: &InteractiveEmbedding,
        prompts: &[&VisualPrompt],
    ) -> Result<Decoded> {
        let side = self.cfg.image_size as f32;
        let (width, height) = (image.size.width as f32, image.size.height as f32);
        let to_input = |[x, y]: [f32; 2]| [x / width * side, y / height * side];
        self.attend(&image.features, prompts, to_input)
    }

    /// Low-resolution logits (b, masks, 4g, 4g), f32, of `masks` of the [`NUM_MASKS`].
    ///
    /// # Errors
    /// If a tensor operation fails.
    pub fn draw(
        &self,
        image: &ImageTokens,
        decoded: &Decoded,
        masks: Range<usize>,
    ) -> candle::Result<Tensor> {
        let high_res = image.high_res_features.as_ref();
        self.mask_decoder.draw(decoded, high_res, masks)
    }

    /// Points and box corners in pixels of the model's input, with the padding that the model was
    /// trained to see.
    ///
    /// Easy to get wrong: SAM 1 appends a padding point when a prompt has points but no box, and a
    /// box follows the points. SAM 3 appends one whenever there are points or a box, and a box comes
    /// first.
    fn labeled_points(
        &self,
        prompt: &VisualPrompt,
        to_input: impl Fn([f32; 2]) -> [f32; 2],
    ) -> Vec<([f32; 2], Label)> {
        let mut points: Vec<_> = prompt
            .points
            .iter()
            .map(|point| {
                let label = if point.on_object {
                    Label::Positive
                } else {
                    Label::Negative
                };
                (to_input(point.xy), label)
            })
            .collect();
        let padding = ([0., 0.], Label::Padding);
        let corners = prompt.bbox.map(|b| {
            [
                (to_input([b.x0, b.y0]), Label::TopLeft),
                (to_input([b.x1, b.y1]), Label::BottomRight),
            ]
        });
        match corners {
            Some(corners) if self.cfg.box_first => {
                points.splice(0..0, corners);
                points.push(padding);
            }
            Some(corners) => points.extend(corners),
            None if points.is_empty() => {}
            None => points.push(padding),
        }
        points
    }

    /// The embedding of mask prompts (b, g * g, d), if there are any.
    fn dense_embeddings(
        &self,
        prompts: &[&VisualPrompt],
        device: &Device,
    ) -> Result<Option<Tensor>> {
        let side = self.cfg.low_res_side();
        let masks = || prompts.iter().filter_map(|p| p.mask_logits.as_deref());
        if let Some(mask) = masks().find(|mask| mask.len() != side * side) {
            return Err(Error::prompt(format!(
                "a mask of {} logits; {side} x {side} are needed, as in an earlier answer",
                mask.len()
            )));
        }
        let logits: Vec<f32> = masks().flatten().copied().collect();
        if logits.is_empty() {
            return Ok(None);
        }
        let logits = upload(logits, (prompts.len(), side, side), device)?;
        Ok(Some(self.prompt_encoder.embed_masks(&logits)?))
    }
}

#[cfg(test)]
impl Config {
    pub(super) fn of(golden: &crate::nn::golden::Golden) -> Self {
        let size = |key| golden.size(key);
        let base = match size("generation") {
            1 => Self::sam1(),
            3 => Self::sam3(size("grid"), size("image_size")),
            other => panic!("generation {other}"),
        };
        Self {
            dim: size("dim"),
            grid: size("grid"),
            image_size: size("image_size"),
            num_heads: size("num_heads"),
            mlp_dim: size("mlp_dim"),
            iou_hidden_dim: size("iou_hidden_dim"),
            ..base
        }
    }
}
