//! Texts and exemplars on pictures much larger than what the model sees at once.
//!
//! The picture is cut into overlapping tiles, and each is searched like a picture of its own, because a
//! model that shrinks everything to its input size sees nothing of small objects. Where two tiles
//! overlap, both see the same pixels, and so what they find there is compared: masks that agree inside
//! the band are one object, however much of it lies outside. The whole picture is searched as well, for
//! what is too large for a tile.
//!
//! Easy to get wrong: the overlap of whole masks says little, because an object cut by a seam has two
//! halves that share only the band.

mod seams;

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::concept::{self, EncodedPrompt, Options, Prediction, Prompt};
use crate::image::Image;
use crate::mask::{BoxXyxy, Extent};
use crate::models::sam3::{ImageEmbedding, Sam3};
use crate::{Error, Result, Run, Size};
use seams::{Found, around, shifted};

/// How pictures are cut.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Tiles {
    /// Pixels along a side of a tile. A smaller picture is not cut.
    pub side: usize,
    /// The share of a tile's side that neighbors have in common, at least; in 0.05..=0.75. Objects that
    /// are smaller than this lie in a tile as a whole.
    pub overlap: f64,
}

impl Tiles {
    /// Tiles with the usual overlap.
    pub fn new(side: usize) -> Self {
        Self { side, overlap: 0.2 }
    }

    /// # Errors
    /// [`Error::InvalidArgument`] for a side under 64 pixels and an overlap out of range.
    pub fn validate(&self) -> Result<()> {
        if self.side < MIN_SIDE {
            return Err(Error::argument(format!(
                "tiles of {} pixels; give at least {MIN_SIDE}",
                self.side
            )));
        }
        if !(0.05..=0.75).contains(&self.overlap) {
            return Err(Error::argument(format!(
                "tiles that overlap by {}; it must be in 0.05..=0.75",
                self.overlap
            )));
        }
        Ok(())
    }

    /// The tiles of a picture, by rows; of one size, spread evenly.
    fn cut(&self, size: Size) -> Result<Vec<Extent>> {
        self.validate()?;
        let (columns, rows) = (self.ranges(size.width), self.ranges(size.height));
        if columns.len().saturating_mul(rows.len()) > MAX_TILES {
            return Err(Error::argument(format!(
                "a picture of {size} would be cut into more than {MAX_TILES} tiles of {}; give larger \
                 ones",
                self.side
            )));
        }
        let tile = |row: &Range<usize>, column: &Range<usize>| Extent {
            columns: column.clone(),
            rows: row.clone(),
        };
        let tiles = rows
            .iter()
            .flat_map(|row| columns.iter().map(move |column| tile(row, column)));
        Ok(tiles.collect())
    }

    fn ranges(&self, length: usize) -> Vec<Range<usize>> {
        let step = self.side - (self.side as f64 * self.overlap).ceil() as usize;
        let rest = length.saturating_sub(self.side);
        let steps = rest.div_ceil(step);
        let starts = (0..=steps).map(|i| i * rest / steps.max(1));
        starts
            .map(|start| start..(start + self.side).min(length))
            .collect()
    }
}

/// Smaller tiles show no object as a whole.
const MIN_SIDE: usize = 64;

/// Each takes as long as a picture.
const MAX_TILES: usize = 10_000;

