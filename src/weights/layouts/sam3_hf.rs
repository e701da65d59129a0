//! `facebook/sam3` on Hugging Face, and what `Sam3Model` saves: as `transformers` 5.23 names it.
//!
//! The file has no `geometry_encoder.points_*`: it cannot take point prompts in the detector.

use super::{Layout, Rows, Section, section};
use crate::weights::layout::Fix;

/// `facebook/sam3`.
pub(in crate::weights) const SAM3_HF: Layout = Layout {
    name: "SAM 3 (Hugging Face)",
    signature: &["detector_model", "detr_encoder"],
    spellings: SPELLINGS,
    names: &[CLIP, MODEL],
    fixes: FIXES,
    ignore: IGNORE,
};

/// `vil-uob/sam3-litetext-*`: another text encoder, and no tracker.
pub(in crate::weights) const SAM3_LITETEXT_HF: Layout = Layout {
    name: "SAM3-LiteText (Hugging Face)",
    signature: &["detector_model.text_encoder.layers", "text_encoder.layers"],
    spellings: SPELLINGS,
    names: &[MOBILE_CLIP, MODEL],
    fixes: FIXES,
    ignore: IGNORE,
};

const SPELLINGS: &[(&str, &str)] = &[
    ("detector_model", ""),                         // absent in `Sam3Model`
    ("text_encoder.text_model", "text_encoder"),    // absent in some versions
    ("tracker_model.tracker_neck", "tracker_neck"), // in a re-upload
];

const FIXES: &[(&str, Fix)] = &[
    (
        "detector.backbone.vision_backbone.trunk.pos_embed",
        Fix::PadFirst,
    ),
    (
        "detector.backbone.language_backbone.encoder.text_projection",
        Fix::Transpose,
    ),
];

const IGNORE: &[&str] = &[
    // A copy of `prompt_encoder.shared_embedding`.
    "tracker_model.shared_image_embedding",
    // Pools the text of SAM3-LiteText for a purpose SAM 3 does not have.
    "text_encoder.projection",
    "**.num_batches_tracked",
];

/// The text encoder of SAM 3.
#[rustfmt::skip]
const CLIP: &[Section] = &[
    section("detector.backbone.language_backbone.encoder", "text_encoder", &[
        ("token_embedding", "embeddings.token_embedding"),
        ("positional_embedding", "embeddings.position_embedding.weight"),
        ("text_projection", "text_projection.weight"),
        ("ln_final", "final_layer_norm"),
    ]),
    section("detector.backbone.language_backbone.encoder.transformer.resblocks", "text_encoder.encoder.layers", &[
        ("*.attn.in_proj_*", "*.self_attn.{q,k,v}_proj.*"),
        ("*.attn.out_proj", "*.self_attn.out_proj"),
        ("*.ln_*", "*.layer_norm*"),
        ("*.mlp.c_fc", "*.mlp.fc1"),
        ("*.mlp.c_proj", "*.mlp.fc2"),
    ]),
    section("detector.backbone.language_backbone", "", &[
        ("resizer", "text_projection"),
    ]),
];

/// The text encoders of SAM3-LiteText.
#[rustfmt::skip]
const MOBILE_CLIP: &[Section] = &[
    section("detector.backbone.language_backbone.encoder", "text_encoder", &[
        ("embedding_layer", "embeddings.token_embedding"),
        ("positional_embedding.pos_embed.pos_embed", "embeddings.position_embedding.position_embedding"),
        ("final_layer_norm", "final_layer_norm"),
    ]),
    section("detector.backbone.language_backbone.encoder.transformer", "text_encoder.layers", &[
        ("*.token_mixer.norm.rbr_skip", "*.token_mixer.reference_batchnorm"),
        ("*.token_mixer.mixer.rbr_skip", "*.token_mixer.mixer.batchnorm_skip"),
        ("*.token_mixer.mixer.rbr_conv.0.conv", "*.token_mixer.mixer.conv"),
        ("*.token_mixer.mixer.rbr_conv.0.bn", "*.token_mixer.mixer.batchnorm_conv"),
        ("*.convffn.conv.conv", "*.conv_feed_forward.depthwise_conv"),
        ("*.convffn.conv.bn", "*.conv_feed_forward.depthwise_batchnorm"),
        ("*.convffn.fc*", "*.conv_feed_forward.mlp.fc*"),
        ("*.pre_norm_mha.0", "*.layer_norm1"),
        ("*.pre_norm_mha.1.qkv_proj", "*.self_attn.{q,k,v}_proj"),
        ("*.pre_norm_mha.1.out_proj", "*.self_attn.out_proj"),
        ("*.pre_norm_ffn.0", "*.layer_norm2"),
        ("*.pre_norm_ffn.1", "*.mlp.fc1"),
        ("*.pre_norm_ffn.4", "*.mlp.fc2"),
        ("", ""),
    ]),
    section("detector.backbone.language_backbone", "", &[
        ("projector", "text_projection"),
    ]),
];

