//! A scripted detector and tracker, for comparing decisions with recorded ones.

use std::sync::Mutex;

use candle::{DType, Device, Tensor};
use serde_json::{Value, json};

use super::masks::cut;
use super::matching::Detection;
use crate::Size;
use crate::mask::{Mask, Rle, upsample::threshold_upsampled};
use crate::models::head::ImageTokens;
use crate::models::tracker::{
    ABSENT_LOGIT, Answers, Config, FrameFeatures, Generation, LabeledPoint, MaskProbability,
    Memories, MemoryMasks, Tracker,
};

pub(super) fn read(name: &str) -> Value {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/");
    let bytes = std::fs::read(format!("{folder}{name}.json")).unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

pub(super) fn number(value: &Value) -> usize {
    usize::try_from(value.as_u64().unwrap()).unwrap()
}

pub(super) fn mask(counts: &Value, size: Size) -> Mask {
    let counts: Vec<u32> = serde_json::from_value(counts.clone()).unwrap();
    let document = json!({"size": [size.height, size.width], "counts": counts});
    serde_json::from_value::<Rle>(document)
        .unwrap()
        .decode()
        .unwrap()
}

/// A shape of a world: runs under `mask`, or the corners of a rectangle, or nothing, under `rect`.
pub(super) fn shape(entry: &Value, size: Size) -> Mask {
    if let Some(runs) = entry.get("mask") {
        return mask(runs, size);
    }
    let corners: Option<[usize; 4]> = serde_json::from_value(entry["rect"].clone()).unwrap();
    let [x0, y0, x1, y1] = corners.unwrap_or_default();
    Mask::from_fn(size.width, size.height, |x, y| {
        (x0..x1).contains(&x) && (y0..y1).contains(&y)
    })
}

/// Areas and scores of the masks of a group.
pub(super) type Remembered = (Vec<usize>, Vec<f32>, MaskProbability);

/// What detector and tracker answer, frame by frame.
pub(super) struct World {
    pub(super) record: Value,
    pub(super) actors: Vec<String>,
    pub(super) config: Config,
    pub(super) low_res: Size,
    pub(super) video: Size,
    /// Areas and scores of what was remembered.
    pub(super) remembered: Mutex<Vec<Remembered>>,
}

impl World {
    pub(super) fn new() -> Self {
        let record = read("pcs_world");
        let side = number(&record["low_res"]);
        let video = Size::new(
            number(&record["video"]["width"]),
            number(&record["video"]["height"]),
        );
        Self {
            config: Config::sam3(side / 4, number(&record["image_size"])),
            low_res: Size::square(side),
            video,
            ..Self::of_rectangles(record)
        }
    }

    /// A world of rectangles on frames of 32 x 32 pixels.
    pub(super) fn of_rectangles(record: Value) -> Self {
        let size = Size::square(32);
        Self {
            config: Config::sam3(8, 112),
            low_res: size,
            actors: record["tracks"]
                .as_object()
                .unwrap()
                .keys()
                .cloned()
                .collect(),
            video: size,
            record,
            remembered: Mutex::default(),
        }
    }

    /// The scripted detections of a frame with their actors and queries.
    pub(super) fn found(&self, t: usize) -> Vec<(usize, usize, Detection)> {
        let entries = self.record["detections"][t].as_array().unwrap();
        let detection = |(place, entry): (usize, &Value)| {
            let mask = shape(entry, self.low_res);
            let logit = |inside: u8| if inside > 0 { 8. } else { -8. };
            let logits: Vec<f32> = mask.to_bytes(1).into_iter().map(logit).collect();
            // one is only ever refused, and never tracked
            let actor = self
                .actors
                .iter()
                .position(|a| *a == entry["actor"])
                .unwrap_or(usize::MAX);
            let detection = Detection {
                score: entry["score"].as_f64().unwrap() as f32,
                mask: cut(&logits, self.low_res.width),
                logits,
                is_at_border: entry["border"] == true,
            };
            (actor, entry.get("query").map_or(place, number), detection)
        };
        entries.iter().enumerate().map(detection).collect()
    }

    pub(super) fn frame(&self, t: usize) -> FrameFeatures {
        let tokens = Tensor::new(&[[[t as f32]]], &Device::Cpu).unwrap();
        FrameFeatures::new(ImageTokens::new(tokens, None), self.video)
    }
}

pub(super) fn frame_number(frame: &FrameFeatures) -> usize {
    frame
        .image
        .tokens
        .flatten_all()
        .unwrap()
        .to_vec1::<f32>()
        .unwrap()[0] as usize
}

impl Tracker for World {
    fn config(&self) -> &Config {
        &self.config
    }

    fn prompt(
        &self,
        _: &FrameFeatures,
        _: &[LabeledPoint],
        _: Option<&Tensor>,
        _: Option<Memories>,
    ) -> candle::Result<Answers> {
        candle::bail!("nobody clicks in this world")
    }

    /// The actor whose detection has this mask.
    fn point_to_mask(&self, frame: &FrameFeatures, mask: &Tensor) -> candle::Result<Tensor> {
        let side = self.config.mask_size();
        let given = mask.flatten_all()?.to_vec1::<f32>()?;
        let given = Mask::from_fn(side, side, |x, y| given[y * side + x] > 0.5);
        let found = self.found(frame_number(frame)).into_iter();
        let is_given = found.filter(|(_, _, detection)| {
            let to = Size::square(side);
            threshold_upsampled(&detection.logits, self.low_res, to, 0.).unwrap() == given
        });
        // of equal masks the best is left, and of equal scores the last
        let actor = is_given.max_by(|(_, _, a), (_, _, b)| a.score.total_cmp(&b.score));
        Tensor::new(&[[actor.unwrap().0 as f32]], &Device::Cpu)
    }

    fn track(&self, frame: &FrameFeatures, memory: Memories) -> candle::Result<Answers> {
        let (t, bank) = (frame_number(frame), memory.bank);
        let pointers = match self.config.generation {
            // the actor by which the object was found, on the first frame that it is known on
            Generation::Sam31 => {
                let mut entries: Vec<_> = bank.entries().collect();
                entries.sort_by_key(|(frame, ..)| *frame);
                let first = |object: usize| {
                    let mut entries = entries.iter();
                    let known = entries.find(|(.., entry)| entry.object_scores.len() > object);
                    let row = memory.slots.row(object);
                    known.unwrap().2.pointers.narrow(0, row, 1)
                };
                let rows = (0..memory.slots.places().len()).map(first);
                Tensor::cat(&rows.collect::<candle::Result<Vec<_>>>()?, 0)?
            }
            _ => {
                let first = bank.cond_frames().next().unwrap();
                bank.get(first).unwrap().pointers.clone()
            }
        };
        let (mut logits, mut object_scores, mut iou_scores) = (vec![], vec![], vec![]);
        for actor in pointers.flatten_all()?.to_vec1::<f32>()? {
            let answer = &self.record["tracks"][&self.actors[actor as usize]][t];
            let score = answer["score"].as_f64().unwrap() as f32;
            let mask = shape(answer, self.low_res).to_bytes(1);
            logits.extend(
                mask.into_iter()
                    .map(|inside| match (score > 0., inside > 0) {
                        (false, _) => ABSENT_LOGIT,
                        (true, true) => 6.,
                        (true, false) => -6.,
                    }),
            );
            object_scores.push(score);
            iou_scores.push(answer["iou"].as_f64().unwrap() as f32);
        }
        let side = self.low_res.width;
        Ok(Answers {
            low_res_logits: Tensor::from_vec(
                logits,
                (object_scores.len(), side, side),
                &Device::Cpu,
            )?,
            pointers,
            object_scores,
            iou_scores,
        })
    }

    fn remember(&self, _: &FrameFeatures, masks: &MemoryMasks) -> candle::Result<Tensor> {
        let object_scores = masks.object_scores;
        let maps = masks.logits.flatten_from(1)?.to_vec2::<f32>()?;
        let area = |map: &Vec<f32>| map.iter().filter(|logit| **logit > 0.).count();
        let areas = maps.iter().map(area).collect();
        let mut remembered = self.remembered.lock().unwrap();
        remembered.push((areas, object_scores.to_vec(), masks.probability));
        Tensor::zeros((masks.slots.buckets(), 1, 1), DType::F32, &Device::Cpu)
    }

    fn absent_pointer(&self) -> Tensor {
        Tensor::new(&[[-1f32]], &Device::Cpu).unwrap()
    }
}
