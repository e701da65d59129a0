//! Answers wait until it is certain which objects stay.

use std::collections::VecDeque;

use super::engine::Answer;
use super::probation::Probation;
use super::{ConceptMasks, ConceptObject, Options};
use crate::Result;
use crate::mask::{BoxXyxy, Mask, Rle};

/// A frame and its answers: id, mask, score, probability of being visible.
pub(crate) type Waiting = (usize, Vec<(u32, Rle, f32, f32)>);

/// Frames whose answers are not out yet.
#[derive(Debug, Clone)]
pub(crate) struct Queue {
    waiting: VecDeque<(usize, Vec<Answer>)>,
    /// Frames that wait before the first of them is answered.
    delay: usize,
    /// Frames after which an object must be confirmed to be shown.
    confirmed_after: usize,
    /// Objects that were removed are shown on the frames before.
    shows_removed: bool,
}

impl Queue {
    pub(crate) fn new(options: &Options) -> Self {
        Self {
            waiting: VecDeque::new(),
            delay: options.hotstart.max(1),
            confirmed_after: options.confirmations.saturating_sub(1),
            shows_removed: options.like_official,
        }
    }

    pub(crate) fn push(&mut self, frame: usize, answers: Vec<Answer>) {
        self.waiting.push_back((frame, answers));
    }

    /// The frame that waited longest, if that was long enough or the last one has come and `is_over`;
    /// without what was removed since.
    pub(crate) fn pop(&mut self, probation: &Probation, is_over: bool) -> Option<ConceptMasks> {
        if !is_over && self.waiting.len() < self.delay {
            return None;
        }
        let (frame, mut answers) = self.waiting.pop_front()?;
        if !self.shows_removed {
            answers.retain(|answer| !probation.removed().contains(&answer.id));
        }
        let unconfirmed = probation.unconfirmed(frame, self.confirmed_after, is_over);
        answers.retain(|answer| !unconfirmed.contains(&answer.id));
        Some(shown(frame, answers))
    }

    /// The frames that wait, to be saved.
    pub(crate) fn record(&self) -> Vec<Waiting> {
        let answer = |a: &Answer| (a.id, Rle::encode(&a.mask), a.score, a.visible);
        let waiting = self.waiting.iter();
        waiting
            .map(|(t, answers)| (*t, answers.iter().map(answer).collect()))
            .collect()
    }

    /// Frames that waited when they were saved.
    ///
    /// # Errors
    /// [`crate::Error::InvalidMask`] for a broken mask.
    pub(crate) fn restore(waiting: Vec<Waiting>, options: &Options) -> Result<Self> {
        let answer = |(id, mask, score, visible): (u32, Rle, f32, f32)| {
            Ok(Answer {
                id,
                mask: mask.decode()?,
                score,
                visible,
            })
        };
        let frame = |(t, answers): Waiting| {
            let answers = answers
                .into_iter()
                .map(answer)
                .collect::<Result<Vec<_>>>()?;
            Ok((t, answers))
        };
        Ok(Self {
            waiting: waiting.into_iter().map(frame).collect::<Result<_>>()?,
            ..Self::new(options)
        })
    }
}

/// The objects of a frame that have a mask, by id. Each pixel belongs to one of them.
///
/// Easy to get wrong: boxes are of the masks before pixels are given to one object, so an object may
/// be left without any.
fn shown(frame: usize, mut answers: Vec<Answer>) -> ConceptMasks {
    answers.retain(|answer| !answer.mask.is_empty());
    answers.sort_by_key(|answer| answer.id);
    let boxes: Vec<BoxXyxy> = answers.iter().filter_map(|a| a.mask.bbox()).collect();
    let mut by_visibility: Vec<usize> = (0..answers.len()).collect();
    by_visibility.sort_by(|a, b| answers[*b].visible.total_cmp(&answers[*a].visible)); // stable
    let mut taken: Option<Mask> = None;
    for i in by_visibility {
        let mask = &mut answers[i].mask;
        let own = mask.clone();
        match &mut taken {
            None => taken = Some(own),
            Some(taken) => {
                mask.subtract(taken);
                taken.unite(&own);
            }
        }
    }
    let objects = answers
        .into_iter()
        .zip(boxes)
        .map(|(answer, bbox)| ConceptObject {
            id: answer.id,
            mask: answer.mask,
            bbox,
            score: answer.score,
            visible: answer.visible,
        });
    ConceptMasks {
        frame,
        objects: objects.collect(),
    }
}
