//! SAM 3, SAM 3.1, EfficientSAM3 and SAM3-LiteText: one detector, other encoders and weights.

pub mod config;
pub mod decoder;
pub mod detector;
pub mod encoder;
pub mod geometry_encoder;
pub mod interactive;
mod load;
pub mod neck;
mod parts;
pub mod scoring;
pub mod segmentation_head;
mod tracking;

use std::borrow::Borrow;

use candle::{DType, Device, IndexOp, Tensor};

pub use config::Config;
pub use detector::{Detector, Grounding, ImageFeatures, PromptTokens, TextFeatures};
pub use geometry_encoder::ExemplarBox;
pub use interactive::InteractiveHead;
pub(super) use load::{left_out, survey};
pub(super) use parts::Parts;

use super::{bytes_of, pixels};
use crate::device::{self, free_memory, upload};
use crate::image::{Image, transform::Square};
use crate::nn::WeightFormat;
use crate::text::Tokenizer;
use crate::{Error, Result, Run, Size};

/// A loaded model: the detector with what turns images and words into its inputs.
///
/// `Send + Sync`; share it behind an `Arc`.
#[derive(Debug)]
pub struct Sam3 {
    detector: Detector,
    interactive: Option<InteractiveHead>,
    config: Config,
    name: String,
    device: Device,
    dtype: DType,
    weights: WeightFormat,
    fingerprint: String,
}

/// An image encoded for texts and exemplars: cheap to clone, good for any number of prompts.
#[derive(Debug, Clone)]
pub struct ImageEmbedding {
    /// Features of the image.
    pub features: ImageFeatures,
    /// The trunk's features (1, c, h, w) before a student resizes them, where the model has its
    /// interactive head.
    trunk: Option<Tensor>,
    /// Size of the original image.
    pub size: Size,
}

impl ImageEmbedding {
    /// Memory that the embedding keeps, in bytes.
    pub fn bytes(&self) -> usize {
        self.features.bytes() + bytes_of(&self.trunk)
    }
}

/// An encoded text: cheap to clone, good for any number of images.
#[derive(Debug, Clone)]
pub struct TextEmbedding {
    /// Features of the text.
    pub features: TextFeatures,
}

/// The text that stands in where only exemplars are given, as the model was trained.
const VISUAL: &str = "visual";

impl Sam3 {
    /// Display name: "EfficientSAM3 RepViT-M0.9 + MobileCLIP-S1".
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

    /// How the weights of large layers are held.
    pub fn weights(&self) -> WeightFormat {
        self.weights
    }

    /// [`crate::Checkpoint::fingerprint`] of the weights, or `random`.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Number format of the computation.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The network, for running single stages.
    pub fn detector(&self) -> &Detector {
        &self.detector
    }

    /// Encodes an image of any size; its aspect ratio is not kept, as in the reference.
    ///
    /// # Errors
    /// [`Error::Cancelled`] if `run` was asked to stop.
    pub fn encode_image(&self, image: &Image, run: &mut Run) -> Result<ImageEmbedding> {
        let mut embeddings = self.encode_images(std::slice::from_ref(image), run)?;
        embeddings.pop().ok_or_else(|| {
            // One embedding per image; this tells a bug from a bad image.
            Error::Tensor(candle::Error::msg("no embedding for the image"))
        })
    }

    /// How many images [`Sam3::encode_images`] should get at a time: on a GPU as many as its memory
    /// holds, at most 8, and 2 where it does not say how much it has; on the CPU one.
    pub fn images_at_a_time(&self) -> usize {
        /// Copies of an image's finest map, 85 MB in f32, that are there at a time: the windows of a
        /// 3x3 convolution, its result, and the pyramid.
        const COPIES: usize = 12;
        if self.device.is_cpu() {
            return 1;
        }
        let side = 4 * self.config.image_encoder.grid(); // of the finest map
        let map = side * side * self.config.d_model() * self.dtype.size_in_bytes();
        device::batch(free_memory(&self.device), (COPIES * map) as u64, 2, 8)
    }

