//! CLIP, which tells how well words fit a picture, from a folder of Hugging Face.
//!
//! The towers are candle-transformers', compared with `CLIPModel` of transformers,
//! <https://github.com/huggingface/transformers/blob/v4.57.0/src/transformers/models/clip/modeling_clip.py>.

use std::path::Path;

use candle::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::clip::text_model::{Activation, ClipTextConfig};
use candle_transformers::models::clip::vision_model::ClipVisionConfig;
use candle_transformers::models::clip::{ClipConfig, ClipModel, div_l2_norm};
use serde::Deserialize;

use crate::device::{download, upload};
use crate::image::Image;
use crate::image::transform::ClipSquare;
use crate::text::Tokenizer;
use crate::weights::Checkpoint;
use crate::{Error, Result};

/// Texts that are encoded at a time.
const TEXT_BATCH: usize = 64;

/// The vocabulary that the tokenizer knows.
const VOCABULARY: usize = 49408;

/// No CLIP has a side, a width or a number of layers beyond this.
const LARGEST: usize = 1 << 14;

/// The only epsilon of norms that candle-transformers has.
const EPS: f64 = 1e-5;

/// Both towers of a CLIP. Computes in f32.
#[derive(Debug)]
pub struct Clip {
    model: ClipModel,
    /// What cosines are multiplied by before a softmax.
    scale: f64,
    /// Tokens of a text at most.
    context: usize,
    /// Side of the model's input in pixels.
    side: usize,
    device: Device,
}

impl Clip {
    /// Opens a folder with `config.json` and weights under the names of transformers, or the weights
    /// beside a `config.json`.
    ///
    /// # Errors
    /// [`Error::NotFound`] and [`Error::Checkpoint`] for files that are missing or damaged;
    /// [`Error::Unsupported`] for another model, or a CLIP with another activation or vocabulary than
    /// OpenAI's.
    pub fn open(path: impl AsRef<Path>, device: &Device) -> Result<Self> {
        let checkpoint = Checkpoint::open(path)?;
        let path = checkpoint.path();
        let config = Config::read(&path.with_file_name("config.json"))?;
        config.validate()?;
        // Without it candle-transformers would take random numbers.
        checkpoint.require(["vision_model.embeddings.class_embedding"])?;
        let vb = checkpoint.var_builder(DType::F32, device);
        Self::new(&config, vb).map_err(|error| {
            let problem = format!("not a CLIP of the sizes in its config.json: {error}");
            Error::checkpoint(path, problem)
        })
    }

    /// Reads `text_model`, `vision_model`, both projections and `logit_scale`.
    fn new(config: &Config, vb: VarBuilder) -> candle::Result<Self> {
        let scale: Vec<f32> = download(&vb.get((), "logit_scale")?.exp()?)?;
        Ok(Self {
            scale: scale.iter().copied().map(f64::from).sum(), // of one
            context: config.text_config.max_position_embeddings,
            side: config.vision_config.image_size,
            device: vb.device().clone(),
            model: ClipModel::new(vb, &config.towers())?,
        })
    }

    /// Texts -> unit vectors (texts, d)
    ///
    /// # Errors
    /// [`Error::InvalidPrompt`] for a text without words, or with more than fit.
    pub fn encode_texts(&self, texts: &[String]) -> Result<Tensor> {
        let mut encoded = Vec::new();
        for texts in texts.chunks(TEXT_BATCH) {
            let mut ids: Vec<u32> = Vec::new();
            for text in texts {
                ids.extend(self.tokens(text)?);
            }
            let ids = upload(ids, (texts.len(), self.context), &self.device)?;
            encoded.push(self.encode_ids(&ids)?);
        }
        Ok(Tensor::cat(&encoded, 0)?)
    }

    fn tokens(&self, text: &str) -> Result<Vec<u32>> {
        let mut encoding = Tokenizer::shared().encode(text, self.context)?;
        if let Some(tokens) = encoding.truncated {
            let (words, most) = (tokens - 2, self.context - 2);
            return Err(Error::prompt(format!(
                "{text:?} has {words} tokens; CLIP reads at most {most}"
            )));
        }
        let end = encoding.ids.iter().position(|&id| id == Tokenizer::END);
        match end {
            Some(1) | None => Err(Error::prompt("a text without words for CLIP")),
            Some(end) => {
                // The text is read off its last token, the first of the largest id; what follows it
                // is not seen by it.
                encoding.ids[end + 1..].fill(Tokenizer::PADDING);
                Ok(encoding.ids)
            }
        }
    }

    /// Pictures, each fitted into a square, -> unit vectors (pictures, d)
    ///
    /// # Errors
    /// [`Error::Tensor`] if they do not fit on the device.
    pub fn encode_images(&self, images: &[Image]) -> Result<Tensor> {
        let size = self.side;
        let mut values = Vec::with_capacity(images.len() * 3 * size * size);
        for image in images {
            values.extend(ClipSquare { size }.apply(image)?);
        }
        let values = upload(values, (images.len(), 3, size, size), &self.device)?;
        Ok(self.encode_pixels(&values)?)
    }

