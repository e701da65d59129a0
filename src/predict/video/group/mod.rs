//! Objects that are tracked together: their prompts, answers and memories.
//!
//! Follows `Sam3TrackerPredictor`,
//! <https://github.com/facebookresearch/sam3/blob/99d02f2/sam3/model/sam3_tracking_predictor.py#L14>,
//! and for SAM 2.1 `SAM2VideoPredictor` with `add_all_frames_to_correct_as_cond`,
//! <https://github.com/facebookresearch/sam2/blob/2b90b9f/sam2/sam2_video_predictor.py#L19>; for SAM 3.1
//! `VideoTrackingMultiplexDemo`,
//! <https://github.com/facebookresearch/sam3/blob/96914d2/sam3/model/video_tracking_multiplex_demo.py>.
//!
//! # Easy to get wrong
//! - A prompted frame is answered at once and remembered only when tracking goes on: then masks of
//!   several objects give way to each other before they are encoded.
//! - The logits of the latest answer go back as a mask prompt even if its points were cleared.
//! - Whether three masks are asked for depends on the number of points that are stored, the corners
//!   of a box included.
//! - An object that was neither prompted nor tracked on a prompted frame is remembered as not
//!   visible there, with a score as if it was.
//! - SAM 2.1 looks at the memories of other frames when it is corrected on a frame that was tracked,
//!   in the direction in which that was.
//! - SAM 3.1 answers all points of a frame afresh: neither earlier answers nor memories go in. An
//!   object that joins others where they were tracked does not make the frame a conditioning one,
//!   and the frame is remembered anew for all of them.
//!
//! The original of SAM 3.1 gives every object that is prompted with points a bucket of its own, and one
//! that is corrected loses its memories, which cannot be taken out of those of its bucket. Here objects
//! that are first prompted on one frame share a bucket, and stay in it when they are corrected.

mod prompt;
mod remember;

pub(crate) use remember::Prompted;

use remember::keys_of;

use std::collections::{BTreeMap, BTreeSet};

use candle::Tensor;

use crate::device::{download, download_rows};
use crate::mask::Mask;
use crate::mask::upsample::threshold_upsampled;
use crate::models::tracker::{
    Answers, Entry, FrameFeatures, LabeledPoint, MaskProbability, Memories, MemoryBank, Position,
    Rules, Slots, Tracker,
};
use crate::{Error, Result, Size};

/// The answer to a prompt that is not remembered yet.
#[derive(Debug, Clone)]
struct Pending {
    answers: Answers, // its logits are not looked at if there is a mask
    /// As given to a SAM 3, at the size of the video.
    mask: Option<Mask>,
}

/// One object of a group.
#[derive(Debug, Clone)]
pub(super) struct Object {
    pub(super) id: u32,
    pub(super) points: BTreeMap<usize, Vec<LabeledPoint>>,
    pub(super) masks: BTreeSet<usize>,
    pending: BTreeMap<usize, Pending>,
}

impl Object {
    pub(super) fn new(id: u32) -> Self {
        Self {
            id,
            points: BTreeMap::new(),
            masks: BTreeSet::new(),
            pending: BTreeMap::new(),
        }
    }

    /// The mask that was given for a frame and is not remembered yet.
    fn given(&mut self, t: usize) -> Option<&mut Mask> {
        self.pending.get_mut(&t)?.mask.as_mut()
    }
}

/// Objects that are tracked together.
#[derive(Debug, Clone)]
pub(crate) struct Group {
    pub(super) objects: Vec<Object>,
    pub(super) slots: Slots,
    pub(super) bank: MemoryBank,
    /// Frames with pending answers.
    pub(super) frames: BTreeMap<usize, FrameFeatures>,
    /// Whether tracking has begun: from then on the objects stay the same.
    pub(super) started: bool,
    /// The frames that tracking has passed, and whether it went backward.
    pub(super) tracked: BTreeMap<usize, bool>,
}

/// What is known of an object on a frame.
#[derive(Debug, Clone)]
pub(crate) enum Known {
    /// It was never seen there.
    Nothing,
    /// Low-resolution logits (1, 4g, 4g)
    Logits(Tensor),
    /// A mask that was given, at the size of the video.
    Given(Mask),
}

