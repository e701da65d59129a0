//! The trained demo model: its goldens, and the objects that it finds.

use std::path::{Path, PathBuf};

use candle::{DType, Device, Tensor};
use candle_sam3::Trace;
use candle_sam3::image::Image;
use candle_sam3::models::sam3::{ExemplarBox, LoadOptions, Sam3};
use candle_sam3::text::Tokenizer;
use candle_sam3::predict::concept::{self, Exemplar, Options, Prompt};
use candle_sam3::weights;

use crate::reference::{Reference, check};

fn model() -> Sam3 {
    Sam3::load(&weights::demo().unwrap(), &LoadOptions::default()).unwrap()
}

fn tests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}

#[test]
fn every_prompt_matches_the_goldens() {
    let golden = Reference::open(&tests().join("golden/demo.safetensors"));
    let model = model();
    let detector = model.detector();
    for scene in 0..3 {
        let pixels = golden.tensor(&format!("s{scene}.image"));
        let (h, w, _) = pixels.dims3().unwrap();
        let pixels: Vec<u8> = pixels.flatten_all().unwrap().to_vec1().unwrap();
        let image = Image::from_rgb8(w, h, pixels).unwrap();
        let embedding = model.encode_image(&image).unwrap();
        for (k, prompt) in golden.metadata(&format!("s{scene}")).as_array().unwrap().iter().enumerate() {
            let p = format!("s{scene}.p{k}.");
            let text = prompt["text"].as_str().unwrap();
            println!("scene {scene}: {text}");
            let text = model.encode_text(text).unwrap();
            let boxes: Vec<ExemplarBox> = prompt["box"]
                .as_array()
                .map(|b| ExemplarBox {
                    cxcywh_norm: std::array::from_fn(|i| b[i].as_f64().unwrap() as f32),
                    positive: true,
                })
                .into_iter()
                .collect();
            let image = &embedding.features;
            let got = detector.ground(image, &text.features, &boxes, &mut Trace::off()).unwrap();
            check("presence", &got.found.presence_logit, &golden.tensor(&format!("{p}presence")), 1e-4);
            check("boxes", &got.found.boxes, &golden.tensor(&format!("{p}pred_boxes")), 1e-4);
            check("logits", &got.logits, &golden.tensor(&format!("{p}pred_logits")), 1e-4);
            let masks = detector.masks(&got.pixels, &got.found.hs).unwrap();
            check("masks", &masks, &golden.tensor(&format!("{p}pred_masks")), 1e-4);
            let semantic = detector.semantic(&got.pixels).unwrap();
            check("semantic", &semantic, &golden.tensor(&format!("{p}semantic")), 1e-4);
        }
    }
}

#[test]
fn the_goldens_token_ids_are_the_tokenizers() {
    let golden = Reference::open(&tests().join("golden/demo.safetensors"));
    let tokenizer = Tokenizer::shared();
    for (k, prompt) in golden.metadata("s0").as_array().unwrap().iter().enumerate() {
        let want = golden.tensor(&format!("s0.p{k}.ids")).to_vec1::<i64>().unwrap();
        let got = tokenizer.encode(prompt["text"].as_str().unwrap(), 32).unwrap().ids;
        assert_eq!(got.iter().map(|id| *id as i64).collect::<Vec<_>>(), want);
    }
}

