//! The memory of the trained demo model: a clip as PyTorch follows it.

use std::path::Path;

use candle_sam3::mask::BoxXyxy;
use candle_sam3::models::sam3::Sam3;
use candle_sam3::predict::video::{FrameReader, Options, Session};
use candle_sam3::{LoadOptions, Run, VisualPrompt, weights};

use crate::reference::{Reference, max_error, values};

// Scores are logits of some tens; a pixel on the outline may fall to either side.
const SCORES: f32 = 1e-2;
const IOUS: f32 = 1e-3;
const PIXELS: f32 = 3.;

#[test]
fn a_star_is_followed_behind_a_square_as_in_pytorch() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let golden = Reference::open(&tests.join("golden/demo_video.safetensors"));
    let options = LoadOptions {
        tracking: true,
        ..LoadOptions::default()
    };
    let model = Sam3::load(&weights::demo().unwrap(), &options).unwrap();
    let mut session = Session::new(&model, Options::default()).unwrap();
    let run = &mut Run::default();
    let [x0, y0, x1, y1] = values(&golden.tensor("box"))[..] else {
        panic!("a box has four sides");
    };
    let (mut areas, mut scores, mut ious) = (vec![], vec![], vec![]);
    let frames = FrameReader::open(&tests.join("scenes/red_star.gif")).unwrap();
    for (t, image) in frames.enumerate() {
        let mut found = session.push(&image.unwrap(), run).unwrap();
        if t == 0 {
            let around = VisualPrompt::bbox(BoxXyxy { x0, y0, x1, y1 });
            found = session.prompt(0, 1, &around).unwrap();
        }
        let [star] = &found.objects[..] else {
            panic!("frame {t}: {} objects", found.objects.len());
        };
        areas.push(star.mask.area() as f32);
        scores.push(star.object_score.unwrap());
        ious.push(star.iou_score);
    }
    for (what, got, tolerance) in [
        ("score", scores, SCORES),
        ("iou", ious, IOUS),
        ("area", areas, PIXELS),
    ] {
        let worst = max_error(&got, &values(&golden.tensor(what)));
        println!("{what}: {worst:.1e} at most");
        assert!(worst <= tolerance, "{what}: {worst} > {tolerance}");
    }
}
