//! Answers become what is known of their frames, and frames become memories.

use std::collections::BTreeSet;

use candle::Tensor;

use super::prompt::GIVEN_SCORE;
use super::{Group, Object};
use crate::device::upload;
use crate::image::resample::resize_antialias;
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
        let entry = self.entry(tracker, frame, Entry::new(answers, &self.slots)?);
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
            ..entry
        };
        match as_what == Prompted::AsTracked && self.bank.is_ordinary(t) {
            true => self.bank.insert_ordinary(t, entry),
            false => self.bank.insert_cond(t, entry),
        }
        Ok(())
    }

    /// With the frame's features, for a tracker whose keys they are part of.
    pub(super) fn entry(
        &self,
        tracker: &dyn Tracker,
        frame: &FrameFeatures,
        entry: Entry,
    ) -> Entry {
        let is_part = tracker.config().generation == Generation::Sam31;
        Entry {
            features: is_part.then(|| frame.image.tokens.clone()),
            ..entry
        }
    }

    /// The logits of a frame's objects at the size of the network's input, and their scores.
    pub(super) fn image_sized(
        &self,
        tracker: &dyn Tracker,
        t: usize,
    ) -> Result<Option<(Tensor, Vec<f32>)>> {
        let Some(entry) = self.bank.get(t) else {
            return Ok(None);
        };
        let Some(logits) = &entry.low_res_logits else {
            return Ok(None);
        };
        let side = tracker.config().image_size;
        let logits = resize_bilinear(&logits.unsqueeze(1)?, side)?.squeeze(1)?;
        Ok(Some((logits, entry.object_scores.clone())))
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
            let sign = |inside: u8| {
                if inside > 0 {
                    -ABSENT_LOGIT
                } else {
                    ABSENT_LOGIT
                }
            };
            let logits: Vec<f32> = mask.to_bytes(1).into_iter().map(sign).collect();
            let logits = resize_antialias(&logits, mask.size(), Size::square(side))?;
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