    /// How probable each text is for each picture, out of these texts: (pictures, d) and (texts, d) ->
    /// (pictures, texts)
    ///
    /// # Errors
    /// If a tensor operation fails.
    pub fn probabilities(&self, images: &Tensor, texts: &Tensor) -> Result<Tensor> {
        let logits = (images.matmul(&texts.t()?)? * self.scale)?;
        Ok(candle_nn::ops::softmax_last_dim(&logits)?)
    }

    /// Ids (n, context), each row with one id that is larger than all others, -> (n, d)
    fn encode_ids(&self, ids: &Tensor) -> candle::Result<Tensor> {
        div_l2_norm(&self.model.get_text_features(ids)?)
    }

    /// (n, 3, side, side) -> (n, d)
    fn encode_pixels(&self, pixels: &Tensor) -> candle::Result<Tensor> {
        div_l2_norm(&self.model.get_image_features(pixels)?)
    }
}

/// `config.json`; what it leaves out is that of ViT-B/32, as in transformers.
#[derive(Debug, Deserialize)]
struct Config {
    model_type: String,
    #[serde(default = "projection_dim")]
    projection_dim: usize,
    #[serde(default)]
    text_config: TextConfig,
    #[serde(default)]
    vision_config: VisionConfig,
}

fn projection_dim() -> usize {
    512
}

#[derive(Debug, Deserialize)]
#[serde(default)]
struct TextConfig {
    vocab_size: usize,
    max_position_embeddings: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    hidden_act: String,
    layer_norm_eps: f64,
}

#[derive(Debug, Deserialize)]
#[serde(default)]
struct VisionConfig {
    image_size: usize,
    patch_size: usize,
    num_channels: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    hidden_act: String,
    layer_norm_eps: f64,
}

impl Default for TextConfig {
    fn default() -> Self {
        Self {
            vocab_size: VOCABULARY,
            max_position_embeddings: 77,
            hidden_size: 512,
            intermediate_size: 2048,
            num_hidden_layers: 12,
            num_attention_heads: 8,
            hidden_act: QUICK_GELU.to_string(),
            layer_norm_eps: EPS,
        }
    }
}

impl Default for VisionConfig {
    fn default() -> Self {
        Self {
            image_size: 224,
            patch_size: 32,
            num_channels: 3,
            hidden_size: 768,
            intermediate_size: 3072,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            hidden_act: QUICK_GELU.to_string(),
            layer_norm_eps: EPS,
        }
    }
}

/// The only activation that candle-transformers' CLIP has, OpenAI's.
const QUICK_GELU: &str = "quick_gelu";