/// Each prompt of the scene finds the expected objects and nothing else.
#[test]
fn words_and_exemplars_find_exactly_the_right_objects() {
    let model = model();
    for scene in [0, 1] {
        let image = Image::open(tests().join(format!("scenes/scene{scene}.png"))).unwrap();
        let json = std::fs::read(tests().join(format!("scenes/scene{scene}.json"))).unwrap();
        let world: serde_json::Value = serde_json::from_slice(&json).unwrap();
        let side = image.width() as f32;
        let bbox = |value: &serde_json::Value| {
            let [cx, cy, w, h]: [f32; 4] = serde_json::from_value(value.clone()).unwrap();
            candle_sam3::mask::BoxXyxy::from_cxcywh_norm([cx, cy, w, h], side as usize, side as usize)
        };
        let embedding = model.encode_image(&image).unwrap();
        for prompt in world["prompts"].as_array().unwrap() {
            let asked = match prompt["box"].is_null() {
                true => Prompt::text(prompt["text"].as_str().unwrap()),
                false => Prompt::exemplars(vec![Exemplar { bbox: bbox(&prompt["box"]), positive: true }]),
            };
            let found = concept::predict(&model, &embedding, &[asked], &Options::default()).unwrap();
            let expected = prompt["expected_ids"].as_array().unwrap();
            assert_eq!(found[0].instances.len(), expected.len(), "scene {scene}: {prompt}");
            for id in expected {
                let want = bbox(&world["objects"][id.as_u64().unwrap() as usize - 1]["box_cxcywh"]);
                let best = found[0].instances.iter().map(|i| i.bbox.iou(want)).fold(0., f32::max);
                assert!(best > 0.7, "scene {scene}: {prompt}: object {id} has box IoU {best}");
            }
        }
    }
}

/// Several prompts at once are the prompts one by one.
#[test]
fn a_batch_of_prompts_equals_single_prompts() {
    let model = model();
    let image = Image::open(tests().join("scenes/scene1.png")).unwrap();
    let embedding = model.encode_image(&image).unwrap();
    let prompts = [Prompt::text("blue circle"), Prompt::text("triangles"), Prompt::text("blue circle")];
    let together = concept::predict(&model, &embedding, &prompts, &Options::default()).unwrap();
    for (prompt, both) in prompts.iter().zip(&together) {
        let alone =
            concept::predict(&model, &embedding, std::slice::from_ref(prompt), &Options::default()).unwrap();
        let scores = |p: &concept::Prediction| p.instances.iter().map(|i| i.score).collect::<Vec<_>>();
        assert_eq!(scores(both), scores(&alone[0]));
    }
}

/// Half precision runs and finds the same objects.
#[test]
fn half_precision_finds_the_same_objects() {
    let image = Image::open(tests().join("scenes/scene1.png")).unwrap();
    for dtype in [DType::BF16, DType::F16] {
        let options = LoadOptions { dtype, ..LoadOptions::default() };
        let model = Sam3::load(&weights::demo().unwrap(), &options).unwrap();
        let embedding = model.encode_image(&image).unwrap();
        let prompts = [Prompt::text("blue circle"), Prompt::text("triangles")];
        let found = concept::predict(&model, &embedding, &prompts, &Options::default()).unwrap();
        let counts: Vec<usize> = found.iter().map(|p| p.instances.len()).collect();
        assert_eq!(counts, [1, 2], "{dtype:?}");
    }
}

#[test]
fn a_trace_holds_every_stage_and_can_be_read_back() {
    let model = model();
    let image = Image::open(tests().join("scenes/scene1.png")).unwrap();
    let mut trace = Trace::on();
    let embedding = model.encode_image_traced(&image, &mut trace).unwrap();
    let prompts = [Prompt::text("triangles")];
    concept::predict_traced(&model, &embedding, &prompts, &Options::default(), &mut trace).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("stages.safetensors");
    trace.save(&path).unwrap();
    let stages = candle::safetensors::load(&path, &Device::Cpu).unwrap();
    for name in [
        "pixel_values", "trunk", "neck.0", "neck.1", "neck.2", "prompts.0.text_features",
        "prompts.0.geometry", "prompts.0.prompt", "prompts.0.encoder", "prompts.0.hs",
        "prompts.0.pred_boxes", "prompts.0.presence_logit", "prompts.0.pred_logits",
        "prompts.0.pixel_embed", "prompts.0.pred_masks",
    ] {
        let stage: &Tensor = stages.get(name).unwrap_or_else(|| panic!("no {name}"));
        assert!(stage.elem_count() > 0);
    }
}
