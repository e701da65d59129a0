//! Full-size models against recorded runs of the official code.
//!
//! Not run by default: the files are large. `SAM3_REFERENCE` names a folder that holds, for each
//! model, `NAME.pt` (a checkpoint in the official layout; random weights will do) and
//! `NAME.dump.safetensors` (the stages of the official code on an image and three prompts: `t` a
//! text, `te` text and exemplars, `e` exemplars alone), and the image as `truck.png`, so that JPEG decoders stay out of it.
//!
//! `SAM3_PRECISION` is strict, exact (if it is not set) or fast.
//!
//!     SAM3_REFERENCE=folder cargo test --release --test parity full_size -- --ignored --nocapture

use std::path::PathBuf;

use candle::{DType, Tensor};
use candle_sam3::Precision;
use candle_sam3::image::Image;
use candle_sam3::mask::BoxXyxy;
use candle_sam3::models::sam3::{ExemplarBox, LoadOptions, PromptTokens, Sam3};
use candle_sam3::predict::concept::{self, Exemplar, Options, Prompt};
use candle_sam3::weights::Checkpoint;

use crate::reference::{Reference, check, max_error, values};

/// How far results may be off.
struct Bounds {
    /// Relative L2 error of a stage that was fed the reference's inputs.
    stage: f64,
    /// Of scores, end to end.
    score: f32,
    /// Of boxes, end to end, in pixels.
    corner: f32,
    /// IoU with the reference's mask, end to end.
    iou: f64,
    /// Whether the same queries pass every threshold.
    same_kept: bool,
}

fn precision() -> Precision {
    std::env::var("SAM3_PRECISION").map_or(Precision::Exact, |name| name.parse().unwrap())
}

impl Bounds {
    fn of(precision: Precision) -> Self {
        let stage = match precision {
            Precision::Strict => 2e-5,
            Precision::Exact => 5e-4,
            Precision::Fast => 5e-2,
        };
        match precision {
            Precision::Strict | Precision::Exact => Self {
                stage,
                score: 1e-3,
                corner: 0.5,
                iou: 0.999,
                same_kept: true,
            },
            Precision::Fast => Self {
                stage,
                score: 5e-2,
                corner: 50.,
                iou: 0.5,
                same_kept: false,
            },
        }
    }
}

fn folder() -> PathBuf {
    PathBuf::from(std::env::var("SAM3_REFERENCE").expect("SAM3_REFERENCE names the folder"))
}

#[test]
#[ignore = "needs SAM3_REFERENCE"]
fn full_size_repvit() {
    compare("repvit");
}

#[test]
#[ignore = "needs SAM3_REFERENCE"]
fn full_size_tinyvit() {
    compare("tinyvit");
}

#[test]
#[ignore = "needs SAM3_REFERENCE"]
fn full_size_efficientvit() {
    compare("efficientvit");
}

#[test]
#[ignore = "needs SAM3_REFERENCE"]
fn full_size_litetext() {
    compare("litetext");
}

#[test]
#[ignore = "needs SAM3_REFERENCE"]
fn full_size_sam3() {
    compare("sam3");
}

fn compare(name: &str) {
    let want = Reference::open(&folder().join(format!("{name}.dump.safetensors")));
    let checkpoint = Checkpoint::open(folder().join(format!("{name}.pt"))).unwrap();
    let options = LoadOptions {
        precision: precision(),
        ..LoadOptions::default()
    };
    let model = Sam3::load(&checkpoint, &options).unwrap();
    println!("== {name}: {}, {}", model.name(), options.precision);
    let bounds = Bounds::of(options.precision);
    stages(&model, &want, &bounds);
    end_to_end(&model, &want, &bounds);
}

