//! What a checkpoint holds, part by part, and whether a model can be made of it.
//!
//! Easy to get wrong: there is no separate list of what is complete, missing or unused: the report
//! comes from a dry build of the model.

use std::collections::BTreeMap;

use super::variant::{Family, PromptKind};
use super::{sam, sam2, sam3};
use crate::weights::{Checkpoint, Stored, Survey, matches};
use crate::{Error, Result};

/// What a checkpoint holds.
#[derive(Debug, Clone)]
pub struct Inspection {
    /// What a model loaded from it is called; `None` if nothing here knows it.
    pub model: Option<String>,
    /// Its kind.
    pub family: Option<Family>,
    /// The prompts that it can answer.
    pub prompts: Vec<PromptKind>,
    /// Whether it follows objects through a video with a memory.
    pub video: bool,
    /// Why it cannot be loaded.
    pub problem: Option<String>,
    /// Its parts. Together they have every tensor of the file.
    pub components: Vec<Component>,
}

/// A part of a model, or the tensors of that part which share a fate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Component {
    /// What it is called, as in "text encoder".
    pub name: String,
    /// Tensors in the file.
    pub tensors: usize,
    /// Elements of these tensors.
    pub elements: usize,
    /// Bytes of these tensors.
    pub bytes: usize,
    /// What becomes of it.
    pub status: Status,
}

/// What becomes of a component when the model is loaded.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Status {
    /// Everything the model asks for is there.
    Complete,
    /// The model asks for more: official names, with both shapes where only these differ.
    Missing(Vec<String>),
    /// Read to follow objects through a video.
    Video,
    /// The model does not read it, and why.
    Unused(&'static str),
    /// No model here reads it.
    Unknown,
}

/// What loading for every kind of prompt that the file has parts for would read.
pub(super) struct Reading {
    pub(super) name: String,
    pub(super) prompts: Vec<PromptKind>,
    pub(super) survey: Survey,
    /// (part, why) of what is left unread on purpose.
    pub(super) left_out: Vec<(&'static str, &'static str)>,
    /// Whether all of the tracker is there.
    pub(super) video: bool,
    /// Parts that are left unread until a video is to be segmented.
    pub(super) only_video: Vec<&'static str>,
    /// What to do about something missing.
    pub(super) hint: Option<&'static str>,
}

const SURPLUS: &str = "belongs to no part of the model";

/// (part, component), in the order in which they are shown; the first match wins.
const COMPONENTS: &[(&str, &str)] = &[
    (STUDENT, "image encoder"),
    (TRUNK, "image encoder"),
    ("detector.backbone.vision_backbone.convs", "neck"),
    ("detector.backbone.vision_backbone.sam2_convs", "click neck"),
    (
        "detector.backbone.vision_backbone.interactive_convs",
        "click neck",
    ),
    (
        "detector.backbone.vision_backbone.propagation_convs",
        "tracker neck",
    ),
    ("detector.backbone.language_backbone", "text encoder"),
    ("detector.geometry_encoder", "geometry encoder"),
    ("detector.transformer.encoder", "fusion encoder"),
    ("detector.transformer.decoder", "decoder"),
    ("detector.dot_prod_scoring", "scoring"),
    ("detector.segmentation_head", "segmentation head"),
    ("tracker.sam_prompt_encoder", "click head"),
    ("tracker.sam_mask_decoder", "click head"),
    ("tracker.no_mem_embed", "click head"),
    ("tracker.model.interactive_sam_prompt_encoder", "click head"),
    ("tracker.model.interactive_sam_mask_decoder", "click head"),
    ("tracker.model.interactivity_no_mem_embed", "click head"),
    ("tracker", "tracker"),
    ("image_encoder", "image encoder"),
    ("prompt_encoder", "prompt encoder"),
    ("sam_prompt_encoder", "prompt encoder"),
    ("mask_decoder", "mask decoder"),
    ("sam_mask_decoder", "mask decoder"),
    ("no_mem_embed", "mask decoder"),
    ("memory_attention", "tracker"),
    ("memory_encoder", "tracker"),
    ("maskmem_tpos_enc", "tracker"),
    ("mask_downsample", "tracker"),
    ("no_mem_pos_enc", "tracker"),
    ("no_obj_embed_spatial", "tracker"),
    ("no_obj_ptr", "tracker"),
    ("obj_ptr_proj", "tracker"),
    ("obj_ptr_tpos_proj", "tracker"),
];

const TRUNK: &str = "detector.backbone.vision_backbone.trunk";
const STUDENT: &str = "detector.backbone.vision_backbone.trunk.model";

