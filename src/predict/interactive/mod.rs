//! Points, a box or a rough mask -> the object that is meant.
//!
//! Follows `SamPredictor.predict`,
//! <https://github.com/facebookresearch/segment-anything/blob/dca509f/segment_anything/predictor.py#L93>;
//! coordinates are pixels of the original image, and several prompts are decoded in one batch.
//! Refinement is a loop: each answer's `low_res_logits` are the next prompt's `mask_logits`.
//!
//! ```
//! # use candle_sam3::{Result, models::InteractiveModel, predict::interactive::*};
//! # fn refine<M: InteractiveModel + Sync>(model: &M, image: &M::Embedding) -> Result<()> {
//! let mut prompt = from_points(&[[120., 80.]], &[1])?;
//! let first = predict(model, image, &[prompt.clone()], &Options::default())?.remove(0);
//! prompt.mask_logits = first.best().map(|mask| mask.low_res_logits.clone());
//! prompt.points.push(([30., 90.], 0)); // not this part
//! let single = Options { multimask_output: false, ..Options::default() };
//! let refined = predict(model, image, &[prompt], &single)?;
//! # Ok(()) }
//! ```

#[cfg(test)]
mod tests;

use rayon::prelude::*;
use serde::Serialize;

use super::Instance;
use crate::image::Image;
use crate::mask::stability::StableMask;
use crate::mask::{BoxXyxy, Mask};
use crate::models::{ClickMasks, ClickPrompt, InteractiveModel};
use crate::{Error, Result};

/// How many prompts are decoded at a time: what a batch of the original's mask generator has.
const PROMPTS_PER_BATCH: usize = 64;

/// How masks are made of answers. The defaults are the original's.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Three masks for each prompt: a part, a larger part, the whole. Better for a single point,
    /// which may mean any of them; one mask is better for several points or a box.
    pub multimask_output: bool,
    /// A pixel belongs to a mask where its logit is higher than this.
    pub mask_threshold: f32,
    /// How far the threshold is moved up and down to measure stability.
    pub stability_score_offset: f32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            multimask_output: true,
            mask_threshold: 0.0,
            stability_score_offset: 1.0,
        }
    }
}

/// The answer to one prompt. As JSON, masks are run-length encoded.
#[derive(Debug, Clone, Serialize)]
pub struct ClickPrediction {
    /// Three masks, or one without [`Options::multimask_output`], in the order of the model and not
    /// by score.
    pub masks: Vec<ClickMask>,
    /// Logit of "there is an object", where the model says so.
    pub object_score: Option<f32>,
}

impl ClickPrediction {
    /// The mask of the highest predicted quality, the first of equals.
    pub fn best(&self) -> Option<&ClickMask> {
        let masks = self.masks.iter();
        masks.reduce(|best, mask| match mask.iou_score > best.iou_score {
            true => mask,
            false => best,
        })
    }
}

/// One mask of an answer.
#[derive(Debug, Clone, Serialize)]
pub struct ClickMask {
    /// Its pixels, at the size of the original image.
    pub mask: Mask,
    /// The model's own estimate of the mask's quality (IoU); that of SAM 1 may exceed 1.
    pub iou_score: f32,
    /// IoU of the masks cut higher and lower, in 0..=1; 0 when there is no mask at all.
    pub stability_score: f32,
    /// Logits at the model's low resolution, by rows: a mask prompt for the next round. SAM 3 limits
    /// them to ±32, after the mask is made. Left out of JSON; `output::encode_logits` writes them.
    #[serde(skip)]
    pub low_res_logits: Vec<f32>,
}

/// A prompt of labelled points: 1 on the object, 0 on what is not the object.
///
/// # Errors
/// [`Error::InvalidPrompt`] when there are not as many labels as points.
pub fn from_points(points: &[[f32; 2]], labels: &[u8]) -> Result<ClickPrompt> {
    if points.len() != labels.len() {
        return Err(Error::prompt(format!(
            "{} labels for {} points; give one label for each point",
            labels.len(),
            points.len()
        )));
    }
    Ok(ClickPrompt {
        points: points.iter().copied().zip(labels.iter().copied()).collect(),
        ..ClickPrompt::default()
    })
}