/// Everything but the text encoder.
#[rustfmt::skip]
const MODEL: &[Section] = &[
    // ViT
    section("detector.backbone.vision_backbone.trunk", "vision_encoder.backbone", &[
        ("pos_embed", "embeddings.position_embeddings"),
        ("patch_embed.proj", "embeddings.patch_embeddings.projection"),
        ("ln_pre", "layer_norm"),
        ("blocks.*.norm*", "layers.*.layer_norm*"),
        ("blocks.*.attn.qkv", "layers.*.attention.{q,k,v}_proj"),
        ("blocks.*.attn.proj", "layers.*.attention.o_proj"),
        ("blocks.*.mlp", "layers.*.mlp"),
    ]),
    // Necks
    section("detector.backbone.vision_backbone.convs", "vision_encoder.neck.fpn_layers", NECK),
    section("detector.backbone.vision_backbone.sam2_convs", "tracker_neck.fpn_layers", NECK),
    // Geometry encoder
    section("detector.geometry_encoder", "geometry_encoder", &[
        ("encode.*.self_attn.in_proj_*", "layers.*.self_attn.{q,k,v}_proj.*"),
        ("encode.*.self_attn.out_proj", "layers.*.self_attn.o_proj"),
        ("encode.*.cross_attn_image.in_proj_*", "layers.*.cross_attn.{q,k,v}_proj.*"),
        ("encode.*.cross_attn_image.out_proj", "layers.*.cross_attn.o_proj"),
        ("encode.*.linear*", "layers.*.mlp.fc*"),
        ("encode.*.norm*", "layers.*.layer_norm*"),
        ("img_pre_norm", "vision_layer_norm"),
        ("norm", "prompt_layer_norm"),
        ("encode_norm", "output_layer_norm"),
        ("", ""),
    ]),
    // Fusion encoder
    section("detector.transformer.encoder.layers", "detr_encoder.layers", &[
        ("*.self_attn.in_proj_*", "*.self_attn.{q,k,v}_proj.*"),
        ("*.self_attn.out_proj", "*.self_attn.o_proj"),
        ("*.cross_attn_image.in_proj_*", "*.cross_attn.{q,k,v}_proj.*"),
        ("*.cross_attn_image.out_proj", "*.cross_attn.o_proj"),
        ("*.linear*", "*.mlp.fc*"),
        ("*.norm*", "*.layer_norm*"),
    ]),
    // Decoder: the norms are not numbered in the order they run
    section("detector.transformer.decoder", "detr_decoder", &[
        ("layers.*.self_attn.in_proj_*", "layers.*.self_attn.{q,k,v}_proj.*"),
        ("layers.*.self_attn.out_proj", "layers.*.self_attn.o_proj"),
        ("layers.*.ca_text.in_proj_*", "layers.*.text_cross_attn.{q,k,v}_proj.*"),
        ("layers.*.ca_text.out_proj", "layers.*.text_cross_attn.o_proj"),
        ("layers.*.cross_attn.in_proj_*", "layers.*.vision_cross_attn.{q,k,v}_proj.*"),
        ("layers.*.cross_attn.out_proj", "layers.*.vision_cross_attn.o_proj"),
        ("layers.*.linear*", "layers.*.mlp.fc*"),
        ("layers.*.norm1", "layers.*.vision_cross_attn_layer_norm"),
        ("layers.*.norm2", "layers.*.self_attn_layer_norm"),
        ("layers.*.catext_norm", "layers.*.text_cross_attn_layer_norm"),
        ("layers.*.norm3", "layers.*.mlp_layer_norm"),
        ("norm", "output_layer_norm"),
        ("presence_token_out_norm", "presence_layer_norm"),
        ("bbox_embed.layers.0", "box_head.layer1"),
        ("bbox_embed.layers.1", "box_head.layer2"),
        ("bbox_embed.layers.2", "box_head.layer3"),
        ("presence_token_head.layers.0", "presence_head.layer1"),
        ("presence_token_head.layers.1", "presence_head.layer2"),
        ("presence_token_head.layers.2", "presence_head.layer3"),
        ("ref_point_head.layers.0", "ref_point_head.layer1"),
        ("ref_point_head.layers.1", "ref_point_head.layer2"),
        ("boxRPB_embed_*.layers.0", "box_rpb_embed_*.layer1"),
        ("boxRPB_embed_*.layers.1", "box_rpb_embed_*.layer2"),
        ("", ""),
    ]),
    // Scoring
    section("detector.dot_prod_scoring", "dot_product_scoring", &[
        ("prompt_mlp.layers.0", "text_mlp.layer1"),
        ("prompt_mlp.layers.1", "text_mlp.layer2"),
        ("prompt_mlp.out_norm", "text_mlp_out_norm"),
        ("prompt_proj", "text_proj"),
        ("hs_proj", "query_proj"),
    ]),
    // Segmentation head
    section("detector.segmentation_head", "mask_decoder", &[
        ("pixel_decoder", "pixel_decoder"),
        ("mask_predictor.mask_embed", "mask_embedder"),
        ("instance_seg_head", "instance_projection"),
        ("semantic_seg_head", "semantic_projection"),
        ("cross_attend_prompt.in_proj_*", "prompt_cross_attn.{q,k,v}_proj.*"),
        ("cross_attend_prompt.out_proj", "prompt_cross_attn.o_proj"),
        ("cross_attn_norm", "prompt_cross_attn_norm"),
    ]),
    // Tracker: embeddings
    section("tracker", "tracker_model", TRACKER),
    // Tracker: memory
    section("tracker.transformer.encoder", "tracker_model.memory_attention", MEMORY_ATTENTION),
    section("tracker.maskmem_backbone", "tracker_model.memory_encoder", MEMORY_ENCODER),
    // Tracker: prompt encoder
    section("tracker.sam_prompt_encoder", "tracker_model.prompt_encoder", PROMPT_ENCODER),
    // Tracker: mask decoder
    section("tracker.sam_mask_decoder.transformer.layers", "tracker_model.mask_decoder.transformer.layers", &[
        ("*.mlp.lin1", "*.mlp.proj_in"),
        ("*.mlp.lin2", "*.mlp.proj_out"),
    ]),
    section("tracker.sam_mask_decoder", "tracker_model.mask_decoder", MASK_ATTENTION),
    section("tracker.sam_mask_decoder", "tracker_model.mask_decoder", MASK_DECODER),
];

