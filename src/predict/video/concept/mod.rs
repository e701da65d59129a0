//! A text, or a box around one instance, -> every instance of that concept on every frame.
//!
//! Follows `Sam3VideoInferenceWithInstanceInteractivity`,
//! <https://github.com/facebookresearch/sam3/blob/99d02f2/sam3/model/sam3_video_inference.py>.
//!
//! For SAM 3.1 `Sam3MultiplexTrackingWithInteractivity`,
//! <https://github.com/facebookresearch/sam3/blob/96914d2/sam3/model/sam3_multiplex_tracking.py>, by
//! the rules of [`Options::sam31`]. A box is looked at on its own frame, as in SAM 3; that original
//! goes on with a placeholder for the text.
//!
//! The detector looks for instances on every frame, the tracker carries on those that are known, and
//! both are matched. An object is certain after some frames only, so answers come late by
//! [`Options::hotstart`] less one.

mod answers;
#[cfg(all(test, feature = "demo"))]
mod demo_tests;
mod engine;
mod masks;
mod matching;
mod options;
mod probation;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod world;

pub use options::Options;

use serde::{Deserialize, Serialize};

use super::frames::{Frames, check_size};
use super::session::{Keep, Span};
use super::state;
use crate::device::{download_rows, upload};
use crate::image::Image;
use crate::mask::{BoxXyxy, Mask};
use crate::models::sam3::{ExemplarBox, ImageFeatures, Sam3, TextEmbedding};
use crate::models::tracker::{FrameFeatures, Generation, Position, Tracker, TrackingModel};
use crate::predict::concept::{self, Prompt, Verdict};
use crate::{Error, Result, Run, Size};
use answers::{Queue, Waiting};
use engine::{Engine, EngineRecord, Scene};
use matching::Detection;

/// The instances of a concept on one frame.
#[derive(Debug, Clone, PartialEq)]
pub struct ConceptMasks {
    /// Number of the frame, from 0 on.
    pub frame: usize,
    /// The instances, by id.
    pub objects: Vec<ConceptObject>,
}

/// One instance on one frame.
#[derive(Debug, Clone, PartialEq)]
pub struct ConceptObject {
    /// Its number, the same on all frames.
    pub id: u32,
    /// Its pixels, at the size of the frame. Each pixel of a frame belongs to one instance, so there
    /// may be none left.
    pub mask: Mask,
    /// The box around its mask before pixels were given to one instance, in pixels of the frame.
    pub bbox: BoxXyxy,
    /// Score of the detection by which it was found, in 0..1.
    pub score: f32,
    /// Probability that it is visible on this frame.
    pub visible: f32,
}

/// Finds and follows the instances of a concept.
pub struct ConceptSession<'m> {
    model: &'m Sam3,
    tracker: &'m dyn Tracker,
    prompt: Prompt,
    text: TextEmbedding,
    options: Options,
    keep: Keep,
    num_frames: usize,
    engine: Engine,
    queue: Queue,
    size: Option<Size>,
    /// The frame that the prompt was given for, once it was seen.
    prompted: Option<usize>,
    next: usize,
}

impl<'m> ConceptSession<'m> {
    /// A session for a text, or a text with a box, or a box around one instance, in pixels of the
    /// first frame that comes. With a box alone only the objects of that frame are followed.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if the model cannot track; [`Error::InvalidPrompt`] for an empty
    /// prompt and more than one box; [`Error::InvalidArgument`] for options out of range.
    pub fn new(model: &'m Sam3, prompt: Prompt, options: Options) -> Result<Self> {
        Self::with_tracker(model, model.tracker()?, prompt, options)
    }

    /// With another tracker than the model's.
    fn with_tracker(
        model: &'m Sam3,
        tracker: &'m dyn Tracker,
        prompt: Prompt,
        options: Options,
    ) -> Result<Self> {
        options.validate()?;
        if prompt.text.is_none() && prompt.exemplars.is_empty() {
            return Err(Error::prompt(
                "a prompt needs a text or a positive exemplar",
            ));
        }
        if prompt.exemplars.len() > 1 {
            return Err(Error::prompt(format!(
                "{} boxes; a concept in a video takes one",
                prompt.exemplars.len()
            )));
        }
        let text = concept::encode_words(model, prompt.text.as_deref())?;
        Ok(Self {
            model,
            tracker,
            prompt,
            text,
            queue: Queue::new(&options),
            options,
            keep: Keep::Needed,
            num_frames: usize::MAX,
            engine: Engine::default(),
            size: None,
            prompted: None,
            next: 0,
        })
    }

