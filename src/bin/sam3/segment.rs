//! `sam3 segment`: text and exemplar boxes -> instances.

use std::io::IsTerminal;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use candle_sam3::Trace;
use candle_sam3::image::Image;
use candle_sam3::mask::BoxXyxy;
use candle_sam3::output::{self, Format, json};
use candle_sam3::predict::concept::{self, Exemplar, Options, Prediction, Prompt};
use indicatif::ProgressBar;

use crate::args::SegmentArgs;
use crate::model;

pub fn run(args: SegmentArgs, quiet: bool) -> Result<()> {
    let mut clock = Clock::default();
    let options = options(&args);
    let prompts = prompts(&args)?;
    let image = Image::open(&args.image)?;
    clock.lap("decode");
    concept::validate(&prompts, &options, (image.width(), image.height()))?;
    let to_stdout = prints_json(&args);
    if !to_stdout {
        std::fs::create_dir_all(&args.output)
            .with_context(|| format!("cannot create {}", args.output.display()))?;
    }

    let progress = Progress::new(quiet);
    progress.say("loading the model");
    let model = model::load(&args.model)?;
    clock.lap("load");

    let mut trace = if args.trace.is_some() { Trace::on() } else { Trace::off() };
    progress.say("encoding the image");
    let embedding = model.encode_image_traced(&image, &mut trace)?;
    clock.lap("encode_image");
    progress.say("encoding the text");
    let texts = concept::encode_texts(&model, &prompts)?;
    clock.lap("encode_text");
    progress.say("finding objects");
    let predictions =
        concept::predict_encoded(&model, &embedding, &prompts, &texts, &options, &mut trace)?;
    clock.lap("detect");
    progress.finish();

    if !quiet {
        for (prompt, prediction) in prompts.iter().zip(&predictions) {
            eprintln!("{}", summary(prompt, prediction));
        }
    }
    if let Some(path) = &args.trace {
        trace.save(path)?;
    }
    let document = json::Document {
        image: json::ImageInfo::new(&args.image, &image),
        model: model.name().to_string(),
        kind: json::Kind::Text,
        prompts: prompts.iter().zip(&predictions).map(|(p, a)| answer(p, a)).collect(),
        timings_ms: clock.laps.iter().map(|(stage, time)| (stage.to_string(), millis(*time))).collect(),
    };
    if to_stdout {
        println!("{}", document.to_json()?);
        return Ok(());
    }
    for format in &args.formats {
        write(*format, &args, &image, &prompts, &predictions, &document)?;
    }
    Ok(())
}
