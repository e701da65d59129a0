//! Points, a box or a rough mask -> the object that is meant.
//!
//! Follows `SamPredictor.predict`,
//! <https://github.com/facebookresearch/segment-anything/blob/dca509f/segment_anything/predictor.py#L93>;
//! coordinates are pixels of the original image, and several prompts are decoded in one batch.
//! Refinement is a loop: each answer's `low_res_logits` are the next prompt's `mask_logits`.
//!
//! ```no_run
//! use candle_sam3::predict::interactive::{Options, predict_one};
//! use candle_sam3::{Checkpoint, Image, LoadOptions, Run, VisualPrompt, models};
//!
//! let model = models::load(&Checkpoint::open("sam3.pt")?, &LoadOptions::with_interactive())?;
//! let model = model.as_interactive()?;
//! let (options, run) = (Options::default(), &mut Run::default());
//! let embedding = model.encode_interactive(&Image::open("photo.jpg")?, run)?;
//! let prompt = VisualPrompt::point(120., 80.);
//! let first = predict_one(model, &embedding, &prompt, &options, run)?;
//! let prompt = first.refined(prompt).and_not(30., 90.); // not this part
//! let refined = predict_one(model, &embedding, &prompt, &options, run)?;
//! # Ok::<(), candle_sam3::Error>(())
//! ```

mod decode;
#[cfg(test)]
mod sam2_tests;
#[cfg(test)]
mod tests;

use serde::Serialize;

pub(in crate::predict) use decode::decode_wanted;
pub use decode::{LowResMask, LowResMasks, decode, decode_one};

use super::Instance;
use super::enlarge::Cut;
use crate::image::Image;
use crate::mask::Mask;
use crate::models::{InteractiveEmbedding, InteractiveModel, VisualPrompt};
use crate::{Error, Result, Run, Size};

/// Prompts whose masks are enlarged at a time: a batch of the original's mask generator. It bounds
/// the memory of low-resolution logits.
const PROMPTS_PER_BATCH: usize = 64;

/// Which masks to return, and how to cut them from logits.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Number of masks per prompt; [`Multimask::Auto`] by default.
    pub multimask: Multimask,
    /// A pixel belongs to a mask where its logit is higher than this; 0 by default.
    pub mask_threshold: f32,
    /// Distance by which the threshold is moved up and down to measure stability; 1 by default.
    pub stability_score_offset: f32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            multimask: Multimask::Auto,
            mask_threshold: 0.0,
            stability_score_offset: 1.0,
        }
    }
}

/// Number of masks per prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Multimask {
    /// One mask: for a lone point, which may mean a part or the whole, the best of three;
    /// with more points, a box or the mask of an earlier answer as [`Multimask::One`].
    #[default]
    Auto,
    /// Three masks: a part, a larger part, the whole. `multimask_output=True` of the original.
    Three,
    /// One mask, predicted as such. `multimask_output=False` of the original.
    One,
}

/// The answer to one prompt.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Prediction {
    /// Three masks or one, see [`Multimask`], in the order of the model and not by score.
    pub masks: Vec<MaskPrediction>,
    /// Logit of "there is an object", where the model predicts one.
    pub object_score: Option<f32>,
}

impl Prediction {
    /// The mask of the highest predicted IoU, the first of equals.
    pub fn best(&self) -> Option<&MaskPrediction> {
        let masks = self.masks.iter();
        masks.reduce(|best, mask| match mask.iou_score > best.iou_score {
            true => mask,
            false => best,
        })
    }

    /// The prompt of the next round: `prompt`, starting from the best mask of this answer.
    #[must_use]
    pub fn refined(&self, prompt: VisualPrompt) -> VisualPrompt {
        match self.best() {
            Some(mask) => prompt.from_logits(mask.low_res_logits.clone()),
            None => prompt,
        }
    }
}

/// One mask of an answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MaskPrediction {
    /// Its pixels, at the size of the original image.
    pub mask: Mask,
    /// Predicted IoU; that of SAM 1 may exceed 1.
    pub iou_score: f32,
    /// IoU of the masks cut higher and lower, in 0..=1; 0 for an empty mask.
    pub stability_score: f32,
    /// Logits at the model's low resolution, by rows: a mask prompt for the next round. SAM 3 limits
    /// them to ±32, after the mask is cut.
    #[serde(skip)]
    pub low_res_logits: Vec<f32>,
}

