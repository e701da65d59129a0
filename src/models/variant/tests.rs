//! Every released variant, recognized and built from its list of tensors: it reads all and only
//! these.

use candle::DType;

use super::*;
use crate::models::LoadOptions;
use crate::models::sam3::Sam3;
use crate::weights::Checkpoint;
use crate::weights::key_lists::key_list;

/// (list, name of the model)
#[rustfmt::skip]
const CASES: &[(&str, &str)] = &[
    ("sam3", "SAM 3"),
    ("sam3_hf", "SAM 3"),
    ("litetext_mobileclip-s0_ctx16", "SAM3-LiteText (MobileCLIP-S0)"),
    ("litetext_mobileclip-s0_ctx32", "SAM3-LiteText (MobileCLIP-S0)"),
    ("litetext_mobileclip-s1_ctx16", "SAM3-LiteText (MobileCLIP-S1)"),
    ("litetext_mobileclip-s1_ctx32", "SAM3-LiteText (MobileCLIP-S1)"),
    ("litetext_mobileclip2-l_ctx16", "SAM3-LiteText (MobileCLIP2-L)"),
    ("litetext_mobileclip2-l_ctx32", "SAM3-LiteText (MobileCLIP2-L)"),
    ("efficientsam3_repvit-m0.9_mobileclip-s1", "EfficientSAM3 (RepViT-M0.9 + MobileCLIP-S1)"),
    ("efficientsam3_repvit-m1.1_mobileclip-s1", "EfficientSAM3 (RepViT-M1.1 + MobileCLIP-S1)"),
    ("efficientsam3_repvit-m2.3_mobileclip-s1", "EfficientSAM3 (RepViT-M2.3 + MobileCLIP-S1)"),
    ("efficientsam3_tinyvit-5m_mobileclip-s1", "EfficientSAM3 (TinyViT-5M + MobileCLIP-S1)"),
    ("efficientsam3_tinyvit-11m_mobileclip-s1", "EfficientSAM3 (TinyViT-11M + MobileCLIP-S1)"),
    ("efficientsam3_tinyvit-21m_mobileclip-s1", "EfficientSAM3 (TinyViT-21M + MobileCLIP-S1)"),
    ("efficientsam3_efficientvit-b0_mobileclip-s1", "EfficientSAM3 (EfficientViT-B0 + MobileCLIP-S1)"),
    ("efficientsam3_efficientvit-b1_mobileclip-s1", "EfficientSAM3 (EfficientViT-B1 + MobileCLIP-S1)"),
    ("efficientsam3_efficientvit-b2_mobileclip-s1", "EfficientSAM3 (EfficientViT-B2 + MobileCLIP-S1)"),
    ("sam3.1", "SAM 3.1"),
    ("litetext3.1_mobileclip-s0_ctx16", "SAM3.1-LiteText (MobileCLIP-S0)"),
    ("litetext3.1_mobileclip-s0_ctx32", "SAM3.1-LiteText (MobileCLIP-S0)"),
    ("litetext3.1_mobileclip-s1_ctx16", "SAM3.1-LiteText (MobileCLIP-S1)"),
    ("litetext3.1_mobileclip-s1_ctx32", "SAM3.1-LiteText (MobileCLIP-S1)"),
    ("litetext3.1_mobileclip2-l_ctx16", "SAM3.1-LiteText (MobileCLIP2-L)"),
    ("litetext3.1_mobileclip2-l_ctx32", "SAM3.1-LiteText (MobileCLIP2-L)"),
    ("efficientsam3.1_repvit-m0.9_mobileclip-s0", "EfficientSAM3.1 (RepViT-M0.9 + MobileCLIP-S0)"),
    ("efficientsam3.1_repvit-m1.1_mobileclip-s0", "EfficientSAM3.1 (RepViT-M1.1 + MobileCLIP-S0)"),
    ("efficientsam3.1_repvit-m2.3_mobileclip-s0", "EfficientSAM3.1 (RepViT-M2.3 + MobileCLIP-S0)"),
    ("efficientsam3.1_tinyvit-5m_mobileclip-s0", "EfficientSAM3.1 (TinyViT-5M + MobileCLIP-S0)"),
    ("efficientsam3.1_tinyvit-11m_mobileclip-s0", "EfficientSAM3.1 (TinyViT-11M + MobileCLIP-S0)"),
    ("efficientsam3.1_tinyvit-21m_mobileclip-s0", "EfficientSAM3.1 (TinyViT-21M + MobileCLIP-S0)"),
    ("efficientsam3.1_efficientvit-b0_mobileclip-s0", "EfficientSAM3.1 (EfficientViT-B0 + MobileCLIP-S0)"),
    ("efficientsam3.1_efficientvit-b1_mobileclip-s0", "EfficientSAM3.1 (EfficientViT-B1 + MobileCLIP-S0)"),
    ("efficientsam3.1_efficientvit-b2_mobileclip-s0", "EfficientSAM3.1 (EfficientViT-B2 + MobileCLIP-S0)"),
    ("efficientsam3_repvit-m1.1_stage3", "EfficientSAM3 (RepViT-M1.1 + MobileCLIP-S0)"),
    ("efficientsam3_tinyvit-11m_stage3", "EfficientSAM3 (TinyViT-11M + MobileCLIP-S0)"),
    ("efficientsam3_efficientvit-b1_stage3", "EfficientSAM3 (EfficientViT-B1 + MobileCLIP-S0)"),
];

