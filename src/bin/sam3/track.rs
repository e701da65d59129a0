//! `sam3 track`: objects through a video.

mod files;
mod prompts;

use std::collections::{BTreeSet, VecDeque};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use candle_sam3::models::variant::PromptKind;
use candle_sam3::output::video::{TrackedFrame, TrackedObject};
use candle_sam3::predict::concept::{Exemplar, Prompt};
use candle_sam3::predict::video::{
    ConceptMasks, ConceptSession, FrameMasks, FrameReader, Session, SimpleSession, concept,
    session, simple,
};
use candle_sam3::{Image, LoadOptions, Model, Run, models};
use indicatif::{ProgressBar, ProgressStyle};

use crate::args::{TrackArgs, TrackFormat};
use crate::{model, progress};
use files::Files;
use prompts::Prompts;

/// What is saved for `--resume`, beside the lines of JSON.
const STATE: &str = "state.safetensors";

pub fn run(args: TrackArgs, quiet: bool) -> Result<()> {
    let mut prompts = Prompts::new(&args)?;
    let mut reader = FrameReader::open(&args.input)?;
    prompts.check_frames(reader.known_len())?;
    let folder = args.output.clone().unwrap_or_else(|| beside(&args.input));
    if args.resume && !args.formats.contains(&TrackFormat::Jsonl) {
        bail!("--resume goes on from tracks.jsonl; add jsonl to --formats");
    }
    std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;

    let loaded = load(&args)?;
    let mut tracking = Tracking::new(&loaded, &args)?;
    let mut files = Files::new(&folder, &args.formats, &args.input)?;
    let bar = bar(reader.known_len(), quiet);
    // Images whose objects are not certain yet.
    let mut waiting: VecDeque<Image> = VecDeque::new();
    let mut next = 0;
    if args.resume {
        let state = folder.join(STATE);
        let bytes = std::fs::read(&state).with_context(|| {
            format!(
                "{}: nothing to go on with; run without --resume",
                state.display()
            )
        })?;
        next = tracking.restore(&bytes)?;
        let done = files.take_lines(next.saturating_sub(tracking.late()))?;
        for frame in 0..next {
            let image = reader
                .next()
                .with_context(|| format!("the video has no frame {frame}"))??;
            match done.get(frame) {
                Some(line) => files.write(line.clone(), &image)?,
                None => waiting.push_back(image),
            }
            bar.inc(1);
        }
    }
    let has_lines = args.formats.contains(&TrackFormat::Jsonl);
    let can_save = args.save_every > 0 && has_lines && !args.simple;
    let mut objects = BTreeSet::new();
    let mut show =
        |answers: Vec<TrackedFrame>, waiting: &mut VecDeque<Image>, files: &mut Files| {
            for answer in answers {
                let Some(image) = waiting.pop_front() else {
                    bail!("frame {} was answered twice", answer.frame);
                };
                objects.extend(answer.objects.iter().map(|object| object.id));
                files.write(answer, &image)?;
            }
            anyhow::Ok(())
        };
    for image in reader.by_ref() {
        let image = image?;
        let answers = tracking.push(&image, prompts.on(next, image.size())?)?;
        waiting.push_back(image);
        show(answers, &mut waiting, &mut files)?;
        next += 1;
        if can_save && next.is_multiple_of(args.save_every) {
            candle_sam3::output::write_file(folder.join(STATE), &tracking.save()?)?;
        }
        bar.inc(1);
    }
    show(tracking.finish(), &mut waiting, &mut files)?;
    bar.finish_and_clear();
    prompts.check_frames(Some(next))?;
    files.finish()?;
    let _ = std::fs::remove_file(folder.join(STATE)); // the run is complete
    if !quiet {
        tracking.say_lost();
        eprintln!(
            "{next} frames, {} objects: {}",
            objects.len(),
            folder.display()
        );
    }
    Ok(())
}

/// `clip.mp4` -> `clip.tracked`
fn beside(input: &Path) -> PathBuf {
    let name = input.file_stem().or(input.file_name()).unwrap_or_default();
    let mut name = name.to_os_string();
    name.push(".tracked");
    input.with_file_name(name)
}

fn load(args: &TrackArgs) -> Result<Model> {
    let prompts = if args.is_visual() {
        PromptKind::Clicks
    } else {
        PromptKind::Text
    };
    let checkpoint = model::open_complete(&args.model, prompts)?;
    let options = LoadOptions {
        interactive: true,
        tracking: !args.simple,
        ..model::prepare(&args.model)?
    };
    Ok(models::load(&checkpoint, &options)?)
}

fn bar(len: Option<usize>, quiet: bool) -> ProgressBar {
    let (bar, template) = match len {
        _ if quiet => return ProgressBar::hidden(),
        Some(len) => (
            ProgressBar::new(len as u64),
            "tracking [{wide_bar}] {pos}/{len} {eta}",
        ),
        None => (ProgressBar::no_length(), "tracking frame {pos}, {elapsed}"),
    };
    let style = ProgressStyle::with_template(template);
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    progress::add(bar)
}

