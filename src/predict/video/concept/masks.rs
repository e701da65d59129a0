//! What becomes of tracked masks before they are remembered and shown.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::mask::{Mask, regions};

/// Logit of the pixels in a filled hole; that of removed islands is the negative.
const FILLED: f32 = 0.1;
/// Logits of a mask that is hidden.
const HIDDEN: f32 = -10.;

/// A low-resolution map of logits and where they are above 0.
pub(crate) fn cut(logits: &[f32], side: usize) -> Mask {
    Mask::from_fn(side, logits.len() / side.max(1), |x, y| {
        logits[y * side + x] > 0.
    })
}

/// Fills small holes of a mask, then takes its small islands out: those of at most `max_area` pixels
/// and half of the mask.
///
/// Follows `fill_holes_in_mask_scores`,
/// <https://github.com/facebookresearch/sam3/blob/99d02f2/sam3/model/sam3_tracker_utils.py#L370>.
pub(crate) fn fill(logits: &mut [f32], side: usize, max_area: usize) {
    if max_area == 0 {
        return;
    }
    let before = cut(logits, side);
    let mut filled = before.clone();
    regions::fill_holes(&mut filled, max_area);
    let mut cleaned = filled.clone();
    regions::remove_islands(&mut cleaned, max_area.min(filled.area() / 2));
    for (i, logit) in logits.iter_mut().enumerate() {
        let (x, y) = (i % side, i / side);
        if filled.get(x, y) && !before.get(x, y) {
            *logit = FILLED;
        }
        if filled.get(x, y) && !cleaned.get(x, y) {
            *logit = -FILLED;
        }
    }
}

/// A frame after all others.
const ALWAYS: usize = 100_000;

/// When each object was last hidden.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Occlusion {
    last: BTreeMap<u32, usize>,
}

impl Occlusion {
    /// Hides, of two objects whose masks overlap by `iou`, the one that was hidden later, and
    /// remembers which objects are not visible on this frame. The places of those that are hidden.
    /// Objects that are `leaving` count as hidden after all others.
    ///
    /// Follows `_suppress_overlapping_based_on_recent_occlusion`,
    /// <https://github.com/facebookresearch/sam3/blob/99d02f2/sam3/model/sam3_video_base.py#L820>.
    ///
    /// Easy to get wrong: the object that stays must have been hidden once; going backward the other
    /// one need not.
    pub(crate) fn update(
        &mut self,
        ids: &[u32],
        masks: &[Mask],
        iou: f32,
        (frame, reverse): (usize, bool),
        leaving: &[u32],
    ) -> Vec<usize> {
        let last = |id: &u32| match leaving.contains(id) {
            true => Some(ALWAYS),
            false => self.last.get(id).copied(),
        };
        let last: Vec<Option<usize>> = ids.iter().map(last).collect();
        let gives_way = |i: usize, other: usize| {
            // `None` is before all frames
            last[other].is_some()
                && if reverse {
                    last[i] < last[other]
                } else {
                    last[i] > last[other]
                }
        };
        let mut hidden = vec![];
        for i in 0..ids.len() {
            let overlaps = |j: &usize| masks[i].iou(&masks[*j]) >= iou;
            let mut others = (0..ids.len()).filter(|j| *j != i && gives_way(i, *j));
            if others.any(|j| overlaps(&j)) {
                hidden.push(i);
            }
        }
        self.last = ids
            .iter()
            .enumerate()
            .filter_map(|(i, id)| match masks[i].is_empty() || hidden.contains(&i) {
                true => Some((*id, frame)),
                false => last[i].map(|last| (*id, last)),
            })
            .collect();
        hidden
    }
}

/// Hides a mask.
pub(crate) fn hide(logits: &mut [f32]) {
    logits.fill(HIDDEN);
}

/// Hides masks, at the size of the memory encoder's, that keep less than `min_share` of their pixels
/// where each belongs to the object with the highest logit. Whether each is still visible.
///
/// Follows `_suppress_object_pw_area_shrinkage`,
/// <https://github.com/facebookresearch/sam3/blob/99d02f2/sam3/model/sam3_tracking_predictor.py#L1332>.
pub(crate) fn hide_covered(maps: &mut [Vec<f32>], min_share: f32) -> Vec<bool> {
    let pixels = maps.first().map_or(0, Vec::len);
    let mut kept = vec![0usize; maps.len()];
    let mut areas = vec![0usize; maps.len()];
    for p in 0..pixels {
        let mut owner = 0;
        for (i, map) in maps.iter().enumerate() {
            areas[i] += usize::from(map[p] > 0.);
            if map[p] > maps[owner][p] {
                owner = i;
            }
        }
        kept[owner] += usize::from(maps[owner][p] > 0.);
    }
    for (i, map) in maps.iter_mut().enumerate() {
        if (kept[i] as f32 / areas[i].max(1) as f32) < min_share {
            map.iter_mut().for_each(|logit| *logit = logit.min(HIDDEN));
        }
    }
    maps.iter()
        .map(|map| map.iter().any(|logit| *logit > 0.))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logits(rows: &[&str]) -> Vec<f32> {
        let pixels = rows.iter().flat_map(|row| row.bytes());
        pixels.map(|c| if c == b'#' { 5. } else { -5. }).collect()
    }

    #[test]
    fn small_holes_are_filled_and_then_small_islands_go() {
        let mut map = logits(&["####....", "#.##...#", "####....", "####...."]);
        fill(&mut map, 8, 1);
        assert_eq!(map[8 + 1], FILLED);
        assert_eq!(map[8 + 7], -FILLED);
        assert_eq!((map[0], map[7]), (5., -5.));
    }

    #[test]
    fn an_island_that_is_most_of_the_mask_stays() {
        let mut map = logits(&["##......", "........", "........", "........"]);
        let before = map.clone();
        fill(&mut map, 8, 16);
        assert_eq!(map, before);
    }

    #[test]
    fn the_object_that_was_hidden_later_is_hidden_again() {
        let same = Mask::from_fn(4, 4, |x, _| x < 2);
        let empty = Mask::new(4, 4);
        let ids = [5, 6];
        let mut occlusion = Occlusion::default();
        let both = [same.clone(), same.clone()];
        assert!(
            occlusion
                .update(&ids, &both, 0.7, (0, false), &[])
                .is_empty()
        );
        occlusion.update(&ids, &[empty.clone(), same.clone()], 0.7, (1, false), &[]);
        // 6 was never hidden, so nothing is known about who is in front
        assert!(
            occlusion
                .update(&ids, &both, 0.7, (2, false), &[])
                .is_empty()
        );
        occlusion.update(&ids, &[same.clone(), empty], 0.7, (3, false), &[]);
        assert_eq!(occlusion.update(&ids, &both, 0.7, (4, false), &[]), [1]);
    }

    #[test]
    fn a_mask_that_is_covered_is_not_visible() {
        let front = logits(&["####", "####"]);
        let mut behind: Vec<f32> = front.iter().map(|v| v / 2.).collect();
        behind[0] = 9.; // one of eight pixels is in front
        let mut maps = [front.clone(), behind];
        assert_eq!(hide_covered(&mut maps, 0.3), [true, false]);
        assert_eq!(maps[0], front);
        assert!(maps[1].iter().all(|logit| *logit <= HIDDEN));
    }
}
