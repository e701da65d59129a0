//! `sam3.pt` and what EfficientSAM3 and SAM3-LiteText publish: the names modules ask for.

use super::{Layout, section};

pub(in crate::weights) const SAM3: Layout = Layout {
    name: "SAM 3",
    signature: &[],
    // What fine-tuning of students leaves in the names, see `_load_checkpoint`,
    // https://github.com/SimonZeng7108/efficientsam3/blob/c1f0b02/sam3/sam3/model_builder.py
    spellings: &[("student_trunk", "")],
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
    ignore: &["**.freqs_cis", "**.num_batches_tracked"],
};
