//! From a checkpoint of SAM 2.1 to a model.

use candle_nn::VarBuilder;

use super::{Config, Modules, Sam2};
use crate::backbones::hiera::Hiera;
use crate::models::LoadOptions;
use crate::models::head::SamHead;
use crate::models::inspect::Reading;
use crate::models::sam2::neck::Neck;
use crate::models::tracker::TrackerNetwork;
use crate::models::variant::Variant;
use crate::nn::{Precision, WeightFormat};
use crate::weights::{Checkpoint, random};
use crate::{Error, Result};

/// What only video needs.
const ONLY_VIDEO: &[&str] = &[
    "memory_attention",
    "memory_encoder",
    "maskmem_tpos_enc",
    "mask_downsample",
    "no_obj_embed_spatial",
    "no_obj_ptr",
    "obj_ptr_proj",
    "obj_ptr_tpos_proj",
];

/// Parts of the files that nothing reads, and why.
pub(in crate::models) const LEFT_OUT: &[(&str, &str)] = &[(
    "no_mem_pos_enc",
    "for frames without memory, which get an embedding instead",
)];

/// (beginning of a name of SAM 3's tracker, what SAM 2.1 calls it)
const NAMES: &[(&str, &str)] = &[
    ("transformer.encoder.", "memory_attention."),
    ("maskmem_backbone.", "memory_encoder."),
];

impl Sam2 {
    /// Loads a SAM 2.1 checkpoint; sizes come from its tensors.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] listing the tensors that are missing, misshaped or left over;
    /// [`Error::Unsupported`] for another family or size, for a precision or weights of 8 bits that
    /// the device or the dtype does not have, and if tracking is asked for of a file without the tracker.
    pub fn load(checkpoint: &Checkpoint, options: &LoadOptions) -> Result<Self> {
        let checkpoint = &options.prepare(checkpoint)?;
        let variant = Variant::of(checkpoint)?;
        let config = variant.sam2()?;
        if options.tracking && !has_tracker(checkpoint) {
            return Err(Error::Unsupported {
                what: format!(
                    "tracking with {} from this file, which has no tracker",
                    variant.name()
                ),
                instead: "use a file of the whole model, as facebook/sam2.1-hiera-tiny".into(),
            });
        }
        let weights = options.format_of(checkpoint);
        let encoder = weights.precision_of_layers(options.precision);
        let build = |vb: VarBuilder| {
            let build = || build(&config, options.tracking, encoder, vb);
            options.precision.scope(build)
        };
        let never = LEFT_OUT.iter().map(|(part, _)| *part);
        let video = if options.tracking { &[] } else { ONLY_VIDEO };
        let left_out: Vec<_> = never.chain(video.iter().copied()).collect();
        let modules = checkpoint.build(options.dtype, &options.device, &left_out, build)?;
        Ok(Self::new(variant.name(), modules, options, weights))
    }

    /// A model of the sizes of `variant` on random weights, the same ones each time: for measuring
    /// speed and memory without a file. What it finds means nothing.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for another family.
    pub fn with_random_weights(variant: &Variant, options: &LoadOptions) -> Result<Self> {
        let int8 = options.int8_choice()?;
        let config = variant.sam2()?;
        let vb = random(options.dtype, &options.device, int8);
        let encoder = options.weights.precision_of_layers(options.precision);
        let build = || build(&config, options.tracking, encoder, vb);
        let modules = options.precision.scope(build)?;
        Ok(Self::new(variant.name(), modules, options, options.weights))
    }

    fn new(name: String, modules: Modules, options: &LoadOptions, weights: WeightFormat) -> Self {
        Self {
            modules,
            name,
            device: options.device.clone(),
            dtype: options.dtype,
            weights,
        }
    }
}

/// The modules of a model; `vb` is at the root of the file.
pub(super) fn build(
    config: &Config,
    tracking: bool,
    encoder: Precision,
    vb: VarBuilder,
) -> candle::Result<Modules> {
    let (dim, image) = (config.head.dim, vb.pp("image_encoder"));
    // The tracker and the head have the names of SAM 3, which renamed a few of their tensors.
    let vb = vb.rename_f(official_name);
    let head = SamHead::new(
        &config.head,
        vb.pp("sam_prompt_encoder"),
        vb.pp("sam_mask_decoder"),
    )?;
    let tracker = || TrackerNetwork::new(&config.tracker, &head, vb.clone());
    Ok(Modules {
        trunk: encoder.scope(|| Hiera::new(&config.trunk, image.pp("trunk")))?,
        neck: encoder.scope(|| Neck::new(config.trunk.dims(), dim, image.pp("neck")))?,
        no_mem_embed: vb.get((1, 1, dim), "no_mem_embed")?,
        tracker: tracking.then(tracker).transpose()?,
        head,
    })
}

/// What SAM 2.1 calls a tensor of SAM 3's head or tracker.
fn official_name(name: &str) -> String {
    if name.starts_with("sam_mask_decoder.transformer.layers.") {
        return name
            .replace(".mlp.lin1.", ".mlp.layers.0.")
            .replace(".mlp.lin2.", ".mlp.layers.1.");
    }
    let renamed = NAMES.iter().find_map(|(sam3, sam2)| {
        let rest = name.strip_prefix(sam3)?;
        Some(format!("{sam2}{rest}"))
    });
    renamed.unwrap_or_else(|| name.to_string())
}

/// Whether a file has what only video needs, or any of it.
fn has_tracker(checkpoint: &Checkpoint) -> bool {
    let mut parts = ONLY_VIDEO.iter();
    parts.any(|part| checkpoint.contains_part(part))
}

