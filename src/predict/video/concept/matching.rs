//! Which detection belongs to which track.
//!
//! Follows `_associate_det_trk`,
//! <https://github.com/facebookresearch/sam3/blob/99d02f2/sam3/model/sam3_video_base.py#L1161>.
//!
//! # Easy to get wrong
//! - A track may have several detections and a detection several tracks.
//! - Matched and unmatched are different thresholds: between them a track is neither.
//! - A track without any pixel is neither, too.
//! - Without any track every detection is new, whatever its score.

use std::collections::BTreeMap;

use super::Options;
use crate::mask::{Mask, nms};

/// One object that the detector found on a frame.
#[derive(Debug, Clone)]
pub(crate) struct Detection {
    /// Its score in 0..1.
    pub score: f32,
    /// Low-resolution mask logits, by rows.
    pub logits: Vec<f32>,
    /// Where they are above 0.
    pub mask: Mask,
}

/// Which detections and tracks belong together; both are counted from 0.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Association {
    /// Detections that become objects.
    pub new: Vec<usize>,
    /// Tracks that no detection covers enough.
    pub unmatched: Vec<usize>,
    /// Tracks of each detection that has any.
    pub tracks_of: BTreeMap<usize, Vec<usize>>,
    /// Track and the sure detection that may replace its mask, in the order of the detections in
    /// which tracks first got one.
    pub recondition: Vec<(usize, usize)>,
}

/// The places of the detections that overlap no better one; of equal ones the later is better.
pub(crate) fn suppress(detections: &[Detection], iou: f32) -> Vec<usize> {
    let (masks, scores): (Vec<_>, Vec<_>) =
        detections.iter().rev().map(|d| (&d.mask, d.score)).unzip();
    let last = detections.len().saturating_sub(1);
    let kept = nms::mask_nms(&masks, &scores, iou).into_iter();
    let mut kept: Vec<usize> = kept.map(|i| last - i).collect();
    kept.sort_unstable();
    kept
}

/// Matches detections with the masks of tracks.
pub(crate) fn associate(
    detections: &[Detection],
    tracks: &[Mask],
    options: &Options,
) -> Association {
    let mut found = Association::default();
    let has_pixels: Vec<bool> = tracks.iter().map(|mask| !mask.is_empty()).collect();
    let mut best_iou = vec![0f32; tracks.len()];
    for (k, detection) in detections.iter().enumerate() {
        let ious: Vec<f32> = tracks
            .iter()
            .map(|mask| mask.iou(&detection.mask))
            .collect();
        for (best, iou) in best_iou.iter_mut().zip(&ious) {
            *best = best.max(*iou);
        }
        let matched: Vec<usize> = (0..tracks.len())
            .filter(|i| ious[*i] >= options.match_iou)
            .collect();
        let is_new = matched.is_empty() && detection.score >= options.new_threshold;
        if is_new || tracks.is_empty() {
            found.new.push(k);
        }
        let mut best = None;
        for (i, iou) in ious.iter().enumerate() {
            if best.is_none_or(|(_, highest)| *iou > highest) {
                best = Some((i, *iou));
            }
        }
        if let Some((track, iou)) = best
            && !is_new
            && detection.score >= options.recondition_score
            && iou >= options.recondition_iou
        {
            match found.recondition.iter_mut().find(|(t, _)| *t == track) {
                Some((_, detection)) => *detection = k,
                None => found.recondition.push((track, k)),
            }
        }
        if !matched.is_empty() {
            found.tracks_of.insert(k, matched);
        }
    }
    found.unmatched = (0..tracks.len())
        .filter(|i| has_pixels[*i] && best_iou[*i] < options.unmatched_iou)
        .collect();
    found
}
