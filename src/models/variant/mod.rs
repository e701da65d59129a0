//! The models that there are: one table of encoders, read by everything that knows them by name.
//!
//! A row gives an encoder's name, the tensor by which a file is recognized and the sizes to build
//! it with. [`Variant::of`] picks the rows of a file, [`releases()`] those of the published ones.

mod detect;
mod releases;
#[cfg(test)]
mod tests;

pub use detect::is_interactive;
pub(super) use detect::is_multiplex;
pub use releases::{Release, find, releases};

use serde::{Deserialize, Serialize};

use super::{sam, sam2, sam3};
use crate::backbones::student::{self, BackboneConfig};
use crate::backbones::{self, efficientvit, hiera, repvit, tiny_vit, vit};
use crate::text::{self, clip, mobileclip};
use crate::{Error, Result};

use Sizes::{Sam, Sam2, Sam3, Student};
use TextSizes::{Clip, MobileClip};

/// A combination of encoders, and which other parts of its model there are.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Variant {
    /// The image encoder.
    pub image_encoder: &'static ImageEncoder,
    /// The text encoder; `None` in SAM 1, MobileSAM and SAM 2.1.
    pub text_encoder: Option<&'static TextEncoder>,
    /// Rows of a MobileCLIP's positional table; `None` for other text encoders. Trained on as many
    /// tokens if 16 or 32; a table of 77 was interpolated to 32 tokens.
    pub text_positions: Option<usize>,
    /// Whether this is SAM 3.1: the network of SAM 3 with other weights, a neck of its own for
    /// video and a tracker of many objects at a time.
    pub multiplex: bool,
    /// Whether the parts that answer points and boxes are there.
    pub interactive: bool,
    /// Whether the geometry encoder is there. SAM 3 needs it even for text prompts: the token it
    /// learned is part of every prompt.
    pub geometry_encoder: bool,
    /// Whether the file still carries the ViT that a student replaced: 447 M elements that
    /// nothing reads.
    pub dead_trunk: bool,
}

/// The kinds of model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Family {
    /// SAM 3, SAM 3.1, EfficientSAM3 and SAM3-LiteText: one detector with different encoders.
    Sam3,
    /// SAM 2.1.
    Sam2,
    /// SAM 1 and MobileSAM.
    Sam,
}

/// The kinds of prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum PromptKind {
    /// Words.
    Text,
    /// Boxes around examples of what is meant.
    Exemplars,
    /// Points and boxes on one object.
    Clicks,
    /// No prompt: masks of all there is.
    Everything,
}

impl PromptKind {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Exemplars => "exemplars",
            Self::Clicks => "clicks",
            Self::Everything => "everything",
        }
    }

    /// What a model with these parts answers.
    pub(super) fn answered(text: bool, interactive: bool) -> Vec<Self> {
        let mut kinds = vec![];
        if text {
            kinds.extend([Self::Text, Self::Exemplars]);
        }
        if interactive {
            kinds.extend([Self::Clicks, Self::Everything]);
        }
        kinds
    }
}

/// A tensor that only one architecture has, and its shape in one of its sizes.
type Signature = (&'static str, &'static [usize]);

/// An encoder of a certain size.
#[derive(Debug)]
pub struct Encoder<S> {
    /// As in "RepViT-M0.9" or "MobileCLIP-S1".
    pub name: &'static str,
    signature: Signature,
    sizes: S,
}

/// An image encoder of a certain size.
pub type ImageEncoder = Encoder<Sizes>;

/// A text encoder of a certain size.
pub type TextEncoder = Encoder<TextSizes>;

