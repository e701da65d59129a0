//! Points, boxes and masks as prompts, and the models that answer them.

use std::ops::Range;

use candle::Tensor;
use serde::{Deserialize, Serialize};

use super::Upscaling;
use super::head::{self, Decoded, ImageTokens};
use crate::image::Image;
use crate::mask::{BoxXyxy, Mask};
use crate::{Result, Run, Size};

/// A model that turns points, boxes and rough masks into masks.
///
/// [`crate::predict::interactive`] and [`crate::predict::everything`] are what a user calls; the
/// methods here are the steps that they are made of.
pub trait InteractiveModel: Send + Sync {
    /// Display name: "SAM ViT-B".
    fn name(&self) -> &str;

    /// Sizes and capabilities of the head.
    fn head_config(&self) -> &head::Config;

    /// Encodes an image of any size.
    ///
    /// # Errors
    /// [`crate::Error::Cancelled`]; [`crate::Error::Unsupported`] if the model was loaded without
    /// its interactive head.
    fn encode_interactive(&self, image: &Image, run: &mut Run) -> Result<InteractiveEmbedding>;

    /// Everything about the answers to `prompts` but their masks, which [`InteractiveModel::draw`]
    /// computes from it.
    ///
    /// The prompts are of one kind: all have as many points, all or none have a box, all or none
    /// have a mask.
    ///
    /// # Errors
    /// [`crate::Error::InvalidPrompt`] for a mask of another size than
    /// [`InteractiveModel::low_res_size`].
    fn attend(&self, image: &InteractiveEmbedding, prompts: &[&VisualPrompt]) -> Result<Decoded>;

    /// Low-resolution logits of some of the [`head::NUM_MASKS`] masks of each prompt:
    /// (b, masks, h, w), f32.
    ///
    /// # Errors
    /// If a tensor operation fails.
    fn draw(
        &self,
        image: &InteractiveEmbedding,
        decoded: &Decoded,
        masks: Range<usize>,
    ) -> Result<Tensor>;

    /// How low-resolution logits come to the size of the original image.
    fn upscaling(&self, image: Size) -> Upscaling;

    /// A drawn mask of an image's size as logits (h, w) for a mask prompt, by rows.
    ///
    /// # Errors
    /// If the mask cannot be resized.
    fn logits_from_mask(&self, mask: &Mask) -> Result<Vec<f32>>;

    /// Size of the low-resolution logits.
    fn low_res_size(&self) -> Size {
        Size::square(self.head_config().low_res_side())
    }
}

/// An image encoded for points, boxes and masks: cheap to clone, good for any number of prompts.
#[derive(Debug, Clone)]
pub struct InteractiveEmbedding {
    /// Features that every prompt attends to.
    pub features: ImageTokens,
    /// Size of the original image.
    pub size: Size,
}

impl InteractiveEmbedding {
    /// Memory that the embedding keeps, in bytes.
    pub fn bytes(&self) -> usize {
        self.features.bytes()
    }
}

/// A point and what it says about the object.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// In pixels of the original image.
    pub xy: [f32; 2],
    /// True on the object, false where the object is not.
    #[serde(rename = "positive")]
    pub on_object: bool,
}

/// One prompt for one object: points, a box, a mask, or several of them together.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct VisualPrompt {
    /// Points on the object and beside it.
    pub points: Vec<Point>,
    /// A box around the object, in pixels of the original image.
    pub bbox: Option<BoxXyxy>,
    /// Low-resolution logits (h, w) of an earlier answer, by rows, or of a drawn mask.
    pub mask_logits: Option<Vec<f32>>,
}

impl VisualPrompt {
    /// A point on the object, in pixels of the original image.
    pub fn point(x: f32, y: f32) -> Self {
        Self::default().and_point(x, y)
    }

    /// A box around the object, in pixels of the original image.
    pub fn bbox(bbox: impl Into<BoxXyxy>) -> Self {
        Self::default().in_box(bbox)
    }

    /// Adds a point on the object.
    #[must_use]
    pub fn and_point(self, x: f32, y: f32) -> Self {
        self.with([x, y], true)
    }

    /// Adds a point that is not on the object.
    #[must_use]
    pub fn and_not(self, x: f32, y: f32) -> Self {
        self.with([x, y], false)
    }

    fn with(mut self, xy: [f32; 2], on_object: bool) -> Self {
        self.points.push(Point { xy, on_object });
        self
    }

    /// Adds a box around the object.
    #[must_use]
    pub fn in_box(mut self, bbox: impl Into<BoxXyxy>) -> Self {
        self.bbox = Some(bbox.into());
        self
    }

    /// Starts from the low-resolution logits of an earlier answer, see
    /// [`crate::predict::interactive::MaskPrediction::low_res_logits`].
    #[must_use]
    pub fn from_logits(mut self, low_res_logits: Vec<f32>) -> Self {
        self.mask_logits = Some(low_res_logits);
        self
    }

    /// True for a lone point, which may mean a part or the whole: the best of three masks beats a
    /// single one.
    ///
    /// The rule of the original's ONNX export for points,
    /// <https://github.com/facebookresearch/segment-anything/blob/dca509f/segment_anything/utils/onnx.py#L92>;
    /// a box or a mask says enough for a single mask, as in the original's examples.
    pub fn is_ambiguous(&self) -> bool {
        self.points.len() == 1 && self.bbox.is_none() && self.mask_logits.is_none()
    }
}