    /// For a video of known length; the network sees it where it is below 16 frames.
    #[must_use]
    pub fn with_num_frames(mut self, num_frames: usize) -> Self {
        self.num_frames = num_frames;
        self
    }

    /// Keeps what tracking backward needs.
    #[must_use]
    pub fn keeping(mut self, keep: Keep) -> Self {
        self.keep = keep;
        self
    }

    /// Memory that is kept of earlier frames, in bytes.
    pub fn bytes(&self) -> usize {
        self.engine
            .groups()
            .iter()
            .map(|group| group.bank().bytes())
            .sum()
    }

    /// The objects that are followed.
    pub fn ids(&self) -> Vec<u32> {
        self.engine.ids()
    }

    /// Takes the next frame of a stream. The answer, if there is one, is that of an earlier frame.
    ///
    /// # Errors
    /// [`Error::InvalidImage`] for a frame of another size than the first; [`Error::InvalidPrompt`]
    /// for a box outside the first; [`Error::Cancelled`].
    pub fn push(&mut self, image: &Image, run: &mut Run) -> Result<Option<ConceptMasks>> {
        let frame = self.next;
        self.next += 1;
        self.process(frame, image, false, run)?;
        Ok(self.queue.pop(self.engine.probation(), false))
    }

    /// The answers that still wait, after the last frame.
    pub fn finish(&mut self) -> Vec<ConceptMasks> {
        std::iter::from_fn(|| self.queue.pop(self.engine.probation(), true)).collect()
    }

    /// Tracks through a span of frames and hands each frame's instances to `found`, all of them: the
    /// last ones come at the end of the span.
    ///
    /// # Errors
    /// As of [`ConceptSession::push`]; [`Error::InvalidArgument`] for a start beyond the end, and
    /// for going backward without [`Keep::All`]; the errors of `frames` and of `found`.
    pub fn propagate(
        &mut self,
        frames: &mut dyn Frames,
        span: Span,
        run: &mut Run,
        found: &mut dyn FnMut(ConceptMasks) -> Result<()>,
    ) -> Result<()> {
        let order = span.order(frames.len(), self.keep)?;
        for (done, frame) in order.iter().enumerate() {
            self.process(*frame, &frames.get(*frame)?, span.reverse, run)?;
            self.next = self.next.max(frame + 1);
            if let Some(masks) = self.queue.pop(self.engine.probation(), false) {
                found(masks)?;
            }
            run.report(done + 1, order.len());
        }
        self.finish().into_iter().try_for_each(found)
    }

    /// Everything that the session needs to go on, as bytes.
    ///
    /// # Errors
    /// If a tensor operation fails.
    pub fn save(&self) -> Result<Vec<u8>> {
        let mut tensors = state::Tensors::new();
        let record = Record {
            model: self.model.name().to_string(),
            engine: self.engine.record(&mut tensors),
            waiting: self.queue.record(),
            size: self.size,
            prompted: self.prompted,
            next: self.next,
        };
        state::to_bytes(&record, &tensors)
    }

    /// Goes on where a session of the same model, prompt and options was saved; what this one had is
    /// forgotten.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for bytes of another model, or that are no session.
    pub fn restore(&mut self, bytes: &[u8]) -> Result<()> {
        let (record, tensors) = state::from_bytes::<Record>(bytes, self.model.device())?;
        state::check_model(&record.model, self.model.name())?;
        let slots = self.tracker.config().slots;
        self.engine = Engine::restore(record.engine, &tensors, slots)?;
        self.queue = Queue::restore(record.waiting, &self.options)?;
        self.size = record.size;
        self.prompted = record.prompted;
        self.next = record.next;
        Ok(())
    }

    /// The number that the next pushed frame will have.
    pub fn next_frame(&self) -> usize {
        self.next
    }

    fn process(&mut self, frame: usize, image: &Image, reverse: bool, run: &mut Run) -> Result<()> {
        let size = check_size(&mut self.size, frame, image.size())?;
        let is_first = self.prompted.is_none();
        if is_first {
            concept::validate(
                std::slice::from_ref(&self.prompt),
                &concept::Options::default(),
                size,
            )?;
        }
        let embedding = self.model.encode_image(image, run)?;
        let features = self.model.frame_features(&embedding)?;
        self.step((frame, reverse), &embedding.features, &features, run)
    }

