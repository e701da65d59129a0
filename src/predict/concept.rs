//! Text and exemplar boxes -> every matching object.
//!
//! Follows `Sam3Processor`,
//! <https://github.com/facebookresearch/sam3/blob/99d02f2/sam3/model/sam3_image_processor.py>:
//! the score of a query is `sigmoid(logit) * sigmoid(presence)`, mask logits (not probabilities)
//! are resized to the image, boxes are not clipped, and queries keep their order.

use std::collections::HashMap;

use candle::{DType, Tensor};
use serde::{Deserialize, Serialize};

use super::Instance;
use crate::mask::upsample::threshold_upsampled;
use crate::mask::{BoxXyxy, Mask, nms};
use crate::models::sam3::{ExemplarBox, Grounding, ImageEmbedding, Sam3, TextEmbedding};
use crate::{Error, Result, Trace, text};

/// A box around an object that shows what is meant, or what is not.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Exemplar {
    /// In pixels of the original image.
    pub bbox: BoxXyxy,
    /// Whether objects like this one are wanted.
    pub positive: bool,
}

impl Exemplar {
    /// As fractions of an image of `(width, height)` pixels.
    pub fn normalise(&self, (width, height): (usize, usize)) -> ExemplarBox {
        let cxcywh_norm = self.bbox.to_cxcywh_norm(width, height);
        ExemplarBox {
            cxcywh_norm,
            positive: self.positive,
        }
    }
}

/// What to look for: a text, exemplars, or both.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Prompt {
    /// A noun phrase, as in "a striped cat".
    pub text: Option<String>,
    /// Boxes in this image.
    pub exemplars: Vec<Exemplar>,
    /// Replaces [`Options::threshold`] for this prompt.
    pub threshold: Option<f32>,
}

impl Prompt {
    /// A prompt of words alone.
    pub fn text(text: impl Into<String>) -> Self {
        Self {
            text: Some(text.into()),
            ..Self::default()
        }
    }

    /// A prompt of exemplars alone.
    pub fn exemplars(exemplars: Vec<Exemplar>) -> Self {
        Self {
            exemplars,
            ..Self::default()
        }
    }
}

/// What to keep of what was found. The defaults are the reference's.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Keep instances with a higher score than this, in 0..1.
    pub threshold: f32,
    /// A pixel belongs to a mask where its logit is higher than this.
    pub mask_threshold: f32,
    /// Keep at most this many instances per prompt, the best ones.
    pub max_instances: Option<usize>,
    /// Drop an instance whose mask overlaps a better one's by more than this IoU, in 0..1.
    pub nms: Option<f32>,
    /// Whether `nms` also compares instances of different prompts.
    pub nms_across_prompts: bool,
    /// Also return the union mask of the concept.
    pub semantic: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            threshold: 0.5,
            mask_threshold: 0.0,
            max_instances: None,
            nms: None,
            nms_across_prompts: false,
            semantic: false,
        }
    }
}

/// The answer to one prompt. As JSON, masks are run-length encoded.
#[derive(Debug, Clone, Serialize)]
pub struct Prediction {
    /// How sure the model is that the concept is in the image at all, in 0..1.
    pub presence: f32,
    /// The objects found, in the order of the model's queries.
    pub instances: Vec<Instance>,
    /// Every pixel of the concept, if [`Options::semantic`] asked for it.
    pub semantic: Option<Mask>,
}

/// Answers several prompts on one image; equal texts are encoded once.
///
/// # Errors
/// [`Error::InvalidPrompt`] for an empty prompt, a box that is inverted, not finite or outside the
/// image, or an option out of range; nothing is computed then.
pub fn predict(
    model: &Sam3,
    image: &ImageEmbedding,
    prompts: &[Prompt],
    options: &Options,
) -> Result<Vec<Prediction>> {
    predict_traced(model, image, prompts, options, &mut Trace::off())
}

/// Like [`predict`], recording each stage under `prompts.N.`.
pub fn predict_traced(
    model: &Sam3,
    image: &ImageEmbedding,
    prompts: &[Prompt],
    options: &Options,
    trace: &mut Trace,
) -> Result<Vec<Prediction>> {
    validate(prompts, options, (image.width, image.height))?;
    let texts = encode_texts(model, prompts)?;
    predict_encoded(model, image, prompts, &texts, options, trace)
}

/// Like [`predict_traced`] with the texts encoded before, by [`encode_texts`]: for the same prompts
/// on many images.
pub fn predict_encoded(
    model: &Sam3,
    image: &ImageEmbedding,
    prompts: &[Prompt],
    texts: &[TextEmbedding],
    options: &Options,
    trace: &mut Trace,
) -> Result<Vec<Prediction>> {
    validate(prompts, options, (image.width, image.height))?;
    let mut predictions = Vec::with_capacity(prompts.len());
    for (i, (prompt, text)) in prompts.iter().zip(texts).enumerate() {
        trace.set_prefix(format!("prompts.{i}."));
        predictions.push(detect(model, image, text, prompt, options, trace)?);
    }
    trace.set_prefix("");
    if let (Some(iou), true) = (options.nms, options.nms_across_prompts) {
        suppress_across(&mut predictions, iou);
    }
    Ok(predictions)
}

