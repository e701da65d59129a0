//! A recorded session of the original: prompts, corrections, both directions, removal.

use candle::{DType, Device, Module, Tensor};
use serde_json::Value;

use super::group::{Group, Prompted, mask_of};
use super::{FrameMasks, Keep, Options, Session, Span};
use crate::backbones::vit::{self, Vit};
use crate::image::Image;
use crate::mask::Mask;
use crate::models::VisualPrompt;
use crate::models::head::{self, ImageTokens, Label, SamHead};
use crate::models::sam3::neck::Neck;
use crate::models::tracker::{
    self, Answers, FrameFeatures, LabeledPoint, Memories, MemoryMasks, Position, Tracker,
    TrackerNetwork, TrackingModel,
};
use crate::nn::golden::{Golden, assert_close};
use crate::{Result, Run, Size};

/// The toy model of the session: two layers of a ViT, a neck, and a whole tracker.
pub(super) struct Toy {
    trunk: Vit,
    neck: Neck,
    tracker: TrackerNetwork,
    /// Memories are stored in bf16, as the original stores them outside of tests.
    is_coarse: bool,
}

impl Toy {
    pub(super) fn new(golden: &Golden) -> Self {
        let config = golden.config();
        let size = |value: &Value| usize::try_from(value.as_u64().unwrap()).unwrap();
        let (vit, tracker) = (&config["vit"], &config["tracker"]);
        let (image_size, patch_size) = (size(&config["image_size"]), size(&config["patch_size"]));
        let trunk = vit::Config {
            image_size,
            patch_size,
            dim: size(&vit["dim"]),
            depth: size(&vit["depth"]),
            num_heads: size(&vit["heads"]),
            mlp_dim: size(&vit["mlp"]),
            window_size: size(&vit["window"]),
            pretrain_grid: size(&vit["pretrain_grid"]),
            global_blocks: vec![1],
            rope_theta: 10_000.,
        };
        let (dim, grid) = (size(&config["d_model"]), image_size / patch_size);
        let head = head::Config {
            dim,
            num_heads: size(&tracker["heads"]),
            mlp_dim: size(&tracker["mlp"]),
            iou_hidden_dim: size(&tracker["iou_hidden"]),
            ..head::Config::sam3(grid, image_size)
        };
        let tracker = tracker::Config {
            dim,
            memory_dim: size(&tracker["memory_dim"]),
            attention_layers: size(&tracker["memory_layers"]),
            attention_ffn_dim: size(&tracker["memory_ffn"]),
            ..tracker::Config::sam3(grid, image_size)
        };
        let vb = golden.weights();
        let backbone = vb.pp("detector.backbone.vision_backbone");
        let vb = vb.pp("tracker");
        let decoder = vb.pp("sam_mask_decoder");
        let head = SamHead::new(&head, vb.pp("sam_prompt_encoder"), decoder).unwrap();
        Self {
            neck: Neck::new(trunk.dim, dim, grid, backbone.pp("sam2_convs")).unwrap(),
            trunk: Vit::new(&trunk, backbone.pp("trunk")).unwrap(),
            tracker: TrackerNetwork::new(&tracker, &head, vb).unwrap(),
            is_coarse: false,
        }
    }

    /// Pixels (s, s, 3) in 0..255 of a frame that had `size`.
    fn encode(&self, pixels: &Tensor, size: Size) -> candle::Result<FrameFeatures> {
        let pixels = pixels
            .to_dtype(DType::F32)?
            .permute((2, 0, 1))?
            .unsqueeze(0)?;
        let pixels = pixels
            .affine(1. / 255., -0.5)?
            .affine(2., 0.)?
            .contiguous()?;
        let [fine, middle, coarse] = self.neck.forward(&self.trunk.forward(&pixels)?)?;
        let decoder = self.tracker.head().mask_decoder();
        let tokens = coarse.flatten_from(2)?.transpose(1, 2)?.contiguous()?;
        let high_res_features = decoder.high_res_features(&fine, &middle)?;
        Ok(FrameFeatures::new(
            ImageTokens::new(tokens, high_res_features),
            size,
        ))
    }
}

impl Tracker for Toy {
    fn config(&self) -> &tracker::Config {
        self.tracker.config()
    }

