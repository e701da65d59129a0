//! What to write, and where.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::voc::MAX_CLASSES;
use crate::error::{Error, Result};
use crate::mask::polygon::Simplify;

/// A format of data sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
#[non_exhaustive]
pub enum Format {
    /// `coco.json`: COCO instances, masks as run lengths; exact.
    Coco,
    /// `coco-polygon.json`: COCO instances, masks as polygons, for annotation tools.
    CocoPolygon,
    /// `yolo/`: Ultralytics' segmentation labels with `data.yaml` and splits.
    Yolo,
    /// `labelme/`: one JSON file for each picture.
    LabelMe,
    /// `labelstudio.json` and `labelstudio.xml`: predictions with brush masks, and the interface.
    LabelStudio,
    /// `cvat.xml`: CVAT for images 1.1.
    Cvat,
    /// `voc/`: Pascal VOC's class and object maps.
    Voc,
    /// `imagefolder/train/`: pictures and `metadata.jsonl` as Hugging Face datasets reads them.
    ImageFolder,
    /// `masks/`: one PNG for each object.
    Masks,
    /// `cutout/`: each object on a transparent ground.
    Cutout,
    /// `labels.csv`: one line for each object.
    Csv,
}

named_formats!(
    Format,
    "data set format",
    [
        Coco = "coco",
        CocoPolygon = "coco-polygon",
        Yolo = "yolo",
        LabelMe = "labelme",
        LabelStudio = "labelstudio",
        Cvat = "cvat",
        Voc = "voc",
        ImageFolder = "imagefolder",
        Masks = "masks",
        Cutout = "cutout",
        Csv = "csv",
    ]
);

impl Format {
    /// The files and folders that it writes, below the output folder.
    pub(super) fn places(self) -> &'static [&'static str] {
        match self {
            Self::Coco => &["coco.json"],
            Self::CocoPolygon => &["coco-polygon.json"],
            Self::Yolo => &["yolo"],
            Self::LabelMe => &["labelme"],
            Self::LabelStudio => &["labelstudio.json", "labelstudio.xml"],
            Self::Cvat => &["cvat.xml"],
            Self::Voc => &["voc"],
            Self::ImageFolder => &["imagefolder"],
            Self::Masks => &["masks"],
            Self::Cutout => &["cutout"],
            Self::Csv => &["labels.csv"],
        }
    }

    /// Whether its files are named after pictures without their extension, so that `a.png` and
    /// `a.jpg` would share them.
    pub fn shares_stems(self) -> bool {
        matches!(
            self,
            Self::Yolo | Self::LabelMe | Self::Voc | Self::Masks | Self::Cutout
        )
    }
}

impl From<Format> for String {
    fn from(format: Format) -> Self {
        format.name().to_string()
    }
}

impl TryFrom<String> for Format {
    type Error = Error;

    fn try_from(name: String) -> Result<Self> {
        name.parse()
    }
}

/// How pictures get into the folders that need them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Link {
    /// As hard links; as copies where the file system has none.
    #[default]
    Hard,
    /// As copies.
    Copy,
    /// As symbolic links.
    Symbolic,
}

/// Which shapes LabelMe gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum LabelMeShapes {
    /// Polygons, which can be edited; masks for objects with holes.
    #[default]
    Polygon,
    /// Masks, which are exact.
    Mask,
}

/// What to write and where.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Layout {
    /// The output folder.
    #[serde(skip)]
    pub root: PathBuf,
    /// Where files are written before they are renamed into place; on the same file system.
    #[serde(skip)]
    pub temporary: PathBuf,
    /// What to write.
    pub formats: Vec<Format>,
    /// Names of the classes.
    pub classes: Vec<String>,
    /// How far polygons may be simplified.
    pub simplify: Simplify,
    /// The share of pictures for training, 0 to 1; the others are for validation.
    pub train_share: f64,
    /// How pictures get into the folders that need them.
    pub link: Link,
    /// Which shapes LabelMe gets.
    pub labelme: LabelMeShapes,
    /// Before the names of pictures in Label Studio's tasks.
    pub url_prefix: String,
    /// Files are named `a-png` after `a.png` instead of `a`.
    pub keep_extension: bool,
}

impl Layout {
    /// Everything at its default.
    pub fn new(root: impl Into<PathBuf>, formats: Vec<Format>, classes: Vec<String>) -> Self {
        let root = root.into();
        Self {
            temporary: root.join(".sam3").join("new"),
            root,
            formats,
            classes,
            simplify: Simplify::default(),
            train_share: 0.9,
            link: Link::default(),
            labelme: LabelMeShapes::default(),
            url_prefix: "/data/local-files/?d=".to_string(),
            keep_extension: false,
        }
    }

    /// # Errors
    /// [`Error::Unsupported`] for more classes than a format has values for.
    pub fn validate(&self) -> Result<()> {
        let classes = self.classes.len();
        if self.formats.contains(&Format::Voc) && classes > MAX_CLASSES {
            return Err(Error::Unsupported {
                what: format!("{classes} classes in the format voc"),
                instead: format!("use at most {MAX_CLASSES}, or another format"),
            });
        }
        Ok(())
    }

    /// Whether the same pictures would give the same files, wherever they are written.
    pub(super) fn writes_as(&self, other: &Self) -> bool {
        let here = Self {
            root: self.root.clone(),
            temporary: self.temporary.clone(),
            ..other.clone()
        };
        *self == here
    }

    /// The name of a picture without its extension.
    pub(crate) fn stem(&self, name: &str) -> String {
        match name.rsplit_once('.') {
            Some((stem, extension)) if !extension.contains('/') => match self.keep_extension {
                true => format!("{stem}-{extension}"),
                false => stem.to_string(),
            },
            _ => name.to_string(),
        }
    }

    /// `train` or `val`, from the picture's name alone.
    pub(super) fn split(&self, name: &str) -> &'static str {
        let share = name_hash(name) as f64 / 2f64.powi(64);
        if share < self.train_share {
            "train"
        } else {
            "val"
        }
    }

    pub(crate) fn class(&self, class: usize) -> &str {
        self.classes.get(class).map_or("", String::as_str)
    }
}

/// The first eight bytes of the SHA-256 of a picture's name: what splits and shards go by.
pub fn name_hash(name: &str) -> u64 {
    let digest = Sha256::digest(name.as_bytes());
    u64::from_be_bytes(std::array::from_fn(|i| digest[i]))
}
