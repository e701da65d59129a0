//! From a checkpoint of SAM 1 or MobileSAM to a model.

use candle_nn::VarBuilder;

use super::Sam;
use super::image_encoder::{BackboneConfig, ImageEncoder};
use crate::backbones::{tiny_vit, vit::sam1};
use crate::models::LoadOptions;
use crate::models::head::{Config, SamHead};
use crate::models::inspect::Reading;
use crate::weights::{Checkpoint, Detected, Family, ImageEncoderKind, TinyVitSize, detect, random};
use crate::{Error, Result};

/// What segmentation never runs, and why.
const LEFT_OUT: [(&str, &str); 2] = [
    ("image_encoder.norm_head", "of a classifier"),
    ("image_encoder.head", "of a classifier"),
];

impl Sam {
    /// Loads a SAM 1 or MobileSAM checkpoint; sizes come from its tensors.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] listing the tensors that are missing, misshaped or left over;
    /// [`Error::Unsupported`] for another family or size, and for a precision that the device or the
    /// dtype does not have.
    pub fn load(checkpoint: &Checkpoint, options: &LoadOptions) -> Result<Self> {
        options.precision.check(&options.device, options.dtype)?;
        let (backbone, name) = backbone(&detect(checkpoint)?)?;
        let build = |vb: VarBuilder| options.precision.scope(|| build(&backbone, vb));
        let parts = checkpoint.build(options.dtype, &options.device, build)?;
        checkpoint.finish(&LEFT_OUT.map(|(part, _)| part))?;
        Ok(Self::new(name, parts, options))
    }

    /// A model of the sizes of `variant` on random weights, the same ones each time: for measuring
    /// speed and memory without a file. What it finds means nothing.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for another family or size.
    pub fn with_random_weights(variant: &Detected, options: &LoadOptions) -> Result<Self> {
        options.precision.check(&options.device, options.dtype)?;
        let (backbone, name) = backbone(variant)?;
        let vb = random(options.dtype, &options.device);
        let parts = options.precision.scope(|| build(&backbone, vb))?;
        Ok(Self::new(name, parts, options))
    }

    fn new(
        name: &str,
        (image_encoder, head): (ImageEncoder, SamHead),
        options: &LoadOptions,
    ) -> Self {
        Self {
            image_encoder,
            head,
            name: name.into(),
            device: options.device.clone(),
            dtype: options.dtype,
        }
    }
}

/// The modules of a model; `vb` is at the root of the file.
fn build(backbone: &BackboneConfig, vb: VarBuilder) -> candle::Result<(ImageEncoder, SamHead)> {
    let cfg = Config::sam1();
    let image_encoder = ImageEncoder::new(backbone, cfg.dim, vb.pp("image_encoder"))?;
    let head = SamHead::new(&cfg, vb.pp("prompt_encoder"), vb.pp("mask_decoder"))?;
    Ok((image_encoder, head))
}

/// (part, why) of what no prompt needs in a checkpoint.
pub(in crate::models) fn left_out(
    checkpoint: &Checkpoint,
) -> Result<Vec<(&'static str, &'static str)>> {
    backbone(&detect(checkpoint)?)?;
    Ok(LEFT_OUT.to_vec())
}

/// What loading would read.
pub(in crate::models) fn survey(checkpoint: &Checkpoint) -> Result<Reading> {
    let (backbone, name) = backbone(&detect(checkpoint)?)?;
    Ok(Reading {
        name: name.into(),
        prompts: vec!["clicks", "everything"],
        survey: checkpoint.survey(|vb: VarBuilder| build(&backbone, vb))?,
        left_out: LEFT_OUT.to_vec(),
        only_video: &[],
        hint: None,
    })
}

