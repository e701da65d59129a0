//! Where files of SAM 3 and SAM 3.1 keep the parts that differ.

/// Where a file keeps what only points, boxes, masks and video need.
#[derive(Debug)]
pub(in crate::models) struct Parts {
    pub(super) prompt_encoder: &'static str,
    pub(super) mask_decoder: &'static str,
    pub(super) no_mem_embed: &'static str,
    pub(super) neck: &'static str,
    pub(super) tracker: &'static str,
    /// What only video needs and reads.
    pub(super) tracking: &'static [&'static str],
    /// What of the tracker and its neck nothing reads.
    pub(super) unread: &'static [&'static str],
}

const SAM3: Parts = Parts {
    prompt_encoder: "tracker.sam_prompt_encoder",
    mask_decoder: "tracker.sam_mask_decoder",
    no_mem_embed: "tracker.no_mem_embed",
    neck: "detector.backbone.vision_backbone.sam2_convs",
    tracker: "tracker",
    tracking: &[
        "tracker.transformer", // attention to earlier frames
        "tracker.maskmem_backbone",
        "tracker.maskmem_tpos_enc",
        "tracker.mask_downsample",
        "tracker.no_obj_embed_spatial",
        "tracker.no_obj_ptr",
        "tracker.obj_ptr_proj",
        "tracker.obj_ptr_tpos_proj",
    ],
    unread: &[
        "tracker.no_mem_pos_enc",
        "detector.backbone.vision_backbone.sam2_convs.3", // a pyramid level that is dropped
    ],
};

pub(super) const PROPAGATION_NECK: &str = "detector.backbone.vision_backbone.propagation_convs";

const SAM31: Parts = Parts {
    prompt_encoder: "tracker.model.interactive_sam_prompt_encoder",
    mask_decoder: "tracker.model.interactive_sam_mask_decoder",
    no_mem_embed: "tracker.model.interactivity_no_mem_embed",
    neck: "detector.backbone.vision_backbone.interactive_convs",
    tracker: "tracker.model",
    // What tracks 16 objects at a time.
    tracking: &[
        "tracker.model.transformer", // attention to earlier frames
        "tracker.model.sam_mask_decoder",
        "tracker.model.maskmem_backbone",
        "tracker.model.maskmem_tpos_enc",
        "tracker.model.no_obj_embed_spatial",
        "tracker.model.no_obj_ptr_linear",
        "tracker.model.obj_ptr_proj",
        "tracker.model.obj_ptr_tpos_proj",
        "tracker.model.output_valid_embed",
        "tracker.model.output_invalid_embed",
        "tracker.model.image_pe_layer",
        "tracker.model.interactive_mask_downsample",
        "tracker.model.interactive_obj_ptr_proj",
        PROPAGATION_NECK,
    ],
    unread: &[],
};

impl Parts {
    /// Of SAM 3.1 or of SAM 3.
    pub(in crate::models) fn of(multiplex: bool) -> &'static Self {
        if multiplex { &SAM31 } else { &SAM3 }
    }

    /// What points, boxes and masks need.
    pub(in crate::models) fn interactive(&self) -> [&'static str; 4] {
        [
            self.prompt_encoder,
            self.mask_decoder,
            self.no_mem_embed,
            self.neck,
        ]
    }

    /// What is left to video where clicks are answered, or are not.
    pub(super) fn only_video(&self, clicks: bool) -> Vec<&'static str> {
        let for_clicks = ["tracker", self.neck];
        let for_clicks = if clicks { &[][..] } else { &for_clicks };
        [for_clicks, self.tracking, self.unread].concat()
    }
}
