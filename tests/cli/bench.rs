//! `sam3 bench`.

use predicates::prelude::*;
use predicates::str::contains;

use crate::{json, sam3, scene};

#[test]
fn measures_every_stage_and_compares_with_earlier_results() {
    let folder = tempfile::tempdir().unwrap();
    let [results, earlier] = ["now.json", "earlier.json"].map(|name| folder.path().join(name));
    let bench = |more: &[&str]| {
        let mut command = sam3();
        command
            .args(["bench", "--warmup", "0", "--iters", "2", "--image"])
            .arg(scene())
            .args(more);
        command
    };
    bench(&[
        "--prompts",
        "2",
        "--batch",
        "2",
        "--parity",
        "--cost-per-hour",
        "2",
        "--json",
    ])
    .arg(&results)
    .assert()
    .success()
    .stdout(
        contains("| stage | median ms |")
            .and(contains("in batches of 2, 2 prompts each"))
            .and(contains("per 1,000 images"))
            .and(contains("against f32 on the CPU: worst stage")),
    );
    let mut report = json(&std::fs::read(&results).unwrap());
    assert_eq!(report["schema"], 1);
    assert_eq!(report["machine"]["device"], "CPU");
    assert!(report["peak_host_bytes"].as_u64() > Some(1 << 20) || !cfg!(target_os = "linux"));
    let stages = report["stages"].as_array().unwrap();
    let named = |name: &str| stages.iter().find(|stage| stage["name"] == name).unwrap();
    let median = |name: &str| named(name)["median_ms"].as_f64().unwrap();
    for name in [
        "decode_image",
        "trunk",
        "neck",
        "encode_text",
        "fusion",
        "decoder",
        "masks",
    ] {
        assert_eq!(
            named(name)["samples_ms"].as_array().unwrap().len(),
            2,
            "{name}"
        );
        assert!(median(name) > 0., "{name}");
    }
    assert!(median("click") > 0. && median("postprocess") >= 0.);
    let parts = ["preprocess", "trunk", "neck", "shared"];
    let whole: f64 = parts.into_iter().map(median).sum();
    assert!(whole <= 1.5 * median("encode_image"), "{whole}");
    for stage in report["parity"]["stages"].as_array().unwrap() {
        // the same device, with another precision
        assert!(stage["relative"].as_f64() < Some(1e-4), "{stage}");
    }

    // Earlier results so good that nothing can reach them.
    for stage in report["stages"].as_array_mut().unwrap() {
        stage["median_ms"] = 1e-3.into();
    }
    std::fs::write(&earlier, report.to_string()).unwrap();
    let against = |tolerance: &str| {
        let mut command = bench(&["--tolerance", tolerance, "--compare"]);
        command.arg(&earlier);
        command
    };
    against("1e9")
        .assert()
        .success()
        .stdout(contains("| ratio |"));
    against("1.5")
        .assert()
        .code(1)
        .stdout(contains("| ratio |"))
        .stderr(contains("slower than --tolerance 1.5 allows").and(contains("total")));
}

#[test]
fn nonsense_is_refused_before_anything_is_loaded() {
    for (args, want) in [
        (&["--iters", "0"][..], "--iters"),
        (&["--tolerance", "1.1"], "--compare"),
        (&["--cost-per-hour", "-1"], "--cost-per-hour"),
        (
            &["--random-weights", "sam3", "-m", "demo"],
            "cannot be used with",
        ),
        (&["--random-weights", "sam4"], "did you mean sam3"),
        (&["--compare", "missing.json"], "missing.json"),
        (&["--json", "no/such/folder/a.json"], "not a folder"),
        (&["--image", "missing.jpg"], "missing.jpg"),
        (
            &["--random-weights", "mobile-sam", "--prompts", "2"],
            "take no texts",
        ),
    ] {
        sam3()
            .arg("bench")
            .args(args)
            .assert()
            .failure()
            .stderr(contains(want));
    }
}
