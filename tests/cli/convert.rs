//! `sam3 convert`.

use std::path::Path;

use candle_sam3::weights::{self, Checkpoint, WriteOptions};
use predicates::prelude::*;
use predicates::str::contains;

use crate::{json, sam3, scene};

/// The demo model without what `keep` refuses, as a file.
fn demo(path: &Path, keep: impl Fn(&str) -> bool) {
    weights::demo()
        .unwrap()
        .write(path, &WriteOptions::default(), keep, |_, _| ())
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
fn eight_bits_are_written_read_and_told_and_need_the_cpu_in_f32() {
    let folder = tempfile::tempdir().unwrap();
    let [before, after] =
        ["before", "after"].map(|name| folder.path().join(format!("{name}.safetensors")));
    demo(&before, |_| true);
    sam3()
        .args(["convert", "--weights", "int8", "-q"])
        .args([&before, &after])
        .assert()
        .success();
    let bytes = |path: &Path| std::fs::metadata(path).unwrap().len();
    // Of 3.9 million values of 16 bits, 1.2 million are the large layers'.
    assert!(bytes(&after) < bytes(&before) * 9 / 10);
    let found = found(&after);
    let triangles = found["prompts"][0]["instances"].as_array().unwrap();
    assert!(!triangles.is_empty());
    sam3()
        .arg("inspect")
        .arg(&after)
        .assert()
        .success()
        .stdout(contains("I8"));
    for (model, flags) in [
        (&after, &["--dtype", "bf16"][..]),
        (&before, &["--dtype", "f16", "--weights", "int8"]),
    ] {
        sam3()
            .args(["segment", "--text", "star", "-m"])
            .arg(model)
            .args(flags)
            .arg(scene())
            .assert()
            .code(1)
            .stderr(contains("weights of 8 bits").and(contains("CPU in f32")));
    }
    sam3()
        .args([
            "bench",
            "--iters",
            "1",
            "--warmup",
            "0",
            "--weights",
            "int8",
            "-q",
        ])
        .assert()
        .success()
        .stdout(contains("weights of 8 bits"));
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
    convert(&other, &["--force"])
        .code(1)
        .stderr(contains("not the same kind of file"));
    assert_eq!(std::fs::read(&other).unwrap(), b"precious");
    std::fs::copy(&model, &other).unwrap();
    convert(&other, &["--force", "--dtype", "f16"]).success();
    assert!(Checkpoint::open(&other).is_ok());
}

#[test]
fn what_no_model_could_be_loaded_from_is_written_only_when_forced() {
    let folder = tempfile::tempdir().unwrap();
    let [input, output] = ["in", "out"].map(|n| folder.path().join(format!("{n}.safetensors")));
    let victim = "detector.transformer.decoder.norm.weight";
    demo(&input, |name| name != victim);
    let convert = |more: &[&str]| {
        let mut command = sam3();
        command
            .arg("convert")
            .arg(&input)
            .arg(&output)
            .args(more)
            .assert()
    };
    convert(&[])
        .code(1)
        .stderr(contains(victim).and(contains("--force")));
    assert_eq!(names(folder.path()), ["in.safetensors"]);
    let warned = contains("warning: ").and(contains(victim));
    convert(&["--force"]).success().stderr(warned);
    assert!(Checkpoint::open(&output).is_ok());
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
    std::fs::copy(&model, &output).unwrap();
    let command = sam3();
    let program = command.get_program().to_str().unwrap();
    let script = "trap '' XFSZ; ulimit -f 1000; exec \"$0\" convert \"$1\" \"$2\" --force";
    assert_cmd::Command::new("sh")
        .args(["-c", script, program])
        .args([&model, &output])
        .assert()
        .code(1)
        .stderr(contains("out.safetensors: File too large"));
    assert_eq!(
        names(folder.path()),
        ["model.safetensors", "out.safetensors"]
    );
    let same = std::fs::read(&output).unwrap() == std::fs::read(&model).unwrap();
    assert!(same, "the old file stays");
}

#[test]
fn an_unfinished_download_as_input_and_a_foreign_file_beside_it_are_not_touched() {
    let folder = tempfile::tempdir().unwrap();
    let [input, output] =
        ["m.safetensors.part", "m.safetensors"].map(|name| folder.path().join(name));
    demo(&input, |_| true);
    let before = std::fs::read(&input).unwrap();
    let convert = sam3().arg("convert").arg(&input).arg(&output).assert();
    convert.success();
    assert_eq!(
        names(folder.path()),
        ["m.safetensors", "m.safetensors.part"]
    );
    let [left, written] = [&input, &output].map(|path| std::fs::read(path).unwrap());
    assert!(left == before, "the input");
    assert!(
        written == before,
        "what is official already is written as it was"
    );
}

/// The demo model and 32 million numbers of f16 that it leaves out, most of them not on the disk.
#[cfg(unix)]
fn large(path: &Path) {
    use std::io::{Seek, Write};
    let small = path.with_extension("small");
    demo(&small, |_| true);
    let demo = std::fs::read(&small).unwrap();
    std::fs::remove_file(&small).unwrap();
    let end = 8 + u64::from_le_bytes(demo[..8].try_into().unwrap()) as usize;
    let mut header: serde_json::Value = serde_json::from_slice(&demo[8..end]).unwrap();
    let (at, more) = (demo.len() - end, 1 << 26);
    header["detector.backbone.language_backbone.encoder.text_projection"] =
        serde_json::json!({"dtype": "F16", "shape": [more / 2], "data_offsets": [at, at + more]});
    let header = header.to_string();
    let mut file = std::fs::File::create(path).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes())
        .unwrap();
    file.write_all(header.as_bytes()).unwrap();
    file.write_all(&demo[end..]).unwrap();
    file.seek(std::io::SeekFrom::Current(more as i64 - 1))
        .unwrap();
    file.write_all(&[1]).unwrap();
}

