//! `sam3 segment` with points, boxes or a mask: the object that is clicked.

use std::path::Path;

use anyhow::{Context, Result, bail};
use candle_sam3::mask::{BoxXyxy, Mask};
use candle_sam3::models::variant::PromptKind;
use candle_sam3::output::json::{InstanceEntry, PointEntry, PromptEntry};
use candle_sam3::output::{self, LabeledInstance, OverlayOptions};
use candle_sam3::predict::interactive::{self, MaskPrediction, Multimask, Options, Prediction};
use candle_sam3::{Image, Point, Run, Size, VisualPrompt};

use crate::args::{ClickArgs, SegmentArgs};
use crate::results::{self, Target};
use crate::stages::Stages;
use crate::{demo, model};

pub fn run(args: SegmentArgs, quiet: bool) -> Result<()> {
    let mut stages = Stages::new(quiet);
    let (mut prompts, drawn) = prompts(&args.clicks)?;
    let options = options(&args.clicks);

    stages.start("decode");
    let image = Image::open(&args.image)?;
    let size = image.size();
    interactive::validate(&prompts, &options, size)?;
    if let Some(mask) = &drawn {
        interactive::validate_drawn(mask, size)?;
    }
    let target = Target::new(
        args.output.as_deref(),
        results::is_json_alone(&args.formats),
    )?;

    stages.start("load");
    let loaded = model::load(&args.model, PromptKind::Clicks)?;
    let model = loaded.as_interactive()?;
    demo::hint(model.name(), &image, quiet)?;
    let run = &mut Run::default();
    stages.start("encode_image");
    let embedding = model.encode_interactive(&image, run)?;
    if let Some(mask) = &drawn {
        prompts[0].mask_logits = Some(interactive::from_drawn(model, size, mask)?);
    }
    stages.start("segment");
    let found = interactive::predict(model, &embedding, &prompts, &options, run)?;
    let timings = stages.finish();

    if let Some(path) = &args.clicks.logits {
        output::write_file(path, &logits_file(&found, model.low_res_size())?)?;
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
fn prompts(args: &ClickArgs) -> Result<(Vec<VisualPrompt>, Option<Mask>)> {
    if args.boxes.len() > 1 && !args.points.is_empty() {
        bail!(
            "{} boxes and points: it is not clear which box the points belong to; give one --box \
             with --point, or boxes alone",
            args.boxes.len()
        );
    }
    let mut prompts = match args.boxes.len() {
        0 => vec![VisualPrompt::default()],
        _ => args.boxes.iter().map(|b| VisualPrompt::bbox(*b)).collect(),
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

fn options(args: &ClickArgs) -> Options {
    Options {
        multimask: match args.multimask {
            true => Multimask::Three,
            false => Multimask::Auto,
        },
        ..Options::default()
    }
}

/// The logits of an earlier answer, one map for each prompt.
fn read_logits(path: &Path) -> Result<Vec<Vec<f32>>> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    output::decode_logits(&bytes).with_context(|| path.display().to_string())
}

/// The logits of the best mask of each prompt, for [`read_logits`].
fn logits_file(found: &[Prediction], size: Size) -> Result<Vec<u8>> {
    let best = found.iter().filter_map(Prediction::best);
    let maps: Vec<&[f32]> = best.map(|mask| mask.low_res_logits.as_slice()).collect();
    Ok(output::encode_logits(&maps, (size.height, size.width))?)
}

/// "box 40,60,120,180: 5120 pixels, IoU 0.97, stability 0.98"
fn summary(prompt: &VisualPrompt, prediction: &Prediction) -> String {
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

fn entry(prompt: &VisualPrompt, prediction: &Prediction) -> PromptEntry {
    let point = |point: &Point| PointEntry {
        xy: point.xy,
        positive: point.on_object,
    };
    let instance = |mask: &MaskPrediction| InstanceEntry {
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

fn labelled(prediction: &Prediction) -> impl Iterator<Item = LabeledInstance<'_>> {
    prediction.masks.iter().map(|mask| LabeledInstance {
        label: "object",
        mask: &mask.mask,
        bbox: bbox(mask),
        score: mask.iou_score,
    })
}

/// The box around the mask; all zeros for an empty one.
fn bbox(mask: &MaskPrediction) -> BoxXyxy {
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
            points: vec![
                Point {
                    xy: [3., 4.],
                    on_object: true
                };
                points
            ],
            boxes: vec![BoxXyxy::from([1., 2., 3., 4.]); boxes],
            mask: None,
            multimask: false,
            logits: None,
        }
    }

    fn prediction(logit: f32) -> Prediction {
        let mask = |iou_score, logit| MaskPrediction {
            mask: Mask::from_fn(4, 3, |x, _| x == 1),
            iou_score,
            stability_score: 0.9,
            low_res_logits: vec![logit; 6],
        };
        Prediction {
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
    fn logits_come_back_from_their_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("logits.safetensors");
        let found = [prediction(3.), prediction(4.)];
        std::fs::write(&path, logits_file(&found, Size::new(3, 2)).unwrap()).unwrap();
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
        args.boxes = clicks(0, 2).boxes;
        let error = prompts(&args).unwrap_err().to_string();
        assert!(error.contains("1 mask for 2 prompts"), "{error}");
    }
}