/// What loading would read.
pub(in crate::models) fn survey(checkpoint: &Checkpoint) -> Result<Reading> {
    let variant = Variant::of(checkpoint)?;
    let config = variant.sam2()?;
    Ok(Reading {
        name: variant.name(),
        prompts: variant.prompts(),
        survey: checkpoint
            .survey(|vb: VarBuilder| build(&config, false, Precision::default(), vb))?,
        left_out: LEFT_OUT.to_vec(),
        video: has_tracker(checkpoint),
        only_video: ONLY_VIDEO.to_vec(),
        hint: None,
    })
}

#[cfg(test)]
mod tests {
    use candle::DType;

    use super::*;
    use crate::models::variant;
    use crate::weights::key_lists::key_list;

    const SIZES: [(&str, &str); 4] = [
        ("tiny", "SAM 2.1 Hiera-T"),
        ("small", "SAM 2.1 Hiera-S"),
        ("base_plus", "SAM 2.1 Hiera-B+"),
        ("large", "SAM 2.1 Hiera-L"),
    ];

    fn options(tracking: bool) -> LoadOptions {
        LoadOptions {
            tracking,
            dtype: DType::F16, // half of the memory; what is read is the same
            ..LoadOptions::default()
        }
    }

    #[test]
    fn every_release_is_read_completely_with_both_kinds_of_names() {
        for (size, name) in SIZES {
            for list in [
                format!("sam2.1_hiera_{size}"),
                format!("sam2.1_hiera_{size}_hf"),
            ] {
                let checkpoint = Checkpoint::from_shapes(key_list(&list)).unwrap();
                for tracking in [false, true] {
                    let model = Sam2::load(&checkpoint, &options(tracking));
                    let model = model.unwrap_or_else(|error| panic!("{list}: {error}"));
                    assert_eq!(model.name(), name);
                    assert_eq!(model.modules.tracker.is_some(), tracking);
                }
            }
        }
    }

    #[test]
    fn both_kinds_of_names_are_the_same_tensors() {
        for (size, _) in SIZES {
            let names = |list: String| {
                let checkpoint = Checkpoint::from_shapes(key_list(&list)).unwrap();
                let names = checkpoint.names().into_iter().map(String::from);
                names.collect::<Vec<_>>()
            };
            let official = names(format!("sam2.1_hiera_{size}"));
            assert_eq!(names(format!("sam2.1_hiera_{size}_hf")), official);
        }
    }

    #[test]
    fn a_file_of_the_image_model_answers_prompts_and_says_that_it_cannot_track() {
        let mut shapes = key_list("sam2.1_hiera_tiny_hf");
        let of_video = [
            "memory_",
            "mask_downsample",
            "object_pointer",
            "temporal_",
            "occlusion_",
            "no_object_pointer",
            "no_memory_positional",
        ];
        shapes.retain(|(name, ..)| !of_video.iter().any(|part| name.starts_with(part)));
        assert_eq!(shapes.len(), 309);
        let checkpoint = Checkpoint::from_shapes(shapes).unwrap();
        Sam2::load(&checkpoint, &options(false)).unwrap();
        let error = Sam2::load(&checkpoint, &options(true)).unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }), "{error}");
        assert!(error.to_string().contains("no tracker"), "{error}");
    }

    #[test]
    fn a_tensor_too_many_or_too_few_is_named() {
        let list = key_list("sam2.1_hiera_small");
        let load = |tensors| {
            let checkpoint = Checkpoint::from_shapes(tensors).unwrap();
            Sam2::load(&checkpoint, &options(true))
                .unwrap_err()
                .to_string()
        };
        for name in [
            "memory_attention.layers.3.norm2.bias",
            "sam_mask_decoder.transformer.layers.1.mlp.layers.1.weight",
            "image_encoder.trunk.blocks.3.proj.bias",
        ] {
            let mut fewer = list.clone();
            fewer.retain(|(other, ..)| other != name);
            let error = load(fewer);
            assert!(error.contains(name), "{error}");
        }
        let surplus = ("memory_encoder.surprise".to_string(), vec![3], DType::F32);
        let error = load([&list[..], &[surplus]].concat());
        assert!(error.contains("memory_encoder.surprise"), "{error}");
    }

    #[test]
    fn a_first_sam2_is_refused_with_what_would_work() {
        let mut shapes = key_list("sam2.1_hiera_large");
        let new = ["no_obj_embed_spatial", "obj_ptr_tpos_proj"];
        shapes.retain(|(name, ..)| !new.iter().any(|part| name.starts_with(part)));
        let checkpoint = Checkpoint::from_shapes(shapes).unwrap();
        let error = Sam2::load(&checkpoint, &options(false)).unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }), "{error}");
        assert!(error.to_string().contains("sam2.1"), "{error}");
    }

    #[test]
    fn sam2_runs_on_random_weights_and_other_families_are_refused() {
        let random = |name| {
            let variant = &variant::find(name).unwrap().variant;
            Sam2::with_random_weights(variant, &LoadOptions::default())
        };
        assert_eq!(
            random("sam2.1-hiera-tiny").unwrap().name(),
            "SAM 2.1 Hiera-T"
        );
        assert!(random("mobile-sam").is_err());
        let checkpoint = Checkpoint::from_shapes(key_list("mobile_sam")).unwrap();
        let error = Sam2::load(&checkpoint, &options(false)).unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }), "{error}");
    }
}
