//! Mean IoU with the ground truth as a user: its boxes, or clicks in the largest error.

use anyhow::Result;
use candle_sam3::eval::data::{Annotation, GroundTruth};
use candle_sam3::eval::interactive::next_click;
use candle_sam3::models::InteractiveEmbedding;
use candle_sam3::predict::interactive::{Multimask, Options, Prediction, predict_one};
use candle_sam3::{InteractiveModel, Mask, Model, Run, Size, VisualPrompt};

use super::predict::Pictures;
use super::report::{Miou, Report};
use crate::progress;

/// Clicks after which the answer is compared with the truth.
const CLICKS: [usize; 3] = [1, 3, 5];

/// Sums over objects.
#[derive(Default, Clone, Copy)]
struct Sum {
    best: f64,
    oracle: f64,
}

impl Sum {
    fn add(&mut self, truth: &Mask, prediction: &Prediction) {
        let iou = |mask: &Mask| f64::from(mask.iou(truth));
        self.best += prediction.best().map_or(0.0, |best| iou(&best.mask));
        let all = prediction.masks.iter().map(|found| iou(&found.mask));
        self.oracle += all.fold(0.0, f64::max);
    }

    fn miou(self, prompt: String, objects: usize) -> Miou {
        let mean = |sum: f64| (objects > 0).then(|| sum / objects as f64);
        Miou {
            prompt,
            objects,
            best: mean(self.best),
            oracle: mean(self.oracle),
        }
    }
}

/// Prompts for every object that is no crowd; `boxes` and `points` say with what.
pub fn measure(
    model: &Model,
    truth: &GroundTruth,
    pictures: &Pictures,
    [boxes, points]: [bool; 2],
    report: &mut Report,
) -> Result<()> {
    let model = model.as_interactive()?;
    let bar = progress::pictures(truth.images.len());
    let mut by_image: Vec<Vec<&Annotation>> = vec![Vec::new(); truth.images.len()];
    for annotation in truth.annotations.iter().filter(|object| !object.is_crowd) {
        by_image[annotation.image].push(annotation);
    }
    let run = &mut Run::default();
    let (mut of_boxes, mut of_clicks, mut objects) = (Sum::default(), [Sum::default(); 3], 0);
    for (entry, annotations) in truth.images.iter().zip(by_image) {
        bar.inc(1);
        if annotations.is_empty() {
            continue;
        }
        let size = Size::new(entry.width, entry.height);
        let Some(image) = report.usable(pictures.open(&entry.file_name, size)) else {
            continue;
        };
        let embedding = model.encode_interactive(&image, run)?;
        for annotation in annotations {
            let mask = annotation.shape.mask.decode()?;
            let [x, y, w, h] = annotation.shape.bbox;
            if mask.is_empty() || w <= 0.0 || h <= 0.0 {
                continue;
            }
            objects += 1;
            if boxes {
                let corners = [x, y, x + w, y + h].map(|v| v as f32);
                let prompt = VisualPrompt::bbox(corners);
                let options = Options {
                    multimask: Multimask::One,
                    ..Options::default()
                };
                let found = predict_one(model, &embedding, &prompt, &options, run)?;
                of_boxes.add(&mask, &found);
            }
            if points {
                click(model, &embedding, &mask, &mut of_clicks, run)?;
            }
        }
    }
    bar.finish_and_clear();
    if boxes {
        report.miou.push(of_boxes.miou("box".to_string(), objects));
    }
    if points {
        let clicks = CLICKS.into_iter().zip(of_clicks);
        let clicks = clicks.map(|(n, sum)| sum.miou(format!("clicks: {n}"), objects));
        report.miou.extend(clicks);
    }
    Ok(())
}

/// Clicks until the answer is the truth or the last number of clicks is reached.
fn click(
    model: &dyn InteractiveModel,
    embedding: &InteractiveEmbedding,
    truth: &Mask,
    sums: &mut [Sum; 3],
    run: &mut Run,
) -> Result<()> {
    let mut answer = Mask::new(truth.width(), truth.height());
    let mut prompt = VisualPrompt::default();
    let mut last: Option<Prediction> = None;
    for count in 1..=CLICKS[2] {
        if let Some(click) = next_click(truth, &answer) {
            let [x, y] = click.xy.map(|v| v as f32);
            prompt = match click.on_object {
                true => prompt.and_point(x, y),
                false => prompt.and_not(x, y),
            };
            // A lone click means several things; more are to be followed.
            let options = Options {
                multimask: match count {
                    1 => Multimask::Three,
                    _ => Multimask::One,
                },
                ..Options::default()
            };
            let prediction = predict_one(model, embedding, &prompt, &options, run)?;
            prompt = prediction.refined(prompt);
            if let Some(best) = prediction.best() {
                answer = best.mask.clone();
            }
            last = Some(prediction);
        }
        if let (Some(at), Some(last)) = (CLICKS.iter().position(|&n| n == count), &last) {
            sums[at].add(truth, last);
        }
    }
    Ok(())
}
