//! Recorded runs of the original on a scripted world: every decision is compared.

use std::collections::BTreeMap;

use candle::Device;
use serde_json::{Value, json};

use super::answers::Queue;
use super::engine::{Engine, Scene, Step};
use super::matching::{Detection, suppress, suppress_all};
use super::world::{World, mask, number, read};
use super::{ConceptMasks, Options};
use crate::Result;
use crate::models::tracker::{Config, Generation, MaskProbability, Position};
use crate::nn::on_gpu;

/// Masks of two values are enlarged 3.5 times here, so some pixels lie halfway between inside and
/// outside, and the last bit of a weight decides. The kernels of the CPU have PyTorch's bits, candle's
/// own operation has not.
fn assert_areas_at_birth(got: &[usize], want: &Value, context: &str) {
    if !on_gpu(&Device::Cpu) {
        return assert_eq!(json!(got), *want, "{context}: areas at birth");
    }
    let want: Vec<usize> = want.as_array().unwrap().iter().map(number).collect();
    assert_eq!(got.len(), want.len(), "{context}: objects at birth");
    for (got, want) in got.iter().zip(want) {
        let halfway = want / 50;
        assert!(
            got.abs_diff(want) <= halfway,
            "{context}: {got}, not {want}"
        );
    }
}

/// A run and its record.
struct Replay {
    world: World,
    record: Value,
    options: Options,
    engine: Engine,
}

impl Replay {
    fn new(name: &str, options: Options) -> Self {
        Self {
            world: World::new(),
            record: read(name),
            options,
            engine: Engine::default(),
        }
    }

    fn step(&mut self, entry: &Value, reverse: bool) -> Step {
        let t = number(&entry["frame"]);
        let sure = |(_, _, d): &(usize, usize, Detection)| d.score > self.options.threshold;
        let (mut queries, mut found) = (vec![], vec![]);
        for (_, query, detection) in self.world.found(t).into_iter().filter(sure) {
            queries.push(query);
            found.push(detection);
        }
        let generation = self.world.config.generation;
        let kept = match generation == Generation::Sam31 && entry["pass"] == "prompt" {
            true => suppress_all(&found, self.options.nms),
            false => suppress(&found, self.options.nms, generation),
        };
        let kept_queries: Vec<usize> = kept.iter().map(|i| queries[*i]).collect();
        assert_eq!(json!(kept_queries), entry["kept_queries"], "frame {t}");
        let at = Position {
            frame: t,
            num_frames: number(&self.world.record["frames"]),
            reverse,
        };
        let kept: Vec<Detection> = kept.into_iter().map(|i| found[i].clone()).collect();
        let frame = self.world.frame(t);
        self.world.remembered.lock().unwrap().clear();
        let on = Scene {
            tracker: &self.world,
            frame: &frame,
            at,
            options: &self.options,
        };
        self.engine.step(&on, &kept).unwrap()
    }

    /// Compares what became of detections and tracks.
    fn check_decisions(&self, entry: &Value, step: &Step, context: &str) {
        let log = &step.log;
        let ids = &log.ids_before;
        let of = |indices: &[usize]| -> Vec<u32> { indices.iter().map(|i| ids[*i]).collect() };
        assert_eq!(json!(ids), entry["ids_before"], "{context}");
        let unmatched = of(&log.association.unmatched);
        assert_eq!(json!(unmatched), entry["unmatched"], "{context}: unmatched");
        let matched: BTreeMap<String, Vec<u32>> = log
            .association
            .tracks_of
            .iter()
            .map(|(k, tracks)| (k.to_string(), of(tracks)))
            .collect();
        let mut want = entry["detection_to_tracks"].clone();
        let want = want.as_object_mut().unwrap();
        want.retain(|_, tracks| !tracks.as_array().unwrap().is_empty());
        assert_eq!(json!(matched), json!(want), "{context}: matches");
        let candidates: BTreeMap<String, usize> = log
            .association
            .recondition
            .iter()
            .map(|(i, k)| (ids[*i].to_string(), *k))
            .collect();
        assert_eq!(
            json!(candidates),
            entry["recondition_candidates"],
            "{context}"
        );
        assert_eq!(
            json!(log.reconditioned),
            entry["reconditioned"],
            "{context}"
        );
        assert_eq!(
            json!(log.association.new),
            entry["new_detections"],
            "{context}: new"
        );
        assert_eq!(json!(log.born), entry["new_ids"], "{context}: new ids");
        assert_eq!(json!(log.removed), entry["removed"], "{context}: removed");
        assert_eq!(
            json!(log.hidden),
            entry["occlusion_suppressed"],
            "{context}: hidden"
        );
        let mut ids_after = self.engine.ids();
        ids_after.sort_unstable();
        assert_eq!(json!(ids_after), entry["ids_after"], "{context}: ids after");
        if let Some(want) = entry.get("unconfirmed") {
            let at = number(&entry["frame"]);
            let unconfirmed = self.engine.probation().unconfirmed(at, 0, false);
            assert_eq!(&json!(unconfirmed), want, "{context}: unconfirmed");
        }
        let removed = self.engine.probation().removed();
        assert_eq!(json!(removed), entry["removed_total"], "{context}");

        // The original also encodes what it overwrites in the same frame: masks of reconditioned
        // objects. New objects, which have the last binary memory, are encoded here as well.
        let wanted = entry["memory"].as_array().unwrap();
        let tracked: Vec<&Value> = wanted
            .iter()
            .filter(|m| m["from_points"] == false)
            .collect();
        let remembered = self.world.remembered.lock().unwrap();
        let mut got: Vec<_> = remembered
            .iter()
            .filter(|(.., probability)| *probability == MaskProbability::Sigmoid)
            .collect();
        if self.world.config.generation == Generation::Sam31 && !log.born.is_empty() {
            got.pop(); // of new objects, and those that they joined
        }
        assert_eq!(got.len(), tracked.len(), "{context}: memories");
        for ((areas, scores, _), want) in got.into_iter().zip(tracked) {
            assert_eq!(
                json!(areas),
                want["areas"],
                "{context}: memory of {}",
                want["ids"]
            );
            assert_eq!(
                json!(scores),
                want["score"],
                "{context}: memory of {}",
                want["ids"]
            );
        }
    }

