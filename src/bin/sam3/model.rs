//! From the model flags to a loaded model.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use candle_sam3::device::DeviceKind;
use candle_sam3::models;
use candle_sam3::models::variant::PromptKind;
use candle_sam3::weights::{self, Checkpoint};
use candle_sam3::{DType, LoadOptions, Model, Precision, WeightFormat};
use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};

use crate::names::{self, DEMO};

/// As many as one machine has: each holds the whole model.
const MAX_DEVICES: usize = 16;

#[derive(Args)]
#[command(next_help_heading = "Model")]
pub struct ModelArgs {
    /// Name from `sam3 models`, downloaded on first use; checkpoint file; model folder; or `demo`
    /// for the built-in model of colored shapes
    #[arg(short, long, default_value = "demo", value_name = "NAME|FILE|DIR")]
    pub model: PathBuf,

    /// A second model that supplies the geometry encoder, which Stage-3 files may lack
    #[arg(long, value_name = "NAME|FILE")]
    pub geometry: Option<PathBuf>,

    /// Tokens per text, for a student whose positional table is longer than its training
    #[arg(long, value_name = "N")]
    pub context_length: Option<usize>,

    /// auto, cpu, cuda, cuda:N or metal; `label` takes several with commas and loads the model on each
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "auto",
        value_name = "DEVICE"
    )]
    pub device: Vec<DeviceKind>,

    /// Number format of the computation
    #[arg(long, default_value = "f32", value_parser = dtypes())]
    pub dtype: DType,

    /// highest: f32 throughout; high: the fastest within 5e-4 per stage; medium: products of bf16.
    /// For f32 on the CPU
    #[arg(long, default_value_t, value_name = "PRECISION")]
    pub precision: Precision,

    /// int8: the large layers hold weights of 8 bits, less exact and in a quarter of the memory, with bf16
    /// between them where that is faster and highest is not asked for; stored: as the file has them. For
    /// f32 on the CPU
    #[arg(long, default_value_t, value_name = "FORMAT")]
    pub weights: WeightFormat,

    /// CPU threads; all cores by default
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=crate::cli::MAX_THREADS.into()))]
    pub threads: Option<u16>,
}

impl ModelArgs {
    /// Refuses flags that only texts and exemplars have a use for.
    pub fn refuse_text_flags(&self) -> Result<()> {
        let of_texts = [
            ("--context-length", self.context_length.is_some()),
            ("--geometry", self.geometry.is_some()),
        ];
        match of_texts.into_iter().find(|(_, is_given)| *is_given) {
            Some((flag, _)) => bail!("{flag} is of use to texts and exemplars only; leave it out"),
            None => Ok(()),
        }
    }
}

/// Reads the number formats that models have.
pub fn dtypes() -> impl TypedValueParser<Value = DType> {
    PossibleValuesParser::new(["f32", "f16", "bf16"]).try_map(|name| name.parse::<DType>())
}

/// Opens, detects and loads the model; headers are checked before any tensor is read. For clicks,
/// the interactive head is loaded, too.
pub fn load(args: &ModelArgs, prompts: PromptKind) -> Result<Model> {
    let options = LoadOptions {
        interactive: matches!(prompts, PromptKind::Clicks | PromptKind::Everything),
        ..prepare(args)?
    };
    Ok(models::load(&open_complete(args, prompts)?, &options)?)
}

/// Opens, detects and loads a model for every kind of prompt that it answers.
#[cfg(feature = "server")]
pub fn load_whole(args: &ModelArgs) -> Result<Model> {
    let checkpoint = open_with(&args.model, args.geometry.as_deref(), None)?;
    let options = LoadOptions {
        // Some releases of SAM 3 have no part for points; other models have nothing else.
        interactive: models::variant::is_interactive(&checkpoint)?,
        ..prepare(args)?
    };
    Ok(models::load(&checkpoint, &options)?)
}

/// Opens the one device.
pub fn prepare(args: &ModelArgs) -> Result<LoadOptions> {
    let mut options = prepare_each(args)?;
    match (options.pop(), options.pop()) {
        (Some(options), None) => Ok(options),
        _ => bail!("--device names several devices, which only `sam3 label` makes use of"),
    }
}

/// Opens each device.
pub fn prepare_each(args: &ModelArgs) -> Result<Vec<LoadOptions>> {
    let count = args.device.len();
    if count > MAX_DEVICES {
        bail!("--device names {count} devices; at most {MAX_DEVICES} are used");
    }
    let on = |device: &DeviceKind| {
        Ok(LoadOptions {
            device: device.open()?,
            dtype: args.dtype,
            precision: args.precision,
            weights: args.weights,
            context_length: args.context_length,
            ..LoadOptions::default()
        })
    };
    args.device.iter().map(on).collect()
}

/// The checkpoint that the flags name; a model that is not here yet must answer `prompts`.
pub fn open_complete(args: &ModelArgs, prompts: PromptKind) -> Result<Checkpoint> {
    open_with(&args.model, args.geometry.as_deref(), Some(prompts))
}

/// The checkpoint, with the part that a second file supplies.
pub fn open_with(
    model: &Path,
    geometry: Option<&Path>,
    prompts: Option<PromptKind>,
) -> Result<Checkpoint> {
    let checkpoint = open(model, prompts)?;
    let Some(geometry) = geometry else {
        return Ok(checkpoint);
    };
    Ok(checkpoint.with_part("detector.geometry_encoder", &open(geometry, None)?)?)
}

/// Opens what `-m` names; a model that is not here yet is downloaded, if it answers `prompts`.
fn open(model: &Path, prompts: Option<PromptKind>) -> Result<Checkpoint> {
    Ok(match model.as_os_str() == DEMO {
        true => weights::demo()?,
        false => Checkpoint::open(names::locate(model, prompts)?)?,
    })
}
