//! What is kept of earlier frames.

use std::collections::BTreeMap;

use candle::Result;

use super::Slots;
use super::entry::Entry;
use super::selection::{Position, Rules, Selection};

/// The frames that later ones can attend to, for objects that are tracked together.
#[derive(Debug, Clone, Default)]
pub struct MemoryBank {
    cond: Vec<(usize, Entry)>, // in the order in which they became conditioning frames
    ordinary: BTreeMap<usize, Entry>,
}

impl MemoryBank {
    /// Nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.cond.is_empty() && self.ordinary.is_empty()
    }

    /// The conditioning frames, in the order in which they became that.
    pub fn cond_frames(&self) -> impl Iterator<Item = usize> + '_ {
        self.cond.iter().map(|(frame, _)| *frame)
    }

    /// The ordinary frames, ascending.
    pub fn ordinary_frames(&self) -> impl Iterator<Item = usize> + '_ {
        self.ordinary.keys().copied()
    }

    /// All frames with whether they are conditioning frames, these in their order first.
    pub fn entries(&self) -> impl Iterator<Item = (usize, bool, &Entry)> {
        let cond = self.cond.iter().map(|(frame, entry)| (*frame, true, entry));
        let ordinary = self
            .ordinary
            .iter()
            .map(|(frame, entry)| (*frame, false, entry));
        cond.chain(ordinary)
    }

    /// A conditioning frame.
    pub fn cond(&self, frame: usize) -> Option<&Entry> {
        let found = self.cond.iter().find(|(t, _)| *t == frame);
        found.map(|(_, entry)| entry)
    }

    /// Whether a frame is remembered as an ordinary one.
    pub fn is_ordinary(&self, frame: usize) -> bool {
        self.ordinary.contains_key(&frame)
    }

    /// A frame of either kind.
    pub fn get(&self, frame: usize) -> Option<&Entry> {
        self.cond(frame).or_else(|| self.ordinary.get(&frame))
    }

    /// A frame of either kind, whose entry may be changed.
    pub fn get_mut(&mut self, frame: usize) -> Option<&mut Entry> {
        match self.cond.iter_mut().find(|(t, _)| *t == frame) {
            Some((_, entry)) => Some(entry),
            None => self.ordinary.get_mut(&frame),
        }
    }

    /// Remembers a frame that was prompted; what was tracked there is forgotten.
    pub fn insert_cond(&mut self, frame: usize, entry: Entry) {
        self.ordinary.remove(&frame);
        match self.cond.iter_mut().find(|(t, _)| *t == frame) {
            Some((_, old)) => *old = entry,
            None => self.cond.push((frame, entry)),
        }
    }

    /// Remembers a frame that was tracked.
    pub fn insert_ordinary(&mut self, frame: usize, entry: Entry) {
        self.ordinary.insert(frame, entry);
    }

    /// Makes a conditioning frame an ordinary one; whether it was one.
    pub fn downgrade(&mut self, frame: usize) -> bool {
        let Some(at) = self.cond.iter().position(|(t, _)| *t == frame) else {
            return false;
        };
        let (_, entry) = self.cond.remove(at);
        self.ordinary.insert(frame, entry);
        true
    }

    /// Takes out the object at a place, in `slots` as well. The quality of every frame is now that of
    /// the others.
    ///
    /// # Errors
    /// If a tensor operation fails.
    pub fn remove_object(&mut self, object: usize, slots: &mut Slots) -> Result<()> {
        let left = slots.remove(object);
        let entries = self.cond.iter_mut().map(|(_, entry)| entry);
        for entry in entries.chain(self.ordinary.values_mut()) {
            entry.remove_object(object, &left, slots.width())?;
        }
        Ok(())
    }

    /// What a frame attends to.
    pub fn select(&self, rules: &Rules, at: Position) -> Selection {
        let cond: Vec<usize> = self.cond_frames().collect();
        rules.select(at, &cond, &self.ordinary, |entry| entry.quality)
    }

    /// Forgets what no frame after `at` can attend to while tracking goes forward; results stay
    /// the same.
    ///
    /// Quality is a mean over objects, so that of a frame can rise when an object is removed. Then
    /// nothing is missing either: an entry goes only if no choice of its objects makes it good, and
    /// only those that are good for every choice count towards the limits.
    pub fn forget_before(&mut self, rules: &Rules, at: usize) {
        for (_, entry) in self.ordinary.range_mut(..at) {
            entry.low_res_logits = None;
        }
        let reach = rules.max_pointers.max(rules.num_memories) - 1;
        self.forget_cond(rules, at, reach);
        let Some(min_quality) = rules.min_quality else {
            self.ordinary.retain(|t, _| t + reach > at);
            for (t, entry) in &mut self.ordinary {
                if t + rules.num_memories - 1 <= at {
                    (entry.memory, entry.features) = (None, None);
                }
            }
            return;
        };
        let mut good_for_all = 0;
        let mut gone = vec![];
        for (t, entry) in self.ordinary.range(..=at).rev() {
            let [lowest, highest] = entry.quality_limits();
            let is_useful = highest > min_quality && good_for_all < reach;
            if *t != at && !is_useful {
                gone.push(*t);
            }
            good_for_all += usize::from(lowest > min_quality);
        }
        gone.iter().for_each(|t| {
            self.ordinary.remove(t);
        });
    }

    /// Of the conditioning frames behind only the nearest can be chosen again; without a quality
    /// threshold those not chosen count as recent ones.
    fn forget_cond(&mut self, rules: &Rules, at: usize, reach: usize) {
        let Some(max) = rules.max_cond_frames else {
            return;
        };
        let mut behind: Vec<usize> = self.cond_frames().filter(|t| *t <= at).collect();
        behind.sort_unstable();
        behind.truncate(behind.len().saturating_sub(max));
        let is_recent = |t: usize| rules.min_quality.is_none() && t + reach > at;
        self.cond
            .retain(|(t, _)| !behind.contains(t) || is_recent(*t));
    }

    /// Memory that the entries keep, in bytes.
    pub fn bytes(&self) -> usize {
        let entries = self.cond.iter().map(|(_, entry)| entry);
        entries
            .chain(self.ordinary.values())
            .map(Entry::bytes)
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::tracker::Answers;
    use candle::{DType, Device, Tensor};

    /// Two objects of which each is good on every third frame, and both on every sixth.
    fn entry(frame: usize) -> Entry {
        let score = |every: usize| if frame.is_multiple_of(every) { 3. } else { -3. };
        let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
        let answers = Answers {
            low_res_logits: zeros(&[2, 4, 4]),
            pointers: zeros(&[2, 4]),
            object_scores: vec![score(2), score(3)],
            iou_scores: vec![0.9, 0.8],
        };
        Entry {
            memory: Some(zeros(&[2, 1, 2])),
            ..Entry::tracked(answers, &Slots::of(1, 2)).unwrap()
        }
    }

    fn rules(min_quality: Option<f32>) -> Rules {
        Rules {
            num_memories: 7,
            max_cond_frames: Some(4),
            max_pointers: 16,
            min_quality,
            placed_conditioning: false,
        }
    }

    /// The order of tokens does not matter.
    fn sorted(mut selection: Selection) -> Selection {
        selection.memories.sort_unstable();
        selection.pointers.sort_unstable();
        selection
    }

    #[test]
    fn forgetting_changes_no_selection_and_bounds_what_is_kept() {
        for min_quality in [None, Some(0.01)] {
            let rules = rules(min_quality);
            let (mut all, mut some) = (MemoryBank::default(), MemoryBank::default());
            for frame in 0..400 {
                let at = Position {
                    frame,
                    num_frames: usize::MAX,
                    reverse: false,
                };
                if frame > 0 {
                    let want = sorted(all.select(&rules, at));
                    let got = sorted(some.select(&rules, at));
                    assert_eq!(got, want, "{min_quality:?} {frame}");
                }
                for bank in [&mut all, &mut some] {
                    match frame % 50 {
                        0 => bank.insert_cond(frame, entry(frame)),
                        _ => bank.insert_ordinary(frame, entry(frame)),
                    }
                }
                some.forget_before(&rules, frame);
                let kept = some.cond_frames().count() + some.ordinary_frames().count();
                // 15 frames that are good for both objects are 90 frames, of which 60 are good
                // for one of them.
                let limit = if min_quality.is_some() { 70 } else { 20 };
                assert!(kept <= limit, "{min_quality:?}: {kept} at {frame}");
            }
            // Quality rises when the second object goes, and what is needed then is still there.
            for bank in [&mut all, &mut some] {
                bank.remove_object(1, &mut Slots::of(1, 2)).unwrap();
            }
            let at = Position {
                frame: 400,
                num_frames: usize::MAX,
                reverse: false,
            };
            let [got, want] = [&some, &all].map(|bank| sorted(bank.select(&rules, at)));
            assert_eq!(got, want);
        }
    }

    #[test]
    fn quality_is_a_product_of_means_and_nothing_where_all_are_absent() {
        let present = 2. / (1. + (-3f32).exp()) - 1.;
        assert!((entry(2).mean_quality() - present / 2. * 0.85).abs() < 1e-6);
        assert_eq!(entry(1).mean_quality(), 0.);
    }

    #[test]
    fn a_downgraded_frame_is_an_ordinary_one_without_a_quality() {
        let mut bank = MemoryBank::default();
        let prompted = Entry {
            quality: None,
            ..entry(6)
        };
        bank.insert_cond(6, prompted);
        assert!(bank.downgrade(6) && !bank.downgrade(6));
        assert_eq!(bank.cond_frames().count(), 0);
        assert_eq!(bank.ordinary_frames().collect::<Vec<_>>(), [6]);
        assert_eq!(bank.get(6).unwrap().quality, None);
    }
}