impl Group {
    /// A group without objects, for a tracker that has so many slots.
    pub(crate) fn new(slots: usize) -> Self {
        Self {
            objects: vec![],
            slots: Slots::new(slots),
            bank: MemoryBank::default(),
            frames: BTreeMap::new(),
            started: false,
            tracked: BTreeMap::new(),
        }
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = u32> + '_ {
        self.objects.iter().map(|object| object.id)
    }

    pub(crate) fn slots(&self) -> &Slots {
        &self.slots
    }

    pub(crate) fn bank(&self) -> &MemoryBank {
        &self.bank
    }

    /// Whether another object can join.
    pub(crate) fn is_open(&self) -> bool {
        !self.started
    }

    /// Whether there is an answer that is not remembered yet.
    pub(crate) fn is_pending(&self) -> bool {
        !self.frames.is_empty()
    }

    fn index(&self, id: u32) -> Option<usize> {
        self.ids().position(|other| other == id)
    }

    /// Whether the object is one of these.
    pub(crate) fn has(&self, id: u32) -> bool {
        self.index(id).is_some()
    }

    /// The place of the object; a new one is appended.
    fn index_or_new(&mut self, id: u32) -> usize {
        self.index(id).unwrap_or_else(|| {
            self.objects.push(Object::new(id));
            self.slots.add();
            self.objects.len() - 1
        })
    }

    /// The latest answer for each object on a frame.
    pub(crate) fn known(&self, t: usize) -> Result<Vec<(u32, Known)>> {
        let known = |(i, id)| Ok((id, self.known_of(t, i)?));
        self.ids().enumerate().map(known).collect()
    }

    fn known_of(&self, t: usize, index: usize) -> Result<Known> {
        Ok(match self.objects[index].pending.get(&t) {
            Some(Pending {
                mask: Some(mask), ..
            }) => Known::Given(mask.clone()),
            Some(pending) => Known::Logits(pending.answers.low_res_logits.clone()),
            None => match self.earlier(t, index)? {
                Some(answers) => Known::Logits(answers.low_res_logits),
                None => Known::Nothing,
            },
        })
    }

    /// Scores of an object on a frame, if there is an answer: the logit of its being there, and the
    /// predicted IoU.
    pub(crate) fn scores(&self, t: usize, id: u32) -> Option<(f32, f32)> {
        let index = self.index(id)?;
        if let Some(pending) = self.objects[index].pending.get(&t) {
            let answers = &pending.answers;
            return Some((answers.object_scores[0], answers.iou_scores[0]));
        }
        let entry = self.bank.get(t)?;
        let score = entry.object_scores.get(index)?;
        Some((*score, *entry.iou_scores.get(index)?))
    }

    /// What was answered for an object on a frame, pending answers aside.
    fn earlier(&self, t: usize, index: usize) -> Result<Option<Answers>> {
        match self.bank.get(t) {
            Some(entry) => Ok(entry.answer(index, &self.slots)?),
            None => Ok(None),
        }
    }

    /// Follows the objects to a frame, unless it was prompted, and remembers it.
    pub(crate) fn track(
        &mut self,
        tracker: &dyn Tracker,
        frame: &FrameFeatures,
        (at, rules): (Position, &Rules),
    ) -> Result<()> {
        self.tracked.insert(at.frame, at.reverse);
        if !self.track_without_memory(tracker, frame, (at, rules))? {
            return Ok(());
        }
        if let Some((logits, scores)) = self.image_sized(tracker, at.frame)? {
            let at = (at.frame, frame);
            self.remember(tracker, at, (&logits, &scores), MaskProbability::Sigmoid)?;
        }
        Ok(())
    }

    /// Follows the objects to a frame, unless it was prompted. Whether it was not.
    pub(crate) fn track_without_memory(
        &mut self,
        tracker: &dyn Tracker,
        frame: &FrameFeatures,
        (at, rules): (Position, &Rules),
    ) -> Result<bool> {
        if self.bank.cond(at.frame).is_some() {
            return Ok(false);
        }
        let selection = self.bank.select(rules, at);
        let memory = Memories {
            bank: &self.bank,
            slots: &self.slots,
            selection: &selection,
            num_frames: at.num_frames,
        };
        let answers = tracker.track(frame, memory)?;
        let mut entry = Entry::tracked(answers, &self.slots)?;
        entry.features = keys_of(frame, tracker);
        self.bank.insert_ordinary(at.frame, entry);
        Ok(true)
    }

