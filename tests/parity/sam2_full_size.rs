//! SAM 2.1 at full size against recorded runs of the official video predictor.
//!
//! Not run by default: the files are large. `SAM2_REFERENCE` names a folder with frames `00.png`,
//! `01.png`, … of 640 x 480 pixels, and for each size `SIZE.pt` (random weights) and `SIZE.dump.safetensors` of an f32
//! run with f32 memories and `add_all_frames_to_correct_as_cond`: `stage.N` and `fpn.L` of the first
//! frame, channels first, and `RUN.FRAME.OBJECT.PART` with the parts `low_res_logits`,
//! `object_score`, `pointer`, `memory` and `is_cond` of the runs `forward`, `again` (from the
//! last frame of the first half on, after a `correction` of object 1 there) and `backward`.
//!
//!     SAM2_REFERENCE=folder cargo test --test parity sam2_full_size -- --ignored --nocapture

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use candle::Tensor;
use candle_sam3::image::Image;
use candle_sam3::models::sam2::Sam2;
use candle_sam3::models::tracker::{
    Answers, Entry, Memories, MemoryBank, Position, Slots, TrackingModel,
};
use candle_sam3::predict::video::{FrameMasks, Keep, Options, Session, Span};
use candle_sam3::weights::Checkpoint;
use candle_sam3::{LoadOptions, Mask, Precision, Run, Size, VisualPrompt};

use crate::reference::{Reference, check, values};

const STAGE: f64 = 1e-4;
const LOGITS: f64 = 1e-4;
const SCORE: f32 = 1e-3;
const MASK_IOU: f32 = 0.999;
const OBJECTS: [u32; 2] = [1, 2];

#[test]
#[ignore = "needs SAM2_REFERENCE"]
fn sam2_full_size_tiny() {
    compare("tiny");
}

#[test]
#[ignore = "needs SAM2_REFERENCE"]
fn sam2_full_size_small() {
    compare("small");
}

#[test]
#[ignore = "needs SAM2_REFERENCE"]
fn sam2_full_size_base_plus() {
    compare("base_plus");
}

#[test]
#[ignore = "needs SAM2_REFERENCE"]
fn sam2_full_size_large() {
    compare("large");
}

fn compare(size: &str) {
    let folder = PathBuf::from(std::env::var("SAM2_REFERENCE").expect("SAM2_REFERENCE"));
    let checkpoint = Checkpoint::open(folder.join(format!("{size}.pt"))).unwrap();
    let options = LoadOptions {
        tracking: true,
        precision: Precision::Highest,
        ..LoadOptions::default()
    };
    let model = Sam2::load(&checkpoint, &options).unwrap();
    let want = Reference::open(&folder.join(format!("{size}.dump.safetensors")));
    let path = |t: usize| folder.join(format!("{t:02}.png"));
    let paths = (0..).map(path).take_while(|path| path.exists());
    let frames: Vec<Image> = paths.map(|path| Image::open(path).unwrap()).collect();
    assert!(frames.len() >= 4, "{} frames", frames.len());
    println!("== {}", model.name());
    stages(&model, &frames[0], &want);
    fed(&model, &frames, &want);
    end_to_end(&model, frames, &want);
}

/// Every stage of the image encoder.
fn stages(model: &Sam2, image: &Image, want: &Reference) {
    let start = Instant::now();
    let stages = model.trunk(&model.preprocess(image).unwrap()).unwrap();
    println!("trunk {:.1?}", start.elapsed());
    for (i, stage) in stages.iter().enumerate() {
        let got = stage.permute((0, 3, 1, 2)).unwrap();
        let name = format!("stage.{i}");
        check(&name, &got, &want.tensor(&name), STAGE);
    }
    let tokens = model.embed_frame(&stages).unwrap().tokens;
    let coarse = tokens.transpose(1, 2).unwrap();
    check("fpn.2", &coarse, &want.tensor("fpn.2"), STAGE);
}

