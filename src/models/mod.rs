//! Floor 2: whole models.

pub mod inspect;
pub mod sam;
pub mod sam3;
pub mod tracker;

use crate::Result;
use crate::image::Image;
use crate::mask::{BoxXyxy, Mask};

/// A model that turns points, boxes and rough masks into masks.
pub trait InteractiveModel {
    /// An encoded image: cheap to clone, good for any number of prompts.
    type Embedding: Clone + Send + Sync;

    /// Encodes an image of any size.
    fn encode_for_clicks(&self, image: &Image) -> Result<Self::Embedding>;

    /// Width and height of the original image, in pixels.
    fn original_size(&self, image: &Self::Embedding) -> (usize, usize);

    /// Height and width of the low-resolution logits.
    fn low_res_size(&self) -> (usize, usize);

    /// Decodes prompts in one batch; each yields three masks, or one without `multimask_output`.
    fn decode(
        &self,
        image: &Self::Embedding,
        prompts: &[ClickPrompt],
        multimask_output: bool,
    ) -> Result<Vec<ClickMasks>>;

    /// Like [`InteractiveModel::decode`] with `multimask_output`, without the masks whose predicted
    /// quality is not `wanted`; models that know it first save the work.
    fn decode_wanted(
        &self,
        image: &Self::Embedding,
        prompts: &[ClickPrompt],
        wanted: &dyn Fn(f32) -> bool,
    ) -> Result<Vec<ClickMasks>> {
        let mut answers = self.decode(image, prompts, true)?;
        answers.iter_mut().for_each(|answer| answer.retain(wanted));
        Ok(answers)
    }

    /// Low-resolution logits (h, w) of one mask -> logits at the size of the original image, by
    /// rows.
    fn upscale(&self, image: &Self::Embedding, low_res_logits: &[f32]) -> Result<Vec<f32>>;

    /// The logits of an answer as the original hands them back, to be the next mask prompt; what
    /// is to be upscaled is upscaled before.
    fn feed_back(&self, low_res_logits: Vec<f32>) -> Vec<f32>;

    /// A drawn mask of an image's size as logits (h, w) for a mask prompt, by rows.
    fn drawn_logits(&self, mask: &Mask) -> Result<Vec<f32>>;
}

/// One prompt for one object.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ClickPrompt {
    /// Points in pixels of the original image, and whether the object is there (1) or not (0).
    pub points: Vec<([f32; 2], u8)>,
    /// A box in pixels of the original image.
    pub bbox: Option<BoxXyxy>,
    /// Low-resolution logits (h, w) of an earlier answer, by rows, or of a drawn mask.
    pub mask_logits: Option<Vec<f32>>,
}

/// The answers to one prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct ClickMasks {
    /// Low-resolution logits (h, w) of each mask, by rows.
    pub low_res_logits: Vec<Vec<f32>>,
    /// Predicted quality (IoU) of each mask.
    pub iou_scores: Vec<f32>,
    /// Logit of "there is an object", where the model says so.
    pub object_score: Option<f32>,
}

impl ClickMasks {
    /// Keeps the masks whose predicted quality is `wanted`.
    pub fn retain(&mut self, wanted: &dyn Fn(f32) -> bool) {
        let kept: Vec<bool> = self.iou_scores.iter().map(|iou| wanted(*iou)).collect();
        let mut keep = kept.iter();
        self.low_res_logits.retain(|_| keep.next() == Some(&true));
        self.iou_scores.retain(|iou| wanted(*iou));
    }
}
