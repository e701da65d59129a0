//! SAM 1 and MobileSAM.

use super::Layout;

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
pub(in crate::weights) const SAM_HF: Layout = Layout {
    name: "SAM (Hugging Face)",
    signature: &["vision_encoder.patch_embed"],
    spellings: &[],
    names: &[&[
        (
            "image_encoder.patch_embed.proj",
            "vision_encoder.patch_embed.projection",
        ),
        (
            "image_encoder.blocks.*.norm1",
            "vision_encoder.layers.*.layer_norm1",
        ),
        (
            "image_encoder.blocks.*.norm2",
            "vision_encoder.layers.*.layer_norm2",
        ),
        ("image_encoder.blocks", "vision_encoder.layers"),
        ("image_encoder.neck.0", "vision_encoder.neck.conv1"),
        ("image_encoder.neck.1", "vision_encoder.neck.layer_norm1"),
        ("image_encoder.neck.2", "vision_encoder.neck.conv2"),
        ("image_encoder.neck.3", "vision_encoder.neck.layer_norm2"),
        ("image_encoder", "vision_encoder"),
        (
            "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
            "shared_image_embedding.positional_embedding",
        ),
        (
            "prompt_encoder.point_embeddings",
            "prompt_encoder.point_embed",
        ),
        (
            "prompt_encoder.mask_downscaling.0",
            "prompt_encoder.mask_embed.conv1",
        ),
        (
            "prompt_encoder.mask_downscaling.1",
            "prompt_encoder.mask_embed.layer_norm1",
        ),
        (
            "prompt_encoder.mask_downscaling.3",
            "prompt_encoder.mask_embed.conv2",
        ),
        (
            "prompt_encoder.mask_downscaling.4",
            "prompt_encoder.mask_embed.layer_norm2",
        ),
        (
            "prompt_encoder.mask_downscaling.6",
            "prompt_encoder.mask_embed.conv3",
        ),
        (
            "mask_decoder.transformer.layers.*.norm*",
            "mask_decoder.transformer.layers.*.layer_norm*",
        ),
        (
            "mask_decoder.transformer.norm_final_attn",
            "mask_decoder.transformer.layer_norm_final_attn",
        ),
        (
            "mask_decoder.output_upscaling.0",
            "mask_decoder.upscale_conv1",
        ),
        (
            "mask_decoder.output_upscaling.1",
            "mask_decoder.upscale_layer_norm",
        ),
        (
            "mask_decoder.output_upscaling.3",
            "mask_decoder.upscale_conv2",
        ),
        (
            "mask_decoder.output_hypernetworks_mlps.*.layers.0",
            "mask_decoder.output_hypernetworks_mlps.*.proj_in",
        ),
        (
            "mask_decoder.output_hypernetworks_mlps.*.layers.1",
            "mask_decoder.output_hypernetworks_mlps.*.layers.0",
        ),
        (
            "mask_decoder.output_hypernetworks_mlps.*.layers.2",
            "mask_decoder.output_hypernetworks_mlps.*.proj_out",
        ),
        (
            "mask_decoder.iou_prediction_head.layers.0",
            "mask_decoder.iou_prediction_head.proj_in",
        ),
        (
            "mask_decoder.iou_prediction_head.layers.1",
            "mask_decoder.iou_prediction_head.layers.0",
        ),
        (
            "mask_decoder.iou_prediction_head.layers.2",
            "mask_decoder.iou_prediction_head.proj_out",
        ),
    ]],
    fixes: &[],
    // A tied copy of `shared_image_embedding`, present in some files only.
    ignore: &["prompt_encoder.shared_embedding"],
};
