//! `sam3 everything`: no prompt -> every object there seems to be.

use anyhow::{Context, Result};
use candle_sam3::mask::{BoxXyxy, Mask};
use candle_sam3::models::variant::PromptKind;
use candle_sam3::output::json::{InstanceEntry, PromptEntry};
use candle_sam3::output::{self, Format, LabeledInstance, OverlayOptions, masks, records};
use candle_sam3::predict::everything::{self, MaskRecord, Options};
use candle_sam3::{Image, Progress, Run};

use crate::args::{EverythingArgs, EverythingFormat, GeneratorArgs};
use crate::results::{self, Target, Writer};
use crate::stages::Stages;
use crate::{demo, model};

pub fn run(args: EverythingArgs, quiet: bool) -> Result<()> {
    let mut stages = Stages::new(quiet);
    let options = options(&args.generator);
    options.validate()?;

    stages.start("decode");
    let image = Image::open(&args.image)?;
    let is_json_alone = args.formats == [EverythingFormat::Json];
    let target = Target::new(args.output.as_deref(), is_json_alone)?;

    stages.start("load");
    let model = model::load(&args.model, PromptKind::Everything)?;
    demo::hint(model.name(), &image, quiet)?;
    stages.start("generate");
    let mut say = |Progress { done, total }| stages.say(format!("{done} of {total} points"));
    let mut run = Run {
        progress: Some(&mut say),
        ..Run::default()
    };
    let found = everything::generate(model.as_interactive()?, &image, &options, &mut run)?;
    let timings = stages.finish();

    if !quiet {
        eprintln!("{} masks", found.len());
    }
    let masks: candle_sam3::Result<Vec<Mask>> = found.iter().map(MaskRecord::mask).collect();
    let masks = masks?;
    let answer = PromptEntry {
        instances: found.iter().zip(&masks).map(entry).collect(),
        ..PromptEntry::default()
    };
    let mut document = results::document(
        &args.image,
        &image,
        model.name(),
        "everything",
        vec![answer],
    );
    timings.record(&mut document);

    let writer = target.writer(&args.image, quiet);
    if let Some(writer) = &writer {
        for format in &args.formats {
            match format {
                EverythingFormat::Folder => write_folder(writer, &found, &masks)?,
                EverythingFormat::Coco => {
                    let path = writer.path("_coco.json");
                    output::write_file(&path, &records::coco_json(&found)?)?;
                    writer.say(&path);
                }
                EverythingFormat::Overlay | EverythingFormat::Masks | EverythingFormat::Json => {}
            }
        }
    }
    let instances: Vec<LabeledInstance> = found.iter().zip(&masks).map(labelled).collect();
    let overlay = OverlayOptions {
        labels: false,
        ..OverlayOptions::default()
    };
    let formats: Vec<Format> = args.formats.iter().filter_map(shared).collect();
    results::write(writer, &formats, &image, &instances, &document, &overlay)
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

/// The formats that other commands write too.
fn shared(format: &EverythingFormat) -> Option<Format> {
    match format {
        EverythingFormat::Overlay => Some(Format::Overlay),
        EverythingFormat::Masks => Some(Format::Masks),
        EverythingFormat::Json => Some(Format::Json),
        EverythingFormat::Folder | EverythingFormat::Coco => None,
    }
}

/// The original's folder: one PNG for each mask and a table of them.
fn write_folder(writer: &Writer, found: &[MaskRecord], masks: &[Mask]) -> Result<()> {
    let folder = writer.path("");
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("cannot create {}", folder.display()))?;
    for (id, mask) in masks.iter().enumerate() {
        output::write_file(folder.join(format!("{id}.png")), &masks::mask_png(mask)?)?;
    }
    let table = records::metadata_csv(found);
    output::write_file(folder.join(records::METADATA_FILE), table.as_bytes())?;
    writer.say(&folder);
    Ok(())
}

fn entry((record, mask): (&MaskRecord, &Mask)) -> InstanceEntry {
    InstanceEntry {
        stability: Some(record.stability_score),
        ..InstanceEntry::new(mask, bbox(mask), record.predicted_iou)
    }
}

fn labelled<'a>((record, mask): (&'a MaskRecord, &'a Mask)) -> LabeledInstance<'a> {
    LabeledInstance {
        label: "object",
        mask,
        bbox: bbox(mask),
        score: record.predicted_iou,
    }
}

/// The box around the mask, edge to edge; all zeros for an empty one.
fn bbox(mask: &Mask) -> BoxXyxy {
    mask.bbox().unwrap_or(BoxXyxy::from([0.0; 4]))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};

    #[test]
    fn the_flags_have_the_originals_defaults() {
        let cli = Cli::try_parse_from(["sam3", "everything", "a.jpg"]).unwrap();
        let Command::Everything(args) = cli.command else {
            unreachable!("everything was asked for");
        };
        assert_eq!(options(&args.generator), Options::default());
    }
}
