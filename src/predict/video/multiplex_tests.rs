//! Recorded sessions of SAM 3.1: objects that come and go share a bucket, or two.

use candle::Tensor;
use serde_json::Value;

use super::group::{Group, Prompted};
use crate::Size;
use crate::mask::Mask;
use crate::models::head::ImageTokens;
use crate::models::tracker::toy::{multiplex, multiplex_network};
use crate::models::tracker::{FrameFeatures, Position, Selection, TrackerNetwork};
use crate::nn::golden::Golden;

/// Largest difference where every step starts from the recorded memories.
const TOLERANCE: f32 = 2e-3;

fn number(value: &Value) -> usize {
    usize::try_from(value.as_u64().unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

/// The features of a frame; those for prompts only where something was prompted.
fn frame(golden: &Golden, network: &TrackerNetwork, t: usize, size: Size) -> FrameFeatures {
    let features = |neck: &str| {
        let level = |level: usize| format!("in.frame.{t}.{neck}.{level}");
        let (fine, middle) = (golden.tensor(&level(0)), golden.tensor(&level(1)));
        let high_res = network.decoder().by_tokens(&fine, &middle).unwrap();
        ImageTokens::new(golden.tokens(&level(2)), Some(high_res))
    };
    let frame = FrameFeatures::new(features("propagation"), size);
    match golden.contains(&format!("in.frame.{t}.interactive.0")) {
        true => {
            let interactive = features("interactive");
            frame.with_interactive(move || Ok(interactive.clone()))
        }
        false => frame,
    }
}

fn worst(got: &Tensor, want: &Tensor) -> f32 {
    assert_eq!(got.dims(), want.dims());
    let off = (got - want).unwrap().abs().unwrap().max_all().unwrap();
    off.to_scalar().unwrap()
}

#[test]
fn objects_that_come_and_go_in_a_bucket_are_tracked_as_officially() {
    repeat("session");
}

#[test]
fn seventeen_objects_and_two_that_join_them_fill_a_second_bucket_until_it_goes() {
    repeat("two_buckets");
}

/// Repeats a recorded session, each step from the recorded memories.
fn repeat(session: &str) {
    let (golden, cfg) = multiplex();
    let network = multiplex_network(&golden, &cfg);
    let [width, height]: [usize; 2] =
        serde_json::from_value(golden.config()["video"].clone()).unwrap();
    let (size, num_frames) = (Size::new(width, height), golden.size("frames"));
    let rules = cfg.rules();
    let mut group = Group::new(cfg.slots);
    for step in golden.config()["sessions"][session].as_array().unwrap() {
        let what = step["what"].as_str().unwrap();
        println!("step {}: {what}", step["step"]);
        if what == "remove" {
            let removed = ids(&step["ids_removed"]);
            removed.iter().for_each(|id| group.remove(*id).unwrap());
        } else {
            let t = number(&step["frame"]);
            let features = frame(&golden, &network, t, size);
            if what == "masks" {
                let masks = drawn(step, cfg.mask_size());
                group.add_masks(&network, (t, &features), &masks).unwrap();
                let as_tracked = Prompted::AsTracked;
                group.remember_prompts(&network, as_tracked).unwrap();
            } else {
                let at = Position {
                    frame: t,
                    num_frames,
                    reverse: false,
                };
                check_selection(&group.bank().select(&rules, at), step);
                group.track(&network, &features, (at, &rules)).unwrap();
            }
            check(&mut group, &golden, (session, step), t);
        }
        let mut slots = vec![vec![-1i64; cfg.slots]; group.slots().buckets()];
        for (object, (bucket, slot)) in group.slots().places().iter().enumerate() {
            slots[*bucket][*slot] = object as i64;
        }
        let mut want: Vec<Vec<i64>> = serde_json::from_value(step["assignments"].clone()).unwrap();
        let is_object = |object: &mut i64| *object = (*object).max(-1); // free and left are one
        want.iter_mut().flatten().for_each(is_object);
        assert_eq!(slots, want, "step {}", step["step"]);
    }
}

/// The masks that a step gives to new objects, with their ids.
fn drawn(step: &Value, side: usize) -> Vec<(u32, Mask)> {
    let rects: Vec<[usize; 4]> = serde_json::from_value(step["rects_y0_y1_x0_x1"].clone()).unwrap();
    let mask = |[y0, y1, x0, x1]: [usize; 4]| {
        let inside = |x, y| (y0..y1).contains(&y) && (x0..x1).contains(&x);
        Mask::from_fn(side, side, inside)
    };
    let new = ids(&step["new_ids"]).into_iter();
    new.zip(rects.into_iter().map(mask)).collect()
}

fn check_selection(selection: &Selection, step: &Value) {
    let offsets = selection.pointers.iter().map(|(_, offset)| *offset);
    let offsets: Vec<i64> = offsets.collect();
    for (part, got) in [
        ("memory", serde_json::json!(selection.memories)),
        ("pointer_offsets", serde_json::json!(offsets)),
    ] {
        if let Some(want) = step.get(part) {
            assert_eq!(&got, want, "step {}: {part}", step["step"]);
        }
    }
}

/// Compares what is known of a frame, and puts the recorded values in its place.
fn check(group: &mut Group, golden: &Golden, (session, step): (&str, &Value), t: usize) {
    assert_eq!(group.ids().collect::<Vec<_>>(), ids(&step["ids"]));
    let number = number(&step["step"]);
    let want = |part: &str| golden.tensor(&format!("out.{session}.{number}.{part}"));
    let is_cond = group.bank().cond(t).is_some();
    assert_eq!(is_cond, step["kind"] == "cond", "step {number}");
    let objects: Vec<u32> = group.ids().collect();
    let entry = group.entry_mut(t).unwrap();
    let prompted = objects.iter().enumerate();
    let prompted = prompted.filter(|(_, id)| entry.prompted.contains(id));
    let prompted: Vec<usize> = prompted.map(|(object, _)| object).collect();
    assert_eq!(serde_json::json!(prompted), step["conditioning_objects"]);
    let logits = want("low_res").squeeze(1).unwrap();
    let pointers = want("pointers").flatten(0, 1).unwrap();
    let memory = golden.tokens(&format!("out.{session}.{number}.memory"));
    let scores = want("scores").flatten_all().unwrap();
    let got = Tensor::new(entry.object_scores.as_slice(), scores.device()).unwrap();
    for (part, got, want) in [
        ("logits", entry.low_res_logits.as_ref().unwrap(), &logits),
        ("pointers", &entry.pointers, &pointers),
        ("memory", entry.memory.as_ref().unwrap(), &memory),
        ("scores", &got, &scores),
    ] {
        let off = worst(got, want);
        println!("  {part} off by {off:.1e}");
        assert!(off < TOLERANCE, "step {number}: {part} off by {off}");
    }
    entry.object_scores = scores.to_vec1().unwrap();
    entry.low_res_logits = Some(logits);
    entry.pointers = pointers;
    entry.memory = Some(memory);
}
