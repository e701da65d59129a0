//! The click head of the trained demo model: its goldens, and the objects that it finds.

use std::path::{Path, PathBuf};
use std::slice::from_ref;

use candle::{DType, Device, Tensor};
use candle_sam3::image::Image;
use candle_sam3::mask::Mask;
use candle_sam3::models::InteractiveEmbedding;
use candle_sam3::models::sam3::Sam3;
use candle_sam3::predict::interactive::{self, LowResMasks, Multimask};
use candle_sam3::{Error, InteractiveModel, LoadOptions, Result, Run, VisualPrompt, weights};
use serde_json::Value;

use crate::demo::{bbox, halved, scenes};
use crate::reference::{Reference, check};

const TOLERANCE: f64 = 1e-4;

fn model() -> Sam3 {
    let options = LoadOptions {
        interactive: true,
        ..LoadOptions::default()
    };
    Sam3::load(&weights::demo().unwrap(), &options).unwrap()
}

fn encode(model: &Sam3, image: &Image) -> InteractiveEmbedding {
    model
        .encode_interactive(image, &mut Run::default())
        .unwrap()
}

fn decode(
    model: &Sam3,
    image: &InteractiveEmbedding,
    prompts: &[VisualPrompt],
    multimask: bool,
) -> Result<Vec<LowResMasks>> {
    interactive::decode(model, image, prompts, multimask, &mut Run::default())
}

fn tests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}

