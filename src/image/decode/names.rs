//! Formats by their first bytes: those that are read, and those that people bring all the same.

/// A format that is read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Format {
    Jpeg,
    Png,
    Gif,
    Tiff,
    WebP,
    Bmp,
    Pnm,
}

impl Format {
    pub fn of(head: &[u8]) -> Option<Self> {
        Some(match head {
            [0xff, 0xd8, 0xff, ..] => Self::Jpeg,
            [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Self::Png,
            [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Self::Gif,
            // 42 in classic files, 43 in BigTIFF, in either byte order
            [b'I', b'I', 42 | 43, 0, ..] | [b'M', b'M', 0, 42 | 43, ..] => Self::Tiff,
            [b'R', b'I', b'F', b'F', ..] if head.get(8..12) == Some(b"WEBP") => Self::WebP,
            [b'B', b'M', ..] => Self::Bmp,
            [b'P', b'1'..=b'7', byte, ..] if byte.is_ascii_whitespace() || *byte == b'#' => {
                Self::Pnm
            }
            _ => return None,
        })
    }
}

/// Whether a file is a HEIF container of HEVC pictures, as telephones write them.
pub fn is_heic(head: &[u8]) -> bool {
    const BRANDS: [&[u8; 4]; 8] = [
        b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1",
    ];
    brand(head).is_some_and(|brand| BRANDS.contains(&brand))
}

/// The main brand of an ISO base media file.
fn brand(head: &[u8]) -> Option<&[u8; 4]> {
    match head {
        [_, _, _, _, b'f', b't', b'y', b'p', brand @ ..] => brand.first_chunk(),
        _ => None,
    }
}

/// What a file is that is not read, and what to do with it.
pub fn unsupported(head: &[u8]) -> Option<(&'static str, &'static str)> {
    const CONVERT: &str = "convert it to jpeg or png";
    if is_heic(head) {
        return Some((
            "a HEIC photo",
            "convert it to jpeg (heif-convert photo.heic photo.jpg, or let the phone export it as \
             \"most compatible\"), or build with the feature heic",
        ));
    }
    if let Some(brand) = brand(head) {
        return Some(match brand {
            b"avif" | b"avis" => ("an AVIF picture", CONVERT),
            b"crx " => ("a camera raw file (CR3)", RAW),
            _ => (
                "a film (MP4 or QuickTime)",
                "save a frame of it as jpeg or png",
            ),
        });
    }
    const RAW: &str = "export it as jpeg or 16-bit tiff from a raw converter";
    const KNOWN: &[(&[u8], &str, &str)] = &[
        (b"\x00\x00\x00\x0cJXL ", "a JPEG XL picture", CONVERT),
        (b"\xff\x0a", "a JPEG XL picture", CONVERT),
        (b"\x00\x00\x00\x0cjP  ", "a JPEG 2000 picture", CONVERT),
        (b"\xff\x4f\xff\x51", "a JPEG 2000 picture", CONVERT),
        (b"8BPS", "a Photoshop file", "export it as png"),
        (
            b"\x76\x2f\x31\x01",
            "an OpenEXR picture",
            "convert it to png or float tiff",
        ),
        (b"qoif", "a QOI picture", CONVERT),
        (b"\x00\x00\x01\x00", "an icon", CONVERT),
        (b"DDS ", "a DDS texture", CONVERT),
        (
            b"#?RADIANCE",
            "a Radiance HDR picture",
            "convert it to png or float tiff",
        ),
        (
            b"%PDF",
            "a PDF document",
            "render the page to png (pdftoppm -png)",
        ),
        (b"<svg", "an SVG drawing", "render it to png"),
        (
            b"<?xml",
            "an XML or SVG file",
            "render it to png if it is a drawing",
        ),
        (b"<!DOCTYPE", "a web page", "save the picture itself"),
        (b"<!doctype", "a web page", "save the picture itself"),
        (b"<html", "a web page", "save the picture itself"),
        (b"\x93NUMPY", "a NumPy array", "save it as png"),
        (
            b"\x89HDF",
            "an HDF5 file",
            "export the picture as png or tiff",
        ),
        (
            b"SIMPLE  =",
            "a FITS file",
            "convert it to 16-bit png or tiff",
        ),
        (b"FUJIFILMCCD-RAW", "a camera raw file (RAF)", RAW),
        (b"IIRO", "a camera raw file (ORF)", RAW),
        (b"IIU\x00", "a camera raw file (RW2)", RAW),
        (b"PK\x03\x04", "a zip archive", "unpack it first"),
        (b"\x1f\x8b", "a gzip archive", "unpack it first"),
        (
            b"\x1a\x45\xdf\xa3",
            "a film (Matroska or WebM)",
            "save a frame of it as jpeg or png",
        ),
    ];
    let starts = |magic: &[u8]| head.starts_with(magic);
    let found = KNOWN.iter().find(|(magic, ..)| starts(magic));
    if let Some(&(_, what, remedy)) = found {
        return Some((what, remedy));
    }
    (head.get(128..132) == Some(b"DICM")).then_some((
        "a DICOM file",
        "convert it to png, as with dcmj2pnm --write-16-bit-png",
    ))
}
