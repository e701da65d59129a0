//! Pascal VOC: one map of classes and one of objects for each picture.

use std::fmt::Write;
use std::path::Path;

use ::png::{BitDepth, ColorType};

use super::{Layout, Object, Picture, Pictures, files};
use crate::Size;
use crate::error::Result;
use crate::output::png;

pub(super) fn write_picture(layout: &Layout, picture: &Picture, source: &Path) -> Result<()> {
    let stem = layout.stem(&picture.name);
    let extension = picture.extension().unwrap_or_default();
    let place = format!("voc/JPEGImages/{stem}.{extension}");
    files::link(layout, &place, source)?;
    let size = picture.size();
    let mut classes = vec![0u8; size.area()];
    let mut objects = vec![0u16; size.area()];
    // The best object on top.
    let mut order: Vec<(usize, &Object)> = picture.objects.iter().enumerate().collect();
    order.sort_by(|(_, a), (_, b)| a.score.total_cmp(&b.score));
    for (index, object) in order {
        for span in object.mask.decode()?.spans(size) {
            classes[span.clone()].fill((object.class + 1) as u8);
            objects[span].fill((index + 1) as u16);
        }
    }
    let class_map = format!("voc/SegmentationClass/{stem}.png");
    files::write(layout, &class_map, indexed_png(size, &classes)?)?;
    let object_map = format!("voc/SegmentationObject/{stem}.png");
    let png = if picture.objects.len() < usize::from(VOID) {
        let objects: Vec<u8> = objects.iter().map(|&object| object as u8).collect();
        indexed_png(size, &objects)?
    } else {
        let bytes: Vec<u8> = objects
            .iter()
            .flat_map(|object| object.to_be_bytes())
            .collect();
        png::encode_as(size, &bytes, None, |encoder| {
            encoder.set_color(ColorType::Grayscale);
            encoder.set_depth(BitDepth::Sixteen);
        })?
    };
    files::write(layout, &object_map, png)
}

/// The value that readers leave out.
const VOID: u8 = 255;

/// Most classes that the maps have values for.
pub(super) const MAX_CLASSES: usize = VOID as usize - 1;

/// VOC's colors: the bits of the index spread over red, green and blue from the top.
fn palette() -> Vec<u8> {
    let channel = |index: u8, channel: u8| {
        (0..8).fold(0, |value, bit| {
            let set = u32::from(index) >> (3 * bit + u32::from(channel)) & 1;
            value | (set as u8) << (7 - bit)
        })
    };
    let colors = (0..=255).flat_map(|index| [0, 1, 2].map(|c| channel(index, c)));
    colors.collect()
}

/// A palette PNG in VOC's colors, which DAVIS has, too.
pub(in crate::output) fn indexed_png(size: Size, indices: &[u8]) -> Result<Vec<u8>> {
    png::encode_as(size, indices, None, |encoder| {
        encoder.set_color(ColorType::Indexed);
        encoder.set_palette(palette());
    })
}

pub(super) fn write_document(layout: &Layout, pictures: &dyn Pictures) -> Result<()> {
    let (mut train, mut val) = (String::new(), String::new());
    pictures.for_each(&mut |picture| {
        let list = match layout.split(&picture.name) {
            "train" => &mut train,
            _ => &mut val,
        };
        list.push_str(&layout.stem(&picture.name));
        list.push('\n');
        Ok(())
    })?;
    files::write(layout, "voc/ImageSets/Segmentation/train.txt", train)?;
    files::write(layout, "voc/ImageSets/Segmentation/val.txt", val)?;
    let mut labels = "# label:color_rgb:parts:actions\nbackground:0,0,0::\n".to_string();
    let colors = palette();
    for (name, color) in layout.classes.iter().zip(colors.chunks_exact(3).skip(1)) {
        // Colons part the columns.
        let name = name.replace(':', " ");
        let _ = writeln!(labels, "{name}:{},{},{}::", color[0], color[1], color[2]);
    }
    files::write(layout, "voc/labelmap.txt", labels)
}
