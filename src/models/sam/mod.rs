//! SAM 1 and MobileSAM, and the heads that SAM 3 answers clicks with.
//!
//! Follows `SamPredictor`,
//! <https://github.com/facebookresearch/segment-anything/blob/dca509f/segment_anything/predictor.py#L16>.

pub(crate) mod drawn_mask;
pub mod heads;
pub mod image_encoder;
mod load;
pub mod mask_decoder;
pub mod prompt_encoder;
pub mod two_way;

use std::ops::Range;

use candle::{DType, Device, Tensor};

pub use heads::{Config, Generation, Heads, Prompt};
pub use image_encoder::ImageEncoder;
pub use load::LoadOptions;
pub(super) use load::{left_out, survey};
pub use mask_decoder::{ImageTokens, NUM_MASKS};
pub use prompt_encoder::Label;

use crate::Result;
use crate::image::{Image, transform::LongestSide};
use crate::mask::{Mask, upsample::upsample_bilinear};
use crate::models::{ClickMasks, ClickPrompt, InteractiveModel};

/// A loaded SAM 1 or MobileSAM.
///
/// `Send + Sync`; share it behind an `Arc`.
#[derive(Debug)]
pub struct Sam {
    image_encoder: ImageEncoder,
    heads: Heads,
    name: String,
    device: Device,
    dtype: DType,
}

/// An encoded image: cheap to clone, good for any number of prompts.
#[derive(Debug, Clone)]
pub struct ImageEmbedding {
    /// What the network knows of the image.
    pub features: ImageTokens,
    /// Width of the original image, in pixels.
    pub width: usize,
    /// Height of the original image, in pixels.
    pub height: usize,
}

impl Sam {
    /// What was loaded, for people: "SAM ViT-B".
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where the model runs.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// What it computes in.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Prompt encoder and mask decoder, for running single stages.
    pub fn heads(&self) -> &Heads {
        &self.heads
    }

    /// The pixels that the network sees (1, 3, s, s).
    pub fn preprocess(&self, image: &Image) -> Result<Tensor> {
        let side = self.transform().size;
        let pixels = self.transform().apply(image)?;
        let pixels = Tensor::from_vec(pixels, (1, 3, side, side), &self.device)?;
        Ok(pixels.to_dtype(self.dtype)?)
    }

    fn decode_some(
        &self,
        image: &ImageEmbedding,
        prompts: &[ClickPrompt],
        masks: Range<usize>,
        wanted: &dyn Fn(f32) -> bool,
    ) -> Result<Vec<ClickMasks>> {
        let transform = self.transform();
        let to_input = |xy| transform.map_point(xy, image.width, image.height);
        let prompts = prompts
            .iter()
            .map(|prompt| self.heads.prompt(prompt, to_input))
            .collect::<Result<Vec<_>>>()?;
        let features = &image.features;
        Ok(self.heads.decode(features, &prompts, masks, wanted)?)
    }

    fn transform(&self) -> LongestSide {
        LongestSide {
            size: self.heads.config().image_size,
        }
    }
}

impl InteractiveModel for Sam {
    type Embedding = ImageEmbedding;

    fn encode_for_clicks(&self, image: &Image) -> Result<ImageEmbedding> {
        let tokens = self.image_encoder.forward(&self.preprocess(image)?)?;
        Ok(ImageEmbedding {
            features: ImageTokens {
                tokens,
                details: None,
            },
            width: image.width(),
            height: image.height(),
        })
    }

    fn original_size(&self, image: &ImageEmbedding) -> (usize, usize) {
        (image.width, image.height)
    }

    fn low_res_size(&self) -> (usize, usize) {
        let side = self.heads.config().low_res_side();
        (side, side)
    }

    fn decode(
        &self,
        image: &ImageEmbedding,
        prompts: &[ClickPrompt],
        multimask_output: bool,
    ) -> Result<Vec<ClickMasks>> {
        let masks = if multimask_output { 1..NUM_MASKS } else { 0..1 };
        self.decode_some(image, prompts, masks, &|_| true)
    }

    /// The image is not drawn on for prompts without a wanted mask.
    fn decode_wanted(
        &self,
        image: &ImageEmbedding,
        prompts: &[ClickPrompt],
        wanted: &dyn Fn(f32) -> bool,
    ) -> Result<Vec<ClickMasks>> {
        self.decode_some(image, prompts, 1..NUM_MASKS, wanted)
    }

    /// Easy to get wrong: two steps, to the model's input and, without its padding, to the image.
    fn upscale(&self, image: &ImageEmbedding, low_res_logits: &[f32]) -> Result<Vec<f32>> {
        let side = self.transform().size;
        let padded = upsample_bilinear(low_res_logits, self.low_res_size(), (side, side))?;
        let (width, height) = self.transform().resized(image.width, image.height);
        let rows = padded.chunks_exact(side).take(height);
        let cropped: Vec<f32> = rows.flat_map(|row| &row[..width]).copied().collect();
        upsample_bilinear(&cropped, (height, width), (image.height, image.width))
    }

    /// As they are.
    fn feed_back(&self, low_res_logits: Vec<f32>) -> Vec<f32> {
        low_res_logits
    }

    fn drawn_logits(&self, mask: &Mask) -> Result<Vec<f32>> {
        drawn_mask::padded(mask, self.transform(), self.low_res_size().0)
    }
}
