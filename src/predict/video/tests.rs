//! A recorded session of the original: prompts, corrections, both directions, removal.

use candle::Tensor;
use serde_json::Value;

use super::group::{Group, Prompted, mask_of};
use super::toy::Toy;
use crate::Size;
use crate::mask::Mask;
use crate::models::head::Label;
use crate::models::tracker::{FrameFeatures, LabeledPoint, Position, Tracker};
use crate::nn::golden::{Golden, assert_close};

/// The recorded session and its replay.
struct Replay {
    golden: Golden,
    toy: Toy,
    frames: Vec<FrameFeatures>,
    group: Group,
    size: Size,
}

impl Replay {
    fn new() -> Self {
        let golden = Golden::open("pvs_session");
        let video = &golden.config()["video"];
        let side = |key: &str| usize::try_from(video[key].as_u64().unwrap()).unwrap();
        let size = Size::new(side("width"), side("height"));
        let toy = Toy::new(&golden);
        let pixels = golden.tensor("in.frames");
        let frames = (0..side("frames"))
            .map(|t| toy.encode(&pixels.get(t).unwrap(), size).unwrap())
            .collect();
        Self {
            group: Group::new(1),
            golden,
            toy,
            frames,
            size,
        }
    }

    fn points(&mut self, t: usize, id: u32, points: &[([f32; 2], Label)], keep: bool) {
        let side = self.toy.config().image_size as f32;
        let to_input = |([x, y], label): &LabeledPoint| ([x * side, y * side], *label);
        let points: Vec<LabeledPoint> = points.iter().map(to_input).collect();
        let frame = self.frames[t].clone();
        self.group
            .add_points(&self.toy, (t, &frame), id, &points, keep, self.frames.len())
            .unwrap();
    }

    fn point_of(&self, key: &str) -> [f32; 2] {
        serde_json::from_value(self.golden.config()["prompts"][key].clone()).unwrap()
    }

    /// Does what the step did; steps that only list frames have nothing left to do.
    fn act(&mut self, step: &Value, is_first: bool) {
        let t = usize::try_from(step["frame"].as_u64().unwrap()).unwrap();
        let id = step["obj"].as_u64().unwrap_or(0) as u32;
        let name = step["step"].as_str().unwrap();
        match name {
            "point" => self.points(t, id, &[(self.point_of("point1"), Label::Positive)], false),
            "second point" => {
                self.points(t, id, &[(self.point_of("point2"), Label::Negative)], true);
            }
            "box" => {
                let corners = self.golden.config()["prompts"]["box_xyxy"].clone();
                let [x0, y0, x1, y1]: [f32; 4] = serde_json::from_value(corners).unwrap();
                let corners = [([x0, y0], Label::TopLeft), ([x1, y1], Label::BottomRight)];
                self.points(t, id, &corners, false);
            }
            "mask" => {
                let mask = self.golden.tensor("in.mask").to_vec2::<u8>().unwrap();
                let mask = Mask::from_fn(self.size.width, self.size.height, |x, y| mask[y][x] > 0);
                let frame = self.frames[t].clone();
                self.group
                    .add_mask(&self.toy, (t, &frame), id, &mask)
                    .unwrap();
            }
            "refine" => {
                let point = match step.get("point") {
                    Some(point) => serde_json::from_value(point.clone()).unwrap(),
                    None => self.point_of("point3"),
                };
                self.points(t, id, &[(point, Label::Positive)], false);
            }
            "clear" => self.group.clear(t, id).unwrap(),
            "remove" => self.group.remove(id).unwrap(),
            _ if name.starts_with("preflight") => {
                if is_first {
                    self.group
                        .remember_prompts(&self.toy, Prompted::Conditioning)
                        .unwrap();
                }
            }
            _ => {
                let at = Position {
                    frame: t,
                    num_frames: self.frames.len(),
                    reverse: step["reverse"].as_bool().unwrap(),
                };
                let rules = self.toy.config().rules();
                assert_eq!(
                    step["kind"] == "cond",
                    self.group.bank().cond(t).is_some(),
                    "{name}"
                );
                if step["kind"] == "non_cond" {
                    let selection = self.group.bank().select(&rules, at);
                    let last = rules.num_memories - 1;
                    let memories = selection.memories.iter().map(|(t, row)| {
                        let kind = if *row == last { "cond" } else { "recent" };
                        serde_json::json!([kind, t, row])
                    });
                    let pointers = selection.pointers.iter();
                    let pointers =
                        pointers.map(|(t, offset)| serde_json::json!(["ptr", t, offset]));
                    let chosen: Vec<Value> = memories.chain(pointers).collect();
                    assert_eq!(Value::from(chosen), step["memory"], "{name}: frame {t}");
                }
                let frame = self.frames[t].clone();
                self.group.track(&self.toy, &frame, (at, &rules)).unwrap();
            }
        }
    }

    /// The logits on the step's frame: of the object that was prompted, or of all.
    fn logits(&self, step: &Value) -> Tensor {
        let t = usize::try_from(step["frame"].as_u64().unwrap()).unwrap();
        let known = self.group.known(t).unwrap();
        let logits: Vec<Tensor> = known
            .iter()
            .filter(|(id, _)| is_asked(step, *id))
            .map(|(_, known)| match known {
                super::group::Known::Logits(logits) => logits.clone(),
                other => panic!("{other:?}"),
            })
            .collect();
        Tensor::cat(&logits, 0).unwrap()
    }

