//! Points, boxes and masks: the click head on the trunk's features.
//!
//! Follows `SAM3InteractiveImagePredictor`,
//! <https://github.com/facebookresearch/sam3/blob/99d02f2/sam3/model/sam1_task_predictor.py#L20>.
//!
//! # Easy to get wrong
//! - The click head has a neck of its own; the coarse level gets the "no memory" embedding of
//!   video tracking.
//! - A single mask is the first one if it is stable, else the best of the three others.
//! - Small holes are filled before upscaling, not in the logits that go back as a prompt.
//! - Logits are limited to ±32 when they are handed back, after the mask is upscaled as it is; a
//!   mask prompt is taken as it is given.

use std::ops::Range;

use candle::{Result, Tensor};
use candle_nn::VarBuilder;

use super::neck::Neck;
use super::{Config, ImageEmbedding, Sam3};
use crate::Error;
use crate::image::Image;
use crate::mask::{Mask, regions, upsample::upsample_bilinear};
use crate::models::sam::{Heads, ImageTokens, NUM_MASKS, drawn_mask};
use crate::models::{ClickMasks, ClickPrompt, InteractiveModel};

/// Largest magnitude of a logit that is handed back.
const MAX_LOGIT: f32 = 32.;
/// A mask is stable if moving the threshold by this much either way...
const STABILITY_DELTA: f32 = 0.05;
/// ...keeps at least this share of its pixels.
const STABILITY_THRESHOLD: f32 = 0.98;
/// Largest hole that is filled, in pixels of a low-resolution mask of 288 x 288.
const MAX_HOLE_AREA: usize = 256;
/// What becomes of the logits in a hole.
const FILLED: f32 = 10.;

/// The parts of the files that only clicks need.
pub(super) const PARTS: &[&str] = &[
    "tracker.sam_prompt_encoder",
    "tracker.sam_mask_decoder",
    "tracker.no_mem_embed",
    "detector.backbone.vision_backbone.sam2_convs",
];

/// The parts of the files that only video needs.
pub(super) const LEFT_OUT: &[&str] = &[
    "tracker.transformer", // attention to earlier frames
    "tracker.maskmem_backbone",
    "tracker.maskmem_tpos_enc",
    "tracker.mask_downsample",
    "tracker.no_mem_pos_enc",
    "tracker.no_obj_embed_spatial",
    "tracker.no_obj_ptr",
    "tracker.obj_ptr_proj",
    "tracker.obj_ptr_tpos_proj",
    "detector.backbone.vision_backbone.sam2_convs.3", // a pyramid level that is dropped
];

/// What answers clicks: a neck, and the heads of SAM.
#[derive(Debug)]
pub struct ClickHead {
    neck: Neck,
    no_mem_embed: Tensor, // (1, 1, d)
    heads: Heads,
}

/// An image encoded for clicks: cheap to clone, good for any number of prompts.
#[derive(Debug, Clone)]
pub struct ClickEmbedding {
    /// What the network knows of the image.
    pub features: ImageTokens,
    /// Width of the original image, in pixels.
    pub width: usize,
    /// Height of the original image, in pixels.
    pub height: usize,
}

impl ClickHead {
    /// Reads what [`PARTS`] names; `vb` is at the root of the file.
    pub(super) fn new(cfg: &Config, vb: VarBuilder) -> Result<Self> {
        let (d, tracker) = (cfg.d_model(), vb.pp("tracker"));
        let neck = vb.pp("detector.backbone.vision_backbone.sam2_convs");
        Ok(Self {
            neck: Neck::new(cfg.image_encoder.dim(), d, cfg.image_encoder.grid(), neck)?,
            no_mem_embed: tracker.get((1, 1, d), "no_mem_embed")?,
            heads: Heads::new(
                &cfg.clicks,
                tracker.pp("sam_prompt_encoder"),
                tracker.pp("sam_mask_decoder"),
            )?,
        })
    }

