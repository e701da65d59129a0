//! The `sam3` command as a user meets it: what it prints, what it writes, how it fails.

mod bench;
mod concept;
mod convert;
mod inspect;
mod multiplex;
mod results;
mod track;
mod verify;

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use predicates::prelude::*;
use predicates::str::contains;

fn sam3() -> Command {
    Command::cargo_bin("sam3").unwrap()
}

fn scene() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenes/shapes.png")
}

fn json(stdout: &[u8]) -> serde_json::Value {
    serde_json::from_slice(stdout).unwrap()
}

#[test]
fn finds_exactly_the_right_objects_in_the_demo_scene() {
    let output = sam3()
        .args([
            "segment",
            "--text",
            "blue circle, triangles",
            "--format",
            "json",
        ])
        .arg(scene())
        .assert()
        .success()
        .stderr(contains("blue circle: 1 object").and(contains("triangles: 2 objects")));
    let document = json(&output.get_output().stdout);
    assert_eq!(document["image"]["width"], 448);
    assert_eq!(document["kind"], "text");
    let prompts = document["prompts"].as_array().unwrap();
    let counts: Vec<usize> = prompts
        .iter()
        .map(|p| p["instances"].as_array().unwrap().len())
        .collect();
    assert_eq!(counts, [1, 2]);
    assert_eq!(prompts[0]["text"], "blue circle");
    let circle = &prompts[0]["instances"][0];
    assert!(circle["score"].as_f64().unwrap() > 0.9);
    assert_eq!(
        circle["segmentation"]["size"],
        serde_json::json!([448, 448])
    );
    assert!(circle["segmentation"]["counts"].is_string());
    let bbox: Vec<f64> = serde_json::from_value(circle["box_xyxy"].clone()).unwrap();
    // drawn around (124, 124) with a radius of 62.6
    for (got, want) in bbox.iter().zip([61., 61., 187., 187.]) {
        assert!((got - want).abs() < 6., "{bbox:?}");
    }
    for stage in ["decode", "load", "encode_image", "encode_text", "detect"] {
        assert!(document["timings_ms"][stage].is_number(), "{stage}");
    }
}

#[test]
fn an_exemplar_finds_what_looks_like_it() {
    let output = sam3()
        .args(["segment", "--exemplar", "50,262,152,377", "-o", "-", "-q"])
        .arg(scene())
        .assert()
        .success()
        .stderr("");
    let document = json(&output.get_output().stdout);
    let prompt = &document["prompts"][0];
    assert!(prompt["text"].is_null());
    assert_eq!(prompt["exemplars"][0]["positive"], true);
    assert_eq!(prompt["instances"].as_array().unwrap().len(), 1);
}

#[test]
fn writes_every_format_into_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    sam3()
        .args([
            "segment",
            "--text",
            "triangles",
            "--format",
            "overlay,masks,json",
            "-o",
        ])
        .arg(folder.path().join("new/results"))
        .arg(scene())
        .assert()
        .success()
        .stdout("");
    let file = |name: &str| folder.path().join("new/results").join(name);
    let overlay = image::open(file("shapes_overlay.png")).unwrap();
    assert_eq!((overlay.width(), overlay.height()), (448, 448));
    assert!(file("shapes_masks/label_map.png").is_file());
    assert_eq!(std::fs::read_dir(file("shapes_masks")).unwrap().count(), 3);
    assert!(json(&std::fs::read(file("shapes.json")).unwrap())["prompts"].is_array());
}

#[test]
fn the_options_select() {
    let count = |extra: &[&str]| {
        let output = sam3()
            .args(["segment", "--text", "shape", "-o", "-", "-q"])
            .args(extra)
            .arg(scene())
            .assert()
            .success();
        json(&output.get_output().stdout)["prompts"][0]["instances"]
            .as_array()
            .unwrap()
            .len()
    };
    assert_eq!(count(&[]), 6);
    assert_eq!(count(&["--max", "1"]), 1);
    assert_eq!(count(&["--threshold", "1"]), 0);
    assert_eq!(count(&["--nms", "0.7", "--nms-across"]), 6);
}

