//! Pictures: what the command does with each.

use std::path::{Path, PathBuf};

use predicates::prelude::*;
use predicates::str::contains;
use serde_json::Value;

use crate::limited;

fn picture(name: &str) -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    tests.join("field/pictures").join(name)
}

/// The JSON document of a picture, and what was said.
fn segment(name: &str, args: &[&str]) -> (Value, String) {
    let mut command = limited();
    command.arg("segment").arg(picture(name));
    let assert = command.args(args).args(["-o", "-"]).assert().success();
    let output = assert.get_output();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (serde_json::from_slice(&output.stdout).unwrap(), said)
}

fn objects(document: &Value) -> usize {
    let instances = &document["prompts"][0]["instances"];
    instances.as_array().unwrap().len()
}

fn refused(name: &str, words: &[&str]) {
    let mut command = limited();
    command.arg("segment").arg(picture(name));
    let assert = command.args(["--text", "blue circle", "-o", "-"]).assert();
    let assert = assert.code(1).stdout("").stderr(contains(name));
    let said = String::from_utf8_lossy(&assert.get_output().stderr);
    for word in words {
        assert!(said.contains(word), "{name}: no {word:?} in {said}");
    }
    assert!(!said.contains("panicked"), "{said}");
}

#[test]
fn a_motion_photo_is_read_to_the_end_of_its_picture() {
    let (document, said) = segment("motion_photo.jpg", &["--text", "blue circle"]);
    assert_eq!(objects(&document), 1, "{said}");
    assert!(document["image"].get("warnings").is_none());
}

#[test]
fn a_png_without_its_last_chunk_is_read() {
    let (document, _) = segment("png_without_iend.png", &["--text", "blue circle"]);
    assert_eq!(objects(&document), 1);
}

#[test]
fn a_bigtiff_is_read() {
    let (document, said) = segment("bigtiff.tif", &["--text", "blue circle"]);
    assert!(document["image"]["width"].as_u64() > Some(0), "{said}");
}

#[test]
fn a_damaged_jpeg_is_refused_and_not_filled_with_grey() {
    refused("bitrot.jpg", &["damaged", "from row", "intact copy"]);
}

#[test]
fn float_samples_beyond_one_are_refused_or_stretched() {
    let words = ["29 to 255", "--stretch", "gdal_translate"];
    refused("float_rgb_0_255.tif", &words);
    let args = ["--text", "blue circle", "--stretch"];
    let (document, _) = segment("float_rgb_0_255.tif", &args);
    assert_eq!(objects(&document), 1);
}

#[test]
fn dark_16_bit_pictures_are_warned_about_or_stretched() {
    let text = ["--text", "shapes"];
    let (document, said) = segment("microscope_12_of_16_bits.png", &text);
    let warning = document["image"]["warnings"][0].as_str().unwrap();
    assert!(warning.contains("--stretch"), "{warning}");
    assert!(said.contains(warning), "{said}");
    let args = ["--text", "shapes", "--stretch"];
    let (document, said) = segment("microscope_12_of_16_bits.png", &args);
    assert_eq!(objects(&document), 3, "{said}");
    assert!(document["image"].get("warnings").is_none());
}

#[test]
fn signed_samples_need_a_stretch() {
    refused("int16_grey.tif", &["16-bit signed", "--stretch"]);
    let args = ["--text", "circle", "--stretch=0.5"];
    segment("int16_grey.tif", &args);
}

#[test]
fn what_cannot_be_read_is_named_with_a_remedy() {
    refused(
        "camera_raw.dng",
        &["DNG", "preview of 64x64", "raw converter"],
    );
    if !cfg!(feature = "heic") {
        refused("iphone.heic", &["HEIC", "convert it to jpeg"]);
    }
}

#[test]
fn pictures_that_would_take_much_memory_are_refused() {
    for name in ["tall_bomb_1x20000000.png", "tall_1x4000000.png"] {
        refused(name, &["no side may be longer than 131072"]);
    }
}

/// As PIL shows it: where the frame does not reach, the first color of the palette.
#[test]
fn a_gif_frame_smaller_than_its_screen_lies_on_the_color_that_pil_shows() {
    let file = picture("gif_frame_smaller_than_screen.gif");
    let image = candle_sam3::image::Image::open(file).unwrap();
    assert_eq!((image.width(), image.height()), GIF_SIZE);
    assert_eq!(image.pixels()[..3], GIF_CORNER);
    let (document, _) = segment("gif_frame_smaller_than_screen.gif", &["--text", "star"]);
    assert_eq!(document["image"]["width"], GIF_SIZE.0);
}

const GIF_SIZE: (usize, usize) = (20, 20);
const GIF_CORNER: [u8; 3] = [255, 0, 0];

/// A cut-out of the blue circle, and the same mask in white on black.
#[test]
fn a_mask_in_the_alpha_channel_is_taken() {
    let cut_out = picture("mask_in_alpha.png");
    let folder = tempfile::tempdir().unwrap();
    let drawn = folder.path().join("drawn.png");
    let alpha = image::open(&cut_out).unwrap().into_rgba8();
    let (width, height) = alpha.dimensions();
    let white = image::GrayImage::from_fn(width, height, |x, y| {
        image::Luma([alpha.get_pixel(x, y).0[3]])
    });
    white.save(&drawn).unwrap();
    let scene = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenes/shapes.png");
    let answer = |mask: &Path| -> Value {
        let mut command = limited();
        command.arg("segment").arg(&scene).args(["-o", "-"]);
        command.args(["--point", "124,124", "--mask"]).arg(mask);
        let assert = command
            .assert()
            .success()
            .stderr(contains("panicked").not());
        let document: Value = serde_json::from_slice(&assert.get_output().stdout).unwrap();
        document["prompts"].clone()
    };
    let found = answer(&cut_out);
    assert_eq!(found, answer(&drawn));
    let area = found[0]["instances"][0]["area"].as_u64().unwrap();
    assert!((10_000..15_000).contains(&area), "{area}");
}
