//! Weight files: what the command does with each.

use std::path::{Path, PathBuf};

use candle_sam3::weights::{self, Checkpoint};
use predicates::prelude::*;
use predicates::str::contains;
use serde_json::{Value, json};

use crate::limited;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/field/weights")
}

fn scene() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenes/shapes.png")
}

fn inspected(path: &Path) -> Value {
    let output = limited()
        .args(["inspect", "--json"])
        .arg(path)
        .output()
        .unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| {
        panic!(
            "{}: {e}: {}",
            path.display(),
            String::from_utf8_lossy(&output.stderr)
        )
    })
}

/// Name, number format, shape and bytes of a tensor.
type Stored = (String, String, Vec<usize>, Vec<u8>);

/// A safetensors file of these metadata and tensors: name, dtype, shape, bytes.
fn safetensors(path: &Path, metadata: &Value, tensors: &[Stored]) {
    let (mut header, mut data) = (json!({}), vec![]);
    if metadata.is_object() {
        header["__metadata__"] = metadata.clone();
    }
    for (name, dtype, shape, bytes) in tensors {
        let offsets = [data.len(), data.len() + bytes.len()];
        header[name] = json!({"dtype": dtype, "shape": shape, "data_offsets": offsets});
        data.extend(bytes);
    }
    let header = header.to_string();
    let file = [
        &(header.len() as u64).to_le_bytes(),
        header.as_bytes(),
        &data,
    ]
    .concat();
    std::fs::write(path, file).unwrap();
}

/// The demo model's tensors as f32, and its metadata.
fn demo() -> (Value, Vec<Stored>) {
    let demo = weights::demo().unwrap();
    let vb = demo.var_builder(candle::DType::F32, &candle::Device::Cpu);
    let tensors = demo.names().into_iter().map(|name| {
        let tensor = vb.get_unchecked(name).unwrap();
        let values: Vec<f32> = tensor.flatten_all().unwrap().to_vec1().unwrap();
        let bytes = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        (
            name.to_string(),
            "F32".to_string(),
            tensor.dims().to_vec(),
            bytes,
        )
    });
    (json!(demo.metadata()), tensors.collect())
}

#[test]
fn every_file_ends_soon_and_small_with_an_answer_or_words() {
    let target = tempfile::tempdir().unwrap();
    let mut files: Vec<_> = std::fs::read_dir(folder())
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    files.sort();
    assert!(files.len() >= 17, "{files:?}");
    for file in files {
        let out = target.path().join("out.safetensors");
        // These are all zeros and 375 MB when they are written out.
        let is_large = file.extension().is_some_and(|ending| ending == "pth");
        for command in &["inspect", "convert", "segment"][..if is_large { 1 } else { 3 }] {
            let mut sam3 = limited();
            match *command {
                "segment" => sam3
                    .args(["segment", "--text", "star", "-o", "-", "-m"])
                    .arg(&file)
                    .arg(scene()),
                "convert" => sam3.args(["convert", "--force"]).arg(&file).arg(&out),
                _ => sam3.arg(command).arg(&file),
            };
            let output = sam3.output().unwrap();
            let said = [output.stdout, output.stderr].concat();
            let said = String::from_utf8_lossy(&said);
            let shown = format!("{command} {}: {:?}: {said}", file.display(), output.status);
            assert!(matches!(output.status.code(), Some(0 | 1)), "{shown}");
            assert!(
                !said.contains("panicked") && !said.contains("allocation of"),
                "{shown}"
            );
            let is_odd = |c: char| c.is_control() && c != '\n';
            assert!(!said.chars().any(is_odd), "{shown}");
            assert!(said.len() < 1 << 16, "{} bytes of {command}", said.len());
        }
    }
}

