//! The rules by which detections and tracks become objects.

use crate::models::tracker::{self, Rules};
use crate::{Error, Result};

/// When objects are found, matched, hidden and removed. The defaults are those of the original.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Detections with a higher score than this are looked at, in 0..1.
    pub threshold: f32,
    /// A detection that overlaps a better one by more than this IoU is dropped.
    pub nms: f32,
    /// A detection and a track belong together from this IoU on.
    pub match_iou: f32,
    /// A track is unmatched if it has a lower IoU than this with every detection.
    pub unmatched_iou: f32,
    /// A detection without a track becomes an object from this score on.
    pub new_threshold: f32,
    /// Frames in which a young object is on probation; answers are late by one less.
    pub hotstart: usize,
    /// A young object goes after this many frames without a detection.
    pub max_unmatched: usize,
    /// A young object goes after this many times as the second object of one detection.
    pub max_duplicate: usize,
    /// Every so many frames a track takes over the mask of its detection; 0 is never.
    pub recondition_every: usize,
    /// The detection's score must be at least this for it,
    pub recondition_score: f32,
    /// and its IoU with the track,
    pub recondition_iou: f32,
    /// and the track's object score, a logit, higher than this.
    pub recondition_object_score: f32,
    /// Of two tracks that overlap by this IoU the one that was hidden last is hidden again.
    pub occlusion_iou: f32,
    /// A track that keeps less than this share of its pixels, where each belongs to one track, is
    /// remembered as not visible.
    pub min_share: f32,
    /// Holes up to this many low-resolution pixels are filled, islands removed.
    pub fill_area: usize,
    /// Objects at most, those that were removed not counted.
    pub max_objects: usize,
    /// Whether tracked frames of low quality are attended to.
    pub select_memories: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            threshold: 0.5,
            nms: 0.1,
            match_iou: 0.1,
            unmatched_iou: 0.5,
            new_threshold: 0.7,
            hotstart: 15,
            max_unmatched: 8,
            max_duplicate: 8,
            recondition_every: 16,
            recondition_score: 0.8,
            recondition_iou: 0.8,
            recondition_object_score: 0.8,
            occlusion_iou: 0.7,
            min_share: 0.3,
            fill_area: 16,
            max_objects: 10_000,
            select_memories: true,
        }
    }
}

impl Options {
    /// Answers without delay: no object is on probation, so none is removed again, no track is
    /// reconditioned, and tracked frames of any quality are attended to. The original's
    /// `apply_temporal_disambiguation=False`.
    pub fn without_delay() -> Self {
        Self {
            hotstart: 0,
            recondition_every: 0,
            select_memories: false,
            ..Self::default()
        }
    }

    /// What a frame attends to.
    pub(crate) fn rules(&self, tracker: &tracker::Config) -> Rules {
        let rules = tracker.rules();
        Rules {
            min_quality: rules.min_quality.filter(|_| self.select_memories),
            ..rules
        }
    }

    /// # Errors
    /// [`Error::InvalidArgument`] for a value out of range.
    pub fn validate(&self) -> Result<()> {
        for (name, value) in [
            ("threshold", self.threshold),
            ("nms", self.nms),
            ("match_iou", self.match_iou),
            ("unmatched_iou", self.unmatched_iou),
            ("new_threshold", self.new_threshold),
            ("recondition_score", self.recondition_score),
            ("recondition_iou", self.recondition_iou),
            ("occlusion_iou", self.occlusion_iou),
            ("min_share", self.min_share),
        ] {
            if !(0. ..=1.).contains(&value) {
                return Err(Error::InvalidArgument(format!(
                    "{name} is {value}; it must be in 0..1"
                )));
            }
        }
        if self.max_objects == 0 {
            return Err(Error::InvalidArgument(
                "max_objects is 0; there must be room for one object".into(),
            ));
        }
        Ok(())
    }
}