    /// Compares everything.
    fn check(&self, entry: &Value, step: &Step) {
        let context = format!("frame {}, {}", entry["frame"], entry["pass"]);
        self.check_decisions(entry, step, &context);
        let (log, ids) = (&step.log, &step.log.ids_before);
        let masks = entry["tracker_masks_filled"].as_array().unwrap();
        assert_eq!(masks.len(), log.masks.len(), "{context}");
        for ((got, want), id) in log.masks.iter().zip(masks).zip(ids) {
            assert_eq!(
                got,
                &mask(want, self.world.low_res),
                "{context}: mask of {id}"
            );
        }
        let states: Vec<Value> = self
            .engine
            .groups()
            .iter()
            .map(|group| {
                let mut cond: Vec<usize> = group.bank().cond_frames().collect();
                cond.sort_unstable();
                let ordinary: Vec<usize> = group.bank().ordinary_frames().collect();
                json!({
                    "ids": group.ids().collect::<Vec<_>>(),
                    "cond": cond,
                    "non_cond": ordinary,
                })
            })
            .collect();
        assert_eq!(Value::from(states), entry["states"], "{context}: groups");

        let wanted = entry["memory"].as_array().unwrap();
        if !log.born.is_empty() {
            let remembered = self.world.remembered.lock().unwrap();
            let (areas, scores, probability) = remembered.last().unwrap();
            let want = wanted.iter().rfind(|m| m["from_points"] == true).unwrap();
            assert_eq!(*probability, MaskProbability::Binary);
            assert_areas_at_birth(areas, &want["areas"], &context);
            assert_eq!(json!(scores), want["score"], "{context}: scores at birth");
        }
        let areas: BTreeMap<String, usize> = step
            .answers
            .iter()
            .map(|answer| (answer.id.to_string(), answer.mask.area()))
            .collect();
        assert_eq!(json!(areas), entry["mask_areas"], "{context}: areas");
    }

    fn check_output(&self, got: &ConceptMasks, want: &Value) {
        let context = format!("output of frame {}", got.frame);
        assert_eq!(got.frame, number(&want["frame"]));
        let ids: Vec<u32> = got.objects.iter().map(|object| object.id).collect();
        assert_eq!(json!(ids), want["ids"], "{context}");
        let size = self.world.video;
        for (i, object) in got.objects.iter().enumerate() {
            let near =
                |got: f32, want: &Value| (f64::from(got) - want.as_f64().unwrap()).abs() < 1e-5;
            assert!(
                near(object.score, &want["probs"][i]),
                "{context}: {}",
                object.score
            );
            assert_eq!(
                object.mask,
                mask(&want["masks"][i], size),
                "{context}: {}",
                object.id
            );
            // inclusive differences there
            let b = object.bbox;
            let (w, h) = (size.width as f32, size.height as f32);
            let bbox = [
                b.x0 / w,
                b.y0 / h,
                (b.x1 - b.x0 - 1.) / w,
                (b.y1 - b.y0 - 1.) / h,
            ];
            for (got, want) in bbox.iter().zip(want["boxes_xywh"][i].as_array().unwrap()) {
                assert!(near(*got, want), "{context}: {bbox:?}");
            }
        }
    }

