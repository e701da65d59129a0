//! A toy SAM 2.1 against recorded answers of the official predictor.

use candle::DType;
use serde_json::Value;

use super::*;
use crate::backbones::hiera::tests::picture;
use crate::mask::BoxXyxy;
use crate::models::Point;
use crate::nn::Precision;
use crate::nn::golden::{Golden, assert_close};

/// The model of the recorded runs.
pub(crate) fn toy(golden: &Golden) -> Sam2 {
    let config = golden.config();
    let size = |part: &str, key: &str| -> usize {
        serde_json::from_value(config[part][key].clone()).unwrap()
    };
    let trunk = hiera::Config::of(config);
    let dim = golden.size("d_model");
    let new = Config::new(trunk);
    let config = Config {
        head: head::Config {
            dim,
            num_heads: size("heads", "num_heads"),
            mlp_dim: size("heads", "mlp_dim"),
            iou_hidden_dim: size("heads", "iou_hidden_dim"),
            ..new.head
        },
        tracker: tracker::Config {
            dim,
            memory_dim: size("tracker", "memory_dim"),
            attention_layers: size("tracker", "memory_layers"),
            attention_ffn_dim: size("tracker", "memory_ffn"),
            ..new.tracker
        },
        trunk: new.trunk,
    };
    Sam2 {
        modules: load::build(&config, true, Precision::default(), golden.weights()).unwrap(),
        name: "a toy".into(),
        device: Device::Cpu,
        dtype: DType::F32,
        weights: WeightFormat::Stored,
    }
}

#[test]
fn pixels_equal_those_of_the_official_transform() {
    let golden = Golden::open("sam2");
    let got = toy(&golden).preprocess(&picture(&golden, 0)).unwrap();
    let rows = golden.size("image_size") / 16;
    let some = got
        .reshape((3, rows, 16, ()))
        .unwrap()
        .narrow(2, 0, 1)
        .unwrap();
    let some = some.squeeze(2).unwrap();
    assert_close(&some, &golden.tensor("out.pixels"), 1e-6);
}

/// A recorded prompt; `earlier` finds the logits of the answer that it starts from.
pub(crate) fn prompt(asked: &Value, earlier: impl Fn(&str) -> Vec<f32>) -> VisualPrompt {
    let numbers =
        |key: &str| -> Option<Vec<f32>> { serde_json::from_value(asked.get(key)?.clone()).ok() };
    let points: Vec<[f32; 2]> = match asked.get("points") {
        Some(points) => serde_json::from_value(points.clone()).unwrap(),
        None => vec![],
    };
    let labels = numbers("labels").unwrap_or_default();
    assert_eq!(points.len(), labels.len());
    let point = |(xy, label): (&[f32; 2], &f32)| Point {
        xy: *xy,
        on_object: *label == 1.,
    };
    VisualPrompt {
        points: points.iter().zip(&labels).map(point).collect(),
        bbox: numbers("box").map(|b| BoxXyxy::from([b[0], b[1], b[2], b[3]])),
        mask_logits: asked
            .get("mask")
            .map(|name| earlier(name.as_str().unwrap())),
    }
}

#[test]
fn words_are_refused_and_so_is_tracking_without_a_tracker() {
    let golden = Golden::open("sam2");
    let mut toy = toy(&golden);
    toy.modules.tracker = None;
    let error = TrackingModel::tracker(&toy).err().unwrap().to_string();
    assert!(error.contains("LoadOptions::tracking"), "{error}");
    let model = crate::Model::Sam2(Box::new(toy));
    let error = model.as_concept().unwrap_err().to_string();
    assert!(
        error.contains("a text or exemplar prompt on a toy"),
        "{error}"
    );
    let image = model
        .encode(&picture(&golden, 0), &mut Run::default())
        .unwrap();
    assert!(image.as_concept().is_err());
    assert!(model.interactive_embedding(&image).is_ok());
    assert!(model.as_tracking().is_err());
}
