//! The trained demo model and its goldens.

use std::path::{Path, PathBuf};

use candle::{DType, Device, Tensor};
use candle_sam3::Trace;
use candle_sam3::image::Image;
use candle_sam3::mask::BoxXyxy;
use candle_sam3::models::sam3::{ExemplarBox, ImageEmbedding, Sam3};
use candle_sam3::predict::concept::{self, Exemplar, Options, Prompt};
use candle_sam3::text::Tokenizer;
use candle_sam3::weights;
use candle_sam3::{LoadOptions, Run};

use crate::reference::{Reference, check};

fn model() -> Sam3 {
    Sam3::load(&weights::demo().unwrap(), &LoadOptions::default()).unwrap()
}

fn tests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}

/// The scenes that the goldens are about, with their pictures.
pub fn scenes() -> Vec<(serde_json::Value, Image)> {
    let json = std::fs::read(tests().join("scenes/scenes.json")).unwrap();
    let scenes: Vec<serde_json::Value> = serde_json::from_slice(&json).unwrap();
    let open = |scene: serde_json::Value| {
        let file = format!("scenes/{}.png", scene["name"].as_str().unwrap());
        (scene, Image::open(tests().join(file)).unwrap())
    };
    scenes.into_iter().take(2).map(open).collect()
}

/// A box of `scenes.json`, in pixels.
pub fn bbox(value: &serde_json::Value) -> BoxXyxy {
    let [x0, y0, x1, y1]: [f32; 4] = serde_json::from_value(value.clone()).unwrap();
    BoxXyxy { x0, y0, x1, y1 }
}

/// Every second row and column of maps (N, H, W).
pub fn halved(maps: &Tensor) -> Tensor {
    let every_second = |n: usize| Tensor::arange_step(0u32, n as u32, 2, &Device::Cpu).unwrap();
    let (_, h, w) = maps.dims3().unwrap();
    let rows = maps.index_select(&every_second(h), 1).unwrap();
    rows.index_select(&every_second(w), 2).unwrap()
}

const EXEMPLARS_ALONE: &str = "visual";

#[test]
fn every_prompt_matches_the_goldens() {
    let golden = Reference::open(&tests().join("golden/demo.safetensors"));
    let model = model();
    let detector = model.detector();
    for (s, (scene, image)) in scenes().iter().enumerate() {
        let embedding = model.encode_image(image, &mut Run::default()).unwrap();
        for (p, prompt) in scene["prompts"].as_array().unwrap().iter().enumerate() {
            let want = |part: &str| golden.tensor(&format!("s{s}.p{p}.{part}"));
            println!("scene {s}: {prompt}");
            let text = prompt["text"].as_str().unwrap_or(EXEMPLARS_ALONE);
            let text = model.encode_text(text).unwrap();
            let exemplar = |e: &serde_json::Value| {
                let positive = e["positive"].as_bool().unwrap();
                let bbox = bbox(&e["box"]);
                Exemplar { bbox, positive }.normalize(image.size())
            };
            let boxes = prompt["boxes"].as_array().unwrap().iter();
            let boxes: Vec<ExemplarBox> = boxes.map(exemplar).collect();
            let features = &embedding.features;
            let prompt = [(&text.features, &boxes[..])];
            let got = detector
                .ground(features, &prompt, &mut Run::default())
                .unwrap();
            let presence = &got.found.presence_logit;
            check("presence", presence, &want("presence"), 1e-4);
            check("boxes", &got.found.boxes, &want("pred_boxes"), 1e-4);
            check("logits", &got.logits, &want("pred_logits"), 1e-4);
            let semantic = detector.semantic(&got.pixels).unwrap();
            let semantic = semantic.flatten_to(1).unwrap();
            check("semantic", &halved(&semantic), &want("semantic"), 1e-4);
            let queries = want("queries");
            if queries.elem_count() > 0 {
                let masks = detector.masks(&got.pixels, &got.found.hs).unwrap();
                let masks = masks.squeeze(0).unwrap().index_select(&queries, 0).unwrap();
                check("masks", &halved(&masks), &want("pred_masks"), 1e-4);
            }
        }
    }
}