/// Each stage alone, fed what the reference fed it.
fn stages(model: &Sam3, want: &Reference, bounds: &Bounds) {
    let stage_bound = bounds.stage;
    let detector = model.detector();
    check(
        "trunk",
        &detector.trunk(&want.tensor("pixel_values")).unwrap(),
        &want.tensor("trunk"),
        stage_bound,
    );
    let fpn = [0, 1, 2].map(|level| want.tensor(&format!("neck.{level}")));
    for (level, got) in detector
        .neck(&want.tensor("trunk"))
        .unwrap()
        .iter()
        .enumerate()
    {
        check(&format!("neck.{level}"), got, &fpn[level], stage_bound);
    }
    let image = detector.prepare(fpn).unwrap();
    for p in ["t", "te", "e"] {
        let expected = |stage: &str| want.tensor(&format!("{p}.{stage}"));
        let name = |stage: &str| format!("{p}.{stage}");
        let ids = expected("input_ids").to_dtype(DType::U32).unwrap();
        let text = detector.encode_text(&ids).unwrap();
        check(
            &name("text_features"),
            &text.tokens,
            &expected("text_features"),
            stage_bound,
        );
        assert_eq!(values(&text.is_padding), values(&expected("text_mask")));
        let geometry = detector
            .encode_boxes(&image, &exemplar_boxes(want, p))
            .unwrap();
        check(
            &name("geometry"),
            &geometry,
            &expected("geometry"),
            stage_bound,
        );

        let is_padding = expected("prompt_mask").to_dtype(DType::U8).unwrap();
        let prompt = PromptTokens::new(expected("prompt"), is_padding).unwrap();
        let memory = detector.fuse(&image, &prompt).unwrap();
        check(&name("encoder"), &memory, &expected("encoder"), stage_bound);
        let found = detector
            .decode(&image, &expected("encoder"), &prompt)
            .unwrap();
        check(&name("hs"), &found.hs, &expected("hs"), stage_bound);
        check(
            &name("pred_boxes"),
            &found.boxes,
            &expected("pred_boxes"),
            stage_bound,
        );
        check(
            &name("presence_logit"),
            &found.presence_logit,
            &expected("presence_logit"),
            stage_bound,
        );
        let logits = detector.score(&expected("hs"), &prompt).unwrap();
        check(
            &name("pred_logits"),
            &logits,
            &expected("pred_logits"),
            stage_bound,
        );
        let pixels = detector
            .embed_pixels(&image, &expected("encoder"), &prompt)
            .unwrap();
        check(
            &name("pixel_embed"),
            &pixels,
            &expected("pixel_embed"),
            stage_bound,
        );
        let masks = detector
            .masks(&expected("pixel_embed"), &expected("hs"))
            .unwrap();
        check(
            &name("pred_masks"),
            &masks,
            &expected("pred_masks"),
            stage_bound,
        );
        let semantic = detector.semantic(&expected("pixel_embed")).unwrap();
        check(
            &name("semantic_seg"),
            &semantic,
            &expected("semantic_seg"),
            stage_bound,
        );
    }
}

/// From the image file and the words to scores, boxes and masks.
fn end_to_end(model: &Sam3, want: &Reference, bounds: &Bounds) {
    let image = Image::open(folder().join("truck.png")).unwrap();
    check(
        "pixel_values",
        &model.preprocess(&image).unwrap(),
        &want.tensor("pixel_values"),
        1e-6,
    );
    let embedding = model.encode_image(&image).unwrap();
    let all = Options {
        threshold: 0.,
        ..Options::default()
    };
    for p in ["t", "te", "e"] {
        let expected = |stage: &str| want.tensor(&format!("{p}.{stage}"));
        let prompt = Prompt {
            text: if p == "e" { None } else { Some("wheel".into()) },
            exemplars: exemplars(want, p),
            threshold: None,
        };
        let found = concept::predict(model, &embedding, &[prompt], &all).unwrap();
        let instances = &found[0].instances;
        let scores: Vec<f32> = instances.iter().map(|i| i.score).collect();
        let corners = |b: BoxXyxy| [b.x0, b.y0, b.x1, b.y1];
        let boxes: Vec<f32> = instances.iter().flat_map(|i| corners(i.bbox)).collect();

        let want_scores = values(&expected("scores"));
        let presence = 1. / (1. + (-values(&expected("presence_logit"))[0]).exp());
        let presence_error = (found[0].presence - presence).abs();
        let score_error = max_error(&scores, &want_scores);
        let box_error = max_error(&boxes, &values(&expected("boxes")));
        let ious = mask_ious(instances, &expected("masks_packed"));
        let worst = ious.iter().copied().fold(1., f64::min);
        println!(
            "{p:3} presence {presence_error:.1e}  scores {score_error:.1e}  boxes {box_error:.3} px  \
             masks {} of {} alike, worst IoU {worst:.6}",
            ious.iter().filter(|iou| **iou == 1.).count(),
            ious.len(),
        );
        assert!(
            presence_error <= bounds.score
                && score_error <= bounds.score
                && box_error <= bounds.corner
                && worst >= bounds.iou
        );
        for threshold in [0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7] {
            let kept = |scores: &[f32]| -> Vec<usize> {
                (0..scores.len())
                    .filter(|i| scores[*i] > threshold)
                    .collect()
            };
            let same = kept(&scores) == kept(&want_scores);
            assert!(same || !bounds.same_kept, "kept at {threshold}");
        }
    }
}

