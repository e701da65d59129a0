//! Files and bytes to RGB pixels.

use std::io::Cursor;

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};

use super::Image;

/// The most pixels an image may have; its header is checked before anything is allocated.
///
/// The size at which PIL refuses an image as a decompression bomb (twice its `MAX_IMAGE_PIXELS`).
pub const MAX_PIXELS: u64 = 178_956_970;

/// The widest pixel of any decoder here: RGBA with 32-bit samples.
const MAX_BYTES_PER_PIXEL: u64 = 16;

const FORMATS: &str = "jpeg, png, webp, bmp, gif, tiff and pnm files can be read";

/// Decodes `bytes`; the error says what is wrong and what would work.
pub(super) fn decode(bytes: &[u8]) -> Result<Image, String> {
    if bytes.is_empty() {
        return Err(format!("the file is empty; {FORMATS}"));
    }
    let mut reader = ImageReader::new(Cursor::new(bytes))
        .with_guessed_format()
        .map_err(|error| format!("{error}; {FORMATS}"))?;
    let Some(format) = reader.format() else {
        return Err(format!("not an image of a known format; {FORMATS}"));
    };
    if format == ImageFormat::Jpeg && is_cut_short(bytes) {
        return Err("the jpeg file ends before the end of the image; it is truncated".to_string());
    }

    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(MAX_PIXELS * MAX_BYTES_PER_PIXEL);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(describe)?;
    let (width, height) = decoder.dimensions();
    if width == 0 || height == 0 {
        return Err(format!(
            "{width}x{height} pixels; both sides must be at least 1"
        ));
    }
    if u64::from(width) * u64::from(height) > MAX_PIXELS {
        return Err(format!(
            "{width}x{height} pixels are more than the limit of {MAX_PIXELS}; scale the image down"
        ));
    }
    // Broken metadata is no reason to refuse good pixels.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let mut decoded = DynamicImage::from_decoder(decoder).map_err(describe)?;
    decoded.apply_orientation(orientation);

    let rgb = decoded.into_rgb8();
    let (width, height) = (rgb.width() as usize, rgb.height() as usize);
    Image::from_rgb8(width, height, rgb.into_raw()).map_err(|error| error.to_string())
}

fn describe(error: image::ImageError) -> String {
    match error {
        image::ImageError::Unsupported(error) => format!("{error}; {FORMATS}"),
        error => format!("{error}; the file is damaged or truncated"),
    }
}

