//! Following what a text names without a memory: what is found on a frame is matched with what was
//! found before, by place.
//!
//! For models with a detector and no tracker. An object that is hidden is waited for; when it is
//! found again near where it was, it has its number back. Nothing is known of how objects look: of
//! two that the text means, each may go on as the other when they meet.

use serde::{Deserialize, Serialize};

use super::frames::check_size;
use super::{ConceptMasks, ConceptObject, state};
use crate::image::Image;
use crate::mask::{BoxXyxy, Mask, Rle};
use crate::models::sam3::Sam3;
use crate::predict::concept::{self, EncodedPrompt, Prompt};
use crate::predict::{Instance, fraction};
use crate::{Error, Result, Run, Size};

/// When a detection is an object, and which.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Detections with a higher score than this go on with an object, in 0..1.
    pub threshold: f32,
    /// A detection that goes on with none becomes an object from this score on.
    pub new_threshold: f32,
    /// A detection that overlaps a better one by more than this IoU is dropped.
    pub nms: f32,
    /// Frames for which a hidden object is waited for.
    pub patience: usize,
    /// How far an object may be from where it was on the frame before, in diagonals of its box; and
    /// as far again for every [`Options::reach_frames`] in which it was hidden.
    pub reach: f32,
    /// See [`Options::reach`].
    pub reach_frames: f32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            threshold: 0.5,
            new_threshold: 0.7,
            nms: 0.5,
            patience: 60,
            reach: 0.75,
            reach_frames: 5.,
        }
    }
}

impl Options {
    /// # Errors
    /// [`Error::InvalidArgument`] for a value out of range.
    pub fn validate(&self) -> Result<()> {
        for (name, value) in [
            ("threshold", self.threshold),
            ("new_threshold", self.new_threshold),
            ("nms", self.nms),
        ] {
            fraction(name, value).map_err(Error::argument)?;
        }
        for (name, value) in [("reach", self.reach), ("reach_frames", self.reach_frames)] {
            if !(value > 0. && value.is_finite()) {
                let problem = format!("{name} is {value}; it must be above 0");
                return Err(Error::InvalidArgument(problem));
            }
        }
        Ok(())
    }
}

/// Finds what a text means on every frame and gives each object a number.
pub struct DetectionSession<'m> {
    model: &'m Sam3,
    prompt: Vec<EncodedPrompt>,
    options: Options,
    record: Record,
}

/// All that changes from frame to frame.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Record {
    model: String,
    tracks: Vec<Track>,
    next_id: u32,
    size: Option<Size>,
    next: usize,
}

/// An object as it was last seen.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Track {
    id: u32,
    /// Score of the detection by which it was found first.
    score: f32,
    mask: Rle,
    bbox: BoxXyxy,
    frame: usize,
}

impl<'m> DetectionSession<'m> {
    /// A session for a text.
    ///
    /// # Errors
    /// [`Error::InvalidPrompt`] for an empty text; [`Error::InvalidArgument`] for options out of
    /// range.
    pub fn new(model: &'m Sam3, text: &str, options: Options, run: &mut Run) -> Result<Self> {
        options.validate()?;
        let prompt = concept::encode(model, &[Prompt::text(text)], run)?;
        let record = Record {
            model: model.name().to_string(),
            ..Record::default()
        };
        Ok(Self {
            model,
            prompt,
            options,
            record,
        })
    }

    /// Takes the next frame and finds the objects on it.
    ///
    /// # Errors
    /// [`Error::InvalidImage`] for a frame of another size than the first; [`Error::Cancelled`].
    pub fn push(&mut self, image: &Image, run: &mut Run) -> Result<ConceptMasks> {
        let frame = self.record.next;
        check_size(&mut self.record.size, frame, image.size())?;
        let embedding = self.model.encode_image(image, run)?;
        let options = concept::Options {
            threshold: self.options.threshold,
            nms: Some(self.options.nms),
            ..concept::Options::default()
        };
        let found = concept::predict(self.model, &embedding, &self.prompt, &options, run)?;
        let found = found
            .into_iter()
            .flat_map(|prediction| prediction.instances);
        let objects = run.stage("match", || {
            self.record.follow(found.collect(), &self.options)
        })?;
        self.record.next += 1;
        Ok(ConceptMasks { frame, objects })
    }

    /// The number that the next pushed frame will have.
    pub fn next_frame(&self) -> usize {
        self.record.next
    }

    /// Everything that the session needs to go on, as bytes.
    ///
    /// # Errors
    /// If it cannot be written as JSON.
    pub fn save(&self) -> Result<Vec<u8>> {
        state::to_bytes(&self.record, &state::Tensors::new())
    }

    /// Goes on where a session of the same model, text and options was saved.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for bytes of another model, or that are no session.
    pub fn restore(&mut self, bytes: &[u8]) -> Result<()> {
        let (record, _) = state::from_bytes::<Record>(bytes, self.model.device())?;
        state::check_model(&record.model, self.model.name())?;
        self.record = record;
        Ok(())
    }
}

