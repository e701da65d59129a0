//! PNG files, and the image that they belong to.

use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder};

use crate::error::{Error, Result};
use crate::image::Image;

/// Signature and header, which have a fixed length: further chunks may follow.
const HEADER: usize = 8 + 25;

/// Type, keyword and separator of the chunk that names the image.
const KEYWORD: &[u8] = b"tEXtSource\0";

/// Encodes samples by rows; `source` is written beside them.
///
/// # Errors
/// [`Error::InvalidImage`] when a side is zero or over the limit of the PNG format (2^31).
pub(super) fn encode(
    (width, height): (usize, usize),
    samples: &[u8],
    color: ExtendedColorType,
    source: Option<&str>,
) -> Result<Vec<u8>> {
    let problem = |why: String| Error::InvalidImage(format!("{width}x{height} as png: {why}"));
    if width == 0 || height == 0 {
        return Err(problem("both sides must be at least 1".to_string()));
    }
    let side = |side: usize| u32::try_from(side).map_err(|error| problem(error.to_string()));
    let mut bytes = Vec::new();
    PngEncoder::new(&mut bytes)
        .write_image(samples, side(width)?, side(height)?, color)
        .map_err(|error| problem(error.to_string()))?;
    if let Some(source) = source {
        let chunk = text_chunk(source);
        bytes.splice(HEADER..HEADER, chunk);
    }
    Ok(bytes)
}

/// Encodes an image as RGB; `source` as for [`encode`].
///
/// # Errors
/// As [`encode`].
pub(super) fn encode_rgb(image: &Image, source: Option<&str>) -> Result<Vec<u8>> {
    let size = (image.width(), image.height());
    encode(size, image.pixels(), ExtendedColorType::Rgb8, source)
}

/// Length, type, keyword, text and checksum,
/// <https://www.w3.org/TR/png-3/#11tEXt>.
fn text_chunk(text: &str) -> Vec<u8> {
    let body = [KEYWORD, text.as_bytes()].concat();
    let mut crc = flate2::Crc::new();
    crc.update(&body);
    let mut chunk = (body.len() as u32 - 4).to_be_bytes().to_vec();
    chunk.extend(body);
    chunk.extend(crc.sum().to_be_bytes());
    chunk
}

/// The `source` that a PNG was written with.
pub(super) fn source(png: &[u8]) -> Option<&str> {
    let mut rest = png.strip_prefix(b"\x89PNG\r\n\x1a\n")?;
    loop {
        let (length, chunk) = rest.split_first_chunk::<4>()?;
        let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
        let body = chunk.get(..length.checked_add(4)?)?;
        if let Some(text) = body.strip_prefix(KEYWORD) {
            return std::str::from_utf8(text).ok();
        }
        if body.starts_with(b"IDAT") {
            return None;
        }
        rest = chunk.get(length + 8..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_png_holds_the_pixels_and_its_source() {
        let image = Image::from_rgb8(2, 1, vec![1, 2, 3, 4, 5, 6]).unwrap();
        for name in [None, Some("sam3:0123")] {
            let png = encode_rgb(&image, name).unwrap();
            assert_eq!(Image::decode(&png).unwrap(), image);
            assert_eq!(source(&png), name);
        }
    }

    #[test]
    fn no_source_is_read_from_what_is_damaged_or_of_another_kind() {
        let image = Image::from_rgb8(2, 1, vec![0; 6]).unwrap();
        let png = encode_rgb(&image, Some("sam3:0123")).unwrap();
        for length in 0..HEADER + 20 {
            assert_eq!(source(&png[..length]), None, "{length}");
        }
        let endless = [&png[..HEADER], &[0xff; 64]].concat();
        assert_eq!(source(&endless), None);
        assert_eq!(source(b"GIF89a"), None);
    }

    #[test]
    fn an_image_without_pixels_is_refused() {
        assert!(encode((0, 3), &[], ExtendedColorType::L8, None).is_err());
    }
}