const TRUNK: &str = "detector.backbone.vision_backbone.trunk.";

fn checkpoint(list: &str) -> Checkpoint {
    Checkpoint::from_shapes(key_list(list)).unwrap()
}

fn is_stage3(list: &str) -> bool {
    list.ends_with("_stage3")
}

fn variant(list: &str) -> Variant {
    Variant::of(&checkpoint(list)).unwrap()
}

fn refused(names: &[&str]) -> Error {
    let shapes = names
        .iter()
        .map(|name| (name.to_string(), vec![7; 4], DType::F32));
    Variant::of(&Checkpoint::from_shapes(shapes).unwrap()).unwrap_err()
}

#[test]
fn every_variant_reads_all_and_only_its_tensors() {
    let donor = checkpoint("efficientsam3_efficientvit-b0_mobileclip-s1");
    // f16 halves what the largest variants take; folding is the same
    let mut options = LoadOptions {
        dtype: DType::F16,
        ..LoadOptions::default()
    };
    for list in ["sam3", "sam3.1"] {
        Sam3::load(&checkpoint(list), &options).unwrap();
    }
    for (list, name) in CASES {
        options.interactive = !is_stage3(list);
        let mut checkpoint = checkpoint(list);
        if is_stage3(list) {
            checkpoint = checkpoint
                .with_part("detector.geometry_encoder", &donor)
                .unwrap();
        }
        let model =
            Sam3::load(&checkpoint, &options).unwrap_or_else(|error| panic!("{list}: {error}"));
        assert_eq!(model.name(), *name);
    }
}

#[test]
fn a_stage_3_file_alone_says_what_is_missing_and_where_it_is() {
    for (list, _) in CASES.iter().filter(|(list, _)| is_stage3(list)) {
        let error = Sam3::load(&checkpoint(list), &LoadOptions::default()).unwrap_err();
        let error = error.to_string();
        for part in [
            "76 tensors",
            "detector.geometry_encoder",
            "CLS token",
            "--geometry",
            "sam3.pt",
        ] {
            assert!(error.contains(part), "{error:?} lacks {part:?}");
        }
    }
}

#[test]
fn a_missing_a_misshaped_and_a_surplus_tensor_are_errors_that_name_it() {
    let list = key_list("efficientsam3_efficientvit-b0_mobileclip-s1");
    let load = |list: Vec<_>| {
        let checkpoint = Checkpoint::from_shapes(list).unwrap();
        Sam3::load(&checkpoint, &LoadOptions::default())
            .unwrap_err()
            .to_string()
    };
    let victims = [
        "detector.transformer.encoder.layers.3.linear1.weight",
        "detector.segmentation_head.instance_seg_head.bias",
    ];
    let missing = load(
        list.iter()
            .filter(|(n, ..)| !victims.contains(&&**n))
            .cloned()
            .collect(),
    );
    assert!(
        victims.iter().all(|name| missing.contains(name)),
        "{missing}"
    );

    let mut misshaped = list.clone();
    let entry = misshaped
        .iter_mut()
        .find(|(name, ..)| name == victims[0])
        .unwrap();
    entry.1 = vec![7, 9];
    let misshaped = load(misshaped);
    assert!(
        misshaped.contains(victims[0]) && misshaped.contains("[7, 9]"),
        "{misshaped}"
    );

    let mut surplus = list.clone();
    surplus.push(("detector.transformer.surprise".into(), vec![3], DType::F32));
    let surplus = load(surplus);
    assert!(
        surplus.contains("detector.transformer.surprise"),
        "{surplus}"
    );
}

#[test]
fn the_dead_trunk_of_stage_1_files_is_passed_over() {
    let mut list = key_list("efficientsam3_efficientvit-b0_mobileclip-s1");
    list.extend(
        key_list("sam3")
            .into_iter()
            .filter(|(name, ..)| name.starts_with(TRUNK)),
    );
    let checkpoint = Checkpoint::from_shapes(list).unwrap();
    assert!(Variant::of(&checkpoint).unwrap().dead_trunk);
    let model = Sam3::load(&checkpoint, &LoadOptions::default()).unwrap();
    assert!(model.name().contains("EfficientViT-B0"));
}

#[test]
fn other_families_are_refused_with_what_would_work() {
    for list in ["sam_vit_b", "mobile_sam", "sam2.1_hiera_tiny"] {
        let error = Sam3::load(&checkpoint(list), &LoadOptions::default())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("SAM 1") && error.contains("EfficientSAM3"),
            "{error}"
        );
    }
}