/// The text embedding of each prompt, computed once per distinct text.
pub fn encode_texts(model: &Sam3, prompts: &[Prompt]) -> Result<Vec<TextEmbedding>> {
    let mut known: HashMap<Option<&str>, TextEmbedding> = HashMap::new();
    let mut texts = Vec::with_capacity(prompts.len());
    for prompt in prompts {
        let key = prompt.text.as_deref();
        if let Some(text) = known.get(&key) {
            texts.push(text.clone());
            continue;
        }
        let text = match key {
            Some(text) => model.encode_text(text)?,
            None => model.encode_visual()?,
        };
        known.insert(key, text.clone());
        texts.push(text);
    }
    Ok(texts)
}

/// Answers one prompt whose `text` is encoded already; the prompt's own text is not read.
pub fn detect(
    model: &Sam3,
    image: &ImageEmbedding,
    text: &TextEmbedding,
    prompt: &Prompt,
    options: &Options,
    trace: &mut Trace,
) -> Result<Prediction> {
    let size = (image.width, image.height);
    let boxes: Vec<ExemplarBox> = prompt.exemplars.iter().map(|e| e.normalise(size)).collect();
    let detector = model.detector();
    let grounding = detector.ground(&image.features, &text.features, &boxes, trace)?;

    let presence = sigmoid(grounding.found.presence_logit.to_vec1::<f32>()?[0]);
    let logits = grounding.logits.squeeze(0)?.to_vec1::<f32>()?;
    let scores: Vec<f32> = logits
        .iter()
        .map(|logit| sigmoid(*logit) * presence)
        .collect();
    let threshold = prompt.threshold.unwrap_or(options.threshold);
    let kept = keep(&scores, threshold, options.max_instances);

    let instances = instances(model, &grounding, &scores, &kept, options, size, trace)?;
    let instances = match options.nms {
        Some(iou) => suppress(instances, iou),
        None => instances,
    };
    let semantic = match options.semantic {
        true => masks(
            &detector.semantic(&grounding.pixels)?,
            options.mask_threshold,
            size,
        )?
        .pop(),
        false => None,
    };
    Ok(Prediction {
        presence,
        instances,
        semantic,
    })
}

/// Masks and boxes of the kept queries.
fn instances(
    model: &Sam3,
    grounding: &Grounding,
    scores: &[f32],
    kept: &[u32],
    options: &Options,
    (width, height): (usize, usize),
    trace: &mut Trace,
) -> Result<Vec<Instance>> {
    if kept.is_empty() {
        return Ok(vec![]);
    }
    let queries = Tensor::new(kept, grounding.pixels.device())?;
    let hs = grounding.found.hs.index_select(&queries, 1)?;
    let logits = model.detector().masks(&grounding.pixels, &hs)?;
    trace.record("pred_masks", &logits);
    let boxes = grounding.found.boxes.squeeze(0)?.to_vec2::<f32>()?;
    let masks = masks(&logits, options.mask_threshold, (width, height))?;
    let instance = |(query, mask): (&u32, Mask)| {
        let b = &boxes[*query as usize];
        let bbox = BoxXyxy::from_cxcywh_norm([b[0], b[1], b[2], b[3]], width, height);
        Instance {
            mask,
            bbox,
            score: scores[*query as usize],
        }
    };
    Ok(kept.iter().zip(masks).map(instance).collect())
}

/// Mask logits (1, k, h, w) -> k masks at the size of the image.
fn masks(logits: &Tensor, threshold: f32, (width, height): (usize, usize)) -> Result<Vec<Mask>> {
    let (_, _, h, w) = logits.dims4()?;
    let logits = logits
        .to_dtype(DType::F32)?
        .flatten_all()?
        .to_vec1::<f32>()?;
    let maps = logits.chunks_exact(h * w);
    maps.map(|map| threshold_upsampled(map, (h, w), (height, width), threshold))
        .collect()
}

/// The queries above the threshold in their order, at most `max` of them.
fn keep(scores: &[f32], threshold: f32, max: Option<usize>) -> Vec<u32> {
    let mut kept: Vec<usize> = (0..scores.len())
        .filter(|i| scores[*i] > threshold)
        .collect();
    if let Some(max) = max {
        kept.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
        kept.truncate(max);
        kept.sort_unstable();
    }
    kept.into_iter().map(|i| i as u32).collect()
}

/// Drops instances that overlap a better one of the same prompt.
fn suppress(mut instances: Vec<Instance>, iou: f32) -> Vec<Instance> {
    let mut is_kept = non_maximum_suppression(instances.iter(), iou).into_iter();
    instances.retain(|_| is_kept.next().unwrap_or(true));
    instances
}

/// Drops instances that overlap a better one of any prompt.
fn suppress_across(predictions: &mut [Prediction], iou: f32) {
    let all = predictions.iter().flat_map(|p| &p.instances);
    let mut is_kept = non_maximum_suppression(all, iou).into_iter();
    for prediction in predictions {
        prediction
            .instances
            .retain(|_| is_kept.next().unwrap_or(true));
    }
}

