//! Data sets for training: the objects of many pictures in the formats of other programs.
//!
//! Every writer has two halves. What belongs to one picture is written as soon as the picture is done,
//! by [`write_picture`]; documents about all of them are written at the end from the [`journal`], by
//! [`write_documents`], in the order of the pictures' names. So a run that was interrupted or split
//! among machines gives the same bytes.

pub(super) mod ascii;
mod coco;
mod csv;
mod cvat;
mod files;
mod imagefolder;
pub mod journal;
pub(crate) mod labelme;
mod labelstudio;
mod masks;
mod options;
mod voc;
pub(crate) mod yolo;

use std::path::{Component, Path};

use serde::{Deserialize, Serialize};

pub use options::{Format, LabelMeShapes, Layout, Link};
pub(super) use voc::indexed_png;

use crate::Size;
use crate::error::{Error, Result};
use crate::image::Image;
use crate::mask::{Mask, Rle};
use crate::output::cutout::cutout_png;
use crate::output::masks::mask_png;

/// A found object.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Object {
    /// Index into [`Layout::classes`].
    pub class: usize,
    /// Confidence in 0..=1.
    pub score: f32,
    /// Its pixels, at the size of the picture.
    #[serde(rename = "segmentation")]
    pub mask: Rle,
}

/// A picture and what was found in it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Picture {
    /// Its path below the input folder, with forward slashes.
    pub name: String,
    /// Pixels per row, as displayed.
    pub width: usize,
    /// Number of rows, as displayed.
    pub height: usize,
    /// By class and then as the model ranks them.
    pub objects: Vec<Object>,
}

impl Picture {
    fn size(&self) -> Size {
        Size::new(self.width, self.height)
    }

    /// What follows the last dot of its name.
    fn extension(&self) -> Option<&str> {
        let (_, extension) = self.name.rsplit_once('.')?;
        (!extension.contains('/')).then_some(extension)
    }
}

/// Pictures in the order of their names, as often as they are asked for.
pub trait Pictures {
    /// Calls `visit` with every picture.
    ///
    /// # Errors
    /// What reading them or `visit` returns.
    fn for_each(&self, visit: &mut dyn FnMut(&Picture) -> Result<()>) -> Result<()>;
}

impl Pictures for Vec<Picture> {
    fn for_each(&self, visit: &mut dyn FnMut(&Picture) -> Result<()>) -> Result<()> {
        self.iter().try_for_each(visit)
    }
}

/// Writes the files that belong to one picture; `source` is the picture's own file.
///
/// # Errors
/// [`Error::InvalidArgument`] for a name that leads out of the output folder; [`Error::Io`] and
/// [`Error::NotFound`] when a file cannot be written or linked.
pub fn write_picture(
    layout: &Layout,
    picture: &Picture,
    source: &Path,
    image: &Image,
) -> Result<()> {
    check_name(&picture.name)?;
    for format in &layout.formats {
        match format {
            Format::Yolo => yolo::write_picture(layout, picture, source, image)?,
            Format::LabelMe => labelme::write_picture(layout, picture, source)?,
            Format::Voc => voc::write_picture(layout, picture, source)?,
            Format::ImageFolder => imagefolder::write_picture(layout, picture, source)?,
            Format::Masks => {
                masks::write_picture(layout, picture, "masks", |mask| mask_png(mask).map(Some))?;
            }
            Format::Cutout => {
                let cut = |mask: &Mask| cutout_png(image, mask, false);
                masks::write_picture(layout, picture, "cutout", cut)?;
            }
            Format::Coco
            | Format::CocoPolygon
            | Format::LabelStudio
            | Format::Cvat
            | Format::Csv => {}
        }
    }
    Ok(())
}

/// Files are named after pictures, so that a name must stay below the output folder.
fn check_name(name: &str) -> Result<()> {
    let mut parts = Path::new(name).components().peekable();
    match parts.peek().is_some() && parts.all(|part| matches!(part, Component::Normal(_))) {
        true => Ok(()),
        false => Err(Error::InvalidArgument(format!(
            "the picture's name {name:?} is no path below a folder"
        ))),
    }
}

/// Writes the documents about all pictures.
///
/// # Errors
/// [`Error::Io`] and [`Error::NotFound`] when a file cannot be written; what reading the pictures
/// returns.
pub fn write_documents(layout: &Layout, pictures: &dyn Pictures) -> Result<()> {
    for format in &layout.formats {
        match format {
            Format::Coco => coco::write_document(layout, pictures, false)?,
            Format::CocoPolygon => coco::write_document(layout, pictures, true)?,
            Format::Yolo => yolo::write_document(layout, pictures)?,
            Format::LabelStudio => labelstudio::write_document(layout, pictures)?,
            Format::Cvat => cvat::write_document(layout, pictures)?,
            Format::Voc => voc::write_document(layout, pictures)?,
            Format::ImageFolder => imagefolder::write_document(layout, pictures)?,
            Format::Csv => csv::write_document(layout, pictures)?,
            Format::LabelMe | Format::Masks | Format::Cutout => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod journal_tests;
#[cfg(test)]
mod tests;
