//! SAM 1, MobileSAM and SAM 2.1, and what every model does with points.

use anyhow::{Result, bail};
use candle_sam3::models::{InteractiveEmbedding, InteractiveModel, VisualPrompt};
use candle_sam3::predict::{everything as generator, interactive};
use candle_sam3::{Image, Run};

use super::measure::{Clock, Samples, ms};
use super::{BenchArgs, Measured, Outcome, Work, spans};

/// Refuses what only models that take texts can do.
pub fn check(args: &BenchArgs) -> Result<()> {
    if args.track {
        bail!("--track is measured with models that take texts; leave it out");
    }
    if args.prompts.get() > 1 || args.batch.get() > 1 {
        bail!(
            "SAM 1, MobileSAM and SAM 2.1 take no texts, and one image at a time; leave out --prompts \
             and --batch"
        );
    }
    Ok(())
}

pub fn measure(model: &dyn InteractiveModel, work: &Work) -> Result<Measured> {
    check(work.args)?;
    work.repeat(|samples| run(model, work, samples))
}

fn run(model: &dyn InteractiveModel, work: &Work, samples: &mut Samples) -> Result<Outcome> {
    let mut clock = Clock::start(work.device)?;
    let start = clock.last();
    let image = work.picture.decode()?;
    samples.push("decode_image", clock.lap()?);
    let encode = || model.encode_interactive(&image, &mut Run::default());
    let (embedding, stages) = spans::timed(work.device, encode);
    let embedding = embedding?;
    samples.push("encode_image", clock.lap()?);
    for (stage, ms) in stages {
        samples.push(stage, ms);
    }
    let outcome = decode(model, &embedding, work, &mut clock, samples)?;
    samples.push("total", ms(outcome.first_mask - start));
    if work.args.everything {
        everything(model, &image, &mut clock, samples)?;
    }
    Ok(outcome)
}

/// One point, then 64 in one call: what became of the one.
pub fn decode(
    model: &dyn InteractiveModel,
    image: &InteractiveEmbedding,
    work: &Work,
    clock: &mut Clock,
    samples: &mut Samples,
) -> Result<Outcome> {
    let prompt = |[x, y]: [f32; 2]| VisualPrompt::point(x, y);
    let options = interactive::Options {
        multimask: interactive::Multimask::Three,
        ..interactive::Options::default()
    };
    let run = &mut Run::default();
    let one = [prompt(work.picture.point())];
    clock.lap()?;
    let found = interactive::predict(model, image, &one, &options, run)?;
    samples.push("click", clock.lap()?);
    let outcome = Outcome {
        objects: found.iter().map(|found| found.masks.len()).sum(),
        first_mask: clock.last(),
    };
    let many: Vec<_> = work.picture.points().into_iter().map(prompt).collect();
    interactive::predict(model, image, &many, &options, run)?;
    samples.push("clicks_64", clock.lap()?);
    Ok(outcome)
}

/// Every object of the image, its encoding included.
pub fn everything(
    model: &dyn InteractiveModel,
    image: &Image,
    clock: &mut Clock,
    samples: &mut Samples,
) -> Result<()> {
    clock.lap()?;
    let options = generator::Options::default();
    generator::generate(model, image, &options, &mut Run::default())?;
    samples.push("everything", clock.lap()?);
    Ok(())
}
