//! From a checkpoint of any member of the family to a model.

use candle_nn::VarBuilder;

use super::interactive::InteractiveHead;
use super::parts::Parts;
use super::{Config, Detector, Sam3};
use crate::models::LoadOptions;
use crate::models::inspect::Reading;
use crate::models::variant::{PromptKind, Variant, is_interactive, is_multiplex};
use crate::nn::{Precision, WeightFormat};
use crate::weights::{Checkpoint, random};
use crate::{Error, Result};

/// Parts of the files that no prompt needs, and why.
const LEFT_OUT: &[(&str, &str)] = &[
    (
        "detector.backbone.vision_backbone.convs.3",
        "a pyramid level that is dropped",
    ),
    (
        "detector.backbone.vision_backbone.sam2_convs.3",
        "a pyramid level that is dropped",
    ),
    (
        "detector.backbone.language_backbone.encoder.text_projection",
        "for pooled text, which is not used",
    ),
    (
        "detector.backbone.language_backbone.encoder.projection_layer",
        "for pooled text, which is not used",
    ),
    (
        "detector.geometry_encoder.points_*",
        "for points, which no entry point passes to the detector",
    ),
    (
        "detector.segmentation_head.pixel_decoder.conv_layers.2",
        "a stage with nothing to upsample",
    ),
    (
        "detector.segmentation_head.pixel_decoder.norms.2",
        "a stage with nothing to upsample",
    ),
];

const REPLACED: &str = "SAM 3's own trunk, which the student replaced";

/// SAM 3's own trunk, left behind in some files next to the student that replaced it.
const DEAD_TRUNK: &[&str] = &[
    "detector.backbone.vision_backbone.trunk.blocks",
    "detector.backbone.vision_backbone.trunk.patch_embed",
    "detector.backbone.vision_backbone.trunk.pos_embed",
    "detector.backbone.vision_backbone.trunk.ln_pre",
];

impl Sam3 {
    /// Loads a SAM 3, SAM 3.1, EfficientSAM3 or SAM3-LiteText checkpoint; sizes come from its tensors.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] listing the tensors that are missing, misshaped or left over;
    /// [`Error::Unsupported`] for another family, for a precision or weights of 8 bits that the
    /// device or the dtype does not have, and if clicks are asked for of a file without their part.
    pub fn load(checkpoint: &Checkpoint, options: &LoadOptions) -> Result<Self> {
        let checkpoint = &options.prepare(checkpoint)?;
        let Kind {
            config,
            name,
            dead_trunk,
            geometry_encoder,
        } = Kind::of(checkpoint, options.context_length)?;
        if !geometry_encoder {
            return Err(Error::checkpoint(checkpoint.path(), NO_GEOMETRY_ENCODER));
        }
        if (options.interactive || options.tracking) && !is_interactive(checkpoint)? {
            return Err(no_interactive_head(&name));
        }
        let parts = Parts::of(config.multiplex);
        if options.tracking && !has_tracker(checkpoint, parts) {
            return Err(lacks("tracking with", &name, "tracker"));
        }
        let weights = options.format_of(checkpoint);
        let layers = weights.precision_of_layers(options.precision);
        let build = |vb: VarBuilder| {
            let build = || build(&config, options, layers, vb);
            options.precision.scope(build)
        };
        let never = left_out_of(dead_trunk).map(|(part, _)| part);
        let video = match options.tracking {
            true => parts.unread.to_vec(),
            false => parts.only_video(options.interactive),
        };
        let left_out: Vec<_> = never.chain(video).collect();
        let parts = checkpoint.build(options.dtype, &options.device, &left_out, build)?;
        let weights = (weights, checkpoint.fingerprint());
        Ok(Self::new(config, name, parts, options, weights))
    }

    /// A model of the sizes of `variant` on random weights, the same ones each time: for measuring
    /// speed and memory without a file. What it finds means nothing.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a variant that is no SAM 3, or has no click head when
    /// [`LoadOptions::interactive`] asks for it.
    pub fn with_random_weights(variant: &Variant, options: &LoadOptions) -> Result<Self> {
        let int8 = options.int8_choice()?;
        let Kind { config, name, .. } = Kind::of_variant(variant, options.context_length)?;
        if (options.interactive || options.tracking) && !variant.interactive {
            return Err(no_interactive_head(&name));
        }
        let vb = random(options.dtype, &options.device, int8);
        let layers = options.weights.precision_of_layers(options.precision);
        let build = || build(&config, options, layers, vb);
        let parts = options.precision.scope(build)?;
        let weights = (options.weights, "random".to_string());
        Ok(Self::new(config, name, parts, options, weights))
    }

