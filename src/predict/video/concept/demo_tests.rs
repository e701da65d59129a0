//! The built-in detector with an untrained tracker, against a run of the original: tracking is
//! nonsense, so objects are born and removed on every frame.

use std::collections::HashMap;
use std::sync::Mutex;

use candle::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use safetensors::SafeTensors;
use serde_json::{Value, json};

use super::{ConceptMasks, ConceptSession, Options};
use crate::models::sam3::Sam3;
use crate::models::tracker::{self, FrameFeatures, Tracker, TrackerNetwork, TrackingModel};
use crate::models::{LoadOptions, VisualPrompt};
use crate::nn::golden::Golden;
use crate::predict::concept::Prompt;
use crate::predict::video::{self, Keep, Session};
use crate::weights::Checkpoint;
use crate::{Image, Result, Run, Size};

const DEMO: &[u8] = include_bytes!("../../../../weights/demo.safetensors");

fn model() -> Sam3 {
    load(&crate::weights::demo().unwrap())
}

fn load(checkpoint: &Checkpoint) -> Sam3 {
    let options = LoadOptions {
        interactive: true,
        ..LoadOptions::default()
    };
    Sam3::load(checkpoint, &options).unwrap()
}

/// The demo with the head of the object score that it had when the run was recorded, before its memory
/// was trained.
fn recorded_model(golden: &Golden) -> Sam3 {
    let (_, header) = SafeTensors::read_metadata(DEMO).unwrap();
    let mut tensors = candle::safetensors::load_buffer(DEMO, &Device::Cpu).unwrap();
    for name in golden.names() {
        if let Some(of_demo) = name.strip_prefix("recorded.") {
            tensors.insert(of_demo.to_string(), golden.tensor(name));
        }
    }
    let bytes = safetensors::serialize(&tensors, header.metadata().clone()).unwrap();
    load(&Checkpoint::from_bytes(bytes).unwrap())
}

/// The demo's head with the recorded memory modules.
fn untrained_tracker(model: &Sam3, golden: &Golden) -> TrackerNetwork {
    let head = model.interactive_head().unwrap().head();
    let (dim, grid, side) = (
        head.config().dim,
        head.config().grid,
        head.config().image_size,
    );
    let config = tracker::Config {
        dim,
        memory_dim: golden.size("memory_dim"),
        attention_layers: golden.size("memory_layers"),
        attention_ffn_dim: golden.size("memory_ffn"),
        ..tracker::Config::sam3(grid, side)
    };
    let demo = candle::safetensors::load_buffer(DEMO, &Device::Cpu).unwrap();
    let mut tensors: HashMap<String, Tensor> = golden
        .names()
        .filter_map(|name| {
            Some((
                name.strip_prefix("weights.tracker.")?.to_string(),
                golden.tensor(name),
            ))
        })
        .collect();
    tensors.insert("no_mem_embed".into(), demo["tracker.no_mem_embed"].clone());
    let vb = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
    TrackerNetwork::new(&config, head, vb).unwrap()
}

/// A frame by the rule in the file's metadata, as the original normalizes it: in f16.
fn pixels(t: i64, side: i64) -> Tensor {
    let color = |x: i64, y: i64| {
        let near = |cx: i64, cy: i64, r2: i64| (x - cx).pow(2) + (y - cy).pow(2) < r2;
        let mut color = [96 + x / 4, 110 + y / 4, 150 - x / 8];
        if near(50 + 4 * t, 60 + t, 676) {
            color = [214, 40, 40];
        }
        if (x - (165 - 3 * t)).abs() < 24 && (y - (150 - t)).abs() < 24 {
            color = [40, 80, 220];
        }
        if near(60 + 2 * t, 175, 576) {
            color = [40, 160, 60];
        }
        if t >= 3 && near(180, 45 + 2 * t, 484) {
            color = [214, 40, 40];
        }
        color
    };
    let mut planes = vec![];
    for channel in 0..3 {
        for y in 0..side {
            for x in 0..side {
                let value = half::f16::from_f64(color(x, y)[channel] as f64 / 255.);
                let centered = half::f16::from_f32(value.to_f32() - 0.5);
                planes.push(half::f16::from_f32(centered.to_f32() / 0.5).to_f32());
            }
        }
    }
    let side = side as usize;
    Tensor::from_vec(planes, (1, 3, side, side), &Device::Cpu).unwrap()
}

fn check_output(got: &ConceptMasks, want: &Value) {
    let ids: Vec<u32> = got.objects.iter().map(|object| object.id).collect();
    assert_eq!(json!(ids), want["ids"], "frame {}", got.frame);
    for (i, object) in got.objects.iter().enumerate() {
        let score = want["probs"][i].as_f64().unwrap() as f32;
        assert!(
            (object.score - score).abs() < 1e-4,
            "frame {}: {}",
            got.frame,
            object.score
        );
        let area = want["areas"][i].as_u64().unwrap() as usize;
        let off = object.mask.area().abs_diff(area);
        assert!(
            off <= 3,
            "frame {}, object {}: {off} pixels off",
            got.frame,
            object.id
        );
    }
}

