//! What is known of one frame.

use std::collections::BTreeSet;

use candle::{Result, Tensor};

use super::Slots;
use crate::device::upload;
use crate::models::bytes_of;

/// What the decoder says of `b` objects on one frame.
#[derive(Debug, Clone)]
pub struct Answers {
    /// Mask logits (b, 4g, 4g), f32; [`ABSENT_LOGIT`] everywhere for an object that is not there.
    pub low_res_logits: Tensor,
    /// Object pointers (b, d)
    pub pointers: Tensor,
    /// Logit of "the object is there" of each object.
    pub object_scores: Vec<f32>,
    /// Predicted IoU of each mask.
    pub iou_scores: Vec<f32>,
}

/// Logits of an object that is not there.
pub const ABSENT_LOGIT: f32 = -1024.;

impl Answers {
    /// The answer for each object, one after the other.
    ///
    /// # Errors
    /// If a tensor operation fails.
    pub fn split(&self) -> Result<Vec<Self>> {
        (0..self.object_scores.len())
            .map(|i| {
                Ok(Self {
                    low_res_logits: self.low_res_logits.narrow(0, i, 1)?,
                    pointers: self.pointers.narrow(0, i, 1)?,
                    object_scores: vec![self.object_scores[i]],
                    iou_scores: vec![self.iou_scores[i]],
                })
            })
            .collect()
    }

    /// Answers for several objects together.
    ///
    /// # Errors
    /// If there are none, or their sizes differ.
    pub fn join(answers: &[Self]) -> Result<Self> {
        let cat =
            |of: fn(&Self) -> &Tensor| Tensor::cat(&answers.iter().map(of).collect::<Vec<_>>(), 0);
        Ok(Self {
            low_res_logits: cat(|a| &a.low_res_logits)?,
            pointers: cat(|a| &a.pointers)?,
            object_scores: answers
                .iter()
                .flat_map(|a| a.object_scores.clone())
                .collect(),
            iou_scores: answers.iter().flat_map(|a| a.iou_scores.clone()).collect(),
        })
    }
}

/// A frame that was answered, and its memory.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Mask logits (b, 4g, 4g), as long as the frame may be prompted again.
    pub low_res_logits: Option<Tensor>,
    /// Object pointers (buckets * slots, d); what an object that was removed left in its slot stays.
    pub pointers: Tensor,
    /// Logit of "the object is there" of each object: the first of the group's objects, as those that
    /// joined later were not there.
    pub object_scores: Vec<f32>,
    /// Predicted IoU of each mask.
    pub iou_scores: Vec<f32>,
    /// Memory tokens (buckets, g * g, m), from when the frame is encoded on.
    pub memory: Option<Tensor>,
    /// The frame's own features (1, g * g, d), for a tracker whose keys they are part of.
    pub features: Option<Tensor>,
    /// The objects that were prompted on it.
    pub prompted: BTreeSet<u32>,
    /// [`Entry::mean_quality`]; not of frames that were prompted.
    pub quality: Option<f32>,
}

impl Entry {
    /// A frame whose `answers` are those to prompts; it is not encoded yet.
    ///
    /// # Errors
    /// If there are more or fewer objects than `slots` has.
    pub fn new(answers: Answers, slots: &Slots) -> Result<Self> {
        Ok(Self {
            low_res_logits: Some(answers.low_res_logits),
            pointers: slots.fill(&answers.pointers)?,
            object_scores: answers.object_scores,
            iou_scores: answers.iou_scores,
            memory: None,
            features: None,
            prompted: BTreeSet::new(),
            quality: None,
        })
    }

    /// A frame that was tracked.
    ///
    /// # Errors
    /// As of [`Entry::new`].
    pub fn tracked(answers: Answers, slots: &Slots) -> Result<Self> {
        let mut entry = Self::new(answers, slots)?;
        entry.quality = Some(entry.mean_quality());
        Ok(entry)
    }

    /// How good the masks are taken together: the mean over objects of the probability that the
    /// object is there, rescaled to 0 at logit 0, times the mean of the predicted IoUs.
    ///
    /// Follows `cal_mem_score`,
    /// <https://github.com/facebookresearch/sam3/blob/99d02f2/sam3/model/sam3_tracker_base.py#L508>.
    ///
    /// Easy to get wrong: it is no mean of products. There scores are a column and IoUs a row, so
    /// each score meets each IoU.
    pub fn mean_quality(&self) -> f32 {
        let mean = |xs: &[f32]| xs.iter().sum::<f32>() / xs.len().max(1) as f32;
        mean(&self.presence()) * mean(&self.iou_scores)
    }

    /// Of each object the probability that it is there, rescaled to 0 at logit 0.
    fn presence(&self) -> Vec<f32> {
        let rescaled = |score: &f32| match *score > 0. {
            true => 2. / (1. + (-score).exp()) - 1.,
            false => 0.,
        };
        self.object_scores.iter().map(rescaled).collect()
    }

    /// Limits of the quality after any of the objects are removed.
    pub(super) fn quality_limits(&self) -> [f32; 2] {
        let presence = self.presence();
        let limit = |pick: fn(f32, f32) -> f32| {
            let of = |xs: &[f32]| xs.iter().copied().reduce(pick).unwrap_or_default();
            of(&presence) * of(&self.iou_scores)
        };
        [limit(f32::min), limit(f32::max)]
    }

    /// The answer for one object, if it was there and its mask still is.
    ///
    /// # Errors
    /// If a tensor operation fails.
    pub fn answer(&self, object: usize, slots: &Slots) -> Result<Option<Answers>> {
        let Some(logits) = &self.low_res_logits else {
            return Ok(None);
        };
        if object >= self.object_scores.len() {
            return Ok(None);
        }
        Ok(Some(Answers {
            low_res_logits: logits.narrow(0, object, 1)?,
            pointers: self.pointers.narrow(0, slots.row(object), 1)?,
            object_scores: vec![self.object_scores[object]],
            iou_scores: vec![self.iou_scores[object]],
        }))
    }

    /// Takes out the object at a place; `left` are the buckets that are left, of `width` slots.
    pub(super) fn remove_object(
        &mut self,
        object: usize,
        left: &[u32],
        width: usize,
    ) -> Result<()> {
        let width = width as u32;
        let of_slots = |bucket: &u32| bucket * width..(bucket + 1) * width;
        let rows: Vec<u32> = left.iter().flat_map(of_slots).collect();
        let pick = |xs: &Tensor, rows: &[u32]| {
            let rows = upload(rows.to_vec(), rows.len(), xs.device())?;
            xs.contiguous()?.index_select(&rows, 0)
        };
        self.pointers = pick(&self.pointers, &rows)?;
        let memory = self.memory.as_ref();
        self.memory = memory.map(|memory| pick(memory, left)).transpose()?;
        if object < self.object_scores.len() {
            let all = 0..self.object_scores.len();
            let others: Vec<u32> = all.filter(|i| *i != object).map(|i| i as u32).collect();
            let logits = self.low_res_logits.as_ref();
            self.low_res_logits = logits.map(|logits| pick(logits, &others)).transpose()?;
            self.object_scores.remove(object);
            self.iou_scores.remove(object);
        }
        self.quality = Some(self.mean_quality());
        Ok(())
    }

    pub(super) fn bytes(&self) -> usize {
        let tensors = self.memory.iter().chain(&self.low_res_logits);
        bytes_of(tensors.chain(&self.features).chain([&self.pointers]))
    }
}
