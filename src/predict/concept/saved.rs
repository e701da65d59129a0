//! Concepts in files: what exemplars show, to look for in other images.
//!
//! What is kept are the tokens of the exemplars as the geometry encoder made them: of each box where in
//! its image it lies, what the image shows there, and what the token has then seen of the rest of its
//! image. The words beside them are kept as words. Only the model that made tokens understands them.
//!
//! Models are trained with exemplars of the same image. On the demo model the token of one exemplar finds in
//! other images what words find; more tokens, and more so with words, find less (`tools/demo/concepts.py`).
//!
//! Easy to get wrong: the geometry encoder adds one token that stands for all boxes of an image, and models
//! know prompts with one of these only. With those of three images in a prompt the demo model finds a
//! third of what it finds without them; so none is kept, and the image that is searched adds its own, as
//! it does to a text.

use std::collections::HashMap;
use std::path::Path;

use candle::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};

use super::{
    EncodedPrompt, Exemplar, Prompt, Shown, encode_words, exemplar_tokens, validate_prompt,
    validate_words,
};
use crate::device::{download, upload};
use crate::image::Image;
use crate::models::sam3::Sam3;
use crate::predict::is_finite;
use crate::weights::Checkpoint;
use crate::write::write_file;
use crate::{Error, Result, Run};

/// The tensor with the tokens (n, d), f32.
const TOKENS: &str = "exemplars";

/// The key of the metadata that holds [`About`]; it also tells these files from others.
const KEY: &str = "candle-sam3.concept";

/// Of the file; a reader refuses others.
const FORMAT: u32 = 1;

/// Exemplars at most: each makes every image a little slower.
const MAX_EXEMPLARS: usize = 64;

/// Wider tokens than any model has.
const MAX_WIDTH: usize = 4096;

/// The longest name, in bytes.
const MAX_NAME: usize = 128;

/// What exemplars of one or several images show, under a name.
#[derive(Debug, Clone)]
pub struct Concept {
    about: About,
    tokens: Tensor, // (1, n, d), one for each exemplar, f32 on the CPU
}

/// The metadata of a file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct About {
    format: u32,
    name: String,
    text: Option<String>,
    /// How many boxes the tokens are of.
    exemplars: usize,
    /// What the model is called.
    model: String,
    /// [`Checkpoint::fingerprint`] of the model.
    weights: String,
}

impl Concept {
    /// Encodes exemplars, each in its image, for `text` beside them or alone.
    ///
    /// # Errors
    /// [`Error::InvalidPrompt`] for exemplars outside their image, none that is positive, more than 64,
    /// a text without words, and a name that is empty, long or holds control characters, all before any
    /// work; [`Error::Cancelled`].
    pub fn new(
        model: &Sam3,
        name: &str,
        text: Option<&str>,
        shown: &[(Image, Vec<Exemplar>)],
        run: &mut Run,
    ) -> Result<Self> {
        let exemplars = shown.iter().map(|(_, exemplars)| exemplars.len()).sum();
        let about = About {
            format: FORMAT,
            name: name.to_string(),
            text: text.map(str::to_string),
            exemplars,
            model: model.name().to_string(),
            weights: model.fingerprint().to_string(),
        };
        about.validate().map_err(Error::prompt)?;
        for (image, exemplars) in shown {
            validate_prompt(&Prompt::exemplars(exemplars.clone()), image.size())?;
        }
        let all = shown.iter().flat_map(|(_, exemplars)| exemplars);
        if !all.clone().any(|exemplar| exemplar.positive) {
            return Err(Error::prompt("a concept needs a positive exemplar"));
        }
        validate_words(&Prompt {
            exemplars: all.copied().collect(),
            ..about.prompt()
        })?;
        let mut tokens = Vec::with_capacity(shown.len());
        for (image, exemplars) in shown.iter().filter(|(_, exemplars)| !exemplars.is_empty()) {
            let image = model.encode_image(image, run)?;
            let of_image = run.stage("geometry", || exemplar_tokens(model, &image, exemplars))?;
            tokens.push(of_image.narrow(1, 0, exemplars.len())?); // the image's own comes last
            run.report(tokens.len(), shown.len());
        }
        let tokens = Tensor::cat(&tokens, 1)?.to_dtype(DType::F32)?;
        let shape = tokens.dims3()?;
        let tokens = Tensor::from_vec(download::<f32>(&tokens)?, shape, &Device::Cpu)?;
        match is_finite(&tokens)? {
            true => Ok(Self { about, tokens }),
            false => Err(Error::not_finite("the geometry encoder")),
        }
    }

    /// What results call it.
    pub fn name(&self) -> &str {
        &self.about.name
    }

