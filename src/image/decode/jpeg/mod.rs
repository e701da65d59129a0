//! JPEG: the structure is walked and every symbol read before pixels are believed.
//!
//! The decoder (and libjpeg) makes up what a damaged file does not yield: grey from there on. It
//! also takes bytes behind the picture for part of it. So the markers are followed here from the
//! start of the first picture to its end, and the entropy-coded data between them is read as far as
//! is needed to know that it is whole, while another thread makes pixels of it. Behind the end may
//! stand anything: the film of a motion photo, further pictures (MPO), a gain map.
//!
//! Section and annex numbers are those of ITU-T T.81.

mod frame;
mod huffman;
mod scan;

use std::io::{Read, Seek};

use image::metadata::Orientation;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use super::canvas::{Canvas, Color, Layout};
use super::{Decoded, check_size, check_working_memory};
use frame::Frame;
use huffman::Table;
use scan::Scan;

/// Pixels of a picture that is decoded while it is still being read: a damaged file takes no more memory
/// than theirs before it is refused.
const EARLY_PIXELS: usize = 32 << 20;

/// The longest file up to the end of its first picture.
const MAX_BYTES: u64 = 256 << 20;

const REMEDY: &str = "use an intact copy, or open it in an image editor and save what it shows";

/// Why the data of a scan cannot be read to its end.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Problem {
    /// The file ends.
    Cut,
    /// Something stands there that is no picture.
    Damaged,
}

/// What the segments before a scan have defined.
#[derive(Default)]
struct Tables {
    dc: [Option<Table>; 4],
    ac: [Option<Table>; 4],
    /// The first step of each quantization table.
    dc_steps: [u16; 4],
    restart_interval: usize,
}

pub fn decode<R: Read + Seek>(reader: R) -> Result<Decoded, String> {
    let mut bytes = vec![];
    let read = reader.take(MAX_BYTES).read_to_end(&mut bytes);
    read.map_err(|error| error.to_string())?;
    let mut walk = Walk::new(&bytes);
    let scan = walk.next_scan()?;
    let is_likely_whole = scan.as_ref().is_some_and(|scan| walk.is_likely_whole(scan));
    let (read, early) = rayon::join(
        || walk.read_picture(scan),
        || is_likely_whole.then(|| pixels(&bytes)),
    );
    read?;
    let Walk {
        position: end,
        lacks_tables,
        warnings,
        ..
    } = walk;
    let (canvas, orientation) = match early {
        Some(early) if end == bytes.len() && !lacks_tables => early?,
        _ => {
            bytes.truncate(end);
            if lacks_tables {
                bytes.splice(2..2, huffman::standard_tables());
            }
            pixels(&bytes)?
        }
    };
    Ok(Decoded {
        canvas,
        orientation,
        warnings,
    })
}

/// What the decoder makes of a file, whole or not.
fn pixels(bytes: &[u8]) -> Result<(Canvas, Option<Orientation>), String> {
    let options = DecoderOptions::default()
        .set_strict_mode(false)
        .set_max_width(usize::MAX)
        .set_max_height(usize::MAX);
    let mut decoder = zune_jpeg::JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers().map_err(describe)?;
    let (color, out) = match decoder.input_colorspace() {
        Some(ColorSpace::Luma) => (Color::Grey, ColorSpace::Luma),
        _ => (Color::Rgb, ColorSpace::RGB),
    };
    let exif = decoder
        .exif()
        .and_then(|exif| Orientation::from_exif_chunk(exif));
    decoder.set_options(options.jpeg_set_out_colorspace(out));
    let (width, height) = decoder.dimensions().ok_or_else(truncated)?;
    let layout = Layout::of(color);
    let mut samples = vec![0; width * height * layout.channels()];
    decoder.decode_into(&mut samples).map_err(describe)?;
    Ok((Canvas::of(width, height, layout, false, samples), exif))
}

fn describe(error: zune_jpeg::errors::DecodeErrors) -> String {
    format!("the jpeg cannot be decoded: {error:?}; {REMEDY}")
}

struct Walk<'a> {
    bytes: &'a [u8],
    position: usize,
    frame: Option<Frame>,
    tables: Tables,
    /// Whether a scan uses a Huffman table that no segment defines.
    lacks_tables: bool,
    warnings: Vec<String>,
}

