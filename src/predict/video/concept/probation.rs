//! Which young objects are removed again.
//!
//! Follows `_process_hotstart`,
//! <https://github.com/facebookresearch/sam3/blob/99d02f2/sam3/model/sam3_video_base.py#L1312>.
//!
//! # Easy to get wrong
//! - Counts are never reset, neither by a match nor by a change of direction.
//! - Every other object of a detection is a duplicate of the one that was seen first; backward of
//!   the one that was seen first on that way, which is the one born last.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::Options;

/// What is counted of every object.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Probation {
    first_frame: BTreeMap<u32, usize>,
    unmatched: BTreeMap<u32, usize>,
    /// Of each object and another that was there before.
    #[serde(with = "pairs")]
    duplicate: BTreeMap<(u32, u32), usize>,
    removed: BTreeSet<u32>,
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
        options: &Options,
    ) -> Vec<u32> {
        for id in unmatched {
            *self.unmatched.entry(id).or_default() += 1;
        }
        let mut gone = BTreeSet::new();
        let is_young = |id: u32, first_frame: &BTreeMap<u32, usize>| {
            let first = first_frame.get(&id).copied().unwrap_or(frame);
            match reverse {
                false => first + options.hotstart > frame,
                true => frame + options.hotstart > first,
            }
        };
        for (id, count) in &self.unmatched {
            let is_over = *count >= options.max_unmatched && is_young(*id, &self.first_frame);
            if is_over && !self.removed.contains(id) {
                gone.insert(*id);
            }
        }
        for ids in together {
            let first_of = |id: &u32| self.first_frame.get(id).copied().unwrap_or(frame);
            let first = match reverse {
                false => ids.iter().min_by_key(|id| first_of(id)),
                // of equal ones the first
                true => ids.iter().rev().max_by_key(|id| first_of(id)),
            };
            let Some(first) = first.copied() else {
                continue;
            };
            for id in ids.iter().filter(|id| **id != first) {
                *self.duplicate.entry((first, *id)).or_default() += 1;
            }
        }
        for ((_, id), count) in &self.duplicate {
            let is_over = *count >= options.max_duplicate && is_young(*id, &self.first_frame);
            if is_over && !self.removed.contains(id) {
                gone.insert(*id);
            }
        }
        self.removed.extend(&gone);
        gone.into_iter().collect()
    }
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
            let now = probation.count(unmatched, [], (frame, false), &options);
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
                gone.extend(probation.count([], [together], at, &Options::default()));
            }
            assert_eq!(gone, [goes], "reverse {reverse}");
        }
    }
}
