//! What is asked for: words, exemplars, and which instances to keep; and what of it is refused.

use serde::{Deserialize, Serialize};

use crate::mask::BoxXyxy;
use crate::models::sam3::ExemplarBox;
use crate::predict::{fraction, validate_box};
use crate::{Error, Result, Size, text};

/// A box around an object that shows what is meant, or what is not.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Exemplar {
    /// In pixels of the original image.
    pub bbox: BoxXyxy,
    /// True if objects like this one are wanted.
    pub positive: bool,
}

impl Exemplar {
    /// As fractions of an image of this size.
    pub fn normalize(&self, image: Size) -> ExemplarBox {
        let cxcywh_norm = self.bbox.to_cxcywh_norm(image.width, image.height);
        ExemplarBox {
            cxcywh_norm,
            positive: self.positive,
        }
    }
}

/// A text, exemplars, or both.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Prompt {
    /// A noun phrase, as in "a striped cat".
    pub text: Option<String>,
    /// Boxes in this image.
    pub exemplars: Vec<Exemplar>,
    /// Replaces [`Options::threshold`] for this prompt.
    pub threshold: Option<f32>,
}

impl Prompt {
    /// A prompt of words alone.
    pub fn text(text: impl Into<String>) -> Self {
        Self {
            text: Some(text.into()),
            ..Self::default()
        }
    }

    /// A prompt of exemplars alone.
    pub fn exemplars(exemplars: Vec<Exemplar>) -> Self {
        Self {
            exemplars,
            ..Self::default()
        }
    }
}

/// Which instances to keep.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Keep instances with a higher score than this, in 0..1; 0.5 by default, as in the original.
    pub threshold: f32,
    /// A pixel belongs to a mask where its logit is higher than this; 0 by default.
    pub mask_threshold: f32,
    /// Keep at most this many instances per prompt, the best ones; all by default.
    pub max_instances: Option<usize>,
    /// Drop an instance whose mask overlaps a better one's by more than this IoU, in 0..1;
    /// `None`, the default, drops none.
    pub nms: Option<f32>,
    /// Let `nms` compare instances of different prompts, too; off by default.
    pub nms_across_prompts: bool,
    /// Also return the union mask of the concept; off by default.
    pub semantic: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            threshold: 0.5,
            mask_threshold: 0.0,
            max_instances: None,
            nms: None,
            nms_across_prompts: false,
            semantic: false,
        }
    }
}

impl Options {
    /// Checks the ranges.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] with the option, its value and its limits.
    pub fn validate(&self) -> Result<()> {
        fraction("threshold", self.threshold).map_err(Error::argument)?;
        if self.mask_threshold.is_nan() {
            return Err(Error::argument("mask_threshold is NaN"));
        }
        match self.nms {
            Some(iou) => fraction("nms", iou).map_err(Error::argument),
            None => Ok(()),
        }
    }
}

/// Checks prompts and options against an image of this size, before any work.
///
/// # Errors
/// As [`encode`](super::encode) and [`predict`](super::predict).
pub fn validate(prompts: &[Prompt], options: &Options, image: Size) -> Result<()> {
    options.validate()?;
    prompts.iter().try_for_each(|prompt| {
        validate_words(prompt)?;
        validate_prompt(prompt, image)
    })
}

pub(super) fn validate_words(prompt: &Prompt) -> Result<()> {
    if let Some(text) = &prompt.text {
        text::Tokenizer::check_length(text)?;
    }
    match &prompt.text {
        Some(text) if text::clean(text).is_empty() => Err(Error::prompt(
            "the text is empty; name what to look for, as in \"a dog\"",
        )),
        None if !prompt.exemplars.iter().any(|e| e.positive) => Err(Error::prompt(
            "a prompt needs a text or a positive exemplar",
        )),
        _ => Ok(()),
    }
}

pub(super) fn validate_prompt(prompt: &Prompt, image: Size) -> Result<()> {
    if let Some(threshold) = prompt.threshold {
        fraction("threshold", threshold).map_err(Error::prompt)?;
    }
    for exemplar in &prompt.exemplars {
        validate_box("exemplar", exemplar.bbox, image)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_prompts_are_refused_with_a_reason() {
        let bbox = |x0: f32, y0, x1, y1| BoxXyxy { x0, y0, x1, y1 };
        let exemplar = |b, positive| Prompt::exemplars(vec![Exemplar { bbox: b, positive }]);
        struct Case(Prompt, &'static str);
        for Case(prompt, want) in [
            Case(Prompt::default(), "needs a text or a positive exemplar"),
            Case(Prompt::text(" \t"), "empty"),
            Case(exemplar(bbox(0., 0., 5., 5.), false), "positive exemplar"),
            Case(exemplar(bbox(5., 0., 0., 5.), true), "inverted"),
            Case(exemplar(bbox(0., 0., f32::NAN, 5.), true), "not finite"),
            Case(
                exemplar(bbox(100., 0., 120., 5.), true),
                "outside the image of 100 x 50",
            ),
            Case(
                Prompt {
                    threshold: Some(f32::NAN),
                    ..Prompt::text("dog")
                },
                "must be in 0..1",
            ),
        ] {
            let error = validate(&[prompt], &Options::default(), Size::new(100, 50))
                .unwrap_err()
                .to_string();
            assert!(error.contains(want), "{error:?} lacks {want:?}");
        }
        let partly_outside = exemplar(bbox(-5., 0., 5., 5.), true);
        validate(
            &[partly_outside, Prompt::text("dog")],
            &Options::default(),
            Size::new(100, 50),
        )
        .unwrap();
    }

    #[test]
    fn options_out_of_range_are_refused() {
        for options in [
            Options {
                threshold: f32::NAN,
                ..Options::default()
            },
            Options {
                threshold: 1.5,
                ..Options::default()
            },
            Options {
                nms: Some(-0.1),
                ..Options::default()
            },
            Options {
                mask_threshold: f32::NAN,
                ..Options::default()
            },
        ] {
            assert!(
                validate(&[Prompt::text("dog")], &options, Size::square(10)).is_err(),
                "{options:?}"
            );
        }
    }
}
