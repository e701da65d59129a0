//! Points, boxes and masks: the interactive head on the trunk's features.
//!
//! Follows `SAM3InteractiveImagePredictor`,
//! <https://github.com/facebookresearch/sam3/blob/99d02f2/sam3/model/sam1_task_predictor.py#L20>.
//!
//! # Easy to get wrong
//! - The interactive head has a neck of its own; the coarse level gets the "no memory" embedding of
//!   video tracking.
//! - A single mask is the first one if it is stable, else the best of the three others.
//! - SAM 3.1 keeps two mask decoders: the one for clicks is `interactive_sam_mask_decoder`, and 120 of
//!   its tensors have the shapes of `sam_mask_decoder`. Its predicted IoUs have no sigmoid.
//! - Small holes are filled before upscaling, not in the logits that go back as a prompt.
//! - Logits are limited to ±32 when they are handed back, after the mask is upscaled as it is; a
//!   mask prompt is taken as it is given.

use std::ops::Range;

use candle::{Result, Tensor};
use candle_nn::VarBuilder;

use super::neck::Neck;
use super::parts::{PROPAGATION_NECK, Parts};
use super::{Config, ImageEmbedding, Sam3};
use crate::image::Image;
use crate::mask::Mask;
use crate::models::head::{self, Decoded, ImageTokens, SamHead, drawn_mask};
use crate::models::tracker::{FrameFeatures, Tracker, TrackerNetwork};
use crate::models::{InteractiveEmbedding, InteractiveModel, Upscaling, VisualPrompt};
use crate::{Error, Run, Size};

/// Largest hole that is filled, in pixels of a low-resolution mask of 288 x 288.
const MAX_HOLE_AREA: usize = 256;

/// The part of SAM 3 that answers points, boxes and masks: a neck, and the head of SAM.
#[derive(Debug)]
pub struct InteractiveHead {
    prompts: PromptPart,
    tracker: Option<TrackerNetwork>,
    /// Of SAM 3.1, whose tracker looks at features of its own.
    tracker_neck: Option<Neck>,
}

/// What prompts look at, and what answers them.
#[derive(Debug, Clone)]
struct PromptPart {
    neck: Neck,
    no_mem_embed: Tensor, // (1, 1, d)
    head: SamHead,
}

impl InteractiveHead {
    /// Reads the tensors that [`Parts`] names, and for `tracking` the tracker's; `vb` is at the root
    /// of the file.
    pub(super) fn new(cfg: &Config, tracking: bool, vb: VarBuilder) -> Result<Self> {
        let (d, parts) = (cfg.d_model(), Parts::of(cfg.multiplex));
        let (dim, grid) = (cfg.image_encoder.dim(), cfg.image_encoder.grid());
        let neck = |part: &str| Neck::new(dim, d, grid, vb.pp(part));
        let head = SamHead::new(
            &cfg.interactive,
            vb.pp(parts.prompt_encoder),
            vb.pp(parts.mask_decoder),
        )?;
        let tracker = || TrackerNetwork::new(&cfg.tracker, &head, vb.pp(parts.tracker));
        let tracker_neck = || neck(PROPAGATION_NECK);
        Ok(Self {
            tracker: tracking.then(tracker).transpose()?,
            tracker_neck: (tracking && cfg.multiplex).then(tracker_neck).transpose()?,
            prompts: PromptPart {
                neck: neck(parts.neck)?,
                no_mem_embed: vb.get((1, 1, d), parts.no_mem_embed)?,
                head,
            },
        })
    }

    /// Prompt encoder and mask decoder, for running single stages.
    pub fn head(&self) -> &SamHead {
        &self.prompts.head
    }

    /// The tracker, if it was loaded: [`crate::LoadOptions::tracking`].
    pub fn tracker(&self) -> Option<&dyn Tracker> {
        self.tracker.as_ref().map(|tracker| tracker as &dyn Tracker)
    }

    /// Trunk features (1, c, h, w), resized to the ViT grid or not, of an image of `size` -> the frame
    /// as the tracker keeps it, without the "no memory" embedding
    ///
    /// # Errors
    /// For features of another shape.
    pub fn embed_frame(&self, trunk: &Tensor, size: Size) -> Result<FrameFeatures> {
        let (Some(tracker), Some(neck)) = (&self.tracker, &self.tracker_neck) else {
            return Ok(FrameFeatures::new(self.prompts.embed(trunk)?, size));
        };
        let features = tracker.decoder().image_tokens(&neck.forward(trunk)?)?;
        let (prompts, trunk) = (self.prompts.clone(), trunk.clone());
        Ok(FrameFeatures::new(features, size).with_interactive(move || prompts.embed(&trunk)))
    }

    /// Trunk features as of [`InteractiveHead::embed_frame`] -> what prompts look at, on an image that
    /// has no memory of earlier frames
    ///
    /// # Errors
    /// For features of another shape.
    pub fn embed(&self, trunk: &Tensor) -> Result<ImageTokens> {
        let image = self.prompts.embed(trunk)?;
        let tokens = image.tokens.broadcast_add(&self.prompts.no_mem_embed)?;
        Ok(ImageTokens::new(tokens, image.high_res_features))
    }
}