/// (stored name, why) of what modules never ask for.
const BUFFERS: &[(&str, &str)] = &[
    (
        "**.freqs_cis*",
        "rotations, computed when the model is built",
    ),
    ("**.num_batches_tracked", "counters of training"),
    ("pixel_mean", "constants"),
    ("pixel_std", "constants"),
];
const COPY: &str = "copies, or for tasks that are not here";

/// Tells what `checkpoint` holds. Nothing but headers is read.
pub fn inspect(checkpoint: &Checkpoint) -> Inspection {
    let (family, reading, refused) = match survey(checkpoint) {
        Ok((family, reading)) => (Some(family), Some(reading), None),
        Err(error) => (None, None, Some(problem_of(error))),
    };
    let mut components = components(checkpoint, reading.as_ref());
    if let Some(reading) = &reading {
        note_missing(&mut components, &reading.survey);
    }
    let problem = match &reading {
        Some(reading) => problem(checkpoint, reading),
        None => refused,
    };
    let video = reading.as_ref().is_some_and(|reading| reading.video);
    let (model, prompts) = match reading {
        Some(reading) => (Some(reading.name), reading.prompts),
        None => (None, vec![]),
    };
    Inspection {
        prompts: if problem.is_none() { prompts } else { vec![] },
        video: problem.is_none() && video,
        components: components.into_values().collect(),
        model,
        family,
        problem,
    }
}

impl Inspection {
    /// Elements of all components.
    pub fn elements(&self) -> usize {
        self.components.iter().map(|c| c.elements).sum()
    }
}

impl Component {
    fn without_tensors(name: String, status: Status) -> Self {
        Self {
            name,
            tensors: 0,
            elements: 0,
            bytes: 0,
            status,
        }
    }
}

/// What no prompt will ever read of a checkpoint. What only video needs is not among it.
#[derive(Debug, Clone)]
pub struct DeadParts(Vec<(&'static str, &'static str)>);

impl DeadParts {
    /// Of the model in `checkpoint`.
    ///
    /// # Errors
    /// As [`Sam3::load`](sam3::Sam3::load) and [`Sam::load`](sam::Sam::load) for a file that is no
    /// model known here; whether the model is complete does not matter.
    pub fn of(checkpoint: &Checkpoint) -> Result<Self> {
        Ok(Self(match Family::of(checkpoint)? {
            Family::Sam3 => sam3::left_out(checkpoint)?,
            Family::Sam2 => sam2::LEFT_OUT.to_vec(),
            Family::Sam => sam::LEFT_OUT.to_vec(),
        }))
    }

    /// Whether the tensor of this official name is dead.
    pub fn contains(&self, name: &str) -> bool {
        let mut parts = self.0.iter();
        parts.any(|(part, _)| matches(name, part).is_some())
    }
}

fn survey(checkpoint: &Checkpoint) -> Result<(Family, Reading)> {
    let family = Family::of(checkpoint)?;
    let reading = match family {
        Family::Sam3 => sam3::survey(checkpoint)?,
        Family::Sam2 => sam2::survey(checkpoint)?,
        Family::Sam => sam::survey(checkpoint)?,
    };
    Ok((family, reading))
}

/// Without the path, which whoever asked knows.
fn problem_of(error: Error) -> String {
    match error {
        Error::Checkpoint { problem, .. } => problem,
        other => other.to_string(),
    }
}

fn problem(checkpoint: &Checkpoint, reading: &Reading) -> Option<String> {
    if let Some(hint) = reading.hint {
        return Some(hint.into());
    }
    let unused = reading.left_out.iter().map(|(part, _)| *part);
    let left_out: Vec<_> = unused.chain(reading.only_video.iter().copied()).collect();
    let compared = checkpoint.compare(&reading.survey, &left_out);
    compared.err().map(problem_of)
}

/// What becomes of a tensor that modules can ask for.
fn fate(name: &str, reading: &Reading) -> Status {
    if reading.survey.read.contains(name) || is_misshaped(name, &reading.survey) {
        return Status::Complete;
    }
    let mut left_out = reading.left_out.iter();
    if let Some((_, why)) = left_out.find(|(part, _)| matches(name, part).is_some()) {
        return Status::Unused(why);
    }
    let mut only_video = reading.only_video.iter();
    match only_video.any(|part| matches(name, part).is_some()) {
        true => Status::Video,
        false => Status::Unused(SURPLUS),
    }
}

fn is_misshaped(name: &str, survey: &Survey) -> bool {
    survey.misshaped.iter().any(|(other, ..)| other == name)
}

/// Sorted by their places in [`COMPONENTS`]; those nobody asks for come last.
type Components = BTreeMap<(usize, Status, String), Component>;