    /// Finds and tracks on an encoded frame.
    fn step(
        &mut self,
        (frame, reverse): (usize, bool),
        image: &ImageFeatures,
        features: &FrameFeatures,
        run: &mut Run,
    ) -> Result<()> {
        let is_first = self.prompted.is_none();
        let found = match self.prompt.text.is_some() || is_first {
            true => self.find(image, features.size, run)?,
            false => vec![],
        };
        let detections = self.best(&found, false);
        let prompted = is_first.then(|| self.best(&found, true));
        let on = Scene {
            tracker: self.tracker,
            frame: features,
            at: Position {
                frame,
                num_frames: self.num_frames,
                reverse,
            },
            options: &self.options,
        };
        if let Some(detections) = prompted {
            self.prompted = Some(frame);
            self.engine.step(&on, &detections)?;
        }
        let step = run.stage("track", || self.engine.step(&on, &detections))?;
        self.queue.push(frame, step.answers);
        if self.keep == Keep::Needed {
            let rules = self.options.rules(self.tracker.config());
            for group in self.engine.groups_mut() {
                group.forget_before(&rules, frame);
            }
        }
        Ok(())
    }

    /// What the detector finds on a frame, with what overlaps; the box holds for the first one only.
    fn find(&self, image: &ImageFeatures, size: Size, run: &mut Run) -> Result<Vec<Detection>> {
        let boxes: Vec<ExemplarBox> = match self.prompted {
            None => self
                .prompt
                .exemplars
                .iter()
                .map(|e| e.normalize(size))
                .collect(),
            Some(_) => vec![],
        };
        let detector = self.model.detector();
        let grounding = detector.ground(image, &[(&self.text.features, &boxes)], run)?;
        let verdicts = Verdict::of(&grounding)?;
        let [verdict] = &verdicts[..] else {
            // One per prompt; this tells a bug from a bad image.
            return Err(candle::Error::msg("no answer to the prompt").into());
        };
        let scores: Vec<f32> = verdict.scores.iter().copied().map(joint_score).collect();
        let kept = concept::keep(&scores, self.options.threshold, None);
        if kept.is_empty() {
            return Ok(vec![]);
        }
        let queries = upload(kept.clone(), kept.len(), grounding.pixels.device())?;
        let hs = grounding.found.hs.index_select(&queries, 1)?;
        let maps = detector
            .masks(&grounding.pixels, &hs)?
            .to_dtype(candle::DType::F32)?;
        let side = maps.dim(3)?;
        let margin = self.options.border;
        let is_near = |centre: &f32| margin > 0. && (*centre <= margin || *centre >= 1. - margin);
        let maps = download_rows::<f32>(&maps.squeeze(0)?)?;
        let detection = |(i, logits): (&u32, Vec<f32>)| Detection {
            score: scores[*i as usize],
            mask: masks::cut(&logits, side),
            logits,
            is_at_border: verdict.boxes[*i as usize][..2].iter().any(is_near),
        };
        let found = kept.iter().zip(maps);
        Ok(found.map(detection).collect())
    }

    /// The detections that overlap no better one, on the frame of the prompt or on any.
    fn best(&self, found: &[Detection], is_prompted: bool) -> Vec<Detection> {
        let (options, generation) = (&self.options, self.tracker.config().generation);
        let is_official = is_prompted && options.like_official && generation == Generation::Sam31;
        let best = match is_official {
            true => matching::suppress_all(found, options.nms),
            false => matching::suppress(found, options.nms, generation),
        };
        best.into_iter().map(|i| found[i].clone()).collect()
    }
}

/// What is saved of a session besides tensors.
#[derive(Serialize, Deserialize)]
struct Record {
    model: String,
    engine: EngineRecord,
    waiting: Vec<Waiting>,
    size: Option<Size>,
    prompted: Option<usize>,
    next: usize,
}

/// A score as the original stores it: as a logit whose argument stays 1e-3 away from 0 and 1.
fn joint_score(score: f32) -> f32 {
    const EPS: f32 = 1e-3;
    let (yes, no) = (score.max(EPS), (1. - score).max(EPS));
    yes / (yes + no)
}
