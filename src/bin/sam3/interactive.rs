//! `sam3 segment` with points, boxes or a mask: the object that is clicked.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use candle_sam3::image::DecodeOptions;
use candle_sam3::models::variant::PromptKind;
use candle_sam3::output::answer::Answer;
use candle_sam3::output::{self, Kind};
use candle_sam3::predict::interactive::{self, Multimask, Options, Prediction};
use candle_sam3::{BoxXyxy, Image, Mask, Model, Point, Run, Size, VisualPrompt};
use clap::Args;

use crate::model::ModelArgs;
use crate::picture::PictureArgs;
use crate::prompts::{self, parse_box, parse_point};
use crate::results::OutputArgs;
use crate::run::{self, Answered, Task};
use crate::stages::Stages;
use crate::summary::plural;

#[derive(Args)]
#[group(id = "clicks", multiple = true)]
#[command(next_help_heading = "Clicks")]
pub struct ClickArgs {
    /// Point on the object, or beside it with a third number 0; all points mean one object
    #[arg(
        long = "point",
        value_name = "X,Y[,0|1]",
        value_parser = parse_point,
        allow_hyphen_values = true
    )]
    points: Vec<Point>,

    /// Box of one object, in pixels; each further box means a further object
    #[arg(
        long = "box",
        value_name = "X0,Y0,X1,Y1",
        value_parser = parse_box,
        allow_hyphen_values = true
    )]
    boxes: Vec<BoxXyxy>,

    /// Start from a mask, best together with a point or a box: a picture of the image's size, white
    /// on the object, or the .safetensors file that --logits wrote for the same image and model
    #[arg(long, value_name = "FILE")]
    mask: Option<PathBuf>,

    /// Give all three masks of each prompt; otherwise one, for nothing but a point the best of three
    #[arg(long)]
    multimask: bool,

    /// Also write the low-resolution logits of each best mask to this safetensors file
    #[arg(long, value_name = "FILE")]
    logits: Option<PathBuf>,
}

pub fn run(
    args: &ClickArgs,
    picture: &PictureArgs,
    model: &ModelArgs,
    output: &OutputArgs,
) -> Result<()> {
    model.refuse_text_flags()?;
    let (prompts, drawn) = prompts(args)?;
    let task = Clicks {
        options: Options {
            multimask: match args.multimask {
                true => Multimask::Three,
                false => Multimask::Auto,
            },
            ..Options::default()
        },
        args,
        prompts,
        drawn,
    };
    run::run(&task, picture, args.logits.as_deref(), model, output)
}

/// Points, boxes and masks -> the objects they are on.
struct Clicks<'a> {
    args: &'a ClickArgs,
    prompts: Vec<VisualPrompt>,
    /// A picture of a mask for the one prompt there is.
    drawn: Option<Mask>,
    options: Options,
}

impl Task for Clicks<'_> {
    const KIND: Kind = Kind::Interactive;
    const PROMPTS: PromptKind = PromptKind::Clicks;

    fn check(&self, image: &Image) -> Result<()> {
        interactive::validate(&self.prompts, &self.options, image.size())?;
        if let Some(mask) = &self.drawn {
            interactive::validate_drawn(mask, image.size())?;
        }
        prompts::hint_at_fractions(image, &self.args.boxes, &self.args.points);
        Ok(())
    }

    fn answer(
        &self,
        model: &Model,
        image: &Image,
        stages: &mut Stages,
        run: &mut Run,
    ) -> Result<Answered> {
        let model = model.as_interactive()?;
        let mut prompts = self.prompts.clone();
        stages.start("encode_image");
        let embedding = model.encode_interactive(image, run)?;
        if let Some(mask) = &self.drawn {
            prompts[0].mask_logits = Some(interactive::from_drawn(model, image.size(), mask)?);
        }
        stages.start("segment");
        let found = interactive::predict(model, &embedding, &prompts, &self.options, run)?;
        let logits = self.args.logits.as_ref();
        let logits = logits.map(|_| logits_file(&found, model.low_res_size()));
        Ok(Answered {
            logits: logits.transpose()?,
            answers: prompts.iter().zip(found).map(Answer::from).collect(),
        })
    }
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
            Some(interactive::drawn_in(&open_drawing(path)?)),
        ),
    };
    if masks.len() != prompts.len() {
        bail!(
            "{}: {} for {} prompts; give a mask for each",
            path.display(),
            plural(masks.len(), "mask"),
            prompts.len()
        );
    }
    for (prompt, mask) in prompts.iter_mut().zip(masks) {
        prompt.mask_logits = Some(mask);
    }
    Ok((prompts, drawn))
}

/// A mask may be drawn in white, or in the alpha channel as a cut-out is.
pub fn open_drawing(path: &Path) -> Result<Image> {
    let options = DecodeOptions {
        alpha_as_mask: true,
        ..DecodeOptions::default()
    };
    let drawing = Image::open_with(path, &options);
    let drawing = drawing.context("--mask takes a picture or the .safetensors file of --logits")?;
    Ok(drawing.image)
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

#[cfg(test)]
mod tests {
    use candle_sam3::predict::interactive::MaskPrediction;

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
