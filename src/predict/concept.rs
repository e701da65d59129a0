//! Text and exemplar boxes -> every matching object.
//!
//! Follows `Sam3Processor`,
//! <https://github.com/facebookresearch/sam3/blob/99d02f2/sam3/model/sam3_image_processor.py>:
//! the score of a query is `sigmoid(logit) * sigmoid(presence)`, mask logits (not probabilities)
//! are resized to the image, boxes are not clipped, and queries keep their order.

mod saved;

use std::collections::HashMap;

use candle::Tensor;
use serde::{Deserialize, Serialize};

pub use saved::Concept;

use super::enlarge::masks;
use super::{Instance, is_finite, sigmoid};
use crate::device::{self, download_rows, free_memory, upload};
use crate::mask::{BoxXyxy, Mask, nms};
use crate::models::sam3::{ExemplarBox, Grounding, ImageEmbedding, Sam3, TextEmbedding};
use crate::{Error, Result, Run, Size, text};

/// A box around an object that shows what is meant, or what is not.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Exemplar {
    /// In pixels of the original image.
    pub bbox: BoxXyxy,
    /// True if objects like this one are wanted.
    pub positive: bool,
}

impl Exemplar {
    /// As fractions of an image of this size.
    pub fn normalize(&self, image: Size) -> ExemplarBox {
        let cxcywh_norm = self.bbox.to_cxcywh_norm(image.width, image.height);
        ExemplarBox {
            cxcywh_norm,
            positive: self.positive,
        }
    }
}

/// A text, exemplars, or both.
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

/// Which instances to keep.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Keep instances with a higher score than this, in 0..1; 0.5 by default, as in the original.
    pub threshold: f32,
    /// A pixel belongs to a mask where its logit is higher than this; 0 by default.
    pub mask_threshold: f32,
    /// Keep at most this many instances per prompt, the best ones; all by default.
    pub max_instances: Option<usize>,
    /// Drop an instance whose mask overlaps a better one's by more than this IoU, in 0..1;
    /// `None`, the default, drops none.
    pub nms: Option<f32>,
    /// Let `nms` compare instances of different prompts, too; off by default.
    pub nms_across_prompts: bool,
    /// Also return the union mask of the concept; off by default.
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

/// The answer to one prompt.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Prediction {
    /// Confidence that the concept is in the image at all, in 0..1.
    pub presence: f32,
    /// The objects found, in the order of the model's queries.
    pub instances: Vec<Instance>,
    /// Every pixel of the concept, if [`Options::semantic`] asked for it.
    pub semantic: Option<Mask>,
}

/// A prompt whose text is encoded: good for any number of images, as far as it has no exemplars.
#[derive(Debug, Clone)]
pub struct EncodedPrompt {
    /// The prompt.
    pub prompt: Prompt,
    /// Its text, or the stand-in for a prompt of exemplars alone.
    pub text: TextEmbedding,
    /// Exemplars of another image; they replace those of the prompt.
    exemplars: Option<Shown>,
}

/// Tokens of exemplars that are good for other images than theirs.
#[derive(Debug, Clone)]
enum Shown {
    /// With the token of their image: (1, n + 1, d).
    InTheirImage(Tensor),
    /// Without it: (1, n, d). The image that is searched adds its own.
    Alone(Tensor),
}

/// Encodes the texts of prompts, each distinct one once.
///
/// # Errors
/// [`Error::InvalidPrompt`] for an empty prompt, before any work; [`Error::Cancelled`].
pub fn encode(model: &Sam3, prompts: &[Prompt], run: &mut Run) -> Result<Vec<EncodedPrompt>> {
    prompts.iter().try_for_each(validate_words)?;
    let mut known: HashMap<Option<&str>, TextEmbedding> = HashMap::new();
    let mut encoded = Vec::with_capacity(prompts.len());
    for prompt in prompts {
        let key = prompt.text.as_deref();
        let text = match known.get(&key) {
            Some(text) => text.clone(),
            None => run.stage("text", || match key {
                Some(text) => model.encode_text(text),
                None => model.encode_visual(),
            })?,
        };
        known.insert(key, text.clone());
        encoded.push(EncodedPrompt {
            prompt: prompt.clone(),
            text,
            exemplars: None,
        });
    }
    Ok(encoded)
}

