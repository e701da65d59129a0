//! The frames that a frame attends to.
//!
//! Follows `_prepare_memory_conditioned_features`,
//! <https://github.com/facebookresearch/sam3/blob/99d02f2/sam3/model/sam3_tracker_base.py#L559>,
//! `frame_filter`, L517, and `select_closest_cond_frames`,
//! <https://github.com/facebookresearch/sam3/blob/99d02f2/sam3/model/sam3_tracker_utils.py#L271>.
//!
//! # Easy to get wrong
//! - With a quality threshold the rank among the good frames stands for the distance in time, for
//!   memories and for pointers.
//! - The neighbour is among them whatever its quality, even if it has no memory of its own.
//! - Going forward, frame 0 is never looked at as an ordinary frame.
//! - A conditioning frame that was not chosen counts as an ordinary one.
//! - In SAM 3.1 a conditioning frame at distance d of 1 to 6 has row 6 - d, which is that of the
//!   ordinary frame at distance 7 - d, and any other row 6. Its pointer counts ahead of it, too.

use std::collections::BTreeMap;

/// Limits on what a frame attends to.
#[derive(Debug, Clone, PartialEq)]
pub struct Rules {
    /// Rows of the temporal embedding: one for conditioning frames, one for each recent frame.
    pub num_memories: usize,
    /// Conditioning frames that a frame attends to at most; all without a limit.
    pub max_cond_frames: Option<usize>,
    /// Frames that object pointers come from at most, the frame itself included.
    pub max_pointers: usize,
    /// Only frames whose quality is above this are recent ones; all without it.
    pub min_quality: Option<f32>,
    /// Conditioning frames are placed in time by their distance, and those ahead have a pointer.
    pub placed_conditioning: bool,
}

/// The frame that attends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Its number.
    pub frame: usize,
    /// Frames of the video; `usize::MAX` for a stream.
    pub num_frames: usize,
    /// Tracking goes from later to earlier frames.
    pub reverse: bool,
}

impl Position {
    /// The frame `distance` before this one in the direction of tracking, if the video has it.
    fn back(self, distance: usize) -> Option<usize> {
        match self.reverse {
            false => self.frame.checked_sub(distance),
            true => Some(self.frame.checked_add(distance)?).filter(|t| *t < self.num_frames),
        }
    }

    /// How far back `frame` is; negative ahead.
    fn offset(self, frame: usize) -> i64 {
        let ahead = frame as i64 - self.frame as i64;
        if self.reverse { ahead } else { -ahead }
    }
}

/// What a frame attends to, in the order of the tokens.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// Frames whose memory is attended to, and the row of the temporal embedding.
    pub memories: Vec<(usize, usize)>,
    /// Frames whose pointer is attended to, and how far back it counts as.
    pub pointers: Vec<(usize, i64)>,
}

impl Rules {
    /// Chooses among the frames of `cond`, in the order in which they became conditioning frames,
    /// and the `ordinary` ones, whose quality is unknown for frames that were prompted once.
    pub fn select<E>(
        &self,
        at: Position,
        cond: &[usize],
        ordinary: &BTreeMap<usize, E>,
        quality: impl Fn(&E) -> Option<f32>,
    ) -> Selection {
        let chosen = self.closest_cond_frames(at.frame, cond);
        let is_known =
            |t: usize| ordinary.contains_key(&t) || (cond.contains(&t) && !chosen.contains(&t));
        let recent = self.recent(at, ordinary, quality);
        let rank_of = |rank: usize| recent.get(rank - 1).copied().flatten();

        let last_row = self.num_memories - 1;
        let cond_row = |t: usize| match usize::try_from(at.offset(t)) {
            Ok(distance) if self.placed_conditioning && (1..=last_row).contains(&distance) => {
                last_row - distance
            }
            _ => last_row,
        };
        let mut memories: Vec<_> = chosen.iter().map(|t| (*t, cond_row(*t))).collect();
        for rank in (1..self.num_memories).rev() {
            if let Some(t) = rank_of(rank).filter(|t| is_known(*t)) {
                memories.push((t, rank - 1));
            }
        }
        let mut pointers: Vec<_> = chosen
            .iter()
            .map(|t| (*t, at.offset(*t)))
            .filter(|(_, offset)| *offset >= 0 || self.placed_conditioning)
            .map(|(t, offset)| (t, offset.abs()))
            .collect();
        let ranks = match self.min_quality {
            None => recent.len(),
            Some(_) => recent.len().saturating_sub(1), // the last of the list has no pointer
        };
        for rank in 1..self.max_pointers.min(at.num_frames).min(ranks + 1) {
            if let Some(t) = rank_of(rank).filter(|t| is_known(*t)) {
                pointers.push((t, rank as i64));
            }
        }
        Selection { memories, pointers }
    }

