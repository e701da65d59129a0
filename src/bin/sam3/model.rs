//! From the model flags to a loaded model.

use std::path::Path;

use anyhow::Result;
use candle_sam3::models;
use candle_sam3::models::variant::PromptKind;
use candle_sam3::weights::{self, Checkpoint};
use candle_sam3::{LoadOptions, Model};

use crate::args::ModelArgs;
use crate::names::{self, Located};

/// Opens, detects and loads the model; headers are checked before any tensor is read. For clicks,
/// the interactive head is loaded, too.
pub fn load(args: &ModelArgs, prompts: PromptKind) -> Result<Model> {
    let options = LoadOptions {
        interactive: matches!(prompts, PromptKind::Clicks | PromptKind::Everything),
        ..prepare(args)?
    };
    Ok(models::load(&open_complete(args, prompts)?, &options)?)
}

/// Opens the device.
pub fn prepare(args: &ModelArgs) -> Result<LoadOptions> {
    Ok(LoadOptions {
        device: args.device.open()?,
        dtype: args.dtype.into(),
        precision: args.precision,
        context_length: args.context_length,
        interactive: false,
        tracking: false,
    })
}

/// The checkpoint that the flags name; `prompts` as for [`open`].
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
    Ok(match geometry {
        None => checkpoint,
        Some(geometry) => {
            checkpoint.with_part("detector.geometry_encoder", &open(geometry, None)?)?
        }
    })
}

/// Opens what `-m` names; a model that is not here yet is downloaded, if it answers `prompts`.
fn open(model: &Path, prompts: Option<PromptKind>) -> Result<Checkpoint> {
    Ok(match names::locate(model, prompts)? {
        Located::Demo => weights::demo()?,
        Located::File(path) => Checkpoint::open(path)?,
    })
}
