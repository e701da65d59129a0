//! The demo model in half precision, from pixels to masks, beside itself in f32.
//!
//! With `CANDLE_SAM3_CPU=candle` these are the operations, and the roundings, of a GPU.

use candle::DType;

use super::concept::{self, Options, Prompt};
use super::interactive::{self, Multimask};
use crate::mask::Mask;
use crate::models::sam3::Sam3;
use crate::{Image, LoadOptions, Run, VisualPrompt, weights};

/// Scores may be off by this much; 8 bits of mantissa in bf16, 11 in f16.
fn score_tolerance(dtype: DType) -> f32 {
    match dtype {
        DType::BF16 => 0.02,
        _ => 0.01,
    }
}

/// The least overlap (IoU) of a mask with that of f32.
const LEAST_IOU: f32 = 0.99;

fn model(dtype: DType) -> Sam3 {
    let options = LoadOptions {
        dtype,
        ..LoadOptions::with_interactive()
    };
    Sam3::load(&weights::demo().unwrap(), &options).unwrap()
}

fn scenes() -> Vec<(Image, Vec<Prompt>)> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/scenes");
    let json = std::fs::read(format!("{folder}/scenes.json")).unwrap();
    let scenes: Vec<serde_json::Value> = serde_json::from_slice(&json).unwrap();
    let scene = |scene: serde_json::Value| {
        let name = scene["name"].as_str().unwrap().to_owned();
        let texts = scene["prompts"].as_array().unwrap().iter();
        let texts = texts.filter_map(|prompt| prompt["text"].as_str().map(Prompt::text));
        let image = Image::open(format!("{folder}/{name}.png")).unwrap();
        (image, texts.take(3).collect())
    };
    scenes.into_iter().take(2).map(scene).collect()
}

fn assert_near(got: (&Mask, f32), want: (&Mask, f32), dtype: DType) {
    let (iou, off) = (got.0.iou(want.0), (got.1 - want.1).abs());
    println!(
        "{dtype:?}: IoU {iou:.4}, score {:.3} for {:.3}",
        got.1, want.1
    );
    assert!(iou >= LEAST_IOU || want.0.area() < 64, "IoU {iou}");
    assert!(off <= score_tolerance(dtype), "score off by {off}");
}

#[test]
fn half_precision_finds_and_cuts_what_f32_does() {
    let exact = model(DType::F32);
    for dtype in [DType::BF16, DType::F16] {
        let half = model(dtype);
        let mut compared = 0;
        for (image, prompts) in scenes() {
            let run = &mut Run::default();
            let mut find = |model: &Sam3| {
                let embedding = model.encode_image(&image, run).unwrap();
                let prompts = concept::encode(model, &prompts, run).unwrap();
                let options = Options::default();
                let found = concept::predict(model, &embedding, &prompts, &options, run).unwrap();
                let clicked = model.interactive_embedding(&embedding).unwrap();
                (found, clicked)
            };
            let ((want, exact_image), (got, half_image)) = (find(&exact), find(&half));
            for (got, want) in got.iter().zip(&want) {
                let off = (got.presence - want.presence).abs();
                assert!(off <= score_tolerance(dtype), "presence off by {off}");
                // What scores near the threshold may fall on either side.
                let sure = |score: f32| (score - 0.5).abs() > score_tolerance(dtype);
                for wanted in want.instances.iter().filter(|i| sure(i.score)) {
                    let nearest = got.instances.iter().max_by(|a, b| {
                        let iou = |mask: &Mask| mask.iou(&wanted.mask);
                        iou(&a.mask).total_cmp(&iou(&b.mask))
                    });
                    let got = nearest.expect("an object that f32 finds is missing");
                    assert_near((&got.mask, got.score), (&wanted.mask, wanted.score), dtype);
                    compared += 1;
                }
            }
            let options = interactive::Options {
                multimask: Multimask::One,
                ..interactive::Options::default()
            };
            for wanted in want.iter().flat_map(|found| &found.instances).take(3) {
                let click = [VisualPrompt::bbox(wanted.bbox)];
                let mut cut = |model: &Sam3, image| {
                    let found = interactive::predict(model, image, &click, &options, run).unwrap();
                    found[0].masks[0].clone()
                };
                let (want, got) = (cut(&exact, &exact_image), cut(&half, &half_image));
                assert_near(
                    (&got.mask, got.iou_score),
                    (&want.mask, want.iou_score),
                    dtype,
                );
                compared += 1;
            }
        }
        assert!(compared >= 8, "only {compared} masks compared");
    }
}
