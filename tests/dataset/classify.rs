//! `sam3 label --everything --classify`, with a CLIP whose weights mean nothing.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use assert_cmd::Command;
use candle::{Device, Tensor};
use predicates::prelude::*;
use predicates::str::contains;

use super::{Folder, coco};

const WIDTH: usize = 8;
const TOWER: &str =
    r#""hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2"#;

/// A folder as Hugging Face has it, of the smallest CLIP with all words.
fn write_clip(folder: &Path) {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    let mut tensors = HashMap::new();
    let mut add = |name: &str, shape: &[usize]| {
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| next()).collect();
        let tensor = Tensor::from_vec(values, shape, &Device::Cpu).unwrap();
        tensors.insert(name.to_string(), tensor);
    };
    add("logit_scale", &[]);
    for name in ["text_projection", "visual_projection"] {
        add(&format!("{name}.weight"), &[WIDTH, WIDTH]);
    }
    let (text, vision) = ("text_model.embeddings", "vision_model.embeddings");
    add(&format!("{text}.token_embedding.weight"), &[49408, WIDTH]);
    add(&format!("{text}.position_embedding.weight"), &[77, WIDTH]);
    add(&format!("{vision}.class_embedding"), &[WIDTH]);
    add(
        &format!("{vision}.patch_embedding.weight"),
        &[WIDTH, 3, 16, 16],
    );
    add(&format!("{vision}.position_embedding.weight"), &[5, WIDTH]);
    let norms = ["final_layer_norm", "pre_layrnorm", "post_layernorm"];
    for (tower, norms) in [("text_model", &norms[..1]), ("vision_model", &norms[1..])] {
        let block = format!("{tower}.encoder.layers.0");
        let norms = norms.iter().map(|norm| format!("{tower}.{norm}"));
        let own = [1, 2].map(|i| format!("{block}.layer_norm{i}"));
        for norm in norms.chain(own) {
            add(&format!("{norm}.weight"), &[WIDTH]);
            add(&format!("{norm}.bias"), &[WIDTH]);
        }
        let attention =
            ["q_proj", "k_proj", "v_proj", "out_proj"].map(|n| format!("self_attn.{n}"));
        for layer in attention
            .into_iter()
            .chain(["mlp.fc1".into(), "mlp.fc2".into()])
        {
            add(&format!("{block}.{layer}.weight"), &[WIDTH, WIDTH]);
            add(&format!("{block}.{layer}.bias"), &[WIDTH]);
        }
    }
    fs::create_dir_all(folder).unwrap();
    candle::safetensors::save(&tensors, folder.join("model.safetensors")).unwrap();
    let vision = format!(r#"{{{TOWER}, "image_size": 32, "patch_size": 16}}"#);
    let config = format!(
        r#"{{"model_type": "clip", "projection_dim": 8, "text_config": {{{TOWER}}}, "vision_config": {vision}}}"#
    );
    fs::write(folder.join("config.json"), config).unwrap();
}

fn label(folder: &Folder, out: &str, clip: &Path, classes: &str) -> Command {
    let mut command = Command::cargo_bin("sam3").unwrap();
    command.arg("label").arg(folder.input());
    command.arg("-o").arg(folder.out(out)).arg("--everything");
    command.args(["--points-per-side", "8", "--pred-iou-thresh", "0.5"]);
    command
        .args(["--classify", classes])
        .arg("--clip")
        .arg(clip);
    command
}

const CLASSES: &str = "disc|circle, square, the ground";

