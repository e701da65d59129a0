//! Following one object without a memory: the last mask is the next prompt.
//!
//! For models without a tracker, as SAM 1 and MobileSAM. Each frame is prompted with the logits of
//! the one before and with the point deepest inside its mask: logits alone drift within ten frames,
//! because the decoder trusts the old outline. Nothing is known of occlusions, and of two objects
//! alike either may be followed.

use candle::{Device, Tensor};
use serde::{Deserialize, Serialize};

use super::frames::check_size;
use super::{FrameMasks, ObjectMask, state};
use crate::device::download;
use crate::image::Image;
use crate::mask::{Mask, Rle};
use crate::models::{InteractiveModel, VisualPrompt};
use crate::predict::interactive::{self, MaskPrediction, Multimask};
use crate::{Result, Run, Size};

/// When an object counts as lost.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Options {
    /// IoU of the masks on two frames, one after the other, at least this.
    pub min_overlap: f32,
    /// Predicted IoU of the mask, at least this.
    pub min_iou_score: f32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            min_overlap: 0.3,
            min_iou_score: 0.5,
        }
    }
}

/// Why an object is no longer followed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum Lost {
    /// Its mask is empty.
    Empty,
    /// Its mask has this IoU with the one before.
    Jumped(f32),
    /// The model predicts this IoU for its mask.
    Unsure(f32),
    /// The model says that there is no object; the logit.
    Absent(f32),
}

/// Objects that are followed, each from a prompt on some frame.
pub struct SimpleSession<'m> {
    model: &'m dyn InteractiveModel,
    options: Options,
    objects: Vec<Followed>,
    size: Option<Size>,
    next: usize,
}

struct Followed {
    id: u32,
    last: MaskPrediction,
    object_score: Option<f32>,
    lost: Option<(usize, Lost)>,
}

impl<'m> SimpleSession<'m> {
    /// A session without objects.
    pub fn new(model: &'m dyn InteractiveModel, options: Options) -> Self {
        Self {
            model,
            options,
            objects: vec![],
            size: None,
            next: 0,
        }
    }

    /// Takes the next frame: follows the objects there are, and starts with those that are prompted
    /// on it. A prompt for an object that is followed, or was lost, starts anew.
    ///
    /// # Errors
    /// [`crate::Error::InvalidImage`] for a frame of another size than the first;
    /// [`crate::Error::InvalidPrompt`] for a prompt that is empty or outside; [`crate::Error::Cancelled`].
    pub fn push(
        &mut self,
        image: &Image,
        prompts: &[(u32, VisualPrompt)],
        run: &mut Run,
    ) -> Result<FrameMasks> {
        let frame = self.next;
        check_size(&mut self.size, frame, image.size())?;
        let embedding = self.model.encode_interactive(image, run)?;
        let single = interactive::Options {
            multimask: Multimask::One,
            ..interactive::Options::default()
        };
        let followed: Vec<usize> = (0..self.objects.len())
            .filter(|i| self.objects[*i].lost.is_none())
            .filter(|i| prompts.iter().all(|(id, _)| *id != self.objects[*i].id))
            .collect();
        let next: Vec<VisualPrompt> = followed
            .iter()
            .filter_map(|i| next_prompt(&self.objects[*i].last))
            .collect();
        let found = interactive::predict(self.model, &embedding, &next, &single, run)?;
        for (i, prediction) in followed.into_iter().zip(found) {
            let object = &mut self.objects[i];
            let object_score = prediction.object_score;
            let Some(mask) = prediction.masks.into_iter().next() else {
                continue;
            };
            object.lost = self
                .options
                .lost(&object.last.mask, &mask, object_score)
                .map(|why| (frame, why));
            object.object_score = object_score;
            object.last = mask;
        }
        let asked: Vec<VisualPrompt> = prompts.iter().map(|(_, prompt)| prompt.clone()).collect();
        let options = interactive::Options::default();
        let found = interactive::predict(self.model, &embedding, &asked, &options, run)?;
        for ((id, _), prediction) in prompts.iter().zip(found) {
            let Some(best) = prediction.best().cloned() else {
                continue;
            };
            self.objects.retain(|object| object.id != *id);
            let empty = best.mask.is_empty().then_some((frame, Lost::Empty));
            self.objects.push(Followed {
                id: *id,
                last: best,
                object_score: prediction.object_score,
                lost: empty,
            });
        }
        self.next += 1;
        Ok(self.masks(frame))
    }

