//! `sam3 label`: folders of pictures and words -> a data set.

mod classes;
mod clip;
mod engines;
mod plan;
mod preview;
mod sources;
mod write;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use candle_sam3::models::variant::PromptKind;
use candle_sam3::output::dataset::journal::{
    Header, Journal, Line, MAX_SHARDS, Records, Shard, Stamp,
};
use candle_sam3::output::dataset::{Format, LabelMeShapes, Link, write_documents};
use candle_sam3::predict::dataset::Source;
use candle_sam3::{LoadOptions, Model, models};
use clap::ArgGroup;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde::de::DeserializeOwned;

use crate::concept;
use crate::everything::GeneratorArgs;
use crate::model::{self, ModelArgs};
use crate::picture::DecodeArgs;
use crate::progress;
use crate::summary::plural;
use crate::tiles::TileArgs;

#[derive(clap::Args)]
#[command(group(ArgGroup::new("what").required(true).args(["text", "classes", "concepts", "everything"])))]
pub struct LabelArgs {
    /// Pictures, folders, patterns such as `photos/**/*.jpg`, or `-` for a list on standard input
    #[arg(required = true, value_name = "INPUT")]
    inputs: Vec<String>,

    /// What to look for: "car, person", or with a threshold, a limit and more words
    /// "car:0.4, dog|puppy:0.6:10"
    #[arg(long, value_name = "CLASSES")]
    text: Option<String>,

    /// What to look for, as a TOML file with a [[class]] table for each: name, phrases, threshold,
    /// max_objects, min_area
    #[arg(long, value_name = "FILE")]
    classes: Option<PathBuf>,

    /// What to look for, as a file of `sam3 concept save`; may be repeated, and each is a class
    #[arg(long = "concept", value_name = "FILE")]
    concepts: Vec<PathBuf>,

    /// Look for everything; all objects are of the class `object`
    #[arg(long)]
    everything: bool,

    /// With --everything: what objects may be, "person, car|van:0.7, tree", as for --text. CLIP chooses
    /// for each, and it is dropped if that is not more probable than the threshold. It chooses among
    /// these alone, so name what is in the background, too
    #[arg(
        long,
        value_name = "CLASSES",
        requires = "everything",
        conflicts_with_all = ["text", "classes", "concepts"]
    )]
    classify: Option<String>,

    /// CLIP for --classify: a folder as Hugging Face has it, or a name on its hub
    #[arg(
        long,
        default_value = "openai/clip-vit-base-patch32",
        value_name = "NAME|DIR",
        requires = "classify"
    )]
    clip: String,

    /// Folder for the results
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,

    /// What to write: coco, coco-polygon, yolo, labelme, labelstudio, cvat, voc, imagefolder, masks,
    /// cutout, csv; several with commas
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "coco",
        value_name = "LIST"
    )]
    format: Vec<Format>,

    #[command(flatten)]
    decoding: DecodeArgs,

    #[command(flatten)]
    tiles: TileArgs,

    #[command(flatten)]
    keep: KeepArgs,

    #[command(flatten)]
    files: FileArgs,

    #[command(flatten)]
    run: RunArgs,

    #[command(flatten)]
    generator: GeneratorArgs,

    #[command(flatten)]
    pub model: ModelArgs,
}

#[derive(clap::Args)]
#[command(next_help_heading = "What to keep")]
struct KeepArgs {
    /// Keep objects of a higher score, with --classify of a higher probability; for classes without a
    /// threshold of their own
    #[arg(long, default_value_t = 0.5, value_name = "SCORE")]
    threshold: f32,

    /// Drop an object that overlaps a better one of its class by more than this IoU
    #[arg(long, default_value_t = 0.7, value_name = "IOU")]
    nms: f32,

    /// The same for objects of different classes; both stay if not given
    #[arg(long, value_name = "IOU")]
    nms_across: Option<f32>,

    /// Drop objects of fewer pixels
    #[arg(long, default_value_t = 0, value_name = "PIXELS")]
    min_area: usize,
}

#[derive(clap::Args)]
#[command(next_help_heading = "Files")]
struct FileArgs {
    /// Share of the pictures that is for training; the others are for validation
    #[arg(long, default_value_t = 0.9, value_name = "SHARE")]
    split: f64,

    /// How far polygons may leave the outline, in pixels
    #[arg(long, default_value_t = 1.0, value_name = "PIXELS")]
    simplify: f64,

    /// The least overlap of polygons, when filled, with their masks; outranks --simplify
    #[arg(long, default_value_t = 0.98, value_name = "IOU")]
    polygon_iou: f64,

    /// How pictures get into the folders of yolo, voc and imagefolder
    #[arg(long, default_value = "hard", value_name = "HOW",
        value_parser = one_of::<Link>(["hard", "copy", "symbolic"]))]
    link: Link,

    /// Shapes for labelme: polygons can be edited, masks are exact
    #[arg(long, default_value = "polygon", value_name = "SHAPE",
        value_parser = one_of::<LabelMeShapes>(["polygon", "mask"]))]
    labelme_shape: LabelMeShapes,

    /// What goes before the names of pictures in Label Studio
    #[arg(long, default_value = "/data/local-files/?d=", value_name = "PREFIX")]
    url_prefix: String,

    /// Name files a-png after a.png, to tell them from those of a.jpg
    #[arg(long)]
    keep_extension: bool,

    /// Write preview.png: overlays of this many pictures
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=400))]
    preview: Option<u16>,
}

