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
    /// The names and the tracker of SAM 3.1.
    pub multiplex: bool,
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
            multiplex: false,
        }
    }

    /// The same sizes in SAM 3.1, or in SAM 3.
    pub fn with_multiplex(mut self, multiplex: bool) -> Self {
        self.multiplex = multiplex;
        self.interactive.iou_sigmoid = !multiplex;
        if multiplex {
            let tracker::Config {
                dim,
                grid,
                image_size,
                attention_layers,
                attention_ffn_dim,
                ..
            } = self.tracker;
            self.tracker = tracker::Config {
                dim,
                memory_dim: dim,
                attention_layers,
                attention_ffn_dim,
                ..tracker::Config::sam31(grid, image_size)
            };
        }
        self
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
    ///
    /// # Errors
    /// For JSON that is no such config, and for sizes that fit no model: each has a limit, a few
    /// times that of the largest release at most, and those that divide each other must.
    pub fn from_json(json: &str) -> Result<Self, String> {
        let sizes: Sizes = serde_json::from_str(json).map_err(|e| e.to_string())?;
        sizes.check()?;
        Ok(sizes.into())
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

impl Sizes {
    /// Whoever wrote the file chose these numbers, and modules are built on them before it shows
    /// whether the tensors agree.
    fn check(&self) -> Result<(), String> {
        let Self { vit, text, .. } = self;
        let limits = [
            ("image_size", self.image_size, 4096),
            ("patch_size", self.patch_size, 64),
            ("vit.dim", vit.dim, 2560),
            ("vit.depth", vit.depth, 64),
            ("vit.heads", vit.heads, 64),
            ("vit.mlp", vit.mlp, 10_240),
            ("vit.window", vit.window, 128),
            ("vit.pretrain_grid", vit.pretrain_grid, 128),
            ("text.vocab", text.vocab, 1 << 17),
            ("text.context", text.context, 256),
            ("text.width", text.width, 2048),
            ("text.layers", text.layers, 64),
            ("text.heads", text.heads, 64),
            ("text.mlp", text.mlp, 8192),
            ("d_model", self.d_model, 1024),
            ("heads", self.heads, 64),
            ("geometry.layers", self.geometry.layers, 24),
            ("geometry.ffn", self.geometry.ffn, 8192),
            ("geometry.roi", self.geometry.roi, 32),
            ("encoder.layers", self.encoder.layers, 24),
            ("encoder.ffn", self.encoder.ffn, 8192),
            ("decoder.layers", self.decoder.layers, 24),
            ("decoder.ffn", self.decoder.ffn, 8192),
            ("decoder.queries", self.decoder.queries, 2000),
            ("scoring.mlp", self.scoring.mlp, 8192),
        ];
        let tracker = self.tracker.iter().flat_map(|tracker| {
            [
                ("tracker.heads", tracker.heads, 64),
                ("tracker.mlp", tracker.mlp, 8192),
                ("tracker.iou_hidden", tracker.iou_hidden, 8192),
            ]
        });
        let memory = self.tracker.iter().flat_map(|tracker| {
            let given = |name, value: Option<usize>, limit| value.map(|value| (name, value, limit));
            [
                given("tracker.memory_dim", tracker.memory_dim, 1024),
                given("tracker.memory_layers", tracker.memory_layers, 24),
                given("tracker.memory_ffn", tracker.memory_ffn, 8192),
            ]
        });
        let limits = limits.into_iter().chain(tracker).chain(memory.flatten());
        for (name, value, limit) in limits {
            if !(1..=limit).contains(&value) {
                return Err(format!("`{name}` is {value}; it must be in 1..={limit}"));
            }
        }
        let grid = self.image_size / self.patch_size;
        // Attention inside the click heads is half as wide, its image features an eighth.
        let tracker_heads = self.tracker.as_ref().map_or(1, |tracker| 2 * tracker.heads);
        let multiples = [
            ("image_size", self.image_size, "patch_size", self.patch_size),
            ("image_size / patch_size", grid, "vit.window", vit.window),
            ("vit.dim", vit.dim, "4 vit.heads", 4 * vit.heads),
            ("text.width", text.width, "text.heads", text.heads),
            ("d_model", self.d_model, "heads", self.heads),
            ("d_model", self.d_model, "8", 8),
            ("d_model", self.d_model, "2 tracker.heads", tracker_heads),
        ];
        for (name, value, of, divisor) in multiples {
            if !value.is_multiple_of(divisor) {
                return Err(format!(
                    "`{name}` is {value}, no multiple of `{of}`, {divisor}"
                ));
            }
        }
        if grid > 96 {
            return Err(format!(
                "a grid of {grid} patches a side; at most 96 are read"
            ));
        }
        let blocks = &vit.global_blocks;
        if blocks.len() > vit.depth || blocks.iter().any(|block| *block >= vit.depth) {
            let depth = vit.depth;
            return Err(format!(
                "`vit.global_blocks` names blocks that {depth} do not have"
            ));
        }
        let numbers = [
            ("vit.rope_theta", vit.rope_theta, 1e9),
            ("scoring.clamp", self.scoring.clamp, 1e4),
        ];
        for (name, value, limit) in numbers {
            if !(value >= 1. && value <= limit) {
                return Err(format!("`{name}` is {value}; it must be in 1..={limit}"));
            }
        }
        Ok(())
    }
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
            multiplex: false,
            tracker: memory,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn sizes() -> Value {
        json!({
            "image_size": 224, "patch_size": 14,
            "vit": {
                "dim": 128, "depth": 6, "heads": 4, "mlp": 384, "window": 8, "pretrain_grid": 8,
                "global_blocks": [2, 5], "rope_theta": 10000.0,
            },
            "text": {
                "vocab": 49408, "context": 32, "width": 24, "layers": 2, "heads": 2, "mlp": 96,
            },
            "d_model": 64, "heads": 4,
            "geometry": {"layers": 2, "ffn": 256, "roi": 7},
            "encoder": {"layers": 3, "ffn": 256},
            "decoder": {"layers": 3, "ffn": 256, "queries": 24},
            "scoring": {"mlp": 256, "clamp": 12.0},
            "tracker": {
                "heads": 4, "mlp": 256, "iou_hidden": 64,
                "memory_dim": 16, "memory_layers": 2, "memory_ffn": 256,
            },
        })
    }

    #[test]
    fn every_number_has_limits_that_are_said() {
        assert!(Config::from_json(&sizes().to_string()).is_ok());
        let mut tried = 0;
        for part in [
            "",
            "/vit",
            "/text",
            "/geometry",
            "/encoder",
            "/decoder",
            "/scoring",
            "/tracker",
        ] {
            let at = sizes().pointer(part).unwrap().as_object().unwrap().clone();
            for (key, value) in at.iter().filter(|(_, value)| value.is_number()) {
                for wrong in [
                    json!(0),
                    json!(1u64 << 31),
                    json!(1u64 << 40),
                    json!(u64::MAX),
                ] {
                    let mut changed = sizes();
                    let wrong = match value.is_f64() {
                        true => json!(wrong.as_f64()),
                        false => wrong,
                    };
                    changed.pointer_mut(part).unwrap()[key] = wrong.clone();
                    let error = Config::from_json(&changed.to_string()).unwrap_err();
                    let field = format!("{part}.{key}").replace(['/'], "");
                    let field = field.trim_start_matches('.');
                    assert!(
                        error.contains(&format!("`{field}` is ")) && error.contains("in 1..="),
                        "{field} {wrong}: {error}"
                    );
                    tried += 1;
                }
            }
        }
        assert!(tried >= 4 * 31, "{tried}");
    }

    #[test]
    fn sizes_that_do_not_fit_each_other_are_named() {
        for (at, value, says) in [
            ("/patch_size", json!(13), "no multiple of `patch_size`, 13"),
            ("/vit/window", json!(7), "no multiple of `vit.window`, 7"),
            ("/vit/heads", json!(3), "no multiple of `4 vit.heads`, 12"),
            ("/text/heads", json!(5), "no multiple of `text.heads`, 5"),
            ("/heads", json!(5), "no multiple of `heads`, 5"),
            (
                "/tracker/heads",
                json!(64),
                "no multiple of `2 tracker.heads`, 128",
            ),
            ("/vit/global_blocks", json!([6]), "`vit.global_blocks`"),
            ("/image_size", json!(3584), "a grid of 256"),
            ("/vit/dim", json!(-1), "invalid value"),
        ] {
            let mut changed = sizes();
            *changed.pointer_mut(at).unwrap() = value;
            let error = Config::from_json(&changed.to_string()).unwrap_err();
            assert!(error.contains(says), "{at}: {error}");
        }
    }
}