/// One prompt for each box.
pub fn from_boxes(boxes: &[BoxXyxy]) -> Vec<ClickPrompt> {
    let prompt = |bbox: &BoxXyxy| ClickPrompt {
        bbox: Some(*bbox),
        ..ClickPrompt::default()
    };
    boxes.iter().map(prompt).collect()
}

/// A drawn mask, white on the object, as a mask prompt: what goes into
/// [`ClickPrompt::mask_logits`].
///
/// # Errors
/// [`Error::InvalidPrompt`] as [`validate_drawn`].
pub fn from_drawn<M>(model: &M, image: &M::Embedding, mask: &Mask) -> Result<Vec<f32>>
where
    M: InteractiveModel,
{
    validate_drawn(mask, model.original_size(image))?;
    model.drawn_logits(mask)
}

/// The mask that is drawn in an image: where its pixels are nearer to white than to black.
pub fn drawn_in(image: &Image) -> Mask {
    let (width, height) = (image.width(), image.height());
    let pixel = |x: usize, y: usize| &image.pixels()[3 * (y * width + x)..][..3];
    Mask::from_fn(width, height, |x, y| {
        let sum: u16 = pixel(x, y).iter().map(|v| u16::from(*v)).sum();
        sum > 3 * 127
    })
}

/// Checks a drawn mask against an image of `width` x `height` pixels, before any work.
///
/// # Errors
/// [`Error::InvalidPrompt`] for a mask of another size, and one that is empty.
pub fn validate_drawn(mask: &Mask, (width, height): (usize, usize)) -> Result<()> {
    if (mask.width(), mask.height()) != (width, height) {
        return Err(Error::prompt(format!(
            "a mask of {} x {} pixels for an image of {width} x {height}; give one of the image's \
             size",
            mask.width(),
            mask.height()
        )));
    }
    if mask.is_empty() {
        return Err(Error::prompt(
            "a mask without a white pixel; white is on the object",
        ));
    }
    Ok(())
}

/// Whether a prompt is so open that the best of three masks beats a single one: a lone point, which
/// may mean a part or the whole.
///
/// The rule of the original's ONNX export for points,
/// <https://github.com/facebookresearch/segment-anything/blob/dca509f/segment_anything/utils/onnx.py#L92>;
/// a box or a mask says enough for a single mask, as in the original's examples.
pub fn prefers_multimask(prompt: &ClickPrompt) -> bool {
    prompt.points.len() == 1 && prompt.bbox.is_none() && prompt.mask_logits.is_none()
}

/// Answers prompts on one image, up to 64 in one decode.
///
/// # Errors
/// [`Error::InvalidPrompt`] as [`validate`], and for a mask prompt of another size than the model's
/// low-resolution logits; nothing is computed then.
pub fn predict<M>(
    model: &M,
    image: &M::Embedding,
    prompts: &[ClickPrompt],
    options: &Options,
) -> Result<Vec<ClickPrediction>>
where
    M: InteractiveModel + Sync,
{
    let size = model.original_size(image);
    validate(prompts, options, size)?;
    validate_masks(prompts, model.low_res_size())?;
    let mut predictions = Vec::with_capacity(prompts.len());
    for batch in prompts.chunks(PROMPTS_PER_BATCH) {
        let answers = model.decode(image, batch, options.multimask_output)?;
        let enlarged: Result<Vec<ClickPrediction>> = answers
            .into_par_iter()
            .map(|answer| enlarge(model, image, answer, options))
            .collect();
        predictions.extend(enlarged?);
    }
    Ok(predictions)
}

/// Refines an object found by a text with points, as one mask.
///
/// The prompt is the box of the instance, cut at the edge of the image, the points, and
/// `low_res_logits` where an earlier refinement has left some.
///
/// # Errors
/// As [`predict`].
pub fn refine<M>(
    model: &M,
    image: &M::Embedding,
    instance: &Instance,
    points: &[([f32; 2], u8)],
    low_res_logits: Option<&[f32]>,
) -> Result<ClickPrediction>
where
    M: InteractiveModel + Sync,
{
    let (width, height) = model.original_size(image);
    let prompt = ClickPrompt {
        points: points.to_vec(),
        bbox: Some(instance.bbox.clip(width, height)),
        mask_logits: low_res_logits.map(<[f32]>::to_vec),
    };
    let options = Options {
        multimask_output: false,
        ..Options::default()
    };
    let mut predictions = predict(model, image, &[prompt], &options)?;
    predictions.pop().ok_or_else(|| {
        // Models answer every prompt; a broken one is told from a bad prompt.
        Error::Tensor(candle::Error::msg("the model gave no answer to the prompt"))
    })
}

