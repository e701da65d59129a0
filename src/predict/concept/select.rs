//! Which of the found instances are kept.

use super::{Options, Prediction};
use crate::mask::{Mask, nms};

/// The queries above the threshold in their order, at most `max` of them.
pub(in crate::predict) fn keep(scores: &[f32], threshold: f32, max: Option<usize>) -> Vec<u32> {
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

/// Drops instances that overlap a better one of any of the prompts.
pub(super) fn suppress(predictions: &mut [Prediction], iou: f32) {
    let all = predictions.iter().flat_map(|p| &p.instances);
    let (masks, scores): (Vec<&Mask>, Vec<f32>) = all.map(|i| (&i.mask, i.score)).unzip();
    let mut is_kept = vec![false; masks.len()];
    for index in nms::mask_nms(&masks, &scores, iou) {
        is_kept[index] = true;
    }
    let mut is_kept = is_kept.into_iter();
    for prediction in predictions {
        prediction
            .instances
            .retain(|_| is_kept.next().unwrap_or(true));
    }
}

/// Keeps what the options ask for, of answers that were not selected from yet.
pub(in crate::predict) fn select(predictions: &mut [Prediction], options: &Options) {
    for prediction in predictions.iter_mut() {
        if let Some(iou) = options.nms {
            suppress(std::slice::from_mut(prediction), iou);
        }
        let scores: Vec<f32> = prediction.instances.iter().map(|i| i.score).collect();
        let kept = keep(&scores, f32::NEG_INFINITY, options.max_instances);
        let mut index = 0..;
        prediction
            .instances
            .retain(|_| index.next().is_some_and(|i| kept.contains(&i)));
    }
    if let (Some(iou), true) = (options.nms, options.nms_across_prompts) {
        suppress(predictions, iou);
    }
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
}
