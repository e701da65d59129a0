//! Animated GIF and WebP.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use ::image::codecs::{gif::GifDecoder, webp::WebPDecoder};
use ::image::{AnimationDecoder, DynamicImage, Frame, Frames, ImageDecoder, ImageError, Limits};

use super::{check_size, ending};
use crate::image::Image;
use crate::{Error, Result, Size};

/// The frames of an animation as they are shown, each on top of the ones before it.
pub(super) struct Animation {
    frames: Frames<'static>,
    path: PathBuf,
}

impl Animation {
    /// Opens a WebP by the name's ending, otherwise a GIF.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Io`]; [`Error::InvalidImage`] for another kind of file and for
    /// a still picture.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let file = BufReader::new(File::open(path).map_err(|e| Error::io(path, e))?);
        let broken = |error| invalid(path, error);
        let frames = if ending(path) == "webp" {
            let mut decoder = WebPDecoder::new(file).map_err(broken)?;
            decoder.set_limits(Limits::default()).map_err(broken)?;
            if !decoder.has_animation() {
                return Err(Error::InvalidImage(format!(
                    "{}: a still picture; give an animation, a folder of frames or a video",
                    path.display()
                )));
            }
            decoder.into_frames()
        } else {
            let mut decoder = GifDecoder::new(file).map_err(broken)?;
            decoder.set_limits(Limits::default()).map_err(broken)?;
            decoder.into_frames()
        };
        Ok(Self {
            frames,
            path: path.to_path_buf(),
        })
    }

    /// The next frame, number `frame`; `None` after the last.
    ///
    /// # Errors
    /// [`Error::InvalidImage`] for a broken frame.
    pub(super) fn read(&mut self, frame: usize) -> Result<Option<Image>> {
        let Some(decoded) = self.decode(frame)? else {
            return Ok(None);
        };
        let rgb = DynamicImage::ImageRgba8(decoded.into_buffer()).into_rgb8();
        let (width, height) = (rgb.width() as usize, rgb.height() as usize);
        Image::from_rgb8(width, height, rgb.into_raw()).map(Some)
    }

    fn decode(&mut self, frame: usize) -> Result<Option<Frame>> {
        self.frames.next().transpose().map_err(|error| {
            Error::InvalidImage(format!("{}: frame {frame}: {error}", self.path.display()))
        })
    }
}

fn invalid(path: &Path, error: ImageError) -> Error {
    Error::InvalidImage(format!("{}: {error}", path.display()))
}

/// Decodes all frames and counts them; with how many are shown in a second, if that is said and is
/// the same for all.
///
/// # Errors
/// As of [`Animation::open`] and [`Animation::read`]; [`Error::InvalidImage`] for no frame.
pub(super) fn survey(path: &Path) -> Result<(usize, Option<f64>)> {
    let mut animation = Animation::open(path)?;
    let (mut count, mut size, mut delay, mut is_even) = (0, None, None, true);
    while let Some(frame) = animation.decode(count)? {
        let (width, height) = frame.buffer().dimensions();
        check_size(&mut size, count, Size::new(width as usize, height as usize))?;
        let shown = frame.delay().numer_denom_ms();
        is_even &= *delay.get_or_insert(shown) == shown;
        count += 1;
    }
    let Some((ms, parts)) = delay else {
        return Err(Error::InvalidImage(format!("{}: no frame", path.display())));
    };
    let rate = 1000. * f64::from(parts) / f64::from(ms);
    Ok((count, Some(rate).filter(|rate| is_even && rate.is_finite())))
}

#[cfg(test)]
mod tests {
    use ::image::codecs::gif::GifEncoder;
    use ::image::{Delay, Rgba, RgbaImage};

    use super::*;

    fn clip(folder: &Path) -> PathBuf {
        let path = folder.join("clip.gif");
        let mut encoder = GifEncoder::new(File::create(&path).unwrap());
        for gray in [0, 128, 255] {
            let image = RgbaImage::from_pixel(4, 3, Rgba([gray, gray, gray, 255]));
            let frame = Frame::from_parts(image, 0, 0, Delay::from_numer_denom_ms(40, 1));
            encoder.encode_frame(frame).unwrap();
        }
        path
    }

    #[test]
    fn an_animation_is_counted_and_read_frame_by_frame() {
        let folder = tempfile::tempdir().unwrap();
        let path = clip(folder.path());
        assert_eq!(survey(&path).unwrap(), (3, Some(25.)));
        let mut animation = Animation::open(&path).unwrap();
        let grays = (0..3).map(|t| animation.read(t).unwrap().unwrap().pixels()[0]);
        assert_eq!(grays.collect::<Vec<_>>(), [0, 128, 255]);
        assert!(animation.read(3).unwrap().is_none());
    }

    #[test]
    fn a_broken_frame_is_found_before_the_first_is_used() {
        let folder = tempfile::tempdir().unwrap();
        let path = clip(folder.path());
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() / 2 + 20]).unwrap();
        let error = survey(&path).unwrap_err().to_string();
        assert!(error.contains("clip.gif: frame "), "{error}");
        let still = folder.path().join("still.webp");
        RgbaImage::new(4, 3).save(&still).unwrap();
        let error = survey(&still).unwrap_err().to_string();
        assert!(error.contains("a still picture"), "{error}");
    }
}