/// A drawn mask, white on the object, as [`VisualPrompt::mask_logits`] for an image of size `image`.
///
/// # Errors
/// [`Error::InvalidPrompt`] as [`validate_drawn`].
pub fn from_drawn(model: &dyn InteractiveModel, image: Size, mask: &Mask) -> Result<Vec<f32>> {
    validate_drawn(mask, image)?;
    model.logits_from_mask(mask)
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

/// Checks a drawn mask against an image of this size, before any work.
///
/// # Errors
/// [`Error::InvalidPrompt`] for a mask of another size, and one that is empty.
pub fn validate_drawn(mask: &Mask, image: Size) -> Result<()> {
    if mask.size() != image {
        return Err(Error::prompt(format!(
            "a mask of {} pixels for an image of {image}; give one of the image's size",
            mask.size()
        )));
    }
    if mask.is_empty() {
        return Err(Error::prompt(
            "a mask without a white pixel; white is on the object",
        ));
    }
    Ok(())
}

/// Answers prompts on one image, in their order.
///
/// # Errors
/// [`Error::InvalidPrompt`] and [`Error::InvalidArgument`] as [`validate`], and for a mask prompt of
/// another size than the model's low-resolution logits, before any work; [`Error::NotFinite`] if the
/// network computes NaN or infinity; [`Error::Cancelled`].
pub fn predict(
    model: &dyn InteractiveModel,
    image: &InteractiveEmbedding,
    prompts: &[VisualPrompt],
    options: &Options,
    run: &mut Run,
) -> Result<Vec<Prediction>> {
    validate(prompts, options, image.size)?;
    validate_masks(prompts, model.low_res_size())?;
    let mut predictions = Vec::with_capacity(prompts.len());
    for batch in prompts.chunks(PROMPTS_PER_BATCH) {
        for same in batch.chunk_by(|a, b| options.asks_for_three(a) == options.asks_for_three(b)) {
            let three = options.asks_for_three(&same[0]);
            let answers = decode(model, image, same, three, run)?;
            predictions.extend(enlarge(model, image, answers, options)?);
        }
        run.report(predictions.len(), prompts.len());
    }
    if options.multimask == Multimask::Auto {
        for prediction in &mut predictions {
            let best = prediction.best().cloned();
            prediction.masks = best.into_iter().collect();
        }
    }
    Ok(predictions)
}

/// Answers one prompt, see [`predict`].
///
/// # Errors
/// As [`predict`].
pub fn predict_one(
    model: &dyn InteractiveModel,
    image: &InteractiveEmbedding,
    prompt: &VisualPrompt,
    options: &Options,
    run: &mut Run,
) -> Result<Prediction> {
    let mut predictions = predict(model, image, std::slice::from_ref(prompt), options, run)?;
    predictions.pop().ok_or_else(|| {
        // Models answer every prompt; this tells a bug from a bad prompt.
        Error::Tensor(candle::Error::msg("no answer to the prompt"))
    })
}

/// The prompt that refines an object found by a text: its box, cut at the edge of the image. Add
/// points to it, and ask for [`Multimask::One`].
pub fn refine(instance: &Instance, image: Size) -> VisualPrompt {
    VisualPrompt::bbox(instance.bbox.clip(image.width, image.height))
}

/// Masks at the size of the image.
fn enlarge(
    model: &dyn InteractiveModel,
    image: &InteractiveEmbedding,
    answers: Vec<LowResMasks>,
    options: &Options,
) -> Result<Vec<Prediction>> {
    let limit = model.head_config().max_prompt_logit;
    let low_res: Vec<&[f32]> = answers
        .iter()
        .flat_map(|answer| answer.low_res_logits.iter().map(Vec::as_slice))
        .collect();
    let cut = Cut {
        upscaling: &model.upscaling(image.size),
        threshold: options.mask_threshold.into(),
        offset: options.stability_score_offset.into(),
    };
    let device = image.features.tokens.device();
    let masks = cut.each(&low_res, device, |_, mask| Ok(mask))?;
    let mut masks = masks.into_iter();
    let predictions = answers.into_iter().map(|answer| {
        let each = answer.low_res_logits.into_iter().zip(answer.iou_scores);
        let each = each.zip(masks.by_ref());
        let masks = each.map(|((mut low_res_logits, iou_score), cut)| {
            let stability_score = match cut.lax {
                0 => 0.0,
                _ => cut.stability_score(),
            };
            // The original limits what it hands back, after the mask is made.
            if let Some(limit) = limit {
                for logit in &mut low_res_logits {
                    *logit = logit.clamp(-limit, limit);
                }
            }
            MaskPrediction {
                mask: cut.mask,
                iou_score,
                stability_score,
                low_res_logits,
            }
        });
        Prediction {
            masks: masks.collect(),
            object_score: answer.object_score,
        }
    });
    Ok(predictions.collect())
}

impl Options {
    fn asks_for_three(&self, prompt: &VisualPrompt) -> bool {
        match self.multimask {
            Multimask::Auto => prompt.is_ambiguous(),
            Multimask::Three => true,
            Multimask::One => false,
        }
    }

    /// Checks the ranges.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] with the option, its value and its limits.
    pub fn validate(&self) -> Result<()> {
        if self.mask_threshold.is_nan() {
            return Err(Error::argument("mask_threshold is NaN"));
        }
        let offset = self.stability_score_offset;
        if !(offset.is_finite() && offset >= 0.) {
            return Err(Error::argument(format!(
                "stability_score_offset is {offset}; it must be 0 or more"
            )));
        }
        Ok(())
    }
}

/// Checks prompts and options against an image of this size, before any work; the size of mask
/// prompts depends on the model and is left to [`predict`].
///
/// # Errors
/// [`Error::InvalidPrompt`] for an empty prompt, a point outside the image, a box that is inverted,
/// empty or outside the image, numbers that are not finite; [`Error::InvalidArgument`] for options
/// out of range.
pub fn validate(prompts: &[VisualPrompt], options: &Options, image: Size) -> Result<()> {
    options.validate()?;
    let (width, height) = (image.width as f32, image.height as f32);
    for prompt in prompts {
        if prompt.points.is_empty() && prompt.bbox.is_none() && prompt.mask_logits.is_none() {
            return Err(Error::prompt(
                "a prompt needs a point, a box or a mask to start from",
            ));
        }
        for [x, y] in prompt.points.iter().map(|point| point.xy) {
            // NaN is in no range.
            if !((0. ..width).contains(&x) && (0. ..height).contains(&y)) {
                return Err(Error::prompt(format!(
                    "point {x},{y} is outside the image of {image}"
                )));
            }
        }
        if let Some(bbox) = prompt.bbox {
            super::validate_box("box", bbox, image)?;
        }
    }
    Ok(())
}

fn validate_masks(prompts: &[VisualPrompt], low_res: Size) -> Result<()> {
    for logits in prompts.iter().filter_map(|p| p.mask_logits.as_ref()) {
        if logits.len() != low_res.area() {
            return Err(Error::prompt(format!(
                "a mask prompt of {} values; this model takes {low_res} logits, the \
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
