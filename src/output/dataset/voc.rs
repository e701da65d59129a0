//! Pascal VOC: one map of classes and one of objects for each picture.

use std::fmt::Write;
use std::path::Path;

use super::{Layout, Picture, Pictures, files};
use crate::error::{Error, Result};
use crate::mask::Rle;

pub(super) fn write_picture(layout: &Layout, picture: &Picture, source: &Path) -> Result<()> {
    let stem = layout.stem(&picture.name);
    let extension = picture
        .name
        .rsplit_once('.')
        .map_or("", |(_, extension)| extension);
    files::link(
        layout,
        &format!("voc/JPEGImages/{stem}.{extension}"),
        source,
    )?;
    let (width, height) = (picture.width, picture.height);
    let mut classes = vec![0u8; width * height];
    let mut objects = vec![0u16; width * height];
    // The best object on top.
    let mut order: Vec<usize> = (0..picture.objects.len()).collect();
    order.sort_by(|&a, &b| {
        picture.objects[a]
            .score
            .total_cmp(&picture.objects[b].score)
    });
    for index in order {
        let object = &picture.objects[index];
        paint(&object.mask, |at| {
            classes[at] = (object.class + 1) as u8;
            objects[at] = (index + 1) as u16;
        })?;
    }
    let class_map = format!("voc/SegmentationClass/{stem}.png");
    files::write(layout, &class_map, indexed_png(width, height, &classes)?)?;
    let object_map = format!("voc/SegmentationObject/{stem}.png");
    let png = if picture.objects.len() < usize::from(VOID) {
        let objects: Vec<u8> = objects.iter().map(|&object| object as u8).collect();
        indexed_png(width, height, &objects)?
    } else {
        let bytes: Vec<u8> = objects
            .iter()
            .flat_map(|object| object.to_be_bytes())
            .collect();
        grey16_png(width, height, &bytes)?
    };
    files::write(layout, &object_map, png)
}

/// The value that readers leave out.
const VOID: u8 = 255;

/// Most classes that the maps have values for.
pub(super) const MAX_CLASSES: usize = VOID as usize - 1;

/// Calls `set` with the position by rows of every pixel of a mask.
fn paint(mask: &Rle, mut set: impl FnMut(usize)) -> Result<()> {
    let mask = mask.decode()?;
    for y in 0..mask.height() {
        for run in mask.runs(y) {
            run.for_each(|x| set(y * mask.width() + x));
        }
    }
    Ok(())
}

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
pub(in crate::output) fn indexed_png(
    width: usize,
    height: usize,
    indices: &[u8],
) -> Result<Vec<u8>> {
    encode(width, height, indices, |encoder| {
        encoder.set_color(png::ColorType::Indexed);
        encoder.set_palette(palette());
    })
}

fn grey16_png(width: usize, height: usize, bytes: &[u8]) -> Result<Vec<u8>> {
    encode(width, height, bytes, |encoder| {
        encoder.set_color(png::ColorType::Grayscale);
        encoder.set_depth(png::BitDepth::Sixteen);
    })
}

fn encode(
    width: usize,
    height: usize,
    samples: &[u8],
    configure: impl FnOnce(&mut png::Encoder<&mut Vec<u8>>),
) -> Result<Vec<u8>> {
    let problem = |why: String| Error::InvalidImage(format!("{width}x{height} as png: {why}"));
    let side = |side: usize| u32::try_from(side).map_err(|error| problem(error.to_string()));
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, side(width)?, side(height)?);
    configure(&mut encoder);
    let written = encoder.write_header();
    let written = written.and_then(|mut writer| writer.write_image_data(samples));
    written.map_err(|error| problem(error.to_string()))?;
    Ok(bytes)
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