    /// Runs the whole record.
    fn run(&mut self) -> Result<()> {
        let frames = self.record["frames"].as_array().unwrap().clone();
        let outputs = self.record["outputs"].as_array().unwrap().clone();
        let mut outputs = outputs.iter();
        let mut queue = Queue::new(&self.options);
        let start = number(&frames[0]["frame"]);
        let mut backward = false;
        for entry in &frames {
            let t = number(&entry["frame"]);
            if t < start && !backward {
                backward = true;
                while let Some(masks) = queue.pop(self.engine.probation(), true) {
                    self.check_output(&masks, outputs.next().unwrap());
                }
            }
            let step = self.step(entry, t < start);
            self.check(entry, &step);
            if entry["pass"] == "prompt" {
                continue;
            }
            queue.push(t, step.answers);
            if let Some(masks) = queue.pop(self.engine.probation(), false) {
                let want = outputs.next().unwrap();
                assert_eq!(number(&want["after"]), t);
                self.check_output(&masks, want);
            }
        }
        while let Some(masks) = queue.pop(self.engine.probation(), true) {
            self.check_output(&masks, outputs.next().unwrap());
        }
        assert_eq!(outputs.next(), None);
        Ok(())
    }
}

#[test]
fn every_decision_going_forward_is_the_recorded_one() {
    Replay::new("pcs_forward", Options::default())
        .run()
        .unwrap();
}

#[test]
fn every_decision_without_delay_is_the_recorded_one() {
    Replay::new("pcs_no_heuristics", Options::default().without_delay())
        .run()
        .unwrap();
}

#[test]
fn every_decision_in_both_directions_is_the_recorded_one() {
    Replay::new("pcs_both_directions", Options::default())
        .run()
        .unwrap();
}

/// Random streams with the decisions of the original's own functions for each frame.
fn streams(name: &str) -> Vec<Value> {
    let recorded = format!("{}/tests/golden/{name}.json.gz", env!("CARGO_MANIFEST_DIR"));
    let path = match name {
        "pcs_streams" => std::env::var("SAM3_PCS_STREAMS").unwrap_or(recorded),
        _ => recorded,
    };
    let file = std::fs::File::open(path).unwrap();
    let streams: Vec<Value> = serde_json::from_reader(flate2::read::GzDecoder::new(file)).unwrap();
    assert!(streams.len() >= 20);
    let frames = streams
        .iter()
        .map(|s| s["frames"].as_array().unwrap().len());
    println!(
        "{} streams, {} frames",
        streams.len(),
        frames.sum::<usize>()
    );
    streams
}

/// Repeats a stream of rectangles.
fn repeat(stream: &Value, config: Config, options: Options) {
    let seed = &stream["seed"];
    let mut replay = Replay {
        world: World {
            config,
            ..World::of_rectangles(stream["world"].clone())
        },
        engine: Engine::default(),
        record: stream.clone(),
        options,
    };
    let start = stream.get("start").map_or(0, number);
    for entry in stream["frames"].as_array().unwrap() {
        let step = replay.step(entry, number(&entry["frame"]) < start);
        let context = format!("stream {seed}, frame {}", entry["frame"]);
        replay.check_decisions(entry, &step, &context);
    }
}

/// Rectangles that move, cross, vanish and have twins. Another file of such streams may be named in
/// `SAM3_PCS_STREAMS`.
#[test]
fn every_decision_on_random_streams_is_the_recorded_one() {
    for stream in streams("pcs_streams") {
        let options = match stream["heuristics"].as_bool().unwrap() {
            true => Options::default(),
            false => Options::default().without_delay(),
        };
        repeat(&stream, Config::sam3(8, 112), options);
    }
}

/// As above, with detections at the border, by the rules of SAM 3.1 and with what its original does
/// against its own description.
#[test]
fn every_decision_of_sam31_on_random_streams_is_the_recorded_one() {
    for stream in streams("pcs_streams_sam31") {
        let options = Options {
            like_official: true,
            ..Options::sam31()
        };
        repeat(&stream, Config::sam31(8, 112), options);
    }
}

#[test]
fn options_out_of_range_are_refused() {
    for options in [
        Options {
            threshold: f32::NAN,
            ..Options::default()
        },
        Options {
            min_share: 1.5,
            ..Options::default()
        },
        Options {
            max_objects: 0,
            ..Options::default()
        },
    ] {
        assert!(options.validate().is_err(), "{options:?}");
    }
    Options::default().without_delay().validate().unwrap();
}