    /// Prompt encoder and mask decoder, for running single stages.
    pub fn heads(&self) -> &Heads {
        &self.heads
    }

    /// Features of the trunk (1, c, h, w), resized or not, -> what prompts share
    pub fn embed(&self, trunk: &Tensor) -> Result<ImageTokens> {
        let [fine, middle, coarse] = self.neck.forward(trunk)?;
        let tokens = coarse.flatten_from(2)?.transpose(1, 2)?.contiguous()?;
        Ok(ImageTokens {
            tokens: tokens.broadcast_add(&self.no_mem_embed)?,
            details: self.heads.mask_decoder().details(&fine, &middle)?,
        })
    }

    /// Answers `prompts` with those of `masks`, of the four in the decoder's order, whose predicted
    /// quality is `wanted`.
    ///
    /// # Errors
    /// [`Error::InvalidPrompt`] for an unknown label and a mask of another size.
    pub fn decode(
        &self,
        image: &ClickEmbedding,
        prompts: &[ClickPrompt],
        masks: Range<usize>,
        wanted: &dyn Fn(f32) -> bool,
    ) -> crate::Result<Vec<ClickMasks>> {
        let size = self.heads.config().image_size as f32;
        let (width, height) = (image.width as f32, image.height as f32);
        let to_input = |[x, y]: [f32; 2]| [x / width * size, y / height * size];
        let prompts = prompts
            .iter()
            .map(|prompt| self.heads.prompt(prompt, to_input))
            .collect::<crate::Result<Vec<_>>>()?;
        let features = &image.features;
        Ok(self.heads.decode(features, &prompts, masks, wanted)?)
    }
}

impl Sam3 {
    /// The click head, if it was loaded: [`super::LoadOptions::clicks`].
    ///
    /// # Errors
    /// [`Error::Unsupported`] if it was not.
    pub fn click_head(&self) -> crate::Result<&ClickHead> {
        self.clicks.as_ref().ok_or_else(|| Error::Unsupported {
            what: "a point or box prompt on a model loaded without its click head".into(),
            instead: "load it with `LoadOptions::clicks`".into(),
        })
    }

    /// An image that was encoded for text, for clicks: the trunk does not run again.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if the model was loaded without its click head.
    pub fn embed_for_clicks(&self, image: &ImageEmbedding) -> crate::Result<ClickEmbedding> {
        let head = self.click_head()?;
        let Some(trunk) = &image.trunk else {
            return Err(Error::Unsupported {
                what: "a click on an image encoded by a model without its click head".into(),
                instead: "encode it with this model".into(),
            });
        };
        Ok(ClickEmbedding {
            features: head.embed(trunk)?,
            width: image.width,
            height: image.height,
        })
    }
}

impl InteractiveModel for Sam3 {
    type Embedding = ClickEmbedding;

    /// Runs the trunk and the click head's neck; for text as well, see
    /// [`Sam3::embed_for_clicks`].
    fn encode_for_clicks(&self, image: &Image) -> crate::Result<ClickEmbedding> {
        let head = self.click_head()?;
        let trunk = self.detector.features(&self.preprocess(image)?)?;
        Ok(ClickEmbedding {
            features: head.embed(&trunk)?,
            width: image.width(),
            height: image.height(),
        })
    }

    fn original_size(&self, image: &ClickEmbedding) -> (usize, usize) {
        (image.width, image.height)
    }

    fn low_res_size(&self) -> (usize, usize) {
        let side = self.config.clicks.low_res_side();
        (side, side)
    }

    fn decode(
        &self,
        image: &ClickEmbedding,
        prompts: &[ClickPrompt],
        multimask_output: bool,
    ) -> crate::Result<Vec<ClickMasks>> {
        let head = self.click_head()?;
        if multimask_output {
            return head.decode(image, prompts, 1..NUM_MASKS, &|_| true);
        }
        let mut answers = head.decode(image, prompts, 0..NUM_MASKS, &|_| true)?;
        answers.iter_mut().for_each(keep_one);
        Ok(answers)
    }