/// How an image encoder is built.
#[derive(Debug)]
#[non_exhaustive]
pub enum Sizes {
    /// The trunk of SAM 3.
    Sam3(fn() -> vit::Config),
    /// A student of it.
    Student(fn() -> BackboneConfig),
    /// The trunk of SAM 2.1.
    Sam2(fn() -> hiera::Config),
    /// That of a SAM 1, with the name of the model.
    Sam(&'static str, fn() -> sam::BackboneConfig),
}

/// How a text encoder is built.
#[derive(Debug)]
#[non_exhaustive]
pub enum TextSizes {
    /// The encoder of SAM 3.
    Clip,
    /// A student of it, from the rows of its positional table.
    MobileClip(fn(usize) -> mobileclip::Config),
}

// There is one of each row.
impl<S> PartialEq for Encoder<S> {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}
impl<S> Eq for Encoder<S> {}

const REPVIT: &str =
    "detector.backbone.vision_backbone.trunk.model.backbone.model.features.0.0.c.weight";
const TINY_VIT: &str = "detector.backbone.vision_backbone.trunk.model.backbone.model.\
    layers.3.blocks.0.attn.attention_biases";
const EFFICIENT_VIT: &str = "detector.backbone.vision_backbone.trunk.model.backbone.model.\
    input_stem.op_list.0.conv.weight";
const VIT: &str = "detector.backbone.vision_backbone.trunk.pos_embed";
const HIERA_16: &str = "image_encoder.trunk.blocks.15.norm1.weight"; // of 16 blocks or more
const HIERA_12: &str = "image_encoder.trunk.blocks.11.norm1.weight";
const MOBILE_SAM: &str = "image_encoder.layers.3.blocks.0.attn.attention_biases";
const SAM: &str = "image_encoder.pos_embed";

/// In the order in which they are looked for: students before the trunk that they replaced, which
/// some files still carry.
#[rustfmt::skip]
static IMAGE_ENCODERS: [ImageEncoder; 18] = [
    row("RepViT-M0.9", (REPVIT, &[24, 3, 3, 3]), Student(|| BackboneConfig::RepVit(repvit::Config::m0_9()))),
    row("RepViT-M1.1", (REPVIT, &[32, 3, 3, 3]), Student(|| BackboneConfig::RepVit(repvit::Config::m1_1()))),
    row("RepViT-M2.3", (REPVIT, &[40, 3, 3, 3]), Student(|| BackboneConfig::RepVit(repvit::Config::m2_3()))),
    row("TinyViT-5M", (TINY_VIT, &[10, 49]), Student(|| BackboneConfig::TinyVit(tiny_vit::Config::m5()))),
    row("TinyViT-11M", (TINY_VIT, &[14, 49]), Student(|| BackboneConfig::TinyVit(tiny_vit::Config::m11()))),
    row("TinyViT-21M", (TINY_VIT, &[18, 49]), Student(|| BackboneConfig::TinyVit(tiny_vit::Config::m21()))),
    row("EfficientViT-B0", (EFFICIENT_VIT, &[8, 3, 3, 3]), Student(|| BackboneConfig::EfficientVit(efficientvit::Config::b0()))),
    row("EfficientViT-B1", (EFFICIENT_VIT, &[16, 3, 3, 3]), Student(|| BackboneConfig::EfficientVit(efficientvit::Config::b1()))),
    row("EfficientViT-B2", (EFFICIENT_VIT, &[24, 3, 3, 3]), Student(|| BackboneConfig::EfficientVit(efficientvit::Config::b2()))),
    row("SAM 3 ViT", (VIT, &[1, 577, 1024]), Sam3(vit::Config::sam3)),
    row("Hiera-S", (HIERA_16, &[768]), Sam2(hiera::Config::small)),
    row("Hiera-B+", (HIERA_16, &[448]), Sam2(hiera::Config::base_plus)),
    row("Hiera-L", (HIERA_16, &[576]), Sam2(hiera::Config::large)),
    row("Hiera-T", (HIERA_12, &[768]), Sam2(hiera::Config::tiny)),
    row("TinyViT-5M", (MOBILE_SAM, &[10, 49]), Sam("MobileSAM", || sam::BackboneConfig::TinyVit(tiny_vit::Config::mobile_sam()))),
    row("SAM ViT-B", (SAM, &[1, 64, 64, 768]), Sam("SAM ViT-B", || sam::BackboneConfig::Vit(vit::sam1::Config::base()))),
    row("SAM ViT-L", (SAM, &[1, 64, 64, 1024]), Sam("SAM ViT-L", || sam::BackboneConfig::Vit(vit::sam1::Config::large()))),
    row("SAM ViT-H", (SAM, &[1, 64, 64, 1280]), Sam("SAM ViT-H", || sam::BackboneConfig::Vit(vit::sam1::Config::huge()))),
];

const S0: &str = "detector.backbone.language_backbone.encoder.\
    transformer.0.token_mixer.norm.rbr_skip.weight";
const S1_OR_L: &str = "detector.backbone.language_backbone.encoder.final_layer_norm.weight";
const CLIP: &str = "detector.backbone.language_backbone.encoder.ln_final.weight";

/// In the order in which they are looked for: S0 has S1's norm as well.
#[rustfmt::skip]
static TEXT_ENCODERS: [TextEncoder; 4] = [
    row("SAM 3 text", (CLIP, &[1024]), Clip),
    row("MobileCLIP-S0", (S0, &[512]), MobileClip(mobileclip::Config::s0)),
    row("MobileCLIP-S1", (S1_OR_L, &[512]), MobileClip(mobileclip::Config::s1)),
    row("MobileCLIP2-L", (S1_OR_L, &[768]), MobileClip(mobileclip::Config::l)),
];

const fn row<S>(name: &'static str, signature: Signature, sizes: S) -> Encoder<S> {
    Encoder {
        name,
        signature,
        sizes,
    }
}

impl ImageEncoder {
    fn family(&self) -> Family {
        match self.sizes {
            Sam(..) => Family::Sam,
            Sam2(_) => Family::Sam2,
            Sam3(_) | Student(_) => Family::Sam3,
        }
    }
}

impl Variant {
    /// The kind of model.
    pub fn family(&self) -> Family {
        self.image_encoder.family()
    }