fn components(checkpoint: &Checkpoint, reading: Option<&Reading>) -> Components {
    let mut components = Components::new();
    for tensor in checkpoint.stored() {
        let (place, name, status) = place(&tensor, reading);
        let key = (place, status.clone(), name.clone());
        let component = components.entry(key);
        let component = component.or_insert_with(|| Component::without_tensors(name, status));
        component.tensors += 1;
        component.elements += tensor.elements();
        component.bytes += tensor.bytes;
    }
    components
}

/// Where a tensor belongs, and what becomes of it.
fn place(tensor: &Stored, reading: Option<&Reading>) -> (usize, String, Status) {
    let last = COMPONENTS.len();
    let Some(name) = tensor.asked.first() else {
        let mut buffers = BUFFERS.iter();
        let why = buffers.find(|(part, _)| matches(&tensor.name, part).is_some());
        let why = why.map_or(COPY, |(_, why)| why);
        return (last + 1, "buffers".into(), Status::Unused(why));
    };
    let status = reading.map_or(Status::Unknown, |reading| fate(name, reading));
    match component(name) {
        Some((place, component)) => (place, component.into(), status),
        None => {
            let start: Vec<_> = name.split('.').take(2).collect();
            (last, start.join("."), status)
        }
    }
}

fn component(name: &str) -> Option<(usize, &'static str)> {
    let found = |(part, _): &(&str, _)| matches(name, part).is_some();
    let place = COMPONENTS.iter().position(found)?;
    let component = COMPONENTS[place].1;
    // Several parts may be one component.
    let first = COMPONENTS.iter().position(|(_, other)| *other == component);
    Some((first.unwrap_or(place), component))
}

