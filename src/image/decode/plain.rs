//! WebP, BMP and PNM through the `image` crate.

use std::io::{BufRead, Seek, SeekFrom};

use image::codecs::{bmp::BmpDecoder, pnm::PnmDecoder, webp::WebPDecoder};
use image::metadata::Orientation;
use image::{ColorType, ImageDecoder};

use super::canvas::{Canvas, Color, Layout};
use super::levels::{EightBits, Levels, Survey, sixteen_bits};
use super::{DecodeOptions, Decoded, check_size, check_working_memory, damaged, dark_in_16_bits};

pub fn webp<R: BufRead + Seek>(mut input: R, options: &DecodeOptions) -> Result<Decoded, String> {
    check_chunks(&mut input)?;
    let decoder = WebPDecoder::new(input).map_err(describe)?;
    let (width, height) = decoder.dimensions();
    // A lossless picture without alpha is decoded with it first.
    let bytes = u64::from(width) * u64::from(height) * 4;
    check_size(width as usize, height as usize)?;
    check_working_memory("webp", bytes, "save it as jpeg or png")?;
    decode(decoder, options)
}

/// Refuses a RIFF file whose chunks are not what they say: the decoder makes up the rest.
fn check_chunks<R: BufRead + Seek>(input: &mut R) -> Result<(), String> {
    let length = input.seek(SeekFrom::End(0)).map_err(|e| e.to_string())?;
    let mut header = |position: u64| {
        let mut header = [0; 8];
        input.seek(SeekFrom::Start(position))?;
        input.read_exact(&mut header)?;
        let [.., a, b, c, d] = header;
        Ok(position + 8 + u64::from(u32::from_le_bytes([a, b, c, d])))
    };
    let describe = |error: std::io::Error| format!("{error}; the webp file is damaged");
    let end = header(0).map_err(describe)?;
    if length < end {
        return Err(format!(
            "the webp file has {length} of {end} bytes; it is truncated"
        ));
    }
    // Behind "RIFF", the length and "WEBP"; chunks begin at even places.
    let mut position = 12;
    while position + 1 < end {
        position = header(position).map_err(describe)?;
        if position > end {
            return Err("a chunk of the webp file is longer than the file; it is damaged".into());
        }
        position = position.next_multiple_of(2);
    }
    input.rewind().map_err(describe)
}

pub fn bmp<R: BufRead + Seek>(input: R, options: &DecodeOptions) -> Result<Decoded, String> {
    decode(BmpDecoder::new(input).map_err(describe)?, options)
}

pub fn pnm<R: BufRead + Seek>(input: R, options: &DecodeOptions) -> Result<Decoded, String> {
    decode(PnmDecoder::new(input).map_err(describe)?, options)
}

fn decode(mut decoder: impl ImageDecoder, options: &DecodeOptions) -> Result<Decoded, String> {
    let (width, height) = decoder.dimensions();
    let (width, height) = (width as usize, height as usize);
    check_size(width, height)?;
    // Broken metadata is no reason to refuse good pixels.
    let orientation = decoder
        .orientation()
        .ok()
        .filter(|o| *o != Orientation::NoTransforms);
    let (layout, is_wide) = match decoder.color_type() {
        ColorType::L8 => (Layout::of(Color::Grey), false),
        ColorType::La8 => (Layout::with_alpha(Color::Grey), false),
        ColorType::Rgb8 => (Layout::of(Color::Rgb), false),
        ColorType::Rgba8 => (Layout::with_alpha(Color::Rgb), false),
        ColorType::L16 => (Layout::of(Color::Grey), true),
        ColorType::La16 => (Layout::with_alpha(Color::Grey), true),
        ColorType::Rgb16 => (Layout::of(Color::Rgb), true),
        ColorType::Rgba16 => (Layout::with_alpha(Color::Rgb), true),
        other => {
            return Err(format!(
                "{other:?} samples are not supported; use 8 or 16 bits"
            ));
        }
    };
    let bytes = decoder.total_bytes();
    if layout != Layout::of(Color::Rgb) || is_wide {
        check_working_memory("picture of this kind", bytes, "save it as 8-bit RGB")?;
    }
    let mut samples = vec![0; usize::try_from(bytes).map_err(|error| error.to_string())?];
    decoder.read_image(&mut samples).map_err(describe)?;
    let mut warnings = vec![];
    if is_wide {
        let wide = || sixteen_bits(&samples, layout, u16::from_ne_bytes);
        let mut levels = Levels::SIXTEEN_BITS;
        if let Some(percent) = options.stretch {
            let mut survey = Survey::new(samples.len() / 2);
            survey.keep_colors(wide());
            levels = survey.stretched(percent);
        }
        let mut eight_bits = EightBits::new(levels);
        samples = wide().map(|sample| eight_bits.level(sample)).collect();
        warnings.extend(dark_in_16_bits(eight_bits.largest, options));
    }
    Ok(Decoded {
        canvas: Canvas::of(width, height, layout, options.alpha_as_mask, samples),
        orientation,
        warnings,
    })
}

fn describe(error: image::ImageError) -> String {
    match error {
        image::ImageError::Unsupported(error) => format!("{error}; save it as png or jpeg"),
        error => damaged(error),
    }
}