/// A neck.
const NECK: Rows = &[
    ("0.dconv_2x2_0", "0.scale_layers.0"),
    ("0.dconv_2x2_1", "0.scale_layers.2"),
    ("1.dconv_2x2", "1.scale_layers.0"),
    ("*.conv_1x1", "*.proj1"),
    ("*.conv_3x3", "*.proj2"),
];

/// Embeddings and pointers of the tracker.
#[rustfmt::skip]
pub(super) const TRACKER: Rows = &[
    ("maskmem_tpos_enc", "memory_temporal_positional_encoding"),
    ("no_mem_embed", "no_memory_embedding"),
    ("no_mem_pos_enc", "no_memory_positional_encoding"),
    ("no_obj_ptr", "no_object_pointer"),
    ("no_obj_embed_spatial", "occlusion_spatial_embedding_parameter"),
    ("mask_downsample", "mask_downsample"),
    ("obj_ptr_proj.layers.0", "object_pointer_proj.proj_in"),
    ("obj_ptr_proj.layers.1", "object_pointer_proj.layers.0"),
    ("obj_ptr_proj.layers.2", "object_pointer_proj.proj_out"),
    ("obj_ptr_tpos_proj", "temporal_positional_encoding_projection_layer"),
];

/// Memory attention.
#[rustfmt::skip]
pub(super) const MEMORY_ATTENTION: Rows = &[
    ("norm", "layer_norm"),
    ("layers.*.norm*", "layers.*.layer_norm*"),
    ("layers.*.*.out_proj", "layers.*.*.o_proj"),
    ("layers", "layers"),
];

