//! SAM 3 and its students: text in, masks out, stage by stage, and clicks after that.

use std::time::Instant;

use anyhow::Result;
use candle_sam3::Trace;
use candle_sam3::models::sam3::Sam3;
use candle_sam3::predict::concept::{self, Options, Prompt};

use super::measure::{Clock, Samples, Stage, ms};
use super::{Measured, Outcome, Work, clicks};

/// What is looked for.
const WORDS: [&str; 10] = [
    "wheel",
    "person",
    "dog",
    "a red car",
    "tree",
    "window",
    "bird",
    "a wooden chair",
    "cup",
    "hand",
];

/// Objects kept of what random weights find.
const KEPT_OF_RANDOM: usize = 20;

pub fn measure(model: &Sam3, work: &Work) -> Result<Measured> {
    let prompts: Vec<Prompt> = (0..work.args.prompts.get()).map(prompt).collect();
    let mut options = Options::default();
    if work.args.random_weights.is_some() {
        // Random scores pass no threshold, so that there would be no masks to measure.
        options.threshold = 0.;
        options.max_instances = Some(KEPT_OF_RANDOM);
    }
    work.repeat(|samples| {
        let outcome = run(model, work, &prompts, &options, samples)?;
        Ok(outcome)
    })
}

/// The texts differ, since equal ones are encoded once.
fn prompt(i: usize) -> Prompt {
    let word = WORDS[i % WORDS.len()];
    Prompt::text(match i / WORDS.len() {
        0 => word.to_string(),
        round => format!("{word} {round}"),
    })
}

fn run(
    model: &Sam3,
    work: &Work,
    prompts: &[Prompt],
    options: &Options,
    samples: &mut Samples,
) -> Result<Outcome> {
    let mut clock = Clock::start(work.device)?;
    let start = clock.last();
    let images = (0..work.args.batch.get()).map(|_| work.picture.decode());
    let images = images.collect::<Result<Vec<_>>>()?;
    samples.push("decode_image", clock.lap()?);

    let begun = clock.last();
    let mut trace = Trace::timed();
    let embeddings = model.encode_images_traced(&images, &mut trace)?;
    samples.push("encode_image", clock.lap()?);
    for (stage, ms) in intervals(begun, &trace, clock.last(), stage_of_image) {
        samples.push(stage, ms);
    }

    let texts = concept::encode_texts(model, prompts)?;
    samples.push("encode_text", clock.lap()?);

    let (mut objects, mut first_mask) = (0, None);
    let mut stages = vec![];
    for embedding in &embeddings {
        let begun = clock.last();
        let mut trace = Trace::timed();
        let found =
            concept::predict_encoded(model, embedding, prompts, &texts, options, &mut trace)?;
        clock.lap()?;
        objects = found.iter().map(|found| found.instances.len()).sum();
        // With several prompts the first mask is there once the first prompt is answered.
        let second = trace
            .times()
            .find(|(name, _)| name.starts_with("prompts.1."));
        first_mask.get_or_insert(second.map_or(clock.last(), |(_, time)| time));
        add(
            &mut stages,
            intervals(begun, &trace, clock.last(), stage_of_prompt),
        );
    }
    for (stage, ms) in stages {
        samples.push(stage, ms);
    }
    samples.push("total", ms(clock.last() - start));

    if model.click_head().is_ok()
        && let Some(embedding) = embeddings.first()
    {
        clock.lap()?;
        let clicked = model.embed_for_clicks(embedding)?;
        samples.push("click_embed", clock.lap()?);
        clicks::decode(model, &clicked, work, &mut clock, samples)?;
        if work.args.everything {
            clicks::everything(model, &images[0], &mut clock, samples)?;
        }
    }
    Ok(Outcome {
        objects,
        first_mask: first_mask.unwrap_or(clock.last()),
    })
}

/// Sums the time between marks of the trace by stage; `stage` says to which one the time *before* a
/// mark belongs, and with `None` to which one the time after the last mark does.
fn intervals(
    begun: Instant,
    trace: &Trace,
    ended: Instant,
    stage: fn(Option<&str>) -> Stage,
) -> Vec<(Stage, f64)> {
    let mut sums = vec![];
    let mut last = begun;
    let marks = trace.times().map(|(name, time)| (Some(name), time));
    for (i, (name, time)) in marks.chain([(None, ended)]).enumerate() {
        let name = name.map(|name| {
            name.rsplit_once("prompts.").map_or(name, |(_, rest)| {
                rest.split_once('.').map_or(rest, |(_, name)| name)
            })
        });
        // A further prompt begins where the one before it has been postprocessed.
        let stage = match name {
            Some("text_features") if i > 0 => stage(None),
            name => stage(name),
        };
        add(&mut sums, vec![(stage, ms(time - last))]);
        last = time;
    }
    sums
}

fn add(sums: &mut Vec<(Stage, f64)>, more: Vec<(Stage, f64)>) {
    for (stage, ms) in more {
        match sums.iter_mut().find(|(known, _)| *known == stage) {
            Some((_, sum)) => *sum += ms,
            None => sums.push((stage, ms)),
        }
    }
}

fn stage_of_image(mark: Option<&str>) -> Stage {
    match mark {
        Some("pixel_values") => "preprocess",
        Some("trunk") => "trunk",
        Some(_) => "neck",
        None => "shared", // the first self-attention, which no prompt touches
    }
}

fn stage_of_prompt(mark: Option<&str>) -> Stage {
    match mark {
        Some("hs" | "pred_boxes" | "presence_logit" | "pred_logits") => "decoder",
        Some("pixel_embed" | "pred_masks") => "masks",
        Some(_) => "fusion",
        None => "postprocess",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_prompt_is_another_text() {
        let texts: std::collections::HashSet<_> = (0..64).map(|i| prompt(i).text).collect();
        assert_eq!(texts.len(), 64);
    }
}
