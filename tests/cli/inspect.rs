//! `sam3 inspect`.

use candle_sam3::weights::WriteOptions;
use predicates::prelude::*;
use predicates::str::contains;

use crate::{json, sam3};

#[test]
fn the_demo_model_is_told_part_by_part() {
    let table = contains("SAM 3")
        .and(contains("takes     text, exemplars, clicks, everything"))
        .and(contains("fusion encoder"))
        .and(contains("complete"))
        .and(contains("missing").not());
    sam3()
        .args(["inspect", "demo"])
        .assert()
        .success()
        .stdout(table)
        .stderr("");

    let output = sam3()
        .args(["inspect", "demo", "--json"])
        .assert()
        .success();
    let found = json(&output.get_output().stdout);
    assert_eq!(found["family"], "sam3");
    assert!(found["problem"].is_null());
    assert!(found["metadata"]["config"].is_string());
    let components = found["components"].as_array().unwrap();
    for sum in ["tensors", "elements", "bytes"] {
        let parts: u64 = components.iter().map(|c| c[sum].as_u64().unwrap()).sum();
        assert_eq!(found[sum].as_u64().unwrap(), parts, "{sum}");
    }
    assert!(components.iter().all(|c| c["status"] != "missing"));
}

#[test]
fn a_file_with_something_missing_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("broken.safetensors");
    let victim = "detector.transformer.decoder.norm.weight";
    let demo = candle_sam3::weights::demo().unwrap();
    demo.write(
        &path,
        &WriteOptions::default(),
        |name| name != victim,
        |_, _| (),
    )
    .unwrap();
    let named = contains("1 missing")
        .and(contains("missing in the decoder:"))
        .and(contains(victim))
        .and(contains("problem"));
    sam3()
        .arg("inspect")
        .arg(&path)
        .assert()
        .code(1)
        .stdout(named)
        .stderr(contains("cannot be used as it is"));
}

#[test]
fn what_is_no_weight_file_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("page.pt");
    std::fs::write(&path, "<!DOCTYPE html><html>login</html>").unwrap();
    let inspect = |path: &std::path::Path| sam3().arg("inspect").arg(path).assert();
    inspect(&path).code(1).stdout("").stderr(contains("HTML"));
    inspect(&folder.path().join("gone.pt"))
        .code(1)
        .stderr(contains("does not exist"));
    inspect(&path.join("within.pt"))
        .code(1)
        .stderr(contains("Not a directory"));
    inspect(std::path::Path::new("facebook/sam3"))
        .code(1)
        .stderr(contains("-m sam3 downloads sam3"));
}
