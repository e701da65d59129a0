//! Every object of a picture as a COCO dataset file.
//!
//!     cargo run --release --example everything_to_coco -- tests/scenes/shapes.png coco.json
use candle_sam3::output::{answer::Answer, coco::Dataset, write_file};
use candle_sam3::predict::everything::{self, Options};
use candle_sam3::{Image, LoadOptions, Run, Sam3, weights};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let [path, to] = [1, 2].map(|i| std::env::args().nth(i));
    let path = path.ok_or("give an image and a file for the dataset")?;
    let image = Image::open(&path)?;
    let model = Sam3::load(&weights::demo()?, &LoadOptions::with_interactive())?;
    let records = everything::generate(&model, &image, &Options::default(), &mut Run::default())?;
    let mut dataset = Dataset::new(model.name());
    dataset.add(&path, image.size(), &[Answer::try_from(&records[..])?]);
    write_file(to.ok_or("no dataset file")?, &dataset.to_bytes()?)?;
    println!("{} objects", records.len());
    Ok(())
}