    /// The words beside the exemplars.
    pub fn text(&self) -> Option<&str> {
        self.about.text.as_deref()
    }

    /// How many exemplars it has.
    pub fn exemplars(&self) -> usize {
        self.about.exemplars
    }

    /// The prompt to look for it in any image.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for another model than the one that it was made with;
    /// [`Error::Cancelled`].
    pub fn encode(&self, model: &Sam3, run: &mut Run) -> Result<EncodedPrompt> {
        self.check_model(model)?;
        let text = run.stage("text", || encode_words(model, self.text()))?;
        let shape = self.tokens.dims3()?;
        let tokens = upload(download::<f32>(&self.tokens)?, shape, model.device())?;
        Ok(EncodedPrompt {
            prompt: self.about.prompt(),
            text,
            exemplars: Some(Shown::Alone(tokens.to_dtype(model.dtype())?)),
        })
    }

    /// Writes it to a safetensors file, in one step; only an earlier concept is replaced.
    ///
    /// # Errors
    /// [`Error::NotFound`] when the folder is missing, [`Error::Io`] when something else is there or
    /// writing fails.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let about = serde_json::to_string(&self.about);
        let about = about.map_err(|error| Error::argument(error.to_string()))?;
        let tensors = [(TOKENS, self.tokens.squeeze(0)?.contiguous()?)];
        let metadata = HashMap::from([(KEY.to_string(), about)]);
        let bytes = safetensors::serialize(tensors, Some(metadata));
        write_file(path, &bytes.map_err(|error| Error::Tensor(error.into()))?)
    }

    /// Reads a file; [`Concept::encode`] says whether it is for a model.
    ///
    /// # Errors
    /// [`Error::NotFound`], and [`Error::Checkpoint`] for a file that is damaged, no concept, or of another
    /// format.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let problem = |problem: String| Error::checkpoint(path, problem);
        let file = Checkpoint::open(path)?;
        let Some(text) = file.metadata().get(KEY) else {
            return Err(problem(
                "is no concept; `sam3 concept save` writes one".to_string(),
            ));
        };
        let about: About = serde_json::from_str(text)
            .map_err(|error| problem(format!("its description cannot be read: {error}")))?;
        about.validate().map_err(problem)?;
        let tokens = match file.shape(TOKENS) {
            Some(&[n, d]) if n == about.exemplars && d <= MAX_WIDTH => {
                let vb = file.var_builder(DType::F32, &Device::Cpu);
                vb.get((n, d), TOKENS)?.unsqueeze(0)?
            }
            shape => {
                let count = about.exemplars;
                return Err(problem(format!(
                    "its tokens have the shape {shape:?}, which those of {count} exemplars have not"
                )));
            }
        };
        match is_finite(&tokens)? {
            true => Ok(Self { about, tokens }),
            false => Err(problem("it holds NaN or infinity".to_string())),
        }
    }

    fn check_model(&self, model: &Sam3) -> Result<()> {
        let (about, width) = (&self.about, self.tokens.dim(2)?);
        if about.weights == model.fingerprint() && width == model.config().d_model() {
            return Ok(());
        }
        Err(Error::Unsupported {
            what: format!(
                "the concept {:?}, made with {} and weights {}, on {} with weights {},",
                about.name,
                about.model,
                about.weights,
                model.name(),
                model.fingerprint()
            ),
            instead: "use the weights that it was made with, or make it anew with these".into(),
        })
    }
}

impl About {
    fn validate(&self) -> Result<(), String> {
        let (format, name, exemplars) = (self.format, &self.name, self.exemplars);
        if format != FORMAT {
            return Err(format!(
                "the concept has the format {format}; this version reads {FORMAT}"
            ));
        }
        if name.trim().is_empty() || name.len() > MAX_NAME || name.chars().any(char::is_control) {
            return Err(format!(
                "the name {name:?}; a concept has one of 1 to {MAX_NAME} bytes without control characters"
            ));
        }
        if !(1..=MAX_EXEMPLARS).contains(&exemplars) {
            return Err(format!(
                "{exemplars} exemplars; a concept has 1 to {MAX_EXEMPLARS}"
            ));
        }
        Ok(())
    }

    /// Without the exemplars, which lie in other images.
    fn prompt(&self) -> Prompt {
        Prompt {
            text: self.text.clone(),
            ..Prompt::default()
        }
    }
}

#[cfg(all(test, feature = "demo"))]
mod tests {
    use super::*;
    use crate::mask::BoxXyxy;
    use crate::models::LoadOptions;
    use crate::predict::concept::{self, Options};

