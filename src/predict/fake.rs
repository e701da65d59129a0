//! A model that draws discs, to test what is generic over models.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::Result;
use crate::image::Image;
use crate::mask::upsample::upsample_bilinear;
use crate::mask::{BoxXyxy, Mask};
use crate::models::{ClickMasks, ClickPrompt, InteractiveModel};

const SIDE: usize = 32;
/// Largest logit that is handed back.
pub(super) const LIMIT: f32 = 25.0;

/// Stretches images to 32 x 32 cells. The object is a disc around the mean of the positive points,
/// of a third of the image's width, or the disc in the box; negative points push it away, and the
/// logits of a mask prompt are added to its own.
#[derive(Default)]
pub(super) struct Discs {
    /// How often something was decoded.
    pub(super) decodes: AtomicUsize,
}

impl InteractiveModel for Discs {
    type Embedding = (usize, usize);

    fn encode_for_clicks(&self, image: &Image) -> Result<(usize, usize)> {
        Ok((image.width(), image.height()))
    }

    fn original_size(&self, image: &(usize, usize)) -> (usize, usize) {
        *image
    }

    fn low_res_size(&self) -> (usize, usize) {
        (SIDE, SIDE)
    }

    fn decode(
        &self,
        &(width, height): &(usize, usize),
        prompts: &[ClickPrompt],
        multimask_output: bool,
    ) -> Result<Vec<ClickMasks>> {
        self.decodes.fetch_add(1, Ordering::Relaxed);
        let scales: &[f32] = if multimask_output {
            &[0.5, 1.0, 1.5]
        } else {
            &[1.0]
        };
        let answer = |prompt: &ClickPrompt| ClickMasks {
            low_res_logits: scales
                .iter()
                .map(|scale| disc(prompt, (width as f32, height as f32), *scale))
                .collect(),
            iou_scores: scales.iter().map(|s| 1.0 - (s - 1.0).abs() / 2.0).collect(),
            object_score: Some(3.0),
        };
        Ok(prompts.iter().map(answer).collect())
    }

    fn upscale(&self, &(width, height): &(usize, usize), logits: &[f32]) -> Result<Vec<f32>> {
        upsample_bilinear(logits, (SIDE, SIDE), (height, width))
    }

    fn feed_back(&self, logits: Vec<f32>) -> Vec<f32> {
        logits.into_iter().map(|v| v.clamp(-LIMIT, LIMIT)).collect()
    }

    fn drawn_logits(&self, mask: &Mask) -> Result<Vec<f32>> {
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

fn disc(prompt: &ClickPrompt, (width, height): (f32, f32), scale: f32) -> Vec<f32> {
    let positive: Vec<[f32; 2]> = prompt
        .points
        .iter()
        .filter(|p| p.1 == 1)
        .map(|p| p.0)
        .collect();
    let count = positive.len().max(1) as f32;
    let mean = |axis: usize| positive.iter().map(|p| p[axis]).sum::<f32>() / count;
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
            for ([px, py], _) in prompt.points.iter().filter(|point| point.1 == 0) {
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