    /// Encodes images of any sizes in one pass of the network: on a GPU faster than one by one, at
    /// the price of memory.
    ///
    /// # Errors
    /// [`Error::Cancelled`] if `run` was asked to stop.
    pub fn encode_images<I: Borrow<Image>>(
        &self,
        images: &[I],
        run: &mut Run,
    ) -> Result<Vec<ImageEmbedding>> {
        if images.is_empty() {
            return Ok(vec![]);
        }
        let pixels = run.stage("preprocess", || {
            let pixels = images.iter().map(|image| self.preprocess(image.borrow()));
            let pixels: Result<Vec<_>> = pixels.collect();
            Ok::<_, Error>(Tensor::cat(&pixels?, 0)?)
        })?;
        let (features, trunk) = self.detector.encode_images(&pixels, run)?;
        let embed = |(i, (features, image)): (usize, (ImageFeatures, &I))| {
            let trunk = match &self.interactive {
                Some(_) => Some(trunk.i(i..i + 1)?.contiguous()?),
                None => None,
            };
            Ok(ImageEmbedding {
                features,
                trunk,
                size: image.borrow().size(),
            })
        };
        features
            .into_iter()
            .zip(images)
            .enumerate()
            .map(embed)
            .collect()
    }

    /// The pixels that the network sees (1, 3, s, s).
    ///
    /// # Errors
    /// [`Error::Tensor`] if they do not fit on the device.
    pub fn preprocess(&self, image: &Image) -> Result<Tensor> {
        let side = self.config.image_size;
        let pixels = pixels::square(image, Square { size: side }, &self.device)?;
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
        let ids = upload(encoding.ids, (1, context), &self.device)?;
        Ok(TextEmbedding {
            features: self.detector.encode_text(&ids)?,
        })
    }

    /// The text embedding for a prompt of exemplar boxes alone.
    ///
    /// # Errors
    /// If a tensor operation fails.
    pub fn encode_visual(&self) -> Result<TextEmbedding> {
        self.encode_text(VISUAL)
    }
}

#[cfg(all(test, feature = "demo"))]
mod tests {
    use super::*;
    use crate::models::LoadOptions;
    use crate::nn::golden::assert_close;

    fn image(width: usize, height: usize, step: usize) -> Image {
        let pixels = (0..3 * width * height).map(|i| (i * step % 251) as u8);
        Image::from_rgb8(width, height, pixels.collect()).unwrap()
    }

    fn demo() -> Sam3 {
        let options = LoadOptions {
            interactive: true,
            ..LoadOptions::default()
        };
        Sam3::load(&crate::weights::demo().unwrap(), &options).unwrap()
    }

    #[test]
    fn a_batch_of_images_equals_its_images_one_by_one() {
        let model = demo();
        let run = &mut Run::default();
        let images = [image(60, 40, 3), image(50, 70, 7)];
        let batch = model.encode_images(&images, run).unwrap();
        assert_eq!(batch.len(), 2);
        for (got, image) in batch.iter().zip(&images) {
            let want = model.encode_image(image, run).unwrap();
            assert_eq!(got.size, want.size);
            assert_close(&got.features.attended, &want.features.attended, 1e-5);
            assert_close(&got.features.fpn[0], &want.features.fpn[0], 1e-5);
            let (got, want) = (got.trunk.as_ref(), want.trunk.as_ref());
            assert_close(got.unwrap(), want.unwrap(), 1e-5);
        }
        assert!(model.encode_images::<Image>(&[], run).unwrap().is_empty());
    }

    #[test]
    fn a_batch_of_prompts_equals_its_prompts_one_by_one() {
        let model = demo();
        let run = &mut Run::default();
        let embedding = model.encode_image(&image(60, 40, 3), run).unwrap();
        let texts = ["red star", "a large blue circle", "triangle"];
        let texts = texts.map(|text| model.encode_text(text).unwrap().features);
        let exemplar = ExemplarBox {
            cxcywh_norm: [0.5, 0.5, 0.4, 0.3],
            positive: true,
        };
        let boxes = [vec![], vec![exemplar; 2], vec![exemplar]];
        let prompts: Vec<_> = texts.iter().zip(boxes.iter().map(Vec::as_slice)).collect();
        let detector = model.detector();
        let batch = detector.ground(&embedding.features, &prompts, run).unwrap();
        for (i, prompt) in prompts.iter().enumerate() {
            let got = batch.of_prompt(i).unwrap();
            let want = detector
                .ground(&embedding.features, &[*prompt], run)
                .unwrap();
            assert_close(&got.memory, &want.memory, 1e-5);
            assert_close(&got.logits, &want.logits, 1e-5);
            assert_close(&got.found.boxes, &want.found.boxes, 1e-5);
            assert_close(&got.pixels, &want.pixels, 1e-5);
        }
    }
}
