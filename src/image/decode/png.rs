//! PNG, row by row.
//!
//! The rows are all that is asked for, so that a file whose last chunk is missing is read.

use std::io::{BufRead, ErrorKind, Seek, SeekFrom};

use image::metadata::Orientation;
use png::{Adam7Info, BitDepth, ColorType, Reader, Transformations};

use super::canvas::{Canvas, Color, Layout};
use super::levels::{EightBits, Levels, Survey, sixteen_bits};
use super::{DecodeOptions, Decoded, WORKING_MEMORY, check_size, damaged, dark_in_16_bits};

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
    let mut canvas = Canvas::new(width, height, layout, options.alpha_as_mask);
    let mut put = |row: &[u8], y, place: Option<&Adam7Info>| match place {
        Some(place) => canvas.put_interlaced(place, row),
        None => canvas.put(0, y, row),
    };
    let mut warnings = vec![];
    let end;
    if depth == BitDepth::Sixteen {
        let mut levels = Levels::SIXTEEN_BITS;
        let mut reader = reader;
        if let Some(percent) = options.stretch {
            let mut survey = Survey::new(width * height * layout.color.samples());
            rows(reader, |row, _, _| {
                survey.keep_colors(sixteen_bits(row, layout, u16::from_be_bytes));
            })?;
            levels = survey.stretched(percent);
            reader = open(&mut input)?;
        }
        let mut eight_bits = EightBits::new(levels);
        let mut row8 = vec![];
        end = rows(reader, |row, y, place| {
            let samples = sixteen_bits(row, layout, u16::from_be_bytes);
            row8.clear();
            row8.extend(samples.map(|sample| eight_bits.level(sample)));
            put(&row8, y, place);
        })?;
        warnings.extend(dark_in_16_bits(eight_bits.largest, options));
    } else {
        end = rows(reader, put)?;
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
    mut each: impl FnMut(&[u8], usize, Option<&Adam7Info>),
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

fn truncated() -> String {
    "the png file ends before the end of the image; it is truncated".into()
}

fn describe(error: png::DecodingError) -> String {
    match error {
        png::DecodingError::LimitsExceeded => {
            "the png needs more memory than is allowed; save it again without extra data".into()
        }
        error => damaged(error),
    }
}
