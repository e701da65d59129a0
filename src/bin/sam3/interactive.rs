//! `sam3 segment` with points, boxes or a mask: the object that is clicked.

use std::path::Path;

use anyhow::{Context, Result, bail};
use candle_sam3::image::Image;
use candle_sam3::mask::{BoxXyxy, Mask};
use candle_sam3::models::{ClickPrompt, InteractiveModel};
use candle_sam3::output::json::{InstanceEntry, PointEntry, PromptEntry};
use candle_sam3::output::{self, LabeledInstance, OverlayOptions};
use candle_sam3::predict::interactive::{self, ClickMask, ClickPrediction, Options};

use crate::args::{ClickArgs, SegmentArgs};
use crate::results::{self, Target};
use crate::stages::Stages;
use crate::{demo, model};

pub fn run(args: SegmentArgs, quiet: bool) -> Result<()> {
    let mut stages = Stages::new(quiet);
    let (mut prompts, drawn) = prompts(&args.clicks)?;
    let options = options(&args.clicks, &prompts);

    stages.start("decode");
    let image = Image::open(&args.image)?;
    let size = (image.width(), image.height());
    interactive::validate(&prompts, &options, size)?;
    if let Some(mask) = &drawn {
        interactive::validate_drawn(mask, size)?;
    }
    let target = Target::new(
        args.output.as_deref(),
        results::is_json_alone(&args.formats),
    )?;

    stages.start("load");
    let model = model::load_for_clicks(&args.model)?;
    demo::hint(model.name(), &image, quiet)?;
    stages.start("encode_image");
    let embedding = model.encode_for_clicks(&image)?;
    if let Some(mask) = &drawn {
        prompts[0].mask_logits = Some(interactive::from_drawn(&model, &embedding, mask)?);
    }
    stages.start("segment");
    let mut found = interactive::predict(&model, &embedding, &prompts, &options)?;
    let timings = stages.finish();

    if let Some(path) = &args.clicks.logits {
        output::write_file(path, &logits_file(&found, model.low_res_size())?)?;
    }
    if !args.clicks.multimask {
        found.iter_mut().for_each(keep_best);
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
    let mut document = results::document(&args.image, &image, model.name(), "interactive", answers);
    timings.record(&mut document);
    let instances: Vec<LabeledInstance> = found.iter().flat_map(labelled).collect();
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

/// One prompt of all points and the box, or one for each of several boxes.
///
/// A drawn mask is for the one prompt there is. It comes apart, and leaves no logits in the prompt
/// yet: their number is known when the model is.
fn prompts(args: &ClickArgs) -> Result<(Vec<ClickPrompt>, Option<Mask>)> {
    if args.boxes.len() > 1 && !args.points.is_empty() {
        bail!(
            "{} boxes and points: it is not clear which box the points belong to; give one --box \
             with --point, or boxes alone",
            args.boxes.len()
        );
    }
    let mut prompts = match args.boxes.len() {
        0 => vec![ClickPrompt::default()],
        _ => interactive::from_boxes(&args.boxes),
    };
    prompts[0].points.clone_from(&args.points);
    let Some(path) = &args.mask else {
        return Ok((prompts, None));
    };
    let (masks, drawn) = match path.extension().is_some_and(|e| e == "safetensors") {
        true => (read_logits(path)?, None),
        false => (
            vec![vec![]],
            Some(interactive::drawn_in(&Image::open(path).context(
                "--mask takes a picture or the .safetensors file of --logits",
            )?)),
        ),
    };
    if masks.len() != prompts.len() {
        bail!(
            "{}: {} for {} prompts; give a mask for each",
            path.display(),
            match masks.len() {
                1 => "1 mask".to_string(),
                n => format!("{n} masks"),
            },
            prompts.len()
        );
    }
    for (prompt, mask) in prompts.iter_mut().zip(masks) {
        prompt.mask_logits = Some(mask);
    }
    Ok((prompts, drawn))
}

fn options(args: &ClickArgs, prompts: &[ClickPrompt]) -> Options {
    Options {
        multimask_output: args.multimask || prompts.iter().all(interactive::prefers_multimask),
        ..Options::default()
    }
}

fn keep_best(prediction: &mut ClickPrediction) {
    let best = prediction.best().cloned();
    prediction.masks = best.into_iter().collect();
}

/// The logits of an earlier answer, one map for each prompt.
fn read_logits(path: &Path) -> Result<Vec<Vec<f32>>> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    output::decode_logits(&bytes).with_context(|| path.display().to_string())
}

/// The logits of the best mask of each prompt, for [`read_logits`].
fn logits_file(found: &[ClickPrediction], size: (usize, usize)) -> Result<Vec<u8>> {
    let best = found.iter().filter_map(ClickPrediction::best);
    let maps: Vec<&[f32]> = best.map(|mask| mask.low_res_logits.as_slice()).collect();
    Ok(output::encode_logits(&maps, size)?)
}

/// "box 40,60,120,180: 5120 pixels, IoU 0.97, stability 0.98"
fn summary(prompt: &ClickPrompt, prediction: &ClickPrediction) -> String {
    let mut name = match (prompt.points.len(), prompt.bbox) {
        (_, Some(BoxXyxy { x0, y0, x1, y1 })) => format!("box {x0},{y0},{x1},{y1}"),
        (0, None) => "mask".to_string(),
        (1, None) => "1 point".to_string(),
        (n, None) => format!("{n} points"),
    };
    if let Some(logit) = prediction.object_score {
        name += &format!(" (object {:.2})", sigmoid(logit));
    }
    let masks = prediction.masks.iter().map(|mask| {
        let (area, iou, stability) = (mask.mask.area(), mask.iou_score, mask.stability_score);
        format!("{area} pixels, IoU {iou:.2}, stability {stability:.2}")
    });
    format!("{name}: {}", masks.collect::<Vec<_>>().join("; "))
}

fn entry(prompt: &ClickPrompt, prediction: &ClickPrediction) -> PromptEntry {
    let point = |&(xy, label): &([f32; 2], u8)| PointEntry {
        xy,
        positive: label == 1,
    };
    let instance = |mask: &ClickMask| InstanceEntry {
        stability: Some(mask.stability_score),
        ..InstanceEntry::new(&mask.mask, bbox(mask), mask.iou_score)
    };
    PromptEntry {
        points: prompt.points.iter().map(point).collect(),
        box_xyxy: prompt.bbox,
        presence: prediction.object_score.map(sigmoid),
        instances: prediction.masks.iter().map(instance).collect(),
        ..PromptEntry::default()
    }
}

fn labelled(prediction: &ClickPrediction) -> impl Iterator<Item = LabeledInstance<'_>> {
    prediction.masks.iter().map(|mask| LabeledInstance {
        label: "object",
        mask: &mask.mask,
        bbox: bbox(mask),
        score: mask.iou_score,
    })
}