/// Encodes the exemplars of a prompt, which lie in `image`, so that the prompt is good for other images
/// as well. The tokens hold where in their image the exemplars are. The models were trained with exemplars
/// of the same image; on other parts of one picture they were seen to find the same objects (demo model).
///
/// # Errors
/// If a tensor operation fails.
pub fn encode_exemplars(
    model: &Sam3,
    image: &ImageEmbedding,
    mut prompt: EncodedPrompt,
) -> Result<EncodedPrompt> {
    let exemplars = std::mem::take(&mut prompt.prompt.exemplars);
    let tokens = exemplar_tokens(model, image, &exemplars)?;
    prompt.exemplars = Some(Shown::InTheirImage(tokens));
    Ok(prompt)
}

/// Tokens (1, n, d) of exemplars in an image.
fn exemplar_tokens(model: &Sam3, image: &ImageEmbedding, exemplars: &[Exemplar]) -> Result<Tensor> {
    let boxes: Vec<ExemplarBox> = exemplars.iter().map(|e| e.normalize(image.size)).collect();
    Ok(model.detector().encode_boxes(&image.features, &boxes)?)
}

/// Answers prompts on one image, in their order.
///
/// A GPU answers several in one pass; with a trace, they are answered one by one, each stage
/// recorded under `prompts.N.`.
///
/// # Errors
/// [`Error::InvalidPrompt`] for a box that is inverted, not finite or outside the image,
/// [`Error::InvalidArgument`] for an option out of range, both before any work;
/// [`Error::NotFinite`] if the network computes NaN or infinity; [`Error::Cancelled`].
pub fn predict(
    model: &Sam3,
    image: &ImageEmbedding,
    prompts: &[EncodedPrompt],
    options: &Options,
    run: &mut Run,
) -> Result<Vec<Prediction>> {
    let batch = match run.trace {
        None if !model.device().is_cpu() => prompts_at_a_time(model, image),
        _ => 1,
    };
    predict_in_batches(model, image, prompts, options, batch, run)
}

/// Prompts that a GPU answers in one pass: as many as its memory holds, and 8 where it does not say how
/// much it has.
fn prompts_at_a_time(model: &Sam3, image: &ImageEmbedding) -> usize {
    /// Copies of a prompt's pixel embedding, 85 MB in f32, that are there at a time.
    const COPIES: usize = 8;
    let fine = &image.features.fpn[0];
    let each = COPIES * fine.elem_count() * fine.dtype().size_in_bytes();
    device::batch(free_memory(model.device()), each as u64, 8, 32)
}

fn predict_in_batches(
    model: &Sam3,
    image: &ImageEmbedding,
    prompts: &[EncodedPrompt],
    options: &Options,
    batch: usize,
    run: &mut Run,
) -> Result<Vec<Prediction>> {
    options.validate()?;
    for prompt in prompts {
        validate_prompt(&prompt.prompt, image.size)?;
    }
    let mut predictions = Vec::with_capacity(prompts.len());
    for batch in prompts.chunks(batch) {
        run.set_prefix(format!("prompts.{}.", predictions.len()));
        predictions.extend(answer(model, image, batch, options, run)?);
        run.report(predictions.len(), prompts.len());
    }
    run.set_prefix("");
    if let (Some(iou), true) = (options.nms, options.nms_across_prompts) {
        suppress_across(&mut predictions, iou);
    }
    Ok(predictions)
}

