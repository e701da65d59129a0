//! The stages of a model, one by one: `cargo bench --bench stages`.
//!
//! On the built-in model, or on random weights of the variant that `SAM3_VARIANT` names. `sam3 bench`
//! measures the same in the order of a real run; this is for watching one stage while changing it.

use std::hint::black_box;
use std::time::Duration;

use candle_sam3::LoadOptions;
use candle_sam3::image::Image;
use candle_sam3::models::sam3::Sam3;
use candle_sam3::models::variant;
use candle_sam3::predict::concept::{self, Options, Prompt};
use candle_sam3::predict::interactive;
use candle_sam3::weights;
use candle_sam3::{InteractiveModel, Result, Run, VisualPrompt};
use criterion::{Criterion, criterion_group, criterion_main};

fn model() -> Result<(Sam3, LoadOptions)> {
    let options = LoadOptions {
        interactive: true,
        ..LoadOptions::default()
    };
    let model = match std::env::var("SAM3_VARIANT") {
        Ok(name) => {
            let release = variant::find(&name).expect("a name that `sam3 models` lists");
            Sam3::with_random_weights(&release.variant, &options)?
        }
        Err(_) => Sam3::load(&weights::demo()?, &options)?,
    };
    Ok((model, options))
}

/// Smooth in one direction, fine in the other.
fn image() -> Result<Image> {
    let (width, height) = (640, 480);
    let pixels = (0..3 * width * height).map(|i| (i / 97 + (i % 7) * 20) as u8);
    Image::from_rgb8(width, height, pixels.collect())
}

fn stages(c: &mut Criterion) {
    run(c).expect("the built-in model runs");
}

fn run(c: &mut Criterion) -> Result<()> {
    let (model, _) = model()?;
    let (detector, image) = (model.detector(), image()?);
    let pixels = model.preprocess(&image)?;
    let trunk = detector.trunk(&pixels)?;
    let embedding = model.encode_image(&image, &mut Run::default())?;
    let text = model.encode_text("blue circle")?;
    let features = &embedding.features;
    let geometry = detector.encode_boxes(features, &[])?;
    let prompt = detector.assemble(&text.features, &geometry)?;
    let memory = detector.fuse(features, &prompt)?;
    let found = detector.decode(features, &memory, &prompt)?;
    let embedded = detector.embed_pixels(features, &memory, &prompt)?;
    let all = Options {
        threshold: 0.,
        max_instances: Some(20),
        ..Options::default()
    };
    let run = &mut Run::default();
    let whole = concept::encode(&model, &[Prompt::text("blue circle")], run)?;
    let clicked = model.interactive_embedding(&embedding)?;
    let point = VisualPrompt::point(200., 200.);
    let at_once = interactive::Options::default();

    let mut group = c.benchmark_group("stages");
    group.sample_size(10);
    group.measurement_time(Duration::from_secs(3));
    macro_rules! stage {
        ($name:literal, $work:expr) => {
            group.bench_function($name, |b| b.iter(|| black_box($work.expect($name))));
        };
    }
    stage!("preprocess", model.preprocess(&image));
    stage!("trunk", detector.trunk(&pixels));
    stage!("neck", detector.neck(&trunk));
    stage!("encode_text", model.encode_text("blue circle"));
    stage!("fusion", detector.fuse(features, &prompt));
    stage!("decoder", detector.decode(features, &memory, &prompt));
    stage!("score", detector.score(&found.hs, &prompt));
    stage!("pixels", detector.embed_pixels(features, &memory, &prompt));
    stage!("masks", detector.masks(&embedded, &found.hs));
    stage!(
        "detect",
        concept::predict(&model, &embedding, &whole, &all, run)
    );
    stage!("click_embed", model.interactive_embedding(&embedding));
    stage!("click_attend", model.attend(&clicked, &[&point]));
    stage!(
        "click",
        interactive::predict_one(&model, &clicked, &point, &at_once, run)
    );
    group.finish();
    Ok(())
}

criterion_group!(benches, stages);
criterion_main!(benches);
