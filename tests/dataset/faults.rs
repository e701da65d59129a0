//! Faults in each stage of `sam3 label`: what they stop, what they leave, and that `--resume` makes up
//! for it. Pictures that cannot be decoded are in `main.rs`.

use std::fs;

use assert_cmd::Command;
use predicates::prelude::*;
use predicates::str::contains;
use serde_json::Value;

use super::{Folder, assert_same, coco, files};

/// The command of [`Folder::label`] on a disk on which no file may have more blocks of 512 bytes.
#[cfg(unix)]
fn label_on_small_disk(folder: &Folder, link: &str, blocks: usize) -> Command {
    let whole = folder.label("got");
    let mut command = Command::new("sh");
    // Without the trap, the signal about the limit would end the program.
    let script = "trap '' XFSZ; ulimit -f \"$0\"; exec \"$@\"";
    command.args(["-c", script, &blocks.to_string()]);
    command.arg(whole.get_program()).args(whole.get_args());
    command.args(["--link", link, "--resume"]);
    command
}

#[cfg(unix)]
#[test]
fn a_full_disk_stops_the_run_and_resume_completes_it() {
    let folder = Folder::new(6);
    // One picture is larger than all else.
    let large = folder.input().join("a/scene 02.png");
    let mut bytes = fs::read(&large).unwrap();
    bytes.resize(200_000, 0);
    fs::write(&large, bytes).unwrap();
    let resumed = |out: &str, link: &str| {
        let mut command = folder.label(out);
        command.args(["--link", link, "--resume"]);
        command.assert().success();
        files(&folder.out(out))
    };
    let want = resumed("want", "copy");
    let document = want["labelstudio.json"].len() / 512;
    for (link, blocks, message) in [
        // Before the first line of the journal, within it, and within a picture.
        ("hard", 0, "part-0-of-1.0.jsonl: "),
        (
            "hard",
            4,
            "could not be noted; --resume continues from here",
        ),
        (
            "copy",
            200,
            "a/scene 02.png could not be written; --resume continues",
        ),
        // Within the longest document.
        ("hard", document, "--resume continues from here: "),
    ] {
        label_on_small_disk(&folder, link, blocks)
            .assert()
            .failure()
            .stderr(contains(message));
        for (name, bytes) in files(&folder.out("got")) {
            assert!(bytes == want[&name], "{name} is there, but not complete");
        }
        resumed("got", link);
        assert_same(&folder.out("got"), &folder.out("want"));
        fs::remove_dir_all(folder.out("got")).unwrap();
    }
}

/// The built-in model with an encoder of images that computes NaN.
fn broken_model() -> Vec<u8> {
    let weights = concat!(env!("CARGO_MANIFEST_DIR"), "/weights/demo.safetensors");
    let mut bytes = fs::read(weights).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    for (name, tensor) in header.as_object().unwrap() {
        if name.starts_with("detector.backbone.vision_backbone.convs") {
            assert_eq!(tensor["dtype"], "F16");
            let offset =
                |i: usize| 8 + length + tensor["data_offsets"][i].as_u64().unwrap() as usize;
            let values = bytes[offset(0)..offset(1)].chunks_exact_mut(2);
            values.for_each(|value| value.copy_from_slice(&[0xff, 0x7f]));
        }
    }
    bytes
}

#[test]
fn a_model_that_fails_is_said_of_every_picture() {
    let folder = Folder::new(3);
    let model = folder.out("broken.safetensors");
    fs::write(&model, broken_model()).unwrap();
    let label = |out: &str| {
        let mut command = folder.label(out);
        command.arg("-m").arg(&model);
        command
    };
    label("out")
        .assert()
        .failure()
        .stdout(contains("0 pictures, 0 without objects, 3 failed").and(contains("NaN")))
        .stderr(contains("none of 3 pictures could be labeled"));
    assert!(
        coco(&folder.out("out"))["images"]
            .as_array()
            .unwrap()
            .is_empty()
    );
    let strict = label("strict").arg("--strict").assert().failure();
    strict.stderr(contains("a/scene 00.png: ").and(contains("NaN")));
}

#[test]
fn a_name_that_is_too_long_for_its_files_fails_one_picture() {
    let folder = Folder::new(2);
    // As long as the file system allows; its label file would have one letter more.
    let long = format!("{}.png", "a".repeat(251));
    let scene = folder.input().join("a/scene 00.png");
    if fs::copy(scene, folder.input().join(&long)).is_err() {
        // Not every file system allows 255 letters.
        return;
    }
    let mut command = folder.label("out");
    command.args(["--format", "coco,labelme"]);
    let done = command.assert().success();
    done.stdout(contains("2 pictures, 0 without objects, 1 failed"));
}

#[test]
fn an_output_that_is_no_folder_is_refused() {
    let folder = Folder::new(1);
    fs::write(folder.out("file"), "").unwrap();
    for out in ["file", "file/out"] {
        folder
            .label(out)
            .assert()
            .failure()
            .stderr(contains("file"));
    }
}
