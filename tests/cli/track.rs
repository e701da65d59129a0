//! `sam3 track`.

use std::fs;
use std::path::{Path, PathBuf};

use candle_sam3::weights::{self, WriteOptions};
use predicates::prelude::*;
use predicates::str::contains;
use serde_json::Value;

use crate::sam3;

const FRAMES: usize = 36;
const SIDE: usize = 224;

fn scenes() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenes")
}

/// A red star that passes behind a blue square.
fn clip() -> PathBuf {
    scenes().join("red_star.gif")
}

/// The visible pixels of the star on every frame, by rows.
fn star() -> Vec<Vec<bool>> {
    let masks = image::open(scenes().join("red_star_masks.png")).unwrap();
    let masks = masks.into_luma8();
    let frame = |t| {
        let pixels = (0..SIDE * SIDE).map(move |i| (i % SIDE + t * SIDE, i / SIDE));
        pixels.map(|(x, y)| masks.get_pixel(x as u32, y as u32).0[0] > 0)
    };
    (0..FRAMES).map(|t| frame(t).collect()).collect()
}

/// The lines of a run.
fn lines(folder: &Path) -> Vec<Value> {
    let text = fs::read_to_string(folder.join("tracks.jsonl")).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// The object with this id on a frame.
fn object(line: &Value, id: u64) -> Option<&Value> {
    let objects = line["objects"].as_array().unwrap();
    objects.iter().find(|object| object["id"] == id)
}

fn iou(object: Option<&Value>, want: &[bool]) -> f64 {
    let mask = object.map(|object| {
        let rle: candle_sam3::Rle = serde_json::from_value(object["segmentation"].clone()).unwrap();
        rle.decode().unwrap()
    });
    let (mut both, mut any) = (0, 0);
    for (i, want) in want.iter().enumerate() {
        let got = mask
            .as_ref()
            .is_some_and(|mask| mask.get(i % SIDE, i / SIDE));
        both += usize::from(got && *want);
        any += usize::from(got || *want);
    }
    both as f64 / any.max(1) as f64
}

/// Every file below a folder and what it holds.
fn files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = vec![];
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => found.push((path.clone(), fs::read(&path).unwrap())),
        }
    }
    found.sort();
    found
}

#[test]
fn a_named_star_is_found_and_has_its_number_back_after_it_was_hidden() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    sam3()
        .args(["track", "--text", "red star", "--simple"])
        .arg(clip())
        .arg("-o")
        .arg(&out)
        .assert()
        .success()
        .stdout("")
        .stderr(contains("36 frames, 1 object: wrote"));
    let (lines, star) = (lines(&out), star());
    assert_eq!(lines.len(), FRAMES);
    for (t, (line, want)) in lines.iter().zip(&star).enumerate() {
        assert_eq!(line["frame"], t);
        let visible = want.iter().filter(|inside| **inside).count();
        let overlap = iou(object(line, 1), want);
        if visible > 750 {
            assert!(overlap > 0.8, "frame {t}: IoU {overlap}");
        }
        if visible == 0 {
            assert!(object(line, 1).is_none(), "frame {t}");
        }
    }
    let mut names: Vec<_> = fs::read_dir(&out)
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(
        names,
        ["overlay.gif", "tracks.jsonl"],
        "nothing is left of the state"
    );
}