impl PromptPart {
    fn embed(&self, trunk: &Tensor) -> Result<ImageTokens> {
        let maps = self.neck.forward(trunk)?;
        self.head.mask_decoder().image_tokens(&maps)
    }
}

impl Sam3 {
    /// The interactive head, if it was loaded: [`crate::LoadOptions::interactive`].
    ///
    /// # Errors
    /// [`Error::Unsupported`] if it was not.
    pub fn interactive_head(&self) -> crate::Result<&InteractiveHead> {
        self.interactive.as_ref().ok_or_else(|| Error::Unsupported {
            what: "a point, box or mask prompt on a model loaded without its interactive head"
                .into(),
            instead: "load it with `LoadOptions::interactive`".into(),
        })
    }

    /// The interactive embedding of an image that was encoded for text: the trunk does not run
    /// again.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if this model, or the one that encoded the image, was loaded without
    /// its interactive head.
    pub fn interactive_embedding(
        &self,
        image: &ImageEmbedding,
    ) -> crate::Result<InteractiveEmbedding> {
        let head = self.interactive_head()?;
        let Some(trunk) = &image.trunk else {
            return Err(Error::Unsupported {
                what: "a click on an image encoded by a model without its interactive head".into(),
                instead: "encode it with this model".into(),
            });
        };
        Ok(InteractiveEmbedding {
            features: head.embed(trunk)?,
            size: image.size,
        })
    }
}

impl InteractiveModel for Sam3 {
    fn name(&self) -> &str {
        self.name()
    }

    fn head_config(&self) -> &head::Config {
        &self.config.interactive
    }

    /// Runs the trunk and the interactive neck; for text as well, see
    /// [`Sam3::interactive_embedding`].
    fn encode_interactive(
        &self,
        image: &Image,
        run: &mut Run,
    ) -> crate::Result<InteractiveEmbedding> {
        let head = self.interactive_head()?;
        let pixels = run.stage("preprocess", || self.preprocess(image))?;
        run.record("pixel_values", &pixels);
        let trunk = run.stage("trunk", || self.detector.features(&pixels))?;
        Ok(InteractiveEmbedding {
            features: run.stage("interactive_neck", || head.embed(&trunk))?,
            size: image.size(),
        })
    }

    fn attend(
        &self,
        image: &InteractiveEmbedding,
        prompts: &[&VisualPrompt],
    ) -> crate::Result<Decoded> {
        let head = self.interactive_head()?.head();
        head.attend_stretched(image, prompts)
    }

    fn draw(
        &self,
        image: &InteractiveEmbedding,
        decoded: &Decoded,
        masks: Range<usize>,
    ) -> crate::Result<Tensor> {
        let head = self.interactive_head()?.head();
        Ok(head.draw(&image.features, decoded, masks)?)
    }

    /// Fills small holes first; a mask of another size than SAM 3's has its limit in proportion.
    fn upscaling(&self, image: Size) -> Upscaling {
        let low_res = self.low_res_size();
        Upscaling {
            max_hole_area: MAX_HOLE_AREA * low_res.area() / (288 * 288),
            ..Upscaling::direct(low_res, image)
        }
    }

    fn logits_from_mask(&self, mask: &Mask) -> crate::Result<Vec<f32>> {
        drawn_mask::stretched(mask, self.low_res_size().width)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::LoadOptions;
    use crate::weights::Checkpoint;
    use crate::weights::key_lists::key_list;
    use candle::DType;

    #[test]
    fn a_file_without_the_interactive_head_says_so() {
        let list = |name: &str| Checkpoint::from_shapes(key_list(name)).unwrap();
        let donor = list("efficientsam3_repvit-m1.1_mobileclip-s1");
        let options = LoadOptions {
            interactive: true,
            ..Default::default()
        };
        for name in ["repvit-m1.1", "tinyvit-11m", "efficientvit-b1"] {
            let stage3 = list(&format!("efficientsam3_{name}_stage3"));
            let whole = stage3.with_part("detector.geometry_encoder", &donor);
            let error = Sam3::load(&whole.unwrap(), &options).unwrap_err();
            assert!(matches!(error, Error::Unsupported { .. }), "{error}");
            assert!(error.to_string().contains("no interactive head"), "{error}");
        }
    }

    #[test]
    fn an_interactive_head_with_a_tensor_too_many_or_too_few_is_refused() {
        let list = key_list("efficientsam3_efficientvit-b0_mobileclip-s1");
        let options = LoadOptions {
            interactive: true,
            ..Default::default()
        };
        let load = |tensors| {
            let checkpoint = Checkpoint::from_shapes(tensors).unwrap();
            Sam3::load(&checkpoint, &options).unwrap_err().to_string()
        };
        let name = "tracker.sam_mask_decoder.conv_s0.bias";
        let mut fewer = list.clone();
        fewer.retain(|(n, ..)| n != name);
        assert!(load(fewer).contains(name));
        let name = "tracker.sam_prompt_encoder.surprise";
        let surplus = [&list[..], &[(name.into(), vec![3], DType::F32)]].concat();
        assert!(load(surplus).contains(name));
    }
}