/// Masks at the size of the image.
fn enlarge<M: InteractiveModel>(
    model: &M,
    image: &M::Embedding,
    answer: ClickMasks,
    options: &Options,
) -> Result<ClickPrediction> {
    let (width, _) = model.original_size(image);
    let (threshold, offset) = (options.mask_threshold, options.stability_score_offset);
    let answers = answer.low_res_logits.into_iter().zip(answer.iou_scores);
    let masks: Result<Vec<ClickMask>> = answers
        .map(|(low_res_logits, iou_score)| {
            let logits = model.upscale(image, &low_res_logits)?;
            let cut = StableMask::new(&logits, width, threshold.into(), offset.into())?;
            let stability_score = match cut.lax {
                0 => 0.0,
                _ => cut.stability_score(),
            };
            Ok(ClickMask {
                mask: cut.mask,
                iou_score,
                stability_score,
                low_res_logits: model.feed_back(low_res_logits),
            })
        })
        .collect();
    Ok(ClickPrediction {
        masks: masks?,
        object_score: answer.object_score,
    })
}

/// Checks prompts and options against an image of `width` x `height` pixels, before any work; the
/// size of mask prompts depends on the model and is left to [`predict`].
///
/// # Errors
/// [`Error::InvalidPrompt`] for an empty prompt, a point outside the image, a label other than 0
/// and 1, a box that is inverted, empty or outside the image, numbers that are not finite.
pub fn validate(
    prompts: &[ClickPrompt],
    options: &Options,
    (width, height): (usize, usize),
) -> Result<()> {
    if options.mask_threshold.is_nan() {
        return Err(Error::prompt("the mask threshold is not a number"));
    }
    let offset = options.stability_score_offset;
    if !(offset.is_finite() && offset >= 0.) {
        return Err(Error::prompt(format!(
            "stability_score_offset is {offset}; it must be 0 or more"
        )));
    }
    for prompt in prompts {
        if prompt.points.is_empty() && prompt.bbox.is_none() && prompt.mask_logits.is_none() {
            return Err(Error::prompt(
                "a prompt needs a point, a box or a mask to start from",
            ));
        }
        for &([x, y], label) in &prompt.points {
            // NaN is in no range.
            if !((0. ..width as f32).contains(&x) && (0. ..height as f32).contains(&y)) {
                return Err(Error::prompt(format!(
                    "point {x},{y} is outside the image of {width} x {height}"
                )));
            }
            if label > 1 {
                return Err(Error::prompt(format!(
                    "label {label} of point {x},{y}; use 1 on the object and 0 beside it"
                )));
            }
        }
        if let Some(bbox) = prompt.bbox {
            validate_box(bbox, (width, height))?;
        }
    }
    Ok(())
}

fn validate_box(bbox: BoxXyxy, (width, height): (usize, usize)) -> Result<()> {
    let BoxXyxy { x0, y0, x1, y1 } = bbox;
    let name = format!("box {x0},{y0},{x1},{y1}");
    if ![x0, y0, x1, y1].iter().all(|v| v.is_finite()) {
        return Err(Error::prompt(format!("{name} is not finite")));
    }
    if x1 <= x0 || y1 <= y0 {
        return Err(Error::prompt(format!(
            "{name} is inverted or empty; give x0,y0,x1,y1"
        )));
    }
    if x1 <= 0. || y1 <= 0. || x0 >= width as f32 || y0 >= height as f32 {
        return Err(Error::prompt(format!(
            "{name} is outside the image of {width} x {height}"
        )));
    }
    Ok(())
}

fn validate_masks(prompts: &[ClickPrompt], (height, width): (usize, usize)) -> Result<()> {
    for logits in prompts.iter().filter_map(|p| p.mask_logits.as_ref()) {
        if logits.len() != height * width {
            return Err(Error::prompt(format!(
                "a mask prompt of {} values; this model takes {height} x {width} logits, the \
                 low_res_logits of an earlier answer",
                logits.len()
            )));
        }
        if let Some(value) = logits.iter().find(|value| !value.is_finite()) {
            return Err(Error::prompt(format!(
                "a mask prompt with a logit of {value}"
            )));
        }
    }
    Ok(())
}
