//! Cuts out what is clicked, then takes a part of it away:
//!     cargo run --release --example click_and_refine -- tests/scenes/shapes.png mask.png
use candle_sam3::predict::interactive::{Options, predict_one};
use candle_sam3::{Image, InteractiveModel, LoadOptions, Run, Sam3, VisualPrompt, output, weights};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let [image, to] = [1, 2].map(|i| std::env::args().nth(i));
    let image = Image::open(image.ok_or("give an image and a file for the mask")?)?;
    let model = Sam3::load(&weights::demo()?, &LoadOptions::with_interactive())?; // or any `models::load(..)?.as_interactive()?`
    let (options, run) = (Options::default(), &mut Run::default());
    let embedding = model.encode_interactive(&image, run)?;
    let click = VisualPrompt::point(100., 100.);
    let first = predict_one(&model, &embedding, &click, &options, run)?;
    let click = first.refined(click).and_not(20., 20.); // not this part
    let second = predict_one(&model, &embedding, &click, &options, run)?;
    let best = second.best().ok_or("no mask")?;
    println!("{} pixels, IoU {:.2}", best.mask.area(), best.iou_score);
    output::write_file(
        to.ok_or("no mask file")?,
        &output::masks::mask_png(&best.mask)?,
    )?;
    Ok(())
}
