//! A recorded run of another implementation: inputs, and what each stage made of them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use candle::{DType, Device, Tensor};
use serde::Deserialize;

use crate::device::download;
use crate::image::Image;
use crate::mask::{BoxXyxy, Mask};
use crate::models::{Point, VisualPrompt};
use crate::predict::concept::{Exemplar, Prompt};
use crate::weights::Checkpoint;
use crate::{Error, Result};

/// A recorded run, opened but not read; `tools/reference/README.md` describes the file.
#[derive(Debug)]
pub struct Reference {
    tensors: Checkpoint,
    concepts: Vec<ConceptPrompt>,
    clicks: Vec<ClickEntry>,
    image: Image,
    /// The tensors that were compared or fed to a stage.
    read: Mutex<BTreeSet<String>>,
}

/// A prompt as the metadata has it.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum Entry {
    Clicks(Clicks),
    Concept(Concept),
}

#[derive(Debug, Clone, Deserialize)]
struct Clicks {
    points_xy_px: Vec<[f32; 2]>,
    point_labels: Vec<u8>,
    #[serde(default)]
    box_xyxy_px: Option<[f32; 4]>,
    #[serde(default)]
    multimask: bool,
}

#[derive(Debug, Clone, Deserialize)]
struct Concept {
    text: String,
    #[serde(default)]
    boxes_xyxy_px: Vec<[f32; 4]>,
    #[serde(default)]
    labels: Vec<u8>,
    /// False where the other implementation assembles prompts in its own way, so that only single
    /// stages can be compared.
    #[serde(default = "yes")]
    end_to_end: bool,
}

fn yes() -> bool {
    true
}

/// A text or exemplar prompt of a reference.
#[derive(Debug, Clone)]
pub(super) struct ConceptPrompt {
    pub(super) name: String,
    pub(super) prompt: Prompt,
    pub(super) end_to_end: bool,
}

/// Points and a box for one object.
#[derive(Debug, Clone)]
pub(super) struct ClickEntry {
    pub(super) name: String,
    pub(super) prompt: VisualPrompt,
    pub(super) multimask: bool,
}

/// The text of a prompt of exemplars alone.
const VISUAL: &str = "visual";

impl Reference {
    /// Opens a reference and checks its metadata and its image.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if it is no reference, saying how to make one; as
    /// [`Checkpoint::open`] otherwise.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let tensors = Checkpoint::open(path)?;
        let problem = |problem: String| {
            let hint = "tools/reference/dump_reference.py writes a complete one";
            Error::checkpoint(tensors.path(), format!("{problem}; {hint}"))
        };
        let Some(json) = tensors.metadata().get("prompts") else {
            return Err(problem(
                "no reference: its metadata has no `prompts`".into(),
            ));
        };
        let prompts: BTreeMap<String, Entry> = serde_json::from_str(json)
            .map_err(|e| problem(format!("`prompts` in its metadata: {e}")))?;
        if prompts.is_empty() {
            return Err(problem("a reference without a prompt".into()));
        }
        let (mut concepts, mut clicks) = (vec![], vec![]);
        for (name, entry) in prompts {
            if let Some(what) = entry.problem() {
                return Err(problem(format!("prompt `{name}`: {what}")));
            }
            match entry {
                Entry::Concept(concept) => concepts.push(concept.prompt(name)),
                Entry::Clicks(entry) => clicks.push(entry.prompt(name)),
            }
        }
        let &[height, width, 3] = tensors.shape("image").unwrap_or_default() else {
            return Err(problem("no `image` of shape (height, width, 3)".into()));
        };
        let image = read(&tensors, "image", DType::U8, &Device::Cpu)?;
        let image = Image::from_rgb8(width, height, download::<u8>(&image)?)?;
        Ok(Self {
            tensors,
            concepts,
            clicks,
            image,
            read: Mutex::new(BTreeSet::from(["image".to_string()])),
        })
    }

    /// The image that everything was computed from.
    pub fn image(&self) -> &Image {
        &self.image
    }

    /// True if any prompt has points or a box, so that the model needs its interactive head.
    pub fn has_clicks(&self) -> bool {
        !self.clicks.is_empty()
    }

    /// The tensors that no comparison looked at yet, sorted.
    pub fn unread(&self) -> Vec<&str> {
        let read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let names = self.tensors.names().into_iter();
        names.filter(|name| !read.contains(*name)).collect()
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.tensors.contains(name)
    }

    /// Fails if any of these tensors is not there, naming all that are not.
    pub(super) fn require(&self, names: &[String]) -> Result<()> {
        let missing = self.tensors.missing(names);
        if missing.is_empty() {
            return Ok(());
        }
        let problem = format!(
            "the reference lacks {}; tools/reference/dump_reference.py writes a complete one",
            missing.join(", ")
        );
        Err(Error::checkpoint(self.tensors.path(), problem))
    }

    pub(super) fn tensor(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        let mut seen = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        seen.insert(name.to_string());
        drop(seen);
        read(&self.tensors, name, dtype, device)
    }

    /// The tensor's elements.
    pub(super) fn values(&self, name: &str) -> Result<Vec<f32>> {
        let tensor = self.tensor(name, DType::F32, &Device::Cpu)?;
        Ok(download(&tensor)?)
    }

    /// Masks at the size of the image, which are stored eight pixels to a byte.
    pub(super) fn masks(&self, name: &str) -> Result<Vec<Mask>> {
        let packed = self.tensor(name, DType::U8, &Device::Cpu)?;
        let packed: Vec<u8> = download(&packed)?;
        let (width, height) = (self.image.width(), self.image.height());
        let pixels = width * height;
        let bit = |at: usize| packed[at / 8] >> (7 - at % 8) & 1 == 1;
        let count = packed.len() * 8 / pixels;
        if (count * pixels).div_ceil(8) != packed.len() {
            let bytes = packed.len();
            let problem =
                format!("`{name}` has {bytes} bytes, not those of {width} x {height} masks");
            return Err(Error::checkpoint(self.tensors.path(), problem));
        }
        let mask = |i: usize| Mask::from_fn(width, height, |x, y| bit(i * pixels + y * width + x));
        Ok((0..count).map(mask).collect())
    }

    pub(super) fn concepts(&self) -> &[ConceptPrompt] {
        &self.concepts
    }

    pub(super) fn clicks(&self) -> &[ClickEntry] {
        &self.clicks
    }
}

