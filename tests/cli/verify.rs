//! `sam3 verify`, on references that the demo model records of itself: what is tested here is that
//! every stage is compared and that differences show. `tests/parity` has the official code's.

use std::collections::BTreeMap;
use std::path::Path;

use candle::{DType, Device, Tensor};
use candle_sam3::image::Image;
use candle_sam3::mask::Mask;
use candle_sam3::models::sam3::Sam3;
use candle_sam3::predict::concept::{self, Options, Prompt};
use candle_sam3::predict::interactive;
use candle_sam3::weights::{self, WriteOptions};
use candle_sam3::{LoadOptions, Run, Trace, VisualPrompt};
use predicates::prelude::*;
use predicates::str::contains;

use crate::{json, sam3, scene};

const TEXT: &str = "triangles";
const POINT: [f32; 2] = [62., 92.];

fn pack<'a>(masks: impl IntoIterator<Item = &'a Mask>) -> Tensor {
    let mut bits = vec![];
    for mask in masks {
        bits.extend(
            (0..mask.height()).flat_map(|y| (0..mask.width()).map(move |x| mask.get(x, y))),
        );
    }
    let byte = |bits: &[bool]| {
        bits.iter()
            .enumerate()
            .map(|(i, b)| u8::from(*b) << (7 - i))
            .sum()
    };
    let bytes: Vec<u8> = bits.chunks(8).map(byte).collect();
    let n = bytes.len();
    Tensor::from_vec(bytes, n, &Device::Cpu).unwrap()
}

fn vector(values: Vec<f32>) -> Tensor {
    let n = values.len();
    Tensor::from_vec(values, n, &Device::Cpu).unwrap()
}

/// What the demo model makes of a text and a point.
fn record() -> BTreeMap<String, Tensor> {
    let options = LoadOptions {
        interactive: true,
        ..LoadOptions::default()
    };
    let model = Sam3::load(&weights::demo().unwrap(), &options).unwrap();
    let image = Image::open(scene()).unwrap();
    let mut trace = Trace::default();
    let run = &mut Run::traced(&mut trace);
    let embedding = model.encode_image(&image, run).unwrap();
    let all = Options {
        threshold: 0.,
        ..Options::default()
    };
    let prompts = concept::encode(&model, &[Prompt::text(TEXT)], run).unwrap();
    let found = concept::predict(&model, &embedding, &prompts, &all, run).unwrap();
    let mut tensors = BTreeMap::new();
    for (name, tensor) in trace.tensors() {
        tensors.insert(
            name.replace("prompts.0.", "t."),
            tensor.contiguous().unwrap(),
        );
    }
    let context = model.config().text_encoder.context_length();
    let ids = candle_sam3::text::Tokenizer::shared()
        .encode(TEXT, context)
        .unwrap()
        .ids;
    let ids = Tensor::from_vec(ids, (1, context), &Device::Cpu).unwrap();
    let semantic = model
        .detector()
        .semantic(&tensors["t.pixel_embed"])
        .unwrap();
    let instances = &found[0].instances;
    let corners = instances
        .iter()
        .flat_map(|i| [i.bbox.x0, i.bbox.y0, i.bbox.x1, i.bbox.y1]);
    let pixels: Vec<u8> = image.pixels().to_vec();
    let size = (image.height(), image.width(), 3);
    let clicked = model.interactive_embedding(&embedding).unwrap();
    let options = interactive::Options {
        multimask: interactive::Multimask::Three,
        ..interactive::Options::default()
    };
    let [x, y] = POINT;
    let click = VisualPrompt::point(x, y);
    let run = &mut Run::default();
    let clicked = interactive::predict_one(&model, &clicked, &click, &options, run).unwrap();
    let masks = &clicked.masks;
    let logits = masks.iter().flat_map(|m| m.low_res_logits.clone());
    tensors.extend(
        [
            (
                "image",
                Tensor::from_vec(pixels, size, &Device::Cpu).unwrap(),
            ),
            ("t.input_ids", ids.to_dtype(DType::I64).unwrap()),
            ("t.semantic_seg", semantic),
            (
                "t.scores",
                vector(instances.iter().map(|i| i.score).collect()),
            ),
            ("t.boxes", vector(corners.collect())),
            ("t.masks_packed", pack(instances.iter().map(|i| &i.mask))),
            ("c.low_res_logits", vector(logits.collect())),
            (
                "c.iou_scores",
                vector(masks.iter().map(|m| m.iou_score).collect()),
            ),
            ("c.masks_packed", pack(masks.iter().map(|m| &m.mask))),
        ]
        .map(|(name, tensor)| (name.to_string(), tensor)),
    );
    tensors
}

