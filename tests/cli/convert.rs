//! `sam3 convert`.

use std::path::Path;

use candle_sam3::weights::{self, Checkpoint};
use predicates::str::contains;

use crate::{json, sam3, scene};

/// The demo model without what `keep` refuses, as a file.
fn demo(path: &Path, keep: impl Fn(&str) -> bool) {
    weights::demo()
        .unwrap()
        .write(path, None, keep, |_, _| ())
        .unwrap();
}

/// What the model finds, without what depends on the run.
fn found(model: &Path) -> serde_json::Value {
    let output = sam3()
        .args([
            "segment",
            "--text",
            "triangles, blue circle",
            "--format",
            "json",
            "-q",
            "-m",
        ])
        .arg(model)
        .arg(scene())
        .assert()
        .success();
    let mut document = json(&output.get_output().stdout);
    document["timings_ms"].take();
    document
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn the_result_finds_exactly_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let [before, after, pruned] =
        ["before", "after", "pruned"].map(|name| folder.path().join(format!("{name}.safetensors")));
    demo(&before, |_| true);
    let convert = |output: &Path, more: &[&str]| {
        let mut command = sam3();
        command
            .arg("convert")
            .arg(&before)
            .arg(output)
            .args(more)
            .assert()
    };
    convert(&after, &[])
        .success()
        .stdout("")
        .stderr(contains("wrote"));
    convert(&pruned, &["--prune", "-q"]).success().stderr("");
    let want = found(&before);
    assert!(
        !want["prompts"][0]["instances"]
            .as_array()
            .unwrap()
            .is_empty()
    );
    assert_eq!(found(&after), want);
    assert_eq!(found(&pruned), want);
    let open = |path: &Path| Checkpoint::open(path).unwrap();
    assert_eq!(open(&after).metadata(), open(&before).metadata());
    assert_eq!(open(&after).names(), open(&before).names());
    assert!(open(&pruned).names().len() < open(&before).names().len());

    let half = folder.path().join("half.safetensors");
    convert(&half, &["--dtype", "bf16"]).success();
    assert!(
        found(&half)["prompts"][0]["instances"]
            .as_array()
            .unwrap()
            .len()
            >= 2
    );
}

#[test]
fn nothing_is_overwritten_by_accident() {
    let folder = tempfile::tempdir().unwrap();
    let [model, other] = ["model", "other"].map(|n| folder.path().join(format!("{n}.safetensors")));
    demo(&model, |_| true);
    std::fs::write(&other, "precious").unwrap();
    let convert = |output: &Path, more: &[&str]| {
        let mut command = sam3();
        command
            .arg("convert")
            .arg(&model)
            .arg(output)
            .args(more)
            .assert()
    };
    convert(&other, &[]).code(1).stderr(contains("--force"));
    assert_eq!(std::fs::read(&other).unwrap(), b"precious");
    convert(&model, &["--force"])
        .code(1)
        .stderr(contains("being read"));
    convert(&folder.path().join("model.pt"), &[])
        .code(1)
        .stderr(contains(".safetensors"));
    let nowhere = folder.path().join("none/out.safetensors");
    convert(&nowhere, &[])
        .code(1)
        .stderr(contains("does not exist"));
    assert_eq!(
        names(folder.path()),
        ["model.safetensors", "other.safetensors"]
    );
    convert(&other, &["--force"]).success();
    assert!(Checkpoint::open(&other).is_ok());
}

#[test]
fn a_model_that_is_not_known_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sam2.safetensors");
    let header = br#"{"image_encoder.trunk.x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header);
    bytes.extend([0; 4]);
    std::fs::write(&path, bytes).unwrap();
    let output = folder.path().join("out.safetensors");
    let convert = sam3().arg("convert").arg(&path).arg(&output).assert();
    convert.code(1).stderr(contains("SAM 2"));
    assert_eq!(names(folder.path()), ["sam2.safetensors"]);
}

/// A limit on the size of files stands for a full disk: both are errors of writing.
#[test]
#[cfg(unix)]
fn a_full_disk_leaves_nothing_behind_and_the_old_file_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let [model, output] = ["model", "out"].map(|n| folder.path().join(format!("{n}.safetensors")));
    demo(&model, |_| true);
    std::fs::write(&output, "old").unwrap();
    let command = sam3();
    let program = command.get_program().to_str().unwrap();
    let script = "trap '' XFSZ; ulimit -f 1000; exec \"$0\" convert \"$1\" \"$2\" --force";
    assert_cmd::Command::new("sh")
        .args(["-c", script, program])
        .args([&model, &output])
        .assert()
        .code(1)
        .stderr(contains("out.safetensors.part"));
    assert_eq!(
        names(folder.path()),
        ["model.safetensors", "out.safetensors"]
    );
    assert_eq!(std::fs::read(&output).unwrap(), b"old");
}

/// Nothing can be tidied up when a process is killed: the unfinished file has another name, and
/// the next run replaces it.
#[test]
fn what_an_interrupted_run_left_does_not_disturb_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let [model, output] = ["model", "out"].map(|n| folder.path().join(format!("{n}.safetensors")));
    demo(&model, |_| true);
    std::fs::write(folder.path().join("out.safetensors.part"), vec![1; 1 << 24]).unwrap();
    sam3()
        .arg("convert")
        .arg(&model)
        .arg(&output)
        .assert()
        .success();
    assert_eq!(
        names(folder.path()),
        ["model.safetensors", "out.safetensors"]
    );
    let same = std::fs::read(&output).unwrap() == std::fs::read(&model).unwrap();
    assert!(same, "what is official already is written as it was");
}
