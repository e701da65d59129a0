//! From a checkpoint of any member of the family to a model.

use candle::{DType, Device};

use super::{Config, Detector, Sam3};
use crate::weights::Checkpoint;
use crate::weights::detect::{self, Detected, Family, ImageEncoderKind, TextEncoderKind};
use crate::{Error, Result, backbones, text};

/// How to load a model. The default is the CPU in f32.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// Where the model runs.
    pub device: Device,
    /// What it computes in: f32, f16 or bf16.
    pub dtype: DType,
    /// Tokens per text, where the default for the file is not wanted. A student's positional
    /// table of 77 rows is resampled to 32 tokens by default, as it was trained; 77 uses it as is.
    pub context_length: Option<usize>,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            device: Device::Cpu,
            dtype: DType::F32,
            context_length: None,
        }
    }
}

/// Parts of the files that text and exemplar prompts do not need.
const LEFT_OUT: &[&str] = &[
    "tracker.",                                                    // clicks and video
    "detector.backbone.vision_backbone.sam2_convs.",               // their neck
    "detector.backbone.vision_backbone.convs.3.", // a pyramid level that is dropped
    "detector.backbone.language_backbone.encoder.text_projection", // pooled text, unused
    "detector.backbone.language_backbone.encoder.projection_layer",
    "detector.geometry_encoder.points_", // no public entry point passes points
    "detector.segmentation_head.pixel_decoder.conv_layers.2.", // a stage with nothing to upsample
    "detector.segmentation_head.pixel_decoder.norms.2.",
];

/// SAM 3's own trunk, left behind in some files next to the student that replaced it.
const DEAD_TRUNK: &[&str] = &[
    "detector.backbone.vision_backbone.trunk.blocks.",
    "detector.backbone.vision_backbone.trunk.patch_embed.",
    "detector.backbone.vision_backbone.trunk.pos_embed",
    "detector.backbone.vision_backbone.trunk.ln_pre.",
];

impl Sam3 {
    /// Loads a SAM 3, EfficientSAM3 or SAM3-LiteText checkpoint; sizes come from its tensors.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] listing the tensors that are missing, misshaped or left over;
    /// [`Error::Unsupported`] for another family.
    pub fn load(checkpoint: &Checkpoint, options: &LoadOptions) -> Result<Self> {
        let detected = detect::detect(checkpoint)?;
        if detected.family != Family::Sam3 {
            return Err(Error::Unsupported {
                what: format!("a text prompt on {}", detected.family),
                instead: "use a checkpoint of SAM 3, EfficientSAM3 or SAM3-LiteText".into(),
            });
        }
        require_geometry_encoder(checkpoint, &detected)?;
        let config = match checkpoint.metadata().get("config") {
            Some(json) => Config::from_json(json).map_err(|e| {
                Error::checkpoint(checkpoint.path(), format!("config in its metadata: {e}"))
            })?,
            None => released(&detected, options.context_length),
        };
        let vb = checkpoint
            .var_builder(options.dtype, &options.device)
            .pp("detector");
        let detector = Detector::new(&config, vb)
            .map_err(|e| Error::checkpoint(checkpoint.path(), e.to_string()))?;
        let mut left_out = LEFT_OUT.to_vec();
        if detected.dead_trunk {
            left_out.extend(DEAD_TRUNK);
        }
        checkpoint.finish(&left_out)?;
        Ok(Self {
            detector,
            config,
            name: detected.to_string(),
            device: options.device.clone(),
            dtype: options.dtype,
        })
    }
}

fn require_geometry_encoder(checkpoint: &Checkpoint, detected: &Detected) -> Result<()> {
    if detected.geometry_encoder {
        return Ok(());
    }
    Err(Error::checkpoint(
        checkpoint.path(),
        "the 76 tensors of detector.geometry_encoder are missing, as in every Stage-3 file. Even \
         text prompts need them: its CLS token is part of every prompt. They were frozen in \
         training, so take them from sam3.pt or any Stage-1 or LiteText file: `--geometry FILE`, \
         or `Checkpoint::with_part` in code",
    ))
}

/// The sizes of a released model.
fn released(detected: &Detected, context_length: Option<usize>) -> Config {
    let image_encoder = match detected.image_encoder {
        ImageEncoderKind::Vit => backbones::Config::Vit(backbones::vit::Config::sam3()),
    };
    let mut text_encoder = match detected.text_encoder {
        TextEncoderKind::Clip => text::Config::Clip(text::clip::Config::sam3()),
        TextEncoderKind::MobileClipS0 { positions } => {
            text::Config::MobileClip(text::mobileclip::Config::s0(positions))
        }
        TextEncoderKind::MobileClipS1 { positions } => {
            text::Config::MobileClip(text::mobileclip::Config::s1(positions))
        }
        TextEncoderKind::MobileClipL { positions } => {
            text::Config::MobileClip(text::mobileclip::Config::l(positions))
        }
    };
    if let (text::Config::MobileClip(cfg), Some(length)) = (&mut text_encoder, context_length) {
        cfg.context_length = length;
    }
    Config::new(image_encoder, text_encoder)
}
