//! Answers become what is known of their frames, and frames become memories.

use std::collections::BTreeSet;

use candle::Tensor;

use super::prompt::{GIVEN_SCORE, resized};
use super::{Group, Object};
use crate::device::upload;
use crate::models::tracker::{
    ABSENT_LOGIT, Answers, Entry, FrameFeatures, Generation, MaskProbability, MemoryMasks, Tracker,
    non_overlapping,
};
use crate::nn::sample::resize_bilinear;
use crate::{Result, Size};

/// What a prompted frame is to later ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Prompted {
    /// A conditioning frame.
    Conditioning,
    /// What it was, if it was tracked; else a conditioning frame.
    AsTracked,
}

impl Group {
    /// Remembers the frames that were prompted since tracking went on last.
    pub(crate) fn remember_prompts(
        &mut self,
        tracker: &dyn Tracker,
        as_what: Prompted,
    ) -> Result<()> {
        self.started = true;
        for (t, frame) in std::mem::take(&mut self.frames) {
            self.take_pending(tracker, (t, &frame), as_what)?;
            let probability = match tracker.config().generation {
                Generation::Sam2 | Generation::Sam3 => MaskProbability::Binary,
                Generation::Sam31 => MaskProbability::Sigmoid,
            };
            if let Some((logits, scores)) = self.image_sized(tracker, t)? {
                let logits = non_overlapping(&logits)?;
                self.remember(tracker, (t, &frame), (&logits, &scores), probability)?;
            }
        }
        Ok(())
    }

    /// The pending answers on a frame become what is known of it; what is remembered of it stays.
    fn take_pending(
        &mut self,
        tracker: &dyn Tracker,
        (t, frame): (usize, &FrameFeatures),
        as_what: Prompted,
    ) -> Result<()> {
        let answers = (0..self.objects.len()).map(|i| self.consolidated(tracker, t, i));
        let answers = Answers::join(&answers.collect::<Result<Vec<_>>>()?)?;
        let (memory, mut prompted) = match self.bank.get(t) {
            Some(earlier) => (earlier.memory.clone(), earlier.prompted.clone()),
            None => (None, BTreeSet::new()),
        };
        for object in &mut self.objects {
            if object.pending.remove(&t).is_some() {
                prompted.insert(object.id);
            }
        }
        let entry = Entry {
            memory,
            prompted,
            features: keys_of(frame, tracker),
            ..Entry::new(answers, &self.slots)?
        };
        match as_what == Prompted::AsTracked && self.bank.is_ordinary(t) {
            true => self.bank.insert_ordinary(t, entry),
            false => self.bank.insert_cond(t, entry),
        }
        Ok(())
    }

    /// The logits of a frame's objects at the size of the network's input, and their scores.
    pub(super) fn image_sized(
        &self,
        tracker: &dyn Tracker,
        t: usize,
    ) -> Result<Option<(Tensor, Vec<f32>)>> {
        let Some((logits, scores)) = self.answered(t) else {
            return Ok(None);
        };
        let side = tracker.config().image_size;
        let logits = resize_bilinear(&logits.unsqueeze(1)?, side)?.squeeze(1)?;
        Ok(Some((logits, scores.to_vec())))
    }

    /// Remembers a frame by masks and object scores, of objects as many as it has.
    pub(crate) fn remember(
        &mut self,
        tracker: &dyn Tracker,
        (t, frame): (usize, &FrameFeatures),
        (logits, object_scores): (&Tensor, &[f32]),
        probability: MaskProbability,
    ) -> Result<()> {
        let entry = self.bank.get(t);
        let is_prompted =
            |object: &Object| entry.is_some_and(|entry| entry.prompted.contains(&object.id));
        let prompted: Vec<bool> = self.objects.iter().map(is_prompted).collect();
        let masks = MemoryMasks {
            logits,
            probability,
            object_scores,
            slots: &self.slots,
            prompted: &prompted,
        };
        let memory = tracker.remember(frame, &masks)?;
        self.set_memory(t, memory);
        Ok(())
    }

    /// The pending answer, else the earlier one, else that the object is not there.
    fn consolidated(&self, tracker: &dyn Tracker, t: usize, i: usize) -> Result<Answers> {
        let side = tracker.config().low_res_side();
        if let Some(pending) = self.objects[i].pending.get(&t) {
            let Some(mask) = &pending.mask else {
                return Ok(pending.answers.clone());
            };
            let logits = resized(mask, [ABSENT_LOGIT, -ABSENT_LOGIT], Size::square(side))?;
            let device = pending.answers.pointers.device();
            return Ok(Answers {
                low_res_logits: upload(logits, (1, side, side), device)?,
                ..pending.answers.clone()
            });
        }
        if let Some(answers) = self.earlier(t, i)? {
            return Ok(answers);
        }
        let pointers = tracker.absent_pointer();
        Ok(Answers {
            low_res_logits: Tensor::full(ABSENT_LOGIT, (1, side, side), pointers.device())?,
            pointers,
            object_scores: vec![GIVEN_SCORE],
            iou_scores: vec![0.],
        })
    }

    /// Takes the pending answers; what is remembered of their frames stays as it is until
    /// [`Group::remember`].
    pub(crate) fn take_prompts(&mut self, tracker: &dyn Tracker, as_what: Prompted) -> Result<()> {
        for (t, frame) in std::mem::take(&mut self.frames) {
            self.take_pending(tracker, (t, &frame), as_what)?;
        }
        Ok(())
    }
}

/// The frame's features, for a tracker whose keys they are part of.
pub(super) fn keys_of(frame: &FrameFeatures, tracker: &dyn Tracker) -> Option<Tensor> {
    let is_part = tracker.config().generation == Generation::Sam31;
    is_part.then(|| frame.image.tokens.clone())
}
