//! No prompt -> every object there seems to be.
//!
//! Follows `SamAutomaticMaskGenerator`,
//! <https://github.com/facebookresearch/segment-anything/blob/dca509f/segment_anything/automatic_mask_generator.py>:
//! a grid of points prompts the model in the image and in crops of it; masks are filtered by
//! predicted IoU, stability and distance to the edge of their crop, and duplicates are dropped, the
//! better predicted IoU winning within a crop and the smaller crop winning between crops.
//!
//! The records equal the original's, their order included. What differs:
//! * masks of low predicted IoU are dropped before they are enlarged, and where a point has no
//!   other before they are computed, which changes nothing else;
//! * crops that find nothing, alone or all together, are no error, nor are images too small for
//!   their crops (the original raises an `IndexError` and fails to resize an image of no pixels);
//! * options that make no sense are refused, see [`Options::validate`].

mod crops;
mod options;
mod records;
#[cfg(test)]
mod tests;

use rayon::prelude::*;

pub use options::Options;
pub use records::MaskRecord;

use super::enlarge::Cut;
use super::interactive::decode_wanted;
use crate::image::Image;
use crate::mask::stability::StableMask;
use crate::mask::{BoxXyxy, Mask, Rle, nms, regions};
use crate::models::head::NUM_MASKS;
use crate::models::{InteractiveEmbedding, InteractiveModel, VisualPrompt};
use crate::{Error, Result, Run, Size};
use crops::Crop;

/// A pixel belongs to a mask where its logit is higher than this.
const MASK_THRESHOLD: f64 = 0.0;

/// A box side this close to a side of its crop touches it, in pixels.
const EDGE_TOLERANCE: usize = 20;

/// Finds the masks of an image, the best first.
///
/// With crops, masks of smaller crops come first. `min_mask_region_area` moves masks that it
/// changed to the end. Progress counts points.
///
/// # Errors
/// [`Error::InvalidArgument`] for options out of range, before any work; [`Error::NotFinite`] if the
/// network computes NaN or infinity; [`Error::Cancelled`].
pub fn generate(
    model: &dyn InteractiveModel,
    image: &Image,
    options: &Options,
    run: &mut Run,
) -> Result<Vec<MaskRecord>> {
    options.validate()?;
    let embedding = model.encode_interactive(image, run)?;
    generate_encoded(model, image, &embedding, options, run)
}

/// Like [`generate`] with the whole image encoded before.
///
/// # Errors
/// As [`generate`]; [`Error::InvalidPrompt`] when the embedding is one of an image of another size.
pub fn generate_encoded(
    model: &dyn InteractiveModel,
    image: &Image,
    embedding: &InteractiveEmbedding,
    options: &Options,
    run: &mut Run,
) -> Result<Vec<MaskRecord>> {
    options.validate()?;
    let size = image.size();
    if embedding.size != size {
        return Err(Error::prompt(format!(
            "the embedding is of an image of {}, the image has {size}",
            embedding.size
        )));
    }
    let crops = crops::crops(size, options);
    let grids: Vec<_> = (0..=options.crop_n_layers)
        .map(|layer| crops::grid(options, layer))
        .collect();
    let all = crops.iter().map(|crop| grids[crop.layer].len()).sum();
    let mut done = 0;

    let mut found = vec![];
    for crop in crops {
        let grid = &grids[crop.layer];
        if grid.is_empty() {
            continue;
        }
        let embedding = match crop.layer {
            0 => embedding.clone(),
            _ => model.encode_interactive(&crop.cut(image)?, run)?,
        };
        let generator = CropGenerator {
            model,
            embedding,
            crop,
            size,
            options,
        };
        let mut of_crop = vec![];
        for points in grid.chunks(options.points_per_batch) {
            of_crop.extend(generator.decode(points, run)?);
            done += points.len();
            run.report(done, all);
        }
        let scores: Vec<f32> = of_crop
            .iter()
            .map(|c: &Candidate| c.predicted_iou)
            .collect();
        found.extend(suppress(of_crop, &scores, options.box_nms_thresh));
    }
    if options.crop_n_layers > 0 {
        let scores: Vec<f32> = found.iter().map(Candidate::crop_score).collect();
        found = suppress(found, &scores, options.crop_nms_thresh);
    }
    if options.min_mask_region_area > 0 {
        let iou_threshold = options.box_nms_thresh.max(options.crop_nms_thresh);
        found = remove_small_regions(found, options.min_mask_region_area, iou_threshold)?;
    }
    Ok(found.into_iter().map(Candidate::into_record).collect())
}