    fn demo() -> Sam3 {
        let checkpoint = crate::weights::demo().unwrap();
        Sam3::load(&checkpoint, &LoadOptions::default()).unwrap()
    }

    /// A red square on grey at `x`, `y`, and a blue one beside it.
    fn picture(x: usize, y: usize) -> Image {
        let square = |u: usize, v: usize, x, y| u.abs_diff(x) < 28 && v.abs_diff(y) < 28;
        let pixels = (0..224 * 224).flat_map(|i| {
            let (u, v) = (i % 224, i / 224);
            match (square(u, v, x, y), square(u, v, 223 - x, 223 - y)) {
                (true, _) => [215, 35, 40],
                (_, true) => [40, 80, 220],
                _ => [200, 200, 196],
            }
        });
        Image::from_rgb8(224, 224, pixels.collect()).unwrap()
    }

    fn exemplar(x: f32, y: f32, positive: bool) -> Exemplar {
        let bbox = BoxXyxy::from([x - 28., y - 28., x + 28., y + 28.]);
        Exemplar { bbox, positive }
    }

    fn red(model: &Sam3) -> Concept {
        let shown = [(picture(60, 70), vec![exemplar(60., 70., true)])];
        Concept::new(model, "red", None, &shown, &mut Run::default()).unwrap()
    }

    #[test]
    fn a_concept_is_found_in_another_picture_before_and_after_it_was_a_file() {
        let model = demo();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("red.safetensors");
        let concept = red(&model);
        concept.save(&path).unwrap();
        concept.save(&path).unwrap(); // an earlier one is replaced
        let loaded = Concept::load(&path).unwrap();
        assert_eq!((loaded.name(), loaded.exemplars()), ("red", 1));
        let run = &mut Run::default();
        let image = model.encode_image(&picture(150, 90), run).unwrap();
        let prompts = [&concept, &loaded].map(|c| c.encode(&model, &mut Run::default()).unwrap());
        let found = concept::predict(&model, &image, &prompts, &Options::default(), run).unwrap();
        assert_eq!(found[0], found[1]);
        assert_eq!(found[0].instances.len(), 1);
        assert!(found[0].instances[0].mask.get(150, 90));
    }

    #[test]
    fn only_the_model_that_made_it_takes_a_concept() {
        let model = demo();
        let mut concept = red(&model);
        concept.about.weights = "0123456789abcdef".to_string();
        let error = concept.encode(&model, &mut Run::default()).unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }), "{error}");
        assert!(error.to_string().contains("0123456789abcdef"), "{error}");
    }

    #[test]
    fn files_that_are_no_concepts_are_refused() {
        let model = demo();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        let good = red(&model);
        type Spoil = fn(&mut Concept);
        let spoiled: [(Spoil, &str); 5] = [
            (|c| c.about.format = 2, "format 2"),
            (|c| c.about.name = "a\nb".into(), "control characters"),
            (|c| c.about.exemplars = 65, "65 exemplars"),
            (|c| c.about.exemplars = 9, "shape"),
            (|c| c.tokens = (&c.tokens * f64::NAN).unwrap(), "NaN"),
        ];
        for (spoil, want) in spoiled {
            let mut concept = good.clone();
            spoil(&mut concept);
            concept.save(&path).unwrap();
            let error = Concept::load(&path).unwrap_err().to_string();
            assert!(error.contains(want), "{error}");
        }
        let other = folder.path().join("other.safetensors");
        let tensors = HashMap::from([(TOKENS, good.tokens.squeeze(0).unwrap())]);
        candle::safetensors::save(&tensors, &other).unwrap();
        let error = Concept::load(&other).unwrap_err().to_string();
        assert!(error.contains("is no concept"), "{error}");
        assert!(good.save(&other).is_err(), "a file of weights was replaced");
    }

    #[test]
    fn what_makes_no_concept_is_refused_before_any_work() {
        let model = demo();
        let refused = |name: &str, text: Option<&str>, exemplars: Vec<Exemplar>, want: &str| {
            let shown = [(picture(60, 70), exemplars)];
            let error = Concept::new(&model, name, text, &shown, &mut Run::default());
            let error = error.unwrap_err().to_string();
            assert!(error.contains(want), "{error}");
        };
        let one = || vec![exemplar(60., 70., true)];
        refused(" ", None, one(), "the name");
        refused("a", Some(" "), one(), "text is empty");
        refused("a", None, vec![], "0 exemplars");
        refused(
            "a",
            Some("red"),
            vec![exemplar(60., 70., false)],
            "positive exemplar",
        );
        refused("a", None, vec![exemplar(600., 70., true)], "outside");
        refused("a", None, vec![one()[0]; 65], "65 exemplars");
    }
}
