//! Text and exemplar boxes -> every matching object.
//!
//! Follows `Sam3Processor`,
//! <https://github.com/facebookresearch/sam3/blob/99d02f2/sam3/model/sam3_image_processor.py>:
//! the score of a query is `sigmoid(logit) * sigmoid(presence)`, mask logits (not probabilities)
//! are resized to the image, boxes are not clipped, and queries keep their order.

mod prompt;
mod saved;
mod select;

use std::collections::HashMap;

use candle::Tensor;
use serde::Serialize;

pub use prompt::{Exemplar, Options, Prompt, validate};
pub use saved::Concept;
pub(super) use select::{keep, select};

use prompt::{validate_prompt, validate_words};
use select::suppress;

use super::enlarge::masks;
use super::{Instance, is_finite, sigmoid};
use crate::device::{self, download_rows, free_memory, upload};
use crate::mask::{BoxXyxy, Mask};
use crate::models::sam3::{ExemplarBox, Grounding, ImageEmbedding, Sam3, TextEmbedding};
use crate::{Error, Result, Run, Size};

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
            None => run.stage("text", || encode_words(model, key))?,
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

/// Encodes the words of a prompt, or what stands for them in one of exemplars alone.
pub(super) fn encode_words(model: &Sam3, text: Option<&str>) -> Result<TextEmbedding> {
    match text {
        Some(text) => model.encode_text(text),
        None => model.encode_visual(),
    }
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
        suppress(&mut predictions, iou);
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
        if !verdict.is_finite {
            return Err(not_finite(image, &prompts[i], &grounding)?);
        }
        let threshold = prompts[i].prompt.threshold.unwrap_or(options.threshold);
        let kept = keep(&verdict.scores, threshold, options.max_instances);
        let found = (&grounding, &verdict, &kept[..]);
        let instances = instances(model, found, options, image.size, run)?;
        let semantic = match options.semantic {
            true => {
                let logits = detector.semantic(&grounding.pixels)?;
                masks(&logits, options.mask_threshold, image.size)?.pop()
            }
            false => None,
        };
        let mut prediction = Prediction {
            presence: verdict.presence,
            instances,
            semantic,
        };
        if let Some(iou) = options.nms {
            suppress(std::slice::from_mut(&mut prediction), iou);
        }
        predictions.push(prediction);
    }
    Ok(predictions)
}

/// What is asked of a grounding before any mask is made, on the host.
pub(super) struct Verdict {
    is_finite: bool,
    /// Confidence that the concept is in the image at all.
    presence: f32,
    /// Of each query.
    pub(super) scores: Vec<f32>,
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
        let verdict = |row: Vec<f32>| {
            let (logits, presence) = (row[..q].iter(), sigmoid(row[q]));
            Self {
                is_finite: row[..=q].iter().all(|logit| logit.is_finite()),
                presence,
                scores: logits.map(|logit| sigmoid(*logit) * presence).collect(),
                boxes: row[q + 1..].as_chunks().0.to_vec(),
            }
        };
        Ok(rows.into_iter().map(verdict).collect())
    }
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

/// Masks and boxes of the queries that are `kept`.
fn instances(
    model: &Sam3,
    (grounding, verdict, kept): (&Grounding, &Verdict, &[u32]),
    options: &Options,
    size: Size,
    run: &mut Run,
) -> Result<Vec<Instance>> {
    if kept.is_empty() {
        return Ok(vec![]);
    }
    let queries = upload(kept.to_vec(), kept.len(), grounding.pixels.device())?;
    let hs = grounding.found.hs.index_select(&queries, 1)?;
    let logits = run.stage("masks", || model.detector().masks(&grounding.pixels, &hs))?;
    run.record("pred_masks", &logits);
    let masks = run.stage("enlarge", || masks(&logits, options.mask_threshold, size))?;
    let instance = |(query, mask): (&u32, Mask)| {
        let bbox = verdict.boxes[*query as usize];
        Instance {
            mask,
            bbox: BoxXyxy::from_cxcywh_norm(bbox, size.width, size.height),
            score: verdict.scores[*query as usize],
        }
    };
    Ok(kept.iter().zip(masks).map(instance).collect())
}
