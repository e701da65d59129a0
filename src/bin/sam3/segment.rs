//! `sam3 segment`: text and exemplar boxes -> instances.

use anyhow::Result;
use candle_sam3::models::variant::PromptKind;
use candle_sam3::output::json::{ExemplarEntry, InstanceEntry, PromptEntry};
use candle_sam3::output::{LabeledInstance, OverlayOptions};
use candle_sam3::predict::concept::{self, Exemplar, Options, Prediction, Prompt};
use candle_sam3::{Image, Run, Trace};

use crate::args::SegmentArgs;
use crate::results::{self, Target};
use crate::stages::Stages;
use crate::{demo, model};

/// What exemplars without words are called in labels and summaries.
const EXEMPLARS: &str = "exemplars";

pub fn run(args: SegmentArgs, quiet: bool) -> Result<()> {
    let mut stages = Stages::new(quiet);
    let (prompts, options) = (prompts(&args), options(&args));

    stages.start("decode");
    let image = Image::open(&args.image)?;
    concept::validate(&prompts, &options, image.size())?;
    let target = Target::new(
        args.output.as_deref(),
        results::is_json_alone(&args.formats),
    )?;

    stages.start("load");
    let model = model::load(&args.model, PromptKind::Text)?;
    let concepts = model.as_concept()?;
    demo::hint(model.name(), &image, quiet)?;
    let mut trace = args.trace.as_ref().map(|_| Trace::default());
    let mut run = Run {
        trace: trace.as_mut(),
        ..Run::default()
    };

    stages.start("encode_image");
    let embedding = concepts.encode_image(&image, &mut run)?;
    stages.start("encode_text");
    let encoded = concept::encode(concepts, &prompts, &mut run)?;
    stages.start("detect");
    let found = concept::predict(concepts, &embedding, &encoded, &options, &mut run)?;
    let timings = stages.finish();

    if let (Some(path), Some(trace)) = (&args.trace, &trace) {
        trace.save(path)?;
    }
    if !quiet {
        for (prompt, prediction) in prompts.iter().zip(&found) {
            eprintln!("{}", summary(prompt, prediction));
        }
    }
    let answers = prompts.iter().zip(&found);
    let answers = answers
        .map(|(prompt, found)| entry(prompt, found))
        .collect();
    let mut document = results::document(&args.image, &image, model.name(), "text", answers);
    timings.record(&mut document);
    let instances = labelled(&prompts, &found);
    let writer = target.writer(&args.image, quiet);
    results::write(
        writer,
        &args.formats,
        &image,
        &instances,
        &document,
        &OverlayOptions::default(),
    )
}

/// Every text, or the exemplars alone; the exemplars join every text.
fn prompts(args: &SegmentArgs) -> Vec<Prompt> {
    let positive = args.exemplars.iter().map(|bbox| Exemplar {
        bbox: *bbox,
        positive: true,
    });
    let negative = args.not_exemplars.iter().map(|bbox| Exemplar {
        bbox: *bbox,
        positive: false,
    });
    let exemplars: Vec<Exemplar> = positive.chain(negative).collect();
    if args.texts.is_empty() {
        return vec![Prompt::exemplars(exemplars)];
    }
    let texts = args
        .texts
        .iter()
        .flat_map(|text| text.split(','))
        .map(str::trim);
    texts
        .map(|text| Prompt {
            exemplars: exemplars.clone(),
            ..Prompt::text(text)
        })
        .collect()
}

fn options(args: &SegmentArgs) -> Options {
    Options {
        threshold: args.threshold,
        max_instances: args.max_instances,
        nms: args.nms,
        nms_across_prompts: args.nms_across,
        ..Options::default()
    }
}

/// "wheel: 2 objects, best 0.91, presence 0.93"
fn summary(prompt: &Prompt, prediction: &Prediction) -> String {
    let name = prompt.text.as_deref().unwrap_or(EXEMPLARS);
    let scores = prediction.instances.iter().map(|instance| instance.score);
    let presence = prediction.presence;
    match (prediction.instances.len(), scores.reduce(f32::max)) {
        (0, _) | (_, None) => format!("{name}: nothing found, presence {presence:.2}"),
        (1, Some(score)) => format!("{name}: 1 object, score {score:.2}, presence {presence:.2}"),
        (n, Some(best)) => format!("{name}: {n} objects, best {best:.2}, presence {presence:.2}"),
    }
}

fn entry(prompt: &Prompt, prediction: &Prediction) -> PromptEntry {
    let exemplar = |e: &Exemplar| ExemplarEntry {
        box_xyxy: e.bbox,
        positive: e.positive,
    };
    let instances = prediction.instances.iter();
    PromptEntry {
        text: prompt.text.clone(),
        exemplars: prompt.exemplars.iter().map(exemplar).collect(),
        presence: Some(prediction.presence),
        instances: instances
            .map(|i| InstanceEntry::new(&i.mask, i.bbox, i.score))
            .collect(),
        ..PromptEntry::default()
    }
}

fn labelled<'a>(prompts: &'a [Prompt], found: &'a [Prediction]) -> Vec<LabeledInstance<'a>> {
    let of_prompt = |(prompt, prediction): (&'a Prompt, &'a Prediction)| {
        let label = prompt.text.as_deref().unwrap_or(EXEMPLARS);
        prediction.instances.iter().map(move |i| LabeledInstance {
            label,
            mask: &i.mask,
            bbox: i.bbox,
            score: i.score,
        })
    };
    prompts.iter().zip(found).flat_map(of_prompt).collect()
}