/// The box around the mask; all zeros for an empty one.
fn bbox(mask: &ClickMask) -> BoxXyxy {
    mask.mask.bbox().unwrap_or(BoxXyxy::from([0.0; 4]))
}

fn sigmoid(x: f32) -> f32 {
    1. / (1. + (-x).exp())
}

#[cfg(test)]
mod tests {
    use candle_sam3::mask::Mask;

    use super::*;

    fn clicks(points: usize, boxes: usize) -> ClickArgs {
        ClickArgs {
            points: vec![([3., 4.], 1); points],
            boxes: vec![BoxXyxy::from([1., 2., 3., 4.]); boxes],
            mask: None,
            multimask: false,
            logits: None,
        }
    }

    fn prediction(logit: f32) -> ClickPrediction {
        let mask = |iou_score, logit| ClickMask {
            mask: Mask::from_fn(4, 3, |x, _| x == 1),
            iou_score,
            stability_score: 0.9,
            low_res_logits: vec![logit; 6],
        };
        ClickPrediction {
            masks: vec![mask(0.5, -1.), mask(0.8, logit), mask(0.7, -2.)],
            object_score: None,
        }
    }

    #[test]
    fn points_and_a_box_are_one_prompt_and_boxes_are_many() {
        assert_eq!(prompts(&clicks(2, 0)).unwrap().0.len(), 1);
        let (both, _) = prompts(&clicks(2, 1)).unwrap();
        assert!(both.len() == 1 && both[0].points.len() == 2 && both[0].bbox.is_some());
        assert_eq!(prompts(&clicks(0, 3)).unwrap().0.len(), 3);
        assert!(prompts(&clicks(1, 2)).is_err());
    }

    #[test]
    fn a_lone_point_is_answered_with_the_best_of_three() {
        let asks =
            |clicks: &ClickArgs| options(clicks, &prompts(clicks).unwrap().0).multimask_output;
        assert!(asks(&clicks(1, 0)));
        assert!(!asks(&clicks(2, 0)) && !asks(&clicks(1, 1)) && !asks(&clicks(0, 2)));
        let mut found = prediction(3.);
        keep_best(&mut found);
        assert_eq!(found.masks.len(), 1);
        assert_eq!(found.masks[0].iou_score, 0.8);
    }

    #[test]
    fn logits_come_back_from_their_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("logits.safetensors");
        let found = [prediction(3.), prediction(4.)];
        std::fs::write(&path, logits_file(&found, (2, 3)).unwrap()).unwrap();
        assert_eq!(read_logits(&path).unwrap(), [vec![3.; 6], vec![4.; 6]]);
        let mut args = clicks(0, 2);
        args.mask = Some(path.clone());
        assert_eq!(prompts(&args).unwrap().0[1].mask_logits, Some(vec![4.; 6]));
        args.boxes.pop();
        let error = prompts(&args).unwrap_err().to_string();
        assert!(error.contains("2 masks for 1 prompts"), "{error}");
        std::fs::write(&path, b"no mask").unwrap();
        let error = format!("{:#}", read_logits(&path).unwrap_err());
        assert!(
            error.contains("logits.safetensors: invalid prompt: no mask prompt"),
            "{error}"
        );
    }

    #[test]
    fn a_picture_is_a_mask_for_one_prompt() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mask.png");
        let mask = Mask::from_fn(4, 3, |x, _| x == 1);
        std::fs::write(&path, output::masks::mask_png(&mask).unwrap()).unwrap();
        let mut args = clicks(0, 0);
        args.mask = Some(path);
        let (prompt, drawn) = prompts(&args).unwrap();
        assert_eq!((prompt.len(), drawn), (1, Some(mask)));
        assert!(!options(&args, &prompt).multimask_output);
        args.boxes = clicks(0, 2).boxes;
        let error = prompts(&args).unwrap_err().to_string();
        assert!(error.contains("1 mask for 2 prompts"), "{error}");
    }
}