#[test]
fn hostile_files_are_refused_with_the_limit() {
    for (name, words) in [
        (
            "cfg_depth1e9.safetensors",
            "`vit.depth` is 1000000000; it must be in 1..=64",
        ),
        (
            "cfg_grid0.safetensors",
            "`vit.pretrain_grid` is 0; it must be in 1..=128",
        ),
        (
            "cfg_heads0.safetensors",
            "`vit.heads` is 0; it must be in 1..=64",
        ),
        (
            "cfg_patch0.safetensors",
            "`patch_size` is 0; it must be in 1..=64",
        ),
        (
            "cfg_vocab40.safetensors",
            "`text.vocab` is 1099511627776; it must be in 1..=131072",
        ),
        (
            "convert_hang_2e58x0.safetensors",
            "may multiply to 1048576 at most",
        ),
        ("pad_2e30.safetensors", "may multiply to 1048576 at most"),
        ("pad_2e58.safetensors", "may multiply to 1048576 at most"),
        ("table_2e40.safetensors", "may multiply to 1048576 at most"),
        ("escape_names.safetensors", "has control characters"),
        (
            "stride0_64GB.pt",
            "in a file of 74737; at most 1073741824 are read",
        ),
        ("quad_2000.pt", "more than 1048576 entries"),
        ("stack_global_small_2GB.pt", "holds no tensors by name"),
        (
            "gated_answer.pt",
            "a text and not weights; it says \"Access to model facebook/sam3 is",
        ),
    ] {
        let out = tempfile::tempdir().unwrap();
        let mut convert = limited();
        convert
            .arg("convert")
            .arg(folder().join(name))
            .arg(out.path().join("o.safetensors"));
        convert.assert().code(1).stderr(contains(words));
        assert_eq!(std::fs::read_dir(&out).unwrap().count(), 0, "{name}");
    }
}

#[test]
fn zero_heads_for_texts_do_not_reach_the_model() {
    let target = tempfile::tempdir().unwrap();
    let path = target.path().join("heads.safetensors");
    let (mut metadata, tensors) = demo();
    metadata["config"] =
        json!(std::fs::read_to_string(folder().join("cfg_text_heads0.json")).unwrap());
    safetensors(&path, &metadata, &tensors);
    let mut segment = limited();
    segment
        .args(["segment", "--text", "star", "-o", "-", "-m"])
        .arg(&path)
        .arg(scene());
    segment
        .assert()
        .code(1)
        .stderr(contains("`text.heads` is 0; it must be in 1..=64"));
}

#[test]
fn an_exemplar_that_reaches_far_out_is_refused_with_the_limit() {
    let mut segment = limited();
    segment
        .args(["segment", "--exemplar", "0,0,1e12,1e12", "-o", "-"])
        .arg(scene());
    segment
        .assert()
        .code(1)
        .stderr(contains("more than 1792 pixels away"));
}

#[test]
fn eight_bit_floats_are_read() {
    let target = tempfile::tempdir().unwrap();
    let path = target.path().join("f8.safetensors");
    let (metadata, mut tensors) = demo();
    for (_, dtype, _, bytes) in &mut tensors {
        // e5m2 is the upper half of an f16
        *dtype = "F8_E5M2".into();
        let (values, _) = bytes.as_chunks::<4>();
        let half = |b: &[u8; 4]| half::f16::from_f32(f32::from_le_bytes(*b)).to_le_bytes()[1];
        *bytes = values.iter().map(half).collect();
    }
    safetensors(&path, &metadata, &tensors);
    assert_eq!(inspected(&path)["problem"], Value::Null);
    let mut segment = limited();
    segment
        .args(["segment", "--text", "star", "-o", "-", "-m"])
        .arg(&path)
        .arg(scene());
    segment.assert().success();
    let out = target.path().join("out.safetensors");
    limited()
        .arg("convert")
        .arg(&path)
        .arg(&out)
        .assert()
        .success();
    let out = Checkpoint::open(out).unwrap();
    assert!(out.stored().iter().all(|tensor| tensor.dtype == "BF16"));
}

/// DataParallel's `module.` and the compiler's `_orig_mod.` are seen and left out.
#[test]
fn a_fine_tuned_checkpoint_is_the_model_that_it_wraps() {
    let plain = inspected(&folder().join("plain_sam_vit_b.pth"));
    assert_eq!(
        (&plain["problem"], &plain["prefix"]),
        (&Value::Null, &json!(""))
    );
    for (name, prefix) in [
        ("ddp_module.pth", "module."),
        ("torch_compile.pth", "_orig_mod."),
    ] {
        let found = inspected(&folder().join(name));
        assert_eq!(found["prefix"], prefix);
        for key in [
            "model",
            "prompts",
            "problem",
            "tensors",
            "elements",
            "components",
            "layout",
        ] {
            assert_eq!(found[key], plain[key], "{name}: {key}");
        }
    }
}

