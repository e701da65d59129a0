use std::io::Cursor;
use std::path::PathBuf;

use image::{ColorType, ExtendedColorType, ImageEncoder, ImageFormat};

use crate::error::Error;
use crate::image::{DecodeOptions, Image};

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
        let buffer = image::RgbaImage::from_pixel(3, 2, image::Rgba([value, value, value, 255]));
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
fn a_cmyk_jpeg_has_the_colors_that_pil_shows() {
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
    assert!(problem(b"some words, and no picture").contains("png, webp"));
    for (bytes, name, remedy) in [
        (&b"%PDF-1.7 and so on"[..], "a PDF document", "pdftoppm"),
        (
            b"\0\0\0\x18ftypavif",
            "an AVIF picture",
            "convert it to jpeg",
        ),
        (b"\0\0\0\x18ftypmp42", "a film", "frame"),
        (b"8BPS\0\x01", "a Photoshop file", "png"),
    ] {
        let problem = problem(bytes);
        assert!(
            problem.contains(name) && problem.contains(remedy),
            "{problem}"
        );
        assert!(!problem.contains("can be read"), "{problem}");
    }
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

fn chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let mut checked = kind.to_vec();
    checked.extend(data);
    let mut bytes = (data.len() as u32).to_be_bytes().to_vec();
    bytes.extend(&checked);
    bytes.extend(crc32(&checked).to_be_bytes());
    bytes
}

/// A grey picture of 5 x 5 whose sample at (x, y) is 10 y + x.
fn interlaced_png() -> Vec<u8> {
    let mut rows = vec![];
    for (x0, y0, dx, dy) in [
        (0, 0, 8, 8),
        (4, 0, 8, 8),
        (0, 4, 4, 8),
        (2, 0, 4, 4),
        (0, 2, 2, 4),
        (1, 0, 2, 2),
        (0, 1, 1, 2),
    ] {
        for y in (y0..5).step_by(dy) {
            rows.push(0); // no filter
            rows.extend((x0..5).step_by(dx).map(|x| 10 * y + x));
        }
    }
    let mut stream = flate2::write::ZlibEncoder::new(vec![], flate2::Compression::fast());
    std::io::Write::write_all(&mut stream, &rows).unwrap();
    let mut bytes = b"\x89PNG\r\n\x1a\n".to_vec();
    bytes.extend(chunk(b"IHDR", &[0, 0, 0, 5, 0, 0, 0, 5, 8, 0, 0, 0, 1]));
    bytes.extend(chunk(b"IDAT", &stream.finish().unwrap()));
    bytes
}

#[test]
fn pngs_are_read_without_their_last_chunk_and_refused_with_damage() {
    let want: Vec<u8> = (0..25).flat_map(|i| [10 * (i / 5) + i % 5; 3]).collect();
    let interlaced = interlaced_png();
    assert_eq!(Image::decode(&interlaced).unwrap().pixels(), want);
    let samples: Vec<u8> = (0..25).map(|i| 10 * (i / 5) + i % 5).collect();
    let plain = png(5, 5, ColorType::L8, &samples);
    let without_end = &plain[..plain.len() - 12];
    assert_eq!(Image::decode(without_end).unwrap().pixels(), want);
    for bytes in [&interlaced[..], without_end] {
        let mut damaged = bytes.to_vec();
        let last = damaged.len() - 1;
        damaged[last] ^= 1; // the checksum of the pixels
        assert!(problem(&damaged).contains("damaged"));
    }
}

#[test]
fn a_mask_may_be_drawn_in_the_alpha_channel() {
    let options = DecodeOptions {
        alpha_as_mask: true,
        ..DecodeOptions::default()
    };
    let read = |color, samples: &[u8]| {
        let bytes = png(2, 1, color, samples);
        Image::decode_with(&bytes, &options).unwrap().image
    };
    let rgba = read(ColorType::Rgba8, &[255, 255, 255, 0, 255, 255, 255, 200]);
    assert_eq!(rgba.pixels(), [0, 0, 0, 200, 200, 200]);
    let opaque = read(ColorType::Rgba8, &[1, 2, 3, 255, 4, 5, 6, 255]);
    assert_eq!(opaque.pixels(), [1, 2, 3, 4, 5, 6]);
    let grey = read(ColorType::La8, &[255, 9, 255, 8]);
    assert_eq!(grey.pixels(), [9, 9, 9, 8, 8, 8]);
}

#[test]
fn a_stretch_spreads_16_bit_pngs_over_all_levels() {
    let samples = [0u16, 1000, 2000, 4000].map(u16::to_ne_bytes).concat();
    let bytes = png(4, 1, ColorType::L16, &samples);
    let options = DecodeOptions {
        stretch: Some(0.),
        ..DecodeOptions::default()
    };
    let read = Image::decode_with(&bytes, &options).unwrap();
    assert_eq!(
        read.image.pixels(),
        [[0; 3], [64; 3], [128; 3], [255; 3]].concat()
    );
    assert!(read.warnings.is_empty());
    let plain = Image::decode_with(&bytes, &DecodeOptions::default()).unwrap();
    assert!(plain.warnings[0].contains("--stretch"));
}

#[test]
fn a_webp_that_is_shorter_than_it_says_is_refused() {
    let source = image::RgbImage::from_fn(9, 9, |x, y| image::Rgb([x as u8, y as u8, 9]));
    let mut bytes = Cursor::new(Vec::new());
    source.write_to(&mut bytes, ImageFormat::WebP).unwrap();
    let bytes = bytes.into_inner();
    assert!(Image::decode(&bytes).is_ok());
    assert!(problem(&bytes[..bytes.len() - 1]).contains("truncated"));
}

#[test]
fn long_sides_are_refused_by_the_header() {
    let mut bytes = png(1, 1, ColorType::L8, &[0]);
    bytes[20..24].copy_from_slice(&2_000_000u32.to_be_bytes());
    let checksum = crc32(&bytes[12..29]);
    bytes[29..33].copy_from_slice(&checksum.to_be_bytes());
    assert!(problem(&bytes).contains("no side may be longer than 131072"));
}

#[test]
fn images_of_the_image_crate_go_both_ways() {
    let rgb = image::RgbImage::from_fn(3, 2, |x, y| image::Rgb([x as u8, y as u8, 5]));
    let image = Image::try_from(rgb.clone()).unwrap();
    assert_eq!(image::RgbImage::from(image.clone()), rgb);
    let dynamic = image::DynamicImage::from(image.clone());
    assert!(Image::try_from(dynamic).unwrap() == image);
    assert!(Image::try_from(image::RgbImage::new(0, 4)).is_err());
}
