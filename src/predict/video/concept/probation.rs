//! Which young objects are removed again.
//!
//! Follows `_process_hotstart`,
//! <https://github.com/facebookresearch/sam3/blob/99d02f2/sam3/model/sam3_video_base.py#L1312>.
//!
//! # Easy to get wrong
//! - Counts are never reset, neither by a match nor by a change of direction.
//! - Every other object of a detection is a duplicate of the one that was seen first; backward of
//!   the one that was seen first on that way, which is the one born last. In SAM 3.1 it is one of
//!   every object that was seen before it, and of none that was first seen on the same frame.
//! - In SAM 3.1 an object is not shown before the first of three frames in a row on which it had a
//!   detection: `update_masklet_confirmation_status`,
//!   <https://github.com/facebookresearch/sam3/blob/96914d2/sam3/model/sam3_multiplex_base.py>.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};

use super::Options;
use crate::models::tracker::Generation;

/// What is counted of every object.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Probation {
    first_frame: BTreeMap<u32, usize>,
    unmatched: BTreeMap<u32, usize>,
    /// Of each object and another that was there before.
    #[serde(with = "pairs")]
    duplicate: BTreeMap<(u32, u32), usize>,
    removed: BTreeSet<u32>,
    /// Frames in a row on which each object had a detection.
    in_a_row: BTreeMap<u32, usize>,
    confirmed: BTreeSet<u32>,
    /// The objects that were not confirmed after each of the last frames, in the order in which these
    /// came.
    unconfirmed: VecDeque<(usize, BTreeSet<u32>)>,
}

/// A map whose keys are pairs, as a list: keys of JSON are text.
mod pairs {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    type Counts = BTreeMap<(u32, u32), usize>;

    pub(super) fn serialize<S: Serializer>(map: &Counts, to: S) -> Result<S::Ok, S::Error> {
        map.iter().collect::<Vec<_>>().serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Counts, D::Error> {
        Ok(Vec::<((u32, u32), usize)>::deserialize(from)?
            .into_iter()
            .collect())
    }
}

impl Probation {
    /// A new object, on its first frame.
    pub(crate) fn add(&mut self, id: u32, frame: usize) {
        self.first_frame.entry(id).or_insert(frame);
    }

    /// Objects that were removed.
    pub(crate) fn removed(&self) -> &BTreeSet<u32> {
        &self.removed
    }

    /// Counts a frame: objects without a detection, and the objects of each detection. The objects
    /// that go, ascending.
    pub(crate) fn count<'a>(
        &mut self,
        unmatched: impl IntoIterator<Item = u32>,
        together: impl IntoIterator<Item = &'a [u32]>,
        (frame, reverse): (usize, bool),
        (options, generation): (&Options, Generation),
    ) -> Vec<u32> {
        for id in unmatched {
            *self.unmatched.entry(id).or_default() += 1;
        }
        let first_of = |id: u32| self.first_frame.get(&id).copied().unwrap_or(frame);
        for ids in together {
            for (first, id) in duplicates(ids, generation, reverse, first_of) {
                *self.duplicate.entry((first, id)).or_default() += 1;
            }
        }
        let is_later = |first: u32, id: u32| {
            generation != Generation::Sam31
                || match reverse {
                    false => first_of(first) < first_of(id),
                    true => first_of(first) > first_of(id),
                }
        };
        let is_young = |id: &u32| match reverse {
            false => first_of(*id) + options.hotstart > frame,
            true => frame + options.hotstart > first_of(*id),
        };
        let unmatched = self.unmatched.iter();
        let unmatched = unmatched.filter(|(_, count)| **count >= options.max_unmatched);
        let duplicates = self.duplicate.iter().filter(|((first, id), count)| {
            **count >= options.max_duplicate && is_later(*first, *id)
        });
        let over = unmatched.map(|(id, _)| *id);
        let over = over.chain(duplicates.map(|((_, id), _)| *id));
        let gone = over.filter(|id| is_young(id) && !self.removed.contains(id));
        let gone: BTreeSet<u32> = gone.collect();
        self.removed.extend(&gone);
        gone.into_iter().collect()
    }

    /// Counts the frames on which each of the `ids` was among the `found` without a gap.
    pub(crate) fn confirm(
        &mut self,
        frame: usize,
        ids: &[u32],
        found: &BTreeSet<u32>,
        options: &Options,
    ) {
        if options.confirmations == 0 {
            return;
        }
        let count = |id: &u32| match found.contains(id) {
            true => (*id, self.in_a_row.get(id).copied().unwrap_or(0) + 1),
            false => (*id, 0),
        };
        self.in_a_row = ids.iter().map(count).collect();
        let is_enough = |(_, frames): &(&u32, &usize)| **frames >= options.confirmations;
        let enough = self.in_a_row.iter().filter(is_enough);
        self.confirmed.extend(enough.map(|(id, _)| *id));
        let unconfirmed = ids.iter().copied();
        let unconfirmed = unconfirmed
            .filter(|id| !self.confirmed.contains(id))
            .collect();
        // The frame of the prompt is seen twice.
        let last = self.unconfirmed.back();
        if last.is_some_and(|(last, _)| *last == frame) {
            self.unconfirmed.pop_back();
        }
        self.unconfirmed.push_back((frame, unconfirmed));
        if self.unconfirmed.len() > options.hotstart + options.confirmations {
            self.unconfirmed.pop_front();
        }
    }

