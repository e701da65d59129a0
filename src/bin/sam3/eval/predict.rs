//! The results of a model on a ground truth, as the files that `--predictions` reads.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use anyhow::{Context, Result, bail};
use candle_sam3::eval::concept::{Pair, SaCo};
use candle_sam3::eval::data::{GroundTruth, Results};
use candle_sam3::image::DecodeOptions;
use candle_sam3::mask::Rle;
use candle_sam3::models::variant::PromptKind;
use candle_sam3::output::write_file;
use candle_sam3::predict::concept::{self, Prompt};
use candle_sam3::predict::dataset::{self, Class, Labeler, Options, Source};
use candle_sam3::{Image, Mask, Run, Size};
use serde::Serialize;

use super::EvalArgs;
use super::report::Report;
use crate::{model, progress};

/// The images of a ground truth.
pub struct Pictures<'a> {
    pub folder: &'a Path,
    pub decoding: DecodeOptions,
}

impl Pictures<'_> {
    /// An image of the size that the ground truth has, or what is wrong with it.
    pub fn open(&self, name: &str, size: Size) -> Result<Image, String> {
        let opened = Image::open_with(self.folder.join(name), &self.decoding);
        let image = opened.map_err(|error| format!("{name}: {error}"))?.image;
        check_size(name, &image, size).map(|()| image)
    }
}

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
    pictures: &Pictures,
    report: &mut Report,
) -> Result<Results> {
    let phrases = args.prompts.as_deref().map(read_prompts).transpose()?;
    let phrases = phrases.unwrap_or_default();
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
        path: pictures.folder.join(&image.file_name),
    });
    let sources: Vec<Source> = sources.collect();
    let bar = progress::pictures(truth.images.len());
    let mut entries = Vec::new();
    let labeled = dataset::label(&labeler, sources, &pictures.decoding, &mut run);
    for (entry, labeled) in truth.images.iter().zip(labeled) {
        bar.inc(1);
        let objects = match (labeled.objects, &labeled.image) {
            (Ok(objects), Some(image)) => {
                let size = Size::new(entry.width, entry.height);
                check_size(&entry.file_name, image, size).map(|()| objects)
            }
            (Ok(_), None) => continue,
            (Err(error), _) => Err(format!("{}: {error}", entry.file_name)),
        };
        for object in report.usable(objects).unwrap_or_default() {
            let category = truth.categories[object.class].id;
            let (mask, score) = (&object.mask, object.score);
            entries.push(Entry::new(entry.id, category, mask, score, 6));
        }
    }
    bar.finish_and_clear();
    Ok(Results::parse(&saved(args, &entries)?, truth)?)
}

/// Looks for the phrases of SA-Co, in each image for all of its own.
pub fn saco(
    args: &EvalArgs,
    set: &SaCo,
    pictures: &Pictures,
    report: &mut Report,
) -> Result<Vec<Pair>> {
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
    let bar = progress::pictures(by_image.len());
    let run = &mut Run::default();
    let mut entries = Vec::new();
    for (file_name, phrases) in by_image {
        bar.inc(1);
        let first = &set.phrases[phrases[0]];
        let opened = pictures.open(file_name, Size::new(first.width, first.height));
        let Some(image) = report.usable(opened) else {
            continue;
        };
        let texts = phrases.iter().map(|&i| &set.phrases[i].text_input);
        let prompts: Vec<Prompt> = texts.map(Prompt::text).collect();
        let prompts = concept::encode(concepts, &prompts, run)?;
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
    Ok(set.with_parsed(&saved(args, &entries)?)?)
}

/// The results as JSON, which `--save` keeps.
fn saved(args: &EvalArgs, entries: &[Entry]) -> Result<Vec<u8>> {
    let json = serde_json::to_vec(entries)?;
    if let Some(path) = &args.save {
        write_file(path, &json)?;
    }
    Ok(json)
}

/// Refuses an image of another size than the ground truth has.
fn check_size(name: &str, image: &Image, size: Size) -> Result<(), String> {
    match image.size() == size {
        true => Ok(()),
        false => Err(format!(
            "{name}: {} as displayed, {size} in the ground truth; was it turned by its EXIF tag?",
            image.size()
        )),
    }
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