/// `sam3 convert` to f32, as soon as it has begun to write.
#[cfg(unix)]
fn begun(input: &Path, output: &Path, already: usize) -> std::process::Child {
    let mut command = std::process::Command::new(sam3().get_program());
    command
        .args(["convert", "-q", "--dtype", "f32"])
        .args([input, output]);
    let mut child = command.spawn().unwrap();
    let mut has_ended = || child.try_wait().unwrap().is_some();
    while names(output.parent().unwrap()).len() == already && !has_ended() {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    child
}

#[test]
#[cfg(unix)]
fn nothing_stays_when_it_is_told_to_end() {
    use std::os::unix::process::ExitStatusExt;
    let [source, folder] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let input = source.path().join("large.safetensors");
    large(&input);
    for (name, number) in [("INT", 2), ("TERM", 15), ("HUP", 1)] {
        let mut child = begun(&input, &folder.path().join("out.safetensors"), 0);
        let kill = format!("kill -{name} {}", child.id());
        assert_cmd::Command::new("sh")
            .args(["-c", &kill])
            .assert()
            .success();
        let status = child.wait().unwrap();
        assert_eq!(status.signal(), Some(number), "{status}");
        assert!(
            names(folder.path()).is_empty(),
            "{:?}",
            names(folder.path())
        );
    }
}

#[test]
#[cfg(unix)]
fn of_two_that_write_to_one_name_one_succeeds_and_the_file_is_its_own() {
    let [source, folder] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let input = source.path().join("large.safetensors");
    large(&input);
    let output = folder.path().join("out.safetensors");
    let mut first = begun(&input, &output, 0);
    let mut second = begun(&input, &output, 1);
    let done = [&mut first, &mut second].map(|child| child.wait().unwrap().success());
    assert!(done[0] ^ done[1], "{done:?}");
    assert_eq!(names(folder.path()), ["out.safetensors"]);
    let written = Checkpoint::open(&output).unwrap();
    assert_eq!(written.names(), Checkpoint::open(&input).unwrap().names());
}
