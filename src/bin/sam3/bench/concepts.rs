//! SAM 3 and its students: text in, masks out, stage by stage, and clicks after that.

use std::time::Instant;

use anyhow::Result;
use candle_sam3::models::sam3::Sam3;
use candle_sam3::predict::concept::{self, Options, Prompt};
use candle_sam3::{Progress, Run};

use super::measure::{Clock, ms};
use super::{Measured, Outcome, Work, clicks, spans, track};

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
    work.repeat(|clock| run(model, work, &prompts, &options, clock))
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
    clock: &mut Clock,
) -> Result<Outcome> {
    let start = clock.last();
    let images = (0..work.args.batch.get()).map(|_| work.picture.decode());
    let images = images.collect::<Result<Vec<_>>>()?;
    clock.lap("decode_image")?;

    let embeddings = spans::sampled(clock, || model.encode_images(&images, &mut Run::default()))?;
    clock.lap("encode_image")?;

    let prompts = concept::encode(model, prompts, &mut Run::default())?;
    clock.lap("encode_text")?;

    // With several prompts the first mask is there once the first prompt is answered.
    let (mut objects, mut first_mask) = (0, None);
    let (found, mut stages) = spans::timed(work.device, || -> Result<()> {
        for embedding in &embeddings {
            let mut answered = |_: Progress| {
                first_mask.get_or_insert_with(Instant::now);
            };
            let mut run = Run {
                progress: Some(&mut answered),
                ..Run::default()
            };
            let found = concept::predict(model, embedding, &prompts, options, &mut run)?;
            objects = found.iter().map(|found| found.instances.len()).sum();
        }
        Ok(())
    });
    found?;
    clock.skip()?;
    if stages.iter().all(|(stage, _)| *stage != "postprocess") {
        stages.push(("postprocess", 0.)); // nothing was found that could be enlarged
    }
    clock.samples.extend(stages);
    clock.samples.push("total", ms(clock.last() - start));

    if model.interactive_head().is_ok()
        && let Some(embedding) = embeddings.first()
    {
        clock.skip()?;
        let clicked = model.interactive_embedding(embedding)?;
        clock.lap("click_embed")?;
        clicks::decode(model, &clicked, work, clock)?;
        if work.args.everything {
            clicks::everything(model, &images[0], clock)?;
        }
        if work.args.track {
            track::run(model, &images[0], clock)?;
        }
    }
    Ok(Outcome {
        objects,
        first_mask: first_mask.unwrap_or(clock.last()),
    })
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
