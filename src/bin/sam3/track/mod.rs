//! `sam3 track`: objects through a video.

mod backward;
mod follow;
mod prompts;
mod saved;

use std::collections::{BTreeSet, VecDeque};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use candle_sam3::models::variant::{Family, PromptKind};
use candle_sam3::output::video::{About, Format, TrackedFrame, Writer};
use candle_sam3::predict::concept::{self, Exemplar, Prompt};
use candle_sam3::predict::video::{FrameReader, ffmpeg_is_there};
use candle_sam3::weights::Checkpoint;
use candle_sam3::{BoxXyxy, Image, LoadOptions, Point, Run, models};
use clap::Args;
use serde_json::{Map, Value, json};

use crate::model::{self, ModelArgs};
use crate::prompts::{parse_box, parse_fraction};
use crate::summary::plural;
use crate::{demo, progress};
use backward::Backward;
use follow::Following;
use prompts::{At, Prompts};
use saved::Saved;

#[derive(Args)]
pub struct TrackArgs {
    /// Folder of frames, animated GIF or WebP, or a video file, which an installed ffmpeg decodes
    input: PathBuf,

    /// Find and follow every object that a text means
    #[arg(short, long, value_name = "TEXT", help_heading = "Prompts",
        conflicts_with_all = ["points", "boxes", "masks"])]
    text: Option<String>,

    /// Box around one such object on the first frame; alone or with a text
    #[arg(long, value_name = "X0,Y0,X1,Y1", value_parser = parse_box, allow_hyphen_values = true,
        help_heading = "Prompts", conflicts_with_all = ["points", "boxes", "masks"])]
    exemplar: Option<BoxXyxy>,

    /// Point on object ID (default: 1) on a frame, or beside it with a third number 0
    #[arg(long = "point", value_name = "[ID@]FRAME:X,Y[,0|1]", value_parser = prompts::point,
        help_heading = "Prompts")]
    points: Vec<At<Point>>,

    /// Box around object ID on a frame
    #[arg(long = "box", value_name = "[ID@]FRAME:X0,Y0,X1,Y1", value_parser = prompts::bbox,
        help_heading = "Prompts")]
    boxes: Vec<At<BoxXyxy>>,

    /// Picture that is white where object ID is on a frame
    #[arg(long = "mask", value_name = "[ID@]FRAME:FILE", value_parser = prompts::file,
        help_heading = "Prompts")]
    masks: Vec<At<PathBuf>>,

    /// Follow without a memory, for models that have none: what is shown, from one mask to the next;
    /// what is named, by finding it on every frame
    #[arg(long, help_heading = "Tracking")]
    simple: bool,

    /// Follow what is shown back to the first frame as well, from where it is first shown. Frames
    /// of a folder are read one by one; those of other videos are held up to the last prompt
    #[arg(
        long,
        conflicts_with_all = ["text", "exemplar"],
        help_heading = "Tracking"
    )]
    backward: bool,

    /// Answer each frame at once: a named object is not on probation, and none is taken back
    #[arg(
        long,
        requires = "text",
        conflicts_with = "simple",
        help_heading = "Tracking"
    )]
    no_delay: bool,

    /// Detections of a text need a higher score than this (default: 0.5; with SAM 3.1 0.4)
    #[arg(long, value_name = "0..1", value_parser = parse_fraction, help_heading = "Tracking")]
    threshold: Option<f32>,

    /// A detection becomes an object from this score on (default: 0.7; with SAM 3.1 0.65)
    #[arg(long, value_name = "0..1", value_parser = parse_fraction, help_heading = "Tracking")]
    new_threshold: Option<f32>,

    /// With a text and SAM 3.1, also do what the original does against its own description: for
    /// comparisons
    #[arg(
        long,
        requires = "text",
        conflicts_with = "simple",
        help_heading = "Tracking"
    )]
    like_official: bool,

    /// Folder for the results, new or empty (default: INPUT.tracked)
    #[arg(short, long, value_name = "DIR", help_heading = "Output")]
    output: Option<PathBuf>,

    /// What to write besides tracks.jsonl: any of gif, mp4 (with ffmpeg), overlay, masks, davis, mot,
    /// youtube-vis
    #[arg(
        long = "format",
        value_delimiter = ',',
        default_value = "gif",
        value_name = "LIST",
        help_heading = "Output"
    )]
    formats: Vec<Format>,

    /// Frames per second of gif and mp4 (default: those of the input; 10 for a folder)
    #[arg(long, value_name = "N", help_heading = "Output")]
    fps: Option<f64>,

    /// Go on with a run that was stopped
    #[arg(long, help_heading = "Output")]
    resume: bool,

    /// Frames after which the state is saved for --resume
    #[arg(long, default_value_t = 100, value_name = "N", help_heading = "Output",
        value_parser = clap::value_parser!(u32).range(1..))]
    save_every: u32,

    #[command(flatten)]
    pub model: ModelArgs,
}

