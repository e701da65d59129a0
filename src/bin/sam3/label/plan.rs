//! From the flags to what is looked for and written.

use std::path::Path;

use anyhow::{Context, Result, bail};
use candle_sam3::mask::polygon::Simplify;
use candle_sam3::output::dataset::journal::Shard;
use candle_sam3::output::dataset::{LabelMeShapes, Layout, Link};
use candle_sam3::predict::dataset::{Class, Options};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::{LabelArgs, LinkArg, ShapeArg, classes};
use crate::everything;

/// The classes; `None` for everything.
pub fn options(args: &LabelArgs) -> Result<Option<Options>> {
    if !(0.0..=1.0).contains(&args.files.split) {
        bail!("--split {}: must be from 0 to 1", args.files.split);
    }
    if !(0.0..=1000.0).contains(&args.files.simplify) {
        bail!("--simplify {}: must be from 0 to 1000", args.files.simplify);
    }
    if !(0.0..=1.0).contains(&args.files.polygon_iou) {
        bail!(
            "--polygon-iou {}: must be from 0 to 1",
            args.files.polygon_iou
        );
    }
    let tiles = args.tiles.tiles()?;
    let classes: Vec<Class> = match (&args.text, &args.classes) {
        (Some(text), _) => classes::parse(text, args.keep.threshold)?,
        (None, Some(path)) => classes::read(path)?,
        (None, None) if tiles.is_some() => {
            bail!("--tile is for texts; --everything has --crop-n-layers")
        }
        (None, None) => return Ok(None),
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
        Some(options) => options
            .classes
            .iter()
            .map(|class| class.name.clone())
            .collect(),
        None => vec!["object".to_string()],
    };
    let mut formats = Vec::new();
    for &format in &args.format {
        if !formats.contains(&format) {
            formats.push(format);
        }
    }
    let shard = args.run.shard.unwrap_or(Shard::WHOLE);
    let name = format!("part-{}-of-{}.tmp", shard.index, shard.count);
    let layout = Layout {
        temporary: args.output.join(".sam3").join(name),
        simplify: Simplify {
            tolerance: args.files.simplify,
            min_iou: args.files.polygon_iou,
        },
        train_share: args.files.split,
        link: match args.files.link {
            LinkArg::Hard => Link::Hard,
            LinkArg::Copy => Link::Copy,
            LinkArg::Symbolic => Link::Symbolic,
        },
        labelme: match args.files.labelme_shape {
            ShapeArg::Polygon => LabelMeShapes::Polygon,
            ShapeArg::Mask => LabelMeShapes::Mask,
        },
        url_prefix: args.files.url_prefix.clone(),
        keep_extension: args.files.keep_extension,
        ..Layout::new(&args.output, formats, classes)
    };
    layout.validate()?;
    Ok(layout)
}

/// Everything besides the model that decides what is found.
pub fn settings(args: &LabelArgs, options: Option<&Options>) -> Map<String, Value> {
    let mut settings = Map::new();
    let mut set = |key: &str, value: Value| settings.insert(key.to_string(), value);
    match options {
        Some(options) => set("classes", json!(options)),
        None => set(
            "everything",
            json!(format!("{:?}", everything::options(&args.generator))),
        ),
    };
    set("min_area", json!(args.keep.min_area));
    set("stretch", json!(args.decoding.options().stretch));
    set("context_length", json!(args.model.context_length));
    set(
        "dtype",
        json!(format!("{:?}", candle_sam3::DType::from(args.model.dtype))),
    );
    set("precision", json!(args.model.precision.to_string()));
    set("weights", json!(args.model.weights.to_string()));
    settings
}

/// What tells the files of a model from others: their sizes and the SHA-256 of samples of them, since
/// reading all of a large one takes longer than loading it.
pub fn fingerprint(files: &[&Path]) -> Result<String> {
    use std::io::{Read, Seek, SeekFrom};
    const SAMPLES: u64 = 64;
    const BYTES: u64 = 1 << 16;
    let mut digest = Sha256::new();
    for path in files.iter().filter(|path| path.is_file()) {
        let mut file = std::fs::File::open(path).with_context(|| path.display().to_string())?;
        let size = file.metadata()?.len();
        digest.update(size.to_le_bytes());
        for sample in 0..SAMPLES {
            let mut bytes = Vec::new();
            file.seek(SeekFrom::Start(size / SAMPLES * sample))?;
            file.by_ref().take(BYTES).read_to_end(&mut bytes)?;
            digest.update(&bytes);
        }
    }
    let digest = digest.finalize();
    Ok(digest
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_told_apart_by_any_sampled_byte() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model");
        let mut bytes = vec![7u8; 100_000];
        std::fs::write(&path, &bytes).unwrap();
        let first = fingerprint(&[&path]).unwrap();
        assert_eq!(first.len(), 16);
        bytes[99_999] = 8;
        std::fs::write(&path, &bytes).unwrap();
        assert_ne!(fingerprint(&[&path]).unwrap(), first);
    }
}
