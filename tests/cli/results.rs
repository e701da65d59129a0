//! Results as files: complete, of one run, and never in the place of something else.

use std::fs;
use std::path::Path;

use predicates::prelude::*;
use predicates::str::contains;

use crate::{json, sam3, scene};

fn count(folder: &Path) -> usize {
    fs::read_dir(folder).unwrap().count()
}

#[test]
fn masks_of_an_earlier_run_do_not_stay() {
    let folder = tempfile::tempdir().unwrap();
    let masks = |extra: &[&str]| {
        sam3()
            .args(["segment", "--text", "shape", "--format", "masks,cutout"])
            .args(extra)
            .arg("-o")
            .arg(folder.path())
            .arg(scene())
            .assert()
            .success();
        ["shapes_masks", "shapes_cutouts"].map(|name| count(&folder.path().join(name)))
    };
    assert_eq!(masks(&[]), [7, 6]); // with a label map
    assert_eq!(masks(&["--max", "2"]), [3, 2]);
}

#[test]
fn two_images_of_one_name_do_not_overwrite_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let pixels = image::open(scene()).unwrap();
    let segment = |image: &str| {
        let image = folder.path().join(image);
        fs::create_dir_all(image.parent().unwrap()).unwrap();
        pixels.to_rgb8().save(&image).unwrap();
        let mut command = sam3();
        command.args(["segment", "--text", "shape", "-q", "-o"]);
        command.arg(&out).arg(&image);
        command.assert()
    };
    segment("d1/img.png").success();
    let overlay = fs::read(out.join("img_overlay.png")).unwrap();
    segment("d2/img.jpg")
        .code(1)
        .stderr(contains("of another image of that name"));
    assert_eq!(fs::read(out.join("img_overlay.png")).unwrap(), overlay);
    segment("d1/img.png").success();
}

#[test]
fn what_needs_no_model_is_checked_before_the_model() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let long = format!("{}.png", "x".repeat(245));
    for name in ["noext", "pic.png", &long] {
        fs::copy(scene(), path(name)).unwrap();
    }
    fs::write(path("file"), "").unwrap();
    fs::create_dir(path("pic.json")).unwrap();
    fs::create_dir_all(path("kept/pic_masks")).unwrap();
    fs::write(path("kept/pic_masks/notes.txt"), "mine").unwrap();
    let before = count(folder.path());
    for (args, says) in [
        (&["pic.png", "-o", "file"][..], "is a file"),
        (&["pic.png", "-o", "file/new"], "is a file"),
        (&[&long], "too long a name"),
        (
            &["pic.png", "--format", "json,csv"],
            "is a folder where a file",
        ),
        (
            &["pic.png", "--format", "masks", "-o", "kept"],
            "holds notes.txt",
        ),
        (
            &["pic.png", "--trace", "pic.png"],
            "is read by this command",
        ),
        (&["pic.png", "--trace", "pic_overlay.png"], "written twice"),
        (&["pic.png", "--trace", "none/trace"], "none"),
        (&["pic.png", "-t", &"dog ".repeat(2100)], "at most 8192"),
    ] {
        // The model does not exist, and nothing says so.
        sam3()
            .current_dir(folder.path())
            .args(["segment", "-t", "shape", "-m", "missing.pt"])
            .args(args)
            .assert()
            .code(1)
            .stderr(contains(says).and(contains("missing.pt").not()));
    }
    assert_eq!(count(folder.path()), before, "something was left behind");
    // In place, on a picture without an ending.
    sam3()
        .current_dir(folder.path())
        .args(["everything", "noext", "--points-per-side", "2"])
        .args(["--format", "amg,json", "-o", "."])
        .assert()
        .success();
    assert!(path("noext_amg/metadata.csv").is_file() && path("noext.json").is_file());
}

#[cfg(target_os = "linux")]
#[test]
fn results_outlive_a_stderr_and_a_stdout_that_nobody_reads() {
    let folder = tempfile::tempdir().unwrap();
    let run = |name: &str, full: &str| {
        let path = folder.path().join(name);
        std::process::Command::new(assert_cmd::cargo::cargo_bin("sam3"))
            .args(["segment", "--text", "star", "-o", path.to_str().unwrap()])
            .args(["--format", "overlay,masks,json"])
            .arg(scene())
            .stdout(if full == "out" {
                full_device()
            } else {
                std::process::Stdio::null()
            })
            .stderr(if full == "err" {
                full_device()
            } else {
                std::process::Stdio::null()
            })
            .status()
            .unwrap()
    };
    for full in ["err", "out"] {
        assert!(run(full, full).success());
        assert_eq!(count(&folder.path().join(full)), 3);
    }
    // One of two outputs fails, the other is there.
    let logits = folder.path().join("click.safetensors");
    let status = std::process::Command::new(assert_cmd::cargo::cargo_bin("sam3"))
        .args(["segment", "--point", "124,124", "-o", "-", "--logits"])
        .arg(&logits)
        .arg(scene())
        .stdout(full_device())
        .stderr(std::process::Stdio::null())
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(1));
    assert!(logits.is_file());
}

