//! SAM 1 and MobileSAM, and what every model does with points.

use anyhow::{Result, bail};
use candle_sam3::image::Image;
use candle_sam3::models::sam::Sam;
use candle_sam3::models::{ClickPrompt, InteractiveModel};
use candle_sam3::predict::{everything as generator, interactive};

use super::measure::{Clock, Samples, ms};
use super::{Args, Measured, Outcome, Work};

/// Refuses what only models that take texts can do.
pub fn check(args: &Args) -> Result<()> {
    if args.prompts.get() > 1 || args.batch.get() > 1 {
        bail!(
            "SAM 1 and MobileSAM take no texts, and one image at a time; leave out --prompts and \
             --batch"
        );
    }
    Ok(())
}

pub fn measure(model: &Sam, work: &Work) -> Result<Measured> {
    check(work.args)?;
    work.repeat(|samples| run(model, work, samples))
}

fn run(model: &Sam, work: &Work, samples: &mut Samples) -> Result<Outcome> {
    let mut clock = Clock::start(work.device)?;
    let start = clock.last();
    let image = work.picture.decode()?;
    samples.push("decode_image", clock.lap()?);
    let embedding = model.encode_for_clicks(&image)?;
    samples.push("encode_image", clock.lap()?);
    let outcome = decode(model, &embedding, work, &mut clock, samples)?;
    samples.push("total", ms(outcome.first_mask - start));
    clock.lap()?;
    model.preprocess(&image)?; // as within the encoding
    samples.push("preprocess", clock.lap()?);
    if work.args.everything {
        everything(model, &image, &mut clock, samples)?;
    }
    Ok(outcome)
}

/// One point, then 64 in one call: what became of the one.
pub fn decode<M: InteractiveModel + Sync>(
    model: &M,
    image: &M::Embedding,
    work: &Work,
    clock: &mut Clock,
    samples: &mut Samples,
) -> Result<Outcome> {
    let prompt = |xy: [f32; 2]| ClickPrompt {
        points: vec![(xy, 1)],
        ..ClickPrompt::default()
    };
    let options = interactive::Options::default();
    let one = [prompt(work.picture.point())];
    clock.lap()?;
    let found = interactive::predict(model, image, &one, &options)?;
    samples.push("click", clock.lap()?);
    let outcome = Outcome {
        objects: found.iter().map(|found| found.masks.len()).sum(),
        first_mask: clock.last(),
    };
    let many: Vec<_> = work.picture.points().into_iter().map(prompt).collect();
    interactive::predict(model, image, &many, &options)?;
    samples.push("clicks_64", clock.lap()?);
    Ok(outcome)
}

/// Every object of the image, its encoding included.
pub fn everything<M: InteractiveModel + Sync>(
    model: &M,
    image: &Image,
    clock: &mut Clock,
    samples: &mut Samples,
) -> Result<()> {
    clock.lap()?;
    generator::generate(model, image, &generator::Options::default())?;
    samples.push("everything", clock.lap()?);
    Ok(())
}