/// Answers prompts on one image, tile by tile; reports each tile as progress. An image that is no
/// larger than a tile is answered as by [`concept::predict`].
///
/// The presence is the highest of all tiles. Exemplars are shown to every tile as one window of a
/// tile's size shows them.
///
/// # Errors
/// As [`concept::predict`]; [`Error::InvalidArgument`] for tiles out of range or too many;
/// [`Error::InvalidPrompt`] for exemplars that lie farther apart than a tile;
/// [`Error::Unsupported`] with a trace, which records one pass.
pub fn predict(
    model: &Sam3,
    image: &Image,
    prompts: &[EncodedPrompt],
    tiles: &Tiles,
    options: &Options,
    run: &mut Run,
) -> Result<Vec<Prediction>> {
    let size = image.size();
    let of_prompts: Vec<Prompt> = prompts.iter().map(|p| p.prompt.clone()).collect();
    concept::validate(&of_prompts, options, size)?;
    let tiles_of = tiles.cut(size)?;
    if tiles_of.len() == 1 {
        let embedding = model.encode_image(image, run)?;
        return concept::predict(model, &embedding, prompts, options, run);
    }
    if run.trace.is_some() {
        return Err(Error::Unsupported {
            what: "a trace of several tiles".to_string(),
            instead: "cut out one tile and trace that".to_string(),
        });
    }
    // What a tile does within itself is no progress of the whole.
    let inner = &mut Run {
        cancel: run.cancel.clone(),
        ..Run::default()
    };
    let prompts = with_exemplars(model, image, prompts, tiles.side, inner)?;
    // Selection is for the whole picture.
    let every = Options {
        nms: None,
        max_instances: None,
        ..options.clone()
    };
    let mut found: Vec<Found> = prompts.iter().map(|_| Found::new(size)).collect();
    let whole = Extent {
        columns: 0..size.width,
        rows: 0..size.height,
    };
    let all = tiles_of.iter().chain([&whole]);
    for (index, tile) in all.enumerate() {
        let embedding = model.encode_image(&cut(image, tile)?, inner)?;
        let answers = concept::predict(model, &embedding, &prompts, &every, inner)?;
        for (found, answer) in found.iter_mut().zip(answers) {
            match *tile == whole {
                true => found.add_large(answer, &whole, tiles.side),
                false => found.add(answer, tile),
            }
        }
        run.report(index + 1, tiles_of.len() + 1);
    }
    let mut predictions: Vec<Prediction> = found.into_iter().map(Found::finish).collect();
    concept::select(&mut predictions, options);
    Ok(predictions)
}

/// The prompts with their exemplars encoded, so that they are good for every tile.
fn with_exemplars(
    model: &Sam3,
    image: &Image,
    prompts: &[EncodedPrompt],
    side: usize,
    run: &mut Run,
) -> Result<Vec<EncodedPrompt>> {
    // Commands give the same exemplars to all of their texts.
    let mut known: Option<(Extent, ImageEmbedding)> = None;
    let mut encoded = Vec::with_capacity(prompts.len());
    for prompt in prompts {
        if prompt.prompt.exemplars.is_empty() {
            encoded.push(prompt.clone());
            continue;
        }
        let window = window(&prompt.prompt, image.size(), side)?;
        let embedding = match known.take() {
            Some((of, embedding)) if of == window => embedding,
            _ => model.encode_image(&cut(image, &window)?, run)?,
        };
        let mut moved = prompt.clone();
        let (x, y) = (window.columns.start as f32, window.rows.start as f32);
        for exemplar in &mut moved.prompt.exemplars {
            exemplar.bbox = shifted(exemplar.bbox, -x, -y);
        }
        encoded.push(concept::encode_exemplars(model, &embedding, moved)?);
        known = Some((window, embedding));
    }
    Ok(encoded)
}

/// The part of the image, of a tile's size, that has the exemplars of a prompt in its middle.
fn window(prompt: &Prompt, size: Size, side: usize) -> Result<Extent> {
    let boxes = prompt.exemplars.iter().map(|exemplar| exemplar.bbox);
    let around = boxes.reduce(around).unwrap_or(BoxXyxy::from([0.0; 4]));
    let around = around.clip(size.width, size.height);
    if around.width().max(around.height()) > side as f32 {
        return Err(Error::prompt(format!(
            "the exemplars lie farther apart than a tile of {side} pixels; give larger tiles, or \
             exemplars that are closer together"
        )));
    }
    let range = |from: f32, to: f32, length: usize| {
        let middle = ((from + to) / 2.0) as usize;
        let start = middle.saturating_sub(side / 2);
        let start = start.min(length.saturating_sub(side));
        start..(start + side).min(length)
    };
    Ok(Extent {
        columns: range(around.x0, around.x1, size.width),
        rows: range(around.y0, around.y1, size.height),
    })
}

fn cut(image: &Image, part: &Extent) -> Result<Image> {
    image.cropped(part.columns.clone(), part.rows.clone())
}

#[cfg(test)]
mod tests;
