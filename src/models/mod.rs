//! Floor 2: whole models.

pub mod inspect;
pub mod sam;
pub mod sam3;

use crate::Result;
use crate::image::Image;
use crate::mask::BoxXyxy;

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

    /// Low-resolution logits (h, w) of one mask -> logits at the size of the original image, by
    /// rows.
    fn upscale(&self, image: &Self::Embedding, low_res_logits: &[f32]) -> Result<Vec<f32>>;
}

/// One prompt for one object.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ClickPrompt {
    /// Points in pixels of the original image, and whether the object is there (1) or not (0).
    pub points: Vec<([f32; 2], u8)>,
    /// A box in pixels of the original image.
    pub bbox: Option<BoxXyxy>,
    /// Low-resolution logits (h, w) of an earlier answer, by rows.
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