/// IoU of each of our masks with the reference's, which are packed eight pixels to a byte.
fn mask_ious(instances: &[candle_sam3::predict::Instance], packed: &Tensor) -> Vec<f64> {
    let packed: Vec<u8> = packed.flatten_all().unwrap().to_vec1().unwrap();
    let mut at = 0;
    let mut ious = vec![];
    for instance in instances {
        let (mut both, mut either) = (0u64, 0u64);
        for y in 0..instance.mask.height() {
            for x in 0..instance.mask.width() {
                let want = packed[at / 8] >> (7 - at % 8) & 1 == 1;
                let got = instance.mask.get(x, y);
                both += u64::from(got && want);
                either += u64::from(got || want);
                at += 1;
            }
        }
        ious.push(if either == 0 {
            1.
        } else {
            both as f64 / either as f64
        });
    }
    ious
}

fn exemplars(want: &Reference, prompt: &str) -> Vec<Exemplar> {
    let prompt = &want.metadata("prompts")[prompt];
    let boxes: Vec<[f32; 4]> = serde_json::from_value(prompt["boxes_xyxy_px"].clone()).unwrap();
    let labels: Vec<u8> = serde_json::from_value(prompt["labels"].clone()).unwrap();
    let exemplar = |([x0, y0, x1, y1], label): ([f32; 4], u8)| Exemplar {
        bbox: BoxXyxy { x0, y0, x1, y1 },
        positive: label == 1,
    };
    boxes.into_iter().zip(labels).map(exemplar).collect()
}

fn exemplar_boxes(want: &Reference, prompt: &str) -> Vec<ExemplarBox> {
    exemplars(want, prompt)
        .iter()
        .map(|e| e.normalise((1800, 1200)))
        .collect()
}

/// Loading takes little more memory than the tensors that are used, whatever else the file holds.
///
/// Run alone, since it reads the peak of the whole process:
/// `… full_size_memory -- --ignored --nocapture`.
#[test]
#[ignore = "needs SAM3_REFERENCE"]
#[cfg(target_os = "linux")]
fn full_size_memory() {
    let peak = || -> usize {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status
            .lines()
            .find(|line| line.starts_with("VmHWM"))
            .unwrap();
        line.split_whitespace()
            .nth(1)
            .unwrap()
            .parse::<usize>()
            .unwrap()
            * 1024
    };
    let name = std::env::var("SAM3_MODEL").unwrap_or_else(|_| "repvit".into());
    let checkpoint = Checkpoint::open(folder().join(format!("{name}.pt"))).unwrap();
    let before = peak();
    let model = Sam3::load(&checkpoint, &LoadOptions::default()).unwrap();
    let taken = peak() - before;
    let unread = checkpoint.unread();
    let read = checkpoint
        .names()
        .into_iter()
        .filter(|name| !unread.contains(name));
    let used: usize = read
        .map(|n| checkpoint.shape(n).unwrap().iter().product::<usize>() * 4)
        .sum();
    let ratio = taken as f64 / used as f64;
    println!(
        "{}: {} MB used, {} MB taken: {ratio:.2}",
        model.name(),
        used >> 20,
        taken >> 20
    );
    assert!(ratio <= 1.3, "{ratio}");
}
