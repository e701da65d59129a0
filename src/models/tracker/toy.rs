//! The toy tracker of SAM 3.1 that tests share.

use super::{Config, TrackerNetwork};
use crate::models::head::{self, SamHead};
use crate::nn::golden::Golden;

/// The recorded modules and their sizes.
pub(crate) fn multiplex() -> (Golden, Config) {
    let golden = Golden::open("multiplex");
    let cfg = Config {
        dim: golden.size("dim"),
        memory_dim: golden.size("dim"),
        attention_layers: golden.size("layers"),
        attention_ffn_dim: golden.size("ffn"),
        mask_channels: [32, 4, 16, 64, 256],
        ..Config::sam31(golden.size("grid"), golden.size("image_size"))
    };
    (golden, cfg)
}

/// The head that answers prompts.
pub(super) fn multiplex_head(golden: &Golden, cfg: &Config) -> SamHead {
    let vb = golden.weights().pp("tracker.model");
    let head = head::Config {
        dim: cfg.dim,
        iou_sigmoid: false,
        ..head::Config::sam3(cfg.grid, cfg.image_size)
    };
    let prompt_encoder = vb.pp("interactive_sam_prompt_encoder");
    let decoder = vb.pp("interactive_sam_mask_decoder");
    SamHead::new(&head, prompt_encoder, decoder).unwrap()
}

/// The whole tracker.
pub(crate) fn multiplex_network(golden: &Golden, cfg: &Config) -> TrackerNetwork {
    let head = multiplex_head(golden, cfg);
    TrackerNetwork::new(cfg, &head, golden.weights().pp("tracker.model")).unwrap()
}