#[test]
fn one_thread_or_half_precision_find_the_same() {
    for extra in [["--threads", "1"], ["--dtype", "bf16"], ["--dtype", "f16"]] {
        let output = sam3()
            .args(["segment", "--text", "blue circle", "-o", "-", "-q"])
            .args(extra)
            .arg(scene())
            .assert()
            .success();
        let document = json(&output.get_output().stdout);
        assert_eq!(
            document["prompts"][0]["instances"]
                .as_array()
                .unwrap()
                .len(),
            1,
            "{extra:?}"
        );
    }
}

#[test]
fn threads_may_be_asked_for_by_rayons_variable() {
    for threads in ["0", "1", "3", "many"] {
        sam3()
            .env("RAYON_NUM_THREADS", threads)
            .args(["segment", "--point", "124,124", "-o", "-"])
            .arg(scene())
            .assert()
            .success();
    }
    sam3()
        .env("RAYON_NUM_THREADS", "1025")
        .arg("models")
        .assert()
        .code(1)
        .stdout("")
        .stderr(contains("at most 1024"));
}

#[test]
fn a_trace_is_written_on_request() {
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("stages.safetensors");
    sam3()
        .args([
            "segment",
            "--text",
            "blue circle",
            "-o",
            "-",
            "-q",
            "--trace",
        ])
        .arg(&trace)
        .arg(scene())
        .assert()
        .success();
    let bytes = std::fs::read(&trace).unwrap();
    let stages = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert!(stages.names().contains(&"prompts.0.encoder"));
}