    /// The image is not drawn on for prompts without a wanted mask.
    fn decode_wanted(
        &self,
        image: &ClickEmbedding,
        prompts: &[ClickPrompt],
        wanted: &dyn Fn(f32) -> bool,
    ) -> crate::Result<Vec<ClickMasks>> {
        let head = self.click_head()?;
        head.decode(image, prompts, 1..NUM_MASKS, wanted)
    }

    /// Holes are filled first.
    fn upscale(&self, image: &ClickEmbedding, low_res_logits: &[f32]) -> crate::Result<Vec<f32>> {
        let (height, width) = self.low_res_size();
        let mut logits = low_res_logits.to_vec();
        if logits.len() == height * width {
            fill_holes(&mut logits, (height, width));
        }
        upsample_bilinear(&logits, (height, width), (image.height, image.width))
    }

    /// Limited to ±32.
    fn feed_back(&self, mut low_res_logits: Vec<f32>) -> Vec<f32> {
        for logit in &mut low_res_logits {
            *logit = logit.clamp(-MAX_LOGIT, MAX_LOGIT);
        }
        low_res_logits
    }

    fn drawn_logits(&self, mask: &Mask) -> crate::Result<Vec<f32>> {
        drawn_mask::stretched(mask, self.low_res_size().0)
    }
}

/// Of all four masks, the first if it is stable, else the best of the others.
///
/// Follows `_dynamic_multimask_via_stability`,
/// <https://github.com/facebookresearch/sam3/blob/99d02f2/sam3/sam/mask_decoder.py#L266>.
fn keep_one(answer: &mut ClickMasks) {
    let mut kept = 0;
    if stability(&answer.low_res_logits[0]) < STABILITY_THRESHOLD {
        kept = 1;
        for i in 2..answer.iou_scores.len() {
            if answer.iou_scores[i] > answer.iou_scores[kept] {
                kept = i;
            }
        }
    }
    answer.low_res_logits = vec![answer.low_res_logits.swap_remove(kept)];
    answer.iou_scores = vec![answer.iou_scores[kept]];
}

/// The share of a mask's pixels that a higher threshold keeps of those of a lower one.
fn stability(logits: &[f32]) -> f32 {
    let above = |threshold| logits.iter().filter(|v| **v > threshold).count() as f32;
    match above(-STABILITY_DELTA) {
        0. => 1.,
        low => above(STABILITY_DELTA) / low,
    }
}

