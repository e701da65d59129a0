use std::io::Cursor;

use tiff::encoder::colortype::{
    CMYK8, ColorType, Gray8, Gray16, Gray32Float, Gray64Float, GrayI16, RGB32Float,
};
use tiff::encoder::{TiffEncoder, TiffValue};
use tiff::tags::Tag;

use crate::error::Error;
use crate::image::{DecodeOptions, DecodedImage, Image};

/// A picture of 4 x 1 pixels.
fn tiff<C: ColorType>(samples: &[C::Inner]) -> Vec<u8>
where
    [C::Inner]: TiffValue,
{
    let mut bytes = Cursor::new(vec![]);
    let mut encoder = TiffEncoder::new(&mut bytes).unwrap();
    encoder.write_image::<C>(4, 1, samples).unwrap();
    bytes.into_inner()
}

fn with_tag(tag: Tag, value: u32) -> Vec<u8> {
    let mut bytes = Cursor::new(vec![]);
    let mut encoder = TiffEncoder::new(&mut bytes).unwrap();
    let mut image = encoder.new_image::<Gray8>(4, 1).unwrap();
    image.encoder().write_tag(tag, value).unwrap();
    image.write_data(&[1, 2, 3, 4]).unwrap();
    bytes.into_inner()
}

fn stretched(bytes: &[u8], percent: f64) -> DecodedImage {
    let options = DecodeOptions {
        stretch: Some(percent),
        ..DecodeOptions::default()
    };
    Image::decode_with(bytes, &options).unwrap()
}

fn greys(image: &Image) -> Vec<u8> {
    let pixels = image.pixels().chunks(3);
    pixels.map(|pixel| pixel[0]).collect()
}

fn problem(bytes: &[u8]) -> String {
    match Image::decode(bytes) {
        Err(Error::InvalidImage(problem)) => problem,
        other => panic!("expected an invalid image, got {other:?}"),
    }
}

#[test]
fn floats_from_0_to_1_are_levels_and_others_are_refused() {
    let image = Image::decode(&tiff::<Gray32Float>(&[0., 0.2, 0.5, 1.])).unwrap();
    assert_eq!(greys(&image), [0, 51, 128, 255]);
    let image = Image::decode(&tiff::<Gray64Float>(&[0., 0.2, 0.5, 1.])).unwrap();
    assert_eq!(greys(&image), [0, 51, 128, 255]);
    let rgb = [0., 100., 255., 1., 2., 3., 4., 5., 6., 7., 8., 9.];
    let problem_of_rgb = problem(&tiff::<RGB32Float>(&rgb));
    assert!(problem_of_rgb.contains("from 0 to 255"), "{problem_of_rgb}");
    assert!(problem_of_rgb.contains("--stretch"));
    assert!(problem(&tiff::<Gray32Float>(&[0., -0.25, 0.5, 1.])).contains("from -0.25 to 1"));
    assert!(problem(&tiff::<Gray32Float>(&[0., f32::NAN, 0.5, 1.])).contains("not numbers"));
}

#[test]
fn a_stretch_maps_any_kind_of_sample() {
    let floats = stretched(&tiff::<Gray32Float>(&[-10., 0., 10., 90.]), 0.);
    assert_eq!(greys(&floats.image), [0, 26, 51, 255]);
    let signed = stretched(&tiff::<GrayI16>(&[-100, -100, 0, 100]), 0.);
    assert_eq!(greys(&signed.image), [0, 0, 128, 255]);
    let deep = stretched(&tiff::<Gray16>(&[0, 1000, 2000, 4000]), 0.);
    assert_eq!(greys(&deep.image), [0, 64, 128, 255]);
    assert!(deep.warnings.is_empty());
    let plain = stretched(&tiff::<Gray8>(&[1, 2, 3, 4]), 0.);
    assert_eq!(greys(&plain.image), [1, 2, 3, 4]);
    let holes = stretched(&tiff::<Gray32Float>(&[0., f32::NAN, 5., 10.]), 0.);
    assert_eq!(greys(&holes.image), [0, 0, 128, 255]);
    assert!(holes.warnings[0].contains("1 samples are not numbers"));
    let options = DecodeOptions {
        stretch: Some(50.),
        ..DecodeOptions::default()
    };
    assert!(Image::decode_with(&tiff::<Gray8>(&[1, 2, 3, 4]), &options).is_err());
}

#[test]
fn signed_samples_have_no_black_of_their_own() {
    assert!(problem(&tiff::<GrayI16>(&[0, 1, 2, 3])).contains("16-bit signed"));
}

#[test]
fn sixteen_bits_are_the_whole_range_and_dark_ones_are_warned_about() {
    let bytes = tiff::<Gray16>(&[0, 257, 4000, 65535]);
    let read = Image::decode_with(&bytes, &DecodeOptions::default()).unwrap();
    assert_eq!(greys(&read.image), [0, 1, 16, 255]);
    assert!(read.warnings.is_empty());
    let bytes = tiff::<Gray16>(&[0, 257, 4000, 4095]);
    let read = Image::decode_with(&bytes, &DecodeOptions::default()).unwrap();
    assert!(
        read.warnings[0].contains("reach 4095 of 65535"),
        "{:?}",
        read.warnings
    );
}

#[test]
fn inks_leave_what_pil_leaves() {
    let inks = [
        [0, 0, 0, 0],
        [255, 0, 0, 0],
        [10, 20, 30, 40],
        [200, 100, 50, 128],
    ];
    let image = Image::decode(&tiff::<CMYK8>(&inks.concat())).unwrap();
    // as Image.frombytes("CMYK", ...).convert("RGB")
    let want = [
        [255, 255, 255],
        [0, 255, 255],
        [207, 198, 190],
        [27, 77, 102],
    ];
    assert_eq!(image.pixels(), want.concat());
}

#[test]
fn a_bigtiff_is_read() {
    let mut bytes = Cursor::new(vec![]);
    let mut encoder = TiffEncoder::new_big(&mut bytes).unwrap();
    encoder.write_image::<Gray8>(4, 1, &[1, 2, 3, 4]).unwrap();
    let image = Image::decode(bytes.get_ref()).unwrap();
    assert_eq!(greys(&image), [1, 2, 3, 4]);
}

#[test]
fn a_preview_is_not_taken_for_the_picture() {
    let preview = with_tag(Tag::NewSubfileType, 1);
    assert!(problem(&preview).contains("preview of 4x1"));
    assert!(Image::decode(&with_tag(Tag::NewSubfileType, 0)).is_ok());
}

#[test]
fn a_damaged_zlib_stream_is_refused() {
    let mut bytes = Cursor::new(vec![]);
    let deflate = tiff::encoder::Compression::Deflate(Default::default());
    let mut encoder = TiffEncoder::new(&mut bytes)
        .unwrap()
        .with_compression(deflate);
    encoder.write_image::<Gray8>(4, 1, &[1, 2, 3, 4]).unwrap();
    let bytes = bytes.into_inner();
    assert!(Image::decode(&bytes).is_ok());
    let at = bytes.windows(2).position(|two| two[0] == 0x78).unwrap();
    let damaged = (at + 2..at + 8).any(|i| {
        let mut bytes = bytes.clone();
        bytes[i] ^= 0x10;
        Image::decode(&bytes).is_err_and(|error| error.to_string().contains("damaged"))
    });
    assert!(damaged);
}