/// Usage errors exit with 2, failures with 1, both say what would work, and nothing is written.
#[test]
fn bad_input_is_refused_with_a_reason() {
    struct Case {
        args: &'static [&'static str],
        code: i32,
        says: &'static str,
    }
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
    std::fs::copy(scene(), folder.path().join("scene.png")).unwrap();
    let picture = std::fs::read(scene()).unwrap();
    file("cut.png", &picture[..picture.len() / 2]);
    file("empty.png", b"");
    file("text.pt", b"<html>404 not found</html>");
    file("empty.safetensors", b"");
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("weights/demo.safetensors");
    file("cut.safetensors", &std::fs::read(demo).unwrap()[..100_000]);
    std::fs::create_dir(folder.path().join("nothing")).unwrap();

    for Case { args, code, says } in [
        Case {
            args: &[],
            code: 2,
            says: "Usage",
        },
        Case {
            args: &["segment", "scene.png"],
            code: 1,
            says: "needs a text or a positive exemplar",
        },
        Case {
            args: &["segment", "missing.png", "-t", "dog"],
            code: 1,
            says: "missing.png",
        },
        Case {
            args: &["segment", "cut.png", "-t", "dog"],
            code: 1,
            says: "cut.png",
        },
        Case {
            args: &["segment", "empty.png", "-t", "dog"],
            code: 1,
            says: "empty.png",
        },
        Case {
            args: &["segment", "nothing", "-t", "dog"],
            code: 1,
            says: "nothing",
        },
        Case {
            args: &["segment", "scene.png", "-t", " "],
            code: 1,
            says: "text is empty",
        },
        Case {
            args: &["segment", "scene.png", "-t", "dog,,cat"],
            code: 1,
            says: "text is empty",
        },
        Case {
            args: &["segment", "scene.png", "-t", "\u{1b}\u{a0}"],
            code: 1,
            says: "text is empty",
        },
        Case {
            args: &["segment", "scene.png", "-t", "dog", "--threshold", "nan"],
            code: 2,
            says: "0..1",
        },
        Case {
            args: &["segment", "scene.png", "-t", "dog", "--threshold", "-1"],
            code: 2,
            says: "0..1",
        },
        Case {
            args: &["segment", "scene.png", "-t", "dog", "--nms", "2"],
            code: 2,
            says: "0..1",
        },
        Case {
            args: &["segment", "scene.png", "--exemplar", "1,2,3"],
            code: 2,
            says: "x0,y0,x1,y1",
        },
        Case {
            args: &["segment", "scene.png", "--exemplar", "50,50,10,10"],
            code: 1,
            says: "inverted",
        },
        Case {
            args: &["segment", "scene.png", "--exemplar", "500,500,600,600"],
            code: 1,
            says: "outside the image",
        },
        Case {
            args: &["segment", "scene.png", "--exemplar", "nan,0,1,1"],
            code: 1,
            says: "not finite",
        },
        Case {
            args: &["segment", "scene.png", "--not-exemplar", "1,1,9,9"],
            code: 1,
            says: "positive exemplar",
        },
        Case {
            args: &["segment", "scene.png", "-t", "dog", "--format", "svg"],
            code: 2,
            says: "overlay",
        },
        Case {
            args: &["segment", "scene.png", "-t", "dog", "--device", "gpu"],
            code: 2,
            says: "cuda",
        },
        Case {
            args: &["segment", "scene.png", "-t", "dog", "-m", "missing.pt"],
            code: 1,
            says: "missing.pt",
        },
        Case {
            args: &["segment", "scene.png", "-t", "dog", "-m", "text.pt"],
            code: 1,
            says: "HTML",
        },
        Case {
            args: &[
                "segment",
                "scene.png",
                "-t",
                "dog",
                "-m",
                "empty.safetensors",
            ],
            code: 1,
            says: "empty",
        },
        Case {
            args: &["segment", "scene.png", "-t", "dog", "-m", "cut.safetensors"],
            code: 1,
            says: "cut.safetensors",
        },
        Case {
            args: &["segment", "scene.png", "-t", "dog", "-m", "nothing"],
            code: 1,
            says: "nothing",
        },
        Case {
            args: &["segment", "scene.png", "-t", "dog", "-o", "cut.png"],
            code: 1,
            says: "is a file",
        },
        Case {
            args: &["segment", ".", "-t", "dog"],
            code: 1,
            says: "is a folder",
        },
        Case {
            args: &["segment", "scene.png", "-t", "dog", "--threads", "0"],
            code: 2,
            says: "threads",
        },
        Case {
            args: &["segment", "scene.png", "-t", "dog", "--threads", "1000000"],
            code: 2,
            says: "1024",
        },
    ] {
        let before = std::fs::read_dir(folder.path()).unwrap().count();
        sam3()
            .current_dir(folder.path())
            .args(args)
            .assert()
            .code(code)
            .stdout("")
            .stderr(contains(says));
        let after = std::fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(before, after, "{args:?} left something behind");
    }
}

#[test]
fn a_long_text_is_cut_with_a_warning() {
    let text = "red square ".repeat(40);
    sam3()
        .args(["segment", "--text", &text, "-o", "-"])
        .arg(scene())
        .assert()
        .success()
        .stderr(contains("cut to the model's 32"));
}

#[test]
fn a_click_or_a_box_cuts_out_the_object_under_it() {
    for (flag, value) in [("--point", "124,124"), ("--box", "61,61,187,187")] {
        let output = sam3()
            .args(["segment", flag, value, "-o", "-", "-q"])
            .arg(scene())
            .assert()
            .success();
        let document = json(&output.get_output().stdout);
        assert_eq!(document["kind"], "interactive");
        let instances = document["prompts"][0]["instances"].as_array().unwrap();
        assert_eq!(instances.len(), 1, "{flag}");
        // the blue circle has a radius of 62.6 pixels
        let area = instances[0]["area"].as_f64().unwrap();
        assert!((11_000. ..13_600.).contains(&area), "{flag}: {area}");
    }
}

