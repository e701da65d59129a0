//! A model against a recorded run of another implementation: stage by stage, and end to end.
//!
//! Each stage is fed what the reference fed it, so that a difference shows where it arises. Masks
//! of padding tokens and the like are compared where somebody reads them only.

mod figures;
mod reference;

use candle::{DType, Device, Tensor};

pub use figures::{Check, Figures, Limit, Tolerances};
pub use reference::Reference;

use super::{concept, interactive, sigmoid};
use crate::mask::{BoxXyxy, Mask};
use crate::models::sam3::{ExemplarBox, ImageEmbedding, ImageFeatures, PromptTokens, Sam3};
use crate::models::{InteractiveEmbedding, InteractiveModel, Model};
use crate::{Error, Result, Run};
use figures::{INCOMPARABLE, compare, compare_masks, values};
use reference::{ClickEntry, ConceptPrompt};

/// Compares a model with a reference; `report` is called with each comparison as it is made.
///
/// # Errors
/// [`Error::Checkpoint`] for tensors that the reference lacks, before anything is computed;
/// [`Error::Unsupported`] for clicks on a model that was loaded without its interactive head, and for
/// texts or exemplars on one that takes none.
pub fn verify(
    model: &Model,
    reference: &Reference,
    tolerances: &Tolerances,
    report: &mut dyn FnMut(Check),
) -> Result<()> {
    let pixels = match model {
        Model::Sam(model) => model.preprocess(reference.image())?,
        Model::Sam2(model) => model.preprocess(reference.image())?,
        Model::Sam3(model) => return verify_sam3(model, reference, tolerances, report),
    };
    let model = model.as_interactive()?;
    verify_interactive(model, &pixels, reference, tolerances, report)
}

/// As [`verify`], for SAM 3, EfficientSAM3 and SAM3-LiteText.
///
/// # Errors
/// As [`verify`].
pub fn verify_sam3(
    model: &Sam3,
    reference: &Reference,
    tolerances: &Tolerances,
    report: &mut dyn FnMut(Check),
) -> Result<()> {
    let (concepts, clicks) = (reference.concepts(), reference.clicks());
    let mut names = ["pixel_values", "trunk"].map(String::from).to_vec();
    if !concepts.is_empty() {
        names.extend(["neck.0", "neck.1", "neck.2"].map(String::from));
    }
    for prompt in concepts {
        names.extend(stage_names(&prompt.name, CONCEPT));
        if prompt.end_to_end {
            names.extend(stage_names(&prompt.name, ANSWER));
        }
    }
    for click in clicks {
        names.extend(stage_names(&click.name, CLICK));
    }
    reference.require(&names)?;
    let mut run = Comparison {
        reference,
        tolerances,
        report,
        device: model.device().clone(),
        dtype: model.dtype(),
    };
    let pixels = model.preprocess(reference.image())?;
    run.tensor("pixel_values", &pixels, tolerances.pixels)?;
    let trunk = model.detector().trunk(&run.input("pixel_values")?)?;
    run.stage("trunk", &trunk)?;
    drop(trunk);
    if !concepts.is_empty() {
        let image = run.pyramid(model)?;
        for prompt in concepts {
            run.concept(model, &image, prompt)?;
        }
    }
    if !clicks.is_empty() {
        let fed = InteractiveEmbedding {
            features: model.interactive_head()?.embed(&run.input("trunk")?)?,
            size: reference.image().size(),
        };
        for click in clicks {
            run.click(model, &fed, click, "")?;
        }
    }
    let embedding = model.encode_image(reference.image(), &mut Run::default())?;
    for prompt in concepts.iter().filter(|prompt| prompt.end_to_end) {
        run.answer(model, &embedding, prompt)?;
    }
    if !clicks.is_empty() {
        let embedding = model.interactive_embedding(&embedding)?;
        for click in clicks {
            run.click(model, &embedding, click, END_TO_END)?;
        }
    }
    Ok(())
}

/// A model that takes nothing but points, boxes and masks; `pixels` are those that it sees.
fn verify_interactive(
    model: &dyn InteractiveModel,
    pixels: &Tensor,
    reference: &Reference,
    tolerances: &Tolerances,
    report: &mut dyn FnMut(Check),
) -> Result<()> {
    if !reference.concepts().is_empty() {
        return Err(Error::Unsupported {
            what: format!("a reference with texts or exemplars for {}", model.name()),
            instead: "record one with points and boxes only".into(),
        });
    }
    let clicks = reference.clicks();
    let mut names = ["pixel_values", "image_embedding"]
        .map(String::from)
        .to_vec();
    for click in clicks {
        names.extend(stage_names(&click.name, CLICK));
    }
    reference.require(&names)?;
    let mut run = Comparison {
        reference,
        tolerances,
        report,
        device: pixels.device().clone(),
        dtype: pixels.dtype(),
    };
    run.tensor("pixel_values", pixels, tolerances.pixels)?;
    let embedding = model.encode_interactive(reference.image(), &mut Run::default())?;
    run.stage("image_embedding", &embedding.features.tokens)?;
    let mut fed = embedding.clone();
    fed.features.tokens = run.input("image_embedding")?;
    for click in clicks {
        run.click(model, &fed, click, "")?;
    }
    for click in clicks {
        run.click(model, &embedding, click, END_TO_END)?;
    }
    Ok(())
}