/// Answers a few prompts in one pass of the network.
fn answer(
    model: &Sam3,
    image: &ImageEmbedding,
    prompts: &[EncodedPrompt],
    options: &Options,
    run: &mut Run,
) -> Result<Vec<Prediction>> {
    let detector = model.detector();
    let inputs = run.stage("geometry", || {
        let inputs = prompts.iter().map(|prompt| {
            let exemplars = match &prompt.exemplars {
                Some(Shown::InTheirImage(tokens)) => tokens.clone(),
                Some(Shown::Alone(tokens)) => {
                    let of_image = exemplar_tokens(model, image, &[])?;
                    Tensor::cat(&[tokens, &of_image], 1)?
                }
                None => exemplar_tokens(model, image, &prompt.prompt.exemplars)?,
            };
            Ok((&prompt.text.features, exemplars))
        });
        inputs.collect::<Result<Vec<_>>>()
    })?;
    let groundings = detector.ground_encoded(&image.features, &inputs, run)?;

    let mut predictions = Vec::with_capacity(prompts.len());
    for (i, verdict) in Verdict::of(&groundings)?.into_iter().enumerate() {
        let grounding = groundings.of_prompt(i)?;
        if !verdict.is_finite() {
            return Err(not_finite(image, &prompts[i], &grounding)?);
        }
        let (presence, scores) = (verdict.presence(), verdict.scores());
        let threshold = prompts[i].prompt.threshold.unwrap_or(options.threshold);
        let kept = keep(&scores, threshold, options.max_instances);
        let found = Found {
            grounding: &grounding,
            boxes: &verdict.boxes,
            scores: &scores,
            kept: &kept,
        };
        let found = instances(model, &found, options, image.size, run)?;
        let semantic = match options.semantic {
            true => {
                let logits = detector.semantic(&grounding.pixels)?;
                masks(&logits, options.mask_threshold, image.size)?.pop()
            }
            false => None,
        };
        predictions.push(Prediction {
            presence,
            instances: match options.nms {
                Some(iou) => suppress(found, iou),
                None => found,
            },
            semantic,
        });
    }
    Ok(predictions)
}

/// What is asked of a grounding before any mask is made, on the host.
pub(super) struct Verdict {
    /// Of each query.
    logits: Vec<f32>,
    presence_logit: f32,
    /// Of each query: centre x, centre y, width, height in 0..1.
    pub(super) boxes: Vec<[f32; 4]>,
}

impl Verdict {
    /// Those of all prompts, in one transfer.
    pub(super) fn of(groundings: &Grounding) -> Result<Vec<Self>> {
        let Grounding { logits, found, .. } = groundings;
        let (b, q) = logits.dims2()?;
        let presence = found.presence_logit.reshape((b, 1))?;
        let boxes = found.boxes.reshape((b, 4 * q))?;
        let rows = download_rows::<f32>(&Tensor::cat(&[logits, &presence, &boxes], 1)?)?;
        let verdict = |row: Vec<f32>| Self {
            boxes: row[q + 1..].as_chunks().0.to_vec(),
            presence_logit: row[q],
            logits: row[..q].to_vec(),
        };
        Ok(rows.into_iter().map(verdict).collect())
    }

    fn is_finite(&self) -> bool {
        let logits = self.logits.iter().chain([&self.presence_logit]);
        logits.into_iter().all(|logit| logit.is_finite())
    }

    /// Confidence that the concept is in the image at all.
    pub(super) fn presence(&self) -> f32 {
        sigmoid(self.presence_logit)
    }

    /// Of each query.
    pub(super) fn scores(&self) -> Vec<f32> {
        let presence = self.presence();
        let logits = self.logits.iter();
        logits.map(|logit| sigmoid(*logit) * presence).collect()
    }
}

/// The answer to a prompt before its masks are made.
struct Found<'a> {
    grounding: &'a Grounding,
    boxes: &'a [[f32; 4]],
    scores: &'a [f32],
    kept: &'a [u32],
}

/// The error that names the first stage whose result is not finite.
fn not_finite(image: &ImageEmbedding, prompt: &EncodedPrompt, found: &Grounding) -> Result<Error> {
    let [fine, middle, coarse] = &image.features.fpn;
    let stages = [
        ("the image encoder", vec![fine, middle, coarse]),
        ("the text encoder", vec![&prompt.text.features.tokens]),
        ("the fusion encoder", vec![&found.memory]),
        ("the decoder", vec![&found.found.hs, &found.found.boxes]),
    ];
    for (stage, tensors) in stages {
        for tensor in tensors {
            if !is_finite(tensor)? {
                return Ok(Error::not_finite(stage));
            }
        }
    }
    Ok(Error::not_finite("the scoring head"))
}