    /// Compares the answers on the step's frame with those recorded under `number`.
    fn check(&self, step: &Value, number: usize) {
        let t = usize::try_from(step["frame"].as_u64().unwrap()).unwrap();
        let want = |part: &str| self.golden.tensor(&format!("out.{number}.{part}"));
        let known = self.group.known(t).unwrap();
        let asked = |id: u32| is_asked(step, id);
        let logits = self.logits(step);
        let off = (logits - want("low_res_logits")).unwrap().abs().unwrap();
        let off = off.max_all().unwrap().to_scalar::<f32>().unwrap();
        println!("  logits off by {off:.1e}");
        assert!(
            off < 1e-3,
            "step {number} {}: logits off by {off}",
            step["step"]
        );
        let scores = want("object_scores").to_vec1::<f32>().unwrap();
        let ious = want("iou_scores").to_vec1::<f32>().unwrap();
        for ((id, _), (score, iou)) in known
            .iter()
            .filter(|(id, _)| asked(*id))
            .zip(scores.iter().zip(&ious))
        {
            let got = self.group.scores(t, *id).unwrap();
            assert!(
                (got.0 - score).abs() < 1e-3,
                "step {number}: {got:?} {score}"
            );
            assert!((got.1 - iou).abs() < 1e-3, "step {number}: {got:?} {iou}");
        }
        if is_prompt(step) {
            return;
        }
        let entry = self.group.bank().get(t).unwrap();
        assert_close(&entry.pointers, &want("pointers"), 1e-4);
        let memory = format!("out.{number}.memory");
        if self.golden.contains(&memory) {
            let got = entry.memory.as_ref().unwrap();
            assert_close(got, &self.golden.tokens(&memory), 1e-4);
        }
        if step["kind"] == "non_cond" {
            let want = step["eff_iou_score"].as_f64().unwrap() as f32;
            let got = entry.quality.unwrap();
            assert!(
                (got - want).abs() < 1e-4,
                "step {number}: quality {got}, not {want}"
            );
        }
    }
}

fn is_prompt(step: &Value) -> bool {
    step.get("obj").is_some() && step["step"] != "clear"
}

fn is_asked(step: &Value, id: u32) -> bool {
    !is_prompt(step) || step["obj"].as_u64() == Some(u64::from(id))
}

fn recorded_steps() -> Vec<Value> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/pvs_session.json");
    let record: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    record["steps"].as_array().unwrap().clone()
}

#[test]
fn memories_in_bf16_move_logits_as_they_move_those_of_the_original() {
    let mut replay = Replay::new();
    replay.toy.is_coarse = true;
    let steps = recorded_steps();
    let (mut checked, mut shown) = (0, 0);
    for (i, step) in steps.iter().enumerate() {
        replay.act(step, i == 0 || steps[i - 1]["step"] != step["step"]);
        let name = format!("out.{i}.low_res_logits_bf16_memory");
        if !replay.golden.contains(&name) {
            continue;
        }
        let (got, want) = (replay.logits(step), replay.golden.tensor(&name));
        let off = (&got - &want).unwrap().abs().unwrap().max_all().unwrap();
        let off = off.to_scalar::<f32>().unwrap();
        assert!(off < 5e-2, "step {i}: logits off by {off}");
        let inside = |logits: &Tensor| -> Vec<bool> {
            let logits = logits.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            logits.into_iter().map(|logit| logit > 0.).collect()
        };
        let pixels = || inside(&got).into_iter().zip(inside(&want));
        let both = pixels().filter(|(a, b)| *a && *b).count();
        let any = pixels().filter(|(a, b)| *a || *b).count();
        // on the last of them nothing is visible
        let is_near = both as f64 >= 0.95 * any as f64;
        assert!(is_near, "step {i}: {both} of {any}");
        shown += usize::from(any > 0);
        checked += 1;
    }
    assert_eq!((checked, shown), (4, 3));
}

#[test]
fn the_recorded_session_is_repeated_step_by_step() {
    let steps = recorded_steps();
    assert_eq!(steps.len(), 60);
    let mut replay = Replay::new();
    for (i, step) in steps.iter().enumerate() {
        println!("step {i}: {} on {}", step["step"], step["frame"]);
        let is_first = i == 0 || steps[i - 1]["step"] != step["step"];
        replay.act(step, is_first);
        let ids: Vec<u32> = replay.group.ids().collect();
        assert_eq!(Value::from(ids), step["obj_ids"], "step {i}");
        for (key, frames) in [
            (
                "cond",
                replay.group.bank().cond_frames().collect::<Vec<_>>(),
            ),
            ("non_cond", replay.group.bank().ordinary_frames().collect()),
        ] {
            if let Some(want) = step.get(key) {
                let mut frames = frames;
                frames.sort_unstable();
                assert_eq!(&Value::from(frames), want, "step {i}: {key}");
            }
        }
        if let Some(areas) = step["video_areas"].as_array() {
            let t = usize::try_from(step["frame"].as_u64().unwrap()).unwrap();
            let known = replay.group.known(t).unwrap();
            for ((id, known), want) in known.iter().zip(areas) {
                let area = mask_of(known, replay.size).unwrap().area();
                let off = area.abs_diff(usize::try_from(want.as_u64().unwrap()).unwrap());
                assert!(
                    off <= 3,
                    "step {i}: object {id} has {area} pixels, not {want}"
                );
            }
        }
        if let Some(qualities) = step["eff"].as_object() {
            for (t, want) in qualities {
                let entry = replay.group.bank().get(t.parse().unwrap()).unwrap();
                let got = entry.quality.unwrap();
                assert!(
                    (got - want.as_f64().unwrap() as f32).abs() < 1e-4,
                    "frame {t}: {got}"
                );
            }
            continue;
        }
        let number = step.get("same_as_step").and_then(Value::as_u64);
        let number = number.map_or(i, |n| usize::try_from(n).unwrap());
        if replay
            .golden
            .contains(&format!("out.{number}.low_res_logits"))
        {
            replay.check(step, number);
        } else {
            println!("  no tensors");
        }
    }
}
