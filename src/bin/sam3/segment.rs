//! `sam3 segment`: text and exemplar boxes -> instances.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use candle_sam3::Trace;
use candle_sam3::image::Image;
use candle_sam3::output::json::{Document, ExemplarEntry, ImageEntry, InstanceEntry, PromptEntry};
use candle_sam3::output::{self, Format, LabeledInstance, OverlayOptions, masks};
use candle_sam3::predict::concept::{self, Exemplar, Options, Prediction, Prompt};
use indicatif::ProgressBar;

use crate::args::SegmentArgs;
use crate::model;

/// What exemplars without words are called in labels and summaries.
const EXEMPLARS: &str = "exemplars";

pub fn run(args: SegmentArgs, quiet: bool) -> Result<()> {
    let mut stages = Stages::new(quiet);
    let (prompts, options) = (prompts(&args), options(&args));

    stages.start("decode");
    let image = Image::open(&args.image)?;
    concept::validate(&prompts, &options, (image.width(), image.height()))?;
    let target = Target::new(&args)?;

    stages.start("load");
    let model = model::load(&args.model)?;
    let mut trace = if args.trace.is_some() { Trace::on() } else { Trace::off() };

    stages.start("encode_image");
    let embedding = model.encode_image_traced(&image, &mut trace)?;
    stages.start("encode_text");
    let texts = concept::encode_texts(&model, &prompts)?;
    stages.start("detect");
    let found =
        concept::predict_encoded(&model, &embedding, &prompts, &texts, &options, &mut trace)?;
    let timings = stages.finish();

    if let Some(path) = &args.trace {
        trace.save(path)?;
    }
    if !quiet {
        for (prompt, prediction) in prompts.iter().zip(&found) {
            eprintln!("{}", summary(prompt, prediction));
        }
    }
    let mut document = Document {
        image: ImageEntry {
            path: args.image.display().to_string(),
            width: image.width(),
            height: image.height(),
        },
        model: model.name().to_string(),
        kind: "text".into(),
        prompts: prompts.iter().zip(&found).map(|(prompt, found)| entry(prompt, found)).collect(),
        timings_ms: Default::default(),
    };
    for (stage, time) in timings {
        document.add_timing(stage, time);
    }
    match target {
        Target::Stdout => println!("{}", serde_json::to_string(&document)?),
        Target::Folder(folder) => {
            let instances = labelled(&prompts, &found);
            let writer = Writer { folder: &folder, image_path: &args.image, quiet };
            for format in &args.formats {
                match format {
                    Format::Overlay => writer.overlay(&image, &instances)?,
                    Format::Masks => writer.masks(&image, &instances)?,
                    Format::Json => writer.json(&document)?,
                }
            }
        }
    }
    Ok(())
}

/// Every text, or the exemplars alone; the exemplars join every text.
fn prompts(args: &SegmentArgs) -> Vec<Prompt> {
    let positive = args.exemplars.iter().map(|bbox| Exemplar { bbox: *bbox, positive: true });
    let negative = args.not_exemplars.iter().map(|bbox| Exemplar { bbox: *bbox, positive: false });
    let exemplars: Vec<Exemplar> = positive.chain(negative).collect();
    if args.texts.is_empty() {
        return vec![Prompt::exemplars(exemplars)];
    }
    let texts = args.texts.iter().flat_map(|text| text.split(',')).map(str::trim);
    texts.map(|text| Prompt { exemplars: exemplars.clone(), ..Prompt::text(text) }).collect()
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
    let exemplar = |e: &Exemplar| ExemplarEntry { box_xyxy: e.bbox, positive: e.positive };
    let instances = prediction.instances.iter();
    PromptEntry {
        text: prompt.text.clone(),
        exemplars: prompt.exemplars.iter().map(exemplar).collect(),
        presence: Some(prediction.presence),
        instances: instances.map(|i| InstanceEntry::new(&i.mask, i.bbox, i.score)).collect(),
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

/// Where results go.
enum Target {
    Stdout,
    Folder(PathBuf),
}

impl Target {
    /// Decides, and makes sure that the folder is there, before any long work.
    fn new(args: &SegmentArgs) -> Result<Self> {
        let folder = match &args.output {
            Some(path) if path.as_os_str() == "-" => return Ok(Self::Stdout),
            None if args.formats == [Format::Json] => return Ok(Self::Stdout),
            None => PathBuf::from("."),
            Some(path) => path.clone(),
        };
        if folder.is_file() {
            bail!("{} is a file; -o names a folder", folder.display());
        }
        std::fs::create_dir_all(&folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        Ok(Self::Folder(folder))
    }
}

/// Writes files named after the image.
struct Writer<'a> {
    folder: &'a Path,
    image_path: &'a Path,
    quiet: bool,
}

impl Writer<'_> {
    fn path(&self, ending: &str) -> PathBuf {
        let stem = self.image_path.file_stem().unwrap_or_default().to_string_lossy();
        self.folder.join(format!("{stem}{ending}"))
    }

    fn overlay(&self, image: &Image, instances: &[LabeledInstance]) -> Result<()> {
        let drawn = output::overlay(image, instances, &OverlayOptions::default());
        let path = self.path("_overlay.png");
        output::write_file(&path, &output::encode_png(&drawn)?)?;
        self.say(&path);
        Ok(())
    }

    fn masks(&self, image: &Image, instances: &[LabeledInstance]) -> Result<()> {
        let folder = self.path("_masks");
        std::fs::create_dir_all(&folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        for (index, instance) in instances.iter().enumerate() {
            let path = folder.join(masks::mask_file_name(index, instance));
            output::write_file(path, &masks::mask_png(instance.mask)?)?;
        }
        let map = masks::label_map_png(image.width(), image.height(), instances)?;
        output::write_file(folder.join("label_map.png"), &map)?;
        self.say(&folder);
        Ok(())
    }

    fn json(&self, document: &Document) -> Result<()> {
        let path = self.path(".json");
        output::write_file(&path, &serde_json::to_vec(document)?)?;
        self.say(&path);
        Ok(())
    }

    fn say(&self, path: &Path) {
        if !self.quiet {
            eprintln!("wrote {}", path.display());
        }
    }
}

/// A spinner that names the running stage, and how long each stage took.
struct Stages {
    spinner: ProgressBar,
    times: Vec<(&'static str, Duration)>,
    running: Option<(&'static str, Instant)>,
}

impl Stages {
    fn new(quiet: bool) -> Self {
        let spinner = if quiet { ProgressBar::hidden() } else { ProgressBar::new_spinner() };
        spinner.enable_steady_tick(Duration::from_millis(100));
        Self { spinner, times: vec![], running: None }
    }

    fn start(&mut self, stage: &'static str) {
        self.stop();
        self.spinner.set_message(stage.replace('_', " "));
        self.running = Some((stage, Instant::now()));
    }

    fn stop(&mut self) {
        if let Some((stage, since)) = self.running.take() {
            self.times.push((stage, since.elapsed()));
        }
    }

    fn finish(mut self) -> Vec<(&'static str, Duration)> {
        self.stop();
        self.spinner.finish_and_clear();
        self.times
    }
}
