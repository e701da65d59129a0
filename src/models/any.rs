//! A model of whichever family the checkpoint holds.

use std::sync::{Arc, OnceLock};

use candle::Device;

use super::sam::Sam;
use super::sam2::Sam2;
use super::sam3::{self, Sam3};
use super::tracker::TrackingModel;
use super::variant::{Family, Variant};
use super::{InteractiveEmbedding, InteractiveModel, LoadOptions, get_or_try_init};
use crate::image::Image;
use crate::nn::WeightFormat;
use crate::weights::Checkpoint;
use crate::{Error, Result, Run, Size};

/// A loaded model of any supported family.
///
/// `Send + Sync`; share it behind an `Arc`.
#[derive(Debug)]
#[non_exhaustive]
pub enum Model {
    /// SAM 1 or MobileSAM: points, boxes, masks, everything.
    Sam(Box<Sam>),
    /// SAM 2.1: what SAM 1 answers, and videos.
    Sam2(Box<Sam2>),
    /// SAM 3, EfficientSAM3 or SAM3-LiteText: text and exemplars, and with
    /// [`LoadOptions::interactive`] all that SAM 1 answers.
    Sam3(Box<Sam3>),
}

/// Loads a checkpoint of any supported family; family and sizes come from its tensors.
///
/// # Errors
/// [`Error::Checkpoint`] listing the tensors that are missing, misshaped or left over;
/// [`Error::Unsupported`] for another family, for a precision or weights of 8 bits that the device or
/// the dtype does not have, and if [`LoadOptions::interactive`] is asked for of a file without that part.
pub fn load(checkpoint: &Checkpoint, options: &LoadOptions) -> Result<Model> {
    Ok(match Family::of(checkpoint)? {
        Family::Sam3 => Model::Sam3(Box::new(Sam3::load(checkpoint, options)?)),
        Family::Sam2 => Model::Sam2(Box::new(Sam2::load(checkpoint, options)?)),
        Family::Sam => Model::Sam(Box::new(Sam::load(checkpoint, options)?)),
    })
}

impl Model {
    /// A model of the sizes of `variant` on random weights, the same ones each time: for measuring
    /// speed and memory without a file. Its masks mean nothing.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a variant without an interactive head if
    /// [`LoadOptions::interactive`] asks for it.
    pub fn with_random_weights(variant: &Variant, options: &LoadOptions) -> Result<Self> {
        Ok(match variant.family() {
            Family::Sam3 => Self::Sam3(Box::new(Sam3::with_random_weights(variant, options)?)),
            Family::Sam2 => Self::Sam2(Box::new(Sam2::with_random_weights(variant, options)?)),
            Family::Sam => Self::Sam(Box::new(Sam::with_random_weights(variant, options)?)),
        })
    }

    /// Display name: "EfficientSAM3 (RepViT-M0.9 + MobileCLIP-S1)".
    pub fn name(&self) -> &str {
        match self {
            Self::Sam(model) => model.name(),
            Self::Sam2(model) => model.name(),
            Self::Sam3(model) => model.name(),
        }
    }

    /// How the weights of large layers are held: in 8 bits if the file or
    /// [`LoadOptions::weights`] said so.
    pub fn weights(&self) -> WeightFormat {
        match self {
            Self::Sam(model) => model.weights(),
            Self::Sam2(model) => model.weights(),
            Self::Sam3(model) => model.weights(),
        }
    }

    /// Where the model runs.
    pub fn device(&self) -> &Device {
        match self {
            Self::Sam(model) => model.device(),
            Self::Sam2(model) => model.device(),
            Self::Sam3(model) => model.device(),
        }
    }

    /// The model as one that answers points, boxes and masks.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a SAM 3 loaded without its interactive head.
    pub fn as_interactive(&self) -> Result<&dyn InteractiveModel> {
        match self {
            Self::Sam(model) => Ok(&**model),
            Self::Sam2(model) => Ok(&**model),
            Self::Sam3(model) => {
                model.interactive_head()?;
                Ok(&**model)
            }
        }
    }