/// The demo model as training leaves it, and what it finds.
#[test]
fn a_wrapped_model_finds_the_same() {
    let target = tempfile::tempdir().unwrap();
    let path = target.path().join("wrapped.safetensors");
    let (metadata, tensors) = demo();
    let found = |path: &Path| {
        let mut segment = limited();
        segment
            .args(["segment", "--text", "triangles", "-o", "-", "-m"])
            .arg(path)
            .arg(scene());
        let output = segment.assert().success().get_output().stdout.clone();
        let mut document: Value = serde_json::from_slice(&output).unwrap();
        document["timings_ms"].take();
        document
    };
    let want = found(Path::new("demo"));
    assert!(
        !want["prompts"][0]["instances"]
            .as_array()
            .unwrap()
            .is_empty()
    );
    for prefix in [
        "module.",
        "_orig_mod.",
        "model.",
        "sam.",
        "base_model.model.",
        "module._orig_mod.",
    ] {
        let mut wrapped = tensors.clone();
        wrapped
            .iter_mut()
            .for_each(|(name, ..)| name.insert_str(0, prefix));
        safetensors(&path, &metadata, &wrapped);
        assert_eq!(found(&path), want, "{prefix}");
    }
    // tables that newer official code saves
    let mut tables = tensors;
    for part in ["real", "imag"] {
        let name =
            format!("detector.backbone.vision_backbone.trunk.blocks.0.attn.freqs_cis_{part}");
        tables.push((name, "F32".into(), vec![64, 16], vec![1; 4096]));
    }
    safetensors(&path, &metadata, &tables);
    assert_eq!(found(&path), want);
}

#[test]
fn a_prefix_that_is_not_known_is_named() {
    let target = tempfile::tempdir().unwrap();
    let path = target.path().join("net.safetensors");
    let (_, mut tensors) = demo();
    tensors
        .iter_mut()
        .for_each(|(name, ..)| name.insert_str(0, "net."));
    safetensors(&path, &Value::Null, &tensors);
    let mut inspect = limited();
    inspect
        .arg("inspect")
        .arg(&path)
        .assert()
        .code(1)
        .stdout(contains("begin with `net.`"));
}

#[test]
fn a_file_whose_second_half_was_never_written_is_refused() {
    let target = tempfile::tempdir().unwrap();
    let path = target.path().join("half.safetensors");
    let (metadata, tensors) = demo();
    safetensors(&path, &metadata, &tensors);
    let mut bytes = std::fs::read(&path).unwrap();
    let half = bytes.len() / 2;
    bytes[half..].fill(0);
    std::fs::write(&path, bytes).unwrap();
    for command in ["inspect", "segment"] {
        let mut sam3 = limited();
        match command {
            "segment" => sam3
                .args(["segment", "--text", "star", "-o", "-", "-m"])
                .arg(&path)
                .arg(scene()),
            _ => sam3.arg("inspect").arg(&path),
        };
        sam3.assert()
            .code(1)
            .stderr(contains("hold zeros only").and(contains("download it again")));
    }
}

/// `inspect` called these complete, and every other command refused them.
#[test]
fn a_number_format_that_is_not_read_is_a_problem() {
    let target = tempfile::tempdir().unwrap();
    let path = target.path().join("i8.safetensors");
    let (metadata, mut tensors) = demo();
    let (name, dtype, _, bytes) = &mut tensors[0];
    *dtype = "U16".into();
    bytes.truncate(bytes.len() / 2);
    let words = format!("{name}: U16");
    safetensors(&path, &metadata, &tensors);
    let mut inspect = limited();
    let said = contains(&*words).and(contains("save them as f32"));
    inspect
        .arg("inspect")
        .arg(&path)
        .assert()
        .code(1)
        .stdout(said);
}
