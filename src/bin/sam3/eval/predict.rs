//! The results of a model on a ground truth, as the files that `--predictions` reads.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use anyhow::{Context, Result, bail};
use candle_sam3::eval::concept::{Pair, SaCo};
use candle_sam3::eval::data::{GroundTruth, Results};
use candle_sam3::mask::Rle;
use candle_sam3::models::variant::PromptKind;
use candle_sam3::output::write_file;
use candle_sam3::predict::concept::{self, Prompt};
use candle_sam3::predict::dataset::{self, Class, Labeler, Options, Source};
use candle_sam3::{Image, Mask, Run};
use serde::Serialize;

use super::EvalArgs;
use super::report::Report;
use crate::{model, progress};

/// A result in COCO's form. No box: it would decide the area.
#[derive(Serialize)]
struct Entry {
    image_id: i64,
    category_id: i64,
    segmentation: Rle,
    score: f64,
}

impl Entry {
    fn new(image_id: i64, category_id: i64, mask: &Mask, score: f32, decimals: i32) -> Self {
        let unit = 10f64.powi(decimals);
        Self {
            image_id,
            category_id,
            segmentation: Rle::encode(mask),
            score: (f64::from(score) * unit).round() / unit,
        }
    }
}

/// Looks for every category in every image.
pub fn coco(
    args: &EvalArgs,
    truth: &GroundTruth,
    images: &Path,
    report: &mut Report,
) -> Result<Results> {
    let phrases = args
        .prompts
        .as_deref()
        .map(read_prompts)
        .transpose()?
        .unwrap_or_default();
    let classes = truth.categories.iter().map(|category| Class {
        phrases: phrases.get(&category.name).cloned().into_iter().collect(),
        threshold: args.min_score.unwrap_or(0.05),
        ..Class::new(&category.name)
    });
    // Duplicates are the model's, and count.
    let options = Options {
        nms: 1.0,
        ..Options::new(classes.collect())
    };
    let model = model::load(&args.model, PromptKind::Text)?;
    report.model = Some(model.name().to_string());
    let mut run = Run::default();
    let labeler = Labeler::of_classes(&model, &options, &mut run)?;
    let sources = truth.images.iter().map(|image| Source {
        name: image.file_name.clone(),
        path: images.join(&image.file_name),
    });
    let bar = progress::pictures(truth.images.len() as u64);
    let mut entries = Vec::new();
    let labeled = dataset::label(&labeler, sources.collect(), &mut run);
    for (entry, labeled) in truth.images.iter().zip(labeled) {
        bar.inc(1);
        let objects = match (labeled.objects, &labeled.image) {
            (Ok(objects), Some(image)) if fits(image, entry.width, entry.height) => objects,
            (Ok(_), Some(image)) => {
                report.failed.push(other_size(
                    &entry.file_name,
                    image,
                    entry.width,
                    entry.height,
                ));
                continue;
            }
            (Ok(_), None) => continue,
            (Err(error), _) => {
                report.failed.push(format!("{}: {error}", entry.file_name));
                continue;
            }
        };
        for object in objects {
            let category = truth.categories[object.class].id;
            entries.push(Entry::new(
                entry.id,
                category,
                &object.mask,
                object.score,
                6,
            ));
        }
    }
    bar.finish_and_clear();
    let json = serde_json::to_vec(&entries)?;
    if let Some(path) = &args.save {
        write_file(path, &json)?;
    }
    Ok(Results::parse(&json, truth)?)
}

/// Looks for the phrases of SA-Co, in each image for all of its own.
pub fn saco(args: &EvalArgs, set: &SaCo, images: &Path, report: &mut Report) -> Result<Vec<Pair>> {
    let model = model::load(&args.model, PromptKind::Text)?;
    report.model = Some(model.name().to_string());
    let concepts = model.as_concept()?;
    let options = concept::Options {
        threshold: args.min_score.unwrap_or(0.3),
        ..concept::Options::default()
    };
    options.validate()?;
    let mut by_image: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (i, phrase) in set.phrases.iter().enumerate() {
        by_image.entry(&phrase.file_name).or_default().push(i);
    }
    let bar = progress::pictures(by_image.len() as u64);
    let run = &mut Run::default();
    let mut entries = Vec::new();
    for (file_name, phrases) in by_image {
        bar.inc(1);
        let first = &set.phrases[phrases[0]];
        let image = match Image::open(images.join(file_name)) {
            Ok(image) if fits(&image, first.width, first.height) => image,
            Ok(image) => {
                report
                    .failed
                    .push(other_size(file_name, &image, first.width, first.height));
                continue;
            }
            Err(error) => {
                report.failed.push(format!("{file_name}: {error}"));
                continue;
            }
        };
        let prompts = phrases
            .iter()
            .map(|&i| Prompt::text(&set.phrases[i].text_input));
        let prompts = concept::encode(concepts, &prompts.collect::<Vec<_>>(), run)?;
        let embedding = concepts.encode_image(&image, run)?;
        let found = concept::predict(concepts, &embedding, &prompts, &options, run)?;
        for (&phrase, prediction) in phrases.iter().zip(found) {
            let id = set.phrases[phrase].id;
            for instance in prediction.instances {
                // Five decimals, as the official files have.
                entries.push(Entry::new(id, 1, &instance.mask, instance.score, 5));
            }
        }
    }
    bar.finish_and_clear();
    let json = serde_json::to_vec(&entries)?;
    if let Some(path) = &args.save {
        write_file(path, &json)?;
    }
    Ok(set.with_parsed(&json)?)
}

pub fn fits(image: &Image, width: usize, height: usize) -> bool {
    (image.width(), image.height()) == (width, height)
}

pub fn other_size(name: &str, image: &Image, width: usize, height: usize) -> String {
    let (found, high) = (image.width(), image.height());
    format!(
        "{name}: {found}x{high} as displayed, {width}x{height} in the ground truth; was it turned \
         by its EXIF tag?"
    )
}

/// Reads a TOML table of category names and phrases.
fn read_prompts(path: &Path) -> Result<HashMap<String, String>> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let table: HashMap<String, String> =
        toml::from_str(&text).with_context(|| path.display().to_string())?;
    match table.iter().find(|(_, phrase)| phrase.trim().is_empty()) {
        Some((name, _)) => bail!("{}: no phrase for {name:?}", path.display()),
        None => Ok(table),
    }
}
