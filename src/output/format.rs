//! The formats that results can be written in.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::answer::{Answer, Found};
use super::{OverlayOptions, amg, coco, csv, cutout, json, masks, overlay, png};
use crate::error::{Error, Result};
use crate::image::Image;

/// Everything that was found in one image.
#[derive(Debug, Clone, Copy)]
pub struct ImageResults<'a> {
    /// The image that the results are of.
    pub image: &'a Image,
    /// Where it was read from, as the user named it.
    pub path: &'a str,
    /// Tells the image from others of its name, see [`super::Place::source`]; written into the
    /// formats that have room for it.
    pub source: Option<&'a str>,
    /// What the image was used with a caveat for.
    pub warnings: &'a [String],
    /// Name of the model.
    pub model: &'a str,
    /// How the objects were asked for.
    pub kind: Kind,
    /// One answer for each prompt, in the order they were given.
    pub answers: &'a [Answer],
    /// How long each stage took, in the order they ran.
    pub timings: &'a [(&'static str, Duration)],
}

impl ImageResults<'_> {
    /// The objects of all answers, in their order.
    pub fn found(&self) -> Vec<&Found> {
        let answers = self.answers.iter();
        answers.flat_map(|answer| &answer.instances).collect()
    }
}

/// How objects are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Kind {
    /// By texts and exemplars.
    Text,
    /// By points, boxes and masks.
    Interactive,
    /// Not at all: by the mask generator.
    Everything,
}

/// One of the formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Format {
    /// The image with colored masks, as PNG.
    Overlay,
    /// A folder of one PNG per mask and a label map.
    Masks,
    /// A folder of one PNG per object, transparent around it.
    Cutout,
    /// One JSON document, see [`json::Document`].
    Json,
    /// A table with one line per object.
    Csv,
    /// A COCO dataset of one image.
    Coco,
    /// The folder of the original mask generator: one PNG per mask and `metadata.csv`.
    Amg,
    /// The list of records of the original mask generator.
    AmgJson,
}

/// How formats are written that leave a choice.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct FormatOptions {
    /// How [`Format::Overlay`] draws.
    pub overlay: OverlayOptions,
    /// Cut-outs have the size of the image instead of that of the object.
    pub full_size: bool,
}

/// Encoded results.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Files {
    /// The contents of one file.
    One(Vec<u8>),
    /// Names and contents of the files of a folder.
    Folder(Vec<(String, Vec<u8>)>),
}

named_formats!(
    Format,
    "output format",
    [
        Overlay = "overlay",
        Masks = "masks",
        Cutout = "cutout",
        Json = "json",
        Csv = "csv",
        Coco = "coco",
        Amg = "amg",
        AmgJson = "amg-json",
    ]
);