#[test]
fn two_objects_that_are_shown_are_followed_and_written_in_every_format() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let scene = image::RgbImage::from_fn(224, 224, |x, y| match (x, y) {
        (30..90, 40..100) => image::Rgb([215, 35, 40]),
        (130..200, 120..190) => image::Rgb([40, 80, 220]),
        _ => image::Rgb([150, 158, 166]),
    });
    let frames = folder.path().join("frames");
    fs::create_dir(&frames).unwrap();
    for t in 0..4 {
        let moved = image::imageops::crop_imm(&scene, 2 * t, t, 200, 200).to_image();
        moved.save(frames.join(format!("{t}.png"))).unwrap();
    }
    let mask = image::GrayImage::from_fn(200, 200, |x, y| match (x, y) {
        (130..200, 120..190) => image::Luma([255]),
        _ => image::Luma([0]),
    });
    let drawn = folder.path().join("mask.png");
    mask.save(&drawn).unwrap();
    sam3()
        .args(["track", "--simple", "--box", "0:30,40,90,100", "--mask"])
        .arg(format!("2@0:{}", drawn.display()))
        .args(["--format", "gif,overlay,masks,davis,mot,youtube-vis"])
        .arg(&frames)
        .arg("-o")
        .arg(&out)
        .assert()
        .success()
        .stderr(contains("4 frames, 2 objects").and(contains("lost").not()));
    for (t, line) in lines(&out).iter().enumerate() {
        let shift = [2. * t as f64, t as f64];
        for (id, want) in [(1, [30., 40., 90., 100.]), (2, [130., 120., 200., 190.])] {
            let bbox = object(line, id).unwrap()["box_xyxy"].clone();
            let bbox: [f64; 4] = serde_json::from_value(bbox).unwrap();
            for (i, (got, want)) in bbox.iter().zip(want).enumerate() {
                assert!(
                    (got - want + shift[i % 2]).abs() < 8.,
                    "frame {t}: {id} {bbox:?}"
                );
            }
        }
    }
    let mot = fs::read_to_string(out.join("mot.txt")).unwrap();
    assert!(mot.lines().count() == 8 && mot.starts_with("1,1,"), "{mot}");
    let vis: Value =
        serde_json::from_slice(&fs::read(out.join("youtube_vis.json")).unwrap()).unwrap();
    assert_eq!(vis["videos"][0]["file_names"][3], "frames/3.png");
    assert_eq!(vis["annotations"].as_array().unwrap().len(), 2);
    let davis = image::open(out.join("davis/00000.png"))
        .unwrap()
        .into_rgb8();
    assert_eq!(davis.get_pixel(60, 70).0, [128, 0, 0]);
    assert_eq!(davis.get_pixel(165, 155).0, [0, 128, 0]);
    for file in ["overlay.gif", "overlay/00003.png", "masks/002/00003.png"] {
        assert!(out.join(file).is_file(), "{file}");
    }
}

#[test]
fn what_is_shown_late_is_followed_back_to_the_first_frame() {
    let folder = tempfile::tempdir().unwrap();
    let frames = folder.path().join("frames");
    fs::create_dir(&frames).unwrap();
    let scene = image::RgbImage::from_fn(224, 224, |x, y| match (x, y) {
        (30..90, 40..100) => image::Rgb([215, 35, 40]),
        (130..200, 120..190) => image::Rgb([40, 80, 220]),
        _ => image::Rgb([150, 158, 166]),
    });
    for t in 0..5 {
        let moved = image::imageops::crop_imm(&scene, 2 * t, t, 200, 200).to_image();
        moved.save(frames.join(format!("{t}.png"))).unwrap();
    }
    let track = |name: &str, more: &[&str]| {
        let out = folder.path().join(name);
        let mut command = sam3();
        command.args(["track", "--simple", "--format", "davis"]);
        command.args(more).arg(&frames).arg("-o").arg(&out);
        (command.assert(), out)
    };
    let red = ["--box", "1@2:26,38,86,98"];
    let blue = ["--box", "2@4:122,116,192,186"];
    let (done, forward) = track("forward", &[red, blue].concat());
    done.success();
    let ids = |line: &Value| -> Vec<u64> {
        let objects = line["objects"].as_array().unwrap().iter();
        objects
            .map(|object| object["id"].as_u64().unwrap())
            .collect()
    };
    let forward = lines(&forward);
    let before: Vec<Vec<u64>> = forward.iter().map(ids).collect();
    assert_eq!(before, [vec![], vec![], vec![1], vec![1], vec![1, 2]]);

    let (done, both) = track("both", &[&red[..], &blue, &["--backward"]].concat());
    done.success();
    for (t, (line, forward)) in lines(&both).iter().zip(&forward).enumerate() {
        assert_eq!(ids(line), [1, 2], "frame {t}");
        for known in forward["objects"].as_array().unwrap() {
            assert_eq!(object(line, known["id"].as_u64().unwrap()), Some(known));
        }
        let shift = [2. * t as f64, t as f64];
        for (id, want) in [(1, [30., 40., 90., 100.]), (2, [130., 120., 200., 190.])] {
            let bbox = object(line, id).unwrap()["box_xyxy"].clone();
            let bbox: [f64; 4] = serde_json::from_value(bbox).unwrap();
            for (i, (got, want)) in bbox.iter().zip(want).enumerate() {
                let off = got - want + shift[i % 2];
                assert!(off.abs() < 8., "frame {t}: {id} {bbox:?}");
            }
        }
    }

    let (refused, _) = track("none", &["--backward", "--box", "0:30,40,90,100"]);
    refused.failure().stderr(contains("leave out --backward"));
    let (refused, _) = track("named", &["--backward", "--text", "star"]);
    refused.failure().code(2);
}

