//! Where results go, and which.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use candle_sam3::output::{
    self, Files, Format, FormatOptions, ImageResults, Kind, OverlayOptions, Place,
};
use clap::Args;

use crate::model::ModelArgs;
use crate::progress;

#[derive(Args)]
#[command(next_help_heading = "Output")]
pub struct OutputArgs {
    /// Folder for the results (default: the current one); - prints one document
    #[arg(short, long, value_name = "DIR|-")]
    pub output: Option<PathBuf>,

    /// Any of overlay (default), masks, cutout, json, csv, coco (a dataset), amg and amg-json (the
    /// original mask generator's); json alone goes to stdout unless -o names a folder
    #[arg(long = "format", value_delimiter = ',', value_name = "LIST")]
    pub formats: Vec<Format>,

    /// Also write the tensors of every stage to this safetensors file
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,

    /// Draw no labels
    #[arg(long)]
    pub no_labels: bool,

    /// Leave cut-outs at the size of the image instead of cropping them
    #[arg(long)]
    pub full_size: bool,
}

/// Where the results of one image go.
pub struct Target {
    /// `None` for stdout.
    place: Option<Place>,
    formats: Vec<Format>,
    options: FormatOptions,
    image: PathBuf,
    trace: Option<PathBuf>,
}

impl Target {
    /// Decides by the flags alone. JSON alone goes to stdout unless a folder is named, and is what
    /// `-o -` prints unless another document is asked for.
    pub fn new(args: &OutputArgs, image: &Path, kind: Kind) -> Result<Self> {
        let folder = args.output.as_deref();
        let is_dash = folder.is_some_and(|path| path.as_os_str() == "-");
        let formats = match args.formats[..] {
            [] if is_dash => vec![Format::Json],
            [] => vec![Format::Overlay],
            _ => unique(&args.formats),
        };
        for format in &formats {
            format.check(kind)?;
        }
        if args.no_labels && !formats.contains(&Format::Overlay) {
            bail!("--no-labels is about the overlay, which --format does not name");
        }
        if args.full_size && !formats.contains(&Format::Cutout) {
            bail!("--full-size is about cut-outs; add --format cutout");
        }
        let to_stdout = is_dash || folder.is_none() && formats == [Format::Json];
        if to_stdout && !(formats.len() == 1 && formats[0].is_text()) {
            bail!("-o - prints one document; choose one of json, csv, coco and amg-json");
        }
        let place = match to_stdout {
            true => None,
            false => Some(Place::new(folder.unwrap_or(Path::new(".")), image)?),
        };
        let options = FormatOptions {
            overlay: OverlayOptions {
                // Of everything, labels would all be the same.
                labels: !args.no_labels && kind != Kind::Everything,
                ..OverlayOptions::default()
            },
            full_size: args.full_size,
        };
        Ok(Self {
            place,
            formats,
            options,
            image: image.to_path_buf(),
            trace: args.trace.clone(),
        })
    }

    /// Finds out whether everything can be written, the trace and the file of logits included, before
    /// any weights are read.
    pub fn check(&self, logits: Option<&Path>, model: &ModelArgs) -> Result<()> {
        let mut taken: Vec<PathBuf> = vec![];
        if let Some(place) = &self.place {
            place.check(&self.formats)?;
            taken.extend(self.formats.iter().map(|format| place.path(*format)));
        }
        let inputs = [&self.image, &model.model];
        let inputs: Vec<&PathBuf> = inputs.into_iter().chain(&model.geometry).collect();
        for file in self.trace.as_deref().into_iter().chain(logits) {
            if inputs.iter().any(|input| is_same(input, file)) {
                bail!(
                    "{} is read by this command; name another file",
                    file.display()
                );
            }
            if taken.iter().any(|path| is_same(path, file)) {
                bail!(
                    "{} would be written twice; name another file",
                    file.display()
                );
            }
            output::check_file(file)?;
            taken.push(file.to_path_buf());
        }
        Ok(())
    }

    /// Whether an overlay with labels is among the formats.
    pub fn shows_labels(&self) -> bool {
        self.place.is_some()
            && self.options.overlay.labels
            && self.formats.contains(&Format::Overlay)
    }

    /// What results are marked with.
    pub fn source(&self) -> Option<&str> {
        self.place.as_ref().map(Place::source)
    }

    /// Writes every format and file. What fails does not keep the others from being written.
    pub fn write(&self, results: &ImageResults, files: &[(&Path, Vec<u8>)]) -> Result<()> {
        let files = files.iter();
        let files = files.map(|(path, bytes)| Ok(output::write_file(path, bytes)?));
        let formats = self.formats.iter();
        let formats = formats.map(|format| self.write_format(*format, results));
        let failed = files.chain(formats).filter_map(Result::err);
        let failed: Vec<String> = failed.map(|error| format!("{error:#}")).collect();
        match failed.is_empty() {
            true => Ok(()),
            false => bail!("{}", failed.join("; ")),
        }
    }

    fn write_format(&self, format: Format, results: &ImageResults) -> Result<()> {
        let encoded = format.encode(results, &self.options)?;
        match (&self.place, &encoded) {
            (Some(place), _) => {
                let path = place.write(format, &encoded)?;
                progress::say(&format!("wrote {}", path.display()));
                Ok(())
            }
            (None, Files::One(text)) => {
                progress::print(text)?;
                progress::print("\n")
            }
            (None, Files::Folder(_)) => bail!("{format} is a folder; name one with -o"),
        }
    }
}

/// Each value once, where it first comes.
pub fn unique<T: Copy + PartialEq>(values: &[T]) -> Vec<T> {
    let is_first = |(i, value): &(usize, &T)| !values[..*i].contains(value);
    let first = values.iter().enumerate().filter(is_first);
    first.map(|(_, value)| *value).collect()
}

/// Whether two paths lead to the same place, which need not exist yet.
fn is_same(a: &Path, b: &Path) -> bool {
    let full = |path: &Path| -> PathBuf {
        let folder = match path.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        let folder = fs::canonicalize(folder).unwrap_or_else(|_| folder.to_path_buf());
        let path = folder.join(path.file_name().unwrap_or_default());
        fs::canonicalize(&path).unwrap_or(path)
    };
    full(a) == full(b)
}
