//! SAM 1 and MobileSAM at full size against recorded runs of the official predictor.
//!
//! Not run by default: the files are large. `SAM_REFERENCE` names a folder that
//! `tools/golden/sam_full_size.py` filled: for each model `NAME.pth` (random weights) and
//! `NAME.dump.safetensors`, and the image as `truck.png`.
//!
//!     SAM_REFERENCE=folder cargo test --release --test parity sam_full_size -- --ignored --nocapture

use std::path::PathBuf;
use std::time::Instant;

use candle::{Device, Tensor};
use candle_sam3::image::Image;
use candle_sam3::mask::BoxXyxy;
use candle_sam3::models::sam::{LoadOptions, Sam};
use candle_sam3::models::{ClickMasks, ClickPrompt, InteractiveModel};
use candle_sam3::weights::Checkpoint;

use crate::reference::{Reference, check, values};

const EMBEDDING: f64 = 1e-5;
const LOGITS: f64 = 1e-4;
/// Largest share of a mask's pixels that may differ.
const PIXELS: f64 = 1e-4;

#[test]
#[ignore = "needs SAM_REFERENCE"]
fn sam_full_size_mobile_sam() {
    compare("mobile_sam");
}

#[test]
#[ignore = "needs SAM_REFERENCE"]
fn sam_full_size_vit_b() {
    compare("vit_b");
}

fn prompts(want: &Reference) -> Vec<(&'static str, ClickPrompt)> {
    let points: Vec<Vec<f32>> = want.tensor("points").to_vec2().unwrap();
    let labels: Vec<i64> = want.tensor("labels").to_vec1().unwrap();
    let point = |i: usize| ([points[i][0], points[i][1]], labels[i] as u8);
    let of_points = |points| ClickPrompt {
        points,
        ..ClickPrompt::default()
    };
    let bbox = boxes(&want.tensor("box"))[0];
    let with_box = |prompt| ClickPrompt {
        bbox: Some(bbox),
        ..prompt
    };
    let mask_logits = Some(values(&want.tensor("refine.in")));
    vec![
        ("point", of_points(vec![point(0)])),
        ("five", of_points((0..5).map(point).collect())),
        ("box", with_box(ClickPrompt::default())),
        ("box_point", with_box(of_points(vec![point(2)]))),
        (
            "refine",
            ClickPrompt {
                mask_logits,
                ..of_points(vec![point(0)])
            },
        ),
    ]
}

fn boxes(tensor: &Tensor) -> Vec<BoxXyxy> {
    let rows: Vec<Vec<f32>> = tensor.to_vec2().unwrap();
    let bbox = |b: &Vec<f32>| BoxXyxy {
        x0: b[0],
        y0: b[1],
        x1: b[2],
        y1: b[3],
    };
    rows.iter().map(bbox).collect()
}

fn tensor<T: candle::WithDType>(rows: Vec<Vec<T>>) -> Tensor {
    Tensor::new(rows, &Device::Cpu).unwrap()
}

fn compare(name: &str) {
    let folder = PathBuf::from(std::env::var("SAM_REFERENCE").expect("SAM_REFERENCE"));
    let want = Reference::open(&folder.join(format!("{name}.dump.safetensors")));
    let checkpoint = Checkpoint::open(folder.join(format!("{name}.pth"))).unwrap();
    let model = Sam::load(&checkpoint, &LoadOptions::default()).unwrap();
    println!("== {}", model.name());
    let image = Image::open(folder.join("truck.png")).unwrap();
    let start = Instant::now();
    let mut embedding = model.encode_for_clicks(&image).unwrap();
    println!("encode {:.2?}", start.elapsed());
    let features = &embedding.features.tokens;
    check(
        "embedding",
        features,
        &want.tensor("image_embedding"),
        EMBEDDING,
    );
    // From here on the reference's, so that errors do not add up.
    embedding.features.tokens = want.tensor("image_embedding");

    for (kind, prompt) in prompts(&want) {
        for multimask in [true, false] {
            if kind == "refine" && multimask {
                continue;
            }
            let start = Instant::now();
            let got = model
                .decode(&embedding, std::slice::from_ref(&prompt), multimask)
                .unwrap()
                .remove(0);
            println!("{kind}, multimask {multimask}: {:.2?}", start.elapsed());
            let expected = |part: &str| want.tensor(&format!("{kind}.{}.{part}", multimask as u8));
            let ClickMasks {
                low_res_logits,
                iou_scores,
                ..
            } = &got;
            check(
                "low",
                &tensor(low_res_logits.clone()),
                &expected("low"),
                LOGITS,
            );
            check(
                "iou",
                &tensor(vec![iou_scores.clone()]),
                &expected("iou"),
                LOGITS,
            );
            let masks: Vec<u8> = expected("mask").flatten_all().unwrap().to_vec1().unwrap();
            let mut different = 0;
            for (logits, mask) in low_res_logits
                .iter()
                .zip(masks.chunks(image.width() * image.height()))
            {
                let full = model.upscale(&embedding, logits).unwrap();
                let pairs = full.iter().zip(mask);
                different += pairs.filter(|(v, m)| (**v > 0.) != (**m == 1)).count();
            }
            let share = different as f64 / masks.len() as f64;
            println!("pixels that differ: {different}, {share:.1e}");
            assert!(share <= PIXELS);
        }
    }

    let prompts: Vec<ClickPrompt> = boxes(&want.tensor("boxes.xyxy"))
        .into_iter()
        .map(|bbox| ClickPrompt {
            bbox: Some(bbox),
            ..ClickPrompt::default()
        })
        .collect();
    let start = Instant::now();
    let got = model.decode(&embedding, &prompts, false).unwrap();
    println!("{} boxes: {:.2?}", got.len(), start.elapsed());
    let low = got.iter().map(|m| m.low_res_logits[0].clone()).collect();
    check("low", &tensor(low), &want.tensor("boxes.low"), LOGITS);
    let iou = got.iter().map(|m| m.iou_scores.clone()).collect();
    check("iou", &tensor(iou), &want.tensor("boxes.iou"), LOGITS);
}