#[cfg(target_os = "linux")]
fn full_device() -> std::process::Stdio {
    fs::OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .unwrap()
        .into()
}

#[cfg(unix)]
#[test]
fn a_trace_has_the_mode_of_other_results() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    sam3()
        .current_dir(folder.path())
        .args(["segment", "-t", "star", "--trace", "trace", "-q"])
        .arg(scene())
        .assert()
        .success();
    let mode = |name| {
        fs::metadata(folder.path().join(name))
            .unwrap()
            .permissions()
            .mode()
    };
    assert_eq!(mode("trace"), mode("shapes_overlay.png"));
}

#[test]
fn a_cut_out_has_the_object_on_a_transparent_ground() {
    let folder = tempfile::tempdir().unwrap();
    let cut = |extra: &[&str]| {
        sam3()
            .args([
                "segment", "--point", "124,124", "--format", "cutout", "-q", "-o",
            ])
            .arg(folder.path())
            .args(extra)
            .arg(scene())
            .assert()
            .success();
        let files = fs::read_dir(folder.path().join("shapes_cutouts")).unwrap();
        let file = files.map(|file| file.unwrap().path()).next().unwrap();
        image::open(file).unwrap().into_rgba8()
    };
    let picture = image::open(scene()).unwrap().into_rgb8();
    let whole = cut(&["--full-size"]);
    assert_eq!(whole.dimensions(), picture.dimensions());
    assert_eq!(
        whole.get_pixel(124, 124).0[..3],
        picture.get_pixel(124, 124).0
    );
    assert_eq!(whole.get_pixel(124, 124).0[3], 255);
    assert_eq!(whole.get_pixel(5, 5).0, [0; 4]);
    let cropped = cut(&[]);
    assert!(
        (110..140).contains(&cropped.width()),
        "{:?}",
        cropped.dimensions()
    );
}

#[test]
fn one_document_of_any_text_format_goes_to_stdout() {
    let print = |format: &str| {
        let mut command = sam3();
        command.args([
            "segment",
            "--text",
            "triangles",
            "-q",
            "-o",
            "-",
            "--format",
            format,
        ]);
        let done = command.arg(scene()).assert().success();
        done.get_output().stdout.clone()
    };
    assert_eq!(json(&print("json"))["prompts"][0]["text"], "triangles");
    assert_eq!(json(&print("coco"))["categories"][0]["name"], "triangles");
    let table = String::from_utf8(print("csv")).unwrap();
    assert!(table.starts_with("file,label,score,") && table.contains(",triangles,"));
}

#[test]
fn labels_can_be_left_out_and_are_explained_where_the_font_lacks_them() {
    let folder = tempfile::tempdir().unwrap();
    let overlay = |text: &str, extra: &[&str]| {
        let mut command = sam3();
        command.args([
            "segment",
            "--exemplar",
            "50,262,152,377",
            "--text",
            text,
            "-o",
        ]);
        command.arg(folder.path()).args(extra).arg(scene());
        let done = command.assert().success();
        let stderr = String::from_utf8(done.get_output().stderr.clone()).unwrap();
        (
            fs::read(folder.path().join("shapes_overlay.png")).unwrap(),
            stderr,
        )
    };
    let (with, stderr) = overlay("triangle", &[]);
    assert!(!stderr.contains("in the overlay"), "{stderr}");
    let (without, _) = overlay("triangle", &["--no-labels"]);
    assert_ne!(with, without);
    let (_, stderr) = overlay("三角形", &["--threshold", "0"]);
    assert!(stderr.contains("#1 in the overlay: 三角形"), "{stderr}");
}

#[test]
fn small_slips_are_forgiven_or_named() {
    let ask = |args: &[&str]| {
        let mut command = sam3();
        command
            .args(["segment", "-o", "-"])
            .args(args)
            .arg(scene())
            .assert()
    };
    let done = ask(&["--text", "star,"]).success();
    let document = json(&done.get_output().stdout);
    assert_eq!(document["prompts"].as_array().unwrap().len(), 1);
    let done = ask(&["--text", r"star\, red"]).success();
    assert_eq!(
        json(&done.get_output().stdout)["prompts"][0]["text"],
        "star, red"
    );
    for flag in ["--box", "--exemplar"] {
        ask(&[flag, "0.13,0.13,0.42,0.42"]).stderr(contains("looks like fractions"));
    }
    ask(&["--point", "0.5,0.25"]).stderr(contains("looks like fractions"));
    ask(&["--point", "124,124"]).stderr(contains("fractions").not());
}