/// How fast a folder of frames is played.
const DEFAULT_RATE: f64 = 10.;

impl TrackArgs {
    /// Whether objects are shown rather than named.
    fn is_shown(&self) -> bool {
        !(self.points.is_empty() && self.boxes.is_empty() && self.masks.is_empty())
    }

    fn kind(&self) -> PromptKind {
        match self.is_shown() {
            true => PromptKind::Clicks,
            false => PromptKind::Text,
        }
    }

    /// What is to be found, by its name and example.
    fn prompt(&self) -> Prompt {
        let exemplar = |bbox| Exemplar {
            bbox,
            positive: true,
        };
        Prompt {
            text: self.text.clone(),
            exemplars: self.exemplar.into_iter().map(exemplar).collect(),
            ..Prompt::default()
        }
    }

    /// Everything besides frames that decides what is written.
    fn settings(&self, weights: &str) -> Map<String, Value> {
        let prompts = [
            format!("{:?}", self.points),
            format!("{:?}", self.boxes),
            format!("{:?}", self.masks),
        ];
        let formats: Vec<&str> = self.formats.iter().map(|format| format.name()).collect();
        let settings = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "input": self.input.display().to_string(),
            "text": self.text,
            "exemplar": self.exemplar,
            "prompts": prompts,
            "simple": self.simple,
            "backward": self.backward,
            "no_delay": self.no_delay,
            "threshold": self.threshold,
            "new_threshold": self.new_threshold,
            "like_official": self.like_official,
            "formats": formats,
            "fps": self.fps,
            "model": weights,
            "context_length": self.model.context_length,
            "dtype": format!("{:?}", self.model.dtype),
            "precision": self.model.precision.to_string(),
        });
        match settings {
            Value::Object(settings) => settings,
            _ => Map::new(),
        }
    }
}

