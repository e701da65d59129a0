//! `sam3 eval`: how good results are, with a model or without.

mod clicks;
mod predict;
mod report;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use candle_sam3::eval::Kind;
use candle_sam3::eval::average_precision::average_precision;
use candle_sam3::eval::concept::{SaCo, concept_figures, pairs_of};
use candle_sam3::eval::data::{GroundTruth, Results};
use candle_sam3::models::variant::PromptKind;
use candle_sam3::output::write_file;
use clap::{ArgGroup, ValueEnum};

use crate::model::ModelArgs;
use crate::picture::DecodeArgs;
use crate::{model, progress};
use predict::Pictures;
use report::Report;

#[derive(clap::Args)]
#[command(group(ArgGroup::new("truth").required(true).args(["coco", "saco"])))]
#[command(group(ArgGroup::new("results").required(true).args(["predictions", "images"])))]
pub struct EvalArgs {
    /// Ground truth in COCO's instance format
    #[arg(long, value_name = "FILE")]
    coco: Option<PathBuf>,

    /// Ground truth of SA-Co: the files of one subset, one for each annotator
    #[arg(long, value_delimiter = ',', value_name = "FILES")]
    saco: Vec<PathBuf>,

    /// Score this file of results; no model is loaded
    #[arg(long, value_name = "FILE")]
    predictions: Option<PathBuf>,

    /// Folder of the images: the model looks for every category, or for the phrases of SA-Co
    #[arg(long, value_name = "DIR")]
    images: Option<PathBuf>,

    /// What to compute: ap, box-ap and boundary-ap of COCO; cgf1 and box-cgf1 of SA-Co; box-miou and
    /// click-miou with the truth as a user [default: ap, or cgf1 with --saco]
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "LIST",
        hide_possible_values = true
    )]
    metrics: Vec<Metric>,

    /// With --images: write the model's results, which --predictions reads
    #[arg(long, value_name = "FILE", requires = "images")]
    save: Option<PathBuf>,

    /// With --images: keep results of a higher score [default: 0.05, or 0.3 with --saco]
    #[arg(long, value_name = "SCORE", requires = "images")]
    min_score: Option<f32>,

    /// With --coco and --images: a TOML table of category names and the phrases to look for instead,
    /// such as `tv = "television"`
    #[arg(
        long,
        value_name = "FILE",
        requires = "images",
        conflicts_with = "saco"
    )]
    prompts: Option<PathBuf>,

    /// With --images: only the first N images of the ground truth
    #[arg(long, value_name = "N", requires = "images")]
    limit: Option<usize>,

    /// Write the figures as JSON; `-` prints them instead of the table
    #[arg(long, value_name = "FILE|-")]
    json: Option<PathBuf>,

    /// Figures of an earlier run, to show what changed
    #[arg(long, value_name = "FILE")]
    compare: Option<PathBuf>,

    #[command(flatten)]
    decoding: DecodeArgs,

    #[command(flatten)]
    pub model: ModelArgs,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Metric {
    Ap,
    BoxAp,
    BoundaryAp,
    #[value(name = "cgf1")]
    CgF1,
    #[value(name = "box-cgf1")]
    BoxCgF1,
    BoxMiou,
    ClickMiou,
}

impl Metric {
    fn is_interactive(self) -> bool {
        matches!(self, Self::BoxMiou | Self::ClickMiou)
    }

    fn is_of_saco(self) -> bool {
        matches!(self, Self::CgF1 | Self::BoxCgF1)
    }

    /// What is held against the truth.
    fn kind(self) -> Kind {
        match self {
            Self::BoxAp | Self::BoxCgF1 => Kind::Box,
            Self::BoundaryAp => Kind::Boundary,
            _ => Kind::Mask,
        }
    }
}

