//! cgF1, the measure of SA-Co: how well a model finds every instance of a phrase, and nothing when
//! there is none.
//!
//! Follows `CGF1Evaluator`,
//! <https://github.com/facebookresearch/sam3/blob/99d02f2/sam3/eval/cgf1_eval.py>.

use std::collections::HashSet;
use std::path::Path;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::assignment::assign;
use super::data::{GroundTruth, Results, Segmentation, Shape, index, parse_json, read_json};
use super::overlap::{Outline, tight_box};
use super::{Kind, THRESHOLDS, mean, thresholds};
use crate::error::{Error, Result};

/// Results of a lower score are not looked at.
pub const MIN_SCORE: f64 = 0.5;

/// An image and a phrase to look for in it.
#[derive(Debug, Clone, PartialEq)]
pub struct Pair {
    /// What each annotator marked; nothing for a phrase that is not in the image.
    pub truths: Vec<Vec<Shape>>,
    /// What was found, with its score.
    pub found: Vec<(Shape, f64)>,
}

/// The measures of SA-Co, 0 to 1; those named `at_…` at one IoU threshold, the others as the mean
/// over 0.5 to 0.95.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ConceptFigures {
    /// What was compared.
    pub kind: Kind,
    /// Image-phrase pairs.
    pub pairs: usize,
    /// The product of `pm_f1` and `il_mcc`.
    pub cg_f1: f64,
    /// At IoU 0.5.
    pub cg_f1_at_50: f64,
    /// At IoU 0.75.
    pub cg_f1_at_75: f64,
    /// F1 of the instances of all pairs that have some.
    pub pm_f1: f64,
    /// Mean F1 of the pairs that have instances and results; `None` without any.
    pub macro_f1: Option<f64>,
    /// Matthews correlation of whether there are instances and whether any was found, -1 to 1.
    pub il_mcc: f64,
    /// Precision of the instances of all pairs.
    pub precision: f64,
    /// Recall of the instances of all pairs.
    pub recall: f64,
    /// Their F1.
    pub f1: f64,
    /// Pairs with instances for which something was found.
    pub il_true_positives: usize,
    /// Pairs without instances for which something was found.
    pub il_false_positives: usize,
    /// Pairs without instances for which nothing was found.
    pub il_true_negatives: usize,
    /// Pairs with instances for which nothing was found.
    pub il_false_negatives: usize,
}

/// Compares the results of every pair with the annotator that they fit best.
pub fn concept_figures(pairs: &[Pair], kind: Kind) -> ConceptFigures {
    let scored: Vec<Scored> = pairs
        .par_iter()
        .map(|pair| Scored::best(pair, kind))
        .collect();
    let count = |truths: bool, found: bool| {
        let matching = |s: &&Scored| (s.truths > 0) == truths && (s.found > 0) == found;
        scored.iter().filter(matching).count()
    };
    let (tp, fp) = (count(true, true), count(false, true));
    let (fn_, tn) = (count(true, false), count(false, false));
    let il_mcc = (tp as f64 * tn as f64 - fp as f64 * fn_ as f64)
        / (((tp + fp) as f64 * (tp + fn_) as f64 * (tn + fp) as f64 * (tn + fn_) as f64).sqrt()
            + 1e-6);
    let at: [Ratios; THRESHOLDS] = std::array::from_fn(|t| {
        let (mut right, mut found, mut found_in_positive, mut truths) = (0, 0, 0, 0);
        for s in &scored {
            right += s.right[t];
            found += s.found;
            truths += s.truths;
            if s.truths > 0 {
                found_in_positive += s.found;
            }
        }
        let recall = ratio(right, truths);
        Ratios {
            precision: ratio(right, found),
            recall,
            f1: f1(ratio(right, found), recall),
            pm_f1: f1(ratio(right, found_in_positive), recall),
        }
    });
    let average = |pick: fn(&Ratios) -> f64| at.iter().map(pick).sum::<f64>() / THRESHOLDS as f64;
    let both = scored.iter().filter(|s| s.truths > 0 && s.found > 0);
    let pm_f1 = average(|r| r.pm_f1);
    ConceptFigures {
        kind,
        pairs: pairs.len(),
        cg_f1: pm_f1 * il_mcc,
        cg_f1_at_50: at[0].pm_f1 * il_mcc,
        cg_f1_at_75: at[5].pm_f1 * il_mcc,
        pm_f1,
        macro_f1: mean(both.map(Scored::mean_f1)),
        il_mcc,
        precision: average(|r| r.precision),
        recall: average(|r| r.recall),
        f1: average(|r| r.f1),
        il_true_positives: tp,
        il_false_positives: fp,
        il_true_negatives: tn,
        il_false_negatives: fn_,
    }
}