    fn prompt(
        &self,
        frame: &FrameFeatures,
        points: &[LabeledPoint],
        earlier: Option<&Tensor>,
        memory: Option<Memories>,
    ) -> candle::Result<Answers> {
        self.tracker.prompt(frame, points, earlier, memory)
    }

    fn point_to_mask(&self, frame: &FrameFeatures, mask: &Tensor) -> candle::Result<Tensor> {
        self.tracker.point_to_mask(frame, mask)
    }

    fn track(&self, frame: &FrameFeatures, memory: Memories) -> candle::Result<Answers> {
        self.tracker.track(frame, memory)
    }

    fn remember(&self, frame: &FrameFeatures, masks: &MemoryMasks) -> candle::Result<Tensor> {
        let memory = self.tracker.remember(frame, masks)?;
        match self.is_coarse {
            true => memory.to_dtype(DType::BF16)?.to_dtype(DType::F32),
            false => Ok(memory),
        }
    }

    fn absent_pointer(&self) -> Tensor {
        self.tracker.absent_pointer()
    }
}

impl TrackingModel for Toy {
    fn name(&self) -> &str {
        "a toy"
    }

    fn tracker(&self) -> Result<&dyn Tracker> {
        Ok(self)
    }

    fn encode_frame(&self, image: &Image, _: &mut Run) -> Result<FrameFeatures> {
        let side = self.tracker.config().image_size;
        let squashed = crate::image::resize::resize_bilinear_antialias(image, side, side)?;
        let pixels = squashed.pixels().to_vec();
        let pixels = Tensor::from_vec(pixels, (side, side, 3), &Device::Cpu)?;
        Ok(self.encode(&pixels, image.size())?)
    }
}

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

/// The recorded frames as images, and the toy that tracks through them.
fn clip() -> (Toy, Vec<Image>) {
    let golden = Golden::open("pvs_session");
    let pixels = golden.tensor("in.frames");
    let (frames, side, _, _) = pixels.dims4().unwrap();
    let image = |t: usize| {
        let pixels = pixels
            .get(t)
            .unwrap()
            .flatten_all()
            .unwrap()
            .to_vec1::<u8>()
            .unwrap();
        Image::from_rgb8(side, side, pixels).unwrap()
    };
    (Toy::new(&golden), (0..frames).map(image).collect())
}

/// Points and a box, on the first and on the third frame.
fn track_all(toy: &Toy, images: &[Image], options: Options, repeats: usize) -> Vec<FrameMasks> {
    let mut session = Session::new(toy, options).unwrap();
    let run = &mut Run::default();
    let mut found = vec![];
    for i in 0..repeats * images.len() {
        found.push(session.push(&images[i % images.len()], run).unwrap());
        if i == 0 {
            session
                .prompt(0, 1, &VisualPrompt::point(25., 30.))
                .unwrap();
            session
                .prompt(0, 2, &VisualPrompt::bbox([68., 63., 92., 87.]))
                .unwrap();
        }
        if i == 2 {
            session
                .prompt(2, 7, &VisualPrompt::point(70., 90.))
                .unwrap();
        }
    }
    assert_eq!(session.ids(), [1, 2, 7]);
    found
}

#[test]
fn forgetting_what_is_not_needed_changes_no_mask_and_bounds_memory() {
    let (toy, images) = clip();
    let keep_all = Options {
        keep: Keep::All,
        ..Options::default()
    };
    let want = track_all(&toy, &images, keep_all, 4);
    assert_eq!(track_all(&toy, &images, Options::default(), 4), want);
    assert!(
        want[40]
            .objects
            .iter()
            .any(|object| !object.mask.is_empty())
    );

    let mut session = Session::new(&toy, Options::default()).unwrap();
    let run = &mut Run::default();
    let mut most = [0; 2]; // bytes in the first and in the second half
    for i in 0..200 {
        session.push(&images[i % images.len()], run).unwrap();
        if i == 0 {
            session
                .prompt(0, 1, &VisualPrompt::point(25., 30.))
                .unwrap();
        }
        let half = &mut most[i / 100];
        *half = session.bytes().max(*half);
    }
    assert!(most[0] > 0 && most[1] <= most[0], "{most:?}");
}

