//! Prompts of a recorded click run, and how far a model's answers are from the recorded ones;
//! `tools/golden/clicks.py` makes the records.

use std::time::Instant;

use candle::{Device, Tensor};
use candle_sam3::mask::BoxXyxy;
use candle_sam3::models::{InteractiveEmbedding, Point};
use candle_sam3::predict::interactive::{LowResMasks, decode};
use candle_sam3::{InteractiveModel, Run, VisualPrompt};

use crate::reference::{Reference, max_error, relative_error, values};

/// Largest relative L2 error of low-resolution logits, IoU and object scores.
const LOGITS: f64 = 1e-4;
/// Largest share of a mask's pixels that may differ.
const PIXELS: f64 = 1e-4;

/// Asks everything that was asked of the reference, for three masks and for one.
pub fn compare(model: &dyn InteractiveModel, embedding: &InteractiveEmbedding, want: &Reference) {
    println!("prompts    masks   low-res  largest    IoU     object  pixels that differ");
    for (kind, prompts) in prompts(want) {
        for multimask in [true, false] {
            let start = Instant::now();
            let run = &mut Run::default();
            let got = decode(model, embedding, &prompts, multimask, run).unwrap();
            let elapsed = start.elapsed();
            let key = format!("{kind}.{}", u8::from(multimask));
            let (low, iou, objects) = compare_scores(&got, want, &key);
            let masks = want.tensor(&format!("{key}.masks_packed"));
            let masks: Vec<u8> = masks.to_vec1().unwrap();
            let pixels = worst_mask(model, embedding, &got, &masks);
            println!(
                "{kind:10} {:5} {low:9.1e} {:9.1e} {iou:8.1e} {objects:8.1e} {pixels:8.1e}  {elapsed:.1?}",
                if multimask { 3 } else { 1 },
                max_error(
                    &values(&tensor(&got)),
                    &values(&want.tensor(&format!("{key}.low")))
                ),
            );
            assert!(low <= LOGITS && iou <= LOGITS && objects <= LOGITS);
            assert!(pixels <= PIXELS);
        }
    }
}

/// Relative errors of logits, IoU and, where there are some, object scores.
fn compare_scores(got: &[LowResMasks], want: &Reference, key: &str) -> (f64, f64, f64) {
    let flat = |values: Vec<f32>| Tensor::new(values, &Device::Cpu).unwrap();
    let iou: Vec<f32> = got.iter().flat_map(|m| m.iou_scores.clone()).collect();
    let objects: Vec<f32> = got.iter().filter_map(|m| m.object_score).collect();
    let objects = match objects.is_empty() {
        true => 0.,
        false => relative_error(&flat(objects), &want.tensor(&format!("{key}.object_score"))),
    };
    (
        relative_error(&tensor(got), &want.tensor(&format!("{key}.low"))),
        relative_error(&flat(iou), &want.tensor(&format!("{key}.iou"))),
        objects,
    )
}

/// The low-resolution logits of all masks (masks, h * w)
fn tensor(answers: &[LowResMasks]) -> Tensor {
    let rows = answers.iter().flat_map(|m| m.low_res_logits.clone());
    Tensor::new(rows.collect::<Vec<_>>(), &Device::Cpu).unwrap()
}

/// The largest share of pixels in which a mask differs from the packed one.
fn worst_mask(
    model: &dyn InteractiveModel,
    embedding: &InteractiveEmbedding,
    got: &[LowResMasks],
    packed: &[u8],
) -> f64 {
    let mut bit = 0;
    let mut worst = 0.;
    for logits in got.iter().flat_map(|m| &m.low_res_logits) {
        let full = model.upscaling(embedding.size).run(logits).unwrap();
        let mut different = 0;
        for v in &full {
            let is_set = packed[bit / 8] >> (7 - bit % 8) & 1 == 1;
            different += usize::from((*v > 0.) != is_set);
            bit += 1;
        }
        worst = f64::max(worst, different as f64 / full.len() as f64);
    }
    assert_eq!(bit.div_ceil(8), packed.len());
    worst
}

fn prompts(want: &Reference) -> Vec<(&'static str, Vec<VisualPrompt>)> {
    let points: Vec<Vec<f32>> = want.tensor("points").to_vec2().unwrap();
    let labels: Vec<i64> = want.tensor("labels").to_vec1().unwrap();
    let point = |i: usize| Point {
        xy: [points[i][0], points[i][1]],
        on_object: labels[i] == 1,
    };
    let of_points = |points| VisualPrompt {
        points,
        ..VisualPrompt::default()
    };
    let of_box = |bbox: BoxXyxy| VisualPrompt::bbox(bbox);
    let bbox = boxes(&want.tensor("box"))[0];
    vec![
        ("point", vec![of_points(vec![point(0)])]),
        ("five", vec![of_points((0..5).map(point).collect())]),
        ("box", vec![of_box(bbox)]),
        (
            "box_point",
            vec![VisualPrompt {
                points: vec![point(2)],
                ..of_box(bbox)
            }],
        ),
        (
            "refine",
            vec![VisualPrompt {
                mask_logits: Some(values(&want.tensor("refine.in"))),
                ..of_points(vec![point(0)])
            }],
        ),
        (
            "boxes",
            boxes(&want.tensor("boxes"))
                .into_iter()
                .map(of_box)
                .collect(),
        ),
    ]
}

fn boxes(tensor: &Tensor) -> Vec<BoxXyxy> {
    let rows: Vec<Vec<f32>> = tensor.to_vec2().unwrap();
    let edges = |row: Vec<f32>| BoxXyxy::from([row[0], row[1], row[2], row[3]]);
    rows.into_iter().map(edges).collect()
}
