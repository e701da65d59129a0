//! PNG files, and the image that they belong to.

use ::png::{BitDepth, ColorType, Compression, Encoder, Filter, chunk};

use crate::Size;
use crate::error::{Error, Result};
use crate::image::Image;

/// What samples are.
pub(super) type Samples = (ColorType, BitDepth);

pub(super) const GREY: Samples = (ColorType::Grayscale, BitDepth::Eight);
/// The high byte of each sample first.
pub(super) const GREY16: Samples = (ColorType::Grayscale, BitDepth::Sixteen);
pub(super) const RGB: Samples = (ColorType::Rgb, BitDepth::Eight);
pub(super) const RGBA: Samples = (ColorType::Rgba, BitDepth::Eight);

/// Type, keyword and separator of the chunk that names the image,
/// <https://www.w3.org/TR/png-3/#11tEXt>.
const KEYWORD: &[u8] = b"tEXtSource\0";

/// Encodes samples by rows, fast; `source` is written beside them.
///
/// # Errors
/// [`Error::InvalidImage`] when a side is zero or over the limit of the PNG format (2^31).
pub(super) fn encode(
    size: Size,
    samples: &[u8],
    (color, depth): Samples,
    source: Option<&str>,
) -> Result<Vec<u8>> {
    encode_as(size, samples, source, |encoder| {
        encoder.set_color(color);
        encoder.set_depth(depth);
        encoder.set_compression(Compression::Fast);
        encoder.set_filter(Filter::Adaptive);
    })
}

/// As [`encode`], in the way that `configure` says.
pub(super) fn encode_as(
    Size { width, height }: Size,
    samples: &[u8],
    source: Option<&str>,
    configure: impl FnOnce(&mut Encoder<&mut Vec<u8>>),
) -> Result<Vec<u8>> {
    let problem = |why: String| Error::InvalidImage(format!("{width}x{height} as png: {why}"));
    if width == 0 || height == 0 {
        return Err(problem("both sides must be at least 1".to_string()));
    }
    let side = |side: usize| u32::try_from(side).map_err(|error| problem(error.to_string()));
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(&mut bytes, side(width)?, side(height)?);
    configure(&mut encoder);
    let written = encoder.write_header().and_then(|mut writer| {
        if let Some(source) = source {
            let text = [&KEYWORD[4..], source.as_bytes()].concat();
            writer.write_chunk(chunk::tEXt, &text)?;
        }
        writer.write_image_data(samples)
    });
    written.map_err(|error| problem(error.to_string()))?;
    Ok(bytes)
}

/// Encodes an image as RGB; `source` as for [`encode`].
///
/// # Errors
/// As [`encode`].
pub(super) fn encode_rgb(image: &Image, source: Option<&str>) -> Result<Vec<u8>> {
    encode(image.size(), image.pixels(), RGB, source)
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

    /// Signature and header, which have a fixed length: further chunks may follow.
    const HEADER: usize = 8 + 25;

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
        assert!(encode(Size::new(0, 3), &[], GREY, None).is_err());
    }
}