/// Whether each instance survives.
fn non_maximum_suppression<'a>(
    instances: impl Iterator<Item = &'a Instance>,
    iou: f32,
) -> Vec<bool> {
    let (masks, scores): (Vec<&Mask>, Vec<f32>) = instances.map(|i| (&i.mask, i.score)).unzip();
    let mut is_kept = vec![false; masks.len()];
    for index in nms::mask_nms(&masks, &scores, iou) {
        is_kept[index] = true;
    }
    is_kept
}

fn sigmoid(x: f32) -> f32 {
    1. / (1. + (-x).exp())
}

/// Checks prompts and options against an image of `width` x `height` pixels, before any work.
///
/// # Errors
/// [`Error::InvalidPrompt`], see [`predict`].
pub fn validate(
    prompts: &[Prompt],
    options: &Options,
    (width, height): (usize, usize),
) -> Result<()> {
    let fraction = |name: &str, value: f32| match (0. ..=1.).contains(&value) {
        true => Ok(()),
        false => Err(Error::prompt(format!(
            "{name} is {value}; it must be in 0..1"
        ))),
    };
    fraction("threshold", options.threshold)?;
    if options.mask_threshold.is_nan() {
        return Err(Error::prompt("the mask threshold is not a number"));
    }
    if let Some(iou) = options.nms {
        fraction("nms", iou)?;
    }
    for prompt in prompts {
        if let Some(threshold) = prompt.threshold {
            fraction("threshold", threshold)?;
        }
        match &prompt.text {
            Some(text) if text::clean(text).is_empty() => {
                return Err(Error::prompt(
                    "the text is empty; name what to look for, as in \"a dog\"",
                ));
            }
            None if !prompt.exemplars.iter().any(|e| e.positive) => {
                return Err(Error::prompt(
                    "a prompt needs a text or a positive exemplar",
                ));
            }
            _ => {}
        }
        for exemplar in &prompt.exemplars {
            let BoxXyxy { x0, y0, x1, y1 } = exemplar.bbox;
            let name = format!("exemplar {x0},{y0},{x1},{y1}");
            if ![x0, y0, x1, y1].iter().all(|v| v.is_finite()) {
                return Err(Error::prompt(format!("{name} is not finite")));
            }
            if x1 <= x0 || y1 <= y0 {
                return Err(Error::prompt(format!(
                    "{name} is inverted or empty; give x0,y0,x1,y1"
                )));
            }
            let (w, h) = (width as f32, height as f32);
            if x1 <= 0. || y1 <= 0. || x0 >= w || y0 >= h {
                return Err(Error::prompt(format!(
                    "{name} is outside the image of {width} x {height}"
                )));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_are_kept_in_the_order_of_the_queries() {
        let scores = [0.6, 0.5, 0.9, 0.7];
        assert_eq!(keep(&scores, 0.5, None), [0, 2, 3]); // strictly above
        assert_eq!(keep(&scores, 0.5, Some(2)), [2, 3]);
        assert_eq!(keep(&scores, 0.95, Some(2)), [0u32; 0]);
    }

    #[test]
    fn bad_prompts_are_refused_with_a_reason() {
        let bbox = |x0: f32, y0, x1, y1| BoxXyxy { x0, y0, x1, y1 };
        let exemplar = |b, positive| Prompt::exemplars(vec![Exemplar { bbox: b, positive }]);
        struct Case(Prompt, &'static str);
        for Case(prompt, want) in [
            Case(Prompt::default(), "needs a text or a positive exemplar"),
            Case(Prompt::text(" \t"), "empty"),
            Case(exemplar(bbox(0., 0., 5., 5.), false), "positive exemplar"),
            Case(exemplar(bbox(5., 0., 0., 5.), true), "inverted"),
            Case(exemplar(bbox(0., 0., f32::NAN, 5.), true), "not finite"),
            Case(
                exemplar(bbox(100., 0., 120., 5.), true),
                "outside the image of 100 x 50",
            ),
            Case(
                Prompt {
                    threshold: Some(f32::NAN),
                    ..Prompt::text("dog")
                },
                "must be in 0..1",
            ),
        ] {
            let error = validate(&[prompt], &Options::default(), (100, 50))
                .unwrap_err()
                .to_string();
            assert!(error.contains(want), "{error:?} lacks {want:?}");
        }
        let partly_outside = exemplar(bbox(-5., 0., 5., 5.), true);
        validate(
            &[partly_outside, Prompt::text("dog")],
            &Options::default(),
            (100, 50),
        )
        .unwrap();
    }

    #[test]
    fn options_out_of_range_are_refused() {
        for options in [
            Options {
                threshold: f32::NAN,
                ..Options::default()
            },
            Options {
                threshold: 1.5,
                ..Options::default()
            },
            Options {
                nms: Some(-0.1),
                ..Options::default()
            },
            Options {
                mask_threshold: f32::NAN,
                ..Options::default()
            },
        ] {
            assert!(
                validate(&[Prompt::text("dog")], &options, (10, 10)).is_err(),
                "{options:?}"
            );
        }
    }
}
