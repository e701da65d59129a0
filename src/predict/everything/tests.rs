//! Record by record against the original on an analytic model, see tools/golden/everything.py.

use std::io::Read;

use serde_json::Value;

use candle::Tensor;

use super::*;
use crate::Progress;
use crate::models::Upscaling;
use crate::models::head::{Config, Decoded};
use crate::predict::fake::{self, Discs};

/// Sides of the model's input and of its low-resolution logits.
const SIDE: usize = 256;
const LOW: usize = 64;

/// The Rust half of `AnalyticSam`; each line has the operations of its Python line, in their order.
struct AnalyticSam {
    ripple: f64,
    lower: f64,
    config: Config,
}

impl AnalyticSam {
    fn answer(&self, seed: i64, [px, py]: [f64; 2]) -> (Vec<Vec<f32>>, Vec<f32>) {
        let (cx, cy) = ((px / 64.0).floor(), (py / 64.0).floor());
        let (mut masks, mut scores) = (vec![], vec![]);
        for (token, radius) in [14.0, 26.0, 50.0].into_iter().enumerate() {
            let key = (cx as i64 * 7 + cy as i64 * 13 + seed + token as i64 * 5).rem_euclid(11);
            let lower = if key % 4 == 3 { self.lower } else { 0.0 };
            let key = key as f64;
            let radius = radius + key;
            let slope = radius * radius * 0.005 * (key + 1.0);
            let logit = |i: usize| {
                let x = ((i % LOW) as f64 + 0.5) * (SIDE / LOW) as f64;
                let y = ((i / LOW) as f64 + 0.5) * (SIDE / LOW) as f64;
                let dx = x - (cx * 64.0 + 32.0 + (px - (cx * 64.0 + 32.0)) * 0.125 + key);
                let dy = y - (cy * 64.0 + 32.0 + (py - (cy * 64.0 + 32.0)) * 0.125 - key);
                let wave = triangle(x / 24.0) * triangle(y / 24.0) * self.ripple;
                ((radius * radius - (dx * dx + dy * dy)) / slope + wave - lower) as f32
            };
            masks.push((0..LOW * LOW).map(logit).collect());
            let place = px * 0.0123 + py * 0.0345 + token as f64 * 0.29 + seed as f64 * 0.013;
            scores.push((0.7 + 0.4 * (place - place.floor())) as f32);
        }
        (masks, scores)
    }
}

fn triangle(t: f64) -> f64 {
    (t - t.floor() - 0.5).abs() * 4.0 - 1.0
}

/// Width and height of the image within the model's input.
fn input_size(image: Size) -> Size {
    let scale = SIDE as f64 / image.width.max(image.height) as f64;
    let scaled = |side: usize| (side as f64 * scale + 0.5) as usize;
    Size::new(scaled(image.width), scaled(image.height))
}

impl InteractiveModel for AnalyticSam {
    fn name(&self) -> &str {
        "analytic"
    }

    fn head_config(&self) -> &Config {
        &self.config
    }

    /// The seed depends on all pixels, so that a crop cut at the wrong place gives other masks.
    fn encode_interactive(&self, image: &Image, _: &mut Run) -> Result<InteractiveEmbedding> {
        let sum: i64 = image.pixels().iter().map(|&sample| i64::from(sample)).sum();
        Ok(fake::embedding(image.size(), (sum % 97) as f32))
    }

    fn attend(&self, image: &InteractiveEmbedding, prompts: &[&VisualPrompt]) -> Result<Decoded> {
        let seed = image.features.tokens.flatten_all()?.to_vec1::<f32>()?[0] as i64;
        let (size, input) = (image.size, input_size(image.size));
        let answer = |prompt: &&VisualPrompt| {
            let [point] = prompt.points[..] else {
                panic!("{prompt:?}")
            };
            assert!(point.on_object);
            let scaled = [
                f64::from(point.xy[0]) * (input.width as f64 / size.width as f64),
                f64::from(point.xy[1]) * (input.height as f64 / size.height as f64),
            ];
            let (mut logits, scores) = self.answer(seed, scaled);
            logits.reverse();
            // The first mask, for clear prompts, is not asked for.
            std::array::from_fn(|i| match i {
                0 => (vec![0.; LOW * LOW], 0.),
                i => (logits.pop().unwrap(), scores[i - 1]),
            })
        };
        Ok(fake::decoded(prompts.iter().map(answer).collect(), None))
    }

    fn draw(
        &self,
        _: &InteractiveEmbedding,
        decoded: &Decoded,
        masks: std::ops::Range<usize>,
    ) -> Result<Tensor> {
        fake::drawn(decoded, masks)
    }

    fn upscaling(&self, image: Size) -> Upscaling {
        let [low, square] = [LOW, SIDE].map(Size::square);
        Upscaling::padded(low, square, input_size(image), image)
    }

    fn logits_from_mask(&self, _: &Mask) -> Result<Vec<f32>> {
        unreachable!("nothing is refined")
    }
}

fn picture(width: usize, height: usize) -> Image {
    let sample = |i: usize| {
        let (x, y, c) = (i / 3 % width, i / 3 / width, i % 3);
        ((x * 3 + y * 5 + c * 7 + x * y) % 251) as u8
    };
    Image::from_rgb8(width, height, (0..width * height * 3).map(sample).collect()).unwrap()
}

