//! The rules by which detections and tracks become objects.

use crate::models::sam3::Sam3;
use crate::models::tracker::{self, Rules};
use crate::predict::fraction;
use crate::{Error, Result};

/// When objects are found, matched, hidden and removed. The defaults are those of the original SAM 3;
/// [`Options::of`] has those of any model.
///
/// Overlaps are IoUs, and for a model of SAM 3.1 shares of the smaller mask; only occlusion is about
/// IoUs in both.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Detections with a higher score than this are looked at, in 0..1.
    pub threshold: f32,
    /// A detection that overlaps a better one by more than this is dropped.
    pub nms: f32,
    /// A detection whose box has its centre nearer to the edge of the frame than this, in shares of
    /// the side, is dropped.
    pub border: f32,
    /// A detection and a track belong together from this overlap on.
    pub match_iou: f32,
    /// A track is unmatched if it overlaps every detection by less than this.
    pub unmatched_iou: f32,
    /// A detection without a track becomes an object from this score on,
    pub new_threshold: f32,
    /// and where there is no track at all, from this one.
    pub first_threshold: f32,
    /// Frames in which a young object is on probation; answers are late by one less.
    pub hotstart: usize,
    /// A young object goes after this many frames without a detection.
    pub max_unmatched: usize,
    /// A young object goes after this many times as the second object of one detection.
    pub max_duplicate: usize,
    /// Objects are shown from the first of this many frames in a row on which they had a detection; 0
    /// shows all. Answers must be late by as much less one for it.
    pub confirmations: usize,
    /// Every so many frames a track takes over the mask of its detection; 0 is never.
    pub recondition_every: usize,
    /// The detection's score must be at least this for it,
    pub recondition_score: f32,
    /// and its overlap with the track,
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
    /// Repeats what the original of SAM 3.1 does against its own description, to compare with it:
    /// objects that were removed are shown on the frames before; two tracks of one thing are neither
    /// counted as duplicates nor confirmed, as their overlaps are set to 0 before; on the frame of
    /// the prompt detections at the border are not dropped, and dropped ones drop others.
    pub like_official: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            threshold: 0.5,
            nms: 0.1,
            border: 0.,
            match_iou: 0.1,
            unmatched_iou: 0.5,
            new_threshold: 0.7,
            first_threshold: 0.,
            hotstart: 15,
            max_unmatched: 8,
            max_duplicate: 8,
            confirmations: 0,
            recondition_every: 16,
            recondition_score: 0.8,
            recondition_iou: 0.8,
            recondition_object_score: 0.8,
            occlusion_iou: 0.7,
            min_share: 0.3,
            fill_area: 16,
            max_objects: 10_000,
            select_memories: true,
            like_official: false,
        }
    }
}

impl Options {
    /// The rules of the original of a model.
    pub fn of(model: &Sam3) -> Self {
        match model.config().multiplex {
            true => Self::sam31(),
            false => Self::default(),
        }
    }

    /// The rules of the original SAM 3.1.
    pub fn sam31() -> Self {
        Self {
            threshold: 0.4,
            border: 0.025,
            new_threshold: 0.65,
            first_threshold: 0.65,
            confirmations: 3,
            recondition_iou: 0.5,
            recondition_object_score: 1.386_294_4, // of a probability of 0.8
            fill_area: 0,
            max_objects: 16,
            select_memories: false,
            ..Self::default()
        }
    }

    /// Answers without delay: no object is on probation, so none is removed again or has to be
    /// confirmed, no track is reconditioned, and tracked frames of any quality are attended to. The
    /// original's `apply_temporal_disambiguation=False`.
    #[must_use]
    pub fn without_delay(self) -> Self {
        Self {
            hotstart: 0,
            confirmations: 0,
            recondition_every: 0,
            select_memories: false,
            ..self
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
            ("border", self.border),
            ("new_threshold", self.new_threshold),
            ("first_threshold", self.first_threshold),
            ("recondition_score", self.recondition_score),
            ("recondition_iou", self.recondition_iou),
            ("occlusion_iou", self.occlusion_iou),
            ("min_share", self.min_share),
        ] {
            fraction(name, value).map_err(Error::argument)?;
        }
        if self.max_objects == 0 {
            return Err(Error::InvalidArgument(
                "max_objects is 0; there must be room for one object".into(),
            ));
        }
        Ok(())
    }
}