    fn new(
        config: Config,
        name: String,
        (detector, interactive): (Detector, Option<InteractiveHead>),
        options: &LoadOptions,
        (weights, fingerprint): (WeightFormat, String),
    ) -> Self {
        Self {
            detector,
            interactive,
            config,
            name,
            device: options.device.clone(),
            dtype: options.dtype,
            weights,
            fingerprint,
        }
    }
}

fn no_interactive_head(name: &str) -> Error {
    lacks("a point or box prompt on", name, "interactive head")
}

fn lacks(asked: &str, name: &str, part: &str) -> Error {
    Error::Unsupported {
        what: format!("{asked} {name} from this file, which has no {part}"),
        instead: "use sam3.pt, sam3.1_multiplex.pt, or a LiteText or Stage-1 EfficientSAM3 file"
            .into(),
    }
}

/// The modules of a model; `vb` is at the root of the file.
fn build(
    config: &Config,
    options: &LoadOptions,
    layers: Precision,
    vb: VarBuilder,
) -> candle::Result<(Detector, Option<InteractiveHead>)> {
    let has_head = options.interactive || options.tracking;
    let head = has_head.then(|| InteractiveHead::new(config, options.tracking, vb.clone()));
    let detector = Detector::new(config, layers, vb.pp("detector"))?;
    Ok((detector, head.transpose()?))
}

/// (part, why) of what no prompt needs in a checkpoint.
pub(in crate::models) fn left_out(
    checkpoint: &Checkpoint,
) -> Result<Vec<(&'static str, &'static str)>> {
    let kind = Kind::of(checkpoint, None)?;
    Ok(left_out_of(kind.dead_trunk).collect())
}

fn left_out_of(dead_trunk: bool) -> impl Iterator<Item = (&'static str, &'static str)> {
    let dead_trunk = if dead_trunk { DEAD_TRUNK } else { &[] };
    let dead_trunk = dead_trunk.iter().map(|part| (*part, REPLACED));
    LEFT_OUT.iter().copied().chain(dead_trunk)
}

fn has_tracker(checkpoint: &Checkpoint, parts: &Parts) -> bool {
    let mut parts = parts.tracking.iter();
    parts.all(|part| checkpoint.contains_part(part))
}

/// What loading for every kind of prompt that the file has parts for would read.
pub(in crate::models) fn survey(checkpoint: &Checkpoint) -> Result<Reading> {
    let kind = Kind::of(checkpoint, None)?;
    let parts = Parts::of(kind.config.multiplex);
    let mut of_clicks = parts.interactive().into_iter();
    let clicks = of_clicks.any(|part| checkpoint.contains_part(part));
    let options = LoadOptions {
        interactive: clicks,
        ..LoadOptions::default()
    };
    Ok(Reading {
        prompts: PromptKind::answered(true, clicks),
        survey: checkpoint
            .survey(|vb: VarBuilder| build(&kind.config, &options, options.precision, vb))?,
        left_out: left_out_of(kind.dead_trunk).collect(),
        video: clicks && has_tracker(checkpoint, parts),
        only_video: parts.only_video(clicks),
        hint: (!kind.geometry_encoder).then_some(NO_GEOMETRY_ENCODER),
        name: kind.name,
    })
}

/// What is to be built from a checkpoint.
struct Kind {
    config: Config,
    name: String,
    dead_trunk: bool,
    geometry_encoder: bool,
}

impl Kind {
    fn of(checkpoint: &Checkpoint, context_length: Option<usize>) -> Result<Self> {
        if let Some(json) = checkpoint.metadata().get("config") {
            let config = Config::from_json(json).map_err(|e| {
                Error::checkpoint(
                    checkpoint.path(),
                    format!("the config in its metadata: {e}"),
                )
            })?;
            let name = checkpoint.metadata().get("name").cloned();
            let name = name.unwrap_or_else(|| "SAM 3 of its own sizes".into());
            return Ok(Self {
                config: config.with_multiplex(is_multiplex(checkpoint)?),
                name,
                dead_trunk: false,
                geometry_encoder: true,
            });
        }
        Self::of_variant(&Variant::of(checkpoint)?, context_length)
    }

    fn of_variant(variant: &Variant, context_length: Option<usize>) -> Result<Self> {
        Ok(Self {
            config: variant.sam3(context_length)?,
            name: variant.name(),
            dead_trunk: variant.dead_trunk,
            geometry_encoder: variant.geometry_encoder,
        })
    }
}

const NO_GEOMETRY_ENCODER: &str = "\
    the 76 tensors of `detector.geometry_encoder` are missing, as in every Stage-3 file. Even text \
    prompts need them: its CLS token is part of every prompt. Training left them as they are in \
    SAM 3, so take them from sam3.pt or any Stage-1 or LiteText file: `--geometry FILE` on the \
    command line, `Checkpoint::with_part` in code";