    /// What a complete file answers.
    pub fn prompts(&self) -> Vec<PromptKind> {
        PromptKind::answered(self.text_encoder.is_some(), self.interactive)
    }

    /// True if complete files have a tracker: where there is an interactive head, but for SAM 1 and
    /// MobileSAM, which have no memory.
    pub fn has_tracker(&self) -> bool {
        self.family() != Family::Sam && self.interactive
    }

    /// What the model is called, as in "EfficientSAM3 (RepViT-M0.9 + MobileCLIP-S1)".
    pub fn name(&self) -> String {
        let version = if self.multiplex { "3.1" } else { "3" };
        let ImageEncoder { name, sizes, .. } = self.image_encoder;
        match (sizes, self.text_encoder) {
            (Sam(model, _), _) => model.to_string(),
            (Sam2(_), _) => format!("SAM 2.1 {name}"),
            (Student(_), Some(text)) => {
                format!("EfficientSAM{version} ({name} + {})", text.name)
            }
            (Sam3(_), Some(text)) if self.text_positions.is_some() => {
                format!("SAM{version}-LiteText ({})", text.name)
            }
            _ => format!("SAM {version}"),
        }
    }

    /// What a SAM 1 is built of.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if this is another family.
    pub(super) fn sam(&self) -> Result<sam::BackboneConfig> {
        match self.image_encoder.sizes {
            Sam(_, config) => Ok(config()),
            _ => Err(self.not_a("SAM 1")),
        }
    }

    /// The sizes of a SAM 2.1.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if this is another family.
    pub(super) fn sam2(&self) -> Result<sam2::Config> {
        match self.image_encoder.sizes {
            Sam2(config) => Ok(sam2::Config::new(config())),
            _ => Err(self.not_a("SAM 2.1")),
        }
    }

    fn not_a(&self, asked: &str) -> Error {
        Error::Unsupported {
            what: format!("loading a checkpoint of {} as {asked}", self.name()),
            instead: "load it as what it is, with `models::load`".into(),
        }
    }

    /// The sizes of a SAM 3 with texts of `context_length` tokens, if not the usual ones.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if this is another family; [`Error::InvalidPrompt`] for a context length
    /// that the text encoder does not have.
    pub(super) fn sam3(&self, context_length: Option<usize>) -> Result<sam3::Config> {
        let image_encoder = match self.image_encoder.sizes {
            Sam3(config) => backbones::Config::Vit(config()),
            Student(config) => backbones::Config::Student(student::Config::new(config())),
            Sam(..) | Sam2(_) => {
                return Err(Error::Unsupported {
                    what: "a text or exemplar prompt on SAM 1, MobileSAM or SAM 2.1".into(),
                    instead: "use a checkpoint of SAM 3, EfficientSAM3 or SAM3-LiteText".into(),
                });
            }
        };
        let encoder = self.text_encoder.map(|encoder| &encoder.sizes);
        let text_encoder = match (encoder, self.text_positions) {
            (Some(MobileClip(config)), Some(positions)) => {
                let mut config = config(positions);
                if let Some(length) = context_length {
                    if !(3..=positions).contains(&length) {
                        return Err(Error::prompt(format!(
                            "a context length of {length}; this file's table allows 3 to {positions}"
                        )));
                    }
                    config.context_length = length;
                }
                text::Config::MobileClip(config)
            }
            _ => {
                let config = clip::Config::sam3();
                if let Some(length) = context_length.filter(|n| *n != config.context_length) {
                    return Err(Error::prompt(format!(
                        "a context length of {length}: the text encoder of SAM 3 takes {} tokens",
                        config.context_length
                    )));
                }
                text::Config::Clip(config)
            }
        };
        let config = sam3::Config::new(image_encoder, text_encoder);
        Ok(config.with_multiplex(self.multiplex))
    }
}
