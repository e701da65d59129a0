//! TIFF and BigTIFF, strip by strip or tile by tile.

use std::io::{BufRead, Read, Seek, SeekFrom};

use image::metadata::Orientation;
use tiff::decoder::{ChunkType, Decoder, DecodingResult, Limits};
use tiff::tags::{PlanarConfiguration, SampleFormat, Tag};
use tiff::{ColorType, TiffError};

use super::canvas::{Canvas, Color, Layout};
use super::levels::{Levels, Survey};
use super::{DecodeOptions, Decoded, WORKING_MEMORY, check_size, damaged, dark_in_16_bits};

const STRETCH: &str = "stretch its levels (--stretch), or convert it to 8 bits, as with \
                       gdal_translate -ot Byte -scale";
const TO_RGB: &str = "convert it to 8-bit RGB, as with magick in.tif -type TrueColor out.png";

pub fn decode<R: BufRead + Seek>(mut input: R, options: &DecodeOptions) -> Result<Decoded, String> {
    let mut file = open(&mut input)?;
    let picture = Picture::of(&mut file)?;
    let (width, height) = (picture.width, picture.height);
    let orientation = match file.find_tag_unsigned::<u8>(Tag::Orientation) {
        Ok(Some(tag)) => Orientation::from_exif(tag),
        _ => None, // broken metadata is no reason to refuse good pixels
    };
    let mut levels = picture.levels(options)?;
    if let (Some(percent), true) = (options.stretch, levels.is_some()) {
        let mut survey = Survey::new(width * height * picture.layout.color.samples());
        picture.chunks(&mut file, |chunk| {
            for (index, value) in chunk.values().enumerate() {
                if picture.is_color(&chunk, index) {
                    survey.keep(value);
                }
            }
        })?;
        levels = Some(survey.stretched(percent));
        drop(file);
        file = open(&mut input)?;
    }
    check_deflate(&mut file)?;
    let mut canvas = Canvas::new(width, height, picture.layout, options.alpha_as_mask);
    let mut survey = Survey::new(0);
    picture.chunks(&mut file, |chunk| {
        picture.paint(&mut canvas, &chunk, levels, &mut survey)
    })?;
    let warnings = picture.judge(&survey, options)?;
    Ok(Decoded {
        canvas,
        orientation,
        warnings,
    })
}

fn open<R: BufRead + Seek>(input: &mut R) -> Result<Decoder<&mut R>, String> {
    input.rewind().map_err(|error| error.to_string())?;
    let mut limits = Limits::default();
    limits.decoding_buffer_size = WORKING_MEMORY as usize;
    limits.intermediate_buffer_size = WORKING_MEMORY as usize;
    limits.ifd_value_size = 64 << 20;
    Ok(Decoder::new(input).map_err(describe)?.with_limits(limits))
}

/// Compares the checksums of zlib streams, which the decoder leaves unread.
fn check_deflate<R: BufRead + Seek>(file: &mut Decoder<R>) -> Result<(), String> {
    let number = file
        .find_tag_unsigned::<u16>(Tag::Compression)
        .ok()
        .flatten();
    if !matches!(number, Some(8 | 32946)) {
        return Ok(());
    }
    let (offsets, lengths) = match file.get_chunk_type() {
        ChunkType::Strip => (Tag::StripOffsets, Tag::StripByteCounts),
        ChunkType::Tile => (Tag::TileOffsets, Tag::TileByteCounts),
    };
    let offsets = file.get_tag_u64_vec(offsets).map_err(describe)?;
    let lengths = file.get_tag_u64_vec(lengths).map_err(describe)?;
    let input = file.inner();
    for (offset, length) in offsets.into_iter().zip(lengths) {
        input
            .seek(SeekFrom::Start(offset))
            .and_then(|_| {
                let mut stream = flate2::bufread::ZlibDecoder::new(input.take(length));
                std::io::copy(&mut stream, &mut std::io::sink())
            })
            .map_err(damaged)?;
    }
    Ok(())
}

