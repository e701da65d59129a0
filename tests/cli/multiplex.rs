//! A small file of SAM 3.1: the built-in detector under its names, with an untrained tracker.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use candle::{Device, Tensor};
use predicates::str::contains;
use serde_json::{Value, json};

use crate::{sam3, scene};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn load(path: &str) -> HashMap<String, Tensor> {
    candle::safetensors::load(root().join(path), &Device::Cpu).unwrap()
}

/// Tensors whose values do not matter.
fn waves(shape: &[usize]) -> Tensor {
    let count = shape.iter().product::<usize>() as u32;
    let waves = Tensor::arange(0u32, count, &Device::Cpu).unwrap();
    let waves = waves.to_dtype(candle::DType::F32).unwrap();
    let waves = waves.affine(0.7, 0.).unwrap().sin().unwrap();
    waves.affine(0.05, 0.).unwrap().reshape(shape).unwrap()
}

/// Writes the file.
fn write(folder: &Path) -> PathBuf {
    let mut tensors = HashMap::new();
    for (name, tensor) in load("weights/demo.safetensors") {
        if name.starts_with("tracker.") {
            continue;
        }
        match name.contains("sam2_convs") {
            true => ["interactive_convs", "propagation_convs"].map(|neck| {
                tensors.insert(name.replace("sam2_convs", neck), tensor.clone());
            }),
            false => [(), ()].map(|()| {
                tensors.insert(name.clone(), tensor.clone());
            }),
        };
    }
    for (name, tensor) in load("tests/golden/multiplex.safetensors") {
        if let Some(name) = name.strip_prefix("weights.") {
            tensors.insert(name.to_string(), tensor);
        }
    }
    // The recorded tracker has narrower masks than the released one.
    let encoder = "tracker.model.maskmem_backbone.mask_downsampler.encoder";
    let channels = [32, 16, 64, 256, 1024, 64];
    for (i, window) in channels.windows(2).enumerate() {
        let side = if i < 4 { 3 } else { 1 };
        let mut put = |layer: usize, part: &str, tensor: Tensor| {
            tensors.insert(format!("{encoder}.{layer}.{part}"), tensor);
        };
        put(3 * i, "weight", waves(&[window[1], window[0], side, side]));
        put(3 * i, "bias", waves(&[window[1]]));
        if i < 4 {
            put(
                3 * i + 1,
                "weight",
                waves(&[window[1]]).affine(1., 1.).unwrap(),
            );
            put(3 * i + 1, "bias", waves(&[window[1]]));
        }
    }
    let bytes = fs::read(root().join("weights/demo.safetensors")).unwrap();
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let mut metadata = header.metadata().clone().unwrap();
    let mut config: Value = serde_json::from_str(&metadata["config"]).unwrap();
    config["tracker"] = json!({
        "heads": 8, "mlp": 2048, "iou_hidden": 256, "memory_layers": 2, "memory_ffn": 96
    });
    metadata.insert("config".into(), config.to_string());
    let path = folder.join("small.safetensors");
    let bytes = safetensors::serialize(tensors, Some(metadata)).unwrap();
    fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn texts_are_answered_exactly_as_by_sam3_with_the_same_tensors() {
    let folder = tempfile::tempdir().unwrap();
    let file = write(folder.path());
    let segment = |model: &[&str]| {
        let mut command = sam3();
        command.args(["segment", "--text", "blue circle, triangles"]);
        let command = command.args(["--format", "json"]).args(model).arg(scene());
        let output = command.assert().success();
        let document: Value = serde_json::from_slice(&output.get_output().stdout).unwrap();
        document["prompts"].clone()
    };
    let with_file = segment(&["--model", file.to_str().unwrap()]);
    assert_eq!(with_file[1]["instances"].as_array().unwrap().len(), 2);
    assert_eq!(with_file, segment(&[]));
}

fn frames(folder: &Path) -> PathBuf {
    let frames = folder.join("frames");
    fs::create_dir(&frames).unwrap();
    let picture = image::open(scene()).unwrap();
    for t in 0..5 {
        let moved = image::imageops::crop_imm(&picture, 3 * t, 0, 300, 300).to_image();
        moved.save(frames.join(format!("{t}.png"))).unwrap();
    }
    frames
}

fn lines(folder: &Path) -> Vec<Value> {
    let text = fs::read_to_string(folder.join("tracks.jsonl")).unwrap();
    let lines = text.lines().map(serde_json::from_str);
    lines.collect::<Result<_, _>>().unwrap()
}

#[test]
fn objects_are_followed_and_a_stopped_run_goes_on_to_the_same_result() {
    let folder = tempfile::tempdir().unwrap();
    let (file, frames) = (write(folder.path()), frames(folder.path()));
    let mask = folder.path().join("mask.png");
    let drawn = image::GrayImage::from_fn(300, 300, |x, y| {
        image::Luma([if (61..187).contains(&x) && (61..187).contains(&y) {
            255
        } else {
            0
        }])
    });
    drawn.save(&mask).unwrap();
    let mask = format!("2@0:{}", mask.display());
    for (name, prompt, objects) in [
        ("text", vec!["--text", "triangle"], 1),
        (
            "shown",
            vec![
                "--point",
                "1@0:124,124",
                "--mask",
                &mask,
                "--point",
                "3@2:60,200",
            ],
            3,
        ),
    ] {
        let run = |out: &Path, more: &[&str]| {
            let mut command = sam3();
            command.args(["track", "--save-every", "2", "--format", "davis", "--model"]);
            command.arg(&file).args(&prompt).args(more).arg(&frames);
            command.arg("-o").arg(out).assert()
        };
        let whole = folder.path().join(name).join("whole");
        run(&whole, &[]).success();
        let found = lines(&whole);
        assert_eq!(found.len(), 5, "{name}");
        let counts = found
            .iter()
            .map(|line| line["objects"].as_array().unwrap().len());
        assert_eq!(counts.max(), Some(objects), "{name}");
        let parts = folder.path().join(name).join("parts");
        let last = frames.join("4.png");
        let kept = fs::read(&last).unwrap();
        fs::write(&last, &kept[..200]).unwrap(); // a broken frame stops the run
        run(&parts, &[]).failure().stderr(contains("frame 4"));
        fs::write(&last, kept).unwrap();
        run(&parts, &["--resume"]).success();
        assert_eq!(lines(&parts), found, "{name}");
    }
}

#[test]
fn the_rules_of_the_original_sam31_are_refused_for_another_model() {
    let folder = tempfile::tempdir().unwrap();
    let frames = frames(folder.path());
    let mut command = sam3();
    command
        .args(["track", "--text", "star", "--like-official"])
        .arg(frames);
    command.assert().failure();
}