/// Whether a JPEG stops inside its pixels. The decoder would fill the rest with grey, silently.
///
/// The end-of-image marker must come after the last start-of-scan marker: neither can occur inside
/// entropy-coded bytes, and those of an embedded thumbnail come before the scans of the image.
fn is_cut_short(bytes: &[u8]) -> bool {
    let last = |marker: u8| bytes.windows(2).rposition(|pair| pair == [0xff, marker]);
    last(0xd9) < last(0xda)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use image::{ColorType, ExtendedColorType, ImageEncoder};

    use super::*;
    use crate::error::Error;

    fn png(width: u32, height: u32, color: ColorType, samples: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        image::codecs::png::PngEncoder::new(&mut bytes)
            .write_image(samples, width, height, color.into())
            .expect("writing to memory");
        bytes
    }

    /// The left half red, the right half blue: 16 x 8.
    fn jpeg() -> Vec<u8> {
        let samples: Vec<u8> = (0..16 * 8)
            .flat_map(|i| {
                if i % 16 < 8 {
                    [200, 30, 30]
                } else {
                    [30, 30, 200]
                }
            })
            .collect();
        let mut bytes = Vec::new();
        image::codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, 95)
            .write_image(&samples, 16, 8, ExtendedColorType::Rgb8)
            .expect("writing to memory");
        bytes
    }

    /// Inserts an APP1 segment with a single big-endian TIFF entry: 0x0112, SHORT, `orientation`.
    fn with_exif_orientation(jpeg: &[u8], orientation: u8) -> Vec<u8> {
        let mut tiff = b"Exif\0\0MM\0\x2a\0\0\0\x08\0\x01".to_vec();
        tiff.extend([0x01, 0x12, 0, 3, 0, 0, 0, 1, 0, orientation, 0, 0]);
        tiff.extend([0; 4]);
        let mut bytes = jpeg[..2].to_vec();
        bytes.extend([0xff, 0xe1]);
        bytes.extend((tiff.len() as u16 + 2).to_be_bytes());
        bytes.extend(tiff);
        bytes.extend(&jpeg[2..]);
        bytes
    }

    fn is_red(image: &Image, x: usize, y: usize) -> bool {
        let pixel = &image.pixels()[(y * image.width() + x) * 3..][..3];
        pixel[0] > 150 && pixel[2] < 80
    }

    fn golden(name: &str) -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR"))
            .join("tests/golden")
            .join(name)
    }

    fn problem(bytes: &[u8]) -> String {
        match Image::decode(bytes) {
            Err(Error::InvalidImage(problem)) => problem,
            other => panic!("expected an invalid image, got {other:?}"),
        }
    }

    #[test]
    fn a_jpeg_is_close_to_what_was_written() {
        let image = Image::decode(&jpeg()).unwrap();
        assert_eq!((image.width(), image.height()), (16, 8));
        assert!(is_red(&image, 2, 4) && !is_red(&image, 13, 4));
    }

    #[test]
    fn exif_orientation_is_applied() {
        let plain = jpeg();
        struct Case {
            orientation: u8,
            size: (usize, usize),
            red: (usize, usize),
        }
        for Case {
            orientation,
            size,
            red,
        } in [
            Case {
                orientation: 1,
                size: (16, 8),
                red: (2, 4),
            },
            Case {
                orientation: 2,
                size: (16, 8),
                red: (13, 4),
            },
            Case {
                orientation: 3,
                size: (16, 8),
                red: (13, 4),
            },
            Case {
                orientation: 6,
                size: (8, 16),
                red: (4, 2),
            },
            Case {
                orientation: 8,
                size: (8, 16),
                red: (4, 13),
            },
        ] {
            let image = Image::decode(&with_exif_orientation(&plain, orientation)).unwrap();
            assert_eq!(
                (image.width(), image.height()),
                size,
                "orientation {orientation}"
            );
            let opposite = (size.0 - 1 - red.0, size.1 - 1 - red.1);
            assert!(is_red(&image, red.0, red.1), "orientation {orientation}");
            assert!(
                !is_red(&image, opposite.0, opposite.1),
                "orientation {orientation}"
            );
        }
    }

    #[test]
    fn grey_becomes_three_equal_channels() {
        let image = Image::decode(&png(2, 1, ColorType::L8, &[7, 250])).unwrap();
        assert_eq!(image.pixels(), [7, 7, 7, 250, 250, 250]);
    }

    #[test]
    fn alpha_is_dropped_and_not_blended() {
        let rgba = Image::decode(&png(
            2,
            1,
            ColorType::Rgba8,
            &[10, 20, 30, 0, 40, 50, 60, 128],
        ));
        assert_eq!(rgba.unwrap().pixels(), [10, 20, 30, 40, 50, 60]);
        let grey = Image::decode(&png(2, 1, ColorType::La8, &[10, 0, 40, 128])).unwrap();
        assert_eq!(grey.pixels(), [10, 10, 10, 40, 40, 40]);
    }

    #[test]
    fn sixteen_bits_are_divided_by_257_and_rounded() {
        for value in [0u16, 128, 129, 385, 386, 32767, 65406, 65407, 65535] {
            let bytes = value.to_ne_bytes();
            let image = Image::decode(&png(1, 1, ColorType::L16, &bytes)).unwrap();
            let want = (f64::from(value) / 257.0).round() as u8;
            assert_eq!(image.pixels(), [want; 3], "sample {value}");
        }
    }

    #[test]
    fn the_first_frame_of_an_animation_is_taken() {
        let frame = |value| {
            let buffer =
                image::RgbaImage::from_pixel(3, 2, image::Rgba([value, value, value, 255]));
            image::Frame::new(buffer)
        };
        let mut bytes = Vec::new();
        image::codecs::gif::GifEncoder::new(&mut bytes)
            .encode_frames([frame(255), frame(0)])
            .expect("writing to memory");
        let image = Image::decode(&bytes).unwrap();
        assert_eq!((image.width(), image.height()), (3, 2));
        assert_eq!(image.pixels(), [255; 18]);
    }

    #[test]
    fn a_cmyk_jpeg_has_the_colours_that_pil_shows() {
        let image = Image::open(golden("image_cmyk.jpg")).unwrap();
        assert_eq!((image.width(), image.height()), (16, 8));
        // PIL: (200, 30, 30) on the left and (30, 30, 200) on the right, within 3 levels.
        for (x, want) in [(2, [200, 30, 30]), (13, [30, 30, 200])] {
            let pixel = &image.pixels()[(4 * 16 + x) * 3..][..3];
            for (got, want) in pixel.iter().zip(want) {
                assert!(got.abs_diff(want) <= 3, "{pixel:?} at {x}");
            }
        }
    }

    #[test]
    fn every_format_of_the_message_can_be_read() {
        let source = image::RgbImage::from_fn(5, 3, |x, y| image::Rgb([x as u8, y as u8, 9]));
        for format in [
            ImageFormat::Png,
            ImageFormat::Bmp,
            ImageFormat::Tiff,
            ImageFormat::Pnm,
            ImageFormat::WebP,
        ] {
            let mut bytes = Cursor::new(Vec::new());
            source.write_to(&mut bytes, format).unwrap();
            let image = Image::decode(bytes.get_ref()).unwrap();
            assert_eq!(image.pixels(), source.as_raw().as_slice(), "{format:?}");
        }
    }

    #[test]
    fn a_missing_file_is_not_found() {
        let error = Image::open("no/such/file.jpg").unwrap_err();
        assert!(matches!(error, Error::NotFound { path } if path.ends_with("file.jpg")));
    }

    #[test]
    fn empty_and_foreign_bytes_say_what_can_be_read() {
        assert!(problem(b"").contains("empty"));
        assert!(problem(b"%PDF-1.7 and so on").contains("png, webp"));
    }

    #[test]
    fn truncated_files_are_refused() {
        let jpeg = jpeg();
        assert!(problem(&jpeg[..jpeg.len() - 12]).contains("truncated"));
        let samples: Vec<u8> = (0..64 * 64 * 3).map(|i| (i * i % 251) as u8).collect();
        let png = png(64, 64, ColorType::Rgb8, &samples);
        assert!(problem(&png[..png.len() / 2]).contains("truncated"));
        assert!(problem(&png[..20]).contains("truncated"));
    }

    #[test]
    fn a_damaged_file_names_itself() {
        let path = std::env::temp_dir().join(format!("candle-sam3-{}.png", std::process::id()));
        std::fs::write(&path, b"\x89PNG\r\n\x1a\nrubbish").unwrap();
        let error = Image::open(&path).unwrap_err().to_string();
        std::fs::remove_file(&path).unwrap();
        assert!(error.contains(&path.display().to_string()), "{error}");
    }

    #[test]
    fn a_decompression_bomb_is_refused_by_its_header() {
        let mut bytes = png(1, 1, ColorType::L8, &[0]);
        // IHDR: width and height at 16..24, checksum of "IHDR" and its 13 bytes at 29..33.
        bytes[16..20].copy_from_slice(&60_000u32.to_be_bytes());
        bytes[20..24].copy_from_slice(&60_000u32.to_be_bytes());
        let checksum = crc32(&bytes[12..29]);
        bytes[29..33].copy_from_slice(&checksum.to_be_bytes());
        let problem = problem(&bytes);
        assert!(
            problem.contains("60000x60000") && problem.contains("178956970"),
            "{problem}"
        );
    }

    fn crc32(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!0u32, |crc, &byte| {
            (0..8).fold(crc ^ u32::from(byte), |crc, _| {
                (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg())
            })
        })
    }

    #[test]
    fn raw_pixels_must_fit_their_size() {
        for (width, height, length) in [(0, 4, 0), (4, 0, 0), (2, 2, 11), (usize::MAX, 2, 6)] {
            assert!(matches!(
                Image::from_rgb8(width, height, vec![0; length]),
                Err(Error::InvalidImage(_))
            ));
        }
        assert!(Image::from_rgb8(2, 2, vec![0; 12]).is_ok());
    }
}
