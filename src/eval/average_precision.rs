//! COCO's average precision and recall.
//!
//! Follows `COCOeval` with its default parameters,
//! <https://github.com/cocodataset/cocoapi/blob/8c9bcc3cf640524c4c20a9c40e89cb6a2f2fa0e9/PythonAPI/pycocotools/cocoeval.py>.

use std::ops::Range;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::data::{Annotation, Found, GroundTruth, Results};
use super::overlap::Outline;
use super::{Kind, THRESHOLDS, mean, thresholds};

/// The areas in square pixels, ends included, that count as all, small, medium and large.
const AREAS: [[f64; 2]; 4] = [[0.0, 1e10], [0.0, 1024.0], [1024.0, 9216.0], [9216.0, 1e10]];

/// Results of one category that count in one image.
const MAX_RESULTS: [usize; 3] = [1, 10, 100];

/// Recalls at which precision is read: 0, 0.01 … 1.
const RECALLS: usize = 101;

/// The twelve figures of COCO, 0 to 1; `None` where there is no truth to compare with.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Average precision, mean over the IoU thresholds 0.5 to 0.95.
    pub ap: Option<f64>,
    /// At IoU 0.5.
    pub ap50: Option<f64>,
    /// At IoU 0.75.
    pub ap75: Option<f64>,
    /// Of objects up to 32 x 32 pixels.
    pub ap_small: Option<f64>,
    /// Of objects from 32 x 32 to 96 x 96 pixels.
    pub ap_medium: Option<f64>,
    /// Of objects from 96 x 96 pixels.
    pub ap_large: Option<f64>,
    /// Average recall with the best result of each image and category.
    pub ar_1: Option<f64>,
    /// With the best 10.
    pub ar_10: Option<f64>,
    /// With the best 100.
    pub ar_100: Option<f64>,
    /// With the best 100, of small objects.
    pub ar_small: Option<f64>,
    /// With the best 100, of medium objects.
    pub ar_medium: Option<f64>,
    /// With the best 100, of large objects.
    pub ar_large: Option<f64>,
}

/// How one category did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CategoryFigures {
    /// Its number in the files.
    pub id: i64,
    /// What it is called.
    pub name: String,
    /// Objects of the ground truth, crowds left out.
    pub truths: usize,
    /// Results.
    pub results: usize,
    /// Its twelve figures.
    #[serde(flatten)]
    pub figures: Figures,
}

/// How results did on a ground truth.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AveragePrecision {
    /// What was compared.
    pub kind: Kind,
    /// Over all categories.
    pub all: Figures,
    /// Each category, by id.
    pub categories: Vec<CategoryFigures>,
}

/// Compares results with the truth. Categories are computed in parallel.
pub fn average_precision(truth: &GroundTruth, results: &Results, kind: Kind) -> AveragePrecision {
    let truths = grouped(truth, &truth.annotations, |a: &Annotation| {
        (a.category, a.image)
    });
    let found = grouped(truth, &results.found, |f: &Found| (f.category, f.image));
    let categories: Vec<(Scores, CategoryFigures)> = (0..truth.categories.len())
        .into_par_iter()
        .map(|category| {
            let pairs = per_image(&truths[category], &found[category]);
            let images: Vec<Matches> = pairs
                .into_par_iter()
                .map(|(truths, found)| Matches::new(truths, found, kind))
                .collect();
            let scores = Scores::new(&images);
            let figures = CategoryFigures {
                id: truth.categories[category].id,
                name: truth.categories[category].name.clone(),
                truths: truths[category].iter().filter(|a| !a.is_crowd).count(),
                results: found[category].len(),
                figures: figures(&[&scores]),
            };
            (scores, figures)
        })
        .collect();
    let scores: Vec<&Scores> = categories.iter().map(|(scores, _)| scores).collect();
    AveragePrecision {
        kind,
        all: figures(&scores),
        categories: categories.into_iter().map(|(_, figures)| figures).collect(),
    }
}

/// The entries of each category, by image and in the order of the list.
fn grouped<'a, T>(
    truth: &GroundTruth,
    list: &'a [T],
    key: impl Fn(&T) -> (usize, usize),
) -> Vec<Vec<&'a T>> {
    let mut groups: Vec<Vec<&T>> = vec![Vec::new(); truth.categories.len()];
    for entry in list {
        groups[key(entry).0].push(entry);
    }
    for group in &mut groups {
        group.sort_by_key(|entry| key(entry).1);
    }
    groups
}

