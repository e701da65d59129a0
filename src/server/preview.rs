//! Masks to be painted at once: at the model's low resolution, one byte for each logit.

use crate::image::transform::LongestSide;
use crate::models::Embedding;
use crate::predict::interactive::{self, Options};
use crate::{Error, Model, Result, Run, Size, VisualPrompt};

/// The answer to a point.
#[derive(Debug, Clone, PartialEq)]
pub struct Preview {
    /// Size of the map.
    pub size: Size,
    /// Left, top, width and height of the picture within the map.
    pub crop: [usize; 4],
    /// Which of the three masks it is, from part to whole.
    pub index: usize,
    /// Predicted IoU of the three masks.
    pub ious: Vec<f32>,
    /// Logit of "there is an object", where the model predicts one.
    pub object_score: Option<f32>,
    /// 128 + 16 * logit within 0..=255, by rows; 128 and more is inside the mask.
    pub levels: Vec<u8>,
}

/// The mask of `index` of those that a point means, or the best.
///
/// # Errors
/// [`Error::InvalidPrompt`] for a point outside the image; [`Error::Unsupported`] for a model that
/// takes no points.
pub fn preview(
    model: &Model,
    image: &Embedding,
    [x, y]: [f32; 2],
    index: Option<usize>,
) -> Result<Preview> {
    let interactive = model.as_interactive()?;
    let prompts = [VisualPrompt::point(x, y)];
    interactive::validate(&prompts, &Options::default(), image.size())?;
    let embedding = model.interactive_embedding(image)?;
    let run = &mut Run::default();
    let mut answers = interactive::decode(interactive, &embedding, &prompts, true, run)?;
    let Some(answer) = answers.pop() else {
        return Err(Error::InvalidMask("the model gave no answer".into()));
    };
    let ious = answer.iou_scores;
    let index = index
        .filter(|index| *index < ious.len())
        .unwrap_or_else(|| best(&ious));
    let logits = answer
        .low_res_logits
        .get(index)
        .map(Vec::as_slice)
        .unwrap_or_default();
    let size = interactive.low_res_size();
    Ok(Preview {
        size,
        crop: crop(
            model,
            image.size(),
            size,
            interactive.head_config().image_size,
        ),
        index,
        levels: logits.iter().map(|logit| level(*logit)).collect(),
        ious,
        object_score: answer.object_score,
    })
}

/// Where the picture is in the map. SAM 1 pads the short side of its input, the others stretch it.
fn crop(model: &Model, image: Size, map: Size, input: usize) -> [usize; 4] {
    match model {
        Model::Sam(_) => {
            let (width, height) = LongestSide { size: input }.resized(image.width, image.height);
            let scaled = |side: usize, map: usize| (side * map).div_ceil(input).clamp(1, map);
            [0, 0, scaled(width, map.width), scaled(height, map.height)]
        }
        Model::Sam2(_) | Model::Sam3(_) => [0, 0, map.width, map.height],
    }
}

/// The index of the highest, the first of equals.
fn best(scores: &[f32]) -> usize {
    let better = |best: usize, i: usize| if scores[i] > scores[best] { i } else { best };
    (1..scores.len()).fold(0, better)
}

/// A logit as a byte, rounded away from the edge of the mask.
fn level(logit: f32) -> u8 {
    let scaled = 128. + 16. * logit;
    match logit > 0. {
        true => scaled.floor() as u8, // saturates
        false => (scaled.ceil() - 1.) as u8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_level_of_a_logit_is_128_and_more_just_inside_the_mask() {
        for (logit, want) in [
            (0., 127),
            (1e-6, 128),
            (-1e-6, 127),
            (0.07, 129),
            (-1., 111),
            (7.9, 254),
            (100., 255),
            (-100., 0),
        ] {
            assert_eq!(level(logit), want, "{logit}");
        }
        assert_eq!(level(f32::NAN), 0);
    }

    #[test]
    fn the_best_is_the_first_of_equals() {
        assert_eq!(best(&[0.5, 0.9, 0.9]), 1);
        assert_eq!(best(&[0.5]), 0);
    }
}
