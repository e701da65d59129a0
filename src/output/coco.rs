//! A COCO dataset, as `pycocotools.coco.COCO` loads it.
//!
//! Easy to get wrong: ids begin at 1, because an annotation of id 0 counts as unmatched in
//! evaluation; `iscrowd` and `area` must be there; the box is that of the mask, not the predicted
//! one, because some readers cut the mask with it; and the text is ASCII, because pycocotools opens
//! it in the encoding of the locale.
//! <https://github.com/cocodataset/cocoapi/blob/8c9bcc3cf640524c4c20a9c40e89cb6a2f2fa0e9/PythonAPI/pycocotools/coco.py>

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::ImageResults;
use super::answer::Answer;
use super::dataset::ascii;
use crate::Size;
use crate::error::{Error, Result};
use crate::mask::{Mask, Rle};

/// A dataset of any number of images.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Dataset {
    /// Where it comes from.
    pub info: Info,
    /// Always empty; readers expect the key.
    pub licenses: Vec<String>,
    /// One entry for each image, also for those without an object.
    pub images: Vec<ImageEntry>,
    /// One entry for each object.
    pub annotations: Vec<Annotation>,
    /// One entry for each label.
    pub categories: Vec<Category>,
}

/// Where a [`Dataset`] comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Info {
    /// The program and the model.
    pub description: String,
    /// Version of the program.
    pub version: String,
}

/// An image of a [`Dataset`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageEntry {
    /// From 1.
    pub id: usize,
    /// Its name, relative to the folder of images.
    pub file_name: String,
    /// Pixels per row.
    pub width: usize,
    /// Number of rows.
    pub height: usize,
    /// See [`ImageResults::source`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}

/// An object of a [`Dataset`], its pixels as run lengths or as another `S` that COCO knows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Annotation<S = Rle> {
    /// From 1, unique in the dataset.
    pub id: usize,
    /// Id of its image.
    pub image_id: usize,
    /// Id of its label.
    pub category_id: usize,
    /// Its pixels.
    pub segmentation: S,
    /// Left, top, width and height of the box around its pixels.
    pub bbox: [usize; 4],
    /// Number of pixels.
    pub area: usize,
    /// 0: a single object.
    pub iscrowd: u8,
    /// Confidence; readers of datasets pass over it.
    pub score: f32,
}

/// A label of a [`Dataset`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Category {
    /// From 1.
    pub id: usize,
    /// The label.
    pub name: String,
    /// Always empty.
    pub supercategory: String,
}

impl Category {
    pub(super) fn new(id: usize, name: &str) -> Self {
        Self {
            id,
            name: name.to_string(),
            supercategory: String::new(),
        }
    }
}

impl ImageEntry {
    pub(super) fn new(id: usize, file_name: &str, size: Size) -> Self {
        Self {
            id,
            file_name: file_name.to_string(),
            width: size.width,
            height: size.height,
            source: None,
        }
    }
}

impl Dataset {
    /// A dataset without images, to be labeled by `model`.
    pub fn new(model: &str) -> Self {
        Self {
            info: Info {
                description: format!("candle-sam3, {model}"),
                version: env!("CARGO_PKG_VERSION").to_string(),
            },
            licenses: vec![],
            images: vec![],
            annotations: vec![],
            categories: vec![],
        }
    }

    /// The dataset of a single image, which is named without its folder.
    pub fn of_one(results: &ImageResults) -> Self {
        let mut dataset = Self::new(results.model);
        let name = Path::new(results.path).file_name();
        let name = name.map_or(results.path.into(), |name| name.to_string_lossy());
        dataset.add(&name, results.image.size(), results.answers);
        for image in &mut dataset.images {
            image.source = results.source.map(str::to_string);
        }
        dataset
    }

    /// Adds an image of this size with its objects, and the labels of its prompts,
    /// found or not. Objects without a pixel are left out.
    pub fn add(&mut self, file_name: &str, size: Size, answers: &[Answer]) {
        let image_id = self.add_image(file_name, size);
        for answer in answers {
            self.category(answer.prompt.label());
            for found in &answer.instances {
                self.add_object(image_id, &found.label, &found.mask, found.score);
            }
        }
    }

    /// Adds an image without objects; returns its id.
    pub fn add_image(&mut self, file_name: &str, size: Size) -> usize {
        let id = self.images.len() + 1;
        self.images.push(ImageEntry::new(id, file_name, size));
        id
    }

