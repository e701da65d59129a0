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
//!
//! In SAM 3.1, see `_associate_det_trk_compilable`,
//! <https://github.com/facebookresearch/sam3/blob/96914d2/sam3/model/sam3_video_base.py#L163>,
//! overlaps are shares of the smaller mask, and what overlaps more than one by much takes over no
//! mask.

use std::collections::BTreeMap;

use super::Options;
use crate::mask::{Mask, nms};
use crate::models::tracker::{Generation, first_largest};

/// One object that the detector found on a frame.
#[derive(Debug, Clone)]
pub(crate) struct Detection {
    /// Its score in 0..1.
    pub score: f32,
    /// Low-resolution mask logits, by rows.
    pub logits: Vec<f32>,
    /// Where they are above 0.
    pub mask: Mask,
    /// The centre of its box is too near to the edge of the frame.
    pub is_at_border: bool,
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

/// By how much two masks overlap.
fn overlap(generation: Generation, a: &Mask, b: &Mask) -> f32 {
    match generation {
        Generation::Sam31 => a.iom(b),
        Generation::Sam2 | Generation::Sam3 => a.iou(b),
    }
}

/// The places of the detections that overlap no better one; of equal ones the later is better.
pub(crate) fn suppress(
    detections: &[Detection],
    threshold: f32,
    generation: Generation,
) -> Vec<usize> {
    let (masks, scores): (Vec<_>, Vec<_>) =
        detections.iter().rev().map(|d| (&d.mask, d.score)).unzip();
    let last = detections.len().saturating_sub(1);
    let kept = match generation {
        Generation::Sam31 => nms::mask_nms_by_smaller(&masks, &scores, threshold),
        Generation::Sam2 | Generation::Sam3 => nms::mask_nms(&masks, &scores, threshold),
    };
    let mut kept: Vec<usize> = kept.into_iter().map(|i| last - i).collect();
    kept.sort_unstable();
    kept
}

/// As [`suppress`], as the original of SAM 3.1 does on the frame of the prompt: overlaps are shares of
/// the better mask, and a detection that is dropped drops others.
pub(crate) fn suppress_all(detections: &[Detection], threshold: f32) -> Vec<usize> {
    let share = |better: &Mask, other: &Mask| {
        better.intersection(other) as f32 / better.area().max(1) as f32
    };
    let is_better = |i: usize, j: usize| {
        let (a, b) = (detections[i].score, detections[j].score);
        a > b || (a == b && i > j)
    };
    let all = || 0..detections.len();
    let is_dropped = |j: usize| {
        all()
            .any(|i| is_better(i, j) && share(&detections[i].mask, &detections[j].mask) > threshold)
    };
    all().filter(|j| !is_dropped(*j)).collect()
}

/// Matches detections with the masks of tracks.
pub(crate) fn associate(
    detections: &[Detection],
    tracks: &[Mask],
    options: &Options,
    generation: Generation,
) -> Association {
    let mut found = Association::default();
    let overlap_with = |detection: &Detection| -> Vec<f32> {
        let of = |track: &Mask| match detection.is_at_border {
            true => 0.,
            false => overlap(generation, track, &detection.mask),
        };
        tracks.iter().map(of).collect()
    };
    let overlaps: Vec<Vec<f32>> = detections.iter().map(overlap_with).collect();
    let clear = match generation {
        Generation::Sam31 => unambiguous(&overlaps, tracks.len(), options.recondition_iou),
        Generation::Sam2 | Generation::Sam3 => overlaps.clone(),
    };
    for (k, detection) in detections.iter().enumerate() {
        let belongs = |overlaps: &[f32]| -> Vec<usize> {
            let all = 0..tracks.len();
            all.filter(|i| overlaps[*i] >= options.match_iou).collect()
        };
        let is_new = match tracks.is_empty() {
            true => {
                let is_kept = !detection.is_at_border || options.like_official;
                is_kept && detection.score >= options.first_threshold
            }
            false => {
                let is_alone = belongs(&overlaps[k]).is_empty();
                is_alone && !detection.is_at_border && detection.score >= options.new_threshold
            }
        };
        if is_new {
            found.new.push(k);
        }
        let track = first_largest(&clear[k], 0);
        if let Some(overlap) = clear[k].get(track)
            && !is_new
            && !detection.is_at_border
            && detection.score >= options.recondition_score
            && *overlap >= options.recondition_iou
        {
            match found.recondition.iter_mut().find(|(t, _)| *t == track) {
                Some((_, detection)) => *detection = k,
                None => found.recondition.push((track, k)),
            }
        }
        let matched = match options.like_official {
            true => belongs(&clear[k]),
            false => belongs(&overlaps[k]),
        };
        if !matched.is_empty() {
            found.tracks_of.insert(k, matched);
        }
    }
    let is_unmatched = |i: &usize| {
        let mut of_track = overlaps.iter().map(|overlaps| overlaps[*i]);
        !tracks[*i].is_empty() && of_track.all(|overlap| overlap < options.unmatched_iou)
    };
    found.unmatched = (0..tracks.len()).filter(is_unmatched).collect();
    found
}

/// Overlaps, by detection and track, that are 0 where either overlaps more than one by `much`.
fn unambiguous(overlaps: &[Vec<f32>], tracks: usize, much: f32) -> Vec<Vec<f32>> {
    let of_detection =
        |overlaps: &Vec<f32>| overlaps.iter().filter(|overlap| **overlap >= much).count();
    let of_track = |i: usize| {
        overlaps
            .iter()
            .filter(|overlaps| overlaps[i] >= much)
            .count()
    };
    let detections_of: Vec<usize> = (0..tracks).map(of_track).collect();
    let clear = |row: &Vec<f32>| {
        let is_clear = of_detection(row) <= 1;
        let clear = |(overlap, detections): (&f32, &usize)| match is_clear && *detections <= 1 {
            true => *overlap,
            false => 0.,
        };
        row.iter().zip(&detections_of).map(clear).collect()
    };
    overlaps.iter().map(clear).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn detection(x: std::ops::Range<usize>, score: f32) -> Detection {
        Detection {
            score,
            logits: vec![],
            mask: bar(x),
            is_at_border: false,
        }
    }

    fn bar(x: std::ops::Range<usize>) -> Mask {
        Mask::from_fn(40, 4, |at, _| x.contains(&at))
    }

    fn associate(detections: &[Detection], tracks: &[Mask], options: &Options) -> Association {
        super::associate(detections, tracks, options, Generation::Sam31)
    }

    #[test]
    fn what_lies_inside_a_track_is_not_new_to_sam31() {
        let detections = [detection(4..8, 0.9)];
        let tracks = [bar(0..40)];
        let options = Options::sam31();
        assert!(associate(&detections, &tracks, &options).new.is_empty());
        let sam3 = Options {
            match_iou: 0.2,
            ..Options::default()
        };
        let found = super::associate(&detections, &tracks, &sam3, Generation::Sam3);
        assert_eq!(found.new, [0]);
    }

    #[test]
    fn two_tracks_of_one_detection_take_over_nothing_and_belong_to_it() {
        let detections = [detection(0..10, 0.9), detection(20..30, 0.9)];
        let tracks = [bar(0..10), bar(1..11), bar(20..30)];
        let found = associate(&detections, &tracks, &Options::sam31());
        assert_eq!(found.recondition, [(2, 1)]);
        assert_eq!(
            found.tracks_of,
            BTreeMap::from([(0, vec![0, 1]), (1, vec![2])])
        );
        let official = Options {
            like_official: true,
            ..Options::sam31()
        };
        let found = associate(&detections, &tracks, &official);
        assert_eq!(found.tracks_of, BTreeMap::from([(1, vec![2])]));
    }

    #[test]
    fn a_detection_at_the_border_is_born_only_as_officially_and_before_all_others() {
        let mut detections = [detection(0..4, 0.9), detection(20..30, 0.6)];
        detections[0].is_at_border = true;
        let options = Options::sam31();
        let official = Options {
            like_official: true,
            ..options.clone()
        };
        assert!(associate(&detections, &[], &options).new.is_empty());
        assert_eq!(associate(&detections, &[], &official).new, [0]);
        assert!(
            associate(&detections, &[bar(0..40)], &official)
                .new
                .is_empty()
        );
    }

    #[test]
    fn a_detection_that_is_dropped_drops_others_only_on_the_frame_of_the_prompt() {
        // each overlaps the next by half
        let detections = [
            detection(0..10, 0.9),
            detection(5..15, 0.8),
            detection(10..20, 0.7),
        ];
        assert_eq!(suppress(&detections, 0.1, Generation::Sam31), [0, 2]);
        assert_eq!(suppress_all(&detections, 0.1), [0]);
    }
}
