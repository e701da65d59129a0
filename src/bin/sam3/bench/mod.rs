//! `sam3 bench`: how fast a model runs here.

mod clicks;
mod compare;
mod concepts;
mod machine;
mod measure;
mod parity;
mod picture;
mod report;
mod spans;
mod track;

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, bail};
use candle_sam3::models::variant::{self, Family, Variant};
use candle_sam3::{LoadOptions, Model, Precision, WeightFormat, device, models, output};
use indicatif::ProgressBar;

use crate::model::{self, ModelArgs};
use crate::{names, progress};
use measure::{Clock, Samples};
use picture::Picture;
use report::Report;

#[derive(clap::Args)]
pub struct BenchArgs {
    #[command(flatten)]
    pub model: ModelArgs,

    /// Measure a released model without its file, on made-up weights: sam3, sam3-litetext-s0,
    /// efficientsam3-rv-m, mobile-sam, sam-vit-b, … (`sam3 models` lists all)
    #[arg(long, value_name = "VARIANT", conflicts_with_all = ["model", "geometry"], help_heading = "Model")]
    pub random_weights: Option<String>,

    /// Image to run on; otherwise a made-up JPEG of 1800 x 1200 pixels
    #[arg(long, value_name = "FILE", help_heading = "Work")]
    pub image: Option<PathBuf>,

    /// Texts to look for in each image
    #[arg(long, value_name = "N", default_value = "1", value_parser = parse_count, help_heading = "Work")]
    pub prompts: NonZeroUsize,

    /// Images encoded at a time
    #[arg(long, value_name = "N", default_value = "1", value_parser = parse_count, help_heading = "Work")]
    pub batch: NonZeroUsize,

    /// Also measure `everything`, 1024 points
    #[arg(long, help_heading = "Work")]
    pub everything: bool,

    /// Also measure one frame of a video, with 1, 4 and 16 objects that all their memories are there of
    #[arg(long, help_heading = "Work")]
    pub track: bool,

    /// Also hold every stage against the same model in f32 on the CPU, and fail if one is far off
    #[arg(long, help_heading = "Work")]
    pub parity: bool,

    /// Runs before the measured ones
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = parse_count_or_none, help_heading = "Work")]
    pub warmup: usize,

    /// Measured runs
    #[arg(long, value_name = "N", default_value = "5", value_parser = parse_count, help_heading = "Work")]
    pub iters: NonZeroUsize,

    /// Also write the results, every sample included, to this JSON file
    #[arg(long, value_name = "FILE", help_heading = "Results")]
    pub json: Option<PathBuf>,

    /// Set the results beside those of an earlier --json file
    #[arg(long, value_name = "FILE", help_heading = "Results")]
    pub compare: Option<PathBuf>,

    /// Fail if a stage takes more than X times as long as in --compare; stages under 1 ms are let off
    #[arg(long, value_name = "X", requires = "compare", value_parser = parse_positive, allow_hyphen_values = true, help_heading = "Results")]
    pub tolerance: Option<f64>,

    /// Price of the machine, for the cost of 1,000 images
    #[arg(long, value_name = "PRICE", value_parser = parse_positive, allow_hyphen_values = true, help_heading = "Results")]
    pub cost_per_hour: Option<f64>,
}

pub fn run(args: BenchArgs) -> Result<()> {
    let release = args.random_weights.as_deref().map(names::find);
    let variant = release.transpose()?.map(|release| &release.variant);
    if variant.is_some_and(|variant| variant.family() != Family::Sam3) {
        clicks::check(&args)?;
    }
    let earlier = args.compare.as_deref().map(compare::read).transpose()?;
    if let Some(path) = &args.json {
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty());
        if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
            bail!("{} is not a folder to write --json to", folder.display());
        }
    }
    let picture = Picture::new(args.image.as_deref())?;

    let spinner = progress::spinner();
    if cfg!(debug_assertions) {
        progress::complain("warning: this is a debug build; measure a release build");
    }

    spinner.set_message("load");
    let options = model::prepare(&args.model)?;
    let start = Instant::now();
    let model = load(&args, variant, &options)?;
    options.device.synchronize()?;
    let load_ms = measure::ms(start.elapsed());

    let work = Work {
        picture: &picture,
        device: &options.device,
        args: &args,
        spinner: &spinner,
        start,
    };
    let measured = match model.as_concept() {
        Ok(model) => concepts::measure(model, &work)?,
        Err(_) => clicks::measure(model.as_interactive()?, &work)?,
    };
    let parity = match args.parity {
        false => None,
        true => {
            spinner.set_message("parity");
            let on_cpu = LoadOptions {
                device: candle::Device::Cpu,
                dtype: candle_sam3::DType::F32,
                precision: Precision::Highest,
                weights: WeightFormat::Stored,
                ..options.clone()
            };
            let reference = load(&args, variant, &on_cpu)?;
            Some(parity::Parity::of(&model, &reference, &picture)?)
        }
    };

    spinner.finish_and_clear();

    let report = Report::new(&args, &options, picture, &model, load_ms, measured, parity);
    if let Some(path) = &args.json {
        let json = serde_json::to_vec_pretty(&report)?;
        output::write_file(path, &json)?;
    }
    progress::print(report.table())?;
    if let Some(earlier) = earlier {
        compare::compare(&report, &earlier, args.tolerance)?;
    }
    match &report.parity {
        Some(parity) => parity.check(options.dtype, options.precision, model.weights()),
        None => Ok(()),
    }
}

