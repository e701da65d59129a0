//! The toy tracker of SAM 3.1 that tests share.

use super::{Config, MultiplexNetwork};
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

/// The whole tracker.
pub(crate) fn multiplex_network(golden: &Golden, cfg: &Config) -> MultiplexNetwork {
    let vb = golden.weights().pp("tracker.model");
    let head = head::Config {
        dim: cfg.dim,
        iou_sigmoid: false,
        ..head::Config::sam3(cfg.grid, cfg.image_size)
    };
    let prompt_encoder = vb.pp("interactive_sam_prompt_encoder");
    let decoder = vb.pp("interactive_sam_mask_decoder");
    let head = SamHead::new(&head, prompt_encoder, decoder).unwrap();
    MultiplexNetwork::new(cfg, &head, vb).unwrap()
}
