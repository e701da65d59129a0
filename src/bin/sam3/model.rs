//! From the model flags to a loaded model.

use std::path::Path;

use anyhow::{Context, Result};
use candle_sam3::models::sam3::{LoadOptions, Sam3};
use candle_sam3::weights::{self, Checkpoint};

use crate::args::{Dtype, ModelArgs};

/// Opens, detects and loads the model; headers are checked before any tensor is read.
pub fn load(args: &ModelArgs) -> Result<Sam3> {
    if let Some(threads) = args.threads {
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads.get())
            .build_global()
            .context("--threads")?;
    }
    let options = LoadOptions {
        device: args.device.open()?,
        dtype: match args.dtype {
            Dtype::F32 => candle_sam3::DType::F32,
            Dtype::F16 => candle_sam3::DType::F16,
            Dtype::Bf16 => candle_sam3::DType::BF16,
        },
        context_length: args.context_length,
        clicks: false,
    };
    let mut checkpoint = open(&args.model)?;
    if let Some(geometry) = &args.geometry {
        checkpoint = checkpoint.with_part("detector.geometry_encoder.", &open(geometry)?)?;
    }
    Ok(Sam3::load(&checkpoint, &options)?)
}

fn open(model: &Path) -> Result<Checkpoint> {
    Ok(match model.to_str() {
        Some("demo") => weights::demo()?,
        _ => Checkpoint::open(model)?,
    })
}