/// What the first directory of a file says about its picture.
struct Picture {
    width: usize,
    height: usize,
    layout: Layout,
    format: SampleFormat,
    bits: u8,
    is_planar: bool,
}

impl Picture {
    fn of<R: BufRead + Seek>(file: &mut Decoder<R>) -> Result<Self, String> {
        let (width, height) = file.dimensions().map_err(describe)?;
        let (width, height) = (width as usize, height as usize);
        let is_dng = matches!(file.find_tag(Tag::Unknown(50706)), Ok(Some(_)));
        let mut number = |tag: Tag| file.find_tag_unsigned::<u32>(tag).ok().flatten();
        let photometric = number(Tag::PhotometricInterpretation);
        let is_preview = number(Tag::NewSubfileType).is_some_and(|kind| kind & 1 == 1);
        let planar = number(Tag::PlanarConfiguration);
        // 32803: a color filter array; 34892: linear raw
        if is_preview || matches!(photometric, Some(32803 | 34892)) {
            let what = match is_dng {
                true => "a camera raw file (DNG)",
                false => "a camera raw file, or a tiff that begins with a preview",
            };
            return Err(format!(
                "{what}: the only picture that could be read is a preview of {width}x{height} \
                 pixels; export it as jpeg or 16-bit tiff from a raw converter"
            ));
        }
        check_size(width, height)?;
        if photometric == Some(3) {
            return Err(unsupported("a palette tiff"));
        }
        if matches!(photometric, Some(8..=10)) {
            return Err(unsupported("a tiff of L*a*b* colors"));
        }
        let color = file.colortype().map_err(describe)?;
        let bits = color.bit_depth();
        let layout = match color {
            ColorType::Gray(_) => Layout::of(Color::Grey),
            ColorType::GrayA(_) => Layout::with_alpha(Color::Grey),
            ColorType::RGB(_) => Layout::of(Color::Rgb),
            ColorType::RGBA(_) => Layout::with_alpha(Color::Rgb),
            ColorType::CMYK(_) => Layout::of(Color::Cmyk),
            ColorType::CMYKA(_) => Layout::with_alpha(Color::Cmyk),
            ColorType::Multiband { num_samples: 2, .. } => Layout::with_alpha(Color::Grey),
            ColorType::Multiband { num_samples, .. } => {
                return Err(format!(
                    "a tiff of {num_samples} bands, and it does not say which are red, green and \
                     blue; choose three, as with gdal_translate -b 3 -b 2 -b 1 -ot Byte -scale"
                ));
            }
            ColorType::YCbCr(_) => return Err(unsupported("a tiff of YCbCr colors")),
            other => return Err(unsupported(&format!("a tiff of {other:?}"))),
        };
        let format = file.find_tag_unsigned_vec::<u16>(Tag::SampleFormat);
        let format = format.ok().flatten().and_then(|all| all.first().copied());
        let format = format.map_or(SampleFormat::Uint, SampleFormat::from_u16_exhaustive);
        let is_packed = matches!(bits, 1 | 2 | 4) && layout.channels() == 1;
        if !(is_packed || matches!(bits, 8 | 16 | 32 | 64)) {
            return Err(unsupported(&format!("a tiff of {bits} bits a sample")));
        }
        let is_planar = planar == Some(PlanarConfiguration::Planar.to_u16().into());
        if is_planar && layout.color == Color::Cmyk {
            return Err(unsupported("a tiff of separate CMYK planes"));
        }
        Ok(Self {
            width,
            height,
            layout,
            format,
            bits,
            is_planar,
        })
    }

