//! SAM 2.1: Hiera, and the head and tracker that SAM 3 took over from it.
//!
//! Follows `SAM2ImagePredictor`,
//! <https://github.com/facebookresearch/sam2/blob/2b90b9f/sam2/sam2_image_predictor.py#L20>, and
//! `SAM2Base`, <https://github.com/facebookresearch/sam2/blob/2b90b9f/sam2/modeling/sam2_base.py#L20>.
//!
//! # Easy to get wrong
//! - Images are resized in floating point, without rounding to 8 bits.
//! - The coarse map of an image gets the "no memory" embedding of video tracking; that of a frame
//!   does not.
//! - Logits are limited to ±32 when they are handed back, as in SAM 3, and holes stay as they are.

mod load;
pub mod neck;

use std::ops::Range;

use candle::{DType, Device, Tensor};

pub(super) use load::{LEFT_OUT, survey};

use self::neck::Neck;
use super::head::{self, Decoded, ImageTokens, SamHead, drawn_mask};
use super::pixels;
use super::tracker::{self, FrameFeatures, Tracker, TrackerNetwork, TrackingModel};
use super::{InteractiveEmbedding, InteractiveModel, Upscaling, VisualPrompt};
use crate::backbones::hiera::{self, Hiera};
use crate::image::{Image, transform::FloatSquare};
use crate::mask::Mask;
use crate::nn::WeightFormat;
use crate::{Result, Run, Size};

/// Sizes of a SAM 2.1.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The image encoder.
    pub trunk: hiera::Config,
    /// Prompt encoder and mask decoder.
    pub head: head::Config,
    /// The tracker.
    pub tracker: tracker::Config,
}

impl Config {
    /// The released model with this image encoder.
    pub fn new(trunk: hiera::Config) -> Self {
        let (image_size, grid) = (trunk.image_size, trunk.image_size / 16);
        Self {
            trunk,
            head: head::Config::sam3(grid, image_size), // which took it over
            tracker: tracker::Config::sam2(grid, image_size),
        }
    }
}

/// A loaded SAM 2.1.
///
/// `Send + Sync`; share it behind an `Arc`.
#[derive(Debug)]
pub struct Sam2 {
    modules: Modules,
    name: String,
    device: Device,
    dtype: DType,
    weights: WeightFormat,
}

#[derive(Debug)]
struct Modules {
    trunk: Hiera,
    neck: Neck,
    no_mem_embed: Tensor, // (1, 1, d)
    head: SamHead,
    tracker: Option<TrackerNetwork>,
}

impl Sam2 {
    /// Display name: "SAM 2.1 Hiera-T".
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where the model runs.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// How the weights of large layers are held.
    pub fn weights(&self) -> WeightFormat {
        self.weights
    }

    /// Number format of the computation.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Prompt encoder and mask decoder, for running single stages.
    pub fn head(&self) -> &SamHead {
        &self.modules.head
    }

    /// The pixels that the network sees (1, 3, s, s).
    ///
    /// # Errors
    /// [`crate::Error::Tensor`] if they do not fit on the device.
    pub fn preprocess(&self, image: &Image) -> Result<Tensor> {
        let size = self.head().config().image_size;
        let pixels = pixels::float_square(image, FloatSquare { size }, &self.device)?;
        Ok(pixels.to_dtype(self.dtype)?)
    }

    /// Maps of the four stages of the trunk, channels last, for running single stages.
    ///
    /// # Errors
    /// For pixels of another size.
    pub fn trunk(&self, pixels: &Tensor) -> Result<[Tensor; 4]> {
        Ok(self.modules.trunk.forward(pixels)?)
    }

    /// Maps of the trunk -> features of a frame as the tracker keeps them, without the "no memory"
    /// embedding
    ///
    /// # Errors
    /// For maps of other shapes.
    pub fn embed_frame(&self, stages: &[Tensor; 4]) -> Result<ImageTokens> {
        let maps = self.modules.neck.forward(stages)?;
        Ok(self.head().mask_decoder().image_tokens(&maps)?)
    }

    fn encode(&self, image: &Image, run: &mut Run) -> Result<ImageTokens> {
        let pixels = run.stage("preprocess", || self.preprocess(image))?;
        run.record("pixel_values", &pixels);
        let stages = run.stage("trunk", || self.trunk(&pixels))?;
        run.stage("neck", || self.embed_frame(&stages))
    }
}

impl InteractiveModel for Sam2 {
    fn name(&self) -> &str {
        &self.name
    }

    fn head_config(&self) -> &head::Config {
        self.head().config()
    }

    fn encode_interactive(&self, image: &Image, run: &mut Run) -> Result<InteractiveEmbedding> {
        let frame = self.encode(image, run)?;
        let tokens = frame.tokens.broadcast_add(&self.modules.no_mem_embed)?;
        run.record("image_embedding", &tokens);
        Ok(InteractiveEmbedding {
            features: ImageTokens::new(tokens, frame.high_res_features),
            size: image.size(),
        })
    }

    fn attend(&self, image: &InteractiveEmbedding, prompts: &[&VisualPrompt]) -> Result<Decoded> {
        self.head().attend_stretched(image, prompts)
    }

    fn draw(
        &self,
        image: &InteractiveEmbedding,
        decoded: &Decoded,
        masks: Range<usize>,
    ) -> Result<Tensor> {
        Ok(self.head().draw(&image.features, decoded, masks)?)
    }

    fn upscaling(&self, image: Size) -> Upscaling {
        Upscaling::direct(self.low_res_size(), image)
    }

    fn logits_from_mask(&self, mask: &Mask) -> Result<Vec<f32>> {
        drawn_mask::stretched(mask, self.low_res_size().width)
    }
}

impl TrackingModel for Sam2 {
    fn name(&self) -> &str {
        &self.name
    }

    fn tracker(&self) -> Result<&dyn Tracker> {
        let tracker = self.modules.tracker.as_ref();
        tracker::if_loaded(tracker.map(|tracker| tracker as &dyn Tracker))
    }

    fn encode_frame(&self, image: &Image, run: &mut Run) -> Result<FrameFeatures> {
        Ok(FrameFeatures::new(self.encode(image, run)?, image.size()))
    }
}

#[cfg(test)]
pub(crate) mod tests;