/// Lifts the logits in small regions of background; a mask of another size than SAM 3's has its
/// limit in proportion.
fn fill_holes(logits: &mut [f32], (height, width): (usize, usize)) {
    let mask = Mask::from_fn(width, height, |x, y| logits[y * width + x] > 0.);
    let mut filled = mask.clone();
    regions::fill_holes(&mut filled, MAX_HOLE_AREA * height * width / (288 * 288));
    for y in 0..height {
        for x in 0..width {
            if filled.get(x, y) && !mask.get(x, y) {
                logits[y * width + x] = FILLED;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::sam3::LoadOptions;
    use crate::weights::Checkpoint;
    use crate::weights::key_lists::key_list;
    use candle::{DType, Device};

    /// Reading the tracker's and the second neck's tensors is enough: the rest is read without
    /// clicks, too.
    #[test]
    fn the_interactive_part_of_every_release_is_read_completely() {
        let student = |name: &str| format!("efficientsam3_{name}_mobileclip-s1");
        for list in [
            "sam3".to_string(),
            "sam3_hf".into(),
            "litetext_mobileclip-s0_ctx16".into(),
            "litetext_mobileclip-s0_ctx32".into(),
            "litetext_mobileclip-s1_ctx16".into(),
            "litetext_mobileclip-s1_ctx32".into(),
            "litetext_mobileclip2-l_ctx16".into(),
            "litetext_mobileclip2-l_ctx32".into(),
            student("repvit-m0.9"),
            student("repvit-m1.1"),
            student("repvit-m2.3"),
            student("tinyvit-5m"),
            student("tinyvit-11m"),
            student("tinyvit-21m"),
            student("efficientvit-b0"),
            student("efficientvit-b1"),
            student("efficientvit-b2"),
        ] {
            let tensors = key_list(&list).into_iter();
            let checkpoint = Checkpoint::from_shapes(tensors).unwrap();
            let vb = checkpoint.var_builder(DType::F32, &Device::Cpu);
            ClickHead::new(&Config::sam3(), vb).unwrap();
            let detector = [
                "detector.backbone.vision_backbone.trunk",
                "detector.backbone.vision_backbone.convs",
                "detector.backbone.language_backbone",
                "detector.geometry_encoder",
                "detector.transformer",
                "detector.segmentation_head",
                "detector.dot_prod_scoring",
            ];
            checkpoint.finish(&[LEFT_OUT, &detector].concat()).unwrap();
        }
    }

    #[test]
    fn a_file_without_the_click_head_says_so() {
        let list = |name: &str| Checkpoint::from_shapes(key_list(name)).unwrap();
        let donor = list("efficientsam3_repvit-m1.1_mobileclip-s1");
        let options = LoadOptions {
            clicks: true,
            ..Default::default()
        };
        for name in ["repvit-m1.1", "tinyvit-11m", "efficientvit-b1"] {
            let stage3 = list(&format!("efficientsam3_{name}_stage3"));
            let whole = stage3.with_part("detector.geometry_encoder", &donor);
            let error = Sam3::load(&whole.unwrap(), &options).unwrap_err();
            assert!(matches!(error, Error::Unsupported { .. }), "{error}");
            assert!(error.to_string().contains("no click head"), "{error}");
        }
    }

    #[test]
    fn a_click_head_with_a_tensor_too_many_or_too_few_is_refused() {
        let list = key_list("efficientsam3_efficientvit-b0_mobileclip-s1");
        let options = LoadOptions {
            clicks: true,
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

    fn answer(first: Vec<f32>) -> ClickMasks {
        ClickMasks {
            low_res_logits: vec![first, vec![1.], vec![2.], vec![3.]],
            iou_scores: vec![0.9, 0.1, 0.5, 0.5],
            object_score: Some(0.),
        }
    }

    #[test]
    fn an_unstable_mask_gives_way_to_the_best_of_the_others() {
        let mut stable = answer(vec![4., -4., -0.05]);
        keep_one(&mut stable);
        assert_eq!(stable.low_res_logits, [[4., -4., -0.05]]);
        assert_eq!(stable.iou_scores, [0.9]);
        // 0.05 is not above the higher threshold, so 1 of 2 pixels stay.
        let mut unstable = answer(vec![4., -4., 0.05]);
        keep_one(&mut unstable);
        assert_eq!(unstable.low_res_logits, [[2.]]);
        assert_eq!(unstable.iou_scores, [0.5]);
        let mut empty = answer(vec![-1.; 3]);
        keep_one(&mut empty);
        assert_eq!(empty.iou_scores, [0.9]);
    }

    #[test]
    fn holes_up_to_the_limit_are_filled() {
        let side = 288;
        let at = |x: usize, y: usize| y * side + x;
        let mut logits = vec![3.; side * side];
        for y in 0..16 {
            logits[at(100, 100 + y)..][..16].fill(-1.); // 256 pixels
            logits[at(200, 200 + y)..][..16].fill(-1.); // 257 with the next line
        }
        logits[at(216, 216)] = 0.; // touches diagonally, and 0 is background
        fill_holes(&mut logits, (side, side));
        assert_eq!(logits[at(100, 100)], FILLED);
        assert_eq!(logits[at(200, 200)], -1.);
        assert_eq!(logits[at(216, 216)], 0.);
        assert_eq!(logits[at(0, 0)], 3.);
    }
}