    /// The objects that are not shown on a frame as they were not confirmed `delay` frames later, or
    /// after the last one if there are fewer and `is_over`.
    pub(crate) fn unconfirmed(&self, frame: usize, delay: usize, is_over: bool) -> &BTreeSet<u32> {
        static NONE: BTreeSet<u32> = BTreeSet::new();
        let frames = &self.unconfirmed;
        let Some(at) = frames.iter().rposition(|(t, _)| *t == frame) else {
            return &NONE;
        };
        let last = frames.len() - 1;
        match at + delay {
            later if later <= last => &frames[later].1,
            _ if is_over => &frames[last].1,
            _ => &NONE,
        }
    }
}

/// Each object of a detection that counts as a duplicate, after the one that it is one of.
fn duplicates(
    ids: &[u32],
    generation: Generation,
    reverse: bool,
    first_of: impl Fn(u32) -> usize,
) -> Vec<(u32, u32)> {
    if generation == Generation::Sam31 {
        let later = |i: usize| ids[i + 1..].iter().map(move |id| (ids[i], *id));
        return (0..ids.len()).flat_map(later).collect();
    }
    let first = match reverse {
        false => ids.iter().min_by_key(|id| first_of(**id)),
        // of equal ones the first
        true => ids.iter().rev().max_by_key(|id| first_of(**id)),
    };
    let Some(first) = first.copied() else {
        return vec![];
    };
    let others = ids.iter().filter(|id| **id != first);
    others.map(|id| (first, *id)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_young_object_without_detections_goes_and_an_old_one_stays() {
        let options = Options::default();
        let mut probation = Probation::default();
        probation.add(1, 0);
        probation.add(2, 10);
        // object 2 is seen at first and unmatched later, object 1 at once
        let mut gone = vec![];
        for frame in 1..40 {
            let unmatched = [1u32, 2].into_iter().filter(|id| *id == 1 || frame >= 18);
            let now = probation.count(unmatched, [], (frame, false), (&options, Generation::Sam3));
            gone.extend(now.into_iter().map(|id| (id, frame)));
        }
        assert_eq!(gone, [(1, 8)]); // object 2 would have gone on frame 25, 15 after its first
        assert_eq!(probation.removed().iter().collect::<Vec<_>>(), [&1]);
    }

    #[test]
    fn of_two_objects_of_one_detection_the_later_goes_in_either_direction() {
        for (reverse, goes) in [(false, 7), (true, 3)] {
            let mut probation = Probation::default();
            probation.add(3, 20);
            probation.add(7, 22);
            let together: &[u32] = &[3, 7];
            let frame = |i: usize| if reverse { 19 - i } else { 23 + i };
            let mut gone = vec![];
            for i in 0..8 {
                let at = (frame(i), reverse);
                let rules = (&Options::default(), Generation::Sam3);
                gone.extend(probation.count([], [together], at, rules));
            }
            assert_eq!(gone, [goes], "reverse {reverse}");
        }
    }

    #[test]
    fn of_two_objects_born_on_one_frame_neither_is_the_duplicate_in_sam31() {
        let count = |second: usize| {
            let mut probation = Probation::default();
            probation.add(3, 20);
            probation.add(7, second);
            let together: &[u32] = &[3, 7];
            let rules = (&Options::sam31(), Generation::Sam31);
            let count = |frame| probation.count([], [together], (frame, false), rules);
            (23..31).flat_map(count).collect::<Vec<u32>>()
        };
        assert!(count(20).is_empty());
        assert_eq!(count(22), [7]);
    }

    #[test]
    fn an_object_is_shown_from_the_first_of_three_frames_in_a_row_on() {
        let options = Options::sam31();
        let mut probation = Probation::default();
        let found = [false, true, true, false, true, true, true, false];
        for (frame, found) in found.into_iter().enumerate() {
            let found = found.then_some(5).into_iter().collect();
            probation.confirm(frame, &[5], &found, &options);
        }
        let is_shown = |frame| !probation.unconfirmed(frame, 2, true).contains(&5);
        let shown: Vec<usize> = (0..8).filter(|frame| is_shown(*frame)).collect();
        assert_eq!(shown, [4, 5, 6, 7]);
        // before the frame that decides has come nothing is hidden
        let mut probation = Probation::default();
        probation.confirm(0, &[5], &BTreeSet::from([5]), &options);
        assert!(probation.unconfirmed(0, 2, false).is_empty());
        assert!(probation.unconfirmed(0, 2, true).contains(&5));
    }
}