#[test]
fn a_run_that_was_stopped_goes_on_to_the_same_files() {
    let folder = tempfile::tempdir().unwrap();
    let frames = folder.path().join("frames");
    fs::create_dir(&frames).unwrap();
    let scene = image::open(scenes().join("shapes.png")).unwrap();
    for t in 0..6 {
        let moved = image::imageops::crop_imm(&scene, 3 * t, 0, 300, 300).to_image();
        moved.save(frames.join(format!("{t}.png"))).unwrap();
    }
    for (name, prompt) in [
        ("text", ["--text", "triangle"]),
        ("box", ["--box", "0:61,61,187,187"]),
    ] {
        let run = |out: &Path, more: &[&str]| {
            let mut command = sam3();
            command.args(["track", "--simple", "--save-every", "2"]);
            command.args(["--format", "gif,davis,mot,youtube-vis"]);
            command
                .args(prompt)
                .args(more)
                .arg(&frames)
                .arg("-o")
                .arg(out);
            command.assert()
        };
        let whole = folder.path().join(name).join("whole");
        run(&whole, &[]).success();
        let parts = folder.path().join(name).join("parts");
        let last = frames.join("5.png");
        let kept = fs::read(&last).unwrap();
        fs::write(&last, &kept[..200]).unwrap(); // a broken frame stops the run
        run(&parts, &[]).failure().stderr(contains("frame 5"));
        assert_eq!(lines(&parts).len(), 5, "nothing that was written is lost");
        run(&parts, &[])
            .failure()
            .stderr(contains("holds").and(contains("--resume")));
        let other = run(&parts, &["--resume", "--threshold", "0.4"]);
        other
            .failure()
            .stderr(contains("holds a run with threshold"));
        fs::write(&last, kept).unwrap();
        let lock = fs::File::create(parts.join(".sam3/lock")).unwrap();
        lock.lock().unwrap();
        run(&parts, &["--resume"])
            .failure()
            .stderr(contains("another process is working on"));
        drop(lock);
        fs::write(parts.join(".sam3-1a2b3c.tmp"), "half").unwrap(); // of a process that was killed
        run(&parts, &["--resume"]).success();
        let relative = |root: &Path| -> Vec<(PathBuf, Vec<u8>)> {
            let files = files(root).into_iter();
            files
                .map(|(path, bytes)| (path.strip_prefix(root).unwrap().into(), bytes))
                .collect()
        };
        assert!(relative(&whole) == relative(&parts), "{name}");
        run(&parts, &["--resume"])
            .failure()
            .stderr(contains("holds no run that was stopped"));
    }
}