/// What is run again and again.
struct Work<'a> {
    picture: &'a Picture,
    device: &'a candle::Device,
    args: &'a BenchArgs,
    spinner: &'a ProgressBar,
    /// When loading began.
    start: Instant,
}

/// What one run yields besides times.
struct Outcome {
    /// Masks found in the last image, by all prompts.
    objects: usize,
    /// When the first of them was there.
    first_mask: Instant,
}

/// What came of all runs.
#[derive(Default)]
struct Measured {
    samples: Samples,
    /// From the beginning of loading to the first mask.
    first_mask_ms: f64,
    objects: usize,
    peak_host_bytes: Option<u64>,
    peak_device_bytes: Option<u64>,
}

impl Work<'_> {
    /// Calls `run` for each warm-up and each iteration; the samples of the latter are kept.
    fn repeat(&self, mut run: impl FnMut(&mut Clock) -> Result<Outcome>) -> Result<Measured> {
        let (warmup, iters) = (self.args.warmup, self.args.iters.get());
        let mut measured = Measured::default();
        for i in 0..warmup + iters {
            let phase = match i < warmup {
                true => format!("warm-up {} of {warmup}", i + 1),
                false => format!("run {} of {iters}", i + 1 - warmup),
            };
            self.spinner.set_message(phase);
            if i == warmup {
                measured.samples = Samples::default();
            }
            // Watching the memory takes time, so only the warm-up is watched throughout.
            let mut clock = Clock::start(self.device, &mut measured.samples)?;
            let (outcome, bytes) = match i < warmup {
                true => measure::watching_memory(self.device, || run(&mut clock)),
                false => (run(&mut clock), device::memory_in_use(self.device)),
            };
            let outcome = outcome?;
            measured.objects = outcome.objects;
            measured.peak_device_bytes = measured.peak_device_bytes.max(bytes);
            if i == 0 {
                measured.first_mask_ms = measure::ms(outcome.first_mask - self.start);
            }
        }
        measured.peak_host_bytes = machine::peak_host_bytes();
        Ok(measured)
    }
}

fn load(args: &BenchArgs, variant: Option<&Variant>, options: &LoadOptions) -> Result<Model> {
    let with_clicks = |interactive| LoadOptions {
        interactive,
        tracking: args.track,
        ..options.clone()
    };
    if let Some(variant) = variant {
        let options = with_clicks(variant.interactive);
        return Ok(Model::with_random_weights(variant, &options)?);
    }
    let checkpoint = model::open_with(&args.model.model, args.model.geometry.as_deref(), None)?;
    let options = with_clicks(variant::is_interactive(&checkpoint)?);
    Ok(models::load(&checkpoint, &options)?)
}

/// More texts, images or runs would take longer than anybody waits, or more memory than there is.
const MAX_COUNT: usize = 10_000;

fn parse_count(text: &str) -> Result<NonZeroUsize, String> {
    let count = text.parse().ok();
    let count = count.filter(|count: &NonZeroUsize| count.get() <= MAX_COUNT);
    count.ok_or_else(|| format!("give a number in 1..={MAX_COUNT}"))
}

fn parse_count_or_none(text: &str) -> Result<usize, String> {
    match text {
        "0" => Ok(0),
        _ => parse_count(text).map(NonZeroUsize::get),
    }
}

fn parse_positive(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(value) if value > 0. && f64::is_finite(value) => Ok(value),
        _ => Err("give a number greater than 0".into()),
    }
}
