//! Classes for objects that were found without words: CLIP's.

use candle::Tensor;

use super::Class;
use super::labeler::phrases_of;
use crate::device::download_rows;
use crate::image::Image;
use crate::image::transform::ClipSquare;
use crate::mask::Mask;
use crate::models::clip::Clip;
use crate::{Error, Result, Run};

/// Objects that are encoded at a time.
const BATCH: usize = 16;

/// As many as ImageNet has.
const MAX_PHRASES: usize = 1000;

/// A CLIP with classes to choose from.
///
/// It sees each object alone, in the mean color of CLIP's pictures, and compares it with
/// "a photo of a PHRASE" for every phrase. The probability of a class is the sum of those of its phrases,
/// out of the phrases of all classes: an object of no class gets one nevertheless.
#[derive(Debug)]
pub struct Classifier {
    clip: Clip,
    texts: Tensor, // (phrases, d)
    class_of: Vec<usize>,
    classes: usize,
}

impl Classifier {
    /// Encodes the phrases of the classes.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for fewer than two classes, since the only one is always certain, and
    /// for more than 1000 phrases; [`Error::InvalidPrompt`] for a phrase that is empty or too long.
    pub fn new(clip: Clip, classes: &[Class]) -> Result<Self> {
        if classes.len() < 2 {
            return Err(Error::argument(
                "one class is always certain, since CLIP tells classes from each other; name \
                 others as well, what is in the background too",
            ));
        }
        let (class_of, texts): (Vec<usize>, Vec<String>) = phrases_of(classes)
            .map(|(class, phrase)| (class, format!("a photo of a {phrase}")))
            .unzip();
        if texts.len() > MAX_PHRASES {
            let count = texts.len();
            return Err(Error::argument(format!(
                "{count} phrases to classify by; at most {MAX_PHRASES} are compared"
            )));
        }
        Ok(Self {
            texts: clip.encode_texts(&texts)?,
            clip,
            class_of,
            classes: classes.len(),
        })
    }

    /// The most probable class of each mask, by index, and its probability in 0..=1.
    ///
    /// # Errors
    /// [`Error::InvalidMask`] for a mask without pixels or of another size than the image;
    /// [`Error::NotFinite`] if the network computes NaN or infinity; [`Error::Cancelled`].
    pub fn classify(
        &self,
        image: &Image,
        masks: &[&Mask],
        run: &mut Run,
    ) -> Result<Vec<(usize, f32)>> {
        let mut found = Vec::with_capacity(masks.len());
        for masks in masks.chunks(BATCH) {
            let objects = masks.iter().map(|mask| alone(image, mask));
            let objects = objects.collect::<Result<Vec<Image>>>()?;
            let encoded = run.stage("clip", || self.clip.encode_images(&objects))?;
            let rows = self.clip.probabilities(&encoded, &self.texts)?;
            for row in download_rows::<f32>(&rows)? {
                found.push(self.best(&row)?);
            }
        }
        Ok(found)
    }

    /// The class with the highest sum, of equal ones the first.
    fn best(&self, probabilities: &[f32]) -> Result<(usize, f32)> {
        let mut sums = vec![0.0f32; self.classes];
        for (class, probability) in self.class_of.iter().zip(probabilities) {
            sums[*class] += probability;
        }
        let best = sums.iter().enumerate().rev();
        let best = best.max_by(|(_, a), (_, b)| a.total_cmp(b));
        match best {
            Some((class, sum)) if sum.is_finite() => Ok((class, sum.min(1.0))),
            _ => Err(Error::not_finite("CLIP")),
        }
    }
}

/// The box around an object, with nothing but the object in it.
fn alone(image: &Image, mask: &Mask) -> Result<Image> {
    if mask.size() != image.size() {
        let (mask, image) = (mask.size(), image.size());
        return Err(Error::InvalidMask(format!(
            "a mask of {mask} for an image of {image}"
        )));
    }
    let Some(extent) = mask.extent() else {
        return Err(Error::InvalidMask("a mask without pixels".to_string()));
    };
    let (columns, rows) = (extent.columns, extent.rows);
    let mut pixels = ClipSquare::mean_color().repeat(columns.len() * rows.len());
    let lines = pixels.chunks_exact_mut(3 * columns.len());
    for (y, line) in rows.clone().zip(lines) {
        for run in mask.runs(y) {
            let to = 3 * (run.start - columns.start);
            let from = 3 * (y * image.width() + run.start);
            let bytes = 3 * run.len();
            line[to..to + bytes].copy_from_slice(&image.pixels()[from..from + bytes]);
        }
    }
    Image::from_rgb8(columns.len(), rows.len(), pixels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_shown_alone() {
        let pixels = (0..6 * 4 * 3).collect();
        let image = Image::from_rgb8(6, 4, pixels).unwrap();
        let mask = Mask::from_fn(6, 4, |x, y| {
            (1..5).contains(&x) && (1..3).contains(&y) && x != y
        });
        let object = alone(&image, &mask).unwrap();
        assert_eq!(object.size(), crate::Size::new(4, 2));
        let pixel = |x: usize, y: usize| &object.pixels()[3 * (4 * y + x)..][..3];
        let of_image = |x: usize, y: usize| &image.pixels()[3 * (6 * y + x)..][..3];
        assert_eq!(pixel(0, 1), of_image(1, 2));
        assert_eq!(pixel(3, 0), of_image(4, 1));
        for (x, y) in [(0, 0), (1, 1)] {
            assert_eq!(pixel(x, y), ClipSquare::mean_color());
        }
    }

    #[test]
    fn masks_that_show_nothing_are_refused() {
        let image = Image::from_rgb8(6, 4, vec![0; 72]).unwrap();
        for (mask, want) in [
            (Mask::new(6, 4), "without pixels"),
            (Mask::new(4, 4), "4 x 4"),
        ] {
            let error = alone(&image, &mask).unwrap_err().to_string();
            assert!(error.contains(want), "{error}");
        }
    }
}
