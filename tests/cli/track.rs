//! `sam3 track`.

use std::path::{Path, PathBuf};

use image::codecs::gif::GifEncoder;
use image::{Frame, Rgba, RgbaImage};
use predicates::prelude::*;
use predicates::str::contains;
use serde_json::{Value, json};

use crate::sam3;

const FRAMES: i64 = 6;

/// A red disc that moves to the right, with a blue square that moves to the left.
fn frame(t: i64) -> RgbaImage {
    RgbaImage::from_fn(224, 224, |x, y| {
        let (x, y) = (i64::from(x), i64::from(y));
        if (x - (60 + 4 * t)).pow(2) + (y - 70).pow(2) < 676 {
            return Rgba([214, 40, 40, 255]);
        }
        match (x - (165 - 3 * t)).abs() < 24 && (y - 150).abs() < 24 {
            true => Rgba([40, 80, 220, 255]),
            false => Rgba([120, 130, 140, 255]),
        }
    })
}

/// The clip as an animated GIF.
fn clip(folder: &Path) -> PathBuf {
    let path = folder.join("clip.gif");
    let mut encoder = GifEncoder::new(std::fs::File::create(&path).unwrap());
    (0..FRAMES).for_each(|t| encoder.encode_frame(Frame::new(frame(t))).unwrap());
    path
}

#[test]
fn two_objects_are_followed_without_a_memory_and_written_in_every_format() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    sam3()
        .args(["track", "--simple"])
        .args(["--box", "1@0:34,44,86,96", "--point", "2@0:165,150"])
        .args(["--formats", "jsonl,gif,overlay,masks,davis,mot,youtube-vis"])
        .arg(clip(folder.path()))
        .arg("-o")
        .arg(&out)
        .assert()
        .success()
        .stderr(contains("6 frames, 2 objects").and(contains("lost").not()));
    let lines = std::fs::read_to_string(out.join("tracks.jsonl")).unwrap();
    let lines: Vec<Value> = lines
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    assert_eq!(lines.len(), FRAMES as usize);
    for (t, line) in lines.iter().enumerate() {
        assert_eq!(line["frame"], t);
        let disc = &line["objects"][0];
        assert_eq!(disc["id"], 1);
        let bbox: [f64; 4] = serde_json::from_value(disc["box"].clone()).unwrap();
        let left = 34. + 4. * t as f64;
        for (got, want) in bbox.iter().zip([left, 44., left + 52., 96.]) {
            assert!((got - want).abs() < 8., "frame {t}: {bbox:?}");
        }
    }
    let mot = std::fs::read_to_string(out.join("mot.txt")).unwrap();
    assert_eq!(mot.lines().count(), 2 * FRAMES as usize);
    assert!(mot.starts_with("1,2,"), "{mot}");
    let vis = std::fs::read(out.join("youtube_vis.json")).unwrap();
    let vis: Value = serde_json::from_slice(&vis).unwrap();
    assert_eq!(vis["videos"][0]["length"], json!(FRAMES));
    assert_eq!(vis["annotations"].as_array().unwrap().len(), 2);
    let davis = image::open(out.join("davis/00000.png"))
        .unwrap()
        .into_rgb8();
    assert_eq!(davis.get_pixel(60, 70).0, [0, 128, 0]); // index 2
    for file in ["overlay.gif", "overlay/00005.png", "masks/00005_2.png"] {
        assert!(out.join(file).is_file(), "{file}");
    }
}

#[test]
fn what_cannot_be_tracked_is_refused_with_what_would_work() {
    let folder = tempfile::tempdir().unwrap();
    let clip = clip(folder.path());
    let frames = folder.path().join("frames");
    std::fs::create_dir(&frames).unwrap();
    frame(0).save(frames.join("0.png")).unwrap();
    let video = folder.path().join("clip.mp4");
    std::fs::write(&video, "no video").unwrap();
    for (input, args, says) in [
        (&clip, vec![], "nothing to follow"),
        (&clip, vec!["--text", "circle"], "which has no tracker"),
        (&clip, vec!["--point", "0:9,9"], "which has no tracker"),
        (&clip, vec!["--point", "9:9,9", "--simple"], "6 frames"),
        (&frames, vec!["--point", "1:9,9"], "1 frames"),
        (&video, vec!["--point", "0:9,9"], "ffmpeg"),
        (&clip, vec!["--point", "9,9"], "frame is missing"),
        (
            &clip,
            vec!["--point", "0:9,9", "--simple", "--resume"],
            "nothing to go on with",
        ),
    ] {
        sam3()
            .arg("track")
            .arg(input)
            .args(&args)
            .args(["-o"])
            .arg(folder.path().join("out"))
            .assert()
            .failure()
            .stderr(contains(says));
    }
}
