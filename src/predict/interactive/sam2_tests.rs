//! A toy SAM 2.1 against recorded answers of the official predictor.

use candle::{Device, Tensor};

use super::{Multimask, Options, predict_one};
use crate::Run;
use crate::backbones::hiera::tests::picture;
use crate::models::InteractiveModel;
use crate::models::sam2::tests::{prompt, toy};
use crate::nn::golden::{Golden, assert_close};

#[test]
fn points_boxes_and_masks_are_answered_as_officially() {
    let golden = Golden::open("sam2");
    let model = toy(&golden);
    let run = &mut Run::default();
    let image = model.encode_interactive(&picture(&golden, 0), run).unwrap();
    let prompts = golden.config()["prompts"].as_object().unwrap();
    assert_eq!(prompts.len(), 4);
    for (name, asked) in prompts {
        let want = |part: &str| golden.tensor(&format!("out.image.{name}.{part}"));
        let prompt = prompt(asked, |earlier| {
            let logits = golden.tensor(&format!("out.image.{earlier}.low_res_logits"));
            logits
                .get(0)
                .unwrap()
                .flatten_all()
                .unwrap()
                .to_vec1()
                .unwrap()
        });
        let options = Options {
            multimask: match asked["multimask"].as_bool().unwrap() {
                true => Multimask::Three,
                false => Multimask::One,
            },
            ..Options::default()
        };
        let got = predict_one(&model, &image, &prompt, &options, run).unwrap();
        let logits: Vec<f32> = got
            .masks
            .iter()
            .flat_map(|m| m.low_res_logits.clone())
            .collect();
        let shape = want("low_res_logits").shape().clone();
        let logits = Tensor::from_vec(logits, shape, &Device::Cpu).unwrap();
        assert_close(&logits, &want("low_res_logits"), 1e-4);
        let scores: Vec<f32> = got.masks.iter().map(|m| m.iou_score).collect();
        let scores = Tensor::new(scores, &Device::Cpu).unwrap();
        assert_close(&scores, &want("iou_scores"), 1e-4);
        let packed: Vec<u8> = want("masks").to_vec1().unwrap();
        let mut bit = 0;
        let mut wrong = 0;
        for mask in &got.masks {
            for inside in mask.mask.to_bytes(1) {
                wrong += usize::from(packed[bit / 8] >> (7 - bit % 8) & 1 != inside);
                bit += 1;
            }
        }
        assert_eq!(bit.div_ceil(8), packed.len());
        assert!(wrong <= 3, "{name}: {wrong} pixels of {bit} differ");
    }
}
