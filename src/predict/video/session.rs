//! Points, boxes and masks on some frames -> those objects on every frame.

use serde::{Deserialize, Serialize};

use crate::image::Image;
use crate::mask::Mask;
use crate::models::VisualPrompt;
use crate::models::head::Label;
use crate::models::tracker::{
    FrameFeatures, Generation, LabeledPoint, Position, Tracker, TrackingModel,
};
use crate::{Error, Result, Run, Size};

use super::frames::{Frames, check_size, no_such_frame};
use super::group::{Group, Prompted, mask_of, unknown};
use super::state::{self, GroupRecord};
use super::{FrameMasks, ObjectMask};

/// How a session tracks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Options {
    /// Frames of the video, where that is known. Of videos with fewer than 16 frames the network
    /// sees the length.
    pub num_frames: Option<usize>,
    /// What is kept of earlier frames.
    pub keep: Keep,
    /// Which objects are tracked together.
    pub grouping: Grouping,
}

/// What a session keeps of earlier frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Keep {
    /// What later frames can still attend to: constant memory, and tracking only goes forward.
    #[default]
    Needed,
    /// All of it, for prompts on earlier frames and for tracking backward: some 2 MB for each
    /// object and frame.
    All,
}

/// Which objects share a batch and the choice of the frames they attend to, and in SAM 3.1 the passes
/// that answer 16 of them. SAM 2.1 tracks each object alone whatever this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Grouping {
    /// Those that were first prompted on the same frame.
    #[default]
    FirstFrame,
    /// All that are prompted before tracking begins, as the original does. An object counts as not
    /// visible on a frame on which only others are prompted before it was tracked there.
    Together,
}

/// Frames to track, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The first frame.
    pub start: usize,
    /// How many frames, to the end of the video by default.
    pub count: Option<usize>,
    /// From later to earlier frames.
    pub reverse: bool,
}

impl Span {
    /// From a frame to the end.
    pub fn forward(start: usize) -> Self {
        Self {
            start,
            count: None,
            reverse: false,
        }
    }

    /// From a frame back to the first one.
    pub fn backward(start: usize) -> Self {
        Self {
            reverse: true,
            ..Self::forward(start)
        }
    }

    /// The frames of a video of `len` in the order of tracking.
    pub(super) fn order(self, len: usize, keep: Keep) -> Result<Vec<usize>> {
        if self.start >= len {
            return Err(Error::InvalidArgument(format!(
                "tracking from frame {} of a video of {len} frames; they are numbered from 0",
                self.start
            )));
        }
        if self.reverse && keep != Keep::All {
            return Err(Error::InvalidArgument(
                "tracking backward needs earlier frames; use `Keep::All`".into(),
            ));
        }
        let count = self.count.unwrap_or(usize::MAX);
        Ok(match self.reverse {
            false => (self.start..len).take(count).collect(),
            true => (0..=self.start).rev().take(count).collect(),
        })
    }
}

/// Objects that are followed through a video from prompts.
///
/// Frames come one by one, with [`Session::push`], or any time from a source of frames, with
/// [`Session::open`] and [`Session::propagate`]. Coordinates are pixels of the frames.
pub struct Session<'m> {
    model: &'m dyn TrackingModel,
    tracker: &'m dyn Tracker,
    options: Options,
    pub(super) groups: Vec<Group>,
    first_frames: Vec<usize>, // of each group
    size: Option<Size>,
    next: usize,
    current: Option<(usize, FrameFeatures)>,
}

impl<'m> Session<'m> {
    /// A session without objects.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if the model cannot track.
    pub fn new(model: &'m dyn TrackingModel, options: Options) -> Result<Self> {
        Ok(Self {
            model,
            tracker: model.tracker()?,
            options,
            groups: vec![],
            first_frames: vec![],
            size: None,
            next: 0,
            current: None,
        })
    }

    /// The objects, in the order in which they are tracked.
    pub fn ids(&self) -> Vec<u32> {
        self.groups.iter().flat_map(Group::ids).collect()
    }

    /// The number that the next pushed frame will have.
    pub fn next_frame(&self) -> usize {
        self.next
    }