struct Ratios {
    precision: f64,
    recall: f64,
    f1: f64,
    pm_f1: f64,
}

fn ratio(right: usize, all: usize) -> f64 {
    right as f64 / (all as f64 + 1e-4)
}

fn f1(precision: f64, recall: f64) -> f64 {
    2.0 * precision * recall / (precision + recall + 1e-4)
}

/// How one pair did by one annotator.
struct Scored {
    truths: usize,
    found: usize,
    /// At each IoU threshold.
    right: [usize; THRESHOLDS],
}

impl Scored {
    /// By the annotator that the results fit best. An annotator who marked nothing where nothing was
    /// found wins; else the higher mean F1, of equal ones the first.
    fn best(pair: &Pair, kind: Kind) -> Self {
        let found: Vec<Outline> = pair
            .found
            .iter()
            .filter(|(_, score)| *score >= MIN_SCORE)
            .map(|(shape, _)| Outline::new(shape, kind))
            .collect();
        let mut best: Option<Self> = None;
        for truths in &pair.truths {
            let current = Self::new(truths, &found, kind);
            let better = match &best {
                None => true,
                Some(best) if best.is_empty() => current.is_empty(),
                Some(best) => current.is_empty() || current.mean_f1() > best.mean_f1(),
            };
            if better {
                best = Some(current);
            }
        }
        best.unwrap_or_else(|| Self::new(&[], &found, kind))
    }

    fn new(truths: &[Shape], found: &[Outline], kind: Kind) -> Self {
        let outlines: Vec<Outline> = truths.iter().map(|t| Outline::new(t, kind)).collect();
        let ious_of = |found: &Outline| {
            let ious = outlines.iter().map(|truth| found.iou(truth, false, kind));
            ious.collect()
        };
        let ious: Vec<Vec<f64>> = found.iter().map(ious_of).collect();
        let matched: Vec<f64> = assign(&ious).into_iter().map(|(r, c)| ious[r][c]).collect();
        let right = thresholds().map(|t| matched.iter().filter(|iou| **iou >= t).count());
        Self {
            truths: truths.len(),
            found: found.len(),
            right,
        }
    }

    /// Nothing to find and nothing found.
    fn is_empty(&self) -> bool {
        self.truths == 0 && self.found == 0
    }

    fn mean_f1(&self) -> f64 {
        let at = self.right.iter();
        let f1s = at.map(|&right| f1(ratio(right, self.found), ratio(right, self.truths)));
        f1s.sum::<f64>() / THRESHOLDS as f64
    }
}

/// Every image and category of a ground truth as a pair; a category that is not in an image is a
/// phrase to find nothing by. Crowds are left out.
pub fn pairs_of(truth: &GroundTruth, results: &Results) -> Vec<Pair> {
    let categories = truth.categories.len();
    let empty = Pair {
        truths: vec![Vec::new()],
        found: Vec::new(),
    };
    let mut pairs = vec![empty; truth.images.len() * categories];
    for annotation in truth.annotations.iter().filter(|a| !a.is_crowd) {
        let pair = &mut pairs[annotation.image * categories + annotation.category];
        pair.truths[0].push(annotation.shape.clone());
    }
    for found in &results.found {
        let pair = &mut pairs[found.image * categories + found.category];
        pair.found.push((found.shape.clone(), found.score));
    }
    pairs
}

/// An image and phrase of SA-Co.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Phrase {
    /// The number of the pair of image and phrase.
    pub id: i64,
    /// Where the image is; shared by its phrases.
    pub file_name: String,
    /// What to look for.
    pub text_input: String,
    /// Pixels per row.
    pub width: usize,
    /// Number of rows.
    pub height: usize,
    #[serde(deserialize_with = "flag")]
    is_instance_exhaustive: bool,
}

/// SA-Co's files for one subset, one for each annotator.
#[derive(Debug, Clone, PartialEq)]
pub struct SaCo {
    /// What is evaluated: pairs in which every annotator marked all instances, in the order of the
    /// first file.
    pub phrases: Vec<Phrase>,
    truths: Vec<Vec<Vec<Shape>>>,
}