#[test]
fn objects_get_the_class_that_clip_finds_most_probable() {
    let folder = Folder::new(2);
    let clip = folder.out("clip");
    write_clip(&clip);
    let mut run = label(&folder, "out", &clip, CLASSES);
    let run = run.args(["--threshold", "0"]).assert().success();
    run.stdout(contains("2 pictures, ").and(contains("the ground: ")));
    let document = coco(&folder.out("out"));
    let categories = document["categories"].as_array().unwrap().iter();
    let names: Vec<_> = categories.map(|category| &category["name"]).collect();
    assert_eq!(names, ["disc", "square", "the ground"]);
    let annotations = document["annotations"].as_array().unwrap();
    let scores = annotations.iter().map(|a| a["score"].as_f64().unwrap());
    let scores: Vec<f64> = scores.collect();
    // Each the most probable of three.
    assert!(!scores.is_empty() && scores.iter().all(|s| (1.0 / 3.0..=1.0).contains(s)));

    let middle = scores
        .iter()
        .copied()
        .fold(0.0, f64::max)
        .midpoint(1.0 / 3.0);
    let mut run = label(&folder, "fewer", &clip, CLASSES);
    let run = run.args(["--threshold", &middle.to_string()]).assert();
    run.success();
    let fewer = coco(&folder.out("fewer"));
    let fewer = fewer["annotations"].as_array().unwrap().len();
    assert_eq!(fewer, scores.iter().filter(|s| **s > middle).count());
}

#[test]
fn another_clip_or_other_classes_do_not_resume_a_run() {
    let folder = Folder::new(1);
    let clip = folder.out("clip");
    write_clip(&clip);
    let resume = |classes: &str| {
        let mut command = label(&folder, "out", &clip, classes);
        command.arg("--resume").assert()
    };
    resume(CLASSES).success();
    resume(CLASSES)
        .success()
        .stderr(contains("1 of 1 picture done"));
    resume("disc, square").failure().stderr(contains("classes"));
    let path = clip.join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, bytes).unwrap();
    resume(CLASSES).failure().stderr(contains("clip"));
}

#[test]
fn a_clip_that_cannot_be_used_is_refused_before_any_work() {
    let folder = Folder::new(1);
    let clip = folder.out("clip");
    write_clip(&clip);
    let refused = |classes: &str, want: &str| {
        let mut command = label(&folder, "out", &clip, classes);
        command.assert().failure().stderr(contains(want));
    };
    refused("car", "name others as well");
    refused("car,,tree", "needs words");
    refused(
        &format!("car, {}", "very ".repeat(80)),
        "tokens; CLIP reads at most 75",
    );
    let many: Vec<String> = (0..1001).map(|i| format!("a{i}")).collect();
    refused(&many.join(","), "1001 phrases");

    let config = clip.join("config.json");
    let text = fs::read_to_string(&config).unwrap();
    for (from, to, want) in [
        ("\"clip\"", "\"siglip\"", "siglip"),
        ("16}", "8}", "not a CLIP of the sizes in its config.json"),
        ("\"model_type\"", "model_type", "config.json: "),
    ] {
        fs::write(&config, text.replacen(from, to, 1)).unwrap();
        refused("car, tree", want);
    }
    fs::remove_file(&config).unwrap();
    refused("car, tree", "config.json does not exist");
    fs::remove_file(clip.join("model.safetensors")).unwrap();
    refused("car, tree", "no weights in this directory");
    fs::remove_dir(&clip).unwrap();
    refused("car, tree", "--clip takes a folder");
    assert!(!folder.out("out").join("coco.json").exists());

    let mut command = Command::cargo_bin("sam3").unwrap();
    command.arg("label").arg(folder.input()).args([
        "-o",
        "out",
        "--text",
        "car",
        "--classify",
        "a, b",
    ]);
    let both = contains("--text").and(contains("--classify"));
    command.assert().failure().stderr(both);
}

#[test]
fn without_a_network_a_clip_of_the_cache_is_used_or_named() {
    let folder = Folder::new(1);
    let cache = folder.out("cache");
    let offline = || {
        let mut command = label(&folder, "out", Path::new("someone/clip"), CLASSES);
        command
            .env("HF_HUB_CACHE", &cache)
            .env("HF_HUB_OFFLINE", "1");
        command.assert()
    };
    let hints = contains("HF_HUB_OFFLINE")
        .and(contains("--clip DIR"))
        .and(contains("someone/clip"));
    offline().failure().stderr(hints);
    let repository = cache.join("models--someone--clip");
    write_clip(&repository.join("snapshots/0123456789abcdef"));
    fs::create_dir_all(repository.join("refs")).unwrap();
    fs::write(repository.join("refs/main"), "0123456789abcdef").unwrap();
    offline().success();
}
