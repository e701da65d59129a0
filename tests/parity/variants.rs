//! Every released variant, built from its list of tensors: it reads all and only these.

use candle::{DType, Device};
use candle_sam3::LoadOptions;
use candle_sam3::models::sam3::Sam3;
use candle_sam3::weights::Checkpoint;

use crate::key_lists::key_list;

/// The name that a variant should be recognised by.
struct Case {
    list: &'static str,
    name: &'static str,
}

const CASES: &[Case] = &[
    Case {
        list: "sam3",
        name: "SAM 3",
    },
    Case {
        list: "sam3_hf",
        name: "SAM 3",
    },
    Case {
        list: "litetext_mobileclip-s0_ctx16",
        name: "SAM3-LiteText (MobileCLIP-S0)",
    },
    Case {
        list: "litetext_mobileclip-s0_ctx32",
        name: "SAM3-LiteText (MobileCLIP-S0)",
    },
    Case {
        list: "litetext_mobileclip-s1_ctx16",
        name: "SAM3-LiteText (MobileCLIP-S1)",
    },
    Case {
        list: "litetext_mobileclip-s1_ctx32",
        name: "SAM3-LiteText (MobileCLIP-S1)",
    },
    Case {
        list: "litetext_mobileclip2-l_ctx16",
        name: "SAM3-LiteText (MobileCLIP2-L)",
    },
    Case {
        list: "litetext_mobileclip2-l_ctx32",
        name: "SAM3-LiteText (MobileCLIP2-L)",
    },
    Case {
        list: "efficientsam3_repvit-m0.9_mobileclip-s1",
        name: "EfficientSAM3 (RepViT-M0.9 + MobileCLIP-S1)",
    },
    Case {
        list: "efficientsam3_repvit-m1.1_mobileclip-s1",
        name: "EfficientSAM3 (RepViT-M1.1 + MobileCLIP-S1)",
    },
    Case {
        list: "efficientsam3_repvit-m2.3_mobileclip-s1",
        name: "EfficientSAM3 (RepViT-M2.3 + MobileCLIP-S1)",
    },
    Case {
        list: "efficientsam3_tinyvit-5m_mobileclip-s1",
        name: "EfficientSAM3 (TinyViT-5M + MobileCLIP-S1)",
    },
    Case {
        list: "efficientsam3_tinyvit-11m_mobileclip-s1",
        name: "EfficientSAM3 (TinyViT-11M + MobileCLIP-S1)",
    },
    Case {
        list: "efficientsam3_tinyvit-21m_mobileclip-s1",
        name: "EfficientSAM3 (TinyViT-21M + MobileCLIP-S1)",
    },
    Case {
        list: "efficientsam3_efficientvit-b0_mobileclip-s1",
        name: "EfficientSAM3 (EfficientViT-B0 + MobileCLIP-S1)",
    },
    Case {
        list: "efficientsam3_efficientvit-b1_mobileclip-s1",
        name: "EfficientSAM3 (EfficientViT-B1 + MobileCLIP-S1)",
    },
    Case {
        list: "efficientsam3_efficientvit-b2_mobileclip-s1",
        name: "EfficientSAM3 (EfficientViT-B2 + MobileCLIP-S1)",
    },
    Case {
        list: "efficientsam3_repvit-m1.1_stage3",
        name: "EfficientSAM3 (RepViT-M1.1 + MobileCLIP-S0)",
    },
    Case {
        list: "efficientsam3_tinyvit-11m_stage3",
        name: "EfficientSAM3 (TinyViT-11M + MobileCLIP-S0)",
    },
    Case {
        list: "efficientsam3_efficientvit-b1_stage3",
        name: "EfficientSAM3 (EfficientViT-B1 + MobileCLIP-S0)",
    },
];

fn checkpoint(list: &str) -> Checkpoint {
    Checkpoint::from_shapes(key_list(list)).unwrap()
}

fn is_stage3(case: &Case) -> bool {
    case.list.ends_with("_stage3")
}

#[test]
fn every_variant_reads_all_and_only_its_tensors() {
    let donor = checkpoint("efficientsam3_efficientvit-b0_mobileclip-s1");
    // f16 halves what the largest variants take; folding is the same
    let options = LoadOptions {
        dtype: DType::F16,
        device: Device::Cpu,
        context_length: None,
        ..LoadOptions::default()
    };
    for case in CASES {
        let mut checkpoint = checkpoint(case.list);
        if is_stage3(case) {
            checkpoint = checkpoint
                .with_part("detector.geometry_encoder", &donor)
                .unwrap();
        }
        let model = Sam3::load(&checkpoint, &options)
            .unwrap_or_else(|error| panic!("{}: {error}", case.list));
        assert_eq!(model.name(), case.name);
    }
}

#[test]
fn a_stage_3_file_alone_says_what_is_missing_and_where_it_is() {
    for case in CASES.iter().filter(|case| is_stage3(case)) {
        let error = Sam3::load(&checkpoint(case.list), &LoadOptions::default()).unwrap_err();
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
    let trunk = "detector.backbone.vision_backbone.trunk.";
    list.extend(
        key_list("sam3")
            .into_iter()
            .filter(|(name, ..)| name.starts_with(trunk)),
    );
    let checkpoint = Checkpoint::from_shapes(list).unwrap();
    let model = Sam3::load(&checkpoint, &LoadOptions::default()).unwrap();
    assert!(model.name().contains("EfficientViT-B0"));
}

#[test]
fn other_families_are_refused_with_what_would_work() {
    for list in ["sam_vit_b", "mobile_sam"] {
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
