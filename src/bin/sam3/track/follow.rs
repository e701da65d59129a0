//! The sessions that a run may have, behind one face.

use anyhow::{Result, bail};
use candle_sam3::output::video::TrackedFrame;
use candle_sam3::predict::interactive;
use candle_sam3::predict::video::{
    ConceptMasks, ConceptSession, DetectionSession, Session, SimpleSession, concept, detections,
    session, simple,
};
use candle_sam3::{Image, Model, Run, VisualPrompt};

use super::TrackArgs;
use super::prompts::OnFrame;
use crate::progress;

/// A session of one of the four kinds.
enum Kind<'m> {
    Concept(Box<ConceptSession<'m>>),
    Shown(Box<Session<'m>>),
    Detections(Box<DetectionSession<'m>>),
    Simple(SimpleSession<'m>),
}

/// What follows the objects of a video.
pub struct Following<'m> {
    model: &'m Model,
    kind: Kind<'m>,
    /// What an object that is named is called.
    label: String,
    /// Frames by which answers come late.
    pub late: usize,
}

impl<'m> Following<'m> {
    pub fn new(model: &'m Model, args: &TrackArgs, frames: Option<usize>) -> Result<Self> {
        let label = args.text.clone().unwrap_or_else(|| "object".into());
        let mut late = 0;
        let kind = match (args.is_shown(), args.simple) {
            (true, true) => {
                let options = simple::Options::default();
                Kind::Simple(SimpleSession::new(model.as_interactive()?, options))
            }
            (true, false) => {
                let options = session::Options {
                    num_frames: frames,
                    ..session::Options::default()
                };
                Kind::Shown(Box::new(Session::new(model.as_tracking()?, options)?))
            }
            (false, true) => {
                let options = detections::Options::default();
                let options = detections::Options {
                    threshold: args.threshold.unwrap_or(options.threshold),
                    new_threshold: args.new_threshold.unwrap_or(options.new_threshold),
                    ..options
                };
                let (model, run) = (model.as_concept()?, &mut Run::default());
                let session = DetectionSession::new(model, &label, options, run)?;
                Kind::Detections(Box::new(session))
            }
            (false, false) => {
                let options = concept_options(model, args)?;
                late = options.hotstart.saturating_sub(1);
                let session = ConceptSession::new(model.as_concept()?, args.prompt(), options)?;
                Kind::Concept(Box::new(match frames {
                    Some(frames) => session.with_num_frames(frames),
                    None => session,
                }))
            }
        };
        Ok(Self {
            model,
            kind,
            label,
            late,
        })
    }

    /// The frames whose answers are certain after this one.
    pub fn push(
        &mut self,
        image: &Image,
        prompts: Option<&OnFrame>,
        run: &mut Run,
    ) -> Result<Vec<TrackedFrame>> {
        let tracked = |found: &ConceptMasks| TrackedFrame::of_concept(found, &self.label);
        Ok(match &mut self.kind {
            Kind::Concept(session) => session.push(image, run)?.iter().map(tracked).collect(),
            Kind::Detections(session) => vec![tracked(&session.push(image, run)?)],
            Kind::Shown(session) => {
                let frame = session.next_frame();
                let mut found = session.push(image, run)?;
                for (id, mask) in prompts.iter().flat_map(|on_frame| &on_frame.masks) {
                    found = session.prompt_mask(frame, *id, mask)?;
                }
                for (id, prompt) in prompts.iter().flat_map(|on_frame| &on_frame.visual) {
                    found = session.prompt(frame, *id, prompt)?;
                }
                vec![found.into()]
            }
            Kind::Simple(session) => {
                let mut all: Vec<(u32, VisualPrompt)> = vec![];
                if let Some(on_frame) = prompts {
                    let model = self.model.as_interactive()?;
                    for (id, mask) in &on_frame.masks {
                        let logits = interactive::from_drawn(model, image.size(), mask)?;
                        all.push((*id, VisualPrompt::default().from_logits(logits)));
                    }
                    all.extend(on_frame.visual.iter().cloned());
                }
                vec![session.push(image, &all, run)?.into()]
            }
        })
    }

    /// The frames that still wait, after the last one.
    pub fn finish(&mut self) -> Vec<TrackedFrame> {
        let Kind::Concept(session) = &mut self.kind else {
            return vec![];
        };
        let found = session.finish();
        let tracked = |found| TrackedFrame::of_concept(found, &self.label);
        found.iter().map(tracked).collect()
    }

    pub fn save(&mut self) -> Result<Vec<u8>> {
        Ok(match &mut self.kind {
            Kind::Concept(session) => session.save()?,
            Kind::Shown(session) => session.save()?,
            Kind::Detections(session) => session.save()?,
            Kind::Simple(session) => session.save()?,
        })
    }

    /// Goes on from what was saved; the number of the next frame.
    pub fn restore(&mut self, saved: &[u8]) -> Result<usize> {
        Ok(match &mut self.kind {
            Kind::Concept(session) => session.restore(saved).map(|()| session.next_frame())?,
            Kind::Shown(session) => session.restore(saved).map(|()| session.next_frame())?,
            Kind::Detections(session) => session.restore(saved).map(|()| session.next_frame())?,
            Kind::Simple(session) => session.restore(saved).map(|()| session.next_frame())?,
        })
    }

    /// Says a line for each object that is no longer followed, where that is known. `number` makes frames
    /// of the session's, and `way` says where the others lie: "on" or "back".
    pub fn say_lost(&self, number: impl Fn(usize) -> usize, way: &str) {
        let Kind::Simple(session) = &self.kind else {
            return;
        };
        for (id, frame, why) in session.lost() {
            let why = match why {
                simple::Lost::Empty => "its mask is empty".to_string(),
                simple::Lost::Absent(_) => "the model sees no object".to_string(),
                simple::Lost::Jumped(iou) => format!("its mask jumped, IoU {iou:.2}"),
                simple::Lost::Unsure(iou) => format!("predicted IoU {iou:.2}"),
            };
            let frame = number(frame);
            progress::say(&format!(
                "object {id} is lost from frame {frame} {way}: {why}"
            ));
        }
    }
}

/// The rules of the model, as far as no flag says otherwise.
fn concept_options(model: &Model, args: &TrackArgs) -> Result<concept::Options> {
    let concept_model = model.as_concept()?;
    let multiplex = concept_model.config().multiplex;
    if args.like_official && !multiplex {
        bail!(
            "--like-official is about SAM 3.1; {} has no such rules",
            model.name()
        );
    }
    let mut options = concept::Options::of(concept_model);
    if args.no_delay {
        options = options.without_delay();
    }
    Ok(concept::Options {
        threshold: args.threshold.unwrap_or(options.threshold),
        new_threshold: args.new_threshold.unwrap_or(options.new_threshold),
        first_threshold: match args.new_threshold {
            Some(threshold) if multiplex => threshold,
            _ => options.first_threshold,
        },
        like_official: args.like_official,
        ..options
    })
}

/// Refuses flags that do not go together, before anything is read.
pub fn check(args: &TrackArgs) -> Result<()> {
    if args.text.is_none() && args.exemplar.is_none() && !args.is_shown() {
        bail!(
            "nothing to follow; name it with --text, or show it with --point, --box or --mask, as \
             in --point 0:320,180"
        );
    }
    if args.simple && args.exemplar.is_some() {
        bail!("--simple looks for a text alone; leave out --exemplar");
    }
    if args.text.as_deref().is_some_and(|text| text.contains(',')) {
        bail!("--text is one phrase; run once for each of several");
    }
    Ok(())
}
