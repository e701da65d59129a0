//! `sam3 eval`: the figures of the reference programs, and those of the built-in model.

use std::fs;
use std::path::PathBuf;

use assert_cmd::Command;
use predicates::prelude::*;
use predicates::str::contains;
use serde_json::Value;

use super::{Folder, coco};

fn golden(name: &str) -> PathBuf {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/eval");
    PathBuf::from(folder).join(name)
}

fn eval() -> Command {
    let mut command = Command::cargo_bin("sam3").unwrap();
    command.arg("eval");
    command
}

fn figures(command: &mut Command) -> Value {
    let output = command.args(["--json", "-"]).assert().success();
    serde_json::from_slice(&output.get_output().stdout).unwrap()
}

#[test]
fn results_are_scored_without_a_model() {
    let mut command = eval();
    command.arg("--coco").arg(golden("eval_gt.json"));
    command.arg("--predictions").arg(golden("eval_pred_d.json"));
    let report = figures(command.args(["--metrics", "ap,box-ap"]));
    let want: Value =
        serde_json::from_slice(&fs::read(golden("eval_expected.json")).unwrap()).unwrap();
    for (ap, name) in report["ap"]
        .as_array()
        .unwrap()
        .iter()
        .zip(["d.segm", "d.bbox"])
    {
        let want = want[name]["stats"][0].as_f64().unwrap();
        assert!((ap["all"]["ap"].as_f64().unwrap() - want).abs() < 1e-9);
    }
    assert_eq!(report["model"], Value::Null);
}

#[test]
fn phrases_are_scored_without_a_model() {
    let files = ["a", "b", "c"].map(|who| golden(&format!("saco_gt_{who}.json")));
    let files: Vec<&str> = files.iter().map(|file| file.to_str().unwrap()).collect();
    let mut command = eval();
    command.arg("--saco").arg(files.join(","));
    command.arg("--predictions").arg(golden("saco_pred.json"));
    let report = figures(&mut command);
    let got = report["concept"][0]["cg_f1"].as_f64().unwrap();
    assert!((got - 0.24616207784278807).abs() < 1e-9);
}

#[test]
fn a_model_finds_again_what_it_labeled() {
    let folder = Folder::new(3);
    folder.label("out").assert().success();
    let mut command = eval();
    command.arg("--coco").arg(folder.out("out/coco.json"));
    command.arg("--images").arg(folder.input());
    let phrases = folder.out("phrases.toml");
    fs::write(&phrases, "triangle = \"triangles\"\n").unwrap();
    command.arg("--prompts").arg(phrases);
    let saved = folder.out("results.json");
    command.arg("--save").arg(&saved);
    let report = figures(command.args(["--metrics", "ap,cgf1"]));
    assert!(
        report["ap"][0]["all"]["ap"].as_f64().unwrap() > 0.99,
        "{report}"
    );
    assert!(report["concept"][0]["pm_f1"].as_f64().unwrap() > 0.99);
    assert!(report["model"].is_string());

    // The saved results give the same figures, and the table says that nothing changed.
    let earlier = folder.out("figures.json");
    fs::write(&earlier, report.to_string()).unwrap();
    let mut again = eval();
    again.arg("--coco").arg(folder.out("out/coco.json"));
    again
        .arg("--predictions")
        .arg(saved)
        .arg("--compare")
        .arg(earlier);
    again
        .args(["--metrics", "ap,cgf1"])
        .assert()
        .success()
        .stdout(
            contains("+0.0000")
                .and(contains("circle"))
                .and(contains("cgF1")),
        );
}

#[test]
fn boxes_and_clicks_find_the_objects() {
    let folder = Folder::new(2);
    folder.label("out").assert().success();
    let mut command = eval();
    command.arg("--coco").arg(folder.out("out/coco.json"));
    command.arg("--images").arg(folder.input());
    let report = figures(command.args(["--metrics", "box-miou,click-miou"]));
    let miou = report["miou"].as_array().unwrap();
    let prompts: Vec<&str> = miou.iter().map(|m| m["prompt"].as_str().unwrap()).collect();
    assert_eq!(prompts, ["box", "clicks: 1", "clicks: 3", "clicks: 5"]);
    let objects = coco(&folder.out("out"))["annotations"]
        .as_array()
        .unwrap()
        .len();
    for miou in miou {
        assert_eq!(miou["objects"], objects);
        assert!(miou["oracle"].as_f64().unwrap() > 0.8, "{miou}");
    }
}

#[test]
fn an_image_of_another_size_is_said() {
    let folder = Folder::new(2);
    folder.label("out").assert().success();
    let path = folder.input().join("a/scene 00.png");
    image::RgbImage::new(10, 10).save(path).unwrap();
    let mut command = eval();
    command.arg("--coco").arg(folder.out("out/coco.json"));
    let report = figures(command.arg("--images").arg(folder.input()));
    let failed = report["failed"][0].as_str().unwrap();
    assert!(
        failed.contains("10 x 10 as displayed, 320 x 240 in the ground truth"),
        "{failed}"
    );
}

#[test]
fn what_does_not_fit_together_is_refused() {
    let truth = golden("eval_gt.json");
    let truth = truth.to_str().unwrap();
    let results = golden("eval_pred_a.json");
    let results = results.to_str().unwrap();
    for (args, want) in [
        (&["--coco", truth][..], "required"),
        (&["--predictions", results][..], "required"),
        (
            &["--coco", truth, "--predictions", results, "--images", "."][..],
            "cannot be used with",
        ),
        (
            &[
                "--coco",
                truth,
                "--predictions",
                results,
                "--metrics",
                "box-miou",
            ][..],
            "need --images",
        ),
        (
            &["--saco", truth, "--predictions", results, "--metrics", "ap"][..],
            "only cgf1",
        ),
        (
            &["--coco", results, "--predictions", results][..],
            "eval_pred_a.json: ",
        ),
        (
            &["--coco", "missing.json", "--predictions", results][..],
            "missing.json does not exist",
        ),
    ] {
        eval().args(args).assert().failure().stderr(contains(want));
    }
}