impl Record {
    /// Goes on with the objects that are known and begins with those that are not.
    fn follow(&mut self, found: Vec<Instance>, options: &Options) -> Result<Vec<ConceptObject>> {
        let frame = self.next;
        self.tracks
            .retain(|track| frame - track.frame <= options.patience);
        let masks = self.tracks.iter().map(|track| track.mask.decode());
        let masks = masks.collect::<Result<Vec<Mask>>>()?;
        let mut owner: Vec<Option<usize>> = vec![None; found.len()];
        for (track, detection) in pairs(&self.tracks, &masks, &found, frame, options) {
            if owner[detection].is_none() && !owner.contains(&Some(track)) {
                owner[detection] = Some(track);
            }
        }
        let mut objects = vec![];
        for (instance, owner) in found.into_iter().zip(owner) {
            let (id, score) = match owner {
                Some(track) => (self.tracks[track].id, self.tracks[track].score),
                None if instance.score >= options.new_threshold => (self.next_id, instance.score),
                None => continue,
            };
            let seen = Track {
                id,
                score,
                mask: Rle::encode(&instance.mask),
                bbox: instance.bbox,
                frame,
            };
            match owner {
                Some(track) => self.tracks[track] = seen,
                None => {
                    self.tracks.push(seen);
                    self.next_id += 1;
                }
            }
            objects.push(ConceptObject {
                id,
                mask: instance.mask,
                bbox: instance.bbox,
                score,
                visible: instance.score,
            });
        }
        objects.sort_by_key(|object| object.id);
        Ok(objects)
    }
}

/// Tracks and detections that may belong together, the likeliest first: those whose masks overlap
/// most, then those that are nearest.
fn pairs(
    tracks: &[Track],
    masks: &[Mask],
    found: &[Instance],
    frame: usize,
    options: &Options,
) -> Vec<(usize, usize)> {
    let mut pairs = vec![];
    for (i, (track, mask)) in tracks.iter().zip(masks).enumerate() {
        let hidden = (frame - track.frame - 1) as f32;
        let reach = options.reach * (1. + hidden / options.reach_frames);
        for (k, instance) in found.iter().enumerate() {
            let distance = distance(track.bbox, instance.bbox);
            let overlap = mask.iou(&instance.mask);
            if overlap > 0. || distance <= reach {
                pairs.push((overlap, distance, i, k));
            }
        }
    }
    pairs.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.total_cmp(&b.1)));
    pairs.into_iter().map(|(.., i, k)| (i, k)).collect()
}

/// From center to center, in diagonals of the larger box: that of an object that is half hidden is
/// small.
fn distance(a: BoxXyxy, b: BoxXyxy) -> f32 {
    let center = |b: BoxXyxy| [(b.x0 + b.x1) / 2., (b.y0 + b.y1) / 2.];
    let ([ax, ay], [bx, by]) = (center(a), center(b));
    let diagonal = |b: BoxXyxy| b.width().hypot(b.height());
    (ax - bx).hypot(ay - by) / diagonal(a).max(diagonal(b)).max(1.)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(x: usize, score: f32) -> Instance {
        let mask = Mask::from_fn(100, 20, |px, py| (x..x + 10).contains(&px) && py < 10);
        let bbox = mask.bbox().unwrap();
        Instance { mask, bbox, score }
    }

    fn ids(record: &mut Record, found: Vec<Instance>) -> Vec<(u32, usize)> {
        let objects = record.follow(found, &Options::default()).unwrap();
        record.next += 1;
        let left = |object: &ConceptObject| object.bbox.x0 as usize;
        objects
            .iter()
            .map(|object| (object.id, left(object)))
            .collect()
    }

    #[test]
    fn an_object_that_was_hidden_has_its_number_back() {
        let mut record = Record::default();
        assert_eq!(
            ids(&mut record, vec![instance(0, 0.9), instance(50, 0.8)]),
            [(0, 0), (1, 50)]
        );
        assert_eq!(
            ids(&mut record, vec![instance(53, 0.6), instance(4, 0.9)]),
            [(0, 4), (1, 53)]
        );
        for _ in 0..6 {
            assert_eq!(ids(&mut record, vec![instance(53, 0.9)]), [(1, 53)]);
        }
        let found = vec![instance(53, 0.9), instance(24, 0.9)];
        assert_eq!(ids(&mut record, found), [(0, 24), (1, 53)]);
    }

    #[test]
    fn what_is_far_away_is_another_object_if_it_is_certain() {
        let mut record = Record::default();
        ids(&mut record, vec![instance(0, 0.9)]);
        assert_eq!(ids(&mut record, vec![instance(60, 0.6)]), []);
        assert_eq!(ids(&mut record, vec![instance(60, 0.7)]), [(1, 60)]);
        record.next += Options::default().patience;
        assert_eq!(ids(&mut record, vec![instance(60, 0.9)]), [(2, 60)]);
    }

    #[test]
    fn options_out_of_range_are_refused() {
        let wrong = Options {
            nms: 2.,
            ..Options::default()
        };
        assert!(
            wrong
                .validate()
                .unwrap_err()
                .to_string()
                .contains("nms is 2")
        );
        let wrong = Options {
            reach: f32::NAN,
            ..Options::default()
        };
        assert!(wrong.validate().is_err());
    }
}
