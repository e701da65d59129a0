//! Sessions as bytes, to go on with another time.
//!
//! A safetensors file: memories, pointers and masks as tensors, all else as JSON in its metadata.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use candle::{Device, Tensor};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::group::{Group, Object};
use crate::models::head::Label;
use crate::models::tracker::{Entry, LabeledPoint, MemoryBank, Slots};
use crate::{Error, Result};

/// Key of the JSON in the metadata; the number changes with its form.
const KEY: &str = "candle_sam3.video.3";

/// A group without its tensors.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct GroupRecord {
    started: bool,
    objects: Vec<ObjectRecord>,
    slots: Slots,
    entries: Vec<EntryRecord>,
    tracked: BTreeMap<usize, bool>,
}

#[derive(Debug, Serialize, Deserialize)]
struct ObjectRecord {
    id: u32,
    points: BTreeMap<usize, Vec<([f32; 2], u8)>>,
    masks: BTreeSet<usize>,
}

#[derive(Debug, Serialize, Deserialize)]
struct EntryRecord {
    frame: usize,
    is_cond: bool,
    object_scores: Vec<f32>,
    iou_scores: Vec<f32>,
    prompted: BTreeSet<u32>,
    quality: Option<f32>,
}

const LABELS: [Label; 5] = [
    Label::Padding,
    Label::Negative,
    Label::Positive,
    Label::TopLeft,
    Label::BottomRight,
];

/// Tensors by name.
pub(super) type Tensors = HashMap<String, Tensor>;

/// Takes a group apart. Answers to prompts that are not remembered yet are not part of it.
pub(super) fn record_group(group: &Group, number: usize, tensors: &mut Tensors) -> GroupRecord {
    let point = |(xy, label): &LabeledPoint| (*xy, *label as u8);
    let on_frame = |(t, points): (&usize, &Vec<_>)| (*t, points.iter().map(point).collect());
    let object = |object: &Object| ObjectRecord {
        id: object.id,
        points: object.points.iter().map(on_frame).collect(),
        masks: object.masks.clone(),
    };
    let entries = group.bank.entries();
    let entries = entries
        .map(|(frame, is_cond, entry)| {
            for (part, tensor) in [
                ("memory", entry.memory.as_ref()),
                ("pointers", Some(&entry.pointers)),
                ("low_res_logits", entry.low_res_logits.as_ref()),
                ("features", entry.features.as_ref()),
            ] {
                if let Some(tensor) = tensor {
                    tensors.insert(name(number, frame, part), tensor.clone());
                }
            }
            EntryRecord {
                frame,
                is_cond,
                object_scores: entry.object_scores.clone(),
                iou_scores: entry.iou_scores.clone(),
                prompted: entry.prompted.clone(),
                quality: entry.quality,
            }
        })
        .collect();
    GroupRecord {
        started: group.started,
        objects: group.objects.iter().map(object).collect(),
        slots: group.slots.clone(),
        entries,
        tracked: group.tracked.clone(),
    }
}

/// Puts a group together again.
///
/// # Errors
/// [`Error::InvalidArgument`] for a tensor that is missing or of another number of objects, and for
/// buckets of another width than `slots`.
pub(super) fn restore_group(
    record: GroupRecord,
    number: usize,
    tensors: &Tensors,
    slots: usize,
) -> Result<Group> {
    let objects = record.objects.into_iter().map(|object| {
        let mut restored = Object::new(object.id);
        restored.masks = object.masks;
        for (t, points) in object.points {
            let label = |label: u8| LABELS.get(usize::from(label)).copied();
            let points = points.into_iter().map(|(xy, l)| Some((xy, label(l)?)));
            let points = points.collect::<Option<_>>();
            let points = points.ok_or_else(|| broken("an unknown label"))?;
            restored.points.insert(t, points);
        }
        Ok(restored)
    });
    let objects = objects.collect::<Result<Vec<_>>>()?;
    if !record.slots.is_sound(slots, objects.len()) {
        return Err(broken(
            "the slots of its objects are those of another tracker",
        ));
    }
    let mut bank = MemoryBank::default();
    for entry in record.entries {
        let tensor = |part: &str| tensors.get(&name(number, entry.frame, part)).cloned();
        let restored = Entry {
            low_res_logits: tensor("low_res_logits"),
            pointers: tensor("pointers").ok_or_else(|| broken("a pointer is missing"))?,
            object_scores: entry.object_scores,
            iou_scores: entry.iou_scores,
            memory: tensor("memory"),
            features: tensor("features"),
            prompted: entry.prompted,
            quality: entry.quality,
        };
        let (buckets, slots) = (record.slots.buckets(), &record.slots);
        let rows = |t: &Tensor| t.dims().first().copied().unwrap_or_default();
        let is_sound = restored.object_scores.len() <= objects.len()
            && restored.iou_scores.len() == restored.object_scores.len()
            && rows(&restored.pointers) == buckets * slots.width()
            && restored.memory.iter().all(|t| rows(t) == buckets)
            && (restored.low_res_logits.iter()).all(|t| rows(t) == restored.object_scores.len());
        if !is_sound {
            return Err(broken("a frame has another number of objects"));
        }
        match entry.is_cond {
            true => bank.insert_cond(entry.frame, restored),
            false => bank.insert_ordinary(entry.frame, restored),
        }
    }
    Ok(Group {
        objects,
        slots: record.slots,
        bank,
        frames: BTreeMap::new(),
        started: record.started,
        tracked: record.tracked,
    })
}

fn name(group: usize, frame: usize, part: &str) -> String {
    format!("groups.{group}.frames.{frame}.{part}")
}

/// A session that cannot be restored.
pub(super) fn broken(why: &str) -> Error {
    Error::InvalidArgument(format!("the saved session: {why}"))
}

/// The bytes of a session.
pub(super) fn to_bytes(record: &impl Serialize, tensors: &Tensors) -> Result<Vec<u8>> {
    let json = serde_json::to_string(record).map_err(|e| broken(&e.to_string()))?;
    let metadata = HashMap::from([(KEY.to_string(), json)]);
    let tensors = tensors.iter();
    let tensors = tensors.map(|(name, t)| Ok((name.as_str(), t.contiguous()?)));
    let tensors = tensors.collect::<candle::Result<Vec<_>>>()?;
    safetensors::serialize(tensors, Some(metadata)).map_err(|e| Error::Tensor(e.into()))
}

/// What [`to_bytes`] wrote.
///
/// # Errors
/// [`Error::InvalidArgument`] for other bytes.
pub(super) fn from_bytes<R: DeserializeOwned>(
    bytes: &[u8],
    device: &Device,
) -> Result<(R, Tensors)> {
    let (_, header) =
        safetensors::SafeTensors::read_metadata(bytes).map_err(|e| broken(&e.to_string()))?;
    let json = header.metadata().as_ref().and_then(|m| m.get(KEY));
    let json = json.ok_or_else(|| broken("it was written by another version, or is none"))?;
    let record = serde_json::from_str(json).map_err(|e| broken(&e.to_string()))?;
    Ok((record, candle::safetensors::load_buffer(bytes, device)?))
}

/// Checks that a session was saved with this model.
///
/// # Errors
/// [`Error::InvalidArgument`] if it was another.
pub(super) fn check_model(saved: &str, now: &str) -> Result<()> {
    match saved == now {
        true => Ok(()),
        false => Err(broken(&format!(
            "it was saved with {saved}, and this is {now}"
        ))),
    }
}