const END_TO_END: &str = "end to end ";

/// Largest magnitude of the low-resolution logits that are compared.
const MAX_LOGIT: f32 = 32.;

/// Tensors that a reference must have for a text or exemplar prompt.
const CONCEPT: &[&str] = &[
    "input_ids",
    "text_features",
    "prompt",
    "prompt_mask",
    "encoder",
    "hs",
    "pred_boxes",
    "presence_logit",
    "pred_logits",
    "pixel_embed",
    "pred_masks",
    "semantic_seg",
];

/// Tensors that it needs besides, to be compared from end to end.
const ANSWER: &[&str] = &["geometry", "scores", "boxes", "masks_packed"];

/// Tensors that it must have for points and a box.
const CLICK: &[&str] = &["low_res_logits", "iou_scores", "masks_packed"];

fn stage_names(prompt: &str, stages: &[&str]) -> impl Iterator<Item = String> {
    stages.iter().map(move |stage| format!("{prompt}.{stage}"))
}

/// One comparison of everything.
struct Comparison<'a> {
    reference: &'a Reference,
    tolerances: &'a Tolerances,
    report: &'a mut dyn FnMut(Check),
    device: Device,
    dtype: DType,
}

impl Comparison<'_> {
    /// A tensor of the reference as the model takes it.
    fn input(&self, name: &str) -> Result<Tensor> {
        self.reference.tensor(name, self.dtype, &self.device)
    }

    fn check(&mut self, stage: &str, figures: Figures, limit: Limit) {
        let stage = stage.to_string();
        (self.report)(Check {
            stage,
            figures,
            limit,
        });
    }

    fn tensor(&mut self, name: &str, got: &Tensor, limit: Limit) -> Result<()> {
        let figures = compare(&values(got)?, &self.reference.values(name)?);
        self.check(name, figures, limit);
        Ok(())
    }

    fn stage(&mut self, name: &str, got: &Tensor) -> Result<()> {
        self.tensor(name, got, self.tolerances.stage)
    }

    /// Checks the pyramid of the reference's trunk; returns the reference's pyramid.
    fn pyramid(&mut self, model: &Sam3) -> Result<ImageFeatures> {
        let levels = model.detector().neck(&self.input("trunk")?)?;
        for (level, got) in levels.iter().enumerate() {
            self.stage(&format!("neck.{level}"), got)?;
        }
        drop(levels);
        let fpn = [
            self.input("neck.0")?,
            self.input("neck.1")?,
            self.input("neck.2")?,
        ];
        Ok(model.detector().prepare(fpn)?)
    }

    /// Every stage of one prompt.
    fn concept(
        &mut self,
        model: &Sam3,
        image: &ImageFeatures,
        prompt: &ConceptPrompt,
    ) -> Result<()> {
        let detector = model.detector();
        let name = |stage: &str| format!("{}.{stage}", prompt.name);
        let size = self.reference.image().size();

        let ids = self
            .reference
            .tensor(&name("input_ids"), DType::U32, &self.device)?;
        let text = detector.encode_text(&ids)?.tokens;
        self.text(&name("text_features"), &text, &values(&ids)?)?;
        if self.reference.has(&name("geometry")) {
            let exemplars = prompt.prompt.exemplars.iter();
            let boxes: Vec<ExemplarBox> = exemplars.map(|e| e.normalize(size)).collect();
            self.stage(&name("geometry"), &detector.encode_boxes(image, &boxes)?)?;
        }
        let is_padding = self
            .reference
            .tensor(&name("prompt_mask"), DType::U8, &self.device)?;
        let tokens = PromptTokens::new(self.input(&name("prompt"))?, is_padding)?;
        self.stage(&name("encoder"), &detector.fuse(image, &tokens)?)?;

        let memory = self.input(&name("encoder"))?;
        let found = detector.decode(image, &memory, &tokens)?;
        self.stage(&name("hs"), &found.hs)?;
        self.stage(&name("pred_boxes"), &found.boxes)?;
        self.stage(&name("presence_logit"), &found.presence_logit)?;
        let hs = self.input(&name("hs"))?;
        self.stage(&name("pred_logits"), &detector.score(&hs, &tokens)?)?;
        let pixels = detector.embed_pixels(image, &memory, &tokens)?;
        self.stage(&name("pixel_embed"), &pixels)?;
        drop(pixels);
        let pixels = self.input(&name("pixel_embed"))?;
        self.stage(&name("pred_masks"), &detector.masks(&pixels, &hs)?)?;
        self.stage(&name("semantic_seg"), &detector.semantic(&pixels)?)
    }

    /// Nobody reads the tokens of padding, and implementations differ there. Ids of padding alone
    /// leave nothing to compare, which does not pass.
    fn text(&mut self, name: &str, got: &Tensor, ids: &[f32]) -> Result<()> {
        let words = ids.iter().filter(|id| **id != 0.).count();
        let (batch, tokens, width) = got.dims3()?;
        let mut want = self.reference.values(name)?;
        let figures = match (batch, want.len() == tokens * width) {
            (1, true) => {
                want.truncate(words * width);
                let got = values(&got.narrow(1, 0, words)?)?;
                compare(&got, &want)
            }
            _ => INCOMPARABLE,
        };
        self.check(name, figures, self.tolerances.stage);
        Ok(())
    }

    /// From the image and the words to scores, boxes and masks.
    fn answer(
        &mut self,
        model: &Sam3,
        embedding: &ImageEmbedding,
        prompt: &ConceptPrompt,
    ) -> Result<()> {
        let name = |result: &str| format!("{}.{result}", prompt.name);
        let title = |result: &str| format!("{END_TO_END}{}.{result}", prompt.name);
        let all = concept::Options {
            threshold: 0.,
            ..concept::Options::default()
        };
        let run = &mut Run::default();
        let prompts = concept::encode(model, std::slice::from_ref(&prompt.prompt), run)?;
        let Some(found) = concept::predict(model, embedding, &prompts, &all, run)?.pop() else {
            return Ok(()); // there is one answer for each prompt
        };
        let logit = self.reference.values(&name("presence_logit"))?;
        let presence: Vec<f32> = logit.into_iter().map(sigmoid).collect();
        let figures = compare(&[found.presence], &presence);
        self.check(&title("presence"), figures, self.tolerances.score);

        let scores: Vec<f32> = found.instances.iter().map(|i| i.score).collect();
        let want = self.reference.values(&name("scores"))?;
        let figures = compare(&scores, &want);
        self.check(&title("scores"), figures, self.tolerances.score);

        let least = self.tolerances.least_score;
        let is_seen = |i: usize| want.get(i).is_none_or(|want| scores[i].max(*want) >= least);
        let seen: Vec<usize> = (0..scores.len()).filter(|i| is_seen(*i)).collect();
        let corners = |i: &usize| {
            let BoxXyxy { x0, y0, x1, y1 } = found.instances[*i].bbox;
            [x0, y0, x1, y1]
        };
        if seen.is_empty() {
            return Ok(()); // nothing that anybody would see: no comparison, and none is counted
        }
        let boxes: Vec<f32> = seen.iter().flat_map(corners).collect();
        let want = self.reference.values(&name("boxes"))?;
        let want: Vec<&[f32]> = want.chunks(4).collect();
        let want = seen.iter().filter_map(|i| want.get(*i).copied());
        let want: Vec<f32> = want.flatten().copied().collect();
        let figures = compare(&boxes, &want);
        let side = embedding.size.width.max(embedding.size.height) as f64;
        let limit = Limit::Difference(self.tolerances.box_error * side);
        self.check(&title("boxes"), figures, limit);

        let masks: Vec<&Mask> = seen.iter().map(|i| &found.instances[*i].mask).collect();
        let want = self.reference.masks(&name("masks_packed"))?;
        let want: Vec<&Mask> = seen.iter().filter_map(|i| want.get(*i)).collect();
        let figures = compare_masks(&masks, &want);
        self.check(&title("masks"), figures, self.tolerances.mask);
        Ok(())
    }

    /// Points and a box on an image; `title` goes before what is reported.
    fn click(
        &mut self,
        model: &dyn InteractiveModel,
        embedding: &InteractiveEmbedding,
        click: &ClickEntry,
        title: &str,
    ) -> Result<()> {
        let name = |result: &str| format!("{}.{result}", click.name);
        let title_of = |result: &str| format!("{title}{}.{result}", click.name);
        let options = interactive::Options {
            multimask: match click.multimask {
                true => interactive::Multimask::Three,
                false => interactive::Multimask::One,
            },
            ..interactive::Options::default()
        };
        let run = &mut Run::default();
        let found = interactive::predict_one(model, embedding, &click.prompt, &options, run)?;
        let stage = match title.is_empty() {
            true => self.tolerances.stage,
            false => Limit::Cosine(0.99),
        };
        let masks = found.masks.iter();
        // The official code for SAM 3 limits what it hands out.
        let limited = |logits: Vec<f32>| -> Vec<f32> {
            logits
                .iter()
                .map(|x| x.clamp(-MAX_LOGIT, MAX_LOGIT))
                .collect()
        };
        let logits = masks.clone().flat_map(|m| m.low_res_logits.clone());
        let want = self.reference.values(&name("low_res_logits"))?;
        let figures = compare(&limited(logits.collect()), &limited(want));
        self.check(&title_of("low_res_logits"), figures, stage);
        let scores: Vec<f32> = masks.clone().map(|m| m.iou_score).collect();
        let figures = compare(&scores, &self.reference.values(&name("iou_scores"))?);
        self.check(&title_of("iou_scores"), figures, self.tolerances.score);
        let masks: Vec<&Mask> = masks.map(|m| &m.mask).collect();
        let figures = compare_masks(&masks, &self.reference.masks(&name("masks_packed"))?);
        self.check(&title_of("masks"), figures, self.tolerances.mask);
        Ok(())
    }
}