    /// Memory that is kept of earlier frames, in bytes.
    pub fn bytes(&self) -> usize {
        self.groups.iter().map(|group| group.bank().bytes()).sum()
    }

    /// Takes the next frame of a stream and tracks all objects to it.
    ///
    /// # Errors
    /// [`Error::InvalidImage`] for a frame of another size than the first; [`Error::Cancelled`].
    pub fn push(&mut self, image: &Image, run: &mut Run) -> Result<FrameMasks> {
        let frame = self.next;
        self.open(frame, image, run)?;
        self.next = frame + 1;
        self.track(frame, false, run)
    }

    /// Encodes a frame, so that it can be prompted. It is the current one until the next one comes.
    ///
    /// # Errors
    /// As of [`Session::push`]; [`Error::InvalidArgument`] for a frame beyond the video's end.
    pub fn open(&mut self, frame: usize, image: &Image, run: &mut Run) -> Result<()> {
        if let Some(len) = self.options.num_frames.filter(|len| frame >= *len) {
            return Err(no_such_frame(frame, len));
        }
        check_size(&mut self.size, frame, image.size())?;
        let features = self.model.encode_frame(image, run)?;
        self.current = Some((frame, features));
        Ok(())
    }

    /// Answers points or a box, or both, for a new or a known object on the current frame. They
    /// take the place of earlier prompts of that object on this frame; its last mask helps.
    ///
    /// # Errors
    /// [`Error::InvalidPrompt`] for a prompt without points and box, or outside the frame;
    /// [`Error::InvalidArgument`] for a frame that is not the current one.
    pub fn prompt(&mut self, frame: usize, id: u32, prompt: &VisualPrompt) -> Result<FrameMasks> {
        self.add_points(frame, id, prompt, false)
    }

    /// Like [`Session::prompt`], with the points added to those that the object has on this frame.
    ///
    /// # Errors
    /// As of [`Session::prompt`], and [`Error::InvalidPrompt`] for a box, which comes first.
    pub fn refine(&mut self, frame: usize, id: u32, prompt: &VisualPrompt) -> Result<FrameMasks> {
        if prompt.bbox.is_some() {
            return Err(Error::prompt(
                "a box cannot be added to earlier points; prompt the object anew with both",
            ));
        }
        self.add_points(frame, id, prompt, true)
    }

    fn add_points(
        &mut self,
        frame: usize,
        id: u32,
        prompt: &VisualPrompt,
        keep: bool,
    ) -> Result<FrameMasks> {
        let features = self.prompted_features(frame)?;
        let points = labeled_points(prompt, features.size, self.tracker.config().image_size)?;
        let (tracker, num_frames) = (self.tracker, self.num_frames());
        let group = self.group_for(frame, id);
        group.add_points(tracker, (frame, &features), id, &points, keep, num_frames)?;
        self.masks(frame, features.size)
    }

    /// Takes a mask as an object's on the current frame; masks that were given for other objects
    /// there lose what it covers.
    ///
    /// # Errors
    /// [`Error::InvalidMask`] for an empty size; [`Error::InvalidArgument`] for a frame that is not
    /// the current one.
    pub fn prompt_mask(&mut self, frame: usize, id: u32, mask: &Mask) -> Result<FrameMasks> {
        let features = self.prompted_features(frame)?;
        let tracker = self.tracker;
        let group = self.group_for(frame, id);
        group.add_mask(tracker, (frame, &features), id, mask)?;
        self.masks(frame, features.size)
    }

    /// Refuses frames that tracking has passed, unless all is kept of them.
    fn prompted_features(&self, frame: usize) -> Result<FrameFeatures> {
        if self.options.keep == Keep::Needed && frame + 1 < self.next {
            return Err(Error::InvalidArgument(format!(
                "a prompt on frame {frame} after frame {} was tracked; earlier frames are kept with \
                 `Keep::All`",
                self.next - 1
            )));
        }
        self.features(frame)
    }

    fn features(&self, frame: usize) -> Result<FrameFeatures> {
        match &self.current {
            Some((current, features)) if *current == frame => Ok(features.clone()),
            Some((current, _)) => Err(Error::InvalidArgument(format!(
                "a prompt on frame {frame} while frame {current} is the current one; open frame \
                 {frame} before"
            ))),
            None => Err(Error::InvalidArgument(format!(
                "a prompt on frame {frame} before any frame was pushed or opened"
            ))),
        }
    }

