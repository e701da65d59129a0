//! From the model flags to a loaded model.

use std::path::Path;

use anyhow::{Context, Result, bail};
use candle_sam3::image::Image;
use candle_sam3::models::sam3::{ImageEmbedding, LoadOptions, Sam3};
use candle_sam3::models::{ClickMasks, ClickPrompt, InteractiveModel};
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

/// Opens, detects and loads a model that takes clicks.
pub fn load_for_clicks(args: &ModelArgs) -> Result<ClickModel> {
    let checkpoint = open(&args.model)?;
    drop(checkpoint);
    bail!(
        "{}: no model of this build takes clicks; use --text with a SAM 3 family model",
        args.model.display()
    )
}

/// A model that takes clicks, whichever the file holds.
pub enum ClickModel {}

impl ClickModel {
    pub fn name(&self) -> &str {
        match *self {}
    }
}

impl InteractiveModel for ClickModel {
    type Embedding = ImageEmbedding;

    fn encode_for_clicks(&self, _: &Image) -> candle_sam3::Result<ImageEmbedding> {
        match *self {}
    }

    fn original_size(&self, _: &ImageEmbedding) -> (usize, usize) {
        match *self {}
    }

    fn low_res_size(&self) -> (usize, usize) {
        match *self {}
    }

    fn decode(
        &self,
        _: &ImageEmbedding,
        _: &[ClickPrompt],
        _: bool,
    ) -> candle_sam3::Result<Vec<ClickMasks>> {
        match *self {}
    }

    fn upscale(&self, _: &ImageEmbedding, _: &[f32]) -> candle_sam3::Result<Vec<f32>> {
        match *self {}
    }
}

fn open(model: &Path) -> Result<Checkpoint> {
    Ok(match model.to_str() {
        Some("demo") => weights::demo()?,
        _ => Checkpoint::open(model)?,
    })
}
