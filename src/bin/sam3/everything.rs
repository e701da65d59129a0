//! `sam3 everything`: no prompt -> every object there seems to be.

use anyhow::Result;
use candle_sam3::models::variant::PromptKind;
use candle_sam3::output::Kind;
use candle_sam3::output::answer::Answer;
use candle_sam3::predict::everything::{self, Options};
use candle_sam3::{Image, Model, Run};
use clap::Args;

use crate::model::ModelArgs;
use crate::picture::PictureArgs;
use crate::results::OutputArgs;
use crate::run::{self, Answered, Task};
use crate::stages::Stages;

#[derive(Args)]
pub struct EverythingArgs {
    #[command(flatten)]
    pub picture: PictureArgs,

    #[command(flatten)]
    generator: GeneratorArgs,

    #[command(flatten)]
    pub model: ModelArgs,

    #[command(flatten)]
    output: OutputArgs,
}

/// The original's flags; the defaults are its too.
#[derive(Args)]
#[command(next_help_heading = "Mask generator")]
pub struct GeneratorArgs {
    /// Points along one side of the grid that prompts the model
    #[arg(long, value_name = "N", default_value_t = 32)]
    points_per_side: usize,

    /// Points decoded at a time
    #[arg(long, value_name = "N", default_value_t = 64)]
    points_per_batch: usize,

    /// Keep masks of a higher predicted IoU than this; 0 keeps all
    #[arg(
        long,
        value_name = "0..1",
        default_value_t = 0.88,
        allow_hyphen_values = true
    )]
    pred_iou_thresh: f64,

    /// Keep masks of at least this stability; 0 keeps all
    #[arg(
        long,
        value_name = "0..1",
        default_value_t = 0.95,
        allow_hyphen_values = true
    )]
    stability_score_thresh: f64,

    /// How far the cut through the logits is moved to measure stability
    #[arg(
        long,
        value_name = "LOGIT",
        default_value_t = 1.0,
        allow_hyphen_values = true
    )]
    stability_score_offset: f64,

    /// Drop a mask whose box overlaps a better one's by more than this IoU
    #[arg(
        long,
        value_name = "0..1",
        default_value_t = 0.7,
        allow_hyphen_values = true
    )]
    box_nms_thresh: f64,

    /// Also look at crops of the image, 4 in the first layer, 16 in the second
    #[arg(long, value_name = "N", default_value_t = 0)]
    crop_n_layers: usize,

    /// Drop a mask whose box overlaps one of a smaller crop by more than this IoU
    #[arg(
        long,
        value_name = "0..1",
        default_value_t = 0.7,
        allow_hyphen_values = true,
        requires = "crop_n_layers"
    )]
    crop_nms_thresh: f64,

    /// How much crops overlap, as a fraction of the short side [default: 512/1500]
    #[arg(
        long,
        value_name = "0..1",
        allow_hyphen_values = true,
        requires = "crop_n_layers"
    )]
    crop_overlap_ratio: Option<f64>,

    /// Divides the points along a side once for each layer of crops
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1,
        requires = "crop_n_layers"
    )]
    crop_n_points_downscale_factor: usize,

    /// Fill holes and remove islands of fewer pixels than this
    #[arg(long, value_name = "PIXELS", default_value_t = 0)]
    min_mask_region_area: usize,
}

pub fn run(args: EverythingArgs) -> Result<()> {
    args.model.refuse_text_flags()?;
    let options = options(&args.generator);
    options.validate()?;
    run::run(
        &Everything(options),
        &args.picture,
        None,
        &args.model,
        &args.output,
    )
}

/// A grid of points -> every object there seems to be.
struct Everything(Options);

impl Task for Everything {
    const KIND: Kind = Kind::Everything;
    const PROMPTS: PromptKind = PromptKind::Everything;

    fn check(&self, _image: &Image) -> Result<()> {
        Ok(())
    }

    fn answer(
        &self,
        model: &Model,
        image: &Image,
        stages: &mut Stages,
        run: &mut Run,
    ) -> Result<Answered> {
        stages.start("generate");
        let found = everything::generate(model.as_interactive()?, image, &self.0, run)?;
        Ok(Answered {
            answers: vec![Answer::try_from(&found[..])?],
            logits: None,
        })
    }
}

/// The options of the mask generator.
pub fn options(args: &GeneratorArgs) -> Options {
    let defaults = Options::default();
    Options {
        points_per_side: Some(args.points_per_side),
        points_per_batch: args.points_per_batch,
        pred_iou_thresh: args.pred_iou_thresh,
        stability_score_thresh: args.stability_score_thresh,
        stability_score_offset: args.stability_score_offset,
        box_nms_thresh: args.box_nms_thresh,
        crop_n_layers: args.crop_n_layers,
        crop_nms_thresh: args.crop_nms_thresh,
        crop_overlap_ratio: args
            .crop_overlap_ratio
            .unwrap_or(defaults.crop_overlap_ratio),
        crop_n_points_downscale_factor: args.crop_n_points_downscale_factor,
        point_grids: None,
        min_mask_region_area: args.min_mask_region_area,
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    #[test]
    fn the_flags_have_the_originals_defaults() {
        let cli = Cli::try_parse_from(["sam3", "everything", "a.jpg"]).unwrap();
        let Command::Everything(args) = cli.command else {
            unreachable!("everything was asked for");
        };
        assert_eq!(options(&args.generator), Options::default());
    }

    #[test]
    fn flags_of_crops_need_crops() {
        let parse = |line: &str| Cli::try_parse_from(line.split(' ')).map(drop);
        assert!(parse("sam3 everything a.jpg --crop-overlap-ratio 0.3").is_err());
        assert!(parse("sam3 everything a.jpg --crop-n-layers 1 --crop-overlap-ratio 0.3").is_ok());
    }
}
