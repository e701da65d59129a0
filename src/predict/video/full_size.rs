//! A session at full size against a run of the original on the same random weights.
//!
//! Not run by default: the files are large. `SAM3_VIDEO_CHECKPOINT` names the checkpoint,
//! `SAM3_VIDEO_REFERENCE` a folder with frames `00.png` … of 1008 x 1008 pixels, `dump.safetensors`
//! with `out.<step>.low_res_logits`, `.object_scores` and `.memory` (objects first) of every step,
//! and `steps.json`: `steps`, in order, each with `step`, `frame`, `obj` for a prompt and `kind`
//! (`cond` or `non_cond`) for a frame that is passed; `prompts`, by the name of the step, points
//! or a box in shares of the side; `selects` is false where frames of any quality are attended to.
//!
//!     SAM3_VIDEO_CHECKPOINT=FILE SAM3_VIDEO_REFERENCE=FOLDER \
//!         cargo test --lib full_size_session -- --ignored --nocapture

use std::path::PathBuf;

use candle::Tensor;
use serde_json::Value;

use super::group::{Group, Known, Prompted};
use crate::models::head::Label;
use crate::models::sam3::Sam3;
use crate::models::tracker::{FrameFeatures, LabeledPoint, Position, Rules, TrackingModel};
use crate::{Checkpoint, Image, LoadOptions, Run};

/// Of low-resolution logits, when every frame attends to the memories of the reference.
const FED: f32 = 1e-4;
/// Of object scores.
const SCORE: f32 = 1e-3;
/// The least overlap of masks on the first frames, when it attends to its own.
const OVERLAP: f64 = 0.999;
const FIRST_FRAMES: usize = 4;

struct Reference {
    folder: PathBuf,
    tensors: std::collections::HashMap<String, Tensor>,
    steps: Vec<Value>,
    prompts: Value,
    selects: bool,
}

impl Reference {
    fn open() -> Self {
        let folder = PathBuf::from(std::env::var("SAM3_VIDEO_REFERENCE").unwrap());
        let json = std::fs::read(folder.join("steps.json")).unwrap();
        let record: Value = serde_json::from_slice(&json).unwrap();
        let dump = folder.join("dump.safetensors");
        Self {
            tensors: candle::safetensors::load(dump, &candle::Device::Cpu).unwrap(),
            steps: record["steps"].as_array().unwrap().clone(),
            prompts: record["prompts"].clone(),
            selects: record["selects"] != false,
            folder,
        }
    }

    fn tensor(&self, step: usize, part: &str) -> Option<&Tensor> {
        self.tensors.get(&format!("out.{step}.{part}"))
    }

    /// What was prompted, in pixels of the input.
    fn points(&self, name: &str, side: f32) -> Vec<LabeledPoint> {
        let scaled = |[x, y]: [f32; 2]| [x * side, y * side];
        let prompt = self.prompts[name].clone();
        match serde_json::from_value::<[f32; 4]>(prompt.clone()) {
            Ok([x0, y0, x1, y1]) => vec![
                (scaled([x0, y0]), Label::TopLeft),
                (scaled([x1, y1]), Label::BottomRight),
            ],
            Err(_) => {
                let points: Vec<[f32; 2]> = serde_json::from_value(prompt).unwrap();
                let positive = |xy| (scaled(xy), Label::Positive);
                points.into_iter().map(positive).collect()
            }
        }
    }
}

fn largest(tensor: &Tensor) -> f32 {
    let largest = tensor.abs().unwrap().max_all().unwrap();
    largest.to_scalar().unwrap()
}

fn overlap(a: &Tensor, b: &Tensor) -> f64 {
    let inside = |logits: &Tensor| -> Vec<bool> {
        let logits: Vec<f32> = logits.flatten_all().unwrap().to_vec1().unwrap();
        logits.into_iter().map(|logit| logit > 0.).collect()
    };
    let pixels: Vec<(bool, bool)> = inside(a).into_iter().zip(inside(b)).collect();
    let both = pixels.iter().filter(|(a, b)| *a && *b).count();
    let any = pixels.iter().filter(|(a, b)| *a || *b).count();
    both as f64 / any.max(1) as f64
}

