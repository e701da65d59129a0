//! PNG, row by row.
//!
//! The rows are all that is asked for, so that a file whose last chunk is missing is read.

use std::io::{BufRead, ErrorKind, Seek, SeekFrom};

use image::metadata::Orientation;
use png::{BitDepth, ColorType, Reader, Transformations};

use super::canvas::{Canvas, Color, Layout, to_rgb};
use super::levels::{Levels, Survey};
use super::{DecodeOptions, Decoded, WORKING_MEMORY, check_size, dark_in_16_bits};

pub fn decode<R: BufRead + Seek>(mut input: R, options: &DecodeOptions) -> Result<Decoded, String> {
    let reader = open(&mut input)?;
    let info = reader.info();
    let (width, height) = (info.width as usize, info.height as usize);
    check_size(width, height)?;
    let (color, depth) = reader.output_color_type();
    let layout = match color {
        ColorType::Grayscale => Layout::of(Color::Grey),
        ColorType::GrayscaleAlpha => Layout::with_alpha(Color::Grey),
        ColorType::Rgba => Layout::with_alpha(Color::Rgb),
        ColorType::Rgb | ColorType::Indexed => Layout::of(Color::Rgb),
    };
    let mut canvas = Canvas::new(width, height);
    if options.alpha_as_mask && layout.alpha.is_some() {
        canvas.keep_alpha();
    }
    let mut warnings = vec![];
    let end;
    if depth == BitDepth::Sixteen {
        let colors = layout.color.samples();
        let mut levels = Levels::SIXTEEN_BITS;
        let mut reader = reader;
        if let Some(percent) = options.stretch {
            let mut survey = Survey::new(width * height * colors);
            rows(reader, |row, _, _| {
                for pixel in row.chunks_exact(2 * layout.channels) {
                    let samples = pixel.as_chunks::<2>().0.iter().take(colors);
                    samples.for_each(|s| survey.keep(u16::from_be_bytes(*s).into()));
                }
            })?;
            levels = survey.stretched(percent);
            reader = open(&mut input)?;
        }
        let (table, opaque) = (levels.table(), Levels::SIXTEEN_BITS.table());
        let mut largest = 0;
        let mut row8 = vec![];
        end = rows(reader, |row, y, pass| {
            row8.clear();
            for pixel in row.chunks_exact(2 * layout.channels) {
                for (channel, sample) in pixel.as_chunks::<2>().0.iter().enumerate() {
                    let sample = u16::from_be_bytes(*sample);
                    if channel < colors {
                        largest = largest.max(sample);
                        row8.push(table[usize::from(sample)]);
                    } else {
                        row8.push(opaque[usize::from(sample)]);
                    }
                }
            }
            put(&mut canvas, layout, &row8, y, pass);
        })?;
        warnings.extend(dark_in_16_bits(largest, options));
    } else {
        end = rows(reader, |row, y, pass| {
            put(&mut canvas, layout, row, y, pass)
        })?;
    }
    if !end.is_reached && !ends_between_chunks(&mut input).unwrap_or(false) {
        return Err(truncated());
    }
    Ok(Decoded {
        canvas,
        orientation: end.orientation,
        warnings,
    })
}

fn open<R: BufRead + Seek>(input: &mut R) -> Result<Reader<&mut R>, String> {
    input.rewind().map_err(|error| error.to_string())?;
    let limits = png::Limits {
        bytes: WORKING_MEMORY as usize,
    };
    let mut decoder = png::Decoder::new_with_limits(input, limits);
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    decoder.set_transformations(Transformations::EXPAND);
    decoder.read_info().map_err(describe)
}

/// What is known when all rows are read.
struct End {
    /// May come behind the rows.
    orientation: Option<Orientation>,
    /// Whether the file goes on to the end of the pixels' data, and so to their checksum.
    is_reached: bool,
}

/// Calls `each` with every row, its number and, in an interlaced file, its place.
fn rows<R: BufRead + Seek>(
    mut reader: Reader<R>,
    mut each: impl FnMut(&[u8], usize, Option<&png::Adam7Info>),
) -> Result<End, String> {
    let info = reader.info();
    let count = match info.interlaced {
        true => interlaced_rows(info.width, info.height),
        false => info.height,
    };
    for y in 0..count {
        let row = reader.next_interlaced_row().map_err(describe)?;
        let row = row.ok_or_else(truncated)?;
        let place = match row.interlace() {
            png::InterlaceInfo::Adam7(place) => Some(place),
            png::InterlaceInfo::Null(_) => None,
        };
        each(row.data(), y as usize, place);
    }
    // What is left of the data has the checksum.
    let is_reached = match reader.next_row() {
        Err(png::DecodingError::IoError(error)) if error.kind() == ErrorKind::UnexpectedEof => {
            false
        }
        Err(error) => return Err(describe(error)),
        Ok(_) => {
            // Broken metadata is no reason to refuse good pixels.
            let _ = reader.finish();
            true
        }
    };
    let exif = reader.info().exif_metadata.as_deref();
    Ok(End {
        orientation: exif.and_then(Orientation::from_exif_chunk),
        is_reached,
    })
}

/// Whether a file that ends early does so behind a whole chunk.
fn ends_between_chunks<R: BufRead + Seek>(input: &mut R) -> std::io::Result<bool> {
    let length = input.seek(SeekFrom::End(0))?;
    let mut position = 8;
    while position < length {
        input.seek(SeekFrom::Start(position))?;
        let mut size = [0; 4];
        input.read_exact(&mut size)?;
        position += 12 + u64::from(u32::from_be_bytes(size));
    }
    Ok(position == length)
}

/// Rows of all passes that have pixels.
fn interlaced_rows(width: u32, height: u32) -> u32 {
    // first column, first row, rows between
    const PASSES: [(u32, u32, u32); 7] = [
        (0, 0, 8),
        (4, 0, 8),
        (0, 4, 8),
        (2, 0, 4),
        (0, 2, 4),
        (1, 0, 2),
        (0, 1, 2),
    ];
    let passes = PASSES.iter().filter(|(x, ..)| width > *x);
    passes
        .map(|(_, y, step)| height.saturating_sub(*y).div_ceil(*step))
        .sum()
}

fn put(canvas: &mut Canvas, layout: Layout, row: &[u8], y: usize, pass: Option<&png::Adam7Info>) {
    let Some(pass) = pass else {
        return canvas.put_rows(y, layout, row);
    };
    let mut rgb = vec![0; row.len() / layout.channels * 3];
    to_rgb(layout, row, &mut rgb);
    png::expand_interlaced_row(&mut canvas.pixels, 3 * canvas.width, &rgb, pass, 24);
    if let (Some(alpha), Some(channel)) = (&mut canvas.alpha, layout.alpha) {
        let row: Vec<u8> = row
            .chunks_exact(layout.channels)
            .map(|p| p[channel])
            .collect();
        png::expand_interlaced_row(alpha, canvas.width, &row, pass, 8);
    }
}

fn truncated() -> String {
    "the png file ends before the end of the image; it is truncated".into()
}

fn describe(error: png::DecodingError) -> String {
    match error {
        png::DecodingError::LimitsExceeded => {
            "the png needs more memory than is allowed; save it again without extra data".into()
        }
        error => format!("{error}; the file is damaged or truncated"),
    }
}