    /// Which values are black and white; `None` for 8 bits and fewer, which are levels themselves.
    fn levels(&self, options: &DecodeOptions) -> Result<Option<Levels>, String> {
        match (&self.format, self.bits) {
            (SampleFormat::Uint | SampleFormat::Void, ..=8) => Ok(None),
            (SampleFormat::Uint | SampleFormat::Void, 16) => Ok(Some(Levels::SIXTEEN_BITS)),
            (SampleFormat::IEEEFP, _) => Ok(Some(Levels::UNIT)),
            (SampleFormat::Uint | SampleFormat::Int, _) if options.stretch.is_some() => {
                Ok(Some(Levels::UNIT))
            }
            (SampleFormat::Uint | SampleFormat::Int, bits) => {
                let sign = match self.format {
                    SampleFormat::Int => "signed",
                    _ => "unsigned",
                };
                Err(format!(
                    "a tiff of {bits}-bit {sign} samples, and nothing says which values are black \
                     and white; {STRETCH}"
                ))
            }
            (other, _) => Err(unsupported(&format!("a tiff of {other:?} samples"))),
        }
    }

    /// Reads every chunk.
    fn chunks<R: BufRead + Seek>(
        &self,
        file: &mut Decoder<R>,
        mut each: impl FnMut(Chunk),
    ) -> Result<(), String> {
        let count = match file.get_chunk_type() {
            ChunkType::Strip => file.strip_count(),
            ChunkType::Tile => file.tile_count(),
        };
        let count = count.map_err(describe)? as usize;
        let planes = match self.is_planar {
            true => self.layout.channels(),
            false => 1,
        };
        let (chunk_width, chunk_height) = file.chunk_dimensions();
        let (chunk_width, chunk_height) = (chunk_width as usize, chunk_height as usize);
        if chunk_width == 0 || chunk_height == 0 {
            return Err("a tiff of strips without rows; the file is damaged".into());
        }
        let across = self.width.div_ceil(chunk_width);
        let per_plane = across * self.height.div_ceil(chunk_height);
        if count < per_plane * planes {
            return Err(
                "the tiff has fewer strips or tiles than its size needs; it is damaged".into(),
            );
        }
        for plane in 0..planes {
            for index in 0..per_plane {
                let number = (plane * per_plane + index) as u32;
                let (width, height) = file.chunk_data_dimensions(number);
                let samples = match file.read_chunk(number) {
                    Ok(samples) => samples,
                    Err(TiffError::LimitsExceeded) => {
                        return Err(format!(
                            "one strip or tile of the tiff takes more than {} MB; save it in \
                             smaller ones, as with tiffcp -r 64",
                            WORKING_MEMORY >> 20
                        ));
                    }
                    Err(error) => return Err(describe(error)),
                };
                each(Chunk {
                    x: index % across * chunk_width,
                    y: index / across * chunk_height,
                    width: width as usize,
                    height: height as usize,
                    plane: self.is_planar.then_some(plane),
                    samples: &samples,
                });
            }
        }
        Ok(())
    }

    /// Whether the sample at `index` of a chunk is color rather than alpha.
    fn is_color(&self, chunk: &Chunk, index: usize) -> bool {
        let channel = chunk.plane.unwrap_or(index % self.layout.channels());
        self.layout.is_color(channel)
    }

    fn paint(
        &self,
        canvas: &mut Canvas,
        chunk: &Chunk,
        levels: Option<Levels>,
        survey: &mut Survey,
    ) {
        let samples = match (levels, chunk.samples) {
            (None, DecodingResult::U8(bytes)) if self.bits < 8 => {
                unpack(bytes, chunk.width, self.bits)
            }
            (None, DecodingResult::U8(bytes)) => bytes.clone(),
            (levels, _) => {
                let levels = levels.unwrap_or(Levels::UNIT);
                let opaque = match self.format {
                    SampleFormat::Uint => Levels {
                        black: 0.,
                        white: 2f64.powi(self.bits.into()) - 1.,
                    },
                    _ => Levels::UNIT,
                };
                let level = |(index, value)| {
                    if self.is_color(chunk, index) {
                        survey.note(value);
                        levels.level(value)
                    } else {
                        opaque.level(value)
                    }
                };
                chunk.values().enumerate().map(level).collect()
            }
        };
        let stride = samples.len() / chunk.height.max(1);
        for (y, row) in samples.chunks_exact(stride.max(1)).enumerate() {
            match chunk.plane {
                None => canvas.put(chunk.x, chunk.y + y, row),
                Some(plane) => canvas.put_plane(chunk.x, chunk.y + y, plane, row),
            }
        }
    }

