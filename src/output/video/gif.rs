//! Frames as an animated GIF that repeats.

use std::io::Write;

use crate::image::Image;
use crate::{Error, Result};

/// Writes frame after frame; only the part of a frame that differs from the one before.
pub(super) struct GifWriter<W: Write> {
    encoder: gif::Encoder<W>,
    /// Hundredths of a second for each frame.
    delay: u16,
    last: Option<Image>,
}

/// Of 1 to 30: the quality of the choice of colors of a frame with more than 256, at the cost of
/// time.
const SPEED: i32 = 10;

impl<W: Write> GifWriter<W> {
    /// # Errors
    /// [`Error::InvalidImage`] for more than 65,535 pixels a side, and if writing fails.
    pub(super) fn new(to: W, first: &Image, frames_per_second: f64) -> Result<Self> {
        let mut encoder = gif::Encoder::new(to, side(first.width())?, side(first.height())?, &[])
            .map_err(not_written)?;
        encoder
            .set_repeat(gif::Repeat::Infinite)
            .map_err(not_written)?;
        Ok(Self {
            encoder,
            // Players take less than 2 for 10.
            delay: (100. / frames_per_second).round().clamp(2., 6000.) as u16,
            last: None,
        })
    }

    /// # Errors
    /// [`Error::InvalidImage`] if writing fails.
    pub(super) fn add(&mut self, image: &Image) -> Result<()> {
        let [left, top, width, height] = match &self.last {
            Some(last) => changed(last, image),
            None => [0, 0, image.width(), image.height()],
        };
        let rows = image.pixels().chunks_exact(3 * image.width());
        let rows = rows.skip(top).take(height);
        let pixels: Vec<u8> = rows
            .flat_map(|row| &row[3 * left..][..3 * width])
            .copied()
            .collect();
        let mut frame = gif::Frame::from_rgb_speed(side(width)?, side(height)?, &pixels, SPEED);
        (frame.left, frame.top) = (side(left)?, side(top)?);
        frame.delay = self.delay;
        frame.dispose = gif::DisposalMethod::Keep;
        self.last = Some(image.clone());
        self.encoder.write_frame(&frame).map_err(not_written)
    }

    /// Completes the file.
    ///
    /// # Errors
    /// [`Error::InvalidImage`] if writing fails.
    pub(super) fn finish(self) -> Result<W> {
        self.encoder.into_inner().map_err(not_written)
    }
}

fn side(pixels: usize) -> Result<u16> {
    u16::try_from(pixels).map_err(|_| {
        Error::InvalidImage(format!(
            "{pixels} pixels in an animated GIF; it has room for 65535 a side, use another format"
        ))
    })
}

fn not_written(error: gif::EncodingError) -> Error {
    Error::InvalidImage(format!("an animated GIF: {error}"))
}

/// Left, top, width and height of what differs in two images of one size; one pixel at least.
fn changed(before: &Image, now: &Image) -> [usize; 4] {
    let stride = 3 * now.width();
    let rows = before.pixels().chunks_exact(stride);
    let rows = rows.zip(now.pixels().chunks_exact(stride)).enumerate();
    let differing = rows.filter(|(_, (a, b))| a != b);
    let mut part: Option<[usize; 4]> = None; // x0, y0, x1, y1, the last ones included
    for (y, (a, b)) in differing {
        let differs = |i: &usize| a[*i] != b[*i];
        let first = (0..stride).find(differs).unwrap_or(0) / 3;
        let last = (0..stride).rev().find(differs).unwrap_or(0) / 3;
        let [x0, y0, x1, _] = part.unwrap_or([first, y, last, y]);
        part = Some([x0.min(first), y0, x1.max(last), y]);
    }
    let [x0, y0, x1, y1] = part.unwrap_or([0; 4]);
    [x0, y0, x1 - x0 + 1, y1 - y0 + 1]
}

#[cfg(test)]
mod tests {
    use ::image::AnimationDecoder;
    use ::image::codecs::gif::GifDecoder;

    use super::*;

    #[test]
    fn every_frame_comes_back_though_only_what_changes_is_written() {
        let image = |at: usize| {
            let mut pixels = vec![40; 9 * 7 * 3];
            pixels[3 * at..3 * at + 3].copy_from_slice(&[200, 10, 60]);
            Image::from_rgb8(9, 7, pixels).unwrap()
        };
        let images = [0, 0, 13, 62].map(image);
        assert_eq!(changed(&images[0], &images[1]), [0, 0, 1, 1]);
        assert_eq!(changed(&images[1], &images[2]), [0, 0, 5, 2]);
        assert_eq!(changed(&images[2], &images[3]), [4, 1, 5, 6]);
        let mut writer = GifWriter::new(vec![], &images[0], 25.).unwrap();
        images.iter().for_each(|image| writer.add(image).unwrap());
        let bytes = writer.finish().unwrap();
        let frames = GifDecoder::new(std::io::Cursor::new(bytes)).unwrap();
        let frames = frames.into_frames().collect_frames().unwrap();
        assert_eq!(frames.len(), 4);
        for (frame, want) in frames.into_iter().zip(&images) {
            assert_eq!(frame.delay().numer_denom_ms(), (40, 1));
            let rgb = ::image::DynamicImage::ImageRgba8(frame.into_buffer()).into_rgb8();
            assert_eq!(rgb.as_raw(), want.pixels());
        }
    }
}