fn backbone(detected: &Detected) -> Result<(BackboneConfig, &'static str)> {
    let unsupported = |what: String| Error::Unsupported {
        what,
        instead: "use sam_vit_b, sam_vit_l, sam_vit_h or mobile_sam".into(),
    };
    if detected.family == Family::Sam3 {
        return Err(Error::Unsupported {
            what: "loading a SAM 3 checkpoint as SAM 1".into(),
            instead: "load it as SAM 3, with its click head".into(),
        });
    }
    Ok(match detected.image_encoder {
        ImageEncoderKind::Vit { dim, depth } => {
            let (cfg, name) = match (dim, depth) {
                (768, 12) => (sam1::Config::base(), "SAM ViT-B"),
                (1024, 24) => (sam1::Config::large(), "SAM ViT-L"),
                (1280, 32) => (sam1::Config::huge(), "SAM ViT-H"),
                _ => {
                    return Err(unsupported(format!(
                        "a SAM with {depth} blocks of {dim} channels"
                    )));
                }
            };
            (BackboneConfig::Vit(cfg), name)
        }
        ImageEncoderKind::TinyVit(TinyVitSize::M5) => {
            let cfg = tiny_vit::Config::mobile_sam();
            (BackboneConfig::TinyVit(cfg), "MobileSAM")
        }
        other => return Err(unsupported(format!("a SAM on {other:?}"))),
    })
}

#[cfg(test)]
mod tests {
    use candle::DType;

    use super::*;
    use crate::weights::key_lists::key_list;
    use crate::weights::manifest;

    #[test]
    fn every_release_is_read_completely() {
        // f16 halves what ViT-H takes; what is read is the same
        let options = LoadOptions {
            dtype: DType::F16,
            ..LoadOptions::default()
        };
        for (list, name) in [
            ("sam_vit_b", "SAM ViT-B"),
            ("sam_vit_b_hf", "SAM ViT-B"),
            ("sam_vit_l", "SAM ViT-L"),
            ("sam_vit_l_hf", "SAM ViT-L"),
            ("sam_vit_h", "SAM ViT-H"),
            ("sam_vit_h_hf", "SAM ViT-H"),
            ("mobile_sam", "MobileSAM"),
        ] {
            let checkpoint = Checkpoint::from_shapes(key_list(list)).unwrap();
            let model = Sam::load(&checkpoint, &options);
            let model = model.unwrap_or_else(|error| panic!("{list}: {error}"));
            assert_eq!(model.name(), name);
        }
    }

    #[test]
    fn a_tensor_too_many_or_too_few_in_a_hugging_face_file_is_named() {
        let shape = |name: &str| (name.to_string(), vec![3], DType::F32);
        let list = key_list("sam_vit_b_hf");
        let load = |tensors| {
            let checkpoint = Checkpoint::from_shapes(tensors).unwrap();
            let error = Sam::load(&checkpoint, &LoadOptions::default()).unwrap_err();
            error.to_string()
        };
        let surplus = load([&list[..], &[shape("mask_decoder.surprise")]].concat());
        assert!(surplus.contains("mask_decoder.surprise"), "{surplus}");
        let mut fewer = list.clone();
        fewer.retain(|(name, ..)| name != "vision_encoder.layers.7.mlp.lin1.bias");
        let fewer = load(fewer);
        assert!(fewer.contains("blocks.7.mlp.lin1.bias"), "{fewer}");
        // one of two equal tensors, which only some files have
        let mut untied = list;
        untied.retain(|(name, ..)| !name.starts_with("prompt_encoder.shared_embedding"));
        let checkpoint = Checkpoint::from_shapes(untied).unwrap();
        Sam::load(&checkpoint, &LoadOptions::default()).unwrap();
    }

    #[test]
    fn mobile_sam_runs_on_random_weights() {
        let contents = |name| &manifest::find(name).unwrap().contents;
        let model =
            Sam::with_random_weights(contents("mobile-sam"), &LoadOptions::default()).unwrap();
        assert_eq!(model.name(), "MobileSAM");
        assert!(Sam::with_random_weights(contents("sam3"), &LoadOptions::default()).is_err());
    }

    #[test]
    fn a_missing_tensor_and_another_family_are_named() {
        let mut tensors = key_list("mobile_sam");
        tensors.retain(|(name, ..)| name != "mask_decoder.iou_token.weight");
        let checkpoint = Checkpoint::from_shapes(tensors).unwrap();
        let error = Sam::load(&checkpoint, &LoadOptions::default()).unwrap_err();
        assert!(
            error.to_string().contains("mask_decoder.iou_token.weight"),
            "{error}"
        );
        let checkpoint = Checkpoint::from_shapes(key_list("sam3")).unwrap();
        let error = Sam::load(&checkpoint, &LoadOptions::default()).unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }), "{error}");
    }
}