#[test]
fn what_cannot_be_tracked_is_refused_with_what_would_work() {
    let folder = tempfile::tempdir().unwrap();
    let frames = folder.path().join("frames");
    fs::create_dir(&frames).unwrap();
    image::RgbImage::new(40, 30)
        .save(frames.join("0.png"))
        .unwrap();
    let video = folder.path().join("clip.mp4");
    fs::write(&video, "no video").unwrap();
    let empty = folder.path().join("empty");
    fs::create_dir(&empty).unwrap();
    let clip = clip();
    let missing = folder.path().join("missing.gif");
    let forgetful = folder.path().join("forgetful.safetensors");
    weights::demo()
        .unwrap()
        .write(
            &forgetful,
            &WriteOptions::default(),
            |name| !name.starts_with("tracker.maskmem"),
            |_, _| (),
        )
        .unwrap();
    let forgetful = forgetful.to_str().unwrap();
    for (input, args, says) in [
        (&clip, vec![], "nothing to follow"),
        (&clip, vec!["--text", "star", "-m", forgetful], "no tracker"),
        (
            &clip,
            vec!["--point", "0:9,9", "-m", forgetful],
            "no tracker",
        ),
        (&clip, vec!["--point", "36:9,9"], "a video of 36 frames"),
        (&clip, vec!["--point", "0:900,9"], "outside the image"),
        (&clip, vec!["--box", "0:9,9,3,3"], "inverted"),
        (&clip, vec!["--text", " "], "empty"),
        (&clip, vec!["--text", "star, circle"], "one phrase"),
        (
            &clip,
            vec!["--text", "star", "--simple", "--resume"],
            "no run that was stopped",
        ),
        (&frames, vec!["--point", "1:9,9"], "a video of 1 frames"),
        (&empty, vec!["--point", "0:9,9"], "no picture in"),
        (&missing, vec!["--point", "0:9,9"], "does not exist"),
        (&video, vec!["--point", "0:9,9"], "apt install ffmpeg"),
        (
            &clip,
            vec!["--point", "0:9,9", "--format", "mp4"],
            "apt install ffmpeg",
        ),
        (&clip, vec!["--point", "9,9"], "frame is missing"),
        (
            &clip,
            vec!["--point", "0:9,9", "--format", "avi"],
            "use one of gif, mp4",
        ),
    ] {
        let out = folder.path().join("out");
        sam3()
            .env("PATH", &empty)
            .arg("track")
            .arg(input)
            .args(&args)
            .args(["-o"])
            .arg(&out)
            .assert()
            .failure()
            .stderr(contains(says));
        assert!(!out.exists(), "{args:?} left something behind");
    }
}

/// Stands in for `ffmpeg`: of `clip.mp4` it gives the frames that lie beside it, and of frames it
/// makes a file of their bytes.
#[cfg(unix)]
const FFMPEG: &str = r#"#!/bin/sh
for last; do :; done
case "$*" in
  *-version*) ;;
  *broken.mp4*) echo "broken.mp4: Invalid data found" >&2; exit 1 ;;
  *yuv4mpegpipe*) echo "  Duration: 00:00:00.12, start: 0" >&2; echo "YUV4MPEG2 W16 H16 F25:1 Ip" ;;
  *image2pipe*)
    cat "$FRAMES"/0.ppm "$FRAMES"/1.ppm
    case "$*" in *short.mp4*) head -c 100 "$FRAMES"/2.ppm; echo "moov atom lost" >&2; exit 1 ;; esac
    cat "$FRAMES"/2.ppm ;;
  *rawvideo*) exec cat > "${last#file:}" ;;
esac
"#;

#[cfg(unix)]
#[test]
fn a_video_file_goes_through_the_ffmpeg_that_is_installed() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let bin = folder.path().join("bin");
    fs::create_dir(&bin).unwrap();
    fs::write(bin.join("ffmpeg"), FFMPEG).unwrap();
    fs::set_permissions(bin.join("ffmpeg"), fs::Permissions::from_mode(0o755)).unwrap();
    for t in 0..3 {
        let scene = image::RgbImage::from_fn(120, 100, |x, y| match (x, y) {
            (30..80, 30..80) => image::Rgb([215, 35, 40]),
            _ => image::Rgb([150, 158, 166]),
        });
        let ppm = [b"P6\n120 100\n255\n", &scene.into_raw()[..]].concat();
        fs::write(folder.path().join(format!("{t}.ppm")), ppm).unwrap();
    }
    let track = |name: &str| {
        fs::write(folder.path().join(name), "").unwrap();
        let path = std::env::var("PATH").unwrap();
        sam3()
            .env("PATH", format!("{}:{path}", bin.display()))
            .env("FRAMES", folder.path())
            .args([
                "track",
                "--simple",
                "--box",
                "0:30,30,80,80",
                "--format",
                "mp4",
            ])
            .arg(folder.path().join(name))
            .assert()
    };
    track("clip.mp4")
        .success()
        .stderr(contains("3 frames, 1 object"));
    let out = folder.path().join("clip.tracked");
    assert_eq!(lines(&out).len(), 3);
    assert_eq!(
        fs::metadata(out.join("overlay.mp4")).unwrap().len(),
        3 * 120 * 100 * 3
    );
    track("broken.mp4")
        .failure()
        .stderr(contains("Invalid data found"));
    assert!(!folder.path().join("broken.tracked").exists());
    track("short.mp4")
        .failure()
        .stderr(contains("frame 2: moov atom lost"));
    assert_eq!(lines(&folder.path().join("short.tracked")).len(), 2);
}
