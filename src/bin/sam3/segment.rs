//! `sam3 segment`: texts and exemplar boxes, or clicks -> objects.

use std::path::PathBuf;

use anyhow::{Result, bail};
use candle_sam3::models::variant::PromptKind;
use candle_sam3::output::Kind;
use candle_sam3::output::answer::Answer;
use candle_sam3::predict::concept::{self, Concept, EncodedPrompt, Exemplar, Options, Prompt};
use candle_sam3::predict::tiled::{self, Tiles};
use candle_sam3::{BoxXyxy, Image, Model, Run};
use clap::Args;

use crate::concept as concept_files;
use crate::interactive::{self, ClickArgs};
use crate::model::ModelArgs;
use crate::picture::PictureArgs;
use crate::prompts::{self, parse_box, parse_fraction};
use crate::results::OutputArgs;
use crate::run::{self, Answered, Task};
use crate::stages::Stages;
use crate::tiles::TileArgs;

#[derive(Args)]
pub struct SegmentArgs {
    #[command(flatten)]
    pub picture: PictureArgs,

    #[command(flatten)]
    concepts: ConceptArgs,

    #[command(flatten)]
    tiles: TileArgs,

    #[command(flatten)]
    clicks: Option<ClickArgs>,

    #[command(flatten)]
    pub model: ModelArgs,

    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Args)]
#[group(id = "concepts", multiple = true, conflicts_with = "clicks")]
struct ConceptArgs {
    /// What to look for; a comma separates prompts (`\,` is a comma), and the flag may be repeated
    #[arg(short, long = "text", value_name = "TEXT", help_heading = "Prompts")]
    texts: Vec<String>,

    /// Box around an object that is meant, in pixels; joins every text
    #[arg(
        long = "exemplar",
        value_name = "X0,Y0,X1,Y1",
        value_parser = parse_box,
        allow_hyphen_values = true,
        help_heading = "Prompts"
    )]
    exemplars: Vec<BoxXyxy>,

    /// Box around an object that is not meant
    #[arg(
        long = "not-exemplar",
        value_name = "X0,Y0,X1,Y1",
        value_parser = parse_box,
        allow_hyphen_values = true,
        help_heading = "Prompts"
    )]
    not_exemplars: Vec<BoxXyxy>,

    /// File of `sam3 concept save`: look for what its exemplars show, under the name of the concept
    #[arg(
        long = "concept",
        value_name = "FILE",
        conflicts_with_all = ["exemplars", "not_exemplars"],
        help_heading = "Prompts"
    )]
    files: Vec<PathBuf>,

    /// Keep objects that score higher than this
    #[arg(
        long,
        default_value_t = 0.5,
        value_name = "0..1",
        value_parser = parse_fraction,
        allow_hyphen_values = true,
        help_heading = "Selection"
    )]
    threshold: f32,

    /// Drop an object whose mask overlaps a better one's by more than this IoU
    #[arg(
        long,
        value_name = "IOU",
        value_parser = parse_fraction,
        allow_hyphen_values = true,
        help_heading = "Selection"
    )]
    nms: Option<f32>,

    /// Let --nms also compare objects of different prompts
    #[arg(long, requires = "nms", help_heading = "Selection")]
    nms_across: bool,

    /// Keep at most this many objects per prompt, the best ones
    #[arg(long = "max", value_name = "N", help_heading = "Selection")]
    max_instances: Option<usize>,
}

pub fn run(args: SegmentArgs) -> Result<()> {
    let tiles = args.tiles.tiles()?;
    if let Some(clicks) = &args.clicks {
        if tiles.is_some() {
            bail!("--tile is for texts and exemplars; points and boxes are exact at any size");
        }
        return interactive::run(clicks, &args.picture, &args.model, &args.output);
    }
    let task = Concepts {
        prompts: args.concepts.prompts(),
        options: args.concepts.options(),
        concepts: concept_files::load(&args.concepts.files)?,
        tiles,
    };
    run::run(&task, &args.picture, None, &args.model, &args.output)
}