/// Repeats the session; with `is_fed` each frame is given the reference's memory in place of its
/// own.
fn repeat(reference: &Reference, model: &Sam3, frames: &[FrameFeatures], is_fed: bool) {
    let tracker = model.tracker().unwrap();
    let rules = tracker.config().rules();
    let rules = Rules {
        min_quality: rules.min_quality.filter(|_| reference.selects),
        ..rules
    };
    let side = tracker.config().image_size as f32;
    let mut group = Group::new(tracker.config().slots);
    for (i, step) in reference.steps.iter().enumerate() {
        let t = step["frame"].as_u64().unwrap() as usize;
        let name = step["step"].as_str().unwrap();
        let asked = step["obj"].as_u64().map(|id| id as u32);
        if let Some(id) = asked {
            let points = reference.points(name, side);
            group
                .add_points(tracker, (t, &frames[t]), id, &points, false, frames.len())
                .unwrap();
        } else {
            if group.is_pending() {
                group
                    .remember_prompts(tracker, Prompted::Conditioning)
                    .unwrap();
            }
            let at = Position {
                frame: t,
                num_frames: frames.len(),
                reverse: step["reverse"].as_bool().unwrap(),
            };
            group.track(tracker, &frames[t], (at, &rules)).unwrap();
            let is_cond = group.bank().cond(t).is_some();
            assert_eq!(step["kind"] == "cond", is_cond, "step {i}");
        }
        let known = group.known(t).unwrap().into_iter();
        let known = known.filter(|(id, _)| asked.is_none_or(|asked| asked == *id));
        let (mut logits, mut scores) = (vec![], vec![]);
        for (id, known) in known {
            match known {
                Known::Logits(map) => logits.push(map),
                other => panic!("{other:?}"),
            }
            scores.push(group.scores(t, id).unwrap().0);
        }
        let logits = Tensor::cat(&logits, 0).unwrap();
        let want = reference.tensor(i, "low_res_logits").unwrap();
        let off = largest(&(&logits - want).unwrap());
        let wanted = reference.tensor(i, "object_scores").unwrap();
        let wanted: Vec<f32> = wanted.to_vec1().unwrap();
        let score_off = scores.iter().zip(&wanted).map(|(a, b)| (a - b).abs());
        let score_off = score_off.fold(0., f32::max);
        let overlap = overlap(&logits, want);
        let of = largest(want);
        println!(
            "{i} {name} frame {t}: logits off by {off:.1e} of {of:.1}, scores by {score_off:.1e}, IoU {overlap:.6}"
        );
        assert!(score_off < SCORE, "step {i}: scores off by {score_off}");
        match is_fed {
            true => assert!(off < FED, "step {i}: logits off by {off}"),
            false if t < FIRST_FRAMES => assert!(overlap > OVERLAP, "step {i}: {overlap}"),
            false => {}
        }
        if let Some(memory) = reference.tensor(i, "memory").filter(|_| is_fed) {
            group.set_memory(t, memory.clone());
        }
    }
}

#[test]
#[ignore = "needs SAM3_VIDEO_CHECKPOINT and SAM3_VIDEO_REFERENCE"]
fn a_full_size_session_is_that_of_the_original() {
    let reference = Reference::open();
    let checkpoint = std::env::var("SAM3_VIDEO_CHECKPOINT").unwrap();
    let options = LoadOptions {
        tracking: true,
        ..LoadOptions::default()
    };
    let model = Sam3::load(&Checkpoint::open(checkpoint).unwrap(), &options).unwrap();
    let steps = reference.steps.iter();
    let last = steps.map(|step| step["frame"].as_u64().unwrap()).max();
    let encode = |t: u64| {
        let image = Image::open(reference.folder.join(format!("{t:02}.png"))).unwrap();
        model.encode_frame(&image, &mut Run::default()).unwrap()
    };
    let frames: Vec<FrameFeatures> = (0..=last.unwrap()).map(encode).collect();
    println!("fed the reference's memories:");
    repeat(&reference, &model, &frames, true);
    println!("end to end:");
    repeat(&reference, &model, &frames, false);
}