    /// The model as one that follows objects through a video.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a SAM 1, and for a SAM 2.1 or SAM 3 loaded without its tracker.
    pub fn as_tracking(&self) -> Result<&dyn TrackingModel> {
        match self {
            Self::Sam(_) => Err(Error::Unsupported {
                what: format!(
                    "tracking with the memory of {}, which has none",
                    self.name()
                ),
                instead: "use a SAM 2.1, sam3.pt, or a LiteText or Stage-1 EfficientSAM3 file, or \
                          follow without a memory"
                    .into(),
            }),
            Self::Sam2(model) => {
                model.tracker()?;
                Ok(&**model)
            }
            Self::Sam3(model) => {
                model.tracker()?;
                Ok(&**model)
            }
        }
    }

    /// The model as one that answers texts and exemplars.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for SAM 1, MobileSAM and SAM 2.1.
    pub fn as_concept(&self) -> Result<&Sam3> {
        match self {
            Self::Sam3(model) => Ok(model),
            Self::Sam(_) | Self::Sam2(_) => Err(Error::Unsupported {
                what: format!("a text or exemplar prompt on {}", self.name()),
                instead: "use a checkpoint of SAM 3, EfficientSAM3 or SAM3-LiteText".into(),
            }),
        }
    }

    /// Encodes an image of any size for every kind of prompt that the model answers: once, where
    /// both texts and clicks follow. [`InteractiveModel::encode_interactive`] is for clicks alone.
    ///
    /// # Errors
    /// [`Error::Cancelled`] if `run` was asked to stop.
    pub fn encode(&self, image: &Image, run: &mut Run) -> Result<Embedding> {
        Ok(Embedding(match self {
            Self::Sam(model) => Kind::Interactive(model.encode_interactive(image, run)?),
            Self::Sam2(model) => Kind::Interactive(model.encode_interactive(image, run)?),
            Self::Sam3(model) => Kind::Sam3 {
                concept: model.encode_image(image, run)?,
                interactive: Arc::default(),
            },
        }))
    }

    /// The part of an embedding that points, boxes and masks need. A SAM 3 computes it from its
    /// trunk's features when it is first asked for.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a SAM 3 loaded without its interactive head, and for an embedding
    /// of another model.
    pub fn interactive_embedding(&self, image: &Embedding) -> Result<InteractiveEmbedding> {
        match (self, &image.0) {
            (Self::Sam(_) | Self::Sam2(_), Kind::Interactive(embedding)) => Ok(embedding.clone()),
            (
                Self::Sam3(model),
                Kind::Sam3 {
                    concept,
                    interactive,
                },
            ) => get_or_try_init(interactive, || model.interactive_embedding(concept)).cloned(),
            _ => Err(Error::Unsupported {
                what: "an image encoded by another model".into(),
                instead: "encode it with the model that decodes it".into(),
            }),
        }
    }
}

/// An image encoded by a [`Model`]: cheap to clone, good for any number of prompts.
#[derive(Debug, Clone)]
pub struct Embedding(Kind);

#[derive(Debug, Clone)]
enum Kind {
    /// Of a model that takes nothing but points, boxes and masks.
    Interactive(InteractiveEmbedding),
    Sam3 {
        concept: sam3::ImageEmbedding,
        interactive: Arc<OnceLock<InteractiveEmbedding>>,
    },
}

impl Embedding {
    /// Size of the original image.
    pub fn size(&self) -> Size {
        match &self.0 {
            Kind::Interactive(embedding) => embedding.size,
            Kind::Sam3 { concept, .. } => concept.size,
        }
    }

    /// The part that texts and exemplars need.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for an image encoded by SAM 1, MobileSAM or SAM 2.1.
    pub fn as_concept(&self) -> Result<&sam3::ImageEmbedding> {
        match &self.0 {
            Kind::Sam3 { concept, .. } => Ok(concept),
            Kind::Interactive(_) => Err(Error::Unsupported {
                what: "a text or exemplar prompt on an image encoded for points and boxes".into(),
                instead: "encode it with SAM 3, EfficientSAM3 or SAM3-LiteText".into(),
            }),
        }
    }

    /// Memory that the embedding keeps, in bytes.
    pub fn bytes(&self) -> usize {
        match &self.0 {
            Kind::Interactive(embedding) => embedding.bytes(),
            Kind::Sam3 {
                concept,
                interactive,
            } => concept.bytes() + interactive.get().map_or(0, InteractiveEmbedding::bytes),
        }
    }
}