#[test]
fn a_context_length_outside_the_table_is_refused() {
    for (list, length) in [
        ("sam3", 16),
        ("litetext_mobileclip-s0_ctx16", 17),
        ("litetext_mobileclip-s0_ctx16", 0),
    ] {
        let options = LoadOptions {
            context_length: Some(length),
            ..LoadOptions::default()
        };
        let error = Sam3::load(&checkpoint(list), &options)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(&format!("context length of {length}")),
            "{error}"
        );
    }
}

#[test]
fn the_parts_of_every_release_are_recognized() {
    for (list, name) in CASES {
        let got = variant(list);
        assert_eq!(got.name(), *name);
        assert_eq!(got.family(), Family::Sam3);
        assert_eq!(got.interactive, !is_stage3(list), "{list}");
        assert_eq!(got.geometry_encoder, !is_stage3(list), "{list}");
        assert!(!got.dead_trunk);
        assert_eq!(got.multiplex, list.contains("3.1"), "{list}");
        let positions = match list.rsplit_once("ctx") {
            Some((_, tokens)) => tokens.parse().ok(),
            None if list.ends_with("mobileclip-s1") => Some(77),
            None => (is_stage3(list) || list.ends_with("mobileclip-s0")).then_some(16),
        };
        assert_eq!(got.text_positions, positions, "{list}");
    }
    for (list, name) in [
        ("sam_vit_b", "SAM ViT-B"),
        ("sam_vit_b_hf", "SAM ViT-B"),
        ("sam_vit_l", "SAM ViT-L"),
        ("sam_vit_h", "SAM ViT-H"),
        ("mobile_sam", "MobileSAM"),
        ("sam2.1_hiera_tiny", "SAM 2.1 Hiera-T"),
        ("sam2.1_hiera_small_hf", "SAM 2.1 Hiera-S"),
        ("sam2.1_hiera_base_plus", "SAM 2.1 Hiera-B+"),
        ("sam2.1_hiera_large_hf", "SAM 2.1 Hiera-L"),
    ] {
        let got = variant(list);
        let family = match name.starts_with("SAM 2") {
            true => Family::Sam2,
            false => Family::Sam,
        };
        assert_eq!((got.name().as_str(), got.family()), (name, family));
        assert_eq!(got.prompts(), [PromptKind::Clicks, PromptKind::Everything]);
    }
}

#[test]
fn other_models_are_refused_by_name() {
    for (names, want) in [
        (
            &[
                "image_encoder.trunk.x",
                "sam_mask_decoder.x",
                "memory_attention.x",
            ][..],
            "SAM 2.0",
        ),
        (
            &["model.layers.0.self_attn.q_proj.weight"],
            "not a checkpoint of SAM 1",
        ),
        (&[], "none of its 0 tensors"),
        (
            &[
                "detector.transformer.x",
                "detector.backbone.vision_backbone.trunk.x",
            ],
            "no tensor that identifies an image encoder",
        ),
    ] {
        let got = refused(names).to_string();
        assert!(got.contains(want), "{got}");
    }
}

#[test]
fn an_encoder_of_another_size_is_refused_with_its_shape() {
    let got = refused(&["detector.transformer.x", REPVIT]);
    assert!(matches!(got, Error::Unsupported { .. }));
    let got = got.to_string();
    assert!(
        got.contains(REPVIT) && got.contains("[7, 7, 7, 7]"),
        "{got}"
    );
}

#[test]
fn both_spellings_of_sam31_are_the_same_model() {
    let inside = key_list("sam3.1").into_iter().map(|(name, shape, dtype)| {
        let name = match name.strip_prefix("detector.") {
            Some(rest) => format!("sam3_model.{rest}"),
            None => name.replacen("tracker.", "sam2_predictor.", 1),
        };
        (name, shape, dtype)
    });
    let inside = Checkpoint::from_shapes(inside).unwrap();
    let official = checkpoint("sam3.1");
    assert_eq!(official.layout().name, "SAM 3.1");
    assert_eq!(inside.layout().name, "SAM 3.1");
    assert_eq!(inside.names(), official.names());
}

#[test]
fn a_mixture_of_sam3_and_sam31_is_refused() {
    let mut both = key_list("sam3.1");
    let sam2_convs = "detector.backbone.vision_backbone.sam2_convs.";
    let of_sam3 = key_list("sam3").into_iter();
    both.extend(of_sam3.filter(|(name, ..)| name.starts_with(sam2_convs)));
    let got = Variant::of(&Checkpoint::from_shapes(both).unwrap()).unwrap_err();
    let got = got.to_string();
    assert!(
        got.contains("mixes SAM 3 (`") && got.contains("with SAM 3.1 (`"),
        "{got}"
    );

    let stage3 = checkpoint("efficientsam3_repvit-m1.1_stage3");
    let got = stage3.with_part("detector.geometry_encoder", &checkpoint("sam3.1"));
    assert!(got.unwrap_err().to_string().contains("trained apart"));
}