    fn num_frames(&self) -> usize {
        self.options.num_frames.unwrap_or(usize::MAX)
    }

    /// The group that the object is in or joins.
    fn group_for(&mut self, frame: usize, id: u32) -> &mut Group {
        let together = self.options.grouping == Grouping::Together;
        let alone = self.tracker.config().generation == Generation::Sam2;
        let joins = |(group, first): (&Group, &usize)| {
            group.is_open() && !alone && (together || *first == frame)
        };
        let known = self.groups.iter().position(|group| group.has(id));
        let open = || self.groups.iter().zip(&self.first_frames).position(joins);
        let index = known.or_else(open).unwrap_or_else(|| {
            self.groups.push(Group::new(self.tracker.config().slots));
            self.first_frames.push(frame);
            self.groups.len() - 1
        });
        &mut self.groups[index]
    }

    /// Tracks all objects to the current frame.
    fn track(&mut self, frame: usize, reverse: bool, run: &mut Run) -> Result<FrameMasks> {
        let features = self.features(frame)?;
        let at = Position {
            frame,
            num_frames: self.num_frames(),
            reverse,
        };
        let rules = self.tracker.config().rules();
        for group in &mut self.groups {
            if group.is_pending() {
                group.remember_prompts(self.tracker, Prompted::Conditioning)?;
            }
            if group.bank().cond_frames().next().is_some() {
                run.stage("track", || {
                    group.track(self.tracker, &features, (at, &rules))
                })?;
            }
        }
        let masks = self.masks(frame, features.size)?;
        if self.options.keep == Keep::Needed {
            // A correction of SAM 2.1 on this frame looks at what this frame could look at.
            let last = match self.tracker.config().generation {
                Generation::Sam2 => frame.saturating_sub(1),
                Generation::Sam3 | Generation::Sam31 => frame,
            };
            for group in &mut self.groups {
                group.forget_before(&rules, last);
            }
        }
        Ok(masks)
    }

    /// Tracks all objects through a span of frames and hands each frame's masks to `found`.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a start beyond the end, without any prompt, and for going
    /// backward without [`Keep::All`]; the errors of `frames` and of `found`; [`Error::Cancelled`].
    pub fn propagate(
        &mut self,
        frames: &mut dyn Frames,
        span: Span,
        run: &mut Run,
        found: &mut dyn FnMut(FrameMasks) -> Result<()>,
    ) -> Result<()> {
        let order = span.order(frames.len(), self.options.keep)?;
        if self.groups.is_empty() {
            return Err(Error::InvalidArgument(
                "there is nothing to track; prompt an object on a frame first".into(),
            ));
        }
        for (done, frame) in order.iter().enumerate() {
            let current = self.current.as_ref().map(|(current, _)| current);
            if current != Some(frame) {
                self.open(*frame, &frames.get(*frame)?, run)?;
            }
            found(self.track(*frame, span.reverse, run)?)?;
            self.next = self.next.max(frame + 1);
            run.report(done + 1, order.len());
        }
        Ok(())
    }

    /// Takes back the prompts of an object on a frame. The frame is then one like any other, and an
    /// object without any prompt is forgotten.
    ///
    /// # Errors
    /// [`Error::InvalidPrompt`] for an unknown object.
    pub fn clear(&mut self, frame: usize, id: u32) -> Result<()> {
        self.group_of(id)?.clear(frame, id)
    }

    /// Takes an object out.
    ///
    /// # Errors
    /// [`Error::InvalidPrompt`] for an unknown object.
    pub fn remove(&mut self, id: u32) -> Result<()> {
        self.group_of(id)?.remove(id)?;
        let is_left = |group: &Group| group.ids().next().is_some();
        let mut groups = self.groups.iter();
        self.first_frames
            .retain(|_| groups.next().is_some_and(is_left));
        self.groups.retain(is_left);
        Ok(())
    }

