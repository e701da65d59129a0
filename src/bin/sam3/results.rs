//! Where results go, and the files that every command writes.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use candle_sam3::image::Image;
use candle_sam3::output::json::{Document, ImageEntry, PromptEntry};
use candle_sam3::output::{self, Format, LabeledInstance, OverlayOptions, masks};

/// The document of one image, timings still to be recorded.
pub fn document(
    path: &Path,
    image: &Image,
    model: &str,
    kind: &str,
    prompts: Vec<PromptEntry>,
) -> Document {
    Document {
        image: ImageEntry {
            path: path.display().to_string(),
            width: image.width(),
            height: image.height(),
        },
        model: model.into(),
        kind: kind.into(),
        prompts,
        timings_ms: Default::default(),
    }
}

/// Where results go.
pub enum Target {
    Stdout,
    Folder(PathBuf),
}

impl Target {
    /// Decides, and makes sure that the folder is there, before any long work. JSON alone goes to
    /// stdout unless a folder is named.
    pub fn new(output: Option<&Path>, is_json_alone: bool) -> Result<Self> {
        let folder = match output {
            Some(path) if path.as_os_str() == "-" => return Ok(Self::Stdout),
            None if is_json_alone => return Ok(Self::Stdout),
            None => Path::new("."),
            Some(path) => path,
        };
        if folder.is_file() {
            bail!("{} is a file; -o names a folder", folder.display());
        }
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        Ok(Self::Folder(folder.to_path_buf()))
    }

    /// A writer of files named after the image; `None` for stdout.
    pub fn writer<'a>(&'a self, image_path: &'a Path, quiet: bool) -> Option<Writer<'a>> {
        match self {
            Self::Stdout => None,
            Self::Folder(folder) => Some(Writer {
                folder,
                image_path,
                quiet,
            }),
        }
    }
}

pub fn is_json_alone(formats: &[Format]) -> bool {
    formats == [Format::Json]
}

/// Writes the formats, or one document to stdout where there is no writer.
pub fn write(
    writer: Option<Writer>,
    formats: &[Format],
    image: &Image,
    instances: &[LabeledInstance],
    document: &Document,
    overlay: &OverlayOptions,
) -> Result<()> {
    let Some(writer) = writer else {
        let text = serde_json::to_string(document)?;
        return writeln!(std::io::stdout(), "{text}").context("cannot write to stdout");
    };
    for format in formats {
        match format {
            Format::Overlay => writer.overlay(image, instances, overlay)?,
            Format::Masks => writer.masks(image, instances)?,
            Format::Json => writer.json(document)?,
            other => bail!("this command does not write the format {other}"),
        }
    }
    Ok(())
}

/// Writes files named after the image.
pub struct Writer<'a> {
    folder: &'a Path,
    image_path: &'a Path,
    quiet: bool,
}

impl Writer<'_> {
    /// A path in the folder: the image's name without its extension, then `ending`.
    pub fn path(&self, ending: &str) -> PathBuf {
        let stem = self
            .image_path
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy();
        self.folder.join(format!("{stem}{ending}"))
    }

    fn overlay(
        &self,
        image: &Image,
        instances: &[LabeledInstance],
        options: &OverlayOptions,
    ) -> Result<()> {
        let drawn = output::overlay(image, instances, options);
        let path = self.path("_overlay.png");
        output::write_file(&path, &output::encode_png(&drawn)?)?;
        self.say(&path);
        Ok(())
    }

    fn masks(&self, image: &Image, instances: &[LabeledInstance]) -> Result<()> {
        let folder = self.path("_masks");
        std::fs::create_dir_all(&folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        for (index, instance) in instances.iter().enumerate() {
            let path = folder.join(masks::mask_file_name(index, instance));
            output::write_file(path, &masks::mask_png(instance.mask)?)?;
        }
        let map = masks::label_map_png(image.width(), image.height(), instances)?;
        output::write_file(folder.join("label_map.png"), &map)?;
        self.say(&folder);
        Ok(())
    }

    fn json(&self, document: &Document) -> Result<()> {
        let path = self.path(".json");
        output::write_file(&path, &serde_json::to_vec(document)?)?;
        self.say(&path);
        Ok(())
    }

    pub fn say(&self, path: &Path) {
        if !self.quiet {
            eprintln!("wrote {}", path.display());
        }
    }
}
