//! One frame: detections and tracks become objects.
//!
//! Follows `_det_track_one_frame`,
//! <https://github.com/facebookresearch/sam3/blob/99d02f2/sam3/model/sam3_video_base.py#L152>.
//!
//! # Easy to get wrong
//! - Objects that are born on one frame are tracked together from then on, whatever becomes of them.
//! - The frame of the prompt is processed twice. The second time its objects are matched with the
//!   same detections, and remembered as if they had been tracked.
//! - A track that takes over the mask of its detection keeps its own memory; only its pointer and
//!   the frame being a conditioning one change, the latter for all that are tracked together.
//! - Masks are filled before they are matched and remembered, but not where they are stored.
//! - What is remembered has a score by its area, not the decoder's.
//!
//! In SAM 3.1, <https://github.com/facebookresearch/sam3/blob/96914d2/sam3/model/sam3_multiplex_base.py>,
//! new objects join those with the fewest free slots among which they fit, and the frame is
//! remembered anew for all of these from masks and scores as they were tracked. A track takes over a
//! detection's logits where the two differ, before anything is remembered; its frame stays what it was.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::Options;
use super::masks::{Occlusion, cut, fill, hide, hide_covered};
use super::matching::{Association, Detection, associate};
use super::probation::Probation;
use crate::device::upload;
use crate::mask::Mask;
use crate::mask::upsample::{threshold_upsampled, upsample_bilinear};
use crate::models::tracker::{FrameFeatures, Generation, MaskProbability, Position, Tracker};
use crate::predict::sigmoid;
use crate::predict::video::group::{Group, Prompted};
use crate::predict::video::state::{self, GroupRecord};
use crate::{Result, Size};

/// Object score of what is remembered where a mask is visible, and negative elsewhere.
const VISIBLE_SCORE: f32 = 10.;

/// One object's answer on a frame.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Answer {
    pub id: u32,
    /// At the size of the video; of several objects more than one may have a pixel.
    pub mask: Mask,
    /// Score of the detection by which it was found.
    pub score: f32,
    /// Probability that it is visible on this frame.
    pub visible: f32,
}

/// What happened on a frame.
#[derive(Debug, Clone, Default)]
pub(crate) struct Step {
    pub answers: Vec<Answer>,
    /// For tests: everything that was decided on the way.
    #[cfg(test)]
    pub log: Log,
}

#[cfg(test)]
#[derive(Debug, Clone, Default)]
pub(crate) struct Log {
    pub ids_before: Vec<u32>,
    pub association: Association,
    pub masks: Vec<Mask>,
    pub reconditioned: Vec<u32>,
    pub born: Vec<u32>,
    pub removed: Vec<u32>,
    pub hidden: Vec<u32>,
}

/// The objects of one concept.
#[derive(Debug, Clone, Default)]
pub(crate) struct Engine {
    groups: Vec<Group>,
    probation: Probation,
    occlusion: Occlusion,
    scores: BTreeMap<u32, f32>,
    next_id: u32,
}

/// The objects without their tensors.
#[derive(Serialize, Deserialize)]
pub(crate) struct EngineRecord {
    groups: Vec<GroupRecord>,
    probation: Probation,
    occlusion: Occlusion,
    scores: BTreeMap<u32, f32>,
    next_id: u32,
}

/// The frame that is being processed, and by what.
pub(crate) struct Scene<'a> {
    pub tracker: &'a dyn Tracker,
    pub frame: &'a FrameFeatures,
    pub at: Position,
    pub options: &'a Options,
}

impl Scene<'_> {
    /// The side of low-resolution masks.
    fn side(&self) -> usize {
        self.tracker.config().low_res_side()
    }

    /// The mask of a detection at the size of the memory encoder's.
    fn enlarged(&self, detection: &Detection) -> Result<Mask> {
        let to = Size::square(self.tracker.config().mask_size());
        threshold_upsampled(&detection.logits, Size::square(self.side()), to, 0.)
    }
}

/// A tracked object on the frame that is being processed.
struct Track {
    id: u32,
    group: usize,
    logits: Vec<f32>,
    mask: Mask,
    object_score: f32,
}

impl Engine {
    pub(crate) fn ids(&self) -> Vec<u32> {
        self.groups.iter().flat_map(Group::ids).collect()
    }

    pub(crate) fn groups(&self) -> &[Group] {
        &self.groups
    }

    pub(crate) fn groups_mut(&mut self) -> impl Iterator<Item = &mut Group> {
        self.groups.iter_mut()
    }

    /// Takes the objects apart.
    pub(crate) fn record(&self, tensors: &mut state::Tensors) -> EngineRecord {
        let groups = self.groups.iter().enumerate();
        EngineRecord {
            groups: groups
                .map(|(i, g)| state::record_group(g, i, tensors))
                .collect(),
            probation: self.probation.clone(),
            occlusion: self.occlusion.clone(),
            scores: self.scores.clone(),
            next_id: self.next_id,
        }
    }