    /// The nearest conditioning frame before, the nearest at or after, then by distance.
    fn closest_cond_frames(&self, frame: usize, cond: &[usize]) -> Vec<usize> {
        let Some(max) = self.max_cond_frames.filter(|max| *max < cond.len()) else {
            return cond.to_vec();
        };
        let before = cond.iter().filter(|t| **t < frame).max();
        let after = cond.iter().filter(|t| **t >= frame).min();
        let mut chosen: Vec<usize> = before.into_iter().chain(after).copied().collect();
        let mut others: Vec<usize> = cond.to_vec();
        others.retain(|t| !chosen.contains(t));
        others.sort_by_key(|t| t.abs_diff(frame)); // stable
        chosen.extend(others);
        chosen.truncate(max);
        chosen
    }

    /// The frames that count as 1, 2, … back.
    fn recent<E>(
        &self,
        at: Position,
        ordinary: &BTreeMap<usize, E>,
        quality: impl Fn(&E) -> Option<f32>,
    ) -> Vec<Option<usize>> {
        let Some(min_quality) = self.min_quality else {
            let length = self.max_pointers.max(self.num_memories);
            return (1..length).map(|distance| at.back(distance)).collect();
        };
        let first = if at.reverse { at.num_frames - 1 } else { 0 };
        if at.frame == first {
            return vec![];
        }
        let is_good = |(t, entry): (&usize, &E)| {
            quality(entry)
                .is_some_and(|q| q > min_quality)
                .then_some(*t)
        };
        let limit = self.max_pointers.min(at.num_frames) - 1;
        let good: Vec<usize> = match at.reverse {
            false => {
                let earlier = ordinary.range(1..at.frame.max(1)).rev();
                earlier.filter_map(is_good).take(limit).collect()
            }
            true => {
                let later = ordinary.range(at.frame + 1..);
                later.filter_map(is_good).take(limit).collect()
            }
        };
        let neighbour = at.back(1);
        let missing = neighbour.is_none_or(|t| !good.contains(&t));
        let appended = missing.then_some(neighbour).into_iter();
        appended.chain(good.into_iter().map(Some)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Deserialize)]
    struct Case {
        memory_selection: bool,
        frame: usize,
        num_frames: usize,
        reverse: bool,
        cond: Vec<usize>,
        non_cond: BTreeMap<usize, Option<f32>>,
        expected: Expected,
    }

    #[derive(Deserialize)]
    struct Expected {
        cond: Vec<(usize, usize)>,
        recent: Vec<(usize, usize)>,
        pointers: Vec<(usize, i64)>,
    }

    #[derive(Deserialize)]
    struct Cases {
        cases: Vec<Case>,
    }

    fn rules(memory_selection: bool) -> Rules {
        Rules {
            num_memories: 7,
            max_cond_frames: Some(4),
            max_pointers: 16,
            min_quality: memory_selection.then_some(0.01),
            placed_conditioning: false,
        }
    }

    #[test]
    fn the_official_frames_are_chosen_in_their_order() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/golden/memory_selection.json"
        );
        let cases: Cases = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        assert_eq!(cases.cases.len(), 70);
        for (i, case) in cases.cases.into_iter().enumerate() {
            let at = Position {
                frame: case.frame,
                num_frames: case.num_frames,
                reverse: case.reverse,
            };
            let rules = rules(case.memory_selection);
            let got = rules.select(at, &case.cond, &case.non_cond, |quality| *quality);
            let want = Selection {
                memories: [case.expected.cond, case.expected.recent].concat(),
                pointers: case.expected.pointers,
            };
            assert_eq!(got, want, "case {i}: {at:?}");
        }
    }

    #[test]
    fn conditioning_frames_of_sam31_are_placed_by_their_distance_on_either_side() {
        let rules = Rules {
            placed_conditioning: true,
            ..rules(false)
        };
        let ordinary: BTreeMap<usize, ()> = (1..8).map(|t| (t, ())).collect();
        let select = |frame| {
            let at = Position {
                frame,
                num_frames: 30,
                reverse: false,
            };
            rules.select(at, &[0, 20], &ordinary, |()| None)
        };
        let near = select(3);
        assert_eq!(near.memories, [(0, 3), (20, 6), (1, 1), (2, 0)]);
        assert_eq!(near.pointers, [(0, 3), (20, 17), (2, 1), (1, 2)]);
        assert_eq!(select(7).memories[..3], [(0, 6), (20, 6), (1, 5)]);
    }

    #[test]
    fn a_stream_chooses_like_a_video_of_any_length_going_forward() {
        let ordinary: BTreeMap<usize, Option<f32>> = (1..30).map(|t| (t, Some(0.5))).collect();
        let select = |num_frames| {
            let at = Position {
                frame: 30,
                num_frames,
                reverse: false,
            };
            rules(true).select(at, &[0], &ordinary, |quality| *quality)
        };
        assert_eq!(select(usize::MAX), select(31));
        assert_eq!(select(usize::MAX).memories.len(), 7);
    }
}
