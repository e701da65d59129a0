//! SAM 1, MobileSAM and SAM 2.1, and what every model does with points.

use anyhow::{Result, bail};
use candle_sam3::models::{InteractiveEmbedding, InteractiveModel, VisualPrompt};
use candle_sam3::predict::{everything as generator, interactive};
use candle_sam3::{Image, Run};

use super::measure::{Clock, ms};
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
    work.repeat(|clock| run(model, work, clock))
}

fn run(model: &dyn InteractiveModel, work: &Work, clock: &mut Clock) -> Result<Outcome> {
    let start = clock.last();
    let image = work.picture.decode()?;
    clock.lap("decode_image")?;
    let embedding = spans::sampled(clock, || {
        model.encode_interactive(&image, &mut Run::default())
    })?;
    clock.lap("encode_image")?;
    let outcome = decode(model, &embedding, work, clock)?;
    let total = ms(outcome.first_mask - start);
    clock.samples.push("total", total);
    if work.args.everything {
        everything(model, &image, clock)?;
    }
    Ok(outcome)
}

/// One point, then 64 in one call: what became of the one.
pub fn decode(
    model: &dyn InteractiveModel,
    image: &InteractiveEmbedding,
    work: &Work,
    clock: &mut Clock,
) -> Result<Outcome> {
    let prompt = |[x, y]: [f32; 2]| VisualPrompt::point(x, y);
    let options = interactive::Options {
        multimask: interactive::Multimask::Three,
        ..interactive::Options::default()
    };
    let run = &mut Run::default();
    let one = [prompt(work.picture.point())];
    clock.skip()?;
    let found = interactive::predict(model, image, &one, &options, run)?;
    clock.lap("click")?;
    let outcome = Outcome {
        objects: found.iter().map(|found| found.masks.len()).sum(),
        first_mask: clock.last(),
    };
    let many: Vec<_> = work.picture.points().into_iter().map(prompt).collect();
    interactive::predict(model, image, &many, &options, run)?;
    clock.lap("clicks_64")?;
    Ok(outcome)
}

/// Every object of the image, its encoding included.
pub fn everything(model: &dyn InteractiveModel, image: &Image, clock: &mut Clock) -> Result<()> {
    clock.skip()?;
    let options = generator::Options::default();
    generator::generate(model, image, &options, &mut Run::default())?;
    Ok(clock.lap("everything")?)
}
