//! SAM 2.1.

use super::sam3_hf::{
    MASK_ATTENTION, MASK_DECODER, MEMORY_ATTENTION, MEMORY_ENCODER, PROMPT_ENCODER, TRACKER,
};
use super::{Layout, section};

/// `sam2.1_hiera_*.pt`: the names modules ask for.
pub(in crate::weights) const SAM2: Layout = Layout {
    name: "SAM 2.1",
    signature: &["image_encoder.trunk"],
    spellings: &[],
    names: &[],
    fixes: &[],
    ignore: &[],
};

/// `facebook/sam2.1-hiera-*` on Hugging Face, and what `Sam2Model` and `Sam2VideoModel` save: as
/// `transformers` 5.24 names it. SAM 3 has the same names but for its image encoder.
#[rustfmt::skip]
pub(in crate::weights) const SAM2_HF: Layout = Layout {
    name: "SAM 2.1 (Hugging Face)",
    signature: &["vision_encoder.backbone.pos_embed_window"],
    spellings: &[],
    names: &[&[
        section("image_encoder.trunk", "vision_encoder.backbone", &[
            ("patch_embed.proj", "patch_embed.projection"),
            ("blocks.*.norm*", "blocks.*.layer_norm*"),
            ("blocks.*.mlp.layers.0", "blocks.*.mlp.proj_in"),
            ("blocks.*.mlp.layers.1", "blocks.*.mlp.proj_out"),
            ("", ""),
        ]),
        section("image_encoder.neck", "vision_encoder.neck", &[
            ("convs.*.conv", "convs.*"),
        ]),
        section("sam_prompt_encoder", "prompt_encoder", PROMPT_ENCODER),
        section("sam_mask_decoder.transformer.layers", "mask_decoder.transformer.layers", &[
            ("*.mlp.layers.0", "*.mlp.proj_in"),
            ("*.mlp.layers.1", "*.mlp.proj_out"),
        ]),
        section("sam_mask_decoder", "mask_decoder", MASK_ATTENTION),
        section("sam_mask_decoder", "mask_decoder", MASK_DECODER),
        section("memory_attention", "memory_attention", MEMORY_ATTENTION),
        section("memory_encoder", "memory_encoder", MEMORY_ENCODER),
        section("", "", TRACKER),
    ]],
    fixes: &[],
    // A copy of `prompt_encoder.shared_embedding`.
    ignore: &["shared_image_embedding"],
};
