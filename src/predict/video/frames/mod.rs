//! Where the frames of a video come from.

mod animation;

use std::path::{Path, PathBuf};

use ::image::{ImageDecoder, ImageReader};

use super::ffmpeg;
use crate::image::Image;
use crate::{Error, Result, Size};
use animation::Animation;

/// A video whose frames can be asked for in any order.
pub trait Frames {
    /// How many frames there are.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A frame, from 0 on.
    ///
    /// # Errors
    /// If there is no such frame, or it cannot be read.
    fn get(&mut self, frame: usize) -> Result<Image>;
}

impl Frames for Vec<Image> {
    fn len(&self) -> usize {
        Vec::len(self)
    }

    fn get(&mut self, frame: usize) -> Result<Image> {
        self.as_slice()
            .get(frame)
            .cloned()
            .ok_or_else(|| no_such_frame(frame, Vec::len(self)))
    }
}

pub(super) fn no_such_frame(frame: usize, len: usize) -> Error {
    Error::InvalidArgument(format!(
        "frame {frame} of a video of {len} frames; they are numbered from 0"
    ))
}

/// Pictures in a folder, in the order of the numbers in their names.
#[derive(Debug, Clone)]
pub struct Folder {
    paths: Vec<PathBuf>,
}

/// Endings of pictures, in lower case.
const PICTURES: [&str; 9] = [
    "bmp", "gif", "jpeg", "jpg", "png", "ppm", "tif", "tiff", "webp",
];

/// What a name ends in, in lower case.
fn ending(path: &Path) -> String {
    let ending = path.extension().and_then(|e| e.to_str());
    ending.unwrap_or_default().to_ascii_lowercase()
}

impl Folder {
    /// The pictures of a folder; files of other kinds are left out.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Io`]; [`Error::InvalidImage`] for a folder without pictures.
    pub fn open(path: &Path) -> Result<Self> {
        let entries = std::fs::read_dir(path).map_err(|e| Error::io(path, e))?;
        let mut paths = vec![];
        for entry in entries {
            let path = entry.map_err(|e| Error::io(path, e))?.path();
            if PICTURES.contains(&ending(&path).as_str()) && path.is_file() {
                paths.push(path);
            }
        }
        if paths.is_empty() {
            return Err(Error::InvalidImage(format!(
                "no picture in {}; frames are files like 00000.jpg",
                path.display()
            )));
        }
        paths.sort_by_cached_key(|path| {
            natural(&path.file_name().unwrap_or_default().to_string_lossy())
        });
        Ok(Self { paths })
    }

    /// The files, in order.
    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// Refuses frames of different sizes by their headers, before any is decoded.
    fn check_sizes(&self) -> Result<()> {
        let mut first = None;
        for (frame, path) in self.paths.iter().enumerate() {
            let size = size_of(frame, path)?;
            let expected = *first.get_or_insert(size);
            // A picture may lie on its side; whether it does is found when it is decoded.
            if size != expected && size != Size::new(expected.height, expected.width) {
                return Err(other_size(frame, size, expected));
            }
        }
        Ok(())
    }
}

impl Frames for Folder {
    fn len(&self) -> usize {
        self.paths.len()
    }

    fn get(&mut self, frame: usize) -> Result<Image> {
        match self.paths.get(frame) {
            Some(path) => read(frame, path),
            None => Err(no_such_frame(frame, self.paths.len())),
        }
    }
}

/// A picture; what is wrong with it is said with its number.
fn read(frame: usize, path: &Path) -> Result<Image> {
    Image::open(path).map_err(|error| match error {
        Error::InvalidImage(why) => {
            Error::InvalidImage(format!("frame {frame}, {}: {why}", path.display()))
        }
        other => other,
    })
}

/// The size that a picture's header has.
fn size_of(frame: usize, path: &Path) -> Result<Size> {
    let reader = ImageReader::open(path).and_then(ImageReader::with_guessed_format);
    match reader.map_err(|e| Error::io(path, e))?.into_decoder() {
        Ok(decoder) => {
            let (width, height) = decoder.dimensions();
            Ok(Size::new(width as usize, height as usize))
        }
        // What this cannot read the crate's own decoders may, or say what is wrong.
        Err(_) => read(frame, path).map(|image| image.size()),
    }
}

/// The size of a frame, which is that of the first one; this may be the first.
///
/// # Errors
/// [`Error::InvalidImage`] if it has another.
pub(super) fn check_size(first: &mut Option<Size>, frame: usize, size: Size) -> Result<Size> {
    let first = *first.get_or_insert(size);
    match size == first {
        true => Ok(size),
        false => Err(other_size(frame, size, first)),
    }
}

/// All frames of a video have the size of the first.
fn other_size(frame: usize, size: Size, first: Size) -> Error {
    Error::InvalidImage(format!(
        "frame {frame} has {size} pixels and the frames before it {first}; all frames of a video \
         have one size"
    ))
}

/// Splits a name so that numbers in it are compared as such: frame 9 before frame 10.
fn natural(name: &str) -> Vec<(String, u64, usize)> {
    let mut parts = vec![];
    let mut rest = name;
    while !rest.is_empty() {
        let words = rest
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(rest.len());
        let (word, tail) = rest.split_at(words);
        let digits = tail
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(tail.len());
        let (number, tail) = tail.split_at(digits);
        parts.push((word.to_string(), number.parse().unwrap_or(u64::MAX), digits));
        rest = tail;
    }
    parts
}

