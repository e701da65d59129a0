//! From the model flags to a loaded model.

use std::path::Path;

use anyhow::Result;
use candle_sam3::image::Image;
use candle_sam3::mask::Mask;
use candle_sam3::models::sam::{self, Sam};
use candle_sam3::models::sam3::{ClickEmbedding, LoadOptions, Sam3};
use candle_sam3::models::{ClickMasks, ClickPrompt, InteractiveModel};
use candle_sam3::weights::manifest::PromptKind;
use candle_sam3::weights::{self, Checkpoint, Family};
use candle_sam3::{Error, Result as ModelResult};

use crate::args::ModelArgs;
use crate::names::{self, Located};

/// Opens, detects and loads the model; headers are checked before any tensor is read.
pub fn load(args: &ModelArgs) -> Result<Sam3> {
    let options = prepare(args)?;
    Ok(Sam3::load(
        &open_complete(args, PromptKind::Text)?,
        &options,
    )?)
}

/// Opens, detects and loads a model that takes clicks.
pub fn load_for_clicks(args: &ModelArgs) -> Result<ClickModel> {
    let options = LoadOptions {
        clicks: true,
        ..prepare(args)?
    };
    let checkpoint = open_complete(args, PromptKind::Clicks)?;
    Ok(match is_sam1(&checkpoint)? {
        true => {
            let options = sam::LoadOptions {
                device: options.device,
                dtype: options.dtype,
                precision: options.precision,
            };
            ClickModel::Sam(Box::new(Sam::load(&checkpoint, &options)?))
        }
        false => ClickModel::Sam3(Box::new(Sam3::load(&checkpoint, &options)?)),
    })
}

/// Whether a file holds SAM 1 or MobileSAM; one with sizes of its own is a SAM 3.
pub fn is_sam1(checkpoint: &Checkpoint) -> Result<bool> {
    Ok(!checkpoint.metadata().contains_key("config")
        && weights::detect(checkpoint)?.family != Family::Sam3)
}

/// Opens the device.
pub fn prepare(args: &ModelArgs) -> Result<LoadOptions> {
    Ok(LoadOptions {
        device: args.device.open()?,
        dtype: args.dtype.into(),
        precision: args.precision,
        context_length: args.context_length,
        clicks: false,
    })
}

/// The checkpoint that the flags name; `prompts` as for [`open`].
fn open_complete(args: &ModelArgs, prompts: PromptKind) -> Result<Checkpoint> {
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

/// A model that takes clicks, whichever the file holds.
pub enum ClickModel {
    Sam(Box<Sam>),
    Sam3(Box<Sam3>),
}

/// An image that a [`ClickModel`] encoded.
#[derive(Clone)]
pub enum ClickImage {
    Sam(sam::ImageEmbedding),
    Sam3(ClickEmbedding),
}

impl ClickModel {
    pub fn name(&self) -> &str {
        match self {
            Self::Sam(model) => model.name(),
            Self::Sam3(model) => model.name(),
        }
    }
}

fn of_another_model<T>() -> ModelResult<T> {
    Err(Error::Unsupported {
        what: "an image encoded by another model".into(),
        instead: "encode it with the model that decodes it".into(),
    })
}

impl InteractiveModel for ClickModel {
    type Embedding = ClickImage;

    fn encode_for_clicks(&self, image: &Image) -> ModelResult<ClickImage> {
        Ok(match self {
            Self::Sam(model) => ClickImage::Sam(model.encode_for_clicks(image)?),
            Self::Sam3(model) => ClickImage::Sam3(model.encode_for_clicks(image)?),
        })
    }

    fn original_size(&self, image: &ClickImage) -> (usize, usize) {
        match (self, image) {
            (Self::Sam(model), ClickImage::Sam(image)) => model.original_size(image),
            (Self::Sam3(model), ClickImage::Sam3(image)) => model.original_size(image),
            _ => (0, 0),
        }
    }

    fn low_res_size(&self) -> (usize, usize) {
        match self {
            Self::Sam(model) => model.low_res_size(),
            Self::Sam3(model) => model.low_res_size(),
        }
    }

    fn decode(
        &self,
        image: &ClickImage,
        prompts: &[ClickPrompt],
        multimask_output: bool,
    ) -> ModelResult<Vec<ClickMasks>> {
        match (self, image) {
            (Self::Sam(model), ClickImage::Sam(image)) => {
                model.decode(image, prompts, multimask_output)
            }
            (Self::Sam3(model), ClickImage::Sam3(image)) => {
                model.decode(image, prompts, multimask_output)
            }
            _ => of_another_model(),
        }
    }

    fn decode_wanted(
        &self,
        image: &ClickImage,
        prompts: &[ClickPrompt],
        wanted: &dyn Fn(f32) -> bool,
    ) -> ModelResult<Vec<ClickMasks>> {
        match (self, image) {
            (Self::Sam(model), ClickImage::Sam(image)) => {
                model.decode_wanted(image, prompts, wanted)
            }
            (Self::Sam3(model), ClickImage::Sam3(image)) => {
                model.decode_wanted(image, prompts, wanted)
            }
            _ => of_another_model(),
        }
    }

    fn upscale(&self, image: &ClickImage, low_res_logits: &[f32]) -> ModelResult<Vec<f32>> {
        match (self, image) {
            (Self::Sam(model), ClickImage::Sam(image)) => model.upscale(image, low_res_logits),
            (Self::Sam3(model), ClickImage::Sam3(image)) => model.upscale(image, low_res_logits),
            _ => of_another_model(),
        }
    }
    fn feed_back(&self, low_res_logits: Vec<f32>) -> Vec<f32> {
        match self {
            Self::Sam(model) => model.feed_back(low_res_logits),
            Self::Sam3(model) => model.feed_back(low_res_logits),
        }
    }

    fn drawn_logits(&self, mask: &Mask) -> ModelResult<Vec<f32>> {
        match self {
            Self::Sam(model) => model.drawn_logits(mask),
            Self::Sam3(model) => model.drawn_logits(mask),
        }
    }
}