#[test]
fn the_demo_model_says_that_it_does_not_know_photographs() {
    let folder = tempfile::tempdir().unwrap();
    let photo = folder.path().join("photo.png");
    let color = |x: u32, y: u32| image::Rgb([(x / 2) as u8, y as u8, ((x + y) / 3) as u8]);
    image::RgbImage::from_fn(500, 250, color)
        .save(&photo)
        .unwrap();
    for question in [["--text", "dog"], ["--point", "9,9"]] {
        let ask = |image: &Path, extra: &[&str]| {
            let mut command = sam3();
            command.arg("segment").args(question).args(["-o", "-"]);
            command.args(extra).arg(image).assert().success()
        };
        ask(&photo, &[]).stderr(contains("knows only colored shapes").count(1));
        ask(&photo, &["-q"]).stderr("");
        ask(&scene(), &[]).stderr(contains("photograph").not());
    }
}

#[test]
fn a_click_can_be_refined_with_its_logits() {
    let folder = tempfile::tempdir().unwrap();
    let logits = folder.path().join("click.safetensors");
    let click = |extra: &[&std::ffi::OsStr]| {
        sam3()
            .args(["segment", "--point", "124,124", "-q", "-o", "-"])
            .args(extra)
            .arg(scene())
            .assert()
            .success();
    };
    click(&["--logits".as_ref(), logits.as_os_str()]);
    click(&["--mask".as_ref(), logits.as_os_str()]);
}

#[test]
fn everything_finds_masks_and_writes_the_originals_formats() {
    let folder = tempfile::tempdir().unwrap();
    sam3()
        .args([
            "everything",
            "--points-per-side",
            "8",
            "--pred-iou-thresh",
            "0.7",
        ])
        .args([
            "--stability-score-thresh",
            "0.7",
            "--format",
            "json,amg,amg-json,coco",
            "-q",
            "-o",
        ])
        .arg(folder.path())
        .arg(scene())
        .assert()
        .success();
    let document = json(&std::fs::read(folder.path().join("shapes.json")).unwrap());
    assert_eq!(document["kind"], "everything");
    let found = document["prompts"][0]["instances"]
        .as_array()
        .unwrap()
        .len();
    assert!(found > 0);
    let read = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
    assert_eq!(
        json(&read("shapes_amg.json")).as_array().unwrap().len(),
        found
    );
    let table = String::from_utf8(read("shapes_amg/metadata.csv")).unwrap();
    assert_eq!(table.lines().count(), found + 1);
    assert!(folder.path().join("shapes_amg/0.png").is_file());
    let dataset = json(&read("shapes_coco.json"));
    assert_eq!(dataset["annotations"].as_array().unwrap().len(), found);
    assert_eq!(dataset["images"][0]["file_name"], "shapes.png");
}

#[test]
fn bad_clicks_are_refused_with_a_reason() {
    struct Case(&'static [&'static str], i32, &'static str);
    for Case(args, code, says) in [
        Case(&["segment", "--point", "500,5"], 1, "outside"),
        Case(&["segment", "--point", "5"], 2, "--point"),
        Case(&["segment", "--box", "50,50,10,10"], 1, "inverted"),
        Case(&["segment", "--point", "5,5", "--text", "dog"], 2, "--text"),
        Case(
            &["segment", "--point", "5,5", "--mask", "missing.safetensors"],
            1,
            "missing.safetensors",
        ),
        Case(&["everything", "--points-per-side", "0"], 1, "points"),
        Case(
            &["everything", "--context-length", "16"],
            1,
            "--context-length is of use to texts",
        ),
        Case(
            &["segment", "--point", "5,5", "--geometry", "sam3.pt"],
            1,
            "--geometry is of use to texts",
        ),
        Case(
            &["segment", "--point", "5,5", "--format", "amg"],
            1,
            "for the mask generator",
        ),
        Case(
            &[
                "segment",
                "--point",
                "5,5",
                "--format",
                "json",
                "--no-labels",
            ],
            1,
            "--no-labels is about the overlay",
        ),
        Case(
            &["segment", "--point", "5,5", "--format", "masks", "-o", "-"],
            1,
            "prints one document",
        ),
        Case(
            &["everything", "--pred-iou-thresh", "nan"],
            1,
            "pred_iou_thresh",
        ),
    ] {
        sam3()
            .args(args)
            .arg(scene())
            .assert()
            .code(code)
            .stdout("")
            .stderr(contains(says));
    }
}