/// Masks and boxes of the kept queries.
fn instances(
    model: &Sam3,
    found: &Found,
    options: &Options,
    size: Size,
    run: &mut Run,
) -> Result<Vec<Instance>> {
    let Found {
        grounding,
        boxes,
        scores,
        kept,
    } = *found;
    if kept.is_empty() {
        return Ok(vec![]);
    }
    let queries = upload(kept.to_vec(), kept.len(), grounding.pixels.device())?;
    let hs = grounding.found.hs.index_select(&queries, 1)?;
    let logits = run.stage("masks", || model.detector().masks(&grounding.pixels, &hs))?;
    run.record("pred_masks", &logits);
    let masks = run.stage("enlarge", || masks(&logits, options.mask_threshold, size))?;
    let instance = |(query, mask): (&u32, Mask)| {
        let bbox = boxes[*query as usize];
        Instance {
            mask,
            bbox: BoxXyxy::from_cxcywh_norm(bbox, size.width, size.height),
            score: scores[*query as usize],
        }
    };
    Ok(kept.iter().zip(masks).map(instance).collect())
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

/// Keeps what the options ask for, of answers that were not selected from yet.
pub(super) fn select(predictions: &mut [Prediction], options: &Options) {
    for prediction in predictions.iter_mut() {
        if let Some(iou) = options.nms {
            prediction.instances = suppress(std::mem::take(&mut prediction.instances), iou);
        }
        let scores: Vec<f32> = prediction.instances.iter().map(|i| i.score).collect();
        let kept = keep(&scores, f32::NEG_INFINITY, options.max_instances);
        let mut index = 0..;
        prediction
            .instances
            .retain(|_| index.next().is_some_and(|i| kept.contains(&i)));
    }
    if let (Some(iou), true) = (options.nms, options.nms_across_prompts) {
        suppress_across(predictions, iou);
    }
}

/// True for each instance that survives.
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

impl Options {
    /// Checks the ranges.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] with the option, its value and its limits.
    pub fn validate(&self) -> Result<()> {
        fraction("threshold", self.threshold).map_err(Error::argument)?;
        if self.mask_threshold.is_nan() {
            return Err(Error::argument("mask_threshold is NaN"));
        }
        match self.nms {
            Some(iou) => fraction("nms", iou).map_err(Error::argument),
            None => Ok(()),
        }
    }
}

fn fraction(name: &str, value: f32) -> Result<(), String> {
    match (0. ..=1.).contains(&value) {
        true => Ok(()),
        false => Err(format!("{name} is {value}; it must be in 0..1")),
    }
}

/// Checks prompts and options against an image of this size, before any work.
///
/// # Errors
/// As [`encode`] and [`predict`].
pub fn validate(prompts: &[Prompt], options: &Options, image: Size) -> Result<()> {
    options.validate()?;
    prompts.iter().try_for_each(|prompt| {
        validate_words(prompt)?;
        validate_prompt(prompt, image)
    })
}

fn validate_words(prompt: &Prompt) -> Result<()> {
    if let Some(text) = &prompt.text {
        text::Tokenizer::check_length(text)?;
    }
    match &prompt.text {
        Some(text) if text::clean(text).is_empty() => Err(Error::prompt(
            "the text is empty; name what to look for, as in \"a dog\"",
        )),
        None if !prompt.exemplars.iter().any(|e| e.positive) => Err(Error::prompt(
            "a prompt needs a text or a positive exemplar",
        )),
        _ => Ok(()),
    }
}

fn validate_prompt(prompt: &Prompt, image: Size) -> Result<()> {
    if let Some(threshold) = prompt.threshold {
        fraction("threshold", threshold).map_err(Error::prompt)?;
    }
    for exemplar in &prompt.exemplars {
        super::validate_box("exemplar", exemplar.bbox, image)?;
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
            let error = validate(&[prompt], &Options::default(), Size::new(100, 50))
                .unwrap_err()
                .to_string();
            assert!(error.contains(want), "{error:?} lacks {want:?}");
        }
        let partly_outside = exemplar(bbox(-5., 0., 5., 5.), true);
        validate(
            &[partly_outside, Prompt::text("dog")],
            &Options::default(),
            Size::new(100, 50),
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
                validate(&[Prompt::text("dog")], &options, Size::square(10)).is_err(),
                "{options:?}"
            );
        }
    }
}
