//! `sam3.pt`, `sam3.1_multiplex.pt` and what EfficientSAM3 and SAM3-LiteText publish: the names
//! modules ask for.

use super::{Layout, section};

pub(in crate::weights) const SAM3: Layout = Layout {
    name: "SAM 3",
    signature: &[],
    spellings: SPELLINGS,
    // Files of the image model alone, which has no `detector.` around it.
    names: &[&[section(
        "",
        "",
        &[
            ("detector.backbone", "backbone"),
            ("detector.geometry_encoder", "geometry_encoder"),
            ("detector.transformer", "transformer"),
            ("detector.segmentation_head", "segmentation_head"),
            ("detector.dot_prod_scoring", "dot_prod_scoring"),
            ("tracker", "inst_interactive_predictor.model"),
        ],
    )]],
    fixes: &[],
    // `freqs_cis_real` and `freqs_cis_imag`: what the official code saves since SAM 3.1.
    ignore: &["**.freqs_cis*", "**.num_batches_tracked"],
};

/// The names of SAM 3.1 are its own: its tracker has a mask decoder for clicks and another one for
/// video, most of whose tensors have the same shapes.
pub(in crate::weights) const SAM31: Layout = Layout {
    name: "SAM 3.1",
    signature: &[
        "tracker.model",
        "sam2_predictor.model",
        "**.interactive_convs",
        "**.propagation_convs",
    ],
    ..SAM3
};

const SPELLINGS: &[(&str, &str)] = &[
    // What fine-tuning of students leaves in the names, see `_load_checkpoint`,
    // https://github.com/SimonZeng7108/efficientsam3/blob/c1f0b02/sam3/sam3/model_builder.py
    ("student_trunk", ""),
    // Inside Meta, see `build_sam3_multiplex_video_predictor`,
    // https://github.com/facebookresearch/sam3/blob/96914d2/sam3/model_builder.py#L1205
    ("sam3_model", "detector"),
    ("sam2_predictor", "tracker"),
];
