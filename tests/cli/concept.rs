//! Concept files: written from boxes in pictures, looked for in others.

use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::assert::Assert;
use predicates::prelude::*;
use predicates::str::contains;

use crate::{json, sam3};

/// A square of a color on a plain ground; the second one is blue.
fn picture(folder: &Path, name: &str, (x, y): (u32, u32), color: [u8; 3]) -> PathBuf {
    let path = folder.join(name);
    let pixels = image::RgbImage::from_fn(224, 224, |u, v| {
        let square = |x: u32, y: u32| u.abs_diff(x) < 28 && v.abs_diff(y) < 28;
        match (square(x, y), square(223 - x, 223 - y)) {
            (true, _) => image::Rgb(color),
            (_, true) => image::Rgb([40, 80, 220]),
            _ => image::Rgb([200, 200, 196]),
        }
    });
    pixels.save(&path).unwrap();
    path
}

const RED: [u8; 3] = [215, 35, 40];

fn save(folder: &Path, name: &str, exemplar: &str) -> Assert {
    let shown = picture(folder, "shown.png", (60, 70), RED);
    let mut command = sam3();
    command.args(["concept", "save", "--exemplar"]);
    command.arg(format!("{}:{exemplar}", shown.display()));
    command.arg("-o").arg(folder.join(name)).assert()
}

#[test]
fn what_one_picture_shows_is_found_in_others() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let done = save(folder, "bolt.safetensors", "32,42,88,98").success();
    done.stderr(contains("bolt, 1 exemplar of 1 picture"));
    let file = folder.join("bolt.safetensors");

    let searched = picture(folder, "searched.png", (150, 90), RED);
    let mut segment = sam3();
    segment
        .args(["segment", "--format", "json", "--concept"])
        .arg(&file)
        .arg(&searched);
    let done = segment
        .assert()
        .success()
        .stderr(contains("bolt: 1 object"));
    let document = json(&done.get_output().stdout);
    assert_eq!(document["prompts"][0]["text"], "bolt");

    let out = folder.join("out");
    let label = |concept: &Path, more: &[&str]| {
        let mut label = sam3();
        label
            .arg("label")
            .arg(&searched)
            .arg("--concept")
            .arg(concept);
        label.arg("-o").arg(&out).args(more).assert()
    };
    label(&file, &[])
        .success()
        .stdout(contains("bolt: 1 object in 1 picture"));
    label(&file, &["--resume"]).success();
    // The same name, and other tokens.
    fs::create_dir(folder.join("other")).unwrap();
    save(folder, "other/bolt.safetensors", "30,40,90,100").success();
    let other = folder.join("other/bolt.safetensors");
    label(&other, &["--resume"])
        .failure()
        .stderr(contains("concepts"));
    let mut both = sam3();
    both.arg("segment")
        .arg(&searched)
        .arg("--concept")
        .arg(&file)
        .arg("--concept")
        .arg(&other);
    both.assert()
        .failure()
        .stderr(contains("two concepts are called \"bolt\""));
}

#[test]
fn what_cannot_be_a_concept_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let says = |done: Assert, want: &str| drop(done.failure().stderr(contains(want)));
    says(
        save(folder, "a.safetensors", "300,300,340,340"),
        "outside the image",
    );
    says(save(folder, "a.safetensors", "1,2,3"), "four numbers");
    says(
        save(folder, "none/a.safetensors", "32,42,88,98"),
        "does not exist",
    );
    fs::write(folder.join("a.safetensors"), "mine").unwrap();
    let kept = save(folder, "a.safetensors", "32,42,88,98").failure();
    kept.stderr(contains("a.safetensors").and(contains("bolt").not()));
    assert_eq!(fs::read(folder.join("a.safetensors")).unwrap(), b"mine");

    let searched = picture(folder, "searched.png", (150, 90), RED);
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("weights/demo.safetensors");
    let segment = |concept: &Path| {
        let mut command = sam3();
        command
            .arg("segment")
            .arg(&searched)
            .arg("--concept")
            .arg(concept)
            .assert()
    };
    says(segment(&demo), "is no concept");
    says(segment(&folder.join("missing")), "does not exist");
    save(folder, "b.safetensors", "32,42,88,98").success();
    let mut of_another = sam3();
    of_another
        .args(["convert", "--dtype", "bf16"])
        .arg(&demo)
        .arg(folder.join("bf16.safetensors"));
    of_another.assert().success();
    let mut command = sam3();
    command
        .arg("segment")
        .arg(&searched)
        .arg("--concept")
        .arg(folder.join("b.safetensors"));
    let done = command
        .arg("-m")
        .arg(folder.join("bf16.safetensors"))
        .assert();
    says(done, "make it anew with these");
}