/// A session of one of the three kinds.
enum Tracking<'m> {
    Concept(Box<ConceptSession<'m>>, String, usize),
    Visual(Box<Session<'m>>),
    Simple(SimpleSession<'m>),
}

impl<'m> Tracking<'m> {
    fn new(loaded: &'m Model, args: &TrackArgs) -> Result<Self> {
        if args.simple {
            let model = loaded.as_interactive()?;
            return Ok(Self::Simple(SimpleSession::new(
                model,
                simple::Options::default(),
            )));
        }
        if args.is_visual() {
            let options = session::Options::default();
            return Ok(Self::Visual(Box::new(Session::new(
                loaded.as_tracking()?,
                options,
            )?)));
        }
        let options = match args.no_delay {
            true => concept::Options::without_delay(),
            false => concept::Options::default(),
        };
        let options = concept::Options {
            threshold: args.threshold,
            new_threshold: args.new_threshold,
            ..options
        };
        let late = options.hotstart.saturating_sub(1);
        let exemplar = args.exemplar.map(|bbox| Exemplar {
            bbox,
            positive: true,
        });
        let prompt = Prompt {
            text: args.text.clone(),
            exemplars: exemplar.into_iter().collect(),
            ..Prompt::default()
        };
        let label = args.text.clone().unwrap_or_else(|| "object".into());
        let session = ConceptSession::new(loaded.as_concept()?, prompt, options)?;
        Ok(Self::Concept(Box::new(session), label, late))
    }

    /// Frames by which answers come late.
    fn late(&self) -> usize {
        match self {
            Self::Concept(.., late) => *late,
            Self::Visual(_) | Self::Simple(_) => 0,
        }
    }

    /// The answers that are certain after this frame.
    fn push(&mut self, image: &Image, prompts: prompts::OnFrame) -> Result<Vec<TrackedFrame>> {
        let run = &mut Run::default();
        Ok(match self {
            Self::Concept(session, label, _) => {
                let found = session.push(image, run)?;
                found
                    .map(|masks| concept_frame(masks, label))
                    .into_iter()
                    .collect()
            }
            Self::Visual(session) => {
                let frame = session.next_frame();
                let mut masks = session.push(image, run)?;
                for (id, mask) in &prompts.masks {
                    masks = session.prompt_mask(frame, *id, mask)?;
                }
                for (id, prompt) in &prompts.visual {
                    masks = session.prompt(frame, *id, prompt)?;
                }
                vec![visual_frame(masks)]
            }
            Self::Simple(session) => {
                vec![visual_frame(session.push(image, &prompts.visual, run)?)]
            }
        })
    }

    /// The answers that still wait.
    fn finish(&mut self) -> Vec<TrackedFrame> {
        match self {
            Self::Concept(session, label, _) => {
                let found = session.finish().into_iter();
                found.map(|masks| concept_frame(masks, label)).collect()
            }
            Self::Visual(_) | Self::Simple(_) => vec![],
        }
    }

    fn save(&mut self) -> Result<Vec<u8>> {
        Ok(match self {
            Self::Concept(session, ..) => session.save()?,
            Self::Visual(session) => session.save()?,
            Self::Simple(_) => bail!("a run with --simple cannot be saved"),
        })
    }

    /// The number of the next frame.
    fn restore(&mut self, bytes: &[u8]) -> Result<usize> {
        match self {
            Self::Concept(session, ..) => {
                session.restore(bytes)?;
                Ok(session.next_frame())
            }
            Self::Visual(session) => {
                session.restore(bytes)?;
                Ok(session.next_frame())
            }
            Self::Simple(_) => bail!("a run with --simple cannot be resumed"),
        }
    }

    /// Objects that are no longer followed, where that is known.
    fn say_lost(&self) {
        if let Self::Simple(session) = self {
            for (id, frame, why) in session.lost() {
                let why = match why {
                    simple::Lost::Empty => "its mask is empty".to_string(),
                    simple::Lost::Absent(_) => "the model sees no object".to_string(),
                    simple::Lost::Jumped(iou) => format!("its mask jumped, IoU {iou:.2}"),
                    simple::Lost::Unsure(iou) => format!("predicted IoU {iou:.2}"),
                };
                eprintln!("object {id} is lost from frame {frame} on: {why}");
            }
        }
    }
}

fn concept_frame(masks: ConceptMasks, label: &str) -> TrackedFrame {
    let objects = masks.objects.iter();
    let objects = objects.map(|o| TrackedObject::new(o.id, label, o.score, &o.mask, Some(o.bbox)));
    TrackedFrame {
        frame: masks.frame,
        objects: objects.collect(),
    }
}

fn visual_frame(masks: FrameMasks) -> TrackedFrame {
    let objects = masks.objects.iter();
    let objects = objects.map(|o| TrackedObject::new(o.id, "object", o.iou_score, &o.mask, None));
    TrackedFrame {
        frame: masks.frame,
        objects: objects.collect(),
    }
}