pub fn run(args: TrackArgs) -> Result<()> {
    follow::check(&args)?;
    if args.is_shown() {
        args.model.refuse_text_flags()?;
    }
    let prompts = Prompts::new(&args.points, &args.boxes, &args.masks)?;
    if args.formats.contains(&Format::Mp4) {
        ffmpeg_is_there()?;
    }
    let mut reader = FrameReader::open(&args.input)?;
    if let Some(frames) = reader.about().frames {
        prompts.check_frames(frames)?;
    }
    let first = reader.next().context("the video has no frame")??;
    check_prompts(&args, &prompts, &first)?;

    let checkpoint = model::open_complete(&args.model, args.kind())?;
    let weights = checkpoint.fingerprint();
    let settings = args.settings(&weights);
    let folder = args.output.clone().unwrap_or_else(|| beside(&args.input));
    let mut saved = Saved::new(&folder);
    match args.resume {
        true => saved.check(&settings)?,
        false => saved.check_new()?,
    }
    let model = load(&args, &checkpoint)?;
    demo::hint(model.name(), &first)?;
    let mut following = Following::new(&model, &args, reader.about().frames)?;

    let about = about(&args, &reader);
    let mut next = 0;
    let mut writer = if args.resume {
        if let Some(state) = saved.state()? {
            next = following.restore(&state)?;
        }
        let written = next.saturating_sub(following.late);
        Writer::resume(&folder, &args.formats, about, written)?
    } else {
        let writer = Writer::create(&folder, &args.formats, about)?;
        saved.begin(&settings)?;
        writer
    };
    // Of frames that are written already nothing is missing.
    let mut backward = match args.backward && prompts.latest_first() > Some(next) {
        true => Backward::run(&model, &args, &prompts, reader.about().frames)?,
        false => Backward::default(),
    };
    let bar = progress::frames(reader.about().likely_frames);
    let mut objects = BTreeSet::new();
    // Images whose objects are not certain yet.
    let mut waiting: VecDeque<Image> = VecDeque::new();
    let mut note = |answers: Vec<TrackedFrame>,
                    waiting: &mut VecDeque<Image>,
                    writer: &mut Writer|
     -> Result<()> {
        for mut answer in answers {
            backward.complete(&mut answer);
            let Some(image) = waiting.pop_front() else {
                bail!("frame {} was answered twice", answer.frame);
            };
            objects.extend(answer.objects.iter().map(|object| object.id));
            writer.write(&answer, &image)?;
        }
        Ok(())
    };
    let mut seen = 0;
    let mut replayed = vec![];
    for image in std::iter::once(Ok(first)).chain(reader) {
        let image = image?;
        let frame = seen;
        seen += 1;
        bar.inc(1);
        if frame < next {
            match frame < next.saturating_sub(following.late) {
                true => replayed.extend(writer.replay(&image)?.objects.iter().map(|o| o.id)),
                false => waiting.push_back(image),
            }
            continue;
        }
        let answers = following.push(&image, prompts.on(frame), &mut Run::default())?;
        waiting.push_back(image);
        note(answers, &mut waiting, &mut writer)?;
        if (frame + 1).is_multiple_of(args.save_every as usize) {
            saved.save(&following.save()?)?;
        }
    }
    if seen < next {
        bail!("the video has {seen} frames, and {next} were seen before it was stopped");
    }
    note(following.finish(), &mut waiting, &mut writer)?;
    bar.finish_and_clear();
    writer.finish()?;
    saved.finish()?;
    prompts.check_frames(seen)?; // of a video file the end is known only now
    objects.extend(replayed);
    following.say_lost(|frame| frame, "on");
    let found = plural(objects.len(), "object");
    progress::say(&format!(
        "{seen} frames, {found}: wrote {}",
        folder.display()
    ));
    Ok(())
}

/// `clip.mp4` -> `clip.tracked`
fn beside(input: &Path) -> PathBuf {
    let name = input.file_stem().or(input.file_name()).unwrap_or_default();
    let mut name = name.to_os_string();
    name.push(".tracked");
    input.with_file_name(name)
}

/// Refuses prompts that make no sense for the video, before any weights are read.
fn check_prompts(args: &TrackArgs, prompts: &Prompts, first: &Image) -> Result<()> {
    prompts.check(first)?;
    if args.backward {
        Backward::check(args, prompts, first)?;
    }
    if prompts.is_empty() {
        concept::validate(&[args.prompt()], &concept::Options::default(), first.size())?;
    }
    Ok(())
}

fn load(args: &TrackArgs, checkpoint: &Checkpoint) -> Result<candle_sam3::Model> {
    let family = Family::of(checkpoint)?;
    if family != Family::Sam3 && !args.is_shown() {
        bail!(
            "SAM 1, MobileSAM and SAM 2.1 take no texts; show the object with --point, or use a \
             checkpoint of SAM 3, EfficientSAM3 or SAM3-LiteText"
        );
    }
    if family == Family::Sam && !args.simple {
        bail!(
            "SAM 1 and MobileSAM have no memory of earlier frames; use a SAM 2.1, sam3.pt, or a LiteText \
             or Stage-1 EfficientSAM3 file, or follow without a memory: --simple"
        );
    }
    let options = LoadOptions {
        interactive: args.is_shown() || !args.simple,
        tracking: !args.simple,
        ..model::prepare(&args.model)?
    };
    models::load(checkpoint, &options).map_err(|error| match error {
        candle_sam3::Error::Unsupported { .. } if !args.simple => {
            anyhow::anyhow!("{error}, or follow without a memory: --simple")
        }
        other => other.into(),
    })
}

/// What the results say about the video.
fn about(args: &TrackArgs, reader: &FrameReader) -> About {
    let rate = args.fps.or(reader.about().frames_per_second);
    let name = args.input.file_stem().or(args.input.file_name());
    let files = reader.paths().iter().filter_map(|path| path.file_name());
    About {
        name: name.unwrap_or_default().to_string_lossy().into_owned(),
        frames_per_second: rate.unwrap_or(DEFAULT_RATE),
        file_names: files
            .map(|name| name.to_string_lossy().into_owned())
            .collect(),
    }
}
