//! A model that draws discs, to test everything that is generic over models.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use candle::{Device, IndexOp, Tensor};

use crate::image::Image;
use crate::mask::{BoxXyxy, Mask};
use crate::models::head::{Config, Decoded, ImageTokens, NUM_MASKS};
use crate::models::{InteractiveEmbedding, InteractiveModel, Upscaling, VisualPrompt};
use crate::{Result, Run, Size};

const SIDE: usize = 32;
/// Largest logit that is handed back.
pub(super) const LIMIT: f32 = 25.0;

/// The four masks of one prompt, with the predicted IoU of each.
pub(super) type Answer = [(Vec<f32>, f32); NUM_MASKS];

/// An embedding that holds one number.
pub(super) fn embedding(size: Size, seed: f32) -> InteractiveEmbedding {
    let tokens = Tensor::new(&[[[seed]]], &Device::Cpu).unwrap();
    InteractiveEmbedding {
        features: ImageTokens::new(tokens, None),
        size,
    }
}

/// Answers that are known before they are drawn: the logits travel as mask tokens.
pub(super) fn decoded(answers: Vec<Answer>, object_score: Option<f32>) -> Decoded {
    let device = &Device::Cpu;
    let (b, n) = (answers.len(), answers[0][0].0.len());
    let iou: Vec<f32> = answers.iter().flatten().map(|mask| mask.1).collect();
    let logits: Vec<f32> = answers
        .into_iter()
        .flatten()
        .flat_map(|mask| mask.0)
        .collect();
    Decoded {
        mask_tokens: Tensor::from_vec(logits, (b, NUM_MASKS, n), device).unwrap(),
        image: Tensor::zeros((b, 1, 1), candle::DType::F32, device).unwrap(),
        iou: Tensor::from_vec(iou, (b, NUM_MASKS), device).unwrap(),
        object_score: object_score.map(|score| Tensor::full(score, b, device).unwrap()),
    }
}

/// The logits of [`decoded`] as maps.
pub(super) fn drawn(decoded: &Decoded, masks: Range<usize>) -> Result<Tensor> {
    let logits = decoded.mask_tokens.i((.., masks))?;
    let (b, masks, n) = logits.dims3()?;
    let side = n.isqrt();
    Ok(logits.reshape((b, masks, side, side))?)
}

/// Stretches images to 32 x 32 cells. The object is a disc around the mean of the positive points,
/// of a third of the image's width, or the disc in the box; negative points push it away, and the
/// logits of a mask prompt are added to its own.
pub(super) struct Discs {
    /// Number of batches that were decoded.
    pub(super) decodes: AtomicUsize,
    config: Config,
}

impl Default for Discs {
    fn default() -> Self {
        Self {
            decodes: AtomicUsize::new(0),
            config: Config {
                grid: SIDE / 4,
                max_prompt_logit: Some(LIMIT),
                ..Config::sam1()
            },
        }
    }
}

impl InteractiveModel for Discs {
    fn name(&self) -> &str {
        "discs"
    }

    fn head_config(&self) -> &Config {
        &self.config
    }

    fn encode_interactive(&self, image: &Image, _: &mut Run) -> Result<InteractiveEmbedding> {
        Ok(embedding(image.size(), 0.))
    }

    fn attend(&self, image: &InteractiveEmbedding, prompts: &[&VisualPrompt]) -> Result<Decoded> {
        self.decodes.fetch_add(1, Ordering::Relaxed);
        let answer = |prompt: &&VisualPrompt| {
            [1.0, 0.5, 1.0, 1.5].map(|scale: f32| {
                let iou = 1.0 - (scale - 1.0).abs() / 2.0;
                (disc(prompt, image.size, scale), iou)
            })
        };
        Ok(decoded(prompts.iter().map(answer).collect(), Some(3.0)))
    }

    fn draw(
        &self,
        _: &InteractiveEmbedding,
        decoded: &Decoded,
        masks: Range<usize>,
    ) -> Result<Tensor> {
        drawn(decoded, masks)
    }

    fn upscaling(&self, image: Size) -> Upscaling {
        Upscaling::direct(Size::square(SIDE), image)
    }

    fn logits_from_mask(&self, mask: &Mask) -> Result<Vec<f32>> {
        let scaled = |i: usize, of: usize| (2 * i + 1) * of / (2 * SIDE);
        let logit = |i: usize| match mask.get(
            scaled(i % SIDE, mask.width()),
            scaled(i / SIDE, mask.height()),
        ) {
            true => 10.0,
            false => -10.0,
        };
        Ok((0..SIDE * SIDE).map(logit).collect())
    }
}

fn disc(prompt: &VisualPrompt, image: Size, scale: f32) -> Vec<f32> {
    let (width, height) = (image.width as f32, image.height as f32);
    let points = |on_object| {
        let points = prompt.points.iter();
        points
            .filter(move |p| p.on_object == on_object)
            .map(|p| p.xy)
    };
    let count = points(true).count().max(1) as f32;
    let mean = |axis: usize| points(true).map(|p| p[axis]).sum::<f32>() / count;
    let ([cx, cy], radius) = match prompt.bbox {
        Some(BoxXyxy { x0, y0, x1, y1 }) => (
            [(x0 + x1) / 2.0, (y0 + y1) / 2.0],
            (x1 - x0).min(y1 - y0) / 2.0,
        ),
        None => ([mean(0), mean(1)], width / 6.0),
    };
    let radius = radius * scale;
    let side = SIDE as f32;
    (0..SIDE * SIDE)
        .map(|i| {
            let x = ((i % SIDE) as f32 + 0.5) * width / side;
            let y = ((i / SIDE) as f32 + 0.5) * height / side;
            let mut logit = (radius - (x - cx).hypot(y - cy)) * 2.0;
            for [px, py] in points(false) {
                logit = logit.min(((x - px).hypot(y - py) - radius / 2.0) * 2.0);
            }
            logit
                + prompt
                    .mask_logits
                    .as_ref()
                    .map_or(0.0, |earlier| earlier[i])
        })
        .collect()
}