/// A mask that passed the filters; boxes in the frame of the image.
#[derive(Clone)]
struct Candidate {
    rle: Rle,
    extent: Extent,
    predicted_iou: f32,
    stability_score: f32,
    point: [f64; 2],
    crop: Crop,
}

/// The columns and rows of the first and the last pixel: x0, y0, x1, y1.
type Extent = [usize; 4];

impl Candidate {
    /// Higher for smaller crops.
    fn crop_score(&self) -> f32 {
        1.0 / (self.crop.width() * self.crop.height()) as f32
    }

    fn into_record(self) -> MaskRecord {
        let [x0, y0, x1, y1] = self.extent;
        let Crop {
            x0: left, y0: top, ..
        } = self.crop;
        MaskRecord {
            area: self.rle.area(),
            segmentation: self.rle,
            bbox: [x0, y0, x1 - x0, y1 - y0],
            predicted_iou: self.predicted_iou,
            point_coords: [self.point],
            stability_score: self.stability_score,
            crop_box: [left, top, self.crop.width(), self.crop.height()],
        }
    }
}

/// Finds masks in one crop.
struct CropGenerator<'a> {
    model: &'a dyn InteractiveModel,
    embedding: InteractiveEmbedding,
    crop: Crop,
    /// Size of the image.
    size: Size,
    options: &'a Options,
}

impl CropGenerator<'_> {
    /// The masks of a batch of points, given as fractions of the crop, that pass the filters.
    fn decode(&self, points: &[[f64; 2]], run: &mut Run) -> Result<Vec<Candidate>> {
        let (width, height) = (self.crop.width() as f64, self.crop.height() as f64);
        let points: Vec<[f64; 2]> = points
            .iter()
            .map(|[x, y]| [x * width, y * height])
            .collect();
        let prompt = |[x, y]: &[f64; 2]| VisualPrompt::point(*x as f32, *y as f32);
        let prompts: Vec<VisualPrompt> = points.iter().map(prompt).collect();
        let is_good = |iou| exceeds(iou, self.options.pred_iou_thresh);
        let masks = 1..NUM_MASKS;
        let answers = decode_wanted(self.model, &self.embedding, &prompts, masks, &is_good, run)?;
        let (mut asked, mut low_res) = (vec![], vec![]);
        for (point, answer) in points.iter().zip(&answers) {
            for (iou, logits) in answer.iou_scores.iter().zip(&answer.low_res_logits) {
                asked.push((*point, *iou));
                low_res.push(&logits[..]);
            }
        }
        let size = Size::new(self.crop.width(), self.crop.height());
        let cut = Cut {
            upscaling: &self.model.upscaling(size),
            threshold: MASK_THRESHOLD,
            offset: self.options.stability_score_offset,
        };
        let device = self.embedding.features.tokens.device();
        let candidates = cut.each(&low_res, device, |i, mask| {
            let (point, iou) = asked[i];
            Ok(self.candidate(point, iou, mask))
        })?;
        Ok(candidates.into_iter().flatten().collect())
    }

    /// `None` when the mask is unstable or cut off by the edge of the crop.
    fn candidate(
        &self,
        [x, y]: [f64; 2],
        predicted_iou: f32,
        cut: StableMask,
    ) -> Option<Candidate> {
        let stability_score = cut.stability_score();
        let threshold = self.options.stability_score_thresh;
        // False for NaN, as in the original.
        let is_stable = threshold <= 0.0 || stability_score >= threshold as f32;
        if !is_stable {
            return None;
        }
        let Crop { x0, y0, .. } = self.crop;
        let [left, top, right, bottom] = extent(&cut.mask);
        let extent = [left + x0, top + y0, right + x0, bottom + y0];
        if is_near_crop_edge(extent, self.crop, self.size) {
            return None;
        }
        let rle = match self.crop.layer {
            0 => Rle::encode(&cut.mask),
            _ => Rle::encode(&cut.mask.placed(x0, y0, self.size.width, self.size.height)),
        };
        Some(Candidate {
            rle,
            extent,
            predicted_iou,
            stability_score,
            point: [x + x0 as f64, y + y0 as f64],
            crop: self.crop,
        })
    }
}