    /// What the values say about the choice of levels.
    fn judge(&self, survey: &Survey, options: &DecodeOptions) -> Result<Vec<String>, String> {
        let is_float = self.format == SampleFormat::IEEEFP;
        let (smallest, largest) = (survey.smallest, survey.largest);
        let mut warnings = vec![];
        match options.stretch {
            None if is_float && survey.not_finite > 0 => {
                return Err(format!(
                    "{} samples of the floating-point tiff are not numbers; {STRETCH}",
                    survey.not_finite
                ));
            }
            None if is_float && (smallest < 0. || largest > 1.) => {
                return Err(format!(
                    "the samples of the floating-point tiff go from {} to {}, and \
                     only 0 to 1 have a meaning; {STRETCH}",
                    smallest as f32, largest as f32
                ));
            }
            Some(_) if survey.not_finite > 0 => warnings.push(format!(
                "{} samples are not numbers, and black or white in the picture",
                survey.not_finite
            )),
            None if self.bits == 16 && !is_float && largest >= 0. => {
                warnings.extend(dark_in_16_bits(largest as u16, options));
            }
            _ => {}
        }
        Ok(warnings)
    }
}

/// A strip or tile, or that of one plane.
struct Chunk<'a> {
    x: usize,
    y: usize,
    width: usize,
    height: usize,
    plane: Option<usize>,
    samples: &'a DecodingResult,
}

impl Chunk<'_> {
    fn values(&self) -> Box<dyn Iterator<Item = f64> + '_> {
        match self.samples {
            DecodingResult::U8(v) => Box::new(v.iter().map(|v| f64::from(*v))),
            DecodingResult::U16(v) => Box::new(v.iter().map(|v| f64::from(*v))),
            DecodingResult::U32(v) => Box::new(v.iter().map(|v| f64::from(*v))),
            DecodingResult::U64(v) => Box::new(v.iter().map(|v| *v as f64)),
            DecodingResult::I8(v) => Box::new(v.iter().map(|v| f64::from(*v))),
            DecodingResult::I16(v) => Box::new(v.iter().map(|v| f64::from(*v))),
            DecodingResult::I32(v) => Box::new(v.iter().map(|v| f64::from(*v))),
            DecodingResult::I64(v) => Box::new(v.iter().map(|v| *v as f64)),
            DecodingResult::F16(v) => Box::new(v.iter().map(|v| v.to_f64())),
            DecodingResult::F32(v) => Box::new(v.iter().map(|v| f64::from(*v))),
            DecodingResult::F64(v) => Box::new(v.iter().copied()),
        }
    }
}

/// Rows of 1, 2 or 4 bits a sample, each padded to whole bytes, to levels.
fn unpack(bytes: &[u8], width: usize, bits: u8) -> Vec<u8> {
    let per_byte = usize::from(8 / bits);
    let largest = (1u16 << bits) - 1;
    let level = |byte: u8, i: usize| {
        let shift = 8 - bits as usize * (i + 1);
        ((u16::from(byte) >> shift & largest) * 255 / largest) as u8
    };
    let rows = bytes.chunks_exact(width.div_ceil(per_byte).max(1));
    rows.flat_map(|row| (0..width).map(move |x| level(row[x / per_byte], x % per_byte)))
        .collect()
}

fn unsupported(what: &str) -> String {
    format!("{what}, which is not supported; {TO_RGB}")
}

fn describe(error: TiffError) -> String {
    match error {
        TiffError::UnsupportedError(what) => format!("{what}; {TO_RGB}"),
        TiffError::LimitsExceeded => {
            "the tiff needs more memory than is allowed; save it again in smaller strips".into()
        }
        error => damaged(error),
    }
}

#[cfg(test)]
mod tests;