#[test]
fn the_goldens_token_ids_are_the_tokenizers() {
    let golden = Reference::open(&tests().join("golden/demo.safetensors"));
    let tokenizer = Tokenizer::shared();
    for (s, (scene, _)) in scenes().iter().enumerate() {
        for (p, prompt) in scene["prompts"].as_array().unwrap().iter().enumerate() {
            let want = golden.tensor(&format!("s{s}.p{p}.ids"));
            let text = prompt["text"].as_str().unwrap_or(EXEMPLARS_ALONE);
            let got = tokenizer.encode(text, 32).unwrap().ids;
            let got: Vec<i64> = got.iter().map(|id| *id as i64).collect();
            assert_eq!(got, want.to_vec1::<i64>().unwrap());
        }
    }
}

/// Several prompts at once are the prompts one by one.
#[test]
fn a_batch_of_prompts_equals_single_prompts() {
    let model = model();
    let image = Image::open(tests().join("scenes/shapes.png")).unwrap();
    let embedding = model.encode_image(&image, &mut Run::default()).unwrap();
    let prompts = [
        Prompt::text("blue circle"),
        Prompt::text("triangles"),
        Prompt::text("blue circle"),
    ];
    let together = answers(&model, &embedding, &prompts);
    for (prompt, both) in prompts.iter().zip(&together) {
        let alone = answers(&model, &embedding, std::slice::from_ref(prompt));
        let scores =
            |p: &concept::Prediction| p.instances.iter().map(|i| i.score).collect::<Vec<_>>();
        assert_eq!(scores(both), scores(&alone[0]));
    }
}

fn answers(model: &Sam3, image: &ImageEmbedding, prompts: &[Prompt]) -> Vec<concept::Prediction> {
    let run = &mut Run::default();
    let prompts = concept::encode(model, prompts, run).unwrap();
    concept::predict(model, image, &prompts, &Options::default(), run).unwrap()
}

/// Half precision runs and finds the same objects.
#[test]
fn half_precision_finds_the_same_objects() {
    let image = Image::open(tests().join("scenes/shapes.png")).unwrap();
    for dtype in [DType::BF16, DType::F16] {
        let options = LoadOptions {
            dtype,
            ..LoadOptions::default()
        };
        let model = Sam3::load(&weights::demo().unwrap(), &options).unwrap();
        let embedding = model.encode_image(&image, &mut Run::default()).unwrap();
        let prompts = [Prompt::text("blue circle"), Prompt::text("triangles")];
        let found = answers(&model, &embedding, &prompts);
        let counts: Vec<usize> = found.iter().map(|p| p.instances.len()).collect();
        assert_eq!(counts, [1, 2], "{dtype:?}");
    }
}

#[test]
fn a_trace_holds_every_stage_and_can_be_read_back() {
    let model = model();
    let image = Image::open(tests().join("scenes/shapes.png")).unwrap();
    let mut trace = Trace::default();
    let run = &mut Run::traced(&mut trace);
    let embedding = model.encode_image(&image, run).unwrap();
    let prompts = concept::encode(&model, &[Prompt::text("triangles")], run).unwrap();
    concept::predict(&model, &embedding, &prompts, &Options::default(), run).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("stages.safetensors");
    trace.save(&path).unwrap();
    let stages = candle::safetensors::load(&path, &Device::Cpu).unwrap();
    for name in [
        "pixel_values",
        "trunk",
        "neck.0",
        "neck.1",
        "neck.2",
        "prompts.0.text_features",
        "prompts.0.geometry",
        "prompts.0.prompt",
        "prompts.0.encoder",
        "prompts.0.hs",
        "prompts.0.pred_boxes",
        "prompts.0.presence_logit",
        "prompts.0.pred_logits",
        "prompts.0.pixel_embed",
        "prompts.0.pred_masks",
    ] {
        let stage: &Tensor = stages.get(name).unwrap_or_else(|| panic!("no {name}"));
        assert!(stage.elem_count() > 0);
    }
}