    /// Puts the objects together again.
    ///
    /// # Errors
    /// As [`state::restore_group`].
    pub(crate) fn restore(
        record: EngineRecord,
        tensors: &state::Tensors,
        slots: usize,
    ) -> Result<Self> {
        let groups = record.groups.into_iter().enumerate();
        let groups = groups.map(|(i, group)| state::restore_group(group, i, tensors, slots));
        Ok(Self {
            groups: groups.collect::<Result<_>>()?,
            probation: record.probation,
            occlusion: record.occlusion,
            scores: record.scores,
            next_id: record.next_id,
        })
    }

    pub(crate) fn probation(&self) -> &Probation {
        &self.probation
    }

    /// Processes a frame with what the detector found on it, in the order of its queries.
    pub(crate) fn step(&mut self, on: &Scene, detections: &[Detection]) -> Result<Step> {
        let (at, options, side) = (on.at, on.options, on.side());
        let mut tracks = self.track(on)?;
        let ids: Vec<u32> = tracks.iter().map(|track| track.id).collect();
        let tracked: Vec<Mask> = tracks.iter().map(|track| track.mask.clone()).collect();
        let generation = on.tracker.config().generation;
        let mut association = associate(detections, &tracked, options, generation);
        let room = options.max_objects.saturating_sub(ids.len());
        keep_best(&mut association.new, detections, room);
        let new = association.new.iter().map(|k| &detections[*k]);
        let new: Vec<(u32, &Detection)> = (self.next_id..).zip(new).collect();
        let born: Vec<u32> = new.iter().map(|(id, _)| *id).collect();
        self.next_id += born.len() as u32;
        for id in &born {
            self.probation.add(*id, at.frame);
        }

        let of = |indices: &[usize]| -> Vec<u32> { indices.iter().map(|i| ids[*i]).collect() };
        let together: Vec<Vec<u32>> = association.tracks_of.values().map(|i| of(i)).collect();
        let direction = (at.frame, at.reverse);
        let removed = self.probation.count(
            of(&association.unmatched),
            together.iter().map(Vec::as_slice),
            direction,
            (options, generation),
        );
        let reconditioned = self.recondition(on, &mut tracks, &association, detections)?;
        let leaving: &[u32] = match generation {
            Generation::Sam31 => &removed,
            Generation::Sam2 | Generation::Sam3 => &[],
        };
        let masks: Vec<Mask> = tracks.iter().map(|track| track.mask.clone()).collect();
        let iou = options.occlusion_iou;
        let hidden = (self.occlusion).update(&ids, &masks, iou, direction, leaving);
        for i in &hidden {
            hide(&mut tracks[*i].logits);
        }
        self.remember(on, &tracks)?;
        self.bear(on, &new)?;
        for id in &removed {
            self.remove(*id)?;
        }

        let found = together.iter().flatten().chain(&born).copied();
        let found: BTreeSet<u32> = found.collect();
        self.probation
            .confirm(at.frame, &self.ids(), &found, options);

        let answer = |id, logits: &[f32], score, visible| -> Result<Answer> {
            Ok(Answer {
                id,
                mask: threshold_upsampled(logits, Size::square(side), on.frame.size, 0.)?,
                score,
                visible,
            })
        };
        let mut answers = vec![];
        for track in &tracks {
            let score = self.scores.get(&track.id).copied().unwrap_or_default();
            let visible = sigmoid(track.object_score);
            answers.push(answer(track.id, &track.logits, score, visible)?);
        }
        for (id, detection) in new {
            let mut logits = detection.logits.clone();
            fill(&mut logits, side, options.fill_area);
            answers.push(answer(id, &logits, detection.score, detection.score)?);
        }
        let hidden = of(&hidden);
        let t = at.frame;
        tracing::debug!(t, ?born, ?removed, ?hidden, ?reconditioned, "objects");
        Ok(Step {
            answers,
            #[cfg(test)]
            log: Log {
                hidden,
                ids_before: ids,
                association,
                masks: tracked,
                reconditioned,
                born,
                removed,
            },
        })
    }

    /// Tracks all objects to the frame, or takes what was answered there; masks are filled.
    fn track(&mut self, on: &Scene) -> Result<Vec<Track>> {
        let side = on.side();
        let rules = on.options.rules(on.tracker.config());
        let mut tracks = vec![];
        for (g, group) in self.groups.iter_mut().enumerate() {
            group.track_without_memory(on.tracker, on.frame, (on.at, &rules))?;
            for (id, mut logits, object_score) in group.logits(on.at.frame)? {
                fill(&mut logits, side, on.options.fill_area);
                tracks.push(Track {
                    id,
                    group: g,
                    mask: cut(&logits, side),
                    logits,
                    object_score,
                });
            }
        }
        tracks.sort_by_key(|track| track.id);
        Ok(tracks)
    }

