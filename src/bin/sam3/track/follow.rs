//! The sessions that a run may have, behind one face.

use anyhow::{Result, bail};
use candle_sam3::output::video::TrackedFrame;
use candle_sam3::predict::concept::{Exemplar, Prompt};
use candle_sam3::predict::interactive;
use candle_sam3::predict::video::{
    ConceptSession, DetectionSession, Session, SimpleSession, concept, detections, session, simple,
};
use candle_sam3::{Image, Model, Run, VisualPrompt};

use super::TrackArgs;
use super::prompts::OnFrame;

/// A session of one of the four kinds.
pub enum Following<'m> {
    Concept {
        session: Box<ConceptSession<'m>>,
        label: String,
        /// Frames by which answers come late.
        late: usize,
    },
    Shown(Box<Session<'m>>),
    Detections {
        session: Box<DetectionSession<'m>>,
        label: String,
    },
    Simple(&'m Model, SimpleSession<'m>),
}

impl<'m> Following<'m> {
    pub fn new(model: &'m Model, args: &TrackArgs, frames: Option<usize>) -> Result<Self> {
        if args.is_shown() {
            return Ok(match args.simple {
                true => {
                    let options = simple::Options::default();
                    Self::Simple(model, SimpleSession::new(model.as_interactive()?, options))
                }
                false => {
                    let options = session::Options {
                        num_frames: frames,
                        ..session::Options::default()
                    };
                    Self::Shown(Box::new(Session::new(model.as_tracking()?, options)?))
                }
            });
        }
        let label = args.text.clone().unwrap_or_else(|| "object".into());
        if args.simple {
            let options = detections::Options::default();
            let options = detections::Options {
                threshold: args.threshold.unwrap_or(options.threshold),
                new_threshold: args.new_threshold.unwrap_or(options.new_threshold),
                ..options
            };
            let model = model.as_concept()?;
            let run = &mut Run::default();
            let session = Box::new(DetectionSession::new(model, &label, options, run)?);
            return Ok(Self::Detections { session, label });
        }
        let concept_model = model.as_concept()?;
        if args.like_official && !concept_model.config().multiplex {
            bail!(
                "--like-official is about SAM 3.1; {} has no such rules",
                model.name()
            );
        }
        let options = concept::Options::of(concept_model);
        let options = match args.no_delay {
            true => options.without_delay(),
            false => options,
        };
        let options = concept::Options {
            threshold: args.threshold.unwrap_or(options.threshold),
            new_threshold: args.new_threshold.unwrap_or(options.new_threshold),
            first_threshold: match args.new_threshold {
                Some(threshold) if concept_model.config().multiplex => threshold,
                _ => options.first_threshold,
            },
            like_official: args.like_official,
            ..options
        };
        let late = options.hotstart.saturating_sub(1);
        let prompt = Prompt {
            text: args.text.clone(),
            exemplars: args.exemplar.into_iter().map(positive).collect(),
            ..Prompt::default()
        };
        let session = ConceptSession::new(concept_model, prompt, options)?;
        let session = Box::new(match frames {
            Some(frames) => session.with_num_frames(frames),
            None => session,
        });
        Ok(Self::Concept {
            session,
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
        Ok(match self {
            Self::Concept { session, label, .. } => {
                let found = session.push(image, run)?.into_iter();
                found
                    .map(|found| TrackedFrame::of_concept(&found, label))
                    .collect()
            }
            Self::Shown(session) => {
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
            Self::Detections { session, label } => {
                vec![TrackedFrame::of_concept(&session.push(image, run)?, label)]
            }
            Self::Simple(model, session) => {
                let mut all: Vec<(u32, VisualPrompt)> = vec![];
                if let Some(on_frame) = prompts {
                    let model = model.as_interactive()?;
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
        match self {
            Self::Concept { session, label, .. } => {
                let found = session.finish().into_iter();
                found
                    .map(|found| TrackedFrame::of_concept(&found, label))
                    .collect()
            }
            _ => vec![],
        }
    }

    /// Frames by which answers come late.
    pub fn late(&self) -> usize {
        match self {
            Self::Concept { late, .. } => *late,
            _ => 0,
        }
    }

    pub fn save(&mut self) -> Result<Vec<u8>> {
        Ok(match self {
            Self::Concept { session, .. } => session.save()?,
            Self::Shown(session) => session.save()?,
            Self::Detections { session, .. } => session.save()?,
            Self::Simple(_, session) => session.save()?,
        })
    }

    /// Goes on from what was saved; the number of the next frame.
    pub fn restore(&mut self, saved: &[u8]) -> Result<usize> {
        Ok(match self {
            Self::Concept { session, .. } => {
                session.restore(saved)?;
                session.next_frame()
            }
            Self::Shown(session) => {
                session.restore(saved)?;
                session.next_frame()
            }
            Self::Detections { session, .. } => {
                session.restore(saved)?;
                session.next_frame()
            }
            Self::Simple(_, session) => {
                session.restore(saved)?;
                session.next_frame()
            }
        })
    }

    /// A line for each object that is no longer followed, where that is known. `number` makes frames of
    /// the session's, and `way` says where the others lie: "on" or "back".
    pub fn lost(&self, number: impl Fn(usize) -> usize, way: &str) -> Vec<String> {
        let Self::Simple(_, session) = self else {
            return vec![];
        };
        let line = |(id, frame, why): (u32, usize, simple::Lost)| {
            let why = match why {
                simple::Lost::Empty => "its mask is empty".to_string(),
                simple::Lost::Absent(_) => "the model sees no object".to_string(),
                simple::Lost::Jumped(iou) => format!("its mask jumped, IoU {iou:.2}"),
                simple::Lost::Unsure(iou) => format!("predicted IoU {iou:.2}"),
            };
            format!(
                "object {id} is lost from frame {} {way}: {why}",
                number(frame)
            )
        };
        session.lost().map(line).collect()
    }
}

fn positive(bbox: candle_sam3::BoxXyxy) -> Exemplar {
    Exemplar {
        bbox,
        positive: true,
    }
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
