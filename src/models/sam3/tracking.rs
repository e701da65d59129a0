//! Following objects through videos: the tracker on the interactive head's features.

use super::{ImageEmbedding, Sam3};
use crate::image::Image;
use crate::models::tracker::{self, FrameFeatures, Tracker, TrackingModel};
use crate::{Error, Result, Run};

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
        Ok(head.embed_frame(trunk, image.size)?)
    }
}

impl TrackingModel for Sam3 {
    fn name(&self) -> &str {
        self.name()
    }

    fn tracker(&self) -> Result<&dyn Tracker> {
        tracker::if_loaded(self.interactive_head()?.tracker())
    }

    fn encode_frame(&self, image: &Image, run: &mut Run) -> Result<FrameFeatures> {
        let head = self.interactive_head()?;
        let pixels = run.stage("preprocess", || self.preprocess(image))?;
        let trunk = run.stage("trunk", || self.detector.features(&pixels))?;
        run.stage("interactive_neck", || {
            head.embed_frame(&trunk, image.size())
        })
    }
}

#[cfg(test)]
mod tests {
    use candle::{DType, Device};
    use candle_nn::VarBuilder;

    use crate::models::sam3::{Config, InteractiveHead, Parts};
    use crate::weights::Checkpoint;
    use crate::weights::key_lists::key_list;

    #[test]
    fn the_tracker_of_every_kind_of_release_is_read_completely() {
        for (list, multiplex) in [
            ("sam3", false),
            ("sam3_hf", false),
            ("litetext_mobileclip-s0_ctx16", false),
            ("efficientsam3_repvit-m0.9_mobileclip-s1", false),
            ("sam3.1", true),
            ("litetext3.1_mobileclip-s0_ctx16", true),
            ("efficientsam3.1_tinyvit-5m_mobileclip-s0", true),
        ] {
            let checkpoint = Checkpoint::from_shapes(key_list(list)).unwrap();
            let detector = [
                "detector.backbone.vision_backbone.trunk",
                "detector.backbone.vision_backbone.convs",
                "detector.backbone.language_backbone",
                "detector.geometry_encoder",
                "detector.transformer",
                "detector.segmentation_head",
                "detector.dot_prod_scoring",
            ];
            let left_out = [Parts::of(multiplex).unread, &detector].concat();
            let config = Config::sam3().with_multiplex(multiplex);
            let build = |vb: VarBuilder| InteractiveHead::new(&config, true, vb);
            let head = checkpoint.build(DType::F32, &Device::Cpu, &left_out, build);
            assert!(head.unwrap().tracker().is_some(), "{list}");
        }
    }
}
