//! Objects that are tracked together: their prompts, answers and memories.
//!
//! Follows `Sam3TrackerPredictor`,
//! <https://github.com/facebookresearch/sam3/blob/99d02f2/sam3/model/sam3_tracking_predictor.py#L14>,
//! and for SAM 2.1 `SAM2VideoPredictor` with `add_all_frames_to_correct_as_cond`,
//! <https://github.com/facebookresearch/sam2/blob/2b90b9f/sam2/sam2_video_predictor.py#L19>.
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

use std::collections::{BTreeMap, BTreeSet};

use candle::Tensor;

use crate::image::resample::resize_antialias;
use crate::mask::Mask;
use crate::mask::upsample::threshold_upsampled;
use crate::models::tracker::{
    ABSENT_LOGIT, Answers, Entry, FrameFeatures, Generation, LabeledPoint, MaskProbability,
    Memories, MemoryBank, Position, Rules, Tracker, non_overlapping,
};
use crate::nn::sample::resize_bilinear;
use crate::{Error, Result, Size};

/// Largest magnitude of logits that go back as a mask prompt.
const MAX_PROMPT_LOGIT: f64 = 32.;
/// Object score of a mask that is given, negative for an empty one.
const GIVEN_SCORE: f32 = 10.;
/// Magnitude of the logits that SAM 2.1 makes of a mask that is given.
const GIVEN_LOGIT: f32 = 10.;

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
}

/// Objects that are tracked together.
#[derive(Debug, Clone, Default)]
pub(crate) struct Group {
    pub(super) objects: Vec<Object>,
    bank: MemoryBank,
    /// Frames with pending answers.
    frames: BTreeMap<usize, FrameFeatures>,
    /// Whether tracking has begun: from then on the objects stay the same.
    started: bool,
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
    pub(super) fn from_parts(
        objects: Vec<Object>,
        bank: MemoryBank,
        started: bool,
        tracked: BTreeMap<usize, bool>,
    ) -> Self {
        Self {
            objects,
            bank,
            frames: BTreeMap::new(),
            started,
            tracked,
        }
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = u32> + '_ {
        self.objects.iter().map(|object| object.id)
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
        self.objects.iter().position(|object| object.id == id)
    }

