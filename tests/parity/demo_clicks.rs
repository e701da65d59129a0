//! The click head of the trained demo model: its goldens, and the objects that it finds.

use std::path::{Path, PathBuf};

use candle::{DType, Device, Tensor};
use candle_sam3::Error;
use candle_sam3::mask::Mask;
use candle_sam3::models::sam3::{LoadOptions, Sam3};
use candle_sam3::models::{ClickMasks, ClickPrompt, InteractiveModel};
use candle_sam3::predict::interactive;
use candle_sam3::weights;
use serde_json::Value;

use crate::demo::{bbox, halved, scenes};
use crate::reference::{Reference, check};

const TOLERANCE: f64 = 1e-4;

fn model() -> Sam3 {
    let options = LoadOptions {
        clicks: true,
        ..LoadOptions::default()
    };
    Sam3::load(&weights::demo().unwrap(), &options).unwrap()
}

fn tests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}

/// What the first object of a scene can be asked by: a click at its centre, and its box.
fn prompts(scene: &Value) -> [(&'static str, ClickPrompt); 2] {
    let object = &scene["objects"][0];
    let point = serde_json::from_value(object["click"].clone()).unwrap();
    let click = ClickPrompt {
        points: vec![(point, 1)],
        ..ClickPrompt::default()
    };
    let around = ClickPrompt {
        bbox: Some(bbox(&object["box"])),
        ..ClickPrompt::default()
    };
    [("click", click), ("box", around)]
}

fn tensor(rows: &[Vec<f32>]) -> Tensor {
    Tensor::new(rows.to_vec(), &Device::Cpu).unwrap()
}

#[test]
fn every_click_and_box_matches_the_goldens() {
    let model = model();
    let head = model.click_head().unwrap();
    let golden = Reference::open(&tests().join("golden/demo.safetensors"));
    for (s, (scene, image)) in scenes().iter().enumerate() {
        let embedding = model.encode_for_clicks(image).unwrap();
        for (kind, prompt) in prompts(scene) {
            let got = head.decode(&embedding, &[prompt], 0..4, &|_| true).unwrap();
            let want = |part: &str| golden.tensor(&format!("s{s}.{kind}.{part}"));
            println!("scene {s}: {kind}");
            let (h, w) = model.low_res_size();
            let masks = tensor(&got[0].low_res_logits).reshape(((), h, w)).unwrap();
            check("masks", &halved(&masks), &want("masks"), TOLERANCE);
            let iou = Tensor::new(&got[0].iou_scores[..], &Device::Cpu).unwrap();
            check("iou", &iou, &want("iou"), TOLERANCE);
            let score = Tensor::new(&[got[0].object_score.unwrap()], &Device::Cpu).unwrap();
            check("object score", &score, &want("score"), TOLERANCE);
        }
    }
}

/// The object under the point is found, and refining it with its own mask keeps it.
#[test]
fn a_click_finds_its_object_and_can_be_refined() {
    let model = model();
    for (scene, image) in scenes() {
        let embedding = model.encode_for_clicks(&image).unwrap();
        let [(_, click), (_, around)] = prompts(&scene);
        let mask_of = |answer: &ClickMasks| {
            let logits = model
                .upscale(&embedding, &answer.low_res_logits[0])
                .unwrap();
            Mask::from_fn(image.width(), image.height(), |x, y| {
                logits[y * image.width() + x] > 0.
            })
        };
        let first = model
            .decode(&embedding, std::slice::from_ref(&click), false)
            .unwrap();
        assert_eq!(first[0].low_res_logits.len(), 1);
        let found = mask_of(&first[0]);
        let box_iou = found.bbox().unwrap().iou(around.bbox.unwrap());
        assert!(box_iou > 0.7, "{}: {box_iou}", scene["name"]);
        let again = ClickPrompt {
            mask_logits: Some(first[0].low_res_logits[0].clone()),
            ..click
        };
        let second = model.decode(&embedding, &[again], false).unwrap();
        assert!(mask_of(&second[0]).iou(&found) > 0.7, "{}", scene["name"]);
    }
}

/// Prompts of different kinds in one call are the prompts one by one, in their order.
#[test]
fn a_batch_of_prompts_equals_single_prompts() {
    let model = model();
    let (scene, image) = scenes().remove(1);
    let embedding = model.encode_for_clicks(&image).unwrap();
    let [(_, click), (_, around)] = prompts(&scene);
    let both = ClickPrompt {
        points: vec![([5., 5.], 0), click.points[0]],
        ..around.clone()
    };
    let earlier = model
        .decode(&embedding, std::slice::from_ref(&click), true)
        .unwrap();
    let with_mask = |logits: &Vec<f32>| ClickPrompt {
        mask_logits: Some(logits.clone()),
        ..click.clone()
    };
    let prompts = [
        click.clone(),
        with_mask(&earlier[0].low_res_logits[2]),
        around,
        both,
        with_mask(&earlier[0].low_res_logits[0]),
        ClickPrompt {
            points: vec![([60., 30.], 1)],
            ..click.clone()
        },
        ClickPrompt::default(),
    ];
    let together = model.decode(&embedding, &prompts, true).unwrap();
    assert_eq!(together.len(), prompts.len());
    for (i, (prompt, got)) in prompts.iter().zip(&together).enumerate() {
        let alone = model
            .decode(&embedding, std::slice::from_ref(prompt), true)
            .unwrap();
        let want = tensor(&alone[0].low_res_logits);
        check(
            &format!("prompt {i}"),
            &tensor(&got.low_res_logits),
            &want,
            1e-5,
        );
    }
}

#[test]
fn an_image_encoded_for_text_answers_clicks_alike() {
    let model = model();
    let (scene, image) = scenes().remove(0);
    let click = [prompts(&scene)[0].1.clone()];
    let for_text = model.encode_image(&image).unwrap();
    let shared = model.embed_for_clicks(&for_text).unwrap();
    let own = model.encode_for_clicks(&image).unwrap();
    assert_eq!(
        model.decode(&shared, &click, true).unwrap(),
        model.decode(&own, &click, true).unwrap()
    );
}

/// Leaving out masks by their predicted quality changes nothing about the others.
#[test]
fn unwanted_masks_are_left_out_and_the_others_stay() {
    let model = model();
    let (_, image) = scenes().remove(1);
    let embedding = model.encode_for_clicks(&image).unwrap();
    let step = image.width() as f32 / 5.;
    let point = |i: usize| ClickPrompt {
        points: vec![([(i % 5) as f32 * step, (i / 5) as f32 * step], 1)],
        ..ClickPrompt::default()
    };
    let prompts: Vec<ClickPrompt> = (0..20).map(point).collect();
    let mut all = model.decode(&embedding, &prompts, true).unwrap();
    let mut scores: Vec<f32> = all.iter().flat_map(|m| m.iou_scores.clone()).collect();
    scores.sort_by(f32::total_cmp);
    for threshold in [0., scores[scores.len() / 2], scores[scores.len() - 2], 2.] {
        let wanted = |iou: f32| iou > threshold;
        let some = model.decode_wanted(&embedding, &prompts, &wanted).unwrap();
        all.iter_mut().for_each(|answer| answer.retain(&wanted));
        assert_eq!(some.len(), all.len());
        for (some, all) in some.iter().zip(&all) {
            assert_eq!(some.iou_scores, all.iou_scores);
            assert_eq!(some.object_score, all.object_score);
            for (some, all) in some.low_res_logits.iter().zip(&all.low_res_logits) {
                let (some, all) = (tensor(&[some.clone()]), tensor(&[all.clone()]));
                check("kept", &some, &all, 1e-6);
            }
            assert_eq!(some.low_res_logits.len(), all.low_res_logits.len());
        }
    }
}

/// A drawn rough mask alone is enough to find the object that it is on.
#[test]
fn a_drawn_mask_finds_its_object() {
    let model = model();
    for (scene, image) in scenes() {
        let embedding = model.encode_for_clicks(&image).unwrap();
        let [(_, click), (_, around)] = prompts(&scene);
        let bbox = around.bbox.unwrap();
        let drawn = Mask::from_fn(image.width(), image.height(), |x, y| {
            let (x, y) = (x as f32, y as f32);
            (bbox.x0..bbox.x1).contains(&x) && (bbox.y0..bbox.y1).contains(&y)
        });
        let rough = ClickPrompt {
            mask_logits: Some(interactive::from_drawn(&model, &embedding, &drawn).unwrap()),
            points: click.points,
            bbox: None,
        };
        let single = interactive::Options {
            multimask_output: false,
            ..interactive::Options::default()
        };
        let found = interactive::predict(&model, &embedding, &[rough], &single).unwrap();
        let found = &found[0].masks[0];
        let name = &scene["name"];
        println!("{name}: {:.3}", found.mask.iou(&drawn));
        assert!(found.mask.bbox().unwrap().iou(bbox) > 0.7, "{name}");
        let limit = |v: &f32| v.abs() <= 32.;
        assert!(found.low_res_logits.iter().all(limit));
    }
}

#[test]
fn logits_are_handed_back_within_the_limits_of_the_original() {
    assert_eq!(model().feed_back(vec![-40., 3., 33.]), [-32., 3., 32.]);
}

#[test]
fn half_precision_finds_the_same_mask() {
    let (scene, image) = scenes().remove(1);
    let click = [prompts(&scene)[0].1.clone()];
    let mask = |dtype| {
        let options = LoadOptions {
            dtype,
            clicks: true,
            ..LoadOptions::default()
        };
        let model = Sam3::load(&weights::demo().unwrap(), &options).unwrap();
        let embedding = model.encode_for_clicks(&image).unwrap();
        let answer = model.decode(&embedding, &click, false).unwrap().remove(0);
        let logits = &answer.low_res_logits[0];
        let side = model.low_res_size().1;
        Mask::from_fn(side, side, |x, y| logits[y * side + x] > 0.)
    };
    let want = mask(DType::F32);
    for dtype in [DType::BF16, DType::F16] {
        let iou = mask(dtype).iou(&want);
        assert!(iou > 0.9, "{dtype:?}: {iou}");
    }
}

#[test]
fn what_cannot_be_answered_is_refused() {
    let model = model();
    let (_, image) = scenes().remove(0);
    let embedding = model.encode_for_clicks(&image).unwrap();
    let wrong_label = ClickPrompt {
        points: vec![([1., 1.], 2)],
        ..ClickPrompt::default()
    };
    let wrong_mask = ClickPrompt {
        mask_logits: Some(vec![0.; 7]),
        ..ClickPrompt::default()
    };
    for prompt in [wrong_label, wrong_mask] {
        let error = model.decode(&embedding, &[prompt], true).unwrap_err();
        assert!(matches!(error, Error::InvalidPrompt { .. }), "{error}");
    }
    let without = Sam3::load(&weights::demo().unwrap(), &LoadOptions::default()).unwrap();
    for error in [
        without.encode_for_clicks(&image).unwrap_err(),
        model
            .embed_for_clicks(&without.encode_image(&image).unwrap())
            .unwrap_err(),
    ] {
        assert!(matches!(error, Error::Unsupported { .. }), "{error}");
    }
}