    /// The objects that are no longer followed: since which frame, and why.
    pub fn lost(&self) -> impl Iterator<Item = (u32, usize, Lost)> + '_ {
        let lost = |object: &Followed| object.lost.map(|(frame, why)| (object.id, frame, why));
        self.objects.iter().filter_map(lost)
    }

    /// The number that the next pushed frame will have.
    pub fn next_frame(&self) -> usize {
        self.next
    }

    /// Everything that the session needs to go on, as bytes.
    ///
    /// # Errors
    /// If a tensor operation fails.
    pub fn save(&self) -> Result<Vec<u8>> {
        let mut tensors = state::Tensors::new();
        for object in &self.objects {
            let logits = object.last.low_res_logits.clone();
            let logits = Tensor::from_vec(logits, object.last.low_res_logits.len(), &Device::Cpu)?;
            tensors.insert(logits_of(object.id), logits);
        }
        let objects = self.objects.iter().map(|object| ObjectRecord {
            id: object.id,
            mask: Rle::encode(&object.last.mask),
            iou_score: object.last.iou_score,
            stability_score: object.last.stability_score,
            object_score: object.object_score,
            lost: object.lost,
        });
        let record = Record {
            model: self.model.name().to_string(),
            objects: objects.collect(),
            size: self.size,
            next: self.next,
        };
        state::to_bytes(&record, &tensors)
    }

    /// Goes on where a session of the same model and options was saved; what this one had is
    /// forgotten.
    ///
    /// # Errors
    /// [`crate::Error::InvalidArgument`] for bytes of another model, or that are no session.
    pub fn restore(&mut self, bytes: &[u8]) -> Result<()> {
        let (record, tensors) = state::from_bytes::<Record>(bytes, &Device::Cpu)?;
        state::check_model(&record.model, self.model.name())?;
        let objects = record.objects.into_iter().map(|object| {
            let logits = tensors.get(&logits_of(object.id));
            let logits = logits.ok_or_else(|| state::broken("the logits of an object are missing"));
            Ok(Followed {
                id: object.id,
                last: MaskPrediction {
                    mask: object.mask.decode()?,
                    iou_score: object.iou_score,
                    stability_score: object.stability_score,
                    low_res_logits: download(logits?)?,
                },
                object_score: object.object_score,
                lost: object.lost,
            })
        });
        self.objects = objects.collect::<Result<_>>()?;
        self.size = record.size;
        self.next = record.next;
        Ok(())
    }

    fn masks(&self, frame: usize) -> FrameMasks {
        let followed = self.objects.iter().filter(|object| object.lost.is_none());
        let mut objects: Vec<ObjectMask> = followed
            .map(|object| ObjectMask {
                id: object.id,
                mask: object.last.mask.clone(),
                object_score: object.object_score,
                iou_score: object.last.iou_score,
            })
            .collect();
        objects.sort_by_key(|object| object.id);
        FrameMasks { frame, objects }
    }
}

/// What is saved of a session besides logits.
#[derive(Serialize, Deserialize)]
struct Record {
    model: String,
    objects: Vec<ObjectRecord>,
    size: Option<Size>,
    next: usize,
}

#[derive(Serialize, Deserialize)]
struct ObjectRecord {
    id: u32,
    mask: Rle,
    iou_score: f32,
    stability_score: f32,
    object_score: Option<f32>,
    lost: Option<(usize, Lost)>,
}

