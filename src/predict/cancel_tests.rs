//! A run stops wherever it looks at its token, and only there.

use crate::models::{self, LoadOptions, Model, VisualPrompt};
use crate::predict::{concept, everything, interactive};
use crate::{CancelToken, Error, Image, Result, Run};

/// Everything that a model can be asked, on an image that the demo model knows.
fn whole_run(model: &Model, image: &Image, run: &mut Run) -> Result<usize> {
    let concepts = model.as_concept()?;
    let prompts = [
        concept::Prompt::text("blue circle"),
        concept::Prompt::text("triangles"),
    ];
    let prompts = concept::encode(concepts, &prompts, run)?;
    let embedding = model.encode(image, run)?;
    let options = concept::Options::default();
    let found = concept::predict(concepts, embedding.as_concept()?, &prompts, &options, run)?;

    let clicked = model.interactive_embedding(&embedding)?;
    let model = model.as_interactive()?;
    let click = VisualPrompt::point(60., 60.);
    interactive::predict_one(model, &clicked, &click, &Default::default(), run)?;
    let few = everything::Options {
        points_per_side: Some(3),
        ..everything::Options::default()
    };
    everything::generate_encoded(model, image, &clicked, &few, run)?;
    Ok(found
        .iter()
        .map(|prediction| prediction.instances.len())
        .sum())
}

#[test]
fn a_run_can_be_stopped_at_every_stage() {
    let options = LoadOptions {
        interactive: true,
        ..LoadOptions::default()
    };
    let model = models::load(&crate::weights::demo().unwrap(), &options).unwrap();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/scenes/shapes.png");
    let image = Image::open(path).unwrap();
    let want = whole_run(&model, &image, &mut Run::default()).unwrap();

    // Every place at first; later ones are layers of stages that came before.
    let mut looks = 0;
    let stops = loop {
        let mut run = Run {
            cancel: Some(CancelToken::after(looks)),
            ..Run::default()
        };
        match whole_run(&model, &image, &mut run) {
            Ok(found) => {
                assert_eq!(found, want);
                break looks;
            }
            Err(error) => assert!(matches!(error, Error::Cancelled), "{looks}: {error}"),
        }
        looks += 1 + looks / 16;
    };
    assert!(stops > 20, "{stops}");
}