impl Format {
    /// What follows the name of the image, without its extension, in the name of the file or folder.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Overlay => "_overlay.png",
            Self::Masks => "_masks",
            Self::Cutout => "_cutouts",
            Self::Json => ".json",
            Self::Csv => ".csv",
            Self::Coco => "_coco.json",
            Self::Amg => "_amg",
            Self::AmgJson => "_amg.json",
        }
    }

    /// True for formats of several files in a folder of their own.
    pub fn is_folder(self) -> bool {
        matches!(self, Self::Masks | Self::Cutout | Self::Amg)
    }

    /// True for formats that can be printed.
    pub fn is_text(self) -> bool {
        !self.is_folder() && self != Self::Overlay
    }

    /// Refuses results that the format has no room for.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for [`Format::Amg`] and [`Format::AmgJson`] of anything but
    /// [`Kind::Everything`]: their records hold the grid point that found each mask.
    pub fn check(self, kind: Kind) -> Result<()> {
        match self {
            Self::Amg | Self::AmgJson if kind != Kind::Everything => Err(Error::Unsupported {
                what: format!("format {self} for objects that were asked for"),
                instead: "use masks, csv or coco; amg and amg-json are for the mask generator"
                    .into(),
            }),
            _ => Ok(()),
        }
    }

    /// Encodes the results of one image.
    ///
    /// # Errors
    /// As [`Format::check`]; [`Error::InvalidArgument`] for a score that is NaN or infinite and for
    /// more than 65535 objects in a label map; [`Error::InvalidImage`] for an image that is too large
    /// for PNG.
    pub fn encode(self, results: &ImageResults, options: &FormatOptions) -> Result<Files> {
        self.check(results.kind)?;
        Ok(match self {
            Self::Overlay => {
                let found = results.found();
                let drawn = overlay(results.image, &found, &options.overlay);
                Files::One(png::encode_rgb(&drawn, results.source)?)
            }
            Self::Masks => Files::Folder(masks::files(results)?),
            Self::Cutout => Files::Folder(cutout::files(results, options.full_size)?),
            Self::Json => Files::One(json::Document::new(results).to_bytes()?),
            Self::Csv => Files::One(csv::table(results)?.into_bytes()),
            Self::Coco => Files::One(coco::Dataset::of_one(results).to_bytes()?),
            Self::Amg => Files::Folder(amg::files(results)?),
            Self::AmgJson => Files::One(amg::list(&results.found())?),
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::mask::Mask;
    use crate::output::answer::{Description, Sample};

    pub(in crate::output) fn found(label: &str, mask: Mask, score: f32) -> Found {
        Found {
            label: label.to_string(),
            bbox: mask.bbox().unwrap_or_default(),
            mask,
            score,
            stability: None,
            sample: None,
        }
    }

    /// An image of 4 x 3 pixels with one column of it found as a wheel.
    pub(in crate::output) fn answer() -> Answer {
        let mask = Mask::from_fn(4, 3, |x, y| x == 1 && y > 0);
        Answer {
            prompt: Description {
                text: Some("wheel".to_string()),
                ..Description::default()
            },
            presence: Some(0.931_249),
            instances: vec![found("wheel", mask, 0.912_345)],
        }
    }

    const TIMINGS: [(&str, Duration); 1] = [("decode", Duration::from_micros(12_345))];

    pub(in crate::output) fn results<'a>(
        image: &'a Image,
        answers: &'a [Answer],
        kind: Kind,
    ) -> ImageResults<'a> {
        ImageResults {
            image,
            path: "photos/truck.jpg",
            source: None,
            warnings: &[],
            model: "sam3",
            kind,
            answers,
            timings: &TIMINGS,
        }
    }

    pub(in crate::output) fn image() -> Image {
        Image::from_rgb8(4, 3, (0..36).collect()).unwrap()
    }

    #[test]
    fn formats_are_read_by_name_and_an_unknown_one_lists_them() {
        for format in Format::ALL {
            assert_eq!(format.to_string().parse::<Format>().unwrap(), format);
        }
        let error = "gif".parse::<Format>().unwrap_err().to_string();
        assert!(
            error.contains("\"gif\"") && error.contains("overlay, masks, cutout"),
            "{error}"
        );
    }

    #[test]
    fn every_format_writes_what_its_kind_says_under_a_name_of_its_own() {
        let image = image();
        let mut answers = [answer()];
        let found = &mut answers[0].instances[0];
        found.stability = Some(0.5);
        found.sample = Some(Sample {
            point: [1.5, 2.0],
            crop_box: [0, 0, 4, 3],
        });
        let results = results(&image, &answers, Kind::Everything);
        let mut suffixes: Vec<&str> = Format::ALL.map(Format::suffix).to_vec();
        for format in Format::ALL {
            let files = format.encode(&results, &FormatOptions::default()).unwrap();
            assert_eq!(matches!(files, Files::Folder(_)), format.is_folder());
        }
        suffixes.sort_unstable();
        suffixes.dedup();
        assert_eq!(suffixes.len(), Format::ALL.len());
    }

    #[test]
    fn records_of_the_generator_are_refused_for_a_text() {
        let (image, answers) = (image(), [answer()]);
        let results = results(&image, &answers, Kind::Text);
        for format in [Format::Amg, Format::AmgJson] {
            let error = format.encode(&results, &FormatOptions::default());
            let error = error.unwrap_err().to_string();
            assert!(error.contains("masks, csv or coco"), "{error}");
        }
    }
}
