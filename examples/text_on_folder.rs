//! Finds what the words mean in every picture of a folder. The texts are encoded once.
//!
//!     cargo run --release --example text_on_folder -- tests/scenes
use candle_sam3::predict::concept::{self, Options, Prompt};
use candle_sam3::{Image, LoadOptions, Run, Sam3, weights};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args().nth(1).ok_or("give a folder")?;
    // A real model is `&Checkpoint::open("sam3.pt")?`; this one knows colored shapes.
    let model = Sam3::load(&weights::demo()?, &LoadOptions::default())?;
    let run = &mut Run::default();
    let prompts = ["blue circle", "triangles"].map(Prompt::text);
    let prompts = concept::encode(&model, &prompts, run)?;
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| ending == "png") {
            let embedding = model.encode_image(&Image::open(&path)?, run)?;
            let found = concept::predict(&model, &embedding, &prompts, &Options::default(), run)?;
            let counts: Vec<usize> = found.iter().map(|f| f.instances.len()).collect();
            println!("{}: {counts:?}", path.display());
        }
    }
    Ok(())
}