impl<'a> Walk<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            position: 2,
            frame: None,
            tables: Tables::default(),
            lacks_tables: false,
            warnings: vec![],
        }
    }

    /// Reads this scan and all that follow, up to the end of the picture.
    fn read_picture(&mut self, mut scan: Option<Scan>) -> Result<(), String> {
        while let Some(next) = scan {
            self.read(&next)?;
            scan = self.next_scan()?;
        }
        let frame = self.frame.as_ref();
        let frame = frame.ok_or_else(|| damaged("it holds no picture"))?;
        match frame.components.iter().all(|component| component.is_read) {
            true => Ok(()),
            false => Err(truncated()),
        }
    }

    /// Reads segments up to the data of a scan; none comes behind the end.
    fn next_scan(&mut self) -> Result<Option<Scan>, String> {
        loop {
            let Some(marker) = self.next_marker() else {
                // The file stops without an end marker. Nothing is lost if every pixel came before.
                self.position = self.bytes.len();
                return match &self.frame {
                    Some(frame) if !frame.is_progressive => Ok(None),
                    _ => Err(truncated()),
                };
            };
            match marker {
                0xd9 => return Ok(None),
                0xd8 => return Err(damaged("a second picture begins inside the first")),
                0x01 | 0xd0..=0xd7 => {} // these have no segment
                0xc0..=0xc2 => {
                    let segment = self.segment()?;
                    self.start_of_frame(marker, segment)?;
                }
                0xc3 | 0xc5..=0xc7 | 0xc9..=0xcb | 0xcd..=0xcf => return Err(unsupported(marker)),
                0xc4 => {
                    let segment = self.segment()?;
                    self.huffman_tables(segment)
                        .ok_or_else(|| damaged("its Huffman tables make no sense"))?;
                }
                0xdb => {
                    let segment = self.segment()?;
                    self.quantization_tables(segment)
                        .ok_or_else(|| damaged("its quantization tables make no sense"))?;
                }
                0xdd => {
                    let segment = self.segment()?;
                    let interval = segment.first_chunk::<2>().copied().map(u16::from_be_bytes);
                    self.tables.restart_interval = interval.unwrap_or(0).into();
                }
                0xda => {
                    let segment = self.segment()?;
                    return self.scan(segment).map(Some);
                }
                _ => drop(self.segment()?),
            }
        }
    }

    /// Goes behind the next marker; bytes that belong to nothing are passed over, as libjpeg does.
    fn next_marker(&mut self) -> Option<u8> {
        loop {
            let rest = self.bytes.get(self.position..)?;
            self.position += rest.iter().position(|byte| *byte == 0xff)?;
            let rest = &self.bytes[self.position..];
            let fill = rest.iter().take_while(|byte| **byte == 0xff).count();
            let marker = *rest.get(fill)?;
            self.position += fill + 1;
            if marker != 0 {
                return Some(marker);
            }
        }
    }

    /// The segment behind a marker, without its length.
    fn segment(&mut self) -> Result<&'a [u8], String> {
        let rest = &self.bytes[self.position..];
        let length = rest.first_chunk::<2>().copied().map(u16::from_be_bytes);
        let length = usize::from(length.ok_or_else(truncated)?);
        if length < 2 {
            return Err(damaged("a segment has no length"));
        }
        let segment = rest.get(2..length).ok_or_else(truncated)?;
        self.position += length;
        Ok(segment)
    }

    fn start_of_frame(&mut self, marker: u8, segment: &[u8]) -> Result<(), String> {
        if segment.first().is_some_and(|precision| *precision != 8) {
            return Err(format!(
                "a jpeg of {} bits a sample, which is not supported; 8 bits are: save it as 8-bit \
                 jpeg or 16-bit png",
                segment[0]
            ));
        }
        if self.frame.is_some() {
            return Err(damaged("it has two frame headers"));
        }
        let frame = Frame::parse(segment, marker == 0xc2);
        let mut frame = frame.ok_or_else(|| damaged("its frame header makes no sense"))?;
        check_size(frame.width, frame.height)?;
        if frame.components.len() == 2 {
            return Err("a jpeg of 2 components, which is not supported; 1, 3 and 4 are".into());
        }
        if frame.is_progressive {
            let bytes = frame.coefficients();
            check_working_memory(
                "progressive jpeg",
                bytes,
                "save it as a baseline jpeg or png",
            )?;
            frame.prepare();
        }
        self.frame = Some(frame);
        Ok(())
    }

    /// Annex B.2.4.2.
    fn huffman_tables(&mut self, mut segment: &[u8]) -> Option<()> {
        while let Some((&class, rest)) = segment.split_first() {
            let (counts, rest) = rest.split_first_chunk::<16>()?;
            let length = counts.iter().map(|count| usize::from(*count)).sum();
            let (symbols, rest) = rest.split_at_checked(length)?;
            let tables = match class >> 4 {
                0 => &mut self.tables.dc,
                _ => &mut self.tables.ac,
            };
            *tables.get_mut(usize::from(class & 15))? = Some(Table::new(counts, symbols)?);
            segment = rest;
        }
        Some(())
    }

    /// Annex B.2.4.1.
    fn quantization_tables(&mut self, mut segment: &[u8]) -> Option<()> {
        while let Some((&class, rest)) = segment.split_first() {
            let bytes = if class >> 4 == 0 { 1 } else { 2 };
            let (table, rest) = rest.split_at_checked(64 * bytes)?;
            let first = match bytes {
                1 => table[0].into(),
                _ => u16::from_be_bytes([table[0], table[1]]),
            };
            *self.tables.dc_steps.get_mut(usize::from(class & 15))? = first;
            segment = rest;
        }
        Some(())
    }

    /// Whether this scan holds all of a picture of moderate size, as far as can be seen without reading it:
    /// two bits a block are the least.
    fn is_likely_whole(&self, scan: &Scan) -> bool {
        let data = self.bytes.len() - self.position;
        self.frame.as_ref().is_some_and(|frame| {
            let blocks = frame.coefficients() / 128;
            let holds_all = scan.parts.len() == frame.components.len();
            let is_small = frame.width * frame.height <= EARLY_PIXELS;
            !frame.is_progressive && holds_all && is_small && data as u64 * 8 >= blocks * 2
        })
    }

    fn scan(&mut self, segment: &[u8]) -> Result<Scan, String> {
        let Some(frame) = &self.frame else {
            return Err(damaged("a scan comes before the frame header"));
        };
        let scan = Scan::parse(segment, frame);
        let scan = scan.ok_or_else(|| damaged("the header of a scan makes no sense"))?;
        if !frame.is_progressive && scan.parts.len() < frame.components.len() {
            let bytes = frame.coefficients();
            check_working_memory("jpeg of several scans", bytes, "save it as a baseline jpeg")?;
        }
        let needs = |tables: &[Option<Table>; 4], index: usize| tables[index].is_none();
        let is_first = scan.high == 0;
        let lacks = scan.parts.iter().any(|&(_, dc, ac)| {
            (scan.spectrum.0 == 0 && is_first && needs(&self.tables.dc, dc))
                || (scan.spectrum.1 > 0 && needs(&self.tables.ac, ac))
        });
        if lacks && !self.lacks_tables {
            self.lacks_tables = true;
            self.add_standard_tables();
        }
        Ok(scan)
    }

    /// Reads the data of a scan.
    fn read(&mut self, scan: &Scan) -> Result<(), String> {
        let frame = self.frame.as_mut().ok_or_else(truncated)?;
        let end = scan::read(self.bytes, self.position, scan, frame, &self.tables);
        let end = end.map_err(|(problem, row)| stopped(problem, row, frame))?;
        for &(index, ..) in &scan.parts {
            frame.components[index].is_read |= scan.spectrum.0 == 0;
        }
        if end.unused > LARGEST_PADDING && self.warnings.is_empty() {
            self.warnings.push(format!(
                "the jpeg has {} bytes of data more than its pixels need; it may be damaged",
                end.unused
            ));
        }
        self.position = end.position;
        Ok(())
    }

    /// Fills the places of tables that are missing.
    fn add_standard_tables(&mut self) {
        let segment = huffman::standard_tables();
        let mut standard = Walk::new(&[]);
        if standard.huffman_tables(&segment[4..]).is_some() {
            let missing = self.tables.dc.iter_mut().zip(standard.tables.dc);
            let missing = missing.chain(self.tables.ac.iter_mut().zip(standard.tables.ac));
            for (table, standard) in missing.filter(|(table, _)| table.is_none()) {
                *table = standard;
            }
        }
    }
}

/// Bytes that writers put behind the data of a scan.
const LARGEST_PADDING: usize = 16;

fn stopped(problem: Problem, row: usize, frame: &Frame) -> String {
    let (row, height) = ((row * frame.mcu_height).min(frame.height), frame.height);
    match problem {
        Problem::Cut => {
            format!("the jpeg file ends after {row} of {height} rows; it is truncated: {REMEDY}")
        }
        Problem::Damaged => damaged(&format!(
            "its data makes no sense from row {row} of {height} on"
        )),
    }
}

fn damaged(what: &str) -> String {
    format!("the jpeg is damaged: {what}; {REMEDY}")
}

fn truncated() -> String {
    format!("the jpeg file ends before the end of the image; it is truncated: {REMEDY}")
}

fn unsupported(marker: u8) -> String {
    let what = match marker {
        0xc3 => "a lossless jpeg",
        0xc9 | 0xca => "an arithmetic-coded jpeg",
        0xcb => "a lossless arithmetic-coded jpeg",
        _ => "a hierarchical jpeg",
    };
    format!(
        "{what}, which is not supported; baseline and progressive Huffman-coded ones are: save \
             it as such or as png"
    )
}

#[cfg(test)]
mod tests;