/// Memory encoder.
#[rustfmt::skip]
pub(super) const MEMORY_ENCODER: Rows = &[
    ("mask_downsampler.encoder.0", "mask_downsampler.layers.0.conv"),
    ("mask_downsampler.encoder.1", "mask_downsampler.layers.0.layer_norm"),
    ("mask_downsampler.encoder.3", "mask_downsampler.layers.1.conv"),
    ("mask_downsampler.encoder.4", "mask_downsampler.layers.1.layer_norm"),
    ("mask_downsampler.encoder.6", "mask_downsampler.layers.2.conv"),
    ("mask_downsampler.encoder.7", "mask_downsampler.layers.2.layer_norm"),
    ("mask_downsampler.encoder.9", "mask_downsampler.layers.3.conv"),
    ("mask_downsampler.encoder.10", "mask_downsampler.layers.3.layer_norm"),
    ("mask_downsampler.encoder.12", "mask_downsampler.final_conv"),
    ("pix_feat_proj", "feature_projection"),
    ("out_proj", "projection"),
    ("fuser.layers.*.gamma", "memory_fuser.layers.*.scale"),
    ("fuser.layers.*.dwconv", "memory_fuser.layers.*.depthwise_conv"),
    ("fuser.layers.*.norm", "memory_fuser.layers.*.layer_norm"),
    ("fuser.layers.*.pwconv*", "memory_fuser.layers.*.pointwise_conv*"),
];

/// Prompt encoder.
#[rustfmt::skip]
pub(super) const PROMPT_ENCODER: Rows = &[
    ("pe_layer.positional_encoding_gaussian_matrix", "shared_embedding.positional_embedding"),
    ("point_embeddings.{0,1,2,3}", "point_embed"),
    ("mask_downscaling.0", "mask_embed.conv1"),
    ("mask_downscaling.1", "mask_embed.layer_norm1"),
    ("mask_downscaling.3", "mask_embed.conv2"),
    ("mask_downscaling.4", "mask_embed.layer_norm2"),
    ("mask_downscaling.6", "mask_embed.conv3"),
    ("", ""),
];

/// Projections after the mask decoder's attention, whose names SAM 1 keeps.
#[rustfmt::skip]
pub(super) const MASK_ATTENTION: Rows = &[
    ("transformer.final_attn_token_to_image.out_proj", "transformer.final_attn_token_to_image.o_proj"),
    ("transformer.layers.*.*.out_proj", "transformer.layers.*.*.o_proj"),
];

/// Mask decoder without its transformer's MLPs and [`MASK_ATTENTION`]; `*_head` are
/// `iou_prediction_head` and `pred_obj_score_head`.
#[rustfmt::skip]
pub(super) const MASK_DECODER: Rows = &[
    ("transformer.norm_final_attn", "transformer.layer_norm_final_attn"),
    ("transformer.layers.*.norm*", "transformer.layers.*.layer_norm*"),
    ("output_upscaling.0", "upscale_conv1"),
    ("output_upscaling.1", "upscale_layer_norm"),
    ("output_upscaling.3", "upscale_conv2"),
    ("output_hypernetworks_mlps.*.layers.0", "output_hypernetworks_mlps.*.proj_in"),
    ("output_hypernetworks_mlps.*.layers.1", "output_hypernetworks_mlps.*.layers.0"),
    ("output_hypernetworks_mlps.*.layers.2", "output_hypernetworks_mlps.*.proj_out"),
    ("*_head.layers.0", "*_head.proj_in"),
    ("*_head.layers.1", "*_head.layers.0"),
    ("*_head.layers.2", "*_head.proj_out"),
    ("", ""),
];
