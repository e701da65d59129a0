//! The click head of full-size SAM 3 and EfficientSAM3 files against recorded runs of the official
//! `predict_inst`.
//!
//! Not run by default: the files are large. `SAM3_REFERENCE` names a folder with the checkpoints
//! `NAME.pt` (random weights), `CLICK_REFERENCE` one that `tools/golden/click_full_size.py`
//! filled: `IMAGE.png` and `NAME.IMAGE.dump.safetensors`.
//!
//!     SAM3_REFERENCE=folder CLICK_REFERENCE=folder \
//!         cargo test --test parity click_full_size -- --ignored --nocapture

use std::path::PathBuf;
use std::time::Instant;

use candle::Tensor;
use candle_sam3::image::Image;
use candle_sam3::models::InteractiveModel;
use candle_sam3::models::sam3::Sam3;
use candle_sam3::weights::Checkpoint;
use candle_sam3::{LoadOptions, Run};

use crate::clicks;
use crate::reference::{Reference, check};

const EMBEDDING: f64 = 1e-5;
/// Of the two finer levels, to which RepViT's random trunk passes on an error of 1e-5 of its own.
const DETAILS: f64 = 2e-5;
const IMAGES: [&str; 3] = ["truck", "groceries", "dog"];

#[test]
#[ignore = "needs SAM3_REFERENCE and CLICK_REFERENCE"]
fn click_full_size_repvit() {
    compare("repvit");
}

#[test]
#[ignore = "needs SAM3_REFERENCE and CLICK_REFERENCE"]
fn click_full_size_sam3() {
    compare("sam3");
}

fn folder(variable: &str) -> PathBuf {
    PathBuf::from(std::env::var(variable).expect(variable))
}

fn compare(name: &str) {
    let records = folder("CLICK_REFERENCE");
    let checkpoint = Checkpoint::open(folder("SAM3_REFERENCE").join(format!("{name}.pt"))).unwrap();
    let options = LoadOptions {
        interactive: true,
        ..LoadOptions::default()
    };
    let model = Sam3::load(&checkpoint, &options).unwrap();
    for image in IMAGES {
        let want = Reference::open(&records.join(format!("{name}.{image}.dump.safetensors")));
        let pixels = Image::open(records.join(format!("{image}.png"))).unwrap();
        let start = Instant::now();
        let embedding = model
            .encode_interactive(&pixels, &mut Run::default())
            .unwrap();
        println!("== {}, {image}: {:.1?}", model.name(), start.elapsed());

        let features = &embedding.features;
        let expected = want.tensor("image_embedding");
        check("embedding", &features.tokens, &expected, EMBEDDING);
        let grid = model.low_res_size().width / 4;
        let [middle, fine] = features.high_res_features.clone().unwrap();
        for (title, got, stage) in [
            ("fine features", fine, "fine"),
            ("middle features", middle, "middle"),
        ] {
            check(title, &to_map(&got, grid), &want.tensor(stage), DETAILS);
        }
        clicks::compare(&model, &embedding, &want);
    }
}

/// The pixels of each token (1, g * g, s * s, c), by halves of halves -> (1, c, s * g, s * g)
fn to_map(tokens: &Tensor, grid: usize) -> Tensor {
    let (_, _, pixels, channels) = tokens.dims4().unwrap();
    let (shape, order): (Vec<usize>, Vec<usize>) = match pixels {
        4 => (vec![grid, grid, 2, 2, channels], vec![4, 0, 2, 1, 3]),
        _ => (
            vec![grid, grid, 2, 2, 2, 2, channels],
            vec![6, 0, 2, 4, 1, 3, 5],
        ),
    };
    tokens.reshape(shape).unwrap().permute(order).unwrap()
}
