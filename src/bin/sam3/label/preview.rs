//! A contact sheet: people look before they train.

use std::path::Path;

use anyhow::Result;
use candle_sam3::image::DecodeOptions;
use candle_sam3::image::resize::resize_bilinear_antialias;
use candle_sam3::output::answer::Found;
use candle_sam3::output::dataset::Picture;
use candle_sam3::output::dataset::journal::Records;
use candle_sam3::output::{OverlayOptions, encode_png, overlay, write_file};
use candle_sam3::predict::dataset::Source;
use candle_sam3::{BoxXyxy, Image};

/// Sides of the place for one picture.
const TILE: [usize; 2] = [480, 360];

/// Writes `preview.png` with pictures at equal distances in the list of those that are done.
pub fn write(
    output: &Path,
    records: &Records,
    sources: &[Source],
    decoding: &DecodeOptions,
    count: usize,
) -> Result<()> {
    let names: Vec<&str> = records.names().collect();
    let count = count.min(names.len());
    if count == 0 {
        return Ok(());
    }
    let columns = (1..).find(|side| side * side >= count).unwrap_or(count);
    let rows = count.div_ceil(columns);
    let [width, height] = [columns * TILE[0], rows * TILE[1]];
    let mut sheet = Image::from_rgb8(width, height, vec![0; 3 * width * height])?;
    for place in 0..count {
        let name = names[place * names.len() / count];
        let source = sources.iter().find(|source| source.name == name);
        let (Some(picture), Some(source)) = (records.picture(name)?, source) else {
            continue;
        };
        let drawn = draw(
            records,
            &picture,
            &Image::open_with(&source.path, decoding)?.image,
        )?;
        let [x0, y0] = [place % columns * TILE[0], place / columns * TILE[1]];
        let small = fit(&drawn)?;
        let bytes = 3 * small.width();
        for (y, row) in small.pixels().chunks_exact(bytes).enumerate() {
            let at = 3 * ((y0 + y) * width + x0);
            sheet.pixels_mut()[at..at + bytes].copy_from_slice(row);
        }
    }
    Ok(write_file(
        output.join("preview.png"),
        &encode_png(&sheet)?,
    )?)
}

fn draw(records: &Records, picture: &Picture, image: &Image) -> Result<Image> {
    let classes = &records.header.layout.classes;
    let label = |class: usize| classes.get(class).cloned().unwrap_or_default();
    let objects = picture.objects.iter().map(|object| {
        let mask = object.mask.decode()?;
        Ok(Found {
            label: label(object.class),
            bbox: mask.bbox().unwrap_or(BoxXyxy::from([0.0; 4])),
            mask,
            score: object.score,
            stability: None,
            sample: None,
        })
    });
    let found = objects.collect::<candle_sam3::Result<Vec<Found>>>()?;
    let found: Vec<&Found> = found.iter().collect();
    Ok(overlay(image, &found, &OverlayOptions::default()))
}

/// Scaled to the place for one picture.
fn fit(image: &Image) -> Result<Image> {
    let [width, height] = [image.width() as f64, image.height() as f64];
    let scale = (TILE[0] as f64 / width).min(TILE[1] as f64 / height);
    let side = |side: f64| ((side * scale).round() as usize).max(1);
    Ok(resize_bilinear_antialias(image, side(width), side(height))?)
}