fn write(path: &Path, tensors: &BTreeMap<String, Tensor>) {
    let prompts = format!(
        r#"{{"t": {{"text": "{TEXT}", "boxes_xyxy_px": [], "labels": []}},
             "c": {{"points_xy_px": [{POINT:?}], "point_labels": [1], "multimask": true}}}}"#
    );
    let metadata = std::collections::HashMap::from([("prompts".to_string(), prompts)]);
    safetensors::serialize_to_file(tensors, Some(metadata), path).unwrap();
}

fn verify(reference: &Path) -> assert_cmd::Command {
    let mut command = sam3();
    command.arg("verify").arg("--reference").arg(reference);
    command
}

#[test]
fn every_stage_is_compared_and_a_difference_shows_where_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("reference.safetensors");
    let mut tensors = record();
    write(&path, &tensors);
    let all = contains("FAIL")
        .not()
        .and(contains("25 of 25 pass"))
        .and(contains("t.pixel_embed"))
        .and(contains("end to end t.masks"))
        .and(contains("end to end c.low_res_logits"));
    verify(&path).assert().success().stdout(all);

    let output = verify(&path)
        .args(["--json", "-q"])
        .assert()
        .success()
        .stderr("");
    let document = json(&output.get_output().stdout);
    assert_eq!(document["passes"], true);
    assert_eq!(document["dtype"], "f32");
    assert_eq!(document["checks"].as_array().unwrap().len(), 25);

    // Half precision is farther away, and allowed to be.
    verify(&path).args(["--dtype", "bf16"]).assert().success();

    let wrong = (&tensors["t.hs"] * 1.01).unwrap();
    tensors.insert("t.hs".into(), wrong);
    write(&path, &tensors);
    let output = verify(&path).args(["--json", "-q"]).assert().code(1);
    let output = output.stderr(contains("beyond their limits"));
    let document = json(&output.get_output().stdout);
    let checks = document["checks"].as_array().unwrap();
    let failed = checks.iter().filter(|check| check["passes"] == false);
    let failed: Vec<_> = failed
        .map(|check| check["stage"].as_str().unwrap())
        .collect();
    assert!(failed.contains(&"t.hs"), "{failed:?}");
    assert!(!failed.contains(&"t.encoder") && !failed.contains(&"end to end t.scores"));
}

#[test]
fn what_is_not_compared_does_not_pass() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("reference.safetensors");
    let recorded = record();
    type Spoil = fn(&Tensor) -> Tensor;
    let spoiled: [(&str, Spoil); 2] = [
        ("t.input_ids", |ids| ids.zeros_like().unwrap()),
        ("t.text_features", |all| all.narrow(1, 0, 0).unwrap()),
    ];
    for (name, spoil) in spoiled {
        let mut tensors = recorded.clone();
        let spoilt = spoil(&tensors[name]);
        tensors.insert(name.into(), spoilt);
        write(&path, &tensors);
        let all = contains("t.text_features").and(contains("FAIL"));
        verify(&path).assert().code(1).stdout(all);
    }

    let mut tensors = recorded;
    tensors.insert(
        "t.surprise".into(),
        Tensor::new(&[1f32], &Device::Cpu).unwrap(),
    );
    write(&path, &tensors);
    let said = contains("25 of 25 pass; not compared: t.surprise\n");
    verify(&path).assert().success().stdout(said);
    let output = verify(&path).args(["--json", "-q"]).assert().success();
    let document = json(&output.get_output().stdout);
    assert_eq!(document["not_compared"], serde_json::json!(["t.surprise"]));

    let metadata = r#"{"c": {"points_xy_px": [[1, 2], [3, 4]], "point_labels": [1]}}"#;
    let metadata = std::collections::HashMap::from([("prompts".to_string(), metadata.to_string())]);
    safetensors::serialize_to_file(&tensors, Some(metadata), &path).unwrap();
    let says = "prompt `c`: 2 points or boxes have 1 labels";
    verify(&path).assert().code(1).stderr(contains(says));
}

#[test]
fn a_reference_that_lacks_something_says_what_and_how_to_make_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("reference.safetensors");
    let mut tensors = record();
    tensors.remove("t.encoder");
    tensors.remove("neck.1");
    write(&path, &tensors);
    let named = contains("neck.1, t.encoder").and(contains("dump_reference.py"));
    verify(&path).assert().code(1).stdout("").stderr(named);

    tensors.remove("image");
    write(&path, &tensors);
    verify(&path)
        .assert()
        .code(1)
        .stderr(contains("no `image`"));

    // weights are no reference
    let demo = folder.path().join("demo.safetensors");
    weights::demo()
        .unwrap()
        .write(&demo, &WriteOptions::default(), |_| true, |_, _| ())
        .unwrap();
    verify(&demo)
        .assert()
        .code(1)
        .stderr(contains("no `prompts`"));
}