    /// Everything that the session needs to go on, as bytes; prompts are looked at first. The current
    /// frame is not part of it.
    ///
    /// # Errors
    /// If a tensor operation fails.
    pub fn save(&mut self) -> Result<Vec<u8>> {
        for group in self.groups.iter_mut().filter(|group| group.is_pending()) {
            group.remember_prompts(self.tracker, Prompted::Conditioning)?;
        }
        let mut tensors = state::Tensors::new();
        let groups = self.groups.iter().enumerate();
        let record = Record {
            model: self.model.name().to_string(),
            groups: groups
                .map(|(i, g)| state::record_group(g, i, &mut tensors))
                .collect(),
            first_frames: self.first_frames.clone(),
            size: self.size,
            next: self.next,
        };
        state::to_bytes(&record, &tensors)
    }

    /// Goes on where a session of the same model was saved; what this one had is forgotten.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for bytes of another model, or that are no session.
    pub fn restore(&mut self, bytes: &[u8]) -> Result<()> {
        let device = self.tracker.absent_pointer().device().clone();
        let slots = self.tracker.config().slots;
        let (record, tensors) = state::from_bytes::<Record>(bytes, &device)?;
        state::check_model(&record.model, self.model.name())?;
        let groups = record.groups.into_iter().enumerate();
        self.groups = groups
            .map(|(i, group)| state::restore_group(group, i, &tensors, slots))
            .collect::<Result<_>>()?;
        self.first_frames = record.first_frames;
        self.first_frames.resize(self.groups.len(), 0);
        self.size = record.size;
        self.next = record.next;
        self.current = None;
        Ok(())
    }

    fn group_of(&mut self, id: u32) -> Result<&mut Group> {
        let mut groups = self.groups.iter_mut();
        let group = groups.find(|group| group.has(id));
        group.ok_or_else(|| unknown(id))
    }

    /// The latest masks of all objects on a frame.
    fn masks(&self, frame: usize, size: Size) -> Result<FrameMasks> {
        let mut objects = vec![];
        for group in &self.groups {
            for (id, known) in group.known(frame)? {
                let Some((object_score, iou_score)) = group.scores(frame, id) else {
                    continue;
                };
                objects.push(ObjectMask {
                    id,
                    mask: mask_of(&known, size)?,
                    object_score: Some(object_score),
                    iou_score,
                });
            }
        }
        objects.sort_by_key(|object| object.id);
        Ok(FrameMasks { frame, objects })
    }
}

/// What is saved of a session besides tensors.
#[derive(Serialize, Deserialize)]
struct Record {
    model: String,
    groups: Vec<GroupRecord>,
    first_frames: Vec<usize>,
    size: Option<Size>,
    next: usize,
}

/// Points of a prompt in pixels of the model's input, the corners of the box first.
fn labeled_points(prompt: &VisualPrompt, size: Size, side: usize) -> Result<Vec<LabeledPoint>> {
    if prompt.mask_logits.is_some() {
        return Err(Error::prompt(
            "mask logits in a prompt of a video; give the mask itself, the last answer is used anyway",
        ));
    }
    let (width, height) = (size.width as f32, size.height as f32);
    let to_input = |[x, y]: [f32; 2]| -> Result<[f32; 2]> {
        match (0. ..=width).contains(&x) && (0. ..=height).contains(&y) {
            true => Ok([x / width * side as f32, y / height * side as f32]),
            false => Err(Error::prompt(format!(
                "the point {x},{y} is outside the frame of {size} pixels"
            ))),
        }
    };
    let mut points = vec![];
    if let Some(bbox) = prompt.bbox {
        if bbox.x1 <= bbox.x0 || bbox.y1 <= bbox.y0 {
            return Err(Error::prompt(format!(
                "the box {},{},{},{} is inverted or empty; give x0,y0,x1,y1",
                bbox.x0, bbox.y0, bbox.x1, bbox.y1
            )));
        }
        points.push((to_input([bbox.x0, bbox.y0])?, Label::TopLeft));
        points.push((to_input([bbox.x1, bbox.y1])?, Label::BottomRight));
    }
    for point in &prompt.points {
        let label = if point.on_object {
            Label::Positive
        } else {
            Label::Negative
        };
        points.push((to_input(point.xy)?, label));
    }
    match points.is_empty() {
        true => Err(Error::prompt("a prompt needs a point or a box")),
        false => Ok(points),
    }
}
