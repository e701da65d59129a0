//! SAM 3, EfficientSAM3 and SAM3-LiteText: one detector, other encoders.

mod batch;
pub mod config;
pub mod decoder;
pub mod detector;
pub mod encoder;
pub mod geometry_encoder;
pub mod interactive;
mod load;
pub mod neck;
pub mod scoring;
pub mod segmentation_head;

use candle::{DType, Device, Tensor};

pub use config::Config;
pub use detector::{Detector, Grounding, ImageFeatures, PromptTokens, TextFeatures};
pub use geometry_encoder::ExemplarBox;
pub use interactive::{ClickEmbedding, ClickHead};
pub use load::LoadOptions;
pub(super) use load::{left_out, survey};

use crate::image::{Image, transform::Square};
use crate::text::Tokenizer;
use crate::{Error, Result, Trace};

/// A loaded model: the detector with what turns images and words into its inputs.
///
/// `Send + Sync`; share it behind an `Arc`.
#[derive(Debug)]
pub struct Sam3 {
    detector: Detector,
    clicks: Option<ClickHead>,
    config: Config,
    name: String,
    device: Device,
    dtype: DType,
}

/// An encoded image: cheap to clone, good for any number of prompts.
#[derive(Debug, Clone)]
pub struct ImageEmbedding {
    /// What the network knows of the image.
    pub features: ImageFeatures,
    /// The trunk's features (1, c, h, w) before a student resizes them, where the model has its
    /// click head.
    trunk: Option<Tensor>,
    /// Width of the original image, in pixels.
    pub width: usize,
    /// Height of the original image, in pixels.
    pub height: usize,
}

/// An encoded text: cheap to clone, good for any number of images.
#[derive(Debug, Clone)]
pub struct TextEmbedding {
    /// What the network knows of the text.
    pub features: TextFeatures,
}

/// The text that stands in where only exemplars are given, as the model was trained.
const VISUAL: &str = "visual";

impl Sam3 {
    /// What was loaded, for people: "EfficientSAM3 RepViT-M0.9 + MobileCLIP-S1".
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The sizes of the model.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Where the model runs.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// What it computes in.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The network, for running single stages.
    pub fn detector(&self) -> &Detector {
        &self.detector
    }

    /// Encodes an image of any size; its aspect ratio is not kept, as in the reference.
    pub fn encode_image(&self, image: &Image) -> Result<ImageEmbedding> {
        self.encode_image_traced(image, &mut Trace::off())
    }

    /// Like [`Self::encode_image`], recording each stage.
    pub fn encode_image_traced(&self, image: &Image, trace: &mut Trace) -> Result<ImageEmbedding> {
        let pixels = self.preprocess(image)?;
        let (features, trunk) = self.detector.encode_image(&pixels, trace)?;
        Ok(ImageEmbedding {
            features,
            trunk: self.clicks.is_some().then_some(trunk),
            width: image.width(),
            height: image.height(),
        })
    }

    /// The pixels that the network sees (1, 3, s, s).
    pub fn preprocess(&self, image: &Image) -> Result<Tensor> {
        let side = self.config.image_size;
        let pixels = Square { size: side }.apply(image)?;
        let pixels = Tensor::from_vec(pixels, (1, 3, side, side), &self.device)?;
        Ok(pixels.to_dtype(self.dtype)?)
    }

    /// Encodes a text; longer ones are cut to the context length, with a warning in the log.
    ///
    /// # Errors
    /// [`Error::InvalidPrompt`] if nothing is left of the text after cleaning.
    pub fn encode_text(&self, text: &str) -> Result<TextEmbedding> {
        let context = self.config.text_encoder.context_length();
        let encoding = Tokenizer::shared().encode(text, context)?;
        if encoding.ids.get(1) == Some(&Tokenizer::END) {
            return Err(Error::prompt(
                "the text is empty; name what to look for, as in \"a dog\"",
            ));
        }
        if let Some(tokens) = encoding.truncated {
            tracing::warn!("text of {tokens} tokens cut to the model's {context}: {text:?}");
        }
        let ids = Tensor::from_vec(encoding.ids, (1, context), &self.device)?;
        Ok(TextEmbedding {
            features: self.detector.encode_text(&ids)?,
        })
    }

    /// The text embedding for a prompt of exemplar boxes alone.
    pub fn encode_visual(&self) -> Result<TextEmbedding> {
        self.encode_text(VISUAL)
    }
}
