//! Greedy non-maximum suppression.

use super::{BoxXyxy, Extent, Mask};

/// Keeps the best of each group of masks that overlap by more than `iou_threshold`.
///
/// Goes through the masks from the highest score to the lowest (equal scores: the earlier one
/// first) and drops each that overlaps a kept one by an IoU strictly greater than the threshold.
/// Returns the kept indices by falling score; sort them for the order of the input. Only the first
/// `masks.len().min(scores.len())` entries are looked at.
pub fn mask_nms(masks: &[&Mask], scores: &[f32], iou_threshold: f32) -> Vec<usize> {
    let areas: Vec<usize> = masks.iter().map(|mask| mask.area()).collect();
    let extents: Vec<Option<Extent>> = masks.iter().map(|mask| mask.extent()).collect();
    greedy(masks.len().min(scores.len()), scores, |a, b| {
        // The IoU is at most the ratio of the areas, and that is known.
        let (small, large) = (areas[a].min(areas[b]), areas[a].max(areas[b]));
        if small as f32 <= iou_threshold * large as f32 {
            return false;
        }
        // Most objects of a large picture lie apart.
        let apart = match (&extents[a], &extents[b]) {
            (Some(a), Some(b)) => a.intersection(b).is_none(),
            _ => true,
        };
        let iou = if apart { 0.0 } else { masks[a].iou(masks[b]) };
        iou > iou_threshold
    })
}

/// As [`mask_nms`], by the intersection over the smaller area.
pub fn mask_nms_by_smaller(masks: &[&Mask], scores: &[f32], threshold: f32) -> Vec<usize> {
    greedy(masks.len().min(scores.len()), scores, |a, b| {
        masks[a].iom(masks[b]) > threshold
    })
}

/// As [`mask_nms`], for boxes.
pub fn box_nms(boxes: &[BoxXyxy], scores: &[f32], iou_threshold: f32) -> Vec<usize> {
    greedy(boxes.len().min(scores.len()), scores, |a, b| {
        boxes[a].iou(boxes[b]) > iou_threshold
    })
}

fn greedy(count: usize, scores: &[f32], overlap: impl Fn(usize, usize) -> bool) -> Vec<usize> {
    let mut by_score: Vec<usize> = (0..count).collect();
    by_score.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    let mut kept: Vec<usize> = Vec::new();
    for index in by_score {
        if !kept.iter().any(|&better| overlap(better, index)) {
            kept.push(index);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_of_overlapping_boxes_stays() {
        let boxes = [
            BoxXyxy::from([0.0, 0.0, 10.0, 10.0]),
            BoxXyxy::from([1.0, 0.0, 11.0, 10.0]),
            BoxXyxy::from([50.0, 0.0, 60.0, 10.0]),
        ];
        assert_eq!(box_nms(&boxes, &[0.5, 0.9, 0.7], 0.5), [1, 2]);
        assert_eq!(box_nms(&boxes, &[0.5, 0.9, 0.7], 0.9), [1, 2, 0]);
    }

    #[test]
    fn a_dropped_box_drops_nobody() {
        // 1 overlaps 0 and 2, but 0 and 2 do not overlap each other enough.
        let boxes = [0.0, 4.0, 8.0].map(|x| BoxXyxy::from([x, 0.0, x + 10.0, 10.0]));
        assert_eq!(box_nms(&boxes, &[0.9, 0.8, 0.7], 0.4), [0, 2]);
    }

    #[test]
    fn an_iou_equal_to_the_threshold_is_kept() {
        let half = BoxXyxy::from([0.0, 0.0, 5.0, 10.0]);
        let whole = BoxXyxy::from([0.0, 0.0, 10.0, 10.0]);
        assert_eq!(box_nms(&[whole, half], &[0.9, 0.8], 0.5), [0, 1]);
        assert_eq!(box_nms(&[whole, half], &[0.9, 0.8], 0.49), [0]);
    }

    #[test]
    fn equal_scores_keep_the_earlier() {
        let b = BoxXyxy::from([0.0, 0.0, 5.0, 5.0]);
        assert_eq!(box_nms(&[b, b, b], &[0.5, 0.5, 0.5], 0.5), [0]);
    }

    #[test]
    fn masks_are_compared_by_pixels_and_not_by_boxes() {
        // Two triangles of one square: equal boxes, hardly any common pixel.
        let upper = Mask::from_fn(100, 100, |x, y| x > y);
        let lower = Mask::from_fn(100, 100, |x, y| x < y);
        let nearly_upper = Mask::from_fn(100, 100, |x, y| x > y + 2);
        let kept = mask_nms(&[&nearly_upper, &lower, &upper], &[0.6, 0.7, 0.8], 0.5);
        assert_eq!(kept, [2, 1]);
    }

    #[test]
    fn nothing_in_gives_nothing_out() {
        assert!(mask_nms(&[], &[], 0.5).is_empty());
    }
}
