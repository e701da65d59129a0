//! Prompts in batches, and their answers as numbers on the host.

use std::collections::BTreeMap;
use std::ops::Range;

use candle::Tensor;

use crate::device::{download, download_rows};
use crate::models::head::{Decoded, NUM_MASKS, max_batch};
use crate::models::tracker::first_largest;
use crate::models::{InteractiveEmbedding, InteractiveModel, VisualPrompt};
use crate::predict::is_finite;
use crate::{Error, Result, Run};

/// A single mask is stable if moving the threshold by this much either way...
const STABILITY_DELTA: f32 = 0.05;
/// ...keeps at least this share of its pixels.
const STABILITY_THRESHOLD: f32 = 0.98;

/// Masks of one prompt at the model's low resolution.
#[derive(Debug, Clone, PartialEq)]
pub struct LowResMasks {
    /// Logits (h, w) of each mask, by rows.
    pub low_res_logits: Vec<Vec<f32>>,
    /// Predicted IoU of each mask.
    pub iou_scores: Vec<f32>,
    /// Logit of "there is an object", where the model predicts one.
    pub object_score: Option<f32>,
}

/// Three masks for each prompt, or one without `multimask_output`, at the model's low resolution.
///
/// # Errors
/// As [`super::predict`], but prompts are not checked against the image.
pub fn decode(
    model: &dyn InteractiveModel,
    image: &InteractiveEmbedding,
    prompts: &[VisualPrompt],
    multimask_output: bool,
    run: &mut Run,
) -> Result<Vec<LowResMasks>> {
    let fallback = model.head_config().stability_fallback;
    let masks = match (multimask_output, fallback) {
        (true, _) => 1..NUM_MASKS,
        (false, true) => 0..NUM_MASKS,
        (false, false) => 0..1,
    };
    let mut answers = decode_wanted(model, image, prompts, masks, &|_| true, run)?;
    if !multimask_output && fallback {
        answers.iter_mut().for_each(keep_one);
    }
    Ok(answers)
}

/// One of the three masks of a prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct LowResMask {
    /// Which of the three it is.
    pub index: usize,
    /// Its logits (h, w), by rows.
    pub low_res_logits: Vec<f32>,
    /// Predicted IoU of the three.
    pub iou_scores: Vec<f32>,
    /// Logit of "there is an object", where the model predicts one.
    pub object_score: Option<f32>,
}

/// The mask of `index` of the three that [`decode`] gives with `multimask_output`, or the one of the
/// highest predicted IoU, the first of equals. The others are not drawn.
///
/// # Errors
/// As [`decode`]; [`Error::InvalidArgument`] for an index above 2.
pub fn decode_one(
    model: &dyn InteractiveModel,
    image: &InteractiveEmbedding,
    prompt: &VisualPrompt,
    index: Option<usize>,
    run: &mut Run,
) -> Result<LowResMask> {
    let (decoded, mut answers) = attend(model, image, &[prompt], 1..NUM_MASKS, run)?;
    let answer = answers.pop().map(|a| (a.iou_scores, a.object_score));
    let (iou_scores, object_score) = answer.unwrap_or_default();
    let index = match index {
        Some(index) if index < iou_scores.len() => index,
        Some(index) => {
            return Err(Error::argument(format!(
                "mask {index} of {}",
                iou_scores.len()
            )));
        }
        None => first_largest(&iou_scores, 0),
    };
    let masks = index + 1..index + 2;
    let logits = run.stage("draw", || model.draw(image, &decoded, masks))?;
    run.record("low_res_logits", &logits);
    let low_res_logits = download::<f32>(&logits)?;
    if low_res_logits.iter().any(is_nan) {
        return Err(Error::not_finite("the mask decoder's upscaling"));
    }
    Ok(LowResMask {
        index,
        low_res_logits,
        iou_scores,
        object_score,
    })
}

/// Those of `masks`, of the four in the decoder's order, whose predicted IoU is `wanted`. Masks of
/// prompts without any are not computed.
///
/// Prompts of one kind are decoded together, as many at a time as the device gains from.
pub(in crate::predict) fn decode_wanted(
    model: &dyn InteractiveModel,
    image: &InteractiveEmbedding,
    prompts: &[VisualPrompt],
    masks: Range<usize>,
    wanted: &dyn Fn(f32) -> bool,
    run: &mut Run,
) -> Result<Vec<LowResMasks>> {
    let mut kinds = BTreeMap::<(usize, bool, bool), Vec<usize>>::new();
    for (i, prompt) in prompts.iter().enumerate() {
        let (bbox, mask) = (prompt.bbox.is_some(), prompt.mask_logits.is_some());
        kinds
            .entry((prompt.points.len(), bbox, mask))
            .or_default()
            .push(i);
    }
    let batch = max_batch(model.head_config(), image.features.tokens.device());
    let mut answers = vec![None; prompts.len()];
    for indices in kinds.values().flat_map(|indices| indices.chunks(batch)) {
        let batch: Vec<&VisualPrompt> = indices.iter().map(|i| &prompts[*i]).collect();
        let decoded = decode_batch(model, image, &batch, masks.clone(), wanted, run)?;
        for (i, answer) in indices.iter().zip(decoded) {
            answers[*i] = Some(answer);
        }
    }
    Ok(answers.into_iter().flatten().collect())
}

