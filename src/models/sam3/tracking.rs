//! Following objects through videos: the tracker on the interactive head's features.

use super::{ImageEmbedding, Sam3};
use crate::image::Image;
use crate::models::tracker::{FrameFeatures, Tracker, TrackingModel};
use crate::{Error, Result, Run};

/// The parts of the files that only tracking needs.
pub(super) const PARTS: &[&str] = &[
    "tracker.transformer", // attention to earlier frames
    "tracker.maskmem_backbone",
    "tracker.maskmem_tpos_enc",
    "tracker.mask_downsample",
    "tracker.no_obj_embed_spatial",
    "tracker.no_obj_ptr",
    "tracker.obj_ptr_proj",
    "tracker.obj_ptr_tpos_proj",
];

/// The parts of the tracker and its neck that nothing reads.
pub(super) const LEFT_OUT: &[&str] = &[
    "tracker.no_mem_pos_enc",
    "detector.backbone.vision_backbone.sam2_convs.3", // a pyramid level that is dropped
];

impl Sam3 {
    /// The features of an image that was encoded for text, as a frame of a video: the trunk does not
    /// run again.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if this model, or the one that encoded the image, was loaded without
    /// its interactive head.
    pub fn frame_features(&self, image: &ImageEmbedding) -> Result<FrameFeatures> {
        let head = self.interactive_head()?;
        let Some(trunk) = &image.trunk else {
            return Err(Error::Unsupported {
                what: "tracking to an image encoded by a model without its interactive head".into(),
                instead: "encode it with this model".into(),
            });
        };
        Ok(FrameFeatures::new(head.embed_frame(trunk)?, image.size))
    }
}

impl TrackingModel for Sam3 {
    fn name(&self) -> &str {
        self.name()
    }

    fn tracker(&self) -> Result<&dyn Tracker> {
        match self.interactive_head()?.tracker() {
            Some(tracker) => Ok(tracker),
            None => Err(Error::Unsupported {
                what: "tracking with a model loaded without its tracker".into(),
                instead: "load it with `LoadOptions::tracking`".into(),
            }),
        }
    }

    fn encode_frame(&self, image: &Image, run: &mut Run) -> Result<FrameFeatures> {
        let head = self.interactive_head()?;
        let pixels = run.stage("preprocess", || self.preprocess(image))?;
        let trunk = run.stage("trunk", || self.detector.features(&pixels))?;
        let features = run.stage("interactive_neck", || head.embed_frame(&trunk))?;
        Ok(FrameFeatures::new(features, image.size()))
    }
}