/// Gives the missing tensors to their components, which may have nothing else.
fn note_missing(components: &mut Components, survey: &Survey) {
    let mut lacking = BTreeMap::<(usize, &str), Vec<String>>::new();
    let absent = survey.missing.iter().map(|name| (name, name.clone()));
    let misshaped = survey.misshaped.iter().map(|(name, got, want)| {
        let text = format!("{name}: {got:?} instead of {want:?}");
        (name, text)
    });
    for (name, text) in absent.chain(misshaped) {
        let place = component(name).unwrap_or((COMPONENTS.len(), "other"));
        lacking.entry(place).or_default().push(text);
    }
    for ((place, name), names) in lacking {
        let key = (place, Status::Complete, name.to_string());
        let component = components.entry(key);
        let component =
            component.or_insert_with(|| Component::without_tensors(name.into(), Status::Complete));
        component.status = Status::Missing(names);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LoadOptions;
    use crate::models::sam3::Sam3;
    use crate::weights::key_lists::key_list;
    use candle::DType;

    type Shapes = Vec<(String, Vec<usize>, DType)>;

    fn inspect_list(shapes: Shapes) -> Inspection {
        inspect(&Checkpoint::from_shapes(shapes).unwrap())
    }

    fn sum(inspection: &Inspection, name: &str) -> usize {
        let components = inspection.components.iter().filter(|c| c.name == name);
        components.map(|c| c.elements).sum()
    }

    /// The trunk of SAM 3 with the rotation tables, which key lists leave out.
    fn dead_trunk() -> Shapes {
        let mut shapes = key_list("sam3");
        shapes.retain(|(name, ..)| name.starts_with(TRUNK));
        for block in 0..32 {
            let name = format!("{TRUNK}.blocks.{block}.attn.freqs_cis");
            let rows = if block % 8 == 7 { 5184 } else { 576 };
            shapes.push((name, vec![rows, 32], DType::F32));
        }
        shapes
    }

    #[test]
    fn the_585_million_of_a_stage_1_file_are_explained_line_by_line() {
        let mut shapes = key_list("efficientsam3_repvit-m0.9_mobileclip-s1");
        shapes.extend(dead_trunk());
        let got = inspect_list(shapes);
        assert_eq!(got.problem, None);
        assert_eq!(got.prompts, PromptKind::answered(true, true));
        assert_eq!(got.elements(), 585_670_291);
        let find = |status: Status| {
            let mut components = got.components.iter();
            components.find(|c| c.status == status).unwrap().elements
        };
        let dead = "SAM 3's own trunk, which the student replaced";
        assert_eq!(find(Status::Unused(dead)), 446_237_696);
        assert_eq!(find(Status::Unused(BUFFERS[0].1)), 1_179_648);
        let tracker = sum(&got, "click head") + sum(&got, "tracker");
        assert_eq!(tracker, 11_743_618);
    }

    #[test]
    fn every_release_is_explained_without_a_rest() {
        for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/keys")).unwrap()
        {
            let file = entry.unwrap().file_name().into_string().unwrap();
            let Some(list) = file
                .strip_suffix(".txt")
                .filter(|l| !l.ends_with("hf_text"))
            else {
                continue;
            };
            let shapes = key_list(list);
            let total: usize = shapes
                .iter()
                .map(|(_, s, _)| s.iter().product::<usize>())
                .sum();
            let got = inspect_list(shapes);
            assert_eq!(got.elements(), total, "{list}");
            assert!(got.model.is_some(), "{list}");
            for component in &got.components {
                let Component { status, name, .. } = component;
                assert_ne!(*status, Status::Unused(SURPLUS), "{list}: {name}");
                assert_ne!(*status, Status::Unknown, "{list}: {name}");
                let is_stage3 = list.ends_with("_stage3");
                match status {
                    Status::Missing(names) => {
                        assert!(is_stage3, "{list}: {names:?}");
                        // 6 of its 76 are for points, which nobody reads
                        assert_eq!((&**name, names.len()), ("geometry encoder", 70));
                    }
                    _ => assert_eq!(got.problem.is_some(), is_stage3, "{list}"),
                }
            }
        }
    }

    #[test]
    fn what_is_missing_misshaped_and_left_over_is_named() {
        let list = "efficientsam3_efficientvit-b0_mobileclip-s1";
        let victim = "detector.transformer.decoder.norm.weight";
        let mut shapes = key_list(list);
        shapes.retain(|(name, ..)| name != victim);
        let bias = "detector.transformer.decoder.norm.bias";
        let odd = shapes.iter_mut().find(|(name, ..)| name == bias);
        odd.unwrap().1 = vec![7];
        let got = inspect_list(shapes);
        let decoder = got.components.iter().find(|c| c.name == "decoder").unwrap();
        let names = vec![victim.to_string(), format!("{bias}: [7] instead of [256]")];
        assert_eq!(decoder.status, Status::Missing(names));
        let problem = got.problem.unwrap();
        assert!(problem.contains("1 tensors are missing"), "{problem}");
        assert!(
            problem.contains("1 tensors have another shape"),
            "{problem}"
        );
        assert!(got.prompts.is_empty());

        let mut shapes = key_list(list);
        shapes.push(("detector.surprise.weight".into(), vec![3], DType::F32));
        let checkpoint = Checkpoint::from_shapes(shapes).unwrap();
        let got = inspect(&checkpoint);
        assert!(got.problem.unwrap().contains("detector.surprise.weight"));
        assert!(Sam3::load(&checkpoint, &LoadOptions::default()).is_err());
    }

    #[test]
    fn a_file_of_another_model_is_listed_and_refused() {
        let name = "vision_tower.blocks.0.norm1.weight";
        let got = inspect_list(vec![(name.into(), vec![5], DType::F32)]);
        assert!(got.problem.unwrap().contains("not a checkpoint of SAM 1"));
        assert_eq!(got.model, None);
        assert_eq!(got.components[0].status, Status::Unknown);
        assert_eq!(got.components[0].elements, 5);
    }

    #[test]
    fn every_tensor_of_sam2_is_a_part_of_the_model_or_for_video() {
        let got = inspect_list(key_list("sam2.1_hiera_tiny_hf"));
        assert_eq!(got.problem, None);
        assert_eq!(got.model.as_deref(), Some("SAM 2.1 Hiera-T"));
        assert_eq!(got.prompts, PromptKind::answered(false, true));
        let of = |status: Status| {
            let components = got.components.iter().filter(|c| c.status == status);
            components.map(|c| c.elements).sum::<usize>()
        };
        // what Hugging Face's image model has, which keeps one matrix twice
        assert_eq!(of(Status::Complete), 31_440_721 + 256);
        assert!(got.video);
        assert_eq!(of(Status::Video), 7_521_521);
    }

    #[test]
    fn what_only_video_needs_is_not_dead() {
        let checkpoint = Checkpoint::from_shapes(key_list("sam3")).unwrap();
        let dead = DeadParts::of(&checkpoint).unwrap();
        assert!(dead.contains("detector.backbone.vision_backbone.convs.3.conv_1x1.weight"));
        assert!(!dead.contains("tracker.maskmem_tpos_enc"));
        assert!(!dead.contains("detector.transformer.decoder.norm.weight"));
        let name = format!("{TRUNK}.blocks.0.norm1.weight");
        assert!(!dead.contains(&name));
        let mut both = key_list("efficientsam3_repvit-m0.9_mobileclip-s1");
        both.extend(dead_trunk());
        let both = Checkpoint::from_shapes(both).unwrap();
        assert!(DeadParts::of(&both).unwrap().contains(&name));
    }
}
