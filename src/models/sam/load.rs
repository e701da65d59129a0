//! From a checkpoint of SAM 1 or MobileSAM to a model.

use candle_nn::VarBuilder;

use super::Sam;
use super::image_encoder::{BackboneConfig, ImageEncoder};
use crate::Result;
use crate::models::LoadOptions;
use crate::models::head::{Config, SamHead};
use crate::models::inspect::Reading;
use crate::models::variant::Variant;
use crate::nn::{Precision, WeightFormat};
use crate::weights::{Checkpoint, random};

/// Parts of the files that segmentation never runs, and why.
pub(in crate::models) const LEFT_OUT: [(&str, &str); 2] = [
    ("image_encoder.norm_head", "of a classifier"),
    ("image_encoder.head", "of a classifier"),
];

impl Sam {
    /// Loads a SAM 1 or MobileSAM checkpoint; sizes come from its tensors.
    ///
    /// # Errors
    /// [`crate::Error::Checkpoint`] listing the tensors that are missing, misshaped or left over;
    /// [`crate::Error::Unsupported`] for another family or size, and for a precision or weights of 8 bits
    /// that the device or the dtype does not have.
    pub fn load(checkpoint: &Checkpoint, options: &LoadOptions) -> Result<Self> {
        let checkpoint = &options.prepare(checkpoint)?;
        let variant = Variant::of(checkpoint)?;
        let backbone = variant.sam()?;
        let weights = options.format_of(checkpoint);
        let encoder = weights.precision_of_layers(options.precision);
        let build = |vb: VarBuilder| options.precision.scope(|| build(&backbone, encoder, vb));
        let left_out = LEFT_OUT.map(|(part, _)| part);
        let parts = checkpoint.build(options.dtype, &options.device, &left_out, build)?;
        Ok(Self::new(variant.name(), parts, options, weights))
    }

    /// A model of the sizes of `variant` on random weights, the same ones each time: for measuring
    /// speed and memory without a file. What it finds means nothing.
    ///
    /// # Errors
    /// [`crate::Error::Unsupported`] for another family or size.
    pub fn with_random_weights(variant: &Variant, options: &LoadOptions) -> Result<Self> {
        let int8 = options.int8_choice()?;
        let backbone = variant.sam()?;
        let vb = random(options.dtype, &options.device, int8);
        let encoder = options.weights.precision_of_layers(options.precision);
        let parts = options.precision.scope(|| build(&backbone, encoder, vb))?;
        Ok(Self::new(variant.name(), parts, options, options.weights))
    }

    fn new(
        name: String,
        (image_encoder, head): (ImageEncoder, SamHead),
        options: &LoadOptions,
        weights: WeightFormat,
    ) -> Self {
        Self {
            image_encoder,
            head,
            name,
            device: options.device.clone(),
            dtype: options.dtype,
            weights,
        }
    }
}

/// The modules of a model; `vb` is at the root of the file.
fn build(
    backbone: &BackboneConfig,
    encoder: Precision,
    vb: VarBuilder,
) -> candle::Result<(ImageEncoder, SamHead)> {
    let cfg = Config::sam1();
    let image_encoder =
        encoder.scope(|| ImageEncoder::new(backbone, cfg.dim, vb.pp("image_encoder")))?;
    let head = SamHead::new(&cfg, vb.pp("prompt_encoder"), vb.pp("mask_decoder"))?;
    Ok((image_encoder, head))
}

/// Tensors that loading would read.
pub(in crate::models) fn survey(checkpoint: &Checkpoint) -> Result<Reading> {
    let variant = Variant::of(checkpoint)?;
    let backbone = variant.sam()?;
    Ok(Reading {
        name: variant.name(),
        prompts: variant.prompts(),
        survey: checkpoint.survey(|vb: VarBuilder| build(&backbone, Precision::default(), vb))?,
        left_out: LEFT_OUT.to_vec(),
        video: false,
        only_video: vec![],
        hint: None,
    })
}

#[cfg(test)]
mod tests {
    use candle::DType;

    use super::*;
    use crate::Error;
    use crate::models::variant;
    use crate::weights::key_lists::key_list;

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
        let random = |name| {
            let variant = &variant::find(name).unwrap().variant;
            Sam::with_random_weights(variant, &LoadOptions::default())
        };
        assert_eq!(random("mobile-sam").unwrap().name(), "MobileSAM");
        assert!(random("sam3").is_err());
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
