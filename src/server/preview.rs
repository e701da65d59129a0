//! Masks to be painted at once: at the model's low resolution, one byte for each logit.

use crate::image::transform::LongestSide;
use crate::models::Embedding;
use crate::predict::interactive::{self, Options};
use crate::{Model, Result, Run, Size, VisualPrompt};

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
    /// 16 steps for a logit of 1: 128 and more inside the mask, 127 and less outside, by rows.
    pub levels: Vec<u8>,
}

/// The mask of `index` of those that a point means, or the best.
///
/// # Errors
/// [`crate::Error::InvalidPrompt`] for a point outside the image;
/// [`crate::Error::InvalidArgument`] for an index above 2; [`crate::Error::Unsupported`] for a model
/// that takes no points.
pub fn preview(
    model: &Model,
    image: &Embedding,
    [x, y]: [f32; 2],
    index: Option<usize>,
) -> Result<Preview> {
    let interactive = model.as_interactive()?;
    let prompt = VisualPrompt::point(x, y);
    let prompts = std::slice::from_ref(&prompt);
    interactive::validate(prompts, &Options::default(), image.size())?;
    let embedding = model.interactive_embedding(image)?;
    let run = &mut Run::default();
    let answer = interactive::decode_one(interactive, &embedding, &prompt, index, run)?;
    let size = interactive.low_res_size();
    Ok(Preview {
        size,
        crop: crop(
            model,
            image.size(),
            size,
            interactive.head_config().image_size,
        ),
        index: answer.index,
        levels: answer
            .low_res_logits
            .iter()
            .map(|logit| level(*logit))
            .collect(),
        ious: answer.iou_scores,
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

/// A logit as a byte, rounded toward the edge of the mask but not over it.
fn level(logit: f32) -> u8 {
    let steps = (16. * logit.abs()) as u8; // saturates
    match logit > 0. {
        true => 128u8.saturating_add(steps),
        false => 127u8.saturating_sub(steps),
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
    }
}
