//! Full-size models against recorded runs of the official code.
//!
//! Not run by default: the files are large. `SAM3_REFERENCE` names a folder that holds, for each
//! model, `NAME.pt` (a checkpoint in the official layout; random weights will do) and
//! `NAME.dump.safetensors`, which `tools/reference/dump_reference.py` made of it. `sam3 verify` does
//! the same from the command line. `SAM3_PRECISION` is highest, high (if it is not set) or medium.
//!
//!     SAM3_REFERENCE=folder cargo test --release --test parity full_size -- --ignored --nocapture

use std::path::PathBuf;

use candle::DType;
use candle_sam3::LoadOptions;
use candle_sam3::Precision;
use candle_sam3::models::inspect::{Status, inspect};
use candle_sam3::models::sam3::Sam3;
use candle_sam3::predict::verify::{Reference, Tolerances, verify_sam3};
use candle_sam3::weights::Checkpoint;

fn precision() -> Precision {
    std::env::var("SAM3_PRECISION").map_or(Precision::High, |name| name.parse().unwrap())
}

fn folder() -> PathBuf {
    PathBuf::from(std::env::var("SAM3_REFERENCE").expect("SAM3_REFERENCE names the folder"))
}

#[test]
#[ignore = "needs SAM3_REFERENCE"]
fn full_size_repvit() {
    compare("repvit");
}

#[test]
#[ignore = "needs SAM3_REFERENCE"]
fn full_size_tinyvit() {
    compare("tinyvit");
}

#[test]
#[ignore = "needs SAM3_REFERENCE"]
fn full_size_efficientvit() {
    compare("efficientvit");
}

#[test]
#[ignore = "needs SAM3_REFERENCE"]
fn full_size_litetext() {
    compare("litetext");
}

#[test]
#[ignore = "needs SAM3_REFERENCE"]
fn full_size_sam3() {
    compare("sam3");
}

#[test]
#[ignore = "needs SAM3_REFERENCE"]
fn full_size_sam31() {
    compare("sam31");
}

fn compare(name: &str) {
    let reference = folder().join(format!("{name}.dump.safetensors"));
    let reference = Reference::open(reference).unwrap();
    let checkpoint = Checkpoint::open(folder().join(format!("{name}.pt"))).unwrap();
    let options = LoadOptions {
        interactive: reference.has_clicks(),
        precision: precision(),
        ..LoadOptions::default()
    };
    let model = Sam3::load(&checkpoint, &options).unwrap();
    println!("== {name}: {}, {}", model.name(), options.precision);
    let mut failed = vec![];
    let mut report = |check: candle_sam3::predict::verify::Check| {
        println!("{:32} {:?}", check.stage, check.figures);
        if !check.passes() {
            failed.push(check.stage);
        }
    };
    let tolerances = Tolerances::of(DType::F32, options.precision, options.weights);
    verify_sam3(&model, &reference, &tolerances, &mut report).unwrap();
    assert!(failed.is_empty(), "{failed:?}");
}

/// Loading takes little more memory than the tensors that are used, whatever else the file holds.
///
/// Run alone, since it reads the peak of the whole process:
/// `… full_size_memory -- --ignored --nocapture`.
#[test]
#[ignore = "needs SAM3_REFERENCE"]
#[cfg(target_os = "linux")]
fn full_size_memory() {
    let peak = || -> usize {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status
            .lines()
            .find(|line| line.starts_with("VmHWM"))
            .unwrap();
        line.split_whitespace()
            .nth(1)
            .unwrap()
            .parse::<usize>()
            .unwrap()
            * 1024
    };
    let name = std::env::var("SAM3_MODEL").unwrap_or_else(|_| "repvit".into());
    let checkpoint = Checkpoint::open(folder().join(format!("{name}.pt"))).unwrap();
    let components = inspect(&checkpoint).components.into_iter();
    let read = components.filter(|component| component.status == Status::Complete);
    let used: usize = read.map(|component| component.elements * 4).sum();
    let options = LoadOptions {
        interactive: true,
        ..LoadOptions::default()
    };
    let before = peak();
    let model = Sam3::load(&checkpoint, &options).unwrap();
    let taken = peak() - before;
    let ratio = taken as f64 / used as f64;
    println!(
        "{}: {} MB used, {} MB taken: {ratio:.2}",
        model.name(),
        used >> 20,
        taken >> 20
    );
    assert!(ratio <= 1.3, "{ratio}");
}
