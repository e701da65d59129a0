//! Where the frames of a video come from.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};
use std::thread::JoinHandle;

use ::image::AnimationDecoder;
use ::image::codecs::{gif::GifDecoder, webp::WebPDecoder};

use crate::image::Image;
use crate::{Error, Result};

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

fn no_such_frame(frame: usize, len: usize) -> Error {
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
            let ending = path
                .extension()
                .and_then(|e| e.to_str())
                .unwrap_or_default();
            if PICTURES.contains(&ending.to_ascii_lowercase().as_str()) && path.is_file() {
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
    /// How many frames there are, where that is known before they are read.
    len: Option<usize>,
    next: usize,
}

enum Source {
    Folder(Folder),
    Animation(::image::Frames<'static>),
    Pipe(Pipe),
}

impl FrameReader {
    /// Opens a video of any kind, told by the name's ending.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Io`]; [`Error::InvalidImage`] for a folder without pictures and
    /// a broken animation; [`Error::Unsupported`] for a video file where there is no `ffmpeg`.
    pub fn open(path: &Path) -> Result<Self> {
        if path.is_dir() {
            let folder = Folder::open(path)?;
            return Ok(Self {
                len: Some(folder.len()),
                source: Source::Folder(folder),
                next: 0,
            });
        }
        let ending = path
            .extension()
            .and_then(|e| e.to_str())
            .unwrap_or_default();
        let broken =
            |e: ::image::ImageError| Error::InvalidImage(format!("{}: {e}", path.display()));
        let file = BufReader::new(File::open(path).map_err(|e| Error::io(path, e))?);
        let source = match ending.to_ascii_lowercase().as_str() {
            "gif" => Source::Animation(GifDecoder::new(file).map_err(broken)?.into_frames()),
            "webp" => Source::Animation(WebPDecoder::new(file).map_err(broken)?.into_frames()),
            _ => Source::Pipe(Pipe::open(path)?),
        };
        Ok(Self {
            source,
            len: None,
            next: 0,
        })
    }

    /// How many frames there are, where that is known before they are read.
    pub fn known_len(&self) -> Option<usize> {
        self.len
    }

    fn read_next(&mut self) -> Result<Option<Image>> {
        let frame = self.next;
        match &mut self.source {
            Source::Folder(folder) if frame < folder.len() => folder.get(frame).map(Some),
            Source::Folder(_) => Ok(None),
            Source::Animation(frames) => {
                frames.next().map(|f| animation_frame(frame, f)).transpose()
            }
            Source::Pipe(pipe) => pipe.read(frame),
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

fn animation_frame(frame: usize, decoded: ::image::ImageResult<::image::Frame>) -> Result<Image> {
    let decoded = decoded.map_err(|e| Error::InvalidImage(format!("frame {frame}: {e}")))?;
    let rgb = ::image::DynamicImage::ImageRgba8(decoded.into_buffer()).into_rgb8();
    let (width, height) = (rgb.width() as usize, rgb.height() as usize);
    Image::from_rgb8(width, height, rgb.into_raw())
}

/// Frames that `ffmpeg` writes, one PPM picture after the other.
struct Pipe {
    child: Child,
    stdout: BufReader<ChildStdout>,
    /// Reads what `ffmpeg` complains about, so that it never waits to say it.
    complaints: Option<JoinHandle<String>>,
    path: PathBuf,
}

/// Largest side of a frame; a header with more is broken.
const MAX_SIDE: usize = 1 << 15;

impl Pipe {
    fn open(path: &Path) -> Result<Self> {
        let mut name = std::ffi::OsString::from("file:"); // not a protocol, whatever its name
        name.push(path);
        let child = Command::new("ffmpeg")
            .args(["-nostdin", "-v", "error", "-i"])
            .arg(name)
            .args([
                "-map",
                "0:v:0",
                "-f",
                "image2pipe",
                "-c:v",
                "ppm",
                "-pix_fmt",
                "rgb24",
                "-",
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = child.map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => Error::Unsupported {
                what: format!("{}, a video file, without ffmpeg", path.display()),
                instead: "install it (apt install ffmpeg, brew install ffmpeg, winget install \
                          ffmpeg), or give a folder of frames or an animated GIF or WebP"
                    .into(),
            },
            _ => Error::io(path, e),
        })?;
        let complaints = child
            .stderr
            .take()
            .map(|stderr| std::thread::spawn(move || first_line(stderr)));
        match child.stdout.take() {
            Some(stdout) => Ok(Self {
                child,
                stdout: BufReader::with_capacity(1 << 16, stdout),
                complaints,
                path: path.to_path_buf(),
            }),
            None => Err(Error::InvalidImage(format!(
                "{}: no output of ffmpeg",
                path.display()
            ))),
        }
    }

    fn read(&mut self, frame: usize) -> Result<Option<Image>> {
        let at_end = self
            .stdout
            .fill_buf()
            .map_err(|e| Error::io(&self.path, e))?
            .is_empty();
        if at_end {
            return self.finish(frame).map(|()| None);
        }
        match self.read_ppm() {
            Ok(image) => image.map(Some),
            Err(cause) => Err(Error::io(&self.path, cause)),
        }
    }

    fn read_ppm(&mut self) -> std::io::Result<Result<Image>> {
        let mut header = vec![];
        for _ in 0..3 {
            let mut line = String::new();
            (&mut self.stdout).take(32).read_line(&mut line)?;
            header.push(line.trim().to_string());
        }
        let size = header[1]
            .split_once(' ')
            .and_then(|(w, h)| Some((w.parse().ok()?, h.parse().ok()?)));
        let is_valid = |side: usize| (1..=MAX_SIDE).contains(&side);
        let Some((width, height)) = size.filter(|(w, h)| {
            header[0] == "P6" && header[2] == "255" && is_valid(*w) && is_valid(*h)
        }) else {
            return Ok(Err(Error::InvalidImage(format!(
                "{}: ffmpeg wrote no picture: {header:?}",
                self.path.display()
            ))));
        };
        let mut pixels = vec![0; 3 * width * height];
        self.stdout.read_exact(&mut pixels)?;
        Ok(Image::from_rgb8(width, height, pixels))
    }

    /// After the last frame: whether `ffmpeg` came to the video's end.
    fn finish(&mut self, frames: usize) -> Result<()> {
        let status = self.child.wait().map_err(|e| Error::io(&self.path, e))?;
        if status.success() && frames > 0 {
            return Ok(());
        }
        let said = self.complaints.take().and_then(|thread| thread.join().ok());
        let said = said.unwrap_or_default();
        Err(Error::InvalidImage(format!(
            "{}: ffmpeg stopped after {frames} frames: {said}",
            self.path.display()
        )))
    }
}

/// The first line of what is written, of which the rest is read and dropped.
fn first_line(stderr: ChildStderr) -> String {
    let mut lines = BufReader::new(stderr);
    let mut said = String::new();
    // What cannot be read is not there to be said.
    let _ = (&mut lines).take(4096).read_line(&mut said);
    let _ = std::io::copy(&mut lines, &mut std::io::sink());
    said.trim().to_string()
}

impl Drop for Pipe {
    /// A reader that is dropped before the end needs no more frames.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
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
        assert_eq!(reader.known_len(), Some(3));
        let grays: Vec<u8> = reader.map(|image| image.unwrap().pixels()[0]).collect();
        assert_eq!(grays, [10, 20, 100]);
        std::fs::write(folder.path().join("2.png"), "broken").unwrap();
        let error = FrameReader::open(folder.path())
            .unwrap()
            .nth(1)
            .unwrap()
            .unwrap_err();
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
    fn an_animated_gif_is_read_frame_by_frame() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("clip.gif");
        let file = File::create(&path).unwrap();
        let mut encoder = ::image::codecs::gif::GifEncoder::new(file);
        for gray in [0, 255] {
            let image =
                ::image::RgbaImage::from_pixel(4, 3, ::image::Rgba([gray, gray, gray, 255]));
            encoder.encode_frame(::image::Frame::new(image)).unwrap();
        }
        drop(encoder);
        let grays = FrameReader::open(&path)
            .unwrap()
            .map(|image| image.unwrap().pixels()[0]);
        assert_eq!(grays.collect::<Vec<_>>(), [0, 255]);
    }
}
