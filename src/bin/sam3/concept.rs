//! `sam3 concept save`: what exemplars show -> a file, to look for in other pictures.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use candle_sam3::models::variant::PromptKind;
use candle_sam3::predict::concept::{Concept, Exemplar};
use candle_sam3::{BoxXyxy, Image, Run};
use clap::{Args, Subcommand};

use crate::model::{self, ModelArgs};
use crate::picture::DecodeArgs;
use crate::progress;
use crate::prompts::{hint_at_fractions, parse_box};
use crate::summary::plural;

#[derive(Args)]
pub struct ConceptArgs {
    #[command(subcommand)]
    pub action: Action,
}

#[derive(Subcommand)]
pub enum Action {
    /// Write what exemplars show to a file that `segment --concept` and `label --concept` take
    ///
    /// The file is for the weights that it was made with. Models are trained with exemplars of the same
    /// picture, so try it on a few first. With the built-in model one exemplar, with words or without, finds
    /// in other pictures what words find; three with words find less than half of it.
    ///
    /// Examples:
    ///   sam3 concept save --exemplar shelf.jpg:40,60,120,180 -m sam3.pt -o bolt.safetensors
    ///   sam3 concept save --exemplar shelf.jpg:40,60,120,180 --text bolt -m sam3.pt -o bolt.safetensors
    #[command(verbatim_doc_comment)]
    Save(Box<SaveArgs>),
}

#[derive(Args)]
pub struct SaveArgs {
    /// Picture and box around an object that is meant, in pixels; may be repeated
    #[arg(
        long = "exemplar",
        required = true,
        value_name = "PICTURE:X0,Y0,X1,Y1",
        value_parser = shown,
        help_heading = "Prompts"
    )]
    exemplars: Vec<Shown>,

    /// Picture and box around an object that is not meant
    #[arg(
        long = "not-exemplar",
        value_name = "PICTURE:X0,Y0,X1,Y1",
        value_parser = shown,
        help_heading = "Prompts"
    )]
    not_exemplars: Vec<Shown>,

    /// Words for it, which the model reads beside the exemplars
    #[arg(short, long, value_name = "TEXT", help_heading = "Prompts")]
    text: Option<String>,

    /// What results call it [default: the file's name]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,

    /// File to write, NAME.safetensors
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,

    #[command(flatten)]
    decoding: DecodeArgs,

    #[command(flatten)]
    pub model: ModelArgs,
}

/// A box in a picture.
#[derive(Clone)]
struct Shown {
    picture: PathBuf,
    bbox: BoxXyxy,
}

/// Reads `PICTURE:X0,Y0,X1,Y1`; the picture's name may have colons, too.
fn shown(text: &str) -> Result<Shown, String> {
    match text.rsplit_once(':') {
        Some((picture, bbox)) if !picture.is_empty() => Ok(Shown {
            picture: picture.into(),
            bbox: parse_box(bbox)?,
        }),
        _ => Err("give a picture and a box in pixels: photo.jpg:x0,y0,x1,y1".into()),
    }
}

pub fn run(args: ConceptArgs) -> Result<()> {
    match args.action {
        Action::Save(args) => save(&args),
    }
}

fn save(args: &SaveArgs) -> Result<()> {
    let name = match (&args.name, args.output.file_stem()) {
        (Some(name), _) => name.clone(),
        (None, Some(stem)) => stem.to_string_lossy().into_owned(),
        (None, None) => bail!("-o {} is no file", args.output.display()),
    };
    let pictures = pictures(args)?;
    let model = model::load(&args.model, PromptKind::Exemplars)?;
    let model = model.as_concept()?;
    let run = &mut Run::default();
    let concept = Concept::new(model, &name, args.text.as_deref(), &pictures, run)?;
    concept.save(&args.output)?;
    progress::say(&format!(
        "{}: {name}, {} of {}",
        args.output.display(),
        plural(concept.exemplars(), "exemplar"),
        plural(pictures.len(), "picture")
    ));
    Ok(())
}

/// Every picture once, in the order of the line, with its exemplars.
fn pictures(args: &SaveArgs) -> Result<Vec<(Image, Vec<Exemplar>)>> {
    let positive = args.exemplars.iter().map(|shown| (shown, true));
    let negative = args.not_exemplars.iter().map(|shown| (shown, false));
    let mut pictures: Vec<(&Path, Vec<Exemplar>)> = Vec::new();
    for (Shown { picture, bbox }, positive) in positive.chain(negative) {
        let exemplar = Exemplar {
            bbox: *bbox,
            positive,
        };
        match pictures.iter_mut().find(|(path, _)| path == picture) {
            Some((_, exemplars)) => exemplars.push(exemplar),
            None => pictures.push((picture, vec![exemplar])),
        }
    }
    let options = args.decoding.options();
    let opened = pictures.into_iter().map(|(path, exemplars)| {
        let decoded = Image::open_with(path, &options);
        let image = decoded.with_context(|| path.display().to_string())?.image;
        let boxes: Vec<BoxXyxy> = exemplars.iter().map(|exemplar| exemplar.bbox).collect();
        hint_at_fractions(&image, &boxes, &[]);
        Ok((image, exemplars))
    });
    opened.collect()
}

/// Reads concept files, each under a name of its own.
pub fn load(paths: &[PathBuf]) -> Result<Vec<Concept>> {
    let mut concepts: Vec<Concept> = Vec::with_capacity(paths.len());
    for path in paths {
        let concept = Concept::load(path)?;
        if concepts.iter().any(|other| other.name() == concept.name()) {
            bail!(
                "two concepts are called {:?}; `sam3 concept save --name` gives another name",
                concept.name()
            );
        }
        concepts.push(concept);
    }
    Ok(concepts)
}

#[cfg(test)]
mod tests {
    use super::shown;

    #[test]
    fn a_box_comes_after_the_last_colon() {
        let bolt = shown("C:\\a:b.jpg:1,2,3,4").ok().unwrap();
        assert_eq!(bolt.picture.to_str(), Some("C:\\a:b.jpg"));
        assert_eq!(<[f32; 4]>::from(bolt.bbox), [1., 2., 3., 4.]);
        for wrong in ["a.jpg", ":1,2,3,4", "a.jpg:1,2,3", "1,2,3,4"] {
            assert!(shown(wrong).is_err(), "{wrong}");
        }
    }
}