/// A video as a stream of frames: a folder of pictures, an animated GIF or WebP, or a video file
/// that an installed `ffmpeg` decodes.
pub struct FrameReader {
    source: Source,
    about: About,
    next: usize,
}

enum Source {
    Folder(Folder),
    Animation(Animation),
    Video(ffmpeg::Decoder),
}

/// What is known of a video before its frames are read.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct About {
    /// How many frames there are. A video file does not have to say.
    pub frames: Option<usize>,
    /// How many there are if the video is as long as it says.
    pub likely_frames: Option<usize>,
    /// How fast they are to be shown; `None` for a folder.
    pub frames_per_second: Option<f64>,
}

impl FrameReader {
    /// Opens a video of any kind, known by the name's ending. The headers of all pictures of a
    /// folder are looked at, and an animation is decoded once, so that what is wrong with their
    /// frames is known here.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Io`]; [`Error::InvalidImage`] for a folder without pictures,
    /// frames of different sizes, a broken animation and a file that is no video;
    /// [`Error::Unsupported`] for a video file where there is no `ffmpeg`.
    pub fn open(path: &Path) -> Result<Self> {
        let counted = |frames, frames_per_second| About {
            frames: Some(frames),
            likely_frames: Some(frames),
            frames_per_second,
        };
        let (source, about) = if path.is_dir() {
            let folder = Folder::open(path)?;
            folder.check_sizes()?;
            let about = counted(folder.len(), None);
            (Source::Folder(folder), about)
        } else if matches!(ending(path).as_str(), "gif" | "webp") {
            let (frames, rate) = animation::survey(path)?;
            let about = counted(frames, rate);
            (Source::Animation(Animation::open(path)?), about)
        } else {
            // Without this a missing file would be ffmpeg's complaint.
            path.metadata().map_err(|e| Error::io(path, e))?;
            let about = ffmpeg::probe(path)?;
            (Source::Video(ffmpeg::Decoder::open(path)?), about)
        };
        Ok(Self {
            source,
            about,
            next: 0,
        })
    }

    /// What is known of the video.
    pub fn about(&self) -> About {
        self.about
    }

    /// The files of the frames, if the video is a folder of them.
    pub fn paths(&self) -> &[PathBuf] {
        match &self.source {
            Source::Folder(folder) => folder.paths(),
            Source::Animation(_) | Source::Video(_) => &[],
        }
    }

    fn read_next(&mut self) -> Result<Option<Image>> {
        let frame = self.next;
        match &mut self.source {
            Source::Folder(folder) if frame < folder.len() => folder.get(frame).map(Some),
            Source::Folder(_) => Ok(None),
            Source::Animation(animation) => animation.read(frame),
            Source::Video(decoder) => decoder.read(frame),
        }
    }
}

impl Iterator for FrameReader {
    type Item = Result<Image>;

    fn next(&mut self) -> Option<Self::Item> {
        let read = self.read_next().transpose();
        self.next += 1;
        read
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frame_9_comes_before_frame_10() {
        let mut names = ["f10.png", "f9.png", "f9b.png", "a2.png"];
        names.sort_by_cached_key(|name| natural(name));
        assert_eq!(names, ["a2.png", "f9.png", "f9b.png", "f10.png"]);
    }

    #[test]
    fn a_folder_is_read_in_order_and_a_broken_frame_is_named() {
        let folder = tempfile::tempdir().unwrap();
        for (name, gray) in [("2.png", 20), ("10.png", 100), ("1.png", 10)] {
            let image = ::image::RgbImage::from_pixel(4, 3, ::image::Rgb([gray; 3]));
            image.save(folder.path().join(name)).unwrap();
        }
        std::fs::write(folder.path().join("notes.txt"), "no picture").unwrap();
        let reader = FrameReader::open(folder.path()).unwrap();
        assert_eq!(reader.about().frames, Some(3));
        let grays: Vec<u8> = reader.map(|image| image.unwrap().pixels()[0]).collect();
        assert_eq!(grays, [10, 20, 100]);
        std::fs::write(folder.path().join("2.png"), "broken").unwrap();
        let error = FrameReader::open(folder.path()).err().unwrap();
        assert!(error.to_string().contains("frame 1"), "{error}");
    }

    #[test]
    fn an_empty_folder_and_a_missing_file_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let error = FrameReader::open(folder.path()).err().unwrap();
        assert!(matches!(error, Error::InvalidImage(_)), "{error}");
        let error = FrameReader::open(&folder.path().join("clip.mp4"))
            .err()
            .unwrap();
        assert!(matches!(error, Error::NotFound { .. }), "{error}");
    }

    #[test]
    fn frames_of_another_size_are_refused_before_any_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let save = |name: &str, width, height| {
            let image = ::image::RgbImage::new(width, height);
            image.save(folder.path().join(name)).unwrap();
        };
        save("0.png", 4, 3);
        save("1.png", 3, 4); // may lie on its side
        assert!(FrameReader::open(folder.path()).is_ok());
        save("2.png", 4, 4);
        let error = FrameReader::open(folder.path()).err().unwrap().to_string();
        assert!(error.contains("frame 2 has 4 x 4 pixels"), "{error}");
    }
}