    /// What is remembered of a frame from now on.
    pub(crate) fn set_memory(&mut self, t: usize, memory: Tensor) {
        if let Some(entry) = self.bank.get_mut(t) {
            entry.memory = Some(memory);
        }
    }

    /// What is remembered of a frame, for tests to change.
    #[cfg(test)]
    pub(crate) fn entry_mut(&mut self, t: usize) -> Option<&mut Entry> {
        self.bank.get_mut(t)
    }

    /// Of each object its id, low-resolution logits and object score on a frame that was answered.
    pub(crate) fn logits(&self, t: usize) -> Result<Vec<(u32, Vec<f32>, f32)>> {
        let Some((logits, scores)) = self.answered(t) else {
            return Ok(vec![]);
        };
        let objects = self.ids().zip(download_rows(logits)?).zip(scores);
        Ok(objects
            .map(|((id, logits), score)| (id, logits, *score))
            .collect())
    }

    /// The low-resolution logits and the object scores of a frame that was answered.
    fn answered(&self, t: usize) -> Option<(&Tensor, &[f32])> {
        let entry = self.bank.get(t)?;
        Some((entry.low_res_logits.as_ref()?, &entry.object_scores))
    }

    /// Forgets what no later frame needs while tracking goes forward.
    pub(crate) fn forget_before(&mut self, rules: &Rules, t: usize) {
        self.bank.forget_before(rules, t);
        let bank = &self.bank;
        self.tracked
            .retain(|frame, _| *frame >= t || bank.get(*frame).is_some());
        for object in &mut self.objects {
            let pending = &object.pending;
            let is_kept = |t: &usize| pending.contains_key(t) || bank.cond(*t).is_some();
            object.points.retain(|t, _| is_kept(t));
            object.masks.retain(is_kept);
        }
    }

    /// Takes back the prompts of an object on a frame.
    ///
    /// # Errors
    /// [`Error::InvalidPrompt`] for an object that is not here.
    pub(crate) fn clear(&mut self, t: usize, id: u32) -> Result<()> {
        let index = self.index(id).ok_or_else(|| unknown(id))?;
        let object = &mut self.objects[index];
        object.points.remove(&t);
        object.masks.remove(&t);
        object.pending.remove(&t);
        self.keep_pending_frames();
        let is_prompted = |o: &Object| o.points.contains_key(&t) || o.masks.contains(&t);
        if !self.objects.iter().any(is_prompted) && self.bank.downgrade(t) {
            self.tracked.remove(&t);
            // Nothing to track from: every prompt that is left was not looked at yet.
            if self.bank.cond_frames().next().is_none() {
                self.bank = MemoryBank::default();
                self.tracked.clear();
                self.started = false;
            }
        }
        Ok(())
    }

    /// Takes an object out, with its prompts. Where others are left in its bucket, frames that were
    /// prompted for it alone stay conditioning ones: they are what those are remembered by.
    ///
    /// # Errors
    /// [`Error::InvalidPrompt`] for an object that is not here.
    pub(crate) fn remove(&mut self, id: u32) -> Result<()> {
        let index = self.index(id).ok_or_else(|| unknown(id))?;
        if self.objects.len() == 1 {
            *self = Self::new(self.slots.width());
            return Ok(());
        }
        let object = &self.objects[index];
        let prompted: BTreeSet<usize> =
            object.points.keys().chain(&object.masks).copied().collect();
        if self.slots.width() == 1 {
            for t in prompted {
                self.clear(t, id)?;
            }
        }
        self.objects.remove(index);
        self.keep_pending_frames();
        Ok(self.bank.remove_object(index, &mut self.slots)?)
    }

    fn keep_pending_frames(&mut self) {
        let is_pending = |t: &usize| self.objects.iter().any(|o| o.pending.contains_key(t));
        self.frames.retain(|t, _| is_pending(t));
    }
}

pub(crate) fn unknown(id: u32) -> Error {
    Error::prompt(format!(
        "there is no object {id}; prompt it on a frame first"
    ))
}

/// The mask of an object at the size of the video.
pub(crate) fn mask_of(known: &Known, size: Size) -> Result<Mask> {
    match known {
        Known::Nothing => Ok(Mask::new(size.width, size.height)),
        Known::Given(mask) => Ok(mask.clone()),
        Known::Logits(logits) => {
            let (_, h, w) = logits.dims3()?;
            let map = download::<f32>(logits)?;
            threshold_upsampled(&map, Size::new(w, h), size, 0.)
        }
    }
}