/// Prompts of one kind.
fn decode_batch(
    model: &dyn InteractiveModel,
    image: &InteractiveEmbedding,
    prompts: &[&VisualPrompt],
    masks: Range<usize>,
    wanted: &dyn Fn(f32) -> bool,
    run: &mut Run,
) -> Result<Vec<LowResMasks>> {
    let (decoded, mut answers) = attend(model, image, prompts, masks.clone(), run)?;

    // Drawing is the expensive part that is left. Neighbors that have a wanted mask are drawn
    // together, since a run of prompts can be narrowed without a copy; the others not at all.
    let has_wanted = |answer: &LowResMasks| answer.iou_scores.iter().any(|iou| wanted(*iou));
    let is_drawn: Vec<bool> = answers.iter().map(has_wanted).collect();
    let mut start = 0;
    for same in is_drawn.chunk_by(|a, b| a == b) {
        if same[0] {
            let neighbors = decoded.narrow(start, same.len())?;
            let logits = run.stage("draw", || model.draw(image, &neighbors, masks.clone()))?;
            run.record("low_res_logits", &logits);
            let mut maps = download_rows::<f32>(&logits.flatten_to(1)?)?.into_iter();
            for answer in &mut answers[start..start + same.len()] {
                answer.low_res_logits = maps.by_ref().take(masks.len()).collect();
            }
        }
        start += same.len();
    }
    for answer in &mut answers {
        retain(answer, wanted);
        if answer.low_res_logits.iter().flatten().any(is_nan) {
            return Err(Error::not_finite("the mask decoder's upscaling"));
        }
    }
    Ok(answers)
}

/// What masks are drawn from, and everything about the answers but their masks: for each prompt the
/// scores of those of `masks`.
fn attend(
    model: &dyn InteractiveModel,
    image: &InteractiveEmbedding,
    prompts: &[&VisualPrompt],
    masks: Range<usize>,
    run: &mut Run,
) -> Result<(Decoded, Vec<LowResMasks>)> {
    let decoded = run.stage("attend", || model.attend(image, prompts))?;
    run.record("iou", &decoded.iou);
    // In one transfer: the IoUs of a prompt, then its object score if there is one.
    let mut scores = vec![decoded.iou.narrow(1, masks.start, masks.len())?];
    if let Some(objects) = &decoded.object_score {
        scores.push(objects.unsqueeze(1)?);
    }
    let rows = download_rows::<f32>(&Tensor::cat(&scores, 1)?)?;
    if rows.iter().flatten().any(is_nan) {
        return Err(match is_finite(&image.features.tokens)? {
            true => Error::not_finite("the mask decoder"),
            false => Error::not_finite("the image encoder"),
        });
    }
    let answer = |mut iou_scores: Vec<f32>| {
        let object_score = iou_scores.get(masks.len()).copied();
        iou_scores.truncate(masks.len());
        LowResMasks {
            low_res_logits: vec![],
            iou_scores,
            object_score,
        }
    };
    Ok((decoded, rows.into_iter().map(answer).collect()))
}

/// NaN or infinite.
fn is_nan(score: &f32) -> bool {
    !score.is_finite()
}

/// Keeps the masks whose predicted IoU is `wanted`.
fn retain(answer: &mut LowResMasks, wanted: &dyn Fn(f32) -> bool) {
    let kept: Vec<bool> = answer.iou_scores.iter().map(|iou| wanted(*iou)).collect();
    let mut keep = kept.iter();
    answer.low_res_logits.retain(|_| keep.next() == Some(&true));
    answer.iou_scores.retain(|iou| wanted(*iou));
}

/// Of all four masks, the first if it is stable, else the best of the others.
///
/// Follows `_dynamic_multimask_via_stability`,
/// <https://github.com/facebookresearch/sam3/blob/99d02f2/sam3/sam/mask_decoder.py#L266>.
fn keep_one(answer: &mut LowResMasks) {
    let kept = match stability(&answer.low_res_logits[0]) < STABILITY_THRESHOLD {
        true => first_largest(&answer.iou_scores, 1),
        false => 0,
    };
    answer.low_res_logits = vec![answer.low_res_logits.swap_remove(kept)];
    answer.iou_scores = vec![answer.iou_scores[kept]];
}