impl Config {
    fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|cause| Error::io(path, cause))?;
        serde_json::from_str(&text).map_err(|error| Error::checkpoint(path, error.to_string()))
    }

    fn validate(&self) -> Result<()> {
        let problem = |what: String| {
            Err(Error::Unsupported {
                what,
                instead: "use one of OpenAI's, such as openai/clip-vit-base-patch32".into(),
            })
        };
        let (text, vision) = (&self.text_config, &self.vision_config);
        if self.model_type != "clip" {
            return problem(format!("a model of type {:?} as CLIP", self.model_type));
        }
        if text.vocab_size != VOCABULARY {
            return problem(format!("a CLIP with {} words", text.vocab_size));
        }
        for activation in [&text.hidden_act, &vision.hidden_act] {
            if activation != QUICK_GELU {
                return problem(format!("a CLIP with the activation {activation:?}"));
            }
        }
        for eps in [text.layer_norm_eps, vision.layer_norm_eps] {
            if eps != EPS {
                return problem(format!("a CLIP with norms of epsilon {eps}"));
            }
        }
        let sizes = [
            self.projection_dim,
            text.max_position_embeddings,
            text.hidden_size,
            text.intermediate_size,
            text.num_hidden_layers,
            text.num_attention_heads,
            vision.image_size,
            vision.patch_size,
            vision.hidden_size,
            vision.intermediate_size,
            vision.num_hidden_layers,
            vision.num_attention_heads,
        ];
        let fits = sizes.iter().all(|size| (1..=LARGEST).contains(size))
            && text.max_position_embeddings > 2
            && vision.num_channels == 3
            && vision.patch_size <= vision.image_size
            && text.hidden_size.is_multiple_of(text.num_attention_heads)
            && vision
                .hidden_size
                .is_multiple_of(vision.num_attention_heads);
        match fits {
            true => Ok(()),
            false => problem(format!("a CLIP of these sizes: {text:?}, {vision:?}")),
        }
    }

    fn towers(&self) -> ClipConfig {
        let (text, vision) = (&self.text_config, &self.vision_config);
        ClipConfig {
            text_config: ClipTextConfig {
                vocab_size: text.vocab_size,
                embed_dim: text.hidden_size,
                activation: Activation::QuickGelu,
                intermediate_size: text.intermediate_size,
                max_position_embeddings: text.max_position_embeddings,
                pad_with: None,
                num_hidden_layers: text.num_hidden_layers,
                num_attention_heads: text.num_attention_heads,
                projection_dim: self.projection_dim,
            },
            vision_config: ClipVisionConfig {
                embed_dim: vision.hidden_size,
                activation: Activation::QuickGelu,
                intermediate_size: vision.intermediate_size,
                num_hidden_layers: vision.num_hidden_layers,
                num_attention_heads: vision.num_attention_heads,
                projection_dim: self.projection_dim,
                num_channels: vision.num_channels,
                image_size: vision.image_size,
                patch_size: vision.patch_size,
            },
            logit_scale_init_value: 0.0, // the file's is used
            image_size: vision.image_size,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::golden::{Golden, assert_close};

    fn golden() -> (Golden, Clip) {
        let golden = Golden::open("clip");
        let config: Config = serde_json::from_value(golden.config().clone()).unwrap();
        let clip = Clip::new(&config, golden.weights()).unwrap();
        (golden, clip)
    }

    #[test]
    fn both_towers_equal_those_of_transformers() {
        let (golden, clip) = golden();
        let ids = golden.tensor("in.ids").to_vec2::<i64>().unwrap();
        // As `tokens` leaves them: nothing follows the end, 59.
        let ids = ids.iter().map(|row| {
            let end = row.iter().position(|&id| id == 59).unwrap();
            let before = |(i, id): (usize, &i64)| if i > end { 0 } else { *id as u32 };
            row.iter().enumerate().map(before).collect::<Vec<u32>>()
        });
        let ids = Tensor::new(ids.collect::<Vec<_>>(), &Device::Cpu).unwrap();
        let texts = clip.encode_ids(&ids).unwrap();
        assert_close(&texts, &golden.tensor("out.texts"), 1e-5);
        let pictures = clip.encode_pixels(&golden.tensor("in.pixels")).unwrap();
        assert_close(&pictures, &golden.tensor("out.pictures"), 1e-5);
        let got = clip.probabilities(&pictures, &texts).unwrap();
        assert_close(&got, &golden.tensor("out.probabilities"), 1e-5);
    }

    #[test]
    fn a_square_picture_is_prepared_as_by_transformers() {
        let (golden, _) = golden();
        let picture = golden.tensor("in.picture");
        let (height, width, _) = picture.dims3().unwrap();
        let bytes = picture.to_dtype(DType::U8).unwrap().flatten_all().unwrap();
        let bytes = bytes.to_vec1::<u8>().unwrap();
        let picture = Image::from_rgb8(width, height, bytes).unwrap();
        let want = golden.tensor("out.prepared").flatten_all().unwrap();
        let want = want.to_vec1::<f32>().unwrap();
        let got = ClipSquare { size: 32 }.apply(&picture).unwrap();
        assert_eq!(got.len(), want.len());
        let differ = got.iter().zip(&want).map(|(got, want)| (got - want).abs());
        let worst = differ.fold(0.0, f32::max);
        assert!(worst < 1e-5, "{worst}"); // a level of 255 is 0.015
    }

    #[test]
    fn sizes_that_are_left_out_are_those_of_the_smallest_clip() {
        let text = r#"{"model_type": "clip", "projection_dim": 768, "text_config": {"hidden_size": 768,
            "num_attention_heads": 12}, "vision_config": {"patch_size": 14, "hidden_size": 1024,
            "num_attention_heads": 16}}"#;
        let config: Config = serde_json::from_str(text).unwrap();
        config.validate().unwrap();
        let towers = config.towers();
        assert_eq!(towers.vision_config.patch_size, 14);
        assert_eq!(towers.text_config.max_position_embeddings, 77);
        assert_eq!(towers.text_config.projection_dim, 768);
    }

    #[test]
    fn other_models_and_odd_sizes_are_refused() {
        for (text, want) in [
            (r#"{"model_type": "siglip"}"#, "siglip"),
            (
                r#"{"model_type": "clip", "text_config": {"vocab_size": 32000}}"#,
                "32000 words",
            ),
            (
                r#"{"model_type": "clip", "vision_config": {"hidden_act": "gelu"}}"#,
                "\"gelu\"",
            ),
            (
                r#"{"model_type": "clip", "vision_config": {"num_attention_heads": 7}}"#,
                "these sizes",
            ),
            (
                r#"{"model_type": "clip", "vision_config": {"patch_size": 0}}"#,
                "these sizes",
            ),
            (
                r#"{"model_type": "clip", "text_config": {"num_hidden_layers": 99999999}}"#,
                "these sizes",
            ),
            (
                r#"{"model_type": "clip", "text_config": {"layer_norm_eps": 1e-6}}"#,
                "epsilon",
            ),
        ] {
            let config: Config = serde_json::from_str(text).unwrap();
            let error = config.validate().unwrap_err().to_string();
            assert!(error.contains(want), "{error}");
        }
    }
}
