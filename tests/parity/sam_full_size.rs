//! SAM 1 and MobileSAM at full size against recorded runs of the official predictor.
//!
//! Not run by default: the files are large. `SAM_REFERENCE` names a folder that
//! `tools/golden/sam_full_size.py` filled: for each model `NAME.pth` (random weights), for each
//! image `IMAGE.png`, and for both `NAME.IMAGE.dump.safetensors`.
//!
//!     SAM_REFERENCE=folder cargo test --test parity sam_full_size -- --ignored --nocapture

use std::path::PathBuf;
use std::time::Instant;

use candle_sam3::image::Image;
use candle_sam3::models::InteractiveModel;
use candle_sam3::models::sam::Sam;
use candle_sam3::weights::Checkpoint;
use candle_sam3::{LoadOptions, Run};

use crate::clicks;
use crate::reference::{Reference, check};

const EMBEDDING: f64 = 1e-5;
const IMAGES: [&str; 3] = ["truck", "groceries", "dog"];

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

#[test]
#[ignore = "needs SAM_REFERENCE"]
fn sam_full_size_vit_l() {
    compare("vit_l");
}

#[test]
#[ignore = "needs SAM_REFERENCE"]
fn sam_full_size_vit_h() {
    compare("vit_h");
}

fn compare(name: &str) {
    let folder = PathBuf::from(std::env::var("SAM_REFERENCE").expect("SAM_REFERENCE"));
    let checkpoint = Checkpoint::open(folder.join(format!("{name}.pth"))).unwrap();
    let model = Sam::load(&checkpoint, &LoadOptions::default()).unwrap();
    for image in IMAGES {
        let want = Reference::open(&folder.join(format!("{name}.{image}.dump.safetensors")));
        let pixels = Image::open(folder.join(format!("{image}.png"))).unwrap();
        let start = Instant::now();
        let embedding = model
            .encode_interactive(&pixels, &mut Run::default())
            .unwrap();
        println!("== {}, {image}: {:.1?}", model.name(), start.elapsed());
        let expected = want.tensor("image_embedding");
        check(
            "embedding",
            &embedding.features.tokens,
            &expected,
            EMBEDDING,
        );
        clicks::compare(&model, &embedding, &want);
    }
}
