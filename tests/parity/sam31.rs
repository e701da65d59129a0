//! SAM 3.1 is the network of SAM 3 under other names: the built-in model under these names answers
//! the same.

use candle::{DType, Device};
use candle_sam3::mask::BoxXyxy;
use candle_sam3::models::sam3::Sam3;
use candle_sam3::predict::concept::{self, Exemplar, Prediction, Prompt};
use candle_sam3::predict::interactive;
use candle_sam3::weights::{self, Checkpoint};
use candle_sam3::{Image, LoadOptions, Run, VisualPrompt};

use crate::demo::{bbox, scenes};

/// What SAM 3.1 calls a tensor of SAM 3; `None` if it has none like it.
fn renamed(name: &str) -> Option<String> {
    if name.contains("convs.3.") {
        return None; // a fourth level, which nothing reads
    }
    match name.strip_prefix("tracker.") {
        None => Some(name.replace("sam2_convs", "interactive_convs")),
        Some("no_mem_embed") => Some("tracker.model.interactivity_no_mem_embed".into()),
        Some(rest) => rest
            .starts_with("sam_")
            .then(|| format!("tracker.model.interactive_{rest}")),
    }
}

fn sam31() -> Checkpoint {
    let sam3 = weights::demo().unwrap();
    let vb = sam3.var_builder(DType::F32, &Device::Cpu);
    let tensors = sam3.names().into_iter().filter_map(|name| {
        let tensor = vb.get_unchecked(name).unwrap();
        Some((renamed(name)?, tensor))
    });
    let metadata = Some(sam3.metadata().clone());
    let bytes = safetensors::serialize(tensors.collect::<Vec<_>>(), metadata).unwrap();
    Checkpoint::from_bytes(bytes).unwrap()
}

fn load(checkpoint: &Checkpoint) -> Sam3 {
    let options = LoadOptions {
        interactive: true,
        ..LoadOptions::default()
    };
    Sam3::load(checkpoint, &options).unwrap()
}

fn find(model: &Sam3, image: &Image, example: BoxXyxy) -> Vec<Prediction> {
    let run = &mut Run::default();
    let exemplars = vec![Exemplar {
        bbox: example,
        positive: true,
    }];
    let both = Prompt {
        exemplars: exemplars.clone(),
        ..Prompt::text("square")
    };
    let prompts = [
        Prompt::text("blue circle"),
        both,
        Prompt::exemplars(exemplars),
    ];
    let prompts = concept::encode(model, &prompts, run).unwrap();
    let embedding = model.encode_image(image, run).unwrap();
    let options = concept::Options {
        threshold: 0.1,
        ..Default::default()
    };
    concept::predict(model, &embedding, &prompts, &options, run).unwrap()
}

#[test]
fn equal_tensors_give_equal_results_for_texts_and_exemplars() {
    let (sam3, sam31) = (load(&weights::demo().unwrap()), load(&sam31()));
    for (scene, image) in scenes() {
        let example = bbox(&scene["objects"][0]["box"]);
        let found = find(&sam3, &image, example);
        assert!(
            found
                .iter()
                .any(|prediction| !prediction.instances.is_empty())
        );
        assert_eq!(found, find(&sam31, &image, example));
    }
}

#[test]
fn clicks_give_equal_masks_and_ious_without_a_sigmoid() {
    let (sam3, sam31) = (load(&weights::demo().unwrap()), load(&sam31()));
    for (scene, image) in scenes() {
        let [x, y]: [f32; 2] =
            serde_json::from_value(scene["objects"][0]["click"].clone()).unwrap();
        let prompt = VisualPrompt::point(x, y);
        let answer = |model: &Sam3| {
            let run = &mut Run::default();
            let embedding = model.encode_image(&image, run).unwrap();
            let embedding = model.interactive_embedding(&embedding).unwrap();
            let options = Default::default();
            interactive::predict_one(model, &embedding, &prompt, &options, run).unwrap()
        };
        let (a, b) = (answer(&sam3), answer(&sam31));
        assert_eq!(a.object_score, b.object_score);
        assert_eq!(a.masks.len(), b.masks.len());
        for (a, b) in a.masks.iter().zip(&b.masks) {
            assert_eq!(a.mask, b.mask);
            assert_eq!(a.low_res_logits, b.low_res_logits);
            let sigmoid = 1. / (1. + (-b.iou_score).exp());
            assert!(
                (a.iou_score - sigmoid).abs() < 1e-6,
                "{} {}",
                a.iou_score,
                b.iou_score
            );
        }
    }
}

#[test]
fn a_converted_file_is_still_sam31() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sam31.safetensors");
    let checkpoint = sam31();
    checkpoint
        .write(
            &path,
            &candle_sam3::weights::WriteOptions::default(),
            |_| true,
            |_, _| {},
        )
        .unwrap();
    let converted = Checkpoint::open(&path).unwrap();
    assert_eq!(converted.layout().name, "SAM 3.1");
    assert_eq!(converted.names(), checkpoint.names());
    load(&converted);
}