#[test]
fn a_saved_session_goes_on_as_if_nothing_had_happened() {
    let (toy, images) = clip();
    let run = &mut Run::default();
    let want = track_all(&toy, &images, Options::default(), 1);
    let mut session = Session::new(&toy, Options::default()).unwrap();
    for (i, image) in images[..8].iter().enumerate() {
        session.push(image, run).unwrap();
        if i == 0 {
            session
                .prompt(0, 1, &VisualPrompt::point(25., 30.))
                .unwrap();
            session
                .prompt(0, 2, &VisualPrompt::bbox([68., 63., 92., 87.]))
                .unwrap();
        }
        if i == 2 {
            session
                .prompt(2, 7, &VisualPrompt::point(70., 90.))
                .unwrap();
        }
    }
    let bytes = session.save().unwrap();
    let mut resumed = Session::new(&toy, Options::default()).unwrap();
    resumed.restore(&bytes).unwrap();
    assert_eq!(resumed.next_frame(), 8);
    for (image, want) in images[8..].iter().zip(&want[8..]) {
        assert_eq!(&resumed.push(image, run).unwrap(), want);
    }
    for broken in [&bytes[..40], b"no session"] {
        assert!(resumed.restore(broken).is_err());
    }
}

#[test]
fn a_video_is_tracked_from_the_middle_in_both_directions() {
    let (toy, mut images) = clip();
    let options = Options {
        num_frames: Some(images.len()),
        keep: Keep::All,
        ..Options::default()
    };
    let mut session = Session::new(&toy, options).unwrap();
    let run = &mut Run::default();
    session.open(6, &images[6], run).unwrap();
    session
        .prompt(6, 1, &VisualPrompt::point(40., 45.))
        .unwrap();
    let mut frames = vec![];
    for span in [Span::forward(6), Span::backward(6)] {
        let mut found = |masks: FrameMasks| {
            frames.push(masks.frame);
            Ok(())
        };
        session
            .propagate(&mut images, span, run, &mut found)
            .unwrap();
    }
    let want: Vec<usize> = (6..16).chain((0..=6).rev()).collect();
    assert_eq!(frames, want);
}

#[test]
fn what_cannot_be_tracked_is_refused_with_a_reason() {
    let (toy, mut images) = clip();
    let run = &mut Run::default();
    let mut session = Session::new(&toy, Options::default()).unwrap();
    let point = VisualPrompt::point(25., 30.);
    let says = |error: crate::Error, what: &str| {
        let error = error.to_string();
        assert!(error.contains(what), "{error:?} lacks {what:?}");
    };
    says(
        session.prompt(0, 1, &point).unwrap_err(),
        "before any frame",
    );
    let nothing = |_: FrameMasks| Ok(());
    let span = Span::forward(0);
    says(
        session
            .propagate(&mut images, span, run, &mut { nothing })
            .unwrap_err(),
        "nothing to track",
    );
    session.push(&images[0], run).unwrap();
    says(
        session.prompt(3, 1, &point).unwrap_err(),
        "frame 0 is the current one",
    );
    says(
        session.prompt(0, 1, &VisualPrompt::default()).unwrap_err(),
        "a point or a box",
    );
    says(
        session
            .prompt(0, 1, &VisualPrompt::point(200., 3.))
            .unwrap_err(),
        "outside",
    );
    says(
        session
            .refine(0, 1, &VisualPrompt::bbox([1., 1., 9., 9.]))
            .unwrap_err(),
        "a box cannot",
    );
    says(session.remove(4).unwrap_err(), "no object 4");
    session.prompt(0, 1, &point).unwrap();
    session.push(&images[1], run).unwrap();
    session.open(0, &images[0], run).unwrap();
    says(
        session.prompt(0, 1, &point).unwrap_err(),
        "after frame 1 was tracked",
    );
    let small = Image::from_rgb8(5, 4, vec![0; 60]).unwrap();
    says(session.push(&small, run).unwrap_err(), "one size");
    let backward = Span::backward(0);
    says(
        session
            .propagate(&mut images, backward, run, &mut { nothing })
            .unwrap_err(),
        "Keep::All",
    );
    let beyond = Span::forward(16);
    says(
        session
            .propagate(&mut images, beyond, run, &mut { nothing })
            .unwrap_err(),
        "16 frames",
    );
    session.remove(1).unwrap();
    assert!(session.ids().is_empty());
}