#[test]
fn detector_and_tracker_together_find_what_the_original_finds() {
    let golden = Golden::open("pcs_demo");
    let model = recorded_model(&golden);
    let tracker = untrained_tracker(&model, &golden);
    let text = golden.config()["text"].as_str().unwrap();
    let prompt = Prompt::text(text);
    let mut session =
        ConceptSession::with_tracker(&model, &tracker, prompt, Options::default()).unwrap();
    let frames = golden.size("frames");
    session.num_frames = frames;
    let size = Size::square(golden.size("side"));
    let run = &mut Run::default();
    let mut outputs = vec![];
    let wanted = golden.config()["log"].as_array().unwrap();
    for t in 0..frames {
        let pixels = pixels(t as i64, size.width as i64);
        let (mut features, trunk) = model.detector().encode_images(&pixels, run).unwrap();
        let head = model.interactive_head().unwrap();
        let frame = head.embed_frame(&trunk, size).unwrap();
        let found = session.find(&features[0], size, run).unwrap();
        let detections = session.best(&found, false);
        // the frame of the prompt is the first two entries
        let number = t + 1;
        let scores = golden.tensor(&format!("out.{number}.det_scores"));
        let scores = scores.to_vec1::<f32>().unwrap();
        assert_eq!(detections.len(), scores.len(), "frame {t}");
        for (got, want) in detections.iter().zip(&scores) {
            assert!(
                (got.score - want).abs() < 1e-4,
                "frame {t}: {} {want}",
                got.score
            );
        }
        session
            .step((t, false), &features.remove(0), &frame, run)
            .unwrap();
        let new: Vec<u64> = wanted[..=number].iter().flat_map(ids_born).collect();
        let removed = session.engine.probation().removed();
        let alive = new
            .into_iter()
            .filter(|id| !removed.contains(&(*id as u32)));
        let alive: Vec<u32> = alive.map(|id| id as u32).collect();
        assert_eq!(session.ids(), alive, "frame {t}");
        outputs.extend(session.queue.pop(session.engine.probation(), false));
        if t == 4 {
            // another session goes on from what this one saved
            let bytes = session.save().unwrap();
            let prompt = Prompt::text(text);
            session = ConceptSession::with_tracker(&model, &tracker, prompt, Options::default())
                .unwrap()
                .with_num_frames(frames);
            session.restore(&bytes).unwrap();
        }
    }
    outputs.extend(session.finish());
    let want = golden.config()["outputs"].as_array().unwrap();
    assert_eq!(outputs.len(), want.len());
    for (got, want) in outputs.iter().zip(want) {
        check_output(got, want);
    }
}

fn ids_born(entry: &Value) -> Vec<u64> {
    let ids = entry["new_ids"].as_array().unwrap();
    ids.iter().map(|id| id.as_u64().unwrap()).collect()
}

/// The demo model with a tracker. What was encoded last is kept, for another session.
struct Demo {
    model: Sam3,
    tracker: TrackerNetwork,
    last: Mutex<Option<(Image, FrameFeatures)>>,
}

impl TrackingModel for Demo {
    fn name(&self) -> &str {
        self.model.name()
    }

    fn tracker(&self) -> Result<&dyn Tracker> {
        Ok(&self.tracker)
    }

    fn encode_frame(&self, image: &Image, run: &mut Run) -> Result<FrameFeatures> {
        let mut last = self.last.lock().unwrap();
        if let Some((_, features)) = last.as_ref().filter(|(known, _)| known == image) {
            return Ok(features.clone());
        }
        let embedding = self.model.encode_image(image, run)?;
        let features = self.model.frame_features(&embedding)?;
        *last = Some((image.clone(), features.clone()));
        Ok(features)
    }
}

/// A disc and a square that go round, at 480p.
fn picture(t: usize) -> Image {
    let size = Size::new(854, 480);
    let angle = t as f32 / 40.;
    let (cx, cy) = (427. + 250. * angle.cos(), 240. + 150. * angle.sin());
    let (sx, sy) = (427. - 200. * angle.sin(), 240. + 150. * angle.cos());
    let pixel = |i: usize| {
        let (x, y) = ((i % size.width) as f32, (i / size.width) as f32);
        match (
            (x - cx).hypot(y - cy) < 60.,
            (x - sx).abs().max((y - sy).abs()) < 50.,
        ) {
            (true, _) => [214, 40, 40],
            (_, true) => [40, 80, 220],
            _ => [120, 130, 140],
        }
    };
    let pixels = (0..size.width * size.height).flat_map(pixel).collect();
    Image::from_rgb8(size.width, size.height, pixels).unwrap()
}

#[test]
#[ignore = "2,000 frames"]
fn memory_stays_the_same_over_2000_frames_and_changes_no_mask() {
    let model = model();
    let demo = Demo {
        tracker: untrained_tracker(&model, &Golden::open("pcs_demo")),
        model,
        last: Mutex::default(),
    };
    let session = |keep| {
        let options = video::Options {
            keep,
            ..video::Options::default()
        };
        Session::new(&demo, options).unwrap()
    };
    let (mut bounded, mut unbounded) = (session(Keep::Needed), session(Keep::All));
    let run = &mut Run::default();
    let mut after_100 = 0;
    for t in 0..2000 {
        let image = picture(t);
        let got = bounded.push(&image, run).unwrap();
        assert_eq!(got, unbounded.push(&image, run).unwrap(), "frame {t}");
        if t == 0 {
            for (id, [x, y]) in [(1, [677., 240.]), (2, [427., 390.])] {
                let prompt = VisualPrompt::point(x, y);
                bounded.prompt(0, id, &prompt).unwrap();
                unbounded.prompt(0, id, &prompt).unwrap();
            }
        }
        if t == 99 {
            after_100 = bounded.bytes();
        }
    }
    let (after_2000, all) = (bounded.bytes(), unbounded.bytes());
    println!("{after_100} bytes after 100 frames, {after_2000} after 2,000; {all} if all is kept");
    assert!(after_100 > 0 && after_2000.abs_diff(after_100) * 20 < after_100);
    assert!(all > 100 * after_2000);
}