/// Each tracked frame of the forward run, looking at the memories that were recorded.
fn fed(model: &Sam2, frames: &[Image], want: &Reference) {
    let tracker = TrackingModel::tracker(model).unwrap();
    let rules = tracker.config().rules();
    let mut banks = BTreeMap::from(OBJECTS.map(|id| (id, MemoryBank::default())));
    for (t, image) in frames.iter().enumerate() {
        let frame = model.encode_frame(image, &mut Run::default()).unwrap();
        for (id, bank) in &mut banks {
            let part = |name: &str| want.tensor(&format!("forward.{t}.{id}.{name}"));
            let is_cond = values(&part("is_cond"))[0] == 1.;
            if !is_cond {
                let at = Position {
                    frame: t,
                    num_frames: frames.len(),
                    reverse: false,
                };
                let selection = bank.select(&rules, at);
                let memory = Memories {
                    bank,
                    slots: &Slots::of(1, 1),
                    selection: &selection,
                    num_frames: frames.len(),
                };
                let got = tracker.track(&frame, memory).unwrap();
                let title = format!("fed frame {t}, object {id}");
                check(&title, &got.low_res_logits, &part("low_res_logits"), LOGITS);
                let score = values(&part("object_score"))[0];
                assert!((got.object_scores[0] - score).abs() < SCORE, "{title}");
            }
            let memory = part("memory").flatten_from(2).unwrap();
            let memory = memory.transpose(1, 2).unwrap().contiguous().unwrap();
            let answers = Answers {
                low_res_logits: part("low_res_logits"),
                pointers: part("pointer"),
                object_scores: values(&part("object_score")),
                iou_scores: vec![1.],
            };
            let slots = Slots::of(1, 1);
            let entry = match is_cond {
                true => Entry::new(answers, &slots),
                false => Entry::tracked(answers, &slots),
            };
            let entry = Entry {
                memory: Some(memory),
                ..entry.unwrap()
            };
            match is_cond {
                true => bank.insert_cond(t, entry),
                false => bank.insert_ordinary(t, entry),
            }
        }
    }
}

/// The whole session from pixels, with a correction and a way back.
fn end_to_end(model: &Sam2, mut frames: Vec<Image>, want: &Reference) {
    let options = Options {
        num_frames: Some(frames.len()),
        keep: Keep::All,
        ..Options::default()
    };
    let mut session = Session::new(model, options).unwrap();
    let run = &mut Run::default();
    let middle = frames.len() / 2 - 1;
    session.open(0, &frames[0], run).unwrap();
    session
        .prompt(0, 1, &VisualPrompt::point(300., 200.))
        .unwrap();
    let bbox = VisualPrompt::bbox([100., 150., 260., 330.]);
    session.prompt(0, 2, &bbox).unwrap();
    for (name, span) in [
        ("forward", Span::forward(0)),
        ("again", Span::forward(middle)),
        ("backward", Span::backward(middle)),
    ] {
        if name == "again" {
            session.open(middle, &frames[middle], run).unwrap();
            let found = session
                .prompt(middle, 1, &VisualPrompt::point(250., 170.))
                .unwrap();
            let logits = want.tensor("correction.low_res_logits");
            let iou = found.objects[0]
                .mask
                .iou(&mask(&logits, frames[middle].size()));
            println!("correction               mask IoU {iou:.5}");
            assert!(iou >= MASK_IOU);
        }
        let count = match name {
            "forward" => frames.len(),
            "again" => 2,
            _ => 3,
        };
        let span = Span {
            count: Some(count),
            ..span
        };
        let (start, size) = (Instant::now(), frames[0].size());
        let mut step = 0;
        let mut found = |masks: FrameMasks| {
            for object in &masks.objects {
                let key = format!("{name}.{}.{}", masks.frame, object.id);
                let score = values(&want.tensor(&format!("{key}.object_score")))[0];
                let logits = want.tensor(&format!("{key}.low_res_logits"));
                let iou = object.mask.iou(&mask(&logits, size));
                let off = (object.object_score.unwrap() - score).abs();
                println!("{key:24} mask IoU {iou:.5}  score {score:8.4} off by {off:.1e}");
                assert!(off < SCORE, "{key}");
                assert!(
                    step > 3 || iou >= MASK_IOU || object.mask.is_empty(),
                    "{key}: {iou}"
                );
            }
            step += 1;
            Ok(())
        };
        session
            .propagate(&mut frames, span, run, &mut found)
            .unwrap();
        println!("{name}: {:.1?}", start.elapsed());
    }
}

/// The mask of low-resolution logits (1, h, w).
fn mask(logits: &Tensor, size: Size) -> Mask {
    let (_, h, w) = logits.dims3().unwrap();
    let map = values(logits);
    candle_sam3::mask::upsample::threshold_upsampled(&map, Size::new(w, h), size, 0.).unwrap()
}