impl SaCo {
    /// Reads the file of the first annotator and those of the others.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Io`], or [`Error::Dataset`] when a file is malformed.
    pub fn read(first: impl AsRef<Path>, others: &[impl AsRef<Path>]) -> Result<Self> {
        let mut files = Vec::new();
        let paths = std::iter::once(first.as_ref()).chain(others.iter().map(AsRef::as_ref));
        for path in paths {
            files.push((path, read_json::<SaCoFile>(path)?));
        }
        let mut phrases = files[0].1.images.clone();
        let partial = files.iter().flat_map(|(_, file)| &file.images);
        let partial = partial.filter(|image| !image.is_instance_exhaustive);
        let partial: HashSet<i64> = partial.map(|image| image.id).collect();
        phrases.retain(|phrase| !partial.contains(&phrase.id));
        let place = index(phrases.iter().map(|phrase| phrase.id));
        let mut truths = vec![vec![Vec::new(); files.len()]; phrases.len()];
        for (annotator, (path, file)) in files.into_iter().enumerate() {
            for (i, entry) in file.annotations.into_iter().enumerate() {
                let Some(&at) = place.get(&entry.image_id).filter(|_| entry.iscrowd == 0) else {
                    continue;
                };
                let problem = |why| Error::dataset(path, format!("annotation {}: {why}", i + 1));
                let shape = entry.shape(&phrases[at]).map_err(problem)?;
                truths[at][annotator].push(shape);
            }
        }
        Ok(Self { phrases, truths })
    }

    /// Every phrase with the results of a file as SAM 3 writes them: a list of
    /// `{image_id, segmentation, bbox, score}`, `image_id` the number of the pair and boxes as
    /// fractions of the image. Results of other pairs are not looked at.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Io`], or [`Error::Dataset`] when the file is malformed.
    pub fn with_results(&self, path: impl AsRef<Path>) -> Result<Vec<Pair>> {
        self.with_entries(read_json(path.as_ref())?, path.as_ref())
    }

    /// As [`SaCo::with_results`] for a file that is in memory.
    ///
    /// # Errors
    /// [`Error::Dataset`] as [`SaCo::with_results`].
    pub fn with_parsed(&self, json: &[u8]) -> Result<Vec<Pair>> {
        let path = Path::new("results");
        self.with_entries(parse_json(json, path)?, path)
    }

    /// Number of images that the phrases are of.
    pub fn images(&self) -> usize {
        let names: HashSet<&str> = self.phrases.iter().map(|p| p.file_name.as_str()).collect();
        names.len()
    }

    /// Keeps the phrases of the first images.
    pub fn keep_images(&mut self, count: usize) {
        let mut names: HashSet<String> = HashSet::new();
        let mut keep = self.phrases.iter().map(|phrase| {
            let known = names.contains(&phrase.file_name);
            known || (names.len() < count && names.insert(phrase.file_name.clone()))
        });
        self.truths.retain(|_| keep.next().unwrap_or(false));
        drop(keep);
        self.phrases
            .retain(|phrase| names.contains(&phrase.file_name));
    }

    fn with_entries(&self, entries: Vec<SaCoEntry>, path: &Path) -> Result<Vec<Pair>> {
        let place = index(self.phrases.iter().map(|phrase| phrase.id));
        let pairs = self.truths.iter().map(|truths| Pair {
            truths: truths.clone(),
            found: Vec::new(),
        });
        let mut pairs: Vec<Pair> = pairs.collect();
        for (i, entry) in entries.into_iter().enumerate() {
            let Some(&at) = place.get(&entry.image_id) else {
                continue;
            };
            let problem = |why| Error::dataset(path, format!("result {}: {why}", i + 1));
            let score = entry.score.filter(|score| score.is_finite());
            let score = score.ok_or_else(|| problem("no finite score".to_string()))?;
            let shape = entry.shape(&self.phrases[at]).map_err(problem)?;
            pairs[at].found.push((shape, score));
        }
        Ok(pairs)
    }
}

#[derive(Deserialize)]
struct SaCoFile {
    images: Vec<Phrase>,
    #[serde(default)]
    annotations: Vec<SaCoEntry>,
}

/// An annotation, or a result, which has a score.
#[derive(Deserialize)]
struct SaCoEntry {
    image_id: i64,
    segmentation: Option<Segmentation>,
    /// Fractions of the image.
    bbox: Option<[f64; 4]>,
    score: Option<f64>,
    #[serde(default)]
    iscrowd: u8,
}

impl SaCoEntry {
    fn shape(self, phrase: &Phrase) -> Result<Shape, String> {
        let size = [phrase.height, phrase.width];
        let segmentation = self.segmentation.ok_or("no segmentation")?;
        let mask = segmentation.into_rle(size)?;
        let [w, h] = [phrase.width as f64, phrase.height as f64];
        let tight = || {
            let [x, y, bw, bh] = tight_box(&mask);
            [x / w, y / h, bw / w, bh / h]
        };
        Ok(Shape {
            bbox: self.bbox.unwrap_or_else(tight),
            area: mask.area() as f64,
            mask,
        })
    }
}

/// 0, 1, or a truth value.
fn flag<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Flag {
        Bool(bool),
        Number(i64),
    }
    Ok(match Flag::deserialize(deserializer)? {
        Flag::Bool(value) => value,
        Flag::Number(value) => value != 0,
    })
}