/// The share of a mask's pixels that a higher threshold keeps of those of a lower one.
fn stability(logits: &[f32]) -> f32 {
    let above = |threshold| logits.iter().filter(|v| **v > threshold).count() as f32;
    match above(-STABILITY_DELTA) {
        0. => 1.,
        low => above(STABILITY_DELTA) / low,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(first: Vec<f32>) -> LowResMasks {
        LowResMasks {
            low_res_logits: vec![first, vec![1.], vec![2.], vec![3.]],
            iou_scores: vec![0.9, 0.1, 0.5, 0.5],
            object_score: Some(0.),
        }
    }

    #[test]
    fn an_unstable_mask_gives_way_to_the_best_of_the_others() {
        let mut stable = answer(vec![4., -4., -0.05]);
        keep_one(&mut stable);
        assert_eq!(stable.low_res_logits, [[4., -4., -0.05]]);
        assert_eq!(stable.iou_scores, [0.9]);
        // 0.05 is not above the higher threshold, so 1 of 2 pixels stay.
        let mut unstable = answer(vec![4., -4., 0.05]);
        keep_one(&mut unstable);
        assert_eq!(unstable.low_res_logits, [[2.]]);
        assert_eq!(unstable.iou_scores, [0.5]);
        let mut empty = answer(vec![-1.; 3]);
        keep_one(&mut empty);
        assert_eq!(empty.iou_scores, [0.9]);
    }

    #[cfg(feature = "demo")]
    fn encoded() -> (crate::models::sam3::Sam3, InteractiveEmbedding) {
        use crate::image::Image;
        use crate::models::{LoadOptions, sam3::Sam3};

        let options = LoadOptions {
            interactive: true,
            ..LoadOptions::default()
        };
        let model = Sam3::load(&crate::weights::demo().unwrap(), &options).unwrap();
        let pixels = (0..90 * 60 * 3).map(|i| (i * 7 % 251) as u8).collect();
        let image = Image::from_rgb8(90, 60, pixels).unwrap();
        let image = model
            .encode_interactive(&image, &mut Run::default())
            .unwrap();
        (model, image)
    }

    #[cfg(feature = "demo")]
    #[test]
    fn one_mask_alone_is_the_same_as_among_three() {
        let ((model, image), run) = (encoded(), &mut Run::default());
        for prompt in [
            VisualPrompt::point(30., 20.),
            VisualPrompt::bbox([10., 10., 60., 50.]).and_not(80., 5.),
        ] {
            let three = decode(&model, &image, std::slice::from_ref(&prompt), true, run).unwrap();
            let three = &three[0];
            let best = decode_one(&model, &image, &prompt, None, run).unwrap();
            let highest = three.iou_scores.iter().copied().fold(f32::MIN, f32::max);
            assert_eq!(three.iou_scores[best.index], highest);
            for index in 0..3 {
                let one = decode_one(&model, &image, &prompt, Some(index), run).unwrap();
                assert_same(&one.low_res_logits, &three.low_res_logits[index]);
                assert_eq!(one.iou_scores, three.iou_scores);
                assert_eq!(one.object_score, three.object_score);
            }
            assert!(decode_one(&model, &image, &prompt, Some(3), run).is_err());
        }
    }

    /// To the last bit by the CPU's kernels; a GPU's products round by the size of a batch.
    #[cfg(feature = "demo")]
    fn assert_same(got: &[f32], want: &[f32]) {
        let tolerance = match crate::nn::on_gpu(&candle::Device::Cpu) {
            true => 1e-4,
            false => 0.,
        };
        assert_eq!(got.len(), want.len());
        for (got, want) in got.iter().zip(want) {
            assert!((got - want).abs() <= tolerance, "{got} for {want}");
        }
    }

    /// Leaving out masks by their predicted IoU changes nothing about the others.
    #[cfg(feature = "demo")]
    #[test]
    fn unwanted_masks_are_left_out_and_the_others_stay() {
        let ((model, image), run) = (encoded(), &mut Run::default());
        let point = |i: usize| VisualPrompt::point((i % 5 * 16) as f32, (i / 5 * 15) as f32);
        let prompts: Vec<VisualPrompt> = (0..20).map(point).collect();
        let mut all = decode(&model, &image, &prompts, true, run).unwrap();
        let mut scores: Vec<f32> = all.iter().flat_map(|m| m.iou_scores.clone()).collect();
        scores.sort_by(f32::total_cmp);
        for threshold in [0., scores[scores.len() / 2], scores[scores.len() - 2], 2.] {
            let wanted = |iou: f32| iou > threshold;
            let masks = 1..NUM_MASKS;
            let some = decode_wanted(&model, &image, &prompts, masks, &wanted, run).unwrap();
            all.iter_mut().for_each(|answer| retain(answer, &wanted));
            assert_eq!(some.len(), all.len());
            for (some, all) in some.iter().zip(&all) {
                assert_eq!(some.iou_scores, all.iou_scores);
                assert_eq!(some.object_score, all.object_score);
                assert_same(&some.low_res_logits.concat(), &all.low_res_logits.concat());
            }
        }
    }
}