/// Texts and exemplars -> every object that is meant.
struct Concepts {
    prompts: Vec<Prompt>,
    /// Of files; they come after the prompts.
    concepts: Vec<Concept>,
    options: Options,
    tiles: Option<Tiles>,
}

impl Task for Concepts {
    const KIND: Kind = Kind::Text;
    const PROMPTS: PromptKind = PromptKind::Text;

    fn check(&self, image: &Image) -> Result<()> {
        concept::validate(&self.prompts, &self.options, image.size())?;
        let exemplars = self.prompts.iter().take(1).flat_map(|p| &p.exemplars);
        let boxes: Vec<BoxXyxy> = exemplars.map(|exemplar| exemplar.bbox).collect();
        prompts::hint_at_fractions(image, &boxes, &[]);
        Ok(())
    }

    fn answer(
        &self,
        model: &Model,
        image: &Image,
        stages: &mut Stages,
        run: &mut Run,
    ) -> Result<Answered> {
        let model = model.as_concept()?;
        let encode = |run: &mut Run| -> Result<Vec<EncodedPrompt>> {
            let mut encoded = concept::encode(model, &self.prompts, run)?;
            for concept in &self.concepts {
                encoded.push(concept.encode(model, run)?);
            }
            Ok(encoded)
        };
        let found = match &self.tiles {
            Some(tiles) => {
                stages.start("encode_text");
                let encoded = encode(run)?;
                stages.start("tiles");
                tiled::predict(model, image, &encoded, tiles, &self.options, run)?
            }
            None => {
                stages.start("encode_image");
                let embedding = model.encode_image(image, run)?;
                stages.start("encode_text");
                let encoded = encode(run)?;
                stages.start("detect");
                concept::predict(model, &embedding, &encoded, &self.options, run)?
            }
        };
        let concepts = self.concepts.iter();
        let mut prompts = self.prompts.clone();
        prompts.extend(concepts.map(|concept| Prompt::text(concept.name())));
        Ok(Answered {
            answers: prompts.iter().zip(found).map(Answer::from).collect(),
            logits: None,
        })
    }
}

impl ConceptArgs {
    /// Every text, or the exemplars alone; the exemplars join every text. None where concepts are looked
    /// for and nothing else.
    fn prompts(&self) -> Vec<Prompt> {
        let exemplar = |positive| move |&bbox: &BoxXyxy| Exemplar { bbox, positive };
        let positive = self.exemplars.iter().map(exemplar(true));
        let negative = self.not_exemplars.iter().map(exemplar(false));
        let exemplars: Vec<Exemplar> = positive.chain(negative).collect();
        if self.texts.is_empty() {
            return match self.files.is_empty() {
                true => vec![Prompt::exemplars(exemplars)],
                false => vec![],
            };
        }
        let prompt = |text| Prompt {
            exemplars: exemplars.clone(),
            ..Prompt::text(text)
        };
        let texts = self.texts.iter();
        let texts = texts.flat_map(|text| prompts::split_texts(text));
        texts.map(prompt).collect()
    }

    fn options(&self) -> Options {
        Options {
            threshold: self.threshold,
            max_instances: self.max_instances,
            nms: self.nms,
            nms_across_prompts: self.nms_across,
            ..Options::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use crate::cli::Cli;

    #[test]
    fn clicks_and_texts_do_not_mix() {
        let parse = |line: &str| Cli::try_parse_from(line.split(' ')).map(drop);
        assert!(parse("sam3 segment a.jpg --point 3,4 --box 1,2,3,4 --multimask").is_ok());
        assert!(parse("sam3 segment a.jpg --text dog --threshold 0.3 --exemplar 1,2,3,4").is_ok());
        for line in [
            "sam3 segment a.jpg --point 3,4 --text dog",
            "sam3 segment a.jpg --box 1,2,3,4 --threshold 0.3",
            "sam3 segment a.jpg --mask a.safetensors --exemplar 1,2,3,4",
        ] {
            let error = parse(line).unwrap_err().to_string();
            assert!(error.contains("cannot be used with"), "{line}: {error}");
        }
    }
}
