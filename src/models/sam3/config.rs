//! Sizes of a SAM 3 detector.

use serde::Deserialize;

use super::encoder;
use crate::models::{head, tracker};
use crate::{backbones, text};

/// Everything about a detector that is not in its tensors.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Side of the square input, in pixels.
    pub image_size: usize,
    /// The image encoder below the neck.
    pub image_encoder: backbones::Config,
    /// The text encoder.
    pub text_encoder: text::Config,
    /// Layers of the geometry encoder.
    pub geometry: encoder::Config,
    /// Side of the grid that an exemplar box is pooled to.
    pub roi_size: usize,
    /// Layers of the fusion encoder.
    pub encoder: encoder::Config,
    /// Layers of the decoder.
    pub decoder: encoder::Config,
    /// Objects that the decoder can find.
    pub num_queries: usize,
    /// Hidden width of the scoring MLP.
    pub scoring_dim: usize,
    /// Largest magnitude of a query's logit.
    pub max_logit: f64,
    /// The head that answers points, boxes and masks.
    pub interactive: head::Config,
    /// What follows objects through a video.
    pub tracker: tracker::Config,
}

impl Config {
    /// The released detector with the given encoders.
    pub fn new(image_encoder: backbones::Config, text_encoder: text::Config) -> Self {
        let layers = |layers| encoder::Config {
            d_model: 256,
            num_heads: 8,
            layers,
            ffn_dim: 2048,
        };
        Self {
            image_size: 1008,
            interactive: head::Config::sam3(image_encoder.grid(), 1008),
            tracker: tracker::Config::sam3(image_encoder.grid(), 1008),
            image_encoder,
            text_encoder,
            geometry: layers(3),
            roi_size: 7,
            encoder: layers(6),
            decoder: layers(6),
            num_queries: 200,
            scoring_dim: 2048,
            max_logit: 12.,
        }
    }

    /// SAM 3 as released.
    pub fn sam3() -> Self {
        let image_encoder = backbones::Config::Vit(backbones::vit::Config::sam3());
        Self::new(
            image_encoder,
            text::Config::Clip(text::clip::Config::sam3()),
        )
    }

    /// A model of other sizes that carries them as JSON, under `config` in the metadata of its
    /// safetensors file.
    pub fn from_json(json: &str) -> Result<Self, serde_json::Error> {
        Ok(serde_json::from_str::<Sizes>(json)?.into())
    }

    /// Width of the detector.
    pub fn d_model(&self) -> usize {
        self.encoder.d_model
    }
}

/// The JSON form: what cannot be read off the tensors' shapes, and what can, for the reader.
#[derive(Deserialize)]
struct Sizes {
    image_size: usize,
    patch_size: usize,
    vit: VitSizes,
    text: TextSizes,
    d_model: usize,
    heads: usize,
    geometry: Layers,
    encoder: Layers,
    decoder: Layers,
    scoring: Scoring,
    tracker: Option<Tracker>,
}

#[derive(Deserialize)]
struct VitSizes {
    dim: usize,
    depth: usize,
    heads: usize,
    mlp: usize,
    window: usize,
    pretrain_grid: usize,
    global_blocks: Vec<usize>,
    rope_theta: f64,
}

#[derive(Deserialize)]
struct TextSizes {
    vocab: usize,
    context: usize,
    width: usize,
    layers: usize,
    heads: usize,
    mlp: usize,
}

#[derive(Deserialize)]
struct Layers {
    layers: usize,
    ffn: usize,
    #[serde(default)]
    roi: usize,
    #[serde(default)]
    queries: usize,
}

#[derive(Deserialize)]
struct Scoring {
    mlp: usize,
    clamp: f64,
}

#[derive(Deserialize)]
struct Tracker {
    heads: usize,
    mlp: usize,
    iou_hidden: usize,
    memory_dim: Option<usize>,
    memory_layers: Option<usize>,
    memory_ffn: Option<usize>,
}

impl From<Sizes> for Config {
    fn from(sizes: Sizes) -> Self {
        let Sizes {
            vit,
            text,
            d_model,
            heads,
            ..
        } = sizes;
        let layers = |l: &Layers| encoder::Config {
            d_model,
            num_heads: heads,
            layers: l.layers,
            ffn_dim: l.ffn,
        };
        let mut interactive = head::Config {
            dim: d_model,
            ..head::Config::sam3(sizes.image_size / sizes.patch_size, sizes.image_size)
        };
        let grid = sizes.image_size / sizes.patch_size;
        let mut memory = tracker::Config {
            dim: d_model,
            ..tracker::Config::sam3(grid, sizes.image_size)
        };
        if let Some(tracker) = &sizes.tracker {
            memory.memory_dim = tracker.memory_dim.unwrap_or(memory.memory_dim);
            memory.attention_layers = tracker.memory_layers.unwrap_or(memory.attention_layers);
            memory.attention_ffn_dim = tracker.memory_ffn.unwrap_or(memory.attention_ffn_dim);
            interactive.num_heads = tracker.heads;
            interactive.mlp_dim = tracker.mlp;
            interactive.iou_hidden_dim = tracker.iou_hidden;
        }
        Self {
            image_size: sizes.image_size,
            image_encoder: backbones::Config::Vit(backbones::vit::Config {
                image_size: sizes.image_size,
                patch_size: sizes.patch_size,
                dim: vit.dim,
                depth: vit.depth,
                num_heads: vit.heads,
                mlp_dim: vit.mlp,
                window_size: vit.window,
                pretrain_grid: vit.pretrain_grid,
                global_blocks: vit.global_blocks,
                rope_theta: vit.rope_theta,
            }),
            text_encoder: text::Config::Clip(text::clip::Config {
                vocab_size: text.vocab,
                context_length: text.context,
                width: text.width,
                layers: text.layers,
                num_heads: text.heads,
                mlp_dim: text.mlp,
                output_dim: d_model,
            }),
            geometry: layers(&sizes.geometry),
            roi_size: sizes.geometry.roi,
            encoder: layers(&sizes.encoder),
            decoder: layers(&sizes.decoder),
            num_queries: sizes.decoder.queries,
            scoring_dim: sizes.scoring.mlp,
            max_logit: sizes.scoring.clamp,
            interactive,
            tracker: memory,
        }
    }
}