fn read(tensors: &Checkpoint, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
    Ok(tensors.var_builder(dtype, device).get_unchecked(name)?)
}

impl Entry {
    /// What is not as `dump_reference.py` writes it, and would be left out of the comparison.
    fn problem(&self) -> Option<String> {
        let (many, labels, numbers) = match self {
            Self::Clicks(clicks) => {
                let (points, bbox) = (&clicks.points_xy_px, clicks.box_xyxy_px.as_slice());
                let numbers = [points.as_flattened(), bbox.as_flattened()].concat();
                (points.len(), &clicks.point_labels, numbers)
            }
            Self::Concept(concept) => {
                let boxes = &concept.boxes_xyxy_px;
                (boxes.len(), &concept.labels, boxes.as_flattened().to_vec())
            }
        };
        if many != labels.len() {
            let labels = labels.len();
            return Some(format!("{many} points or boxes have {labels} labels"));
        }
        if let Some(label) = labels.iter().find(|label| **label > 1) {
            return Some(format!("the label {label} is neither 0 nor 1"));
        }
        let odd = numbers.into_iter().find(|number| !number.is_finite());
        odd.map(|number| format!("the coordinate {number}"))
    }
}

impl Concept {
    fn prompt(self, name: String) -> ConceptPrompt {
        let boxes = self.boxes_xyxy_px.into_iter().zip(self.labels);
        let exemplars = boxes.map(|(corners, label)| Exemplar {
            bbox: corners.into(),
            positive: label == 1,
        });
        let exemplars: Vec<_> = exemplars.collect();
        let is_visual = self.text == VISUAL && !exemplars.is_empty();
        ConceptPrompt {
            name,
            prompt: Prompt {
                text: (!is_visual).then_some(self.text),
                exemplars,
                threshold: None,
            },
            end_to_end: self.end_to_end,
        }
    }
}

impl Clicks {
    fn prompt(self, name: String) -> ClickEntry {
        let points = self.points_xy_px.into_iter().zip(self.point_labels);
        let points = points.map(|(xy, label)| Point {
            xy,
            on_object: label == 1,
        });
        ClickEntry {
            name,
            prompt: VisualPrompt {
                points: points.collect(),
                bbox: self.box_xyxy_px.map(BoxXyxy::from),
                mask_logits: None,
            },
            multimask: self.multimask,
        }
    }
}
