//! Ground truth and results in COCO's JSON.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;

use rayon::prelude::*;
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{DeserializeOwned, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::overlap::tight_box;
use crate::error::{Error, Result};
use crate::mask::Rle;
use crate::mask::polygon::rasterize_edges;

/// An image of a ground truth.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Image {
    /// Its number in the files.
    pub id: i64,
    /// Where its pixels are.
    #[serde(default)]
    pub file_name: String,
    /// Pixels per row.
    pub width: usize,
    /// Number of rows.
    pub height: usize,
}

/// A class of a ground truth.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Category {
    /// Its number in the files.
    pub id: i64,
    /// What it is called.
    pub name: String,
}

/// The extent of an object.
#[derive(Debug, Clone, PartialEq)]
pub struct Shape {
    /// Its pixels; empty where only a box is known and boxes are compared.
    pub mask: Rle,
    /// Left, top, width and height in pixels.
    pub bbox: [f64; 4],
    /// What sorts it into small, medium and large: the area in the ground truth's file; of a result
    /// that of its box or mask, see [`Results::read`].
    pub area: f64,
}

/// An object of a ground truth.
#[derive(Debug, Clone, PartialEq)]
pub struct Annotation {
    /// Index into [`GroundTruth::images`].
    pub image: usize,
    /// Index into [`GroundTruth::categories`].
    pub category: usize,
    /// Where it is.
    pub shape: Shape,
    /// A group of objects: results in it are neither right nor wrong.
    pub is_crowd: bool,
}

/// What is in the images of a set.
#[derive(Debug, Clone, PartialEq)]
pub struct GroundTruth {
    /// By id.
    pub images: Vec<Image>,
    /// By id.
    pub categories: Vec<Category>,
    /// In the order of the file.
    pub annotations: Vec<Annotation>,
}

/// A found object.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// Index into [`GroundTruth::images`].
    pub image: usize,
    /// Index into [`GroundTruth::categories`].
    pub category: usize,
    /// Where it is.
    pub shape: Shape,
    /// How sure the model is.
    pub score: f64,
}

/// What a model found in the images of a set.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Results {
    /// In the order of the file, which decides between equal scores.
    pub found: Vec<Found>,
    /// Results of categories that the ground truth does not have; not evaluated.
    pub unknown_category: usize,
}

impl GroundTruth {
    /// Reads a file in COCO's instance format: masks as polygons or as run lengths of either kind.
    ///
    /// Ids need not be dense and annotation ids are not used. Annotations of images or categories
    /// that the file does not list are left out, as pycocotools leaves them out.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Io`], or [`Error::Dataset`] when the file is malformed or an id
    /// appears twice.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file: TruthFile = read_json(path)?;
        let images = sorted_by_id(file.images, |image| image.id, path)?;
        for image in &images {
            // Refuses an image whose masks could have no run lengths.
            Rle::outside([image.height, image.width])
                .map_err(|error| Error::dataset(path, format!("image {}: {error}", image.id)))?;
        }
        let categories = sorted_by_id(file.categories, |category| category.id, path)?;
        let image_index = index(images.iter().map(|image| image.id));
        let category_index = index(categories.iter().map(|category| category.id));
        let entries = file.annotations.into_par_iter().enumerate();
        let annotations = entries.filter_map(|(i, entry)| {
            let image = *image_index.get(&entry.image_id)?;
            let category = *category_index.get(&entry.category_id)?;
            let size = [images[image].height, images[image].width];
            let shape = shape(entry.segmentation, &entry.bbox, size, entry.area);
            let problem = |why| Error::dataset(path, format!("annotation {}: {why}", i + 1));
            let shape = shape.map_err(problem);
            Some(shape.map(|shape| Annotation {
                image,
                category,
                shape,
                is_crowd: entry.iscrowd != 0,
            }))
        });
        let annotations = annotations.collect::<Result<_>>()?;
        Ok(Self {
            images,
            categories,
            annotations,
        })
    }
}

impl Results {
    /// Reads a file of COCO results for a ground truth: a list of
    /// `{image_id, category_id, score, segmentation, bbox}`, the last two optional but not both.
    ///
    /// If the first result has a `bbox`, the areas of all are those of their boxes, else those of
    /// their masks: pycocotools' rule, which moves objects between small, medium and large.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Io`], or [`Error::Dataset`] when the file is malformed, a score
    /// is not finite, or an image is not in the ground truth.
    pub fn read(path: impl AsRef<Path>, truth: &GroundTruth) -> Result<Self> {
        Self::of_entries(read_json(path.as_ref())?, truth, path.as_ref())
    }

    /// As [`Results::read`] for a file that is in memory.
    ///
    /// # Errors
    /// [`Error::Dataset`] as [`Results::read`].
    pub fn parse(json: &[u8], truth: &GroundTruth) -> Result<Self> {
        let path = Path::new("results");
        Self::of_entries(parse_json(json, path)?, truth, path)
    }

