//! `sam3 label` and `sam3 merge` as a user meets them, with the built-in model.

mod classify;
mod eval;
mod faults;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command as Process;
use std::time::Duration;

use assert_cmd::Command;
use predicates::prelude::*;
use predicates::str::contains;
use serde_json::Value;

const CLASSES: &str = "circle|disc:0.4, triangle, square";

/// A folder with small scenes of shapes, and one for results.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new(pictures: usize) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        for i in 0..pictures {
            let path = folder
                .input()
                .join(format!("{}/scene {i:02}.png", ["a", "b"][i % 2]));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            scene(i).save(path).unwrap();
        }
        folder
    }

    fn input(&self) -> PathBuf {
        self.0.path().join("in")
    }

    fn out(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn label(&self, out: &str) -> Command {
        let mut command = Command::cargo_bin("sam3").unwrap();
        command
            .arg("label")
            .arg(self.input())
            .arg("-o")
            .arg(self.out(out));
        command.args(["--text", CLASSES, "--format", FORMATS]);
        command
    }
}

const FORMATS: &str = "coco,coco-polygon,yolo,labelstudio,cvat,voc,imagefolder,masks,cutout,csv";

/// A disc and a square on a plain ground, elsewhere in every scene.
fn scene(i: usize) -> image::RgbImage {
    let (x, y) = (60 + 13 * (i as u32 % 5), 50 + 17 * (i as u32 % 7));
    image::RgbImage::from_fn(320, 240, |u, v| {
        let disc = u.abs_diff(x).pow(2) + v.abs_diff(y).pow(2) < 32 * 32;
        let square = u.abs_diff(240) < 28 && v.abs_diff(230 - y) < 28;
        match (disc, square) {
            (true, _) => image::Rgb([30, 60, 200]),
            (_, true) => image::Rgb([200, 40, 40]),
            _ => image::Rgb([225, 225, 215]),
        }
    })
}

/// Every file below a folder but those of `.sam3`, with its bytes.
fn files(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut open = vec![root.to_path_buf()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path
                .strip_prefix(root)
                .unwrap()
                .to_str()
                .unwrap()
                .to_string();
            if path.is_dir() && name != ".sam3" {
                open.push(path);
            } else if path.is_file() {
                found.insert(name, fs::read(path).unwrap());
            }
        }
    }
    found
}

fn assert_same(got: &Path, want: &Path) {
    let (got, want) = (files(got), files(want));
    let names = |files: &BTreeMap<String, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&got), names(&want));
    for (name, bytes) in want {
        assert!(got[&name] == bytes, "{name} differs");
    }
}

fn coco(out: &Path) -> Value {
    serde_json::from_slice(&fs::read(out.join("coco.json")).unwrap()).unwrap()
}

#[test]
fn a_folder_becomes_a_data_set_in_every_format() {
    let folder = Folder::new(6);
    let output = folder
        .label("out")
        .args(["--preview", "4"])
        .assert()
        .success()
        .stdout(
            contains("6 pictures, 0 without objects, 0 failed").and(contains("square: 6 objects")),
        );
    let text = String::from_utf8(output.get_output().stdout.clone()).unwrap();
    assert!(text.contains("circle: "), "{text}");
    let document = coco(&folder.out("out"));
    let names: Vec<&str> = document["images"]
        .as_array()
        .unwrap()
        .iter()
        .map(|image| image["file_name"].as_str().unwrap())
        .collect();
    assert_eq!(
        names[..4],
        [
            "a/scene 00.png",
            "a/scene 02.png",
            "a/scene 04.png",
            "b/scene 01.png"
        ]
    );
    let written = files(&folder.out("out"));
    for name in [
        "coco-polygon.json",
        "yolo/data.yaml",
        "labelstudio.json",
        "cvat.xml",
        "voc/SegmentationClass/a/scene 00.png",
        "imagefolder/train/metadata.jsonl",
        "labels.csv",
        "preview.png",
    ] {
        assert!(written.contains_key(name), "{name}");
    }
}

#[test]
fn a_killed_run_continues_to_the_same_bytes() {
    let folder = Folder::new(8);
    folder.label("want").assert().success();
    let binary = assert_cmd::cargo::cargo_bin("sam3");
    let mut kills = 0;
    for attempt in 0..20u64 {
        let mut run = Process::new(&binary)
            .arg("label")
            .arg(folder.input())
            .arg("-o")
            .arg(folder.out("got"))
            .args(["--text", CLASSES, "--format", FORMATS, "--resume", "-q"])
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(150 + 170 * attempt));
        if run.try_wait().unwrap().is_some() {
            break;
        }
        run.kill().unwrap();
        run.wait().unwrap();
        kills += 1;
    }
    assert!(kills > 1, "the run ended before it could be killed");
    folder.label("got").arg("--resume").assert().success();
    assert_same(&folder.out("got"), &folder.out("want"));
}