    /// Adds an object to an image, and its label if it is new; one without a pixel is left out.
    pub fn add_object(&mut self, image_id: usize, label: &str, mask: &Mask, score: f32) {
        if mask.is_empty() {
            return;
        }
        let category_id = self.category(label);
        let segmentation = Rle::encode(mask);
        self.annotations.push(Annotation {
            id: self.annotations.len() + 1,
            image_id,
            category_id,
            bbox: bbox(&segmentation),
            area: segmentation.area(),
            segmentation,
            iscrowd: 0,
            score,
        });
    }

    /// The id of a label, which is added if it is new.
    fn category(&mut self, name: &str) -> usize {
        let known = self.categories.iter().find(|known| known.name == name);
        if let Some(known) = known {
            return known.id;
        }
        let id = self.categories.len() + 1;
        self.categories.push(Category::new(id, name));
        id
    }

    /// The dataset as JSON in ASCII.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a score that is NaN or infinite.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        if let Some(wrong) = self.annotations.iter().find(|a| !a.score.is_finite()) {
            let (id, score) = (wrong.id, wrong.score);
            return Err(Error::argument(format!(
                "annotation {id} has score {score}"
            )));
        }
        Ok(ascii::json(self))
    }
}

/// Left, top, width and height of the box around the pixels; zeros without any.
pub(super) fn bbox(mask: &Rle) -> [usize; 4] {
    let bbox = mask.bbox();
    bbox.map_or([0; 4], |bbox| bbox.to_xywh().map(|v| v as usize))
}

#[cfg(test)]
mod tests {
    use super::super::Kind;
    use super::super::format::tests::{answer, found, image, results};
    use super::*;
    use crate::output::answer::Description;

    #[test]
    fn a_dataset_of_one_image_has_this_form() {
        let (image, answers) = (image(), [answer()]);
        let mut dataset = Dataset::of_one(&results(&image, &answers, Kind::Text));
        dataset.info.version = "1".to_string();
        dataset.annotations[0].score = 0.5;
        let want = concat!(
            r#"{"info":{"description":"candle-sam3, sam3","version":"1"},"licenses":[],"#,
            r#""images":[{"id":1,"file_name":"truck.jpg","width":4,"height":3}],"#,
            r#""annotations":[{"id":1,"image_id":1,"category_id":1,"#,
            r#""segmentation":{"size":[3,4],"counts":"426"},"bbox":[1,1,1,2],"area":2,"#,
            r#""iscrowd":0,"score":0.5}],"#,
            r#""categories":[{"id":1,"name":"wheel","supercategory":""}]}"#
        );
        let bytes = dataset.to_bytes().unwrap();
        assert_eq!(String::from_utf8(bytes).unwrap(), want);
    }

    #[test]
    fn ids_go_on_over_images_and_labels_are_shared() {
        let mut dataset = Dataset::new("sam3");
        let nothing = Answer {
            prompt: Description {
                text: Some("dog".to_string()),
                ..Description::default()
            },
            presence: Some(0.1),
            instances: vec![],
        };
        let mut twice = answer();
        twice.instances.push(found("wheel", Mask::new(4, 3), 0.5)); // without a pixel
        dataset.add("a.png", Size::new(4, 3), &[nothing.clone(), twice]);
        dataset.add("b.png", Size::new(4, 3), &[answer(), nothing]);
        let ids: Vec<[usize; 3]> = dataset
            .annotations
            .iter()
            .map(|a| [a.id, a.image_id, a.category_id])
            .collect();
        assert_eq!(ids, [[1, 1, 2], [2, 2, 2]]);
        let names: Vec<&str> = dataset.categories.iter().map(|c| c.name.as_str()).collect();
        assert_eq!(names, ["dog", "wheel"]);
    }

    #[test]
    fn other_scripts_are_escaped_and_come_back() {
        let mut dataset = Dataset::new("sam3");
        dataset.add("été 猫\t😀.png", Size::new(4, 3), &[]);
        let bytes = dataset.to_bytes().unwrap();
        assert!(bytes.is_ascii());
        let read: Dataset = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(read, dataset);
    }

    #[test]
    fn a_score_that_is_no_number_is_refused() {
        let mut wrong = answer();
        wrong.instances[0].score = f32::INFINITY;
        let mut dataset = Dataset::new("sam3");
        dataset.add("a.png", Size::new(4, 3), &[wrong]);
        let error = dataset.to_bytes().unwrap_err().to_string();
        assert!(error.contains("annotation 1 has score inf"), "{error}");
    }
}
