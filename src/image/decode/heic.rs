//! HEIC photos, upright as their container says.

use std::io::{Read, Seek};

use heic_rs::PixelLayout;

use super::canvas::{Canvas, Color, Layout};
use super::{Decoded, MAX_PIXELS, check_size, check_working_memory};

/// The longest file.
const MAX_BYTES: u64 = 256 << 20;

pub fn decode<R: Read + Seek>(reader: R) -> Result<Decoded, String> {
    let mut bytes = vec![];
    let read = reader.take(MAX_BYTES).read_to_end(&mut bytes);
    read.map_err(|error| error.to_string())?;
    let info = heic_rs::probe(&bytes).map_err(describe)?;
    check_size(info.width as usize, info.height as usize)?;
    // the planes before they become RGB, 16 bits a sample and without subsampling at most
    let planes = u64::from(info.width) * u64::from(info.height) * 6;
    check_working_memory("HEIC photo", planes, "convert it to jpeg")?;
    let options = heic_rs::DecodeOptions {
        layout: PixelLayout::Rgb8,
        max_pixels: Some(MAX_PIXELS),
        ..heic_rs::DecodeOptions::default()
    };
    let image = heic_rs::decode(&bytes, &options).map_err(describe)?;
    let (width, height) = (image.width as usize, image.height as usize);
    check_size(width, height)?;
    Ok(Decoded {
        canvas: Canvas::of(width, height, Layout::of(Color::Rgb), false, image.data),
        orientation: None, // the container's transforms are applied, as HEIF demands
        warnings: vec![],
    })
}

fn describe(error: heic_rs::Error) -> String {
    format!("the HEIC photo cannot be decoded: {error}; convert it to jpeg")
}