pub fn run(args: EvalArgs, quiet: bool) -> Result<()> {
    let metrics = metrics(&args)?;
    // Read first: a wrong file is said before any long work.
    let earlier = args.compare.as_deref().map(Report::read).transpose()?;
    let report = match &args.coco {
        Some(path) => of_coco(&args, path, &metrics)?,
        None => of_saco(&args, &metrics)?,
    };
    let json = serde_json::to_vec_pretty(&report)?;
    match args.json.as_deref() {
        Some(path) if path.as_os_str() == "-" => {
            return progress::print([json.as_slice(), b"\n"].concat());
        }
        Some(path) => write_file(path, &json)?,
        None => {}
    }
    if !quiet || args.json.is_none() {
        progress::print(report.table(earlier.as_ref()))?;
    }
    Ok(())
}

fn metrics(args: &EvalArgs) -> Result<Vec<Metric>> {
    let of_saco = args.coco.is_none();
    if args.metrics.is_empty() {
        return Ok(vec![if of_saco { Metric::CgF1 } else { Metric::Ap }]);
    }
    if of_saco && !args.metrics.iter().all(|metric| metric.is_of_saco()) {
        bail!("--saco has only cgf1 and box-cgf1");
    }
    if args.images.is_none() && args.metrics.iter().any(|metric| metric.is_interactive()) {
        bail!("box-miou and click-miou need --images and a model");
    }
    Ok(args.metrics.clone())
}

fn of_coco(args: &EvalArgs, path: &Path, metrics: &[Metric]) -> Result<Report> {
    let mut truth = GroundTruth::read(path)?;
    if let Some(limit) = args.limit {
        truth.images.truncate(limit);
        truth.annotations.retain(|object| object.image < limit);
    }
    let objects = truth.annotations.iter();
    if 2 * objects.filter(|object| object.is_crowd).count() > truth.annotations.len() {
        progress::say("most objects are crowds (iscrowd 1), which are not scored");
    }
    let mut report = Report {
        images: truth.images.len(),
        ..Report::default()
    };
    let (interactive, others): (Vec<Metric>, Vec<Metric>) =
        metrics.iter().partition(|metric| metric.is_interactive());
    if !others.is_empty() {
        let results = match (&args.predictions, &args.images) {
            (Some(path), _) => Results::read(path, &truth)?,
            (None, Some(images)) => {
                predict::coco(args, &truth, &pictures(args, images), &mut report)?
            }
            (None, None) => bail!("--predictions or --images is needed"),
        };
        if results.unknown_category > 0 {
            let count = results.unknown_category;
            progress::say(&format!(
                "{count} results are of categories that the truth lacks"
            ));
        }
        for metric in others {
            let kind = metric.kind();
            if metric.is_of_saco() {
                let pairs = pairs_of(&truth, &results);
                report.concept.push(concept_figures(&pairs, kind));
            } else {
                report.ap.push(average_precision(&truth, &results, kind));
            }
        }
    }
    if let (false, Some(images)) = (interactive.is_empty(), &args.images) {
        let model = model::load(&args.model, PromptKind::Clicks)?;
        report.model = Some(model.name().to_string());
        let with = [Metric::BoxMiou, Metric::ClickMiou].map(|m| interactive.contains(&m));
        clicks::measure(&model, &truth, &pictures(args, images), with, &mut report)?;
    }
    Ok(report)
}

fn pictures<'a>(args: &EvalArgs, folder: &'a Path) -> Pictures<'a> {
    Pictures {
        folder,
        decoding: args.decoding.options(),
    }
}

fn of_saco(args: &EvalArgs, metrics: &[Metric]) -> Result<Report> {
    let (first, others) = args.saco.split_first().context("--saco needs a file")?;
    let mut set = SaCo::read(first, others)?;
    if let Some(limit) = args.limit {
        set.keep_images(limit);
    }
    let mut report = Report {
        images: set.images(),
        ..Report::default()
    };
    let pairs = match (&args.predictions, &args.images) {
        (Some(path), _) => set.with_results(path)?,
        (None, Some(images)) => predict::saco(args, &set, &pictures(args, images), &mut report)?,
        (None, None) => bail!("--predictions or --images is needed"),
    };
    let figures = metrics.iter().map(|m| concept_figures(&pairs, m.kind()));
    report.concept.extend(figures);
    Ok(report)
}