    fn of_entries(entries: Vec<ResultEntry>, truth: &GroundTruth, path: &Path) -> Result<Self> {
        let image_index = index(truth.images.iter().map(|image| image.id));
        let category_index = index(truth.categories.iter().map(|category| category.id));
        let by_box = entries.first().is_some_and(|entry| !entry.bbox.is_empty());
        let total = entries.len();
        let entries = entries.into_par_iter().enumerate();
        let found = entries.map(|(i, entry)| {
            let problem = |why: String| Error::dataset(path, format!("result {}: {why}", i + 1));
            let Some(&image) = image_index.get(&entry.image_id) else {
                let why = format!("image {} is not in the ground truth", entry.image_id);
                return Err(problem(why));
            };
            let Some(&category) = category_index.get(&entry.category_id) else {
                return Ok(None);
            };
            if !entry.score.is_finite() {
                return Err(problem("the score is not finite".to_string()));
            }
            let size = [truth.images[image].height, truth.images[image].width];
            let mut shape = shape(entry.segmentation, &entry.bbox, size, None).map_err(problem)?;
            if by_box {
                shape.area = shape.bbox[2] * shape.bbox[3];
            }
            Ok(Some(Found {
                image,
                category,
                shape,
                score: entry.score,
            }))
        });
        let found = found.filter_map(Result::transpose);
        let found: Vec<Found> = found.collect::<Result<_>>()?;
        let unknown_category = total - found.len();
        Ok(Self {
            found,
            unknown_category,
        })
    }
}

#[derive(Deserialize)]
struct TruthFile {
    images: Vec<Image>,
    #[serde(default)]
    annotations: Vec<TruthEntry>,
    categories: Vec<Category>,
}

#[derive(Deserialize)]
struct TruthEntry {
    image_id: i64,
    category_id: i64,
    segmentation: Option<Segmentation>,
    #[serde(default)]
    bbox: Vec<f64>,
    area: Option<f64>,
    #[serde(default)]
    iscrowd: u8,
}

#[derive(Deserialize)]
struct ResultEntry {
    image_id: i64,
    category_id: i64,
    segmentation: Option<Segmentation>,
    #[serde(default)]
    bbox: Vec<f64>,
    score: f64,
}

/// A mask as files have it.
pub(super) enum Segmentation {
    Rle(Rle),
    /// Each x, y, x, y, …; the mask is the union.
    Polygons(Vec<Vec<f64>>),
}

impl<'de> Deserialize<'de> for Segmentation {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Segmentation;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("run lengths {size, counts} or a list of polygons")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Segmentation, A::Error> {
                Rle::deserialize(MapAccessDeserializer::new(map)).map(Segmentation::Rle)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Segmentation, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(list)).map(Segmentation::Polygons)
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl Segmentation {
    /// Its pixels in an image of `size` (height, width). Run lengths keep their own size.
    pub(super) fn into_rle(self, size: [usize; 2]) -> Result<Rle, String> {
        match self {
            Self::Rle(rle) => Ok(rle),
            Self::Polygons(polygons) => {
                let mut union = Rle::outside(size).map_err(|error| error.to_string())?;
                for polygon in polygons {
                    if polygon.len() < 6 || polygon.len() % 2 == 1 {
                        let count = polygon.len();
                        return Err(format!(
                            "a polygon of {count} numbers; 6, 8, 10 … are needed"
                        ));
                    }
                    let points: Vec<_> = polygon.chunks_exact(2).map(|p| [p[0], p[1]]).collect();
                    union = union.union(&filled(&points, size)?);
                }
                Ok(union)
            }
        }
    }
}

fn filled(path: &[[f64; 2]], [height, width]: [usize; 2]) -> Result<Rle, String> {
    rasterize_edges(path, width, height).map_err(|error| error.to_string())
}

/// What is known of an object, the rest computed from it.
fn shape(
    segmentation: Option<Segmentation>,
    bbox: &[f64],
    size: [usize; 2],
    area: Option<f64>,
) -> Result<Shape, String> {
    let bbox = match *bbox {
        [] => None,
        [x, y, w, h] if bbox.iter().all(|v| v.is_finite()) => Some([x, y, w, h]),
        _ => return Err(format!("a box must be four finite numbers, not {bbox:?}")),
    };
    let mask = match (segmentation, bbox) {
        (Some(segmentation), _) => segmentation.into_rle(size)?,
        (None, Some([x, y, w, h])) => {
            filled(&[[x, y], [x, y + h], [x + w, y + h], [x + w, y]], size)?
        }
        (None, None) => return Err("neither segmentation nor bbox".to_string()),
    };
    Ok(Shape {
        bbox: bbox.unwrap_or_else(|| tight_box(&mask)),
        area: area.unwrap_or_else(|| mask.area() as f64),
        mask,
    })
}

pub(super) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let bytes = std::fs::read(path).map_err(|cause| Error::io(path, cause))?;
    parse_json(&bytes, path)
}

/// `path` is named in errors.
pub(super) fn parse_json<T: DeserializeOwned>(json: &[u8], path: &Path) -> Result<T> {
    serde_json::from_slice(json).map_err(|error| Error::dataset(path, error.to_string()))
}

/// Where each id stands in its list.
pub(super) fn index(ids: impl Iterator<Item = i64>) -> HashMap<i64, usize> {
    ids.enumerate().map(|(at, id)| (id, at)).collect()
}

fn sorted_by_id<T>(mut list: Vec<T>, id: impl Fn(&T) -> i64, path: &Path) -> Result<Vec<T>> {
    list.sort_by_key(&id);
    match list.windows(2).find(|pair| id(&pair[0]) == id(&pair[1])) {
        Some(pair) => Err(Error::dataset(
            path,
            format!("the id {} appears twice", id(&pair[0])),
        )),
        None => Ok(list),
    }
}
