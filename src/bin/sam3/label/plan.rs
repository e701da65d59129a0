//! From the flags to what is looked for and written.

use std::path::Path;

use anyhow::{Context, Result, bail};
use candle_sam3::Checkpoint;
use candle_sam3::mask::polygon::Simplify;
use candle_sam3::output::dataset::Layout;
use candle_sam3::output::dataset::journal::Shard;
use candle_sam3::predict::concept::Concept;
use candle_sam3::predict::dataset::{Class, Options};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::{LabelArgs, classes};
use crate::everything;
use crate::results::unique;

/// The classes; `None` for everything without any.
pub fn options(args: &LabelArgs, concepts: &[Concept]) -> Result<Option<Options>> {
    for (flag, value, most) in [
        ("--split", args.files.split, 1.0),
        ("--simplify", args.files.simplify, 1000.0),
        ("--polygon-iou", args.files.polygon_iou, 1.0),
    ] {
        if !(0.0..=most).contains(&value) {
            bail!("{flag} {value}: must be from 0 to {most}");
        }
    }
    let tiles = args.tiles.tiles()?;
    let classes: Vec<Class> = match (&args.text, &args.classes) {
        (Some(text), _) => classes::parse("--text", text, args.keep.threshold)?,
        (None, Some(path)) => classes::read(path)?,
        (None, None) if !concepts.is_empty() => {
            let class = |concept: &Concept| Class {
                threshold: args.keep.threshold,
                ..Class::new(concept.name())
            };
            concepts.iter().map(class).collect()
        }
        (None, None) if tiles.is_some() => {
            bail!("--tile is for texts; --everything has --crop-n-layers")
        }
        (None, None) => match &args.classify {
            Some(line) => classes::parse("--classify", line, args.keep.threshold)?,
            None => return Ok(None),
        },
    };
    let options = Options {
        nms: args.keep.nms,
        nms_across: args.keep.nms_across,
        tiles,
        ..Options::new(classes)
    };
    options.validate()?;
    Ok(Some(options))
}

pub fn layout(args: &LabelArgs, options: Option<&Options>) -> Result<Layout> {
    let classes = match options {
        Some(options) => options.classes.iter().map(|c| c.name.clone()).collect(),
        None => vec!["object".to_string()],
    };
    let shard = args.run.shard.unwrap_or(Shard::WHOLE);
    let name = format!("part-{}-of-{}.tmp", shard.index, shard.count);
    let layout = Layout {
        temporary: args.output.join(".sam3").join(name),
        simplify: Simplify {
            tolerance: args.files.simplify,
            min_iou: args.files.polygon_iou,
        },
        train_share: args.files.split,
        link: args.files.link,
        labelme: args.files.labelme_shape,
        url_prefix: args.files.url_prefix.clone(),
        keep_extension: args.files.keep_extension,
        ..Layout::new(&args.output, unique(&args.format), classes)
    };
    layout.validate()?;
    Ok(layout)
}

/// Everything besides the model that decides what is found.
pub fn settings(
    args: &LabelArgs,
    options: Option<&Options>,
    clip: Option<&Path>,
) -> Result<Map<String, Value>> {
    let mut settings = Map::new();
    let mut set = |key: &str, value: Value| settings.insert(key.to_string(), value);
    if let Some(options) = options {
        set("classes", json!(options));
    }
    if !args.concepts.is_empty() {
        let digests = args.concepts.iter().map(|path| {
            let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
            Ok(format!("{:x}", Sha256::digest(bytes)))
        });
        set("concepts", json!(digests.collect::<Result<Vec<String>>>()?));
    }
    if args.everything {
        let generator = everything::options(&args.generator);
        set("everything", json!(format!("{generator:?}")));
    }
    if let Some(path) = clip {
        set("clip", json!(Checkpoint::open(path)?.fingerprint()));
    }
    set("min_area", json!(args.keep.min_area));
    set("stretch", json!(args.decoding.options().stretch));
    set("context_length", json!(args.model.context_length));
    set("dtype", json!(format!("{:?}", args.model.dtype)));
    set("precision", json!(args.model.precision.to_string()));
    set("weights", json!(args.model.weights.to_string()));
    Ok(settings)
}