/// What the first object of a scene can be asked by: a click at its centre, and its box.
fn prompts(scene: &Value) -> [(&'static str, VisualPrompt); 2] {
    let object = &scene["objects"][0];
    let [x, y]: [f32; 2] = serde_json::from_value(object["click"].clone()).unwrap();
    let around = VisualPrompt::bbox(bbox(&object["box"]));
    [("click", VisualPrompt::point(x, y)), ("box", around)]
}

fn tensor(rows: &[Vec<f32>]) -> Tensor {
    Tensor::new(rows.to_vec(), &Device::Cpu).unwrap()
}

#[test]
fn every_click_and_box_matches_the_goldens() {
    let model = model();
    let golden = Reference::open(&tests().join("golden/demo.safetensors"));
    for (s, (scene, image)) in scenes().iter().enumerate() {
        let embedding = encode(&model, image);
        for (kind, prompt) in prompts(scene) {
            let decoded = model.attend(&embedding, &[&prompt]).unwrap();
            let logits = model.draw(&embedding, &decoded, 0..4).unwrap();
            let want = |part: &str| golden.tensor(&format!("s{s}.{kind}.{part}"));
            println!("scene {s}: {kind}");
            let masks = logits.squeeze(0).unwrap();
            check("masks", &halved(&masks), &want("masks"), TOLERANCE);
            let iou = decoded.iou.squeeze(0).unwrap();
            check("iou", &iou, &want("iou"), TOLERANCE);
            let score = decoded.object_score.unwrap();
            check("object score", &score, &want("score"), TOLERANCE);
        }
    }
}

/// The object under the point is found, and refining it with its own mask keeps it.
#[test]
fn a_click_finds_its_object_and_can_be_refined() {
    let model = model();
    for (scene, image) in scenes() {
        let embedding = encode(&model, &image);
        let [(_, click), (_, around)] = prompts(&scene);
        let mask_of = |answer: &LowResMasks| {
            let upscaling = model.upscaling(embedding.size);
            let logits = upscaling.run(&answer.low_res_logits[0]).unwrap();
            Mask::from_fn(image.width(), image.height(), |x, y| {
                logits[y * image.width() + x] > 0.
            })
        };
        let first = decode(&model, &embedding, from_ref(&click), false).unwrap();
        assert_eq!(first[0].low_res_logits.len(), 1);
        let found = mask_of(&first[0]);
        let box_iou = found.bbox().unwrap().iou(around.bbox.unwrap());
        assert!(box_iou > 0.7, "{}: {box_iou}", scene["name"]);
        let again = VisualPrompt {
            mask_logits: Some(first[0].low_res_logits[0].clone()),
            ..click
        };
        let second = decode(&model, &embedding, &[again], false).unwrap();
        assert!(mask_of(&second[0]).iou(&found) > 0.7, "{}", scene["name"]);
    }
}

/// Prompts of different kinds in one call are the prompts one by one, in their order.
#[test]
fn a_batch_of_prompts_equals_single_prompts() {
    let model = model();
    let (scene, image) = scenes().remove(1);
    let embedding = encode(&model, &image);
    let [(_, click), (_, around)] = prompts(&scene);
    let not_here = VisualPrompt::default().and_not(5., 5.);
    let both = VisualPrompt {
        points: vec![not_here.points[0], click.points[0]],
        ..around.clone()
    };
    let earlier = decode(&model, &embedding, from_ref(&click), true).unwrap();
    let with_mask = |logits: &Vec<f32>| VisualPrompt {
        mask_logits: Some(logits.clone()),
        ..click.clone()
    };
    let prompts = [
        click.clone(),
        with_mask(&earlier[0].low_res_logits[2]),
        around,
        both,
        with_mask(&earlier[0].low_res_logits[0]),
        VisualPrompt::point(60., 30.),
        VisualPrompt::default(),
    ];
    let together = decode(&model, &embedding, &prompts, true).unwrap();
    assert_eq!(together.len(), prompts.len());
    for (i, (prompt, got)) in prompts.iter().zip(&together).enumerate() {
        let alone = decode(&model, &embedding, from_ref(prompt), true).unwrap();
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
    let for_text = model.encode_image(&image, &mut Run::default()).unwrap();
    let shared = model.interactive_embedding(&for_text).unwrap();
    let own = encode(&model, &image);
    assert_eq!(
        decode(&model, &shared, &click, true).unwrap(),
        decode(&model, &own, &click, true).unwrap()
    );
}

/// A drawn rough mask alone is enough to find the object that it is on.
#[test]
fn a_drawn_mask_finds_its_object() {
    let model = model();
    for (scene, image) in scenes() {
        let embedding = encode(&model, &image);
        let [(_, click), (_, around)] = prompts(&scene);
        let bbox = around.bbox.unwrap();
        let drawn = Mask::from_fn(image.width(), image.height(), |x, y| {
            let (x, y) = (x as f32, y as f32);
            (bbox.x0..bbox.x1).contains(&x) && (bbox.y0..bbox.y1).contains(&y)
        });
        let rough = VisualPrompt {
            mask_logits: Some(interactive::from_drawn(&model, embedding.size, &drawn).unwrap()),
            points: click.points,
            bbox: None,
        };
        let run = &mut Run::default();
        let single = interactive::Options {
            multimask: Multimask::One,
            ..interactive::Options::default()
        };
        let found = interactive::predict_one(&model, &embedding, &rough, &single, run).unwrap();
        let found = &found.masks[0];
        let name = &scene["name"];
        println!("{name}: {:.3}", found.mask.iou(&drawn));
        assert!(found.mask.bbox().unwrap().iou(bbox) > 0.7, "{name}");
        let limit = |v: &f32| v.abs() <= 32.;
        assert!(found.low_res_logits.iter().all(limit));
    }
}

#[test]
fn half_precision_finds_the_same_mask() {
    let (scene, image) = scenes().remove(1);
    let click = [prompts(&scene)[0].1.clone()];
    let mask = |dtype| {
        let options = LoadOptions {
            dtype,
            interactive: true,
            ..LoadOptions::default()
        };
        let model = Sam3::load(&weights::demo().unwrap(), &options).unwrap();
        let embedding = encode(&model, &image);
        let answer = decode(&model, &embedding, &click, false).unwrap().remove(0);
        let logits = &answer.low_res_logits[0];
        let side = model.low_res_size().width;
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
    let embedding = encode(&model, &image);
    let wrong_mask = VisualPrompt {
        mask_logits: Some(vec![0.; 7]),
        ..VisualPrompt::default()
    };
    let error = decode(&model, &embedding, &[wrong_mask], true).unwrap_err();
    assert!(matches!(error, Error::InvalidPrompt { .. }), "{error}");
    let without = Sam3::load(&weights::demo().unwrap(), &LoadOptions::default()).unwrap();
    let run = &mut Run::default();
    let for_text = without.encode_image(&image, run).unwrap();
    for error in [
        without.encode_interactive(&image, run).unwrap_err(),
        model.interactive_embedding(&for_text).unwrap_err(),
    ] {
        assert!(matches!(error, Error::Unsupported { .. }), "{error}");
    }
}