#[test]
fn a_picture_that_changed_is_labeled_again() {
    let folder = Folder::new(3);
    folder.label("got").assert().success();
    let changed = folder.input().join("b/scene 01.png");
    scene(11).save(&changed).unwrap();
    let seen = fs::File::options().append(true).open(&changed).unwrap();
    let later = std::time::SystemTime::now() + Duration::from_secs(5);
    seen.set_modified(later).unwrap();
    folder
        .label("got")
        .arg("--resume")
        .assert()
        .success()
        .stderr(contains("2 of 3 pictures done"))
        .stdout(contains("1 picture in "));
    folder.label("want").assert().success();
    assert_same(&folder.out("got"), &folder.out("want"));
}

#[test]
fn parts_that_are_merged_are_the_whole() {
    let folder = Folder::new(7);
    folder.label("want").assert().success();
    let merge = || {
        let mut command = Command::cargo_bin("sam3").unwrap();
        command.arg("merge").arg(folder.out("got"));
        command
    };
    for part in ["2/3", "0/3"] {
        folder
            .label("got")
            .args(["--shard", part])
            .assert()
            .success();
    }
    merge()
        .assert()
        .failure()
        .stderr(contains("not finished: 1/3"));
    folder
        .label("got")
        .args(["--shard", "1/3"])
        .assert()
        .success();
    merge().assert().success().stdout(contains("7 pictures"));
    assert_same(&folder.out("got"), &folder.out("want"));
}

#[test]
fn two_engines_share_the_pictures() {
    let folder = Folder::new(7);
    folder.label("want").assert().success();
    let mut command = folder.label("got");
    command.args(["--device", "cpu,cpu"]);
    command.assert().success().stdout(contains("7 pictures"));
    assert_same(&folder.out("got"), &folder.out("want"));
    let picture = folder.input().join("a/scene 00.png");
    let mut segment = Command::cargo_bin("sam3").unwrap();
    segment
        .arg("segment")
        .arg(picture)
        .args(["--text", "circle"]);
    segment.args(["--device", "cpu,cpu"]);
    segment
        .assert()
        .failure()
        .stderr(contains("only `sam3 label`"));
}

#[test]
fn a_bad_picture_is_said_and_skipped_and_strict_stops() {
    let folder = Folder::new(3);
    fs::write(folder.input().join("a/bad.jpg"), "no image").unwrap();
    fs::write(folder.input().join("a/empty.png"), "").unwrap();
    folder
        .label("out")
        .assert()
        .success()
        .stdout(
            contains("3 pictures, 0 without objects, 2 failed")
                .and(contains("failed: a/bad.jpg: ")),
        )
        .stderr(contains("skipped a/empty.png: "));
    let images = coco(&folder.out("out"))["images"].as_array().unwrap().len();
    assert_eq!(images, 3);
    folder
        .label("strict")
        .arg("--strict")
        .assert()
        .failure()
        .stderr(contains("a/bad.jpg: "));
}

#[test]
fn other_options_and_a_second_run_are_refused() {
    let folder = Folder::new(1);
    folder.label("out").assert().success();
    folder
        .label("out")
        .assert()
        .failure()
        .stderr(contains("--resume continues them"));
    folder
        .label("out")
        .args(["--resume", "--nms", "0.5"])
        .assert()
        .failure()
        .stderr(contains("made with classes"));
    folder.label("out").arg("--resume").assert().success();
}

#[test]
fn equal_stems_need_a_flag() {
    let folder = Folder::new(1);
    fs::copy(
        folder.input().join("a/scene 00.png"),
        folder.input().join("a/scene 00.bmp"),
    )
    .unwrap();
    folder
        .label("out")
        .assert()
        .failure()
        .stderr(contains("--keep-extension tells them apart"));
    folder
        .label("out")
        .arg("--keep-extension")
        .assert()
        .success();
    assert!(folder.out("out/yolo/labels").exists());
}

#[test]
fn everything_makes_a_set_of_one_class() {
    let folder = Folder::new(1);
    Command::cargo_bin("sam3")
        .unwrap()
        .arg("label")
        .arg(folder.input())
        .arg("-o")
        .arg(folder.out("out"))
        .args([
            "--everything",
            "--points-per-side",
            "8",
            "--pred-iou-thresh",
            "0.5",
        ])
        .assert()
        .success()
        .stdout(contains("object: "));
    let document = coco(&folder.out("out"));
    assert_eq!(document["categories"][0]["name"], "object");
    assert!(!document["annotations"].as_array().unwrap().is_empty());
}

#[test]
fn what_makes_no_sense_is_refused_before_any_work() {
    let folder = Folder::new(1);
    for (args, want) in [
        (&["--text", "car,,dog"][..], "needs words"),
        (&["--text", "car:2"][..], "not in 0..1"),
        (&["--text", "car,car"][..], "appears twice"),
        (
            &["--text", "car", "--format", "darknet"][..],
            "use one of coco",
        ),
        (&["--text", "car", "--shard", "3/3"][..], "must be I/N"),
        (
            &["--text", "car", "--split", "1.5"][..],
            "must be from 0 to 1",
        ),
        (
            &["--text", "car", "--everything"][..],
            "cannot be used with",
        ),
        (&[][..], "required"),
    ] {
        let mut command = Command::cargo_bin("sam3").unwrap();
        command
            .arg("label")
            .arg(folder.input())
            .arg("-o")
            .arg(folder.out("out"))
            .args(args);
        command.assert().failure().stderr(contains(want));
    }
    assert!(!folder.out("out").exists());
}