/// The defaults with what a case changes.
fn options(changes: &Value) -> Options {
    let mut options = Options::default();
    for (name, value) in changes.as_object().unwrap() {
        let count = || value.as_u64().unwrap() as usize;
        let number = || value.as_f64().unwrap();
        match name.as_str() {
            "points_per_side" => options.points_per_side = Some(count()),
            "points_per_batch" => options.points_per_batch = count(),
            "pred_iou_thresh" => options.pred_iou_thresh = number(),
            "stability_score_thresh" => options.stability_score_thresh = number(),
            "stability_score_offset" => options.stability_score_offset = number(),
            "box_nms_thresh" => options.box_nms_thresh = number(),
            "crop_n_layers" => options.crop_n_layers = count(),
            "crop_nms_thresh" => options.crop_nms_thresh = number(),
            "crop_overlap_ratio" => options.crop_overlap_ratio = number(),
            "crop_n_points_downscale_factor" => options.crop_n_points_downscale_factor = count(),
            "min_mask_region_area" => options.min_mask_region_area = count(),
            "point_grids" => {
                options.points_per_side = None;
                options.point_grids = serde_json::from_value(value.clone()).unwrap();
            }
            _ => panic!("{name} is no option"),
        }
    }
    options
}

/// As a 32-bit number; `None` for NaN.
fn single(value: &Value) -> Option<f32> {
    value.as_f64().map(|value| value as f32)
}

#[test]
fn the_records_equal_the_originals_in_their_order() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/golden/everything.json.gz"
    );
    let mut text = String::new();
    let file = std::fs::File::open(path).unwrap();
    flate2::read::GzDecoder::new(file)
        .read_to_string(&mut text)
        .unwrap();
    let cases: Vec<Value> = serde_json::from_str(&text).unwrap();
    assert!(cases.len() >= 15);
    for case in &cases {
        let name = case["name"].as_str().unwrap();
        let size = |key: &str| case[key].as_u64().unwrap() as usize;
        let model = AnalyticSam {
            ripple: case["ripple"].as_f64().unwrap(),
            lower: case["lower"].as_f64().unwrap(),
            config: Config {
                grid: LOW / 4,
                ..Config::sam1()
            },
        };
        let image = picture(size("width"), size("height"));
        let run = &mut Run::default();
        let got = generate(&model, &image, &options(&case["options"]), run).unwrap();
        let want = case["records"].as_array().unwrap();
        assert_eq!(got.len(), want.len(), "{name}");
        for (i, (got, want)) in got.iter().zip(want).enumerate() {
            let got = serde_json::to_value(got).unwrap();
            for (field, want) in want.as_object().unwrap() {
                let got = &got[field];
                let equal = match field.as_str() {
                    // Read back by serde_json they may be off by a 64-bit unit in the last place.
                    "predicted_iou" | "stability_score" => single(got) == single(want),
                    "point_coords" => (0..2).all(|axis| {
                        let at = |v: &Value| v[0][axis].as_f64().unwrap();
                        (at(got) - at(want)).abs() < 1e-12
                    }),
                    _ => got == want,
                };
                assert!(equal, "{name}, record {i}, {field}: {got}, not {want}");
            }
        }
    }
}

#[test]
fn an_encoded_image_is_used_and_one_of_another_size_is_refused() {
    let (model, image) = (Discs::default(), picture(90, 60));
    let options = Options {
        points_per_side: Some(4),
        pred_iou_thresh: 0.5,
        stability_score_thresh: 0.2,
        points_per_batch: 5,
        ..Options::default()
    };
    let mut calls = vec![];
    let mut progress = |progress: Progress| calls.push((progress.done, progress.total));
    let mut run = Run {
        progress: Some(&mut progress),
        ..Run::default()
    };
    let ours = fake::embedding(Size::new(90, 60), 0.);
    let with = generate_encoded(&model, &image, &ours, &options, &mut run).unwrap();
    assert_eq!(calls, [(5, 16), (10, 16), (15, 16), (16, 16)]);
    assert!(!with.is_empty());
    let run = &mut Run::default();
    assert_eq!(with, generate(&model, &image, &options, run).unwrap());
    let other = fake::embedding(Size::new(60, 90), 0.);
    let error = generate_encoded(&model, &image, &other, &options, run).unwrap_err();
    assert!(error.to_string().contains("60 x 90"), "{error}");
}

#[test]
fn crops_that_find_nothing_are_no_error() {
    let options = Options {
        crop_n_layers: 2,
        points_per_side: Some(4),
        pred_iou_thresh: 1.0,
        ..Options::default()
    };
    for (width, height) in [(300, 200), (3, 2), (1, 1)] {
        let (image, run) = (picture(width, height), &mut Run::default());
        let found = generate(&Discs::default(), &image, &options, run).unwrap();
        assert!(found.is_empty());
    }
}

#[test]
fn options_are_checked_before_anything_is_decoded() {
    let model = Discs::default();
    let options = Options {
        points_per_side: Some(0),
        ..Options::default()
    };
    assert!(generate(&model, &picture(9, 9), &options, &mut Run::default()).is_err());
    assert_eq!(model.decodes.into_inner(), 0);
}

#[test]
fn a_threshold_between_two_32_bit_numbers_is_rounded_down() {
    for threshold in [0.0, 0.5, 0.6, 0.7, 0.9, 1.0] {
        let rounded = round_down(threshold);
        assert!(f64::from(rounded) <= threshold && f64::from(rounded.next_up()) > threshold);
    }
}

#[test]
fn an_overlap_equal_to_the_threshold_is_judged_as_torchvision_does() {
    // The 32-bit 0.6 is above the 64-bit one, the 32-bit 0.7 below: torchvision 0.29 drops the
    // second box in the first case and keeps it in the second.
    let whole = BoxXyxy::from([0., 0., 10., 10.]);
    for (width, threshold, kept) in [(6., 0.6, 1), (7., 0.7, 2)] {
        let boxes = [whole, BoxXyxy::from([0., 0., width, 10.])];
        let found = nms::box_nms(&boxes, &[1.0, 0.5], round_down(threshold));
        assert_eq!(found.len(), kept, "{threshold}");
    }
}