    /// Lets sure tracks take over the mask of their sure detection. The objects that did.
    fn recondition(
        &mut self,
        on: &Scene,
        tracks: &mut [Track],
        association: &Association,
        detections: &[Detection],
    ) -> Result<Vec<u32>> {
        let (tracker, options, t) = (on.tracker, on.options, on.at.frame);
        let mut done = vec![];
        if options.recondition_every == 0 || !t.is_multiple_of(options.recondition_every) {
            return Ok(done);
        }
        let merges = tracker.config().generation == Generation::Sam31;
        let mut masks: BTreeMap<usize, Vec<(u32, Mask)>> = BTreeMap::new();
        for (i, k) in &association.recondition {
            let (track, detection) = (&mut tracks[*i], &detections[*k]);
            if track.object_score <= options.recondition_object_score {
                continue;
            }
            let mask = on.enlarged(detection)?;
            done.push(track.id);
            if !merges {
                let group = &mut self.groups[track.group];
                group.add_mask(tracker, (t, on.frame), track.id, &mask)?;
                group.take_prompts(tracker, Prompted::Conditioning)?;
                continue;
            }
            masks.entry(track.group).or_default().push((track.id, mask));
            let logits = track.logits.iter_mut().zip(&detection.logits);
            let differ = logits.filter(|(old, new)| (**old > 0.) != (**new > 0.));
            differ.for_each(|(old, new)| *old = *new);
            fill(&mut track.logits, on.side(), options.fill_area);
            track.mask = cut(&track.logits, on.side());
        }
        for (g, masks) in masks {
            let group = &mut self.groups[g];
            group.add_masks(tracker, (t, on.frame), &masks)?;
            group.take_prompts(tracker, Prompted::AsTracked)?;
        }
        Ok(done)
    }

    /// Encodes the memory of all objects that were tracked.
    fn remember(&mut self, on: &Scene, tracks: &[Track]) -> Result<()> {
        let to = on.tracker.config().mask_size();
        let sizes = [on.side(), to].map(Size::square);
        let enlarge = |track: &Track| upsample_bilinear(&track.logits, sizes[0], sizes[1]);
        let mut maps = tracks.iter().map(enlarge).collect::<Result<Vec<_>>>()?;
        let visible = hide_covered(&mut maps, on.options.min_share);
        for (g, group) in self.groups.iter_mut().enumerate() {
            let members: Vec<usize> = (0..tracks.len())
                .filter(|i| tracks[*i].group == g)
                .collect();
            let logits: Vec<f32> = members.iter().flat_map(|i| &maps[*i]).copied().collect();
            let device = on.frame.image.tokens.device();
            let logits = upload(logits, (members.len(), to, to), device)?;
            let score = |i: &usize| match visible[*i] {
                true => VISIBLE_SCORE,
                false => -VISIBLE_SCORE,
            };
            let scores: Vec<f32> = members.iter().map(score).collect();
            let masks = (&logits, scores.as_slice());
            let frame = (on.at.frame, on.frame);
            group.remember(on.tracker, frame, masks, MaskProbability::Sigmoid)?;
        }
        Ok(())
    }

    /// Makes objects of detections that are new; they are tracked together, in SAM 3.1 with others.
    fn bear(&mut self, on: &Scene, new: &[(u32, &Detection)]) -> Result<()> {
        if new.is_empty() {
            return Ok(());
        }
        let mut masks = vec![];
        for (id, detection) in new {
            masks.push((*id, on.enlarged(detection)?));
            self.scores.insert(*id, detection.score);
        }
        let group = self.group_with_room(on.tracker, masks.len());
        group.add_masks(on.tracker, (on.at.frame, on.frame), &masks)?;
        group.remember_prompts(on.tracker, Prompted::AsTracked)
    }

    /// The group of SAM 3.1 with the fewest free slots among which so many objects fit, else a new one.
    fn group_with_room(&mut self, tracker: &dyn Tracker, objects: usize) -> &mut Group {
        let fit = (0..self.groups.len()).filter(|g| self.groups[*g].slots().free() >= objects);
        let g = fit.min_by_key(|g| self.groups[*g].slots().free());
        let g = g.unwrap_or_else(|| {
            self.groups.push(Group::new(tracker.config().slots));
            self.groups.len() - 1
        });
        &mut self.groups[g]
    }

    /// Takes an object out.
    pub(crate) fn remove(&mut self, id: u32) -> Result<()> {
        if let Some(group) = self.groups.iter_mut().find(|group| group.has(id)) {
            group.remove(id)?;
        }
        self.groups.retain(|group| group.ids().next().is_some());
        self.scores.remove(&id);
        Ok(())
    }
}

/// The best of the new detections, in their order, where there is not room for all.
fn keep_best(new: &mut Vec<usize>, detections: &[Detection], room: usize) {
    if new.len() > room {
        new.sort_by(|a, b| detections[*b].score.total_cmp(&detections[*a].score));
        new.truncate(room);
        new.sort_unstable();
    }
}