#[derive(clap::Args)]
#[command(next_help_heading = "Run")]
struct RunArgs {
    /// Continue an interrupted run; failed pictures are tried again
    #[arg(long)]
    resume: bool,

    /// Label one of N equal parts, I from 0; `sam3 merge` joins them
    #[arg(long, value_name = "I/N", value_parser = shard)]
    shard: Option<Shard>,

    /// Stop at the first picture that fails
    #[arg(long)]
    strict: bool,
}

/// Reads the names that a type has in JSON.
fn one_of<T: DeserializeOwned + Clone + Send + Sync + 'static>(
    names: impl IntoIterator<Item = &'static str>,
) -> impl TypedValueParser<Value = T> {
    PossibleValuesParser::new(names).try_map(|name| serde_json::from_value(name.into()))
}

/// Reads `I/N`.
fn shard(text: &str) -> Result<Shard, String> {
    let parsed = text.split_once('/').and_then(|(index, count)| {
        Some(Shard {
            index: index.parse().ok()?,
            count: count.parse().ok()?,
        })
    });
    let shard = parsed.filter(|shard| shard.index < shard.count && shard.count <= MAX_SHARDS);
    shard.ok_or_else(|| "must be I/N, with I from 0 to N - 1".to_string())
}

pub fn run(args: LabelArgs) -> Result<()> {
    let start = Instant::now();
    let concepts = concept::load(&args.concepts)?;
    let options = plan::options(&args, &concepts)?;
    let layout = plan::layout(&args, options.as_ref())?;
    let shard = args.run.shard.unwrap_or(Shard::WHOLE);
    let all = sources::list(&args.inputs, &args.output)?;
    if !args.files.keep_extension && layout.formats.iter().any(|format| format.shares_stems()) {
        sources::check_stems(&all)?;
    }
    let kind = match args.everything {
        true => PromptKind::Everything,
        false if concepts.is_empty() => PromptKind::Text,
        false => PromptKind::Exemplars,
    };
    let checkpoint = model::open_complete(&args.model, kind)?;
    let weights = checkpoint.fingerprint();
    let clip = args.classify.as_ref().map(|_| clip::locate(&args.clip));
    let clip = clip.transpose()?;
    let engines = model::prepare_each(&args.model)?.into_iter().map(|load| {
        let load = LoadOptions {
            interactive: args.everything,
            ..load
        };
        models::load(&checkpoint, &load)
    });
    let engines: Vec<Model> = engines.collect::<candle_sam3::Result<_>>()?;
    let (options, clip) = (options.as_ref(), clip.as_deref());
    let labelers = engines::labelers(&args, &engines, options, &concepts, clip)?;
    let header = Header {
        version: env!("CARGO_PKG_VERSION").to_string(),
        model: format!("{} {weights}", engines[0].name()),
        settings: plan::settings(&args, options, clip)?,
        layout,
        shards: shard.count,
    };
    let mut journal = Journal::begin(&args.output, shard, &header, args.run.resume)?;
    let records = Records::read(&args.output)?;
    let mine = all.iter().filter(|source| shard.contains(&source.name));
    let pictures = mine.clone().count();
    // Seen before the picture is decoded: a file that is written to later counts as changed.
    let mut open: Vec<(Source, Stamp)> = mine
        .map(|source| (source.clone(), Stamp::of(&source.path)))
        .collect();
    open.retain(|(source, file)| !records.is_done(&source.name, *file));
    if open.len() < pictures {
        progress::say(&format!(
            "{} of {} done",
            pictures - open.len(),
            plural(pictures, "picture")
        ));
    }
    drop(records);

    let tally = engines::label(&args, &labelers, &header.layout, open, &mut journal)?;
    journal.note(&Line::Finished { pictures })?;
    let records = Records::read(&args.output)?;
    let summary = write::summary(&records, &tally, start.elapsed());
    if shard != Shard::WHOLE {
        progress::print(summary)?;
        progress::say(&format!(
            "part {shard} is done; `sam3 merge` joins the parts"
        ));
        return Ok(());
    }
    write_documents(&records.header.layout, &records)
        .context("all pictures are done, but not all is written; --resume continues from here")?;
    if let Some(count) = args.files.preview {
        let decoding = args.decoding.options();
        preview::write(&args.output, &records, &all, &decoding, count.into())?;
    }
    progress::print(summary)?;
    if records.is_empty() {
        bail!("none of {} could be labeled", plural(pictures, "picture"));
    }
    Ok(())
}

/// `sam3 merge`: documents from the journals of all parts.
#[derive(clap::Args)]
pub struct MergeArgs {
    /// The folder that the parts were written to
    #[arg(value_name = "DIR")]
    output: PathBuf,
}

pub fn merge(args: MergeArgs) -> Result<()> {
    let records = Records::read(&args.output)?;
    let open = records.unfinished();
    if !open.is_empty() {
        let parts: Vec<String> = open.iter().map(Shard::to_string).collect();
        bail!(
            "not finished: {}; run `sam3 label` with --shard and --resume",
            parts.join(", ")
        );
    }
    write_documents(&records.header.layout, &records)?;
    progress::print(write::objects(&records)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_count_from_zero() {
        assert_eq!(shard("1/3"), Ok(Shard { index: 1, count: 3 }));
        for wrong in ["3/3", "1", "a/b", "0/0", "-1/2", "1/9999999"] {
            assert!(shard(wrong).is_err(), "{wrong}");
        }
    }
}