type InImage<'a> = (&'a [&'a Annotation], &'a [&'a Found]);

/// The truths and results of every image that has any, by image.
fn per_image<'a>(truths: &'a [&'a Annotation], found: &'a [&'a Found]) -> Vec<InImage<'a>> {
    let (mut t, mut f) = (0, 0);
    let mut images = Vec::new();
    while t < truths.len() || f < found.len() {
        let next = [
            truths.get(t).map(|a| a.image),
            found.get(f).map(|f| f.image),
        ];
        let Some(image) = next.into_iter().flatten().min() else {
            break;
        };
        let truths_end = t + truths[t..].iter().take_while(|a| a.image == image).count();
        let found_end = f + found[f..].iter().take_while(|f| f.image == image).count();
        images.push((&truths[t..truths_end], &found[f..found_end]));
        (t, f) = (truths_end, found_end);
    }
    images
}

/// One bit for each IoU threshold.
type Bits = u16;

/// How the results of one image and category fit its truths.
struct Matches {
    /// Of the best 100 results, falling.
    scores: Vec<f64>,
    /// For each area range and result: at which thresholds it matches a truth, and at which it does
    /// not count.
    areas: [Vec<(Bits, Bits)>; AREAS.len()],
    /// For each area range: truths to be found.
    scored: [usize; AREAS.len()],
}

impl Matches {
    fn new(truths: &[&Annotation], found: &[&Found], kind: Kind) -> Self {
        let mut found = found.to_vec();
        found.sort_by(|a, b| b.score.total_cmp(&a.score));
        found.truncate(MAX_RESULTS[2]);
        let outlines: Vec<_> = truths
            .iter()
            .map(|a| Outline::new(&a.shape, kind))
            .collect();
        let ious: Vec<Vec<f64>> = found
            .iter()
            .map(|found| {
                let outline = Outline::new(&found.shape, kind);
                let pairs = outlines.iter().zip(truths);
                let iou = pairs.map(|(truth, a)| outline.iou(truth, a.is_crowd, kind));
                iou.collect()
            })
            .collect();
        let ignored = AREAS.map(|range| {
            let outside = |a: &&Annotation| a.is_crowd || !within(range, a.shape.area);
            truths.iter().map(outside).collect::<Vec<bool>>()
        });
        let areas = std::array::from_fn(|range| {
            let mut marks = vec![(0, 0); found.len()];
            for (bit, threshold) in thresholds().into_iter().enumerate() {
                let matched = assign(&ious, truths, &ignored[range], threshold);
                for (d, matched) in matched.into_iter().enumerate() {
                    let skip = match matched {
                        Some(truth) => ignored[range][truth],
                        None => !within(AREAS[range], found[d].shape.area),
                    };
                    marks[d].0 |= Bits::from(matched.is_some()) << bit;
                    marks[d].1 |= Bits::from(skip) << bit;
                }
            }
            marks
        });
        Self {
            scores: found.iter().map(|found| found.score).collect(),
            areas,
            scored: ignored.map(|ignored| ignored.iter().filter(|i| !**i).count()),
        }
    }
}

fn within([least, most]: [f64; 2], area: f64) -> bool {
    (least..=most).contains(&area)
}

/// The truth that each result takes, best result first: the one of highest IoU that is not taken, of
/// equal ones the last, and one to be found rather than an ignored one.
fn assign(
    ious: &[Vec<f64>],
    truths: &[&Annotation],
    ignored: &[bool],
    threshold: f64,
) -> Vec<Option<usize>> {
    // Ignored truths last, as far as they go.
    let mut order: Vec<usize> = (0..truths.len()).collect();
    order.sort_by_key(|&truth| ignored[truth]);
    let mut taken = vec![false; truths.len()];
    let mut result = Vec::with_capacity(ious.len());
    for ious in ious {
        let mut best = threshold.min(1.0 - 1e-10);
        let mut matched: Option<usize> = None;
        for &truth in &order {
            if taken[truth] && !truths[truth].is_crowd {
                continue;
            }
            if ignored[truth] && matched.is_some_and(|matched| !ignored[matched]) {
                break;
            }
            if ious[truth] >= best {
                best = ious[truth];
                matched = Some(truth);
            }
        }
        if let Some(truth) = matched {
            taken[truth] = true;
        }
        result.push(matched);
    }
    result
}

/// Precision and recall of one category; `None` where no truth is to be found.
struct Scores {
    /// For each area range, with 100 results an image: the mean precision at each threshold.
    precision: [Option<[f64; THRESHOLDS]>; AREAS.len()],
    /// The highest recall at each threshold.
    recall: [Option<[f64; THRESHOLDS]>; AREAS.len()],
    /// As `recall` for all areas with 1 and 10 results an image.
    recall_of_few: [Option<[f64; THRESHOLDS]>; 2],
}

impl Scores {
    fn new(images: &[Matches]) -> Self {
        let mut order: Vec<(f64, usize, usize)> = Vec::new();
        for (image, matches) in images.iter().enumerate() {
            let scores = matches.scores.iter().enumerate();
            order.extend(scores.map(|(rank, &score)| (score, image, rank)));
        }
        // Stable: equal scores stay in the order of images and ranks.
        order.sort_by(|a, b| b.0.total_cmp(&a.0));
        let curve = |area: usize, most: usize| {
            let scored: usize = images.iter().map(|matches| matches.scored[area]).sum();
            let kept = order.iter().filter(|(_, _, rank)| *rank < most);
            let marks: Vec<_> = kept
                .map(|&(_, i, rank)| images[i].areas[area][rank])
                .collect();
            (scored > 0).then(|| precision_and_recall(&marks, scored))
        };
        let curves: [_; AREAS.len()] = std::array::from_fn(|area| curve(area, MAX_RESULTS[2]));
        Self {
            precision: curves.map(|curve| curve.map(|(precision, _)| precision)),
            recall: curves.map(|curve| curve.map(|(_, recall)| recall)),
            recall_of_few: [0, 1].map(|i| curve(0, MAX_RESULTS[i]).map(|(_, recall)| recall)),
        }
    }
}

/// At each threshold, the mean precision over the recalls, and the highest recall.
fn precision_and_recall(
    marks: &[(Bits, Bits)],
    scored: usize,
) -> ([f64; THRESHOLDS], [f64; THRESHOLDS]) {
    let mut precisions = [0.0; THRESHOLDS];
    let mut recalls = [0.0; THRESHOLDS];
    for bit in 0..THRESHOLDS {
        let (mut right, mut wrong) = (0.0, 0.0);
        let mut curve: Vec<(f64, f64)> = Vec::with_capacity(marks.len());
        for (matched, skip) in marks {
            if skip >> bit & 1 == 0 {
                if matched >> bit & 1 == 1 {
                    right += 1.0;
                } else {
                    wrong += 1.0;
                }
            }
            curve.push((
                right / scored as f64,
                right / (right + wrong + f64::EPSILON),
            ));
        }
        recalls[bit] = curve.last().map_or(0.0, |&(recall, _)| recall);
        let mut best: f64 = 0.0;
        for (_, precision) in curve.iter_mut().rev() {
            best = best.max(*precision);
            *precision = best;
        }
        let mut at = 0;
        let mut sum = 0.0;
        for step in 0..RECALLS {
            let wanted = if step == RECALLS - 1 {
                1.0
            } else {
                step as f64 * 0.01
            };
            while at < curve.len() && curve[at].0 < wanted {
                at += 1;
            }
            sum += curve.get(at).map_or(0.0, |&(_, precision)| precision);
        }
        precisions[bit] = sum / RECALLS as f64;
    }
    (precisions, recalls)
}

fn figures(categories: &[&Scores]) -> Figures {
    let all = 0..THRESHOLDS;
    let over = |pick: &dyn Fn(&Scores) -> Option<[f64; THRESHOLDS]>, at: Range<usize>| {
        let values = categories.iter().filter_map(|scores| pick(scores));
        mean(values.flat_map(|values| values[at.clone()].to_vec()))
    };
    let precision = |area: usize, at: Range<usize>| over(&|s| s.precision[area], at);
    let recall = |area: usize| over(&|s| s.recall[area], 0..THRESHOLDS);
    Figures {
        ap: precision(0, all.clone()),
        ap50: precision(0, 0..1),
        ap75: precision(0, 5..6),
        ap_small: precision(1, all.clone()),
        ap_medium: precision(2, all.clone()),
        ap_large: precision(3, all.clone()),
        ar_1: over(&|s| s.recall_of_few[0], all.clone()),
        ar_10: over(&|s| s.recall_of_few[1], all),
        ar_100: recall(0),
        ar_small: recall(1),
        ar_medium: recall(2),
        ar_large: recall(3),
    }
}