    /// The place of the object; a new one is appended.
    fn index_or_new(&mut self, id: u32) -> usize {
        self.index(id).unwrap_or_else(|| {
            self.objects.push(Object::new(id));
            self.objects.len() - 1
        })
    }

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
        let index = self.index_or_new(id);
        let object = &mut self.objects[index];
        let mut all = match keep {
            true => object.points.get(&t).cloned().unwrap_or_default(),
            false => vec![],
        };
        all.extend_from_slice(points);
        if let Some(max) = tracker
            .config()
            .max_prompt_points
            .filter(|max| *max < all.len())
        {
            let first = max / 2;
            all.drain(first..all.len() - (max - first));
        }
        let earlier = match object.pending.get(&t) {
            Some(Pending { mask: Some(_), .. }) => None,
            Some(pending) => Some(pending.answers.low_res_logits.clone()),
            None => match self.bank.get(t) {
                Some(entry) => entry.answer(index)?.map(|answers| answers.low_res_logits),
                None => None,
            },
        };
        let clamp = |xs: Tensor| xs.clamp(-MAX_PROMPT_LOGIT, MAX_PROMPT_LOGIT);
        let earlier = earlier.map(clamp).transpose()?;
        let config = tracker.config();
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
            selection,
            num_frames,
        });
        let answers = tracker.prompt(frame, &all, earlier.as_ref(), memory)?;
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
        let shares: Vec<f32> = mask.to_bytes(1).into_iter().map(f32::from).collect();
        let side = 4 * tracker.config().low_res_side();
        let generation = tracker.config().generation;
        let mut soft = resize_antialias(&shares, mask.size(), Size::square(side))?;
        if generation == Generation::Sam2 {
            soft.iter_mut()
                .for_each(|share| *share = f32::from(*share >= 0.5));
        }
        let is_drawn = soft.iter().any(|share| *share > 0.);
        let device = frame.image.tokens.device();
        let prompt = Tensor::new(soft.as_slice(), device)?.reshape((1, side, side))?;
        let pointers = tracker.point_to_mask(frame, &prompt)?;
        let (low_res_logits, mask) = match generation {
            Generation::Sam2 => {
                let low = Size::square(tracker.config().low_res_side());
                let logit = |share: &f32| (2. * share - 1.) * GIVEN_LOGIT;
                let logits: Vec<f32> = soft.iter().map(logit).collect();
                let logits = resize_antialias(&logits, Size::square(side), low)?;
                let shape = (1, low.height, low.width);
                (Tensor::from_vec(logits, shape, device)?, None)
            }
            Generation::Sam3 => {
                let shares = resize_antialias(&shares, mask.size(), frame.size)?;
                let mask = Mask::from_fn(frame.size.width, frame.size.height, |x, y| {
                    shares[y * frame.size.width + x] > 0.5
                });
                (prompt, Some(mask)) // logits are made when the mask is remembered
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
                && let Some(Pending {
                    mask: Some(given), ..
                }) = other.pending.get_mut(&t)
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

    /// The latest answer for each object on a frame.
    pub(crate) fn known(&self, t: usize) -> Result<Vec<(u32, Known)>> {
        let known = |(i, object): (usize, &Object)| {
            let known = match object.pending.get(&t) {
                Some(Pending {
                    mask: Some(mask), ..
                }) => Known::Given(mask.clone()),
                Some(pending) => Known::Logits(pending.answers.low_res_logits.clone()),
                None => match self.bank.get(t).map(|entry| entry.answer(i)).transpose()? {
                    Some(Some(answers)) => Known::Logits(answers.low_res_logits),
                    _ => Known::Nothing,
                },
            };
            Ok((object.id, known))
        };
        self.objects.iter().enumerate().map(known).collect()
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
        Some((entry.object_scores[index], entry.iou_scores[index]))
    }

    /// Remembers the frames that were prompted since tracking went on last.
    pub(crate) fn remember_prompts(&mut self, tracker: &dyn Tracker) -> Result<()> {
        self.started = true;
        for (t, frame) in std::mem::take(&mut self.frames) {
            let answers = (0..self.objects.len()).map(|i| self.consolidated(tracker, t, i));
            let answers = Answers::join(&answers.collect::<Result<Vec<_>>>()?)?;
            let logits = resize_bilinear(
                &answers.low_res_logits.unsqueeze(1)?,
                tracker.config().image_size,
            )?;
            let logits = non_overlapping(&logits.squeeze(1)?)?;
            let scores = &answers.object_scores;
            let memory = tracker.remember(&frame, &logits, scores, MaskProbability::Binary)?;
            self.bank
                .insert_cond(t, Entry::prompted(answers, Some(memory)));
            for object in &mut self.objects {
                object.pending.remove(&t);
            }
        }
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
                low_res_logits: Tensor::from_vec(logits, (1, side, side), device)?,
                ..pending.answers.clone()
            });
        }
        let earlier = self.bank.get(t).map(|entry| entry.answer(i)).transpose()?;
        if let Some(Some(answers)) = earlier {
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

    /// Makes the frames with pending answers conditioning ones; what is remembered of them stays as
    /// it is until [`Group::set_memory`].
    pub(crate) fn condition_on_pending(&mut self, tracker: &dyn Tracker) -> Result<()> {
        for (t, _) in std::mem::take(&mut self.frames) {
            let answers = (0..self.objects.len()).map(|i| self.consolidated(tracker, t, i));
            let answers = Answers::join(&answers.collect::<Result<Vec<_>>>()?)?;
            let memory = self.bank.get(t).and_then(|entry| entry.memory.clone());
            self.bank.insert_cond(t, Entry::prompted(answers, memory));
            for object in &mut self.objects {
                object.pending.remove(&t);
            }
        }
        Ok(())
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
        let Some(entry) = self.bank.get(at.frame) else {
            return Ok(());
        };
        let Some(logits) = &entry.low_res_logits else {
            return Ok(());
        };
        let side = tracker.config().image_size;
        let logits = resize_bilinear(&logits.unsqueeze(1)?, side)?.squeeze(1)?;
        let scores = &entry.object_scores;
        let memory = tracker.remember(frame, &logits, scores, MaskProbability::Sigmoid)?;
        self.set_memory(at.frame, memory);
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
            selection: &selection,
            num_frames: at.num_frames,
        };
        let answers = tracker.track(frame, memory)?;
        self.bank
            .insert_ordinary(at.frame, Entry::tracked(answers, None));
        Ok(true)
    }

    /// What is remembered of a frame from now on.
    pub(crate) fn set_memory(&mut self, t: usize, memory: Tensor) {
        if let Some(entry) = self.bank.get_mut(t) {
            entry.memory = Some(memory);
        }
    }

    /// Of each object its id, low-resolution logits and object score on a frame that was answered.
    pub(crate) fn logits(&self, t: usize) -> Result<Vec<(u32, Vec<f32>, f32)>> {
        let Some(entry) = self.bank.get(t) else {
            return Ok(vec![]);
        };
        let Some(logits) = &entry.low_res_logits else {
            return Ok(vec![]);
        };
        let logits = logits.flatten_from(1)?.to_vec2::<f32>()?;
        let objects = self.ids().zip(logits).zip(&entry.object_scores);
        Ok(objects
            .map(|((id, logits), score)| (id, logits, *score))
            .collect())
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
        if !self.objects.iter().any(|o| o.pending.contains_key(&t)) {
            self.frames.remove(&t);
        }
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

    /// Takes an object out, with its prompts.
    ///
    /// # Errors
    /// [`Error::InvalidPrompt`] for an object that is not here.
    pub(crate) fn remove(&mut self, id: u32) -> Result<()> {
        let index = self.index(id).ok_or_else(|| unknown(id))?;
        if self.objects.len() == 1 {
            *self = Self::default();
            return Ok(());
        }
        let object = &self.objects[index];
        let prompted: BTreeSet<usize> =
            object.points.keys().chain(&object.masks).copied().collect();
        for t in prompted {
            self.clear(t, id)?;
        }
        self.objects.remove(index);
        let all = 0..=self.objects.len();
        let others: Vec<u32> = all.filter(|i| *i != index).map(|i| i as u32).collect();
        Ok(self.bank.keep_objects(&others)?)
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
            let map = logits.flatten_all()?.to_vec1::<f32>()?;
            threshold_upsampled(&map, Size::new(w, h), size, 0.)
        }
    }
}