/// True if a score is above a threshold; a threshold of 0 passes everything, NaN included.
fn exceeds(score: f32, threshold: f64) -> bool {
    threshold <= 0.0 || score > threshold as f32
}

/// The first and last column and row of a mask, all 0 for an empty one.
fn extent(mask: &Mask) -> Extent {
    match mask.extent() {
        None => [0; 4],
        Some(e) => [
            e.columns.start,
            e.rows.start,
            e.columns.end - 1,
            e.rows.end - 1,
        ],
    }
}

/// True if a side of the box touches a side of the crop that is not a side of the image.
fn is_near_crop_edge(extent: Extent, crop: Crop, image: Size) -> bool {
    let crop = [crop.x0, crop.y0, crop.x1, crop.y1];
    let image = [0, 0, image.width, image.height];
    let is_near = |a: usize, b: usize| a.abs_diff(b) <= EDGE_TOLERANCE;
    (0..4).any(|i| is_near(extent[i], crop[i]) && !is_near(extent[i], image[i]))
}

/// Drops duplicates by their boxes; the rest is ordered by falling score.
fn suppress(candidates: Vec<Candidate>, scores: &[f32], iou_threshold: f64) -> Vec<Candidate> {
    let boxes: Vec<BoxXyxy> = candidates.iter().map(|c| as_box(c.extent)).collect();
    suppress_boxes(candidates, &boxes, scores, iou_threshold)
}

fn suppress_boxes(
    candidates: Vec<Candidate>,
    boxes: &[BoxXyxy],
    scores: &[f32],
    iou_threshold: f64,
) -> Vec<Candidate> {
    let mut candidates: Vec<Option<Candidate>> = candidates.into_iter().map(Some).collect();
    let kept = nms::box_nms(boxes, scores, round_down(iou_threshold)).into_iter();
    kept.filter_map(|index| candidates[index].take()).collect()
}

/// The box that overlaps are measured by, one pixel short at the right and the bottom as in the
/// original.
fn as_box(extent: Extent) -> BoxXyxy {
    BoxXyxy::from(extent.map(|edge| edge as f32))
}

/// The greatest 32-bit number up to a 64-bit one: exactly the 32-bit numbers above the one are
/// above the other, and torchvision compares a 32-bit IoU with a 64-bit threshold.
fn round_down(threshold: f64) -> f32 {
    match threshold as f32 {
        rounded if f64::from(rounded) > threshold => rounded.next_down(),
        rounded => rounded,
    }
}

/// Fills small holes and removes small islands, then drops masks that became duplicates, of which
/// one that did not change wins. Scores stay those of the masks before, as in the original.
fn remove_small_regions(
    candidates: Vec<Candidate>,
    min_area: usize,
    iou_threshold: f64,
) -> Result<Vec<Candidate>> {
    let cleaned: Result<Vec<(Candidate, (f32, BoxXyxy))>> = candidates
        .into_par_iter()
        .map(|mut candidate| {
            let mut mask = candidate.rle.decode()?;
            let has_changed = regions::remove_small_regions(&mut mask, min_area);
            let cleaned = extent(&mask);
            if has_changed {
                candidate.rle = Rle::encode(&mask);
                candidate.extent = cleaned;
            }
            let score = if has_changed { 0.0 } else { 1.0 };
            Ok((candidate, (score, as_box(cleaned))))
        })
        .collect();
    let (candidates, measured): (Vec<_>, Vec<_>) = cleaned?.into_iter().unzip();
    let (scores, boxes): (Vec<f32>, Vec<BoxXyxy>) = measured.into_iter().unzip();
    Ok(suppress_boxes(candidates, &boxes, &scores, iou_threshold))
}
