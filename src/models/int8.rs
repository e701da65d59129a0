//! Which weights become 8 bits.

use crate::weights::matches;

const TRUNK: &str = "detector.backbone.vision_backbone.trunk";
const STUDENT: &str = "detector.backbone.vision_backbone.trunk.model.backbone.model";
const TEXT: &str = "detector.backbone.language_backbone.encoder.transformer";
const FUSION: &str = "detector.transformer.encoder.layers.*";
const SAM: &str = "image_encoder";
const SAM2: &str = "image_encoder.trunk";

/// Where such a part begins, and its weights.
type Part = (&'static str, &'static [&'static str]);

/// All of them.
const PARTS: &[Part] = &[
    (TRUNK, VIT),
    (SAM, VIT),
    (SAM2, VIT),
    (STUDENT, TINY_VIT),
    (SAM, TINY_VIT),
    (STUDENT, REP_VIT),
    (STUDENT, EFFICIENT_VIT),
    (
        TEXT,
        &[
            "resblocks.*.attn.in_proj_weight",
            "resblocks.*.attn.out_proj.weight",
            "resblocks.*.mlp.c_fc.weight",
            "resblocks.*.mlp.c_proj.weight",
            "*.pre_norm_mha.1.qkv_proj.weight",
            "*.pre_norm_mha.1.out_proj.weight",
            "*.pre_norm_ffn.1.weight",
            "*.pre_norm_ffn.4.weight",
        ],
    ),
    (FUSION, &["linear1.weight", "linear2.weight"]),
    (
        FUSION,
        &[
            "self_attn.in_proj_weight",
            "self_attn.out_proj.weight",
            "cross_attn_image.in_proj_weight",
            "cross_attn_image.out_proj.weight",
        ],
    ),
];

const VIT: &[&str] = &[
    "blocks.*.attn.qkv.weight",
    "blocks.*.attn.proj.weight",
    "blocks.*.mlp.fc1.weight",
    "blocks.*.mlp.fc2.weight",
    "blocks.*.mlp.lin1.weight",
    "blocks.*.mlp.lin2.weight",
    "blocks.*.mlp.layers.0.weight",
    "blocks.*.mlp.layers.1.weight",
];

/// Windows of attention, and what brings one stage to the next.
const TINY_VIT: &[&str] = &[
    "layers.*.blocks.*.attn.qkv.weight",
    "layers.*.blocks.*.attn.proj.weight",
    "layers.*.blocks.*.mlp.fc1.weight",
    "layers.*.blocks.*.mlp.fc2.weight",
];

const REP_VIT: &[&str] = &["features.*.channel_mixer.m.*.c.weight"];

const EFFICIENT_VIT: &[&str] = &[
    "stages.*.op_list.*.context_module.main.qkv.conv.weight",
    "stages.*.op_list.*.context_module.main.proj.conv.weight",
    "stages.*.op_list.*.local_module.main.inverted_conv.conv.weight",
    "stages.*.op_list.*.local_module.main.point_conv.conv.weight",
];

/// Whether the weight of this official name is held in 8 bits where weights are.
pub fn is_int8(name: &str) -> bool {
    PARTS.iter().any(|(part, weights)| {
        matches(name, part).is_some_and(|(_, rest)| {
            let mut weights = weights.iter();
            weights.any(|weight| matches(rest, weight).is_some_and(|(_, rest)| rest.is_empty()))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::key_lists::key_list;

    /// How many millions of a release's elements become 8 bits.
    fn millions(list: &str) -> (usize, usize) {
        let tensors = key_list(list);
        let elements = |chosen: bool| -> usize {
            let tensors = tensors.iter().filter(|(name, ..)| is_int8(name) || !chosen);
            tensors
                .map(|(_, shape, _)| shape.iter().product::<usize>())
                .sum()
        };
        (elements(true) / 1_000_000, elements(false) / 1_000_000)
    }

    #[test]
    fn the_large_layers_of_every_family_are_chosen() {
        for (list, chosen) in [
            ("sam3", 756),
            ("sam3.1", 756),
            ("efficientsam3_repvit-m0.9_mobileclip-s1", 51),
            ("efficientsam3_efficientvit-b1_mobileclip-s1", 51),
            ("efficientsam3_tinyvit-11m_mobileclip-s1", 57),
            ("litetext_mobileclip-s0_ctx16", 466),
            ("mobile_sam", 4),
            ("sam_vit_b", 84),
            ("sam2.1_hiera_base_plus", 67),
        ] {
            let (got, all) = millions(list);
            assert_eq!(got, chosen, "{list}, of {all}");
        }
    }

    #[test]
    fn first_and_last_layers_norms_heads_and_boxes_are_not() {
        for list in ["sam3", "sam_vit_b", "mobile_sam"] {
            for (name, shape, _) in key_list(list)
                .into_iter()
                .filter(|(name, ..)| is_int8(name))
            {
                assert_eq!(shape.len(), 2, "{name}");
                for part in [
                    "patch_embed",
                    "norm",
                    "head",
                    "decoder",
                    "bbox",
                    "presence",
                    "tracker",
                ] {
                    assert!(!name.contains(part), "{name}");
                }
            }
        }
    }
}

#[cfg(all(test, feature = "demo"))]
mod demo_tests {
    use candle::DType;

    use super::*;
    use crate::image::Image;
    use crate::models::sam3::Sam3;
    use crate::nn::golden::assert_close;
    use crate::weights::{self, Checkpoint, WriteOptions};
    use crate::{Error, LoadOptions, Run, WeightFormat};

    fn features(model: &Sam3) -> candle::Tensor {
        let pixels = (0..3 * 60 * 40).map(|i| (i * 7 % 251) as u8);
        let image = Image::from_rgb8(60, 40, pixels.collect()).unwrap();
        let image = model.encode_image(&image, &mut Run::default()).unwrap();
        image.features.attended.flatten_all().unwrap()
    }

    #[test]
    fn a_converted_file_loads_as_the_original_is_quantized() {
        let int8 = LoadOptions {
            weights: WeightFormat::Int8,
            ..LoadOptions::with_interactive()
        };
        let demo = weights::demo().unwrap();
        let Ok(quantized) = Sam3::load(&demo, &int8) else {
            return; // with CANDLE_SAM3_CPU=candle, where weights of 8 bits are refused
        };
        assert_eq!(quantized.weights(), WeightFormat::Int8);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("int8.safetensors");
        let options = WriteOptions::default();
        let whole = demo.quantized(is_int8);
        whole.write(&path, &options, |_| true, |_, _| ()).unwrap();

        let file = Checkpoint::open(&path).unwrap();
        let weight = "detector.backbone.vision_backbone.trunk.blocks.0.mlp.fc1.weight";
        assert!(file.is_int8() && !demo.is_int8());
        assert_eq!(file.shape(weight), demo.shape(weight));
        let scales = file.shape(&format!("{weight}_scale")).unwrap();
        assert_eq!(scales, &demo.shape(weight).unwrap()[..1]);
        let stored = file.stored().into_iter();
        let eight: Vec<_> = stored.filter(|tensor| tensor.dtype == "I8").collect();
        let chosen = demo
            .names()
            .into_iter()
            .filter(|name| is_int8(name))
            .count();
        assert_eq!((eight.len(), chosen > 40), (chosen, true));

        // What is said of weights that are 8 bits already changes nothing.
        let want = features(&quantized).to_vec1::<f32>().unwrap();
        for options in [&LoadOptions::with_interactive(), &int8] {
            let model = Sam3::load(&file, options).unwrap();
            assert_eq!(model.weights(), WeightFormat::Int8);
            assert_eq!(features(&model).to_vec1::<f32>().unwrap(), want);
        }
        let exact = Sam3::load(&demo, &LoadOptions::default()).unwrap();
        assert_close(&features(&quantized), &features(&exact), 0.05);

        let half = LoadOptions {
            dtype: DType::BF16,
            ..LoadOptions::default()
        };
        for (checkpoint, options) in [
            (&file, half.clone()),
            (
                &demo,
                LoadOptions {
                    dtype: DType::F16,
                    ..int8
                },
            ),
        ] {
            let error = Sam3::load(checkpoint, &options).unwrap_err();
            assert!(matches!(error, Error::Unsupported { .. }), "{error}");
        }
    }

    #[test]
    fn a_layer_that_has_no_use_for_eight_bits_names_its_tensor() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("int8.safetensors");
        let neck = weights::demo()
            .unwrap()
            .quantized(|name| name.ends_with("convs.0.conv_3x3.weight"));
        neck.write(&path, &WriteOptions::default(), |_| true, |_, _| ())
            .unwrap();
        let file = Checkpoint::open(&path).unwrap();
        let error = Sam3::load(&file, &LoadOptions::default()).unwrap_err();
        if matches!(error, Error::Unsupported { .. }) {
            return; // as above
        }
        let error = error.to_string();
        assert!(error.contains("convs.0.conv_3x3.weight"), "{error}");
    }
}