fn logits_of(id: u32) -> String {
    format!("objects.{id}.low_res_logits")
}

impl Options {
    fn lost(&self, before: &Mask, now: &MaskPrediction, object_score: Option<f32>) -> Option<Lost> {
        let overlap = before.iou(&now.mask);
        match object_score {
            Some(score) if score <= 0. => Some(Lost::Absent(score)),
            _ if now.mask.is_empty() => Some(Lost::Empty),
            _ if overlap < self.min_overlap => Some(Lost::Jumped(overlap)),
            _ if now.iou_score < self.min_iou_score => Some(Lost::Unsure(now.iou_score)),
            _ => None,
        }
    }
}

/// The logits of a mask, and the point deepest inside it.
fn next_prompt(last: &MaskPrediction) -> Option<VisualPrompt> {
    let [x, y] = deepest(&last.mask)?;
    let point = VisualPrompt::point(x as f32 + 0.5, y as f32 + 0.5);
    Some(point.from_logits(last.low_res_logits.clone()))
}

/// The pixel of a mask that is farthest from its edge, the first by rows; steps along and across
/// count 3, diagonal ones 4.
fn deepest(mask: &Mask) -> Option<[usize; 2]> {
    let (width, height) = (mask.width() + 2, mask.height() + 2); // with a frame outside
    let mut depth = vec![0u32; width * height];
    let (side, corner) = (3, 4);
    for y in 1..height - 1 {
        for x in 1..width - 1 {
            if mask.get(x - 1, y - 1) {
                let above = (y - 1) * width + x;
                let near = depth[above].min(depth[y * width + x - 1]) + side;
                let far = depth[above - 1].min(depth[above + 1]) + corner;
                depth[y * width + x] = near.min(far);
            }
        }
    }
    let mut best: Option<([usize; 2], u32)> = None;
    for y in (1..height - 1).rev() {
        for x in (1..width - 1).rev() {
            let at = y * width + x;
            if depth[at] > 0 {
                let near = depth[at + width].min(depth[at + 1]) + side;
                let far = depth[at + width - 1].min(depth[at + width + 1]) + corner;
                depth[at] = depth[at].min(near).min(far);
                if best.is_none_or(|(_, most)| depth[at] >= most) {
                    best = Some(([x - 1, y - 1], depth[at]));
                }
            }
        }
    }
    best.map(|(xy, _)| xy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deepest_pixel_is_in_the_thick_part() {
        // a bar with a square at its end
        let mask = Mask::from_fn(30, 20, |x, y| {
            (x < 20 && y == 10) || (20..29).contains(&x) && (6..15).contains(&y)
        });
        assert_eq!(deepest(&mask), Some([24, 10]));
        assert_eq!(deepest(&Mask::new(5, 5)), None);
        assert_eq!(deepest(&Mask::from_fn(1, 1, |_, _| true)), Some([0, 0]));
    }

    #[test]
    fn an_object_is_lost_for_a_reason() {
        let left = Mask::from_fn(10, 10, |x, _| x < 5);
        let right = Mask::from_fn(10, 10, |x, _| x >= 5);
        let now = |mask: &Mask, iou_score| MaskPrediction {
            mask: mask.clone(),
            iou_score,
            stability_score: 1.,
            low_res_logits: vec![],
        };
        let options = Options::default();
        assert_eq!(options.lost(&left, &now(&left, 0.9), Some(3.)), None);
        assert_eq!(
            options.lost(&left, &now(&right, 0.9), None),
            Some(Lost::Jumped(0.))
        );
        assert_eq!(
            options.lost(&left, &now(&left, 0.4), None),
            Some(Lost::Unsure(0.4))
        );
        assert_eq!(
            options.lost(&left, &now(&Mask::new(10, 10), 0.9), None),
            Some(Lost::Empty)
        );
        assert_eq!(
            options.lost(&left, &now(&left, 0.9), Some(-1.)),
            Some(Lost::Absent(-1.))
        );
    }
}
