//! SAM 1 and MobileSAM.

use super::sam3_hf::MASK_DECODER;
use super::{Layout, section};

/// `sam_vit_*.pth` and `mobile_sam.pt`: the names modules ask for.
pub(in crate::weights) const SAM: Layout = Layout {
    name: "SAM",
    signature: &["image_encoder"],
    spellings: &[],
    names: &[],
    fixes: &[],
    ignore: &["pixel_mean", "pixel_std", "**.num_batches_tracked"],
};

/// `facebook/sam-vit-*` on Hugging Face.
#[rustfmt::skip]
pub(in crate::weights) const SAM_HF: Layout = Layout {
    name: "SAM (Hugging Face)",
    signature: &["vision_encoder.patch_embed"],
    spellings: &[],
    names: &[&[
        section("image_encoder", "vision_encoder", &[
            ("patch_embed.proj", "patch_embed.projection"),
            ("blocks.*.norm1", "layers.*.layer_norm1"),
            ("blocks.*.norm2", "layers.*.layer_norm2"),
            ("blocks", "layers"),
            ("neck.0", "neck.conv1"),
            ("neck.1", "neck.layer_norm1"),
            ("neck.2", "neck.conv2"),
            ("neck.3", "neck.layer_norm2"),
            ("", ""),
        ]),
        section("prompt_encoder.pe_layer", "shared_image_embedding", &[
            ("positional_encoding_gaussian_matrix", "positional_embedding"),
        ]),
        section("prompt_encoder", "prompt_encoder", &[
            ("point_embeddings", "point_embed"),
            ("mask_downscaling.0", "mask_embed.conv1"),
            ("mask_downscaling.1", "mask_embed.layer_norm1"),
            ("mask_downscaling.3", "mask_embed.conv2"),
            ("mask_downscaling.4", "mask_embed.layer_norm2"),
            ("mask_downscaling.6", "mask_embed.conv3"),
        ]),
        section("mask_decoder", "mask_decoder", MASK_DECODER),
    ]],
    fixes: &[],
    // A tied copy of `shared_image_embedding`, present in some files only.
    ignore: &["prompt_encoder.shared_embedding"],
};
