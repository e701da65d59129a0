//! SAM 1 and MobileSAM.
//!
//! Follows `SamPredictor`,
//! <https://github.com/facebookresearch/segment-anything/blob/dca509f/segment_anything/predictor.py#L16>.

pub mod image_encoder;
mod load;

use std::ops::Range;

use candle::{DType, Device, Tensor};

pub use image_encoder::{BackboneConfig, ImageEncoder};
pub(super) use load::{LEFT_OUT, survey};

use super::head::{self, Decoded, ImageTokens, SamHead, drawn_mask};
use super::{InteractiveEmbedding, InteractiveModel, Upscaling, VisualPrompt, pixels};
use crate::image::{Image, transform::LongestSide};
use crate::mask::Mask;
use crate::nn::WeightFormat;
use crate::{Result, Run, Size};

/// A loaded SAM 1 or MobileSAM.
///
/// `Send + Sync`; share it behind an `Arc`.
#[derive(Debug)]
pub struct Sam {
    image_encoder: ImageEncoder,
    head: SamHead,
    name: String,
    device: Device,
    dtype: DType,
    weights: WeightFormat,
}

impl Sam {
    /// Display name: "SAM ViT-B".
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
        &self.head
    }

    /// The pixels that the network sees (1, 3, s, s).
    ///
    /// # Errors
    /// [`crate::Error::Tensor`] if they do not fit on the device.
    pub fn preprocess(&self, image: &Image) -> Result<Tensor> {
        let pixels = pixels::longest_side(image, self.transform(), &self.device)?;
        Ok(pixels.to_dtype(self.dtype)?)
    }

    fn transform(&self) -> LongestSide {
        LongestSide {
            size: self.head.config().image_size,
        }
    }
}

impl InteractiveModel for Sam {
    fn name(&self) -> &str {
        &self.name
    }

    fn head_config(&self) -> &head::Config {
        self.head.config()
    }

    fn encode_interactive(&self, image: &Image, run: &mut Run) -> Result<InteractiveEmbedding> {
        let pixels = run.stage("preprocess", || self.preprocess(image))?;
        run.record("pixel_values", &pixels);
        let tokens = run.stage("trunk", || self.image_encoder.forward(&pixels))?;
        run.record("image_embedding", &tokens);
        Ok(InteractiveEmbedding {
            features: ImageTokens::new(tokens, None),
            size: image.size(),
        })
    }

    fn attend(&self, image: &InteractiveEmbedding, prompts: &[&VisualPrompt]) -> Result<Decoded> {
        let Size { width, height } = image.size;
        let to_input = |xy| self.transform().map_point(xy, width, height);
        self.head.attend(&image.features, prompts, to_input)
    }

    fn draw(
        &self,
        image: &InteractiveEmbedding,
        decoded: &Decoded,
        masks: Range<usize>,
    ) -> Result<Tensor> {
        Ok(self.head.draw(&image.features, decoded, masks)?)
    }

    /// Easy to get wrong: two steps, to the model's input and, without its padding, to the image.
    fn upscaling(&self, image: Size) -> Upscaling {
        let square = Size::square(self.transform().size);
        let (width, height) = self.transform().resized(image.width, image.height);
        Upscaling::padded(self.low_res_size(), square, Size::new(width, height), image)
    }

    fn logits_from_mask(&self, mask: &Mask) -> Result<Vec<f32>> {
        let side = self.head.config().low_res_side();
        drawn_mask::padded(mask, self.transform(), side)
    }
}
