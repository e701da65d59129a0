//! Prompts are answered at once, and the answers wait to be remembered.

use super::{Group, Known, Pending};
use crate::device::upload;
use crate::image::resample::resize_antialias;
use crate::mask::Mask;
use crate::models::tracker::{
    Answers, FrameFeatures, Generation, LabeledPoint, Memories, Position, Tracker,
};
use crate::{Result, Size};

/// Largest magnitude of logits that go back as a mask prompt.
const MAX_PROMPT_LOGIT: f64 = 32.;
/// Object score of a mask that is given, negative for an empty one.
pub(super) const GIVEN_SCORE: f32 = 10.;
/// Magnitude of the logits that SAM 2.1 makes of a mask that is given.
const GIVEN_LOGIT: f32 = 10.;

impl Group {
    /// Answers points and corners of a box, in pixels of the model's input; `keep` adds them to
    /// those that the object has on this frame, of a video of `num_frames`.
    pub(crate) fn add_points(
        &mut self,
        tracker: &dyn Tracker,
        (t, frame): (usize, &FrameFeatures),
        id: u32,
        points: &[LabeledPoint],
        keep: bool,
        num_frames: usize,
    ) -> Result<()> {
        let config = tracker.config();
        let index = self.index_or_new(id);
        let stored = self.objects[index].points.get(&t);
        let mut all = stored.filter(|_| keep).cloned().unwrap_or_default();
        all.extend_from_slice(points);
        if let Some(max) = config.max_prompt_points.filter(|max| *max < all.len()) {
            let first = max / 2;
            all.drain(first..all.len() - (max - first));
        }
        let earlier = match self.known_of(t, index)? {
            Known::Logits(logits) if config.generation != Generation::Sam31 => {
                Some(logits.clamp(-MAX_PROMPT_LOGIT, MAX_PROMPT_LOGIT)?)
            }
            _ => None,
        };
        let selection = match (config.generation, self.tracked.get(&t)) {
            (Generation::Sam2, Some(reverse)) if self.bank.cond_frames().next().is_some() => {
                let at = Position {
                    frame: t,
                    num_frames,
                    reverse: *reverse,
                };
                Some(self.bank.select(&config.rules(), at))
            }
            _ => None,
        };
        let memory = selection.as_ref().map(|selection| Memories {
            bank: &self.bank,
            slots: &self.slots,
            selection,
            num_frames,
        });
        let answers = tracker.prompt(frame, &all, earlier.as_ref(), memory)?;
        let object = &mut self.objects[index];
        object.points.insert(t, all);
        object.masks.remove(&t);
        let pending = Pending {
            answers,
            mask: None,
        };
        object.pending.insert(t, pending);
        self.frames.insert(t, frame.clone());
        Ok(())
    }

    /// Takes a mask of any size as the object's; other masks given for the frame lose what it
    /// covers.
    pub(crate) fn add_mask(
        &mut self,
        tracker: &dyn Tracker,
        (t, frame): (usize, &FrameFeatures),
        id: u32,
        mask: &Mask,
    ) -> Result<()> {
        let index = self.index_or_new(id);
        let side = 4 * tracker.config().low_res_side();
        let generation = tracker.config().generation;
        let mut soft = resized(mask, [0., 1.], Size::square(side))?;
        if generation == Generation::Sam2 {
            soft.iter_mut()
                .for_each(|share| *share = f32::from(*share >= 0.5));
        }
        let is_drawn = soft.iter().any(|share| *share > 0.);
        let device = frame.image.tokens.device();
        let prompt = upload(soft.clone(), (1, side, side), device)?;
        let pointers = tracker.point_to_mask(frame, &prompt)?;
        let (low_res_logits, mask) = match generation {
            Generation::Sam2 => {
                let low = Size::square(tracker.config().low_res_side());
                let logit = |share: &f32| (2. * share - 1.) * GIVEN_LOGIT;
                let logits: Vec<f32> = soft.iter().map(logit).collect();
                let logits = resize_antialias(&logits, Size::square(side), low)?;
                let shape = (1, low.height, low.width);
                (upload(logits, shape, device)?, None)
            }
            Generation::Sam3 | Generation::Sam31 => {
                // logits are made when the mask is remembered
                (prompt, Some(at_frame_size(mask, frame.size)?))
            }
        };

        let answers = Answers {
            pointers,
            low_res_logits,
            object_scores: vec![if is_drawn { GIVEN_SCORE } else { -GIVEN_SCORE }],
            iou_scores: vec![1.],
        };
        for (i, other) in self.objects.iter_mut().enumerate() {
            if i != index
                && let Some(given) = other.given(t)
                && let Some(mask) = &mask
            {
                given.subtract(mask);
            }
        }
        let object = &mut self.objects[index];
        object.points.remove(&t);
        object.masks.insert(t);
        let pending = Pending { answers, mask };
        object.pending.insert(t, pending);
        self.frames.insert(t, frame.clone());
        Ok(())
    }

    /// Takes masks as those of several objects at once: of SAM 3.1 none of them has what two cover.
    pub(crate) fn add_masks(
        &mut self,
        tracker: &dyn Tracker,
        (t, frame): (usize, &FrameFeatures),
        masks: &[(u32, Mask)],
    ) -> Result<()> {
        for (id, mask) in masks {
            self.add_mask(tracker, (t, frame), *id, mask)?;
        }
        if tracker.config().generation != Generation::Sam31 {
            return Ok(());
        }
        let drawn = masks
            .iter()
            .map(|(_, mask)| at_frame_size(mask, frame.size));
        let drawn = drawn.collect::<Result<Vec<_>>>()?;
        for (i, (id, _)) in masks.iter().enumerate() {
            let object = self.objects.iter_mut().find(|object| object.id == *id);
            if let Some(given) = object.and_then(|object| object.given(t)) {
                let others = drawn.iter().enumerate().filter(|(j, _)| *j != i);
                others.for_each(|(_, other)| given.subtract(other));
            }
        }
        Ok(())
    }
}

/// Values for the pixels outside and inside of a mask, at another size.
pub(super) fn resized(mask: &Mask, values: [f32; 2], size: Size) -> Result<Vec<f32>> {
    let pixels = mask.to_bytes(1).into_iter();
    let map: Vec<f32> = pixels.map(|inside| values[usize::from(inside)]).collect();
    resize_antialias(&map, mask.size(), size)
}

/// A mask at the size of a frame.
fn at_frame_size(mask: &Mask, size: Size) -> Result<Mask> {
    let shares = resized(mask, [0., 1.], size)?;
    Ok(Mask::from_fn(size.width, size.height, |x, y| {
        shares[y * size.width + x] > 0.5
    }))
}
