//! The `ffmpeg` that is installed, which decodes and encodes video files: nothing is linked.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread::JoinHandle;

use super::About;
use crate::image::Image;
use crate::{Error, Result};

/// As much of what `ffmpeg` says as is kept.
const MAX_SAID: usize = 1 << 16;

/// Largest side of a frame; a header with more is broken.
const MAX_SIDE: usize = 1 << 15;

/// `ffmpeg`, saying what is wrong and nothing else.
pub(crate) fn command() -> Command {
    let mut command = Command::new("ffmpeg");
    command.args(["-nostdin", "-hide_banner", "-v", "error"]);
    command
}

/// A file, whatever its name: not a protocol, not a flag.
pub(crate) fn file(path: &Path) -> OsString {
    let mut name = OsString::from("file:");
    name.push(path);
    name
}

/// A running `ffmpeg`; ended when dropped.
pub(crate) struct Process {
    child: Child,
    /// Reads what it says, so that it never waits to say it.
    said: Option<JoinHandle<String>>,
    path: PathBuf,
}

impl Process {
    /// Starts to read or write the video at `path`.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where there is no `ffmpeg`; [`Error::Io`].
    pub(crate) fn spawn(mut command: Command, path: &Path) -> Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let child = command.stderr(Stdio::piped()).spawn();
        let mut child = child.map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => Error::Unsupported {
                what: format!("{}, a video file, without ffmpeg", path.display()),
                instead: "install it (apt install ffmpeg, brew install ffmpeg, winget install \
                          ffmpeg), or use a folder of frames or an animated GIF or WebP"
                    .into(),
            },
            _ => Error::io(path, e),
        })?;
        let said = child.stderr.take();
        Ok(Self {
            child,
            said: said.map(|stderr| std::thread::spawn(move || end_of(stderr))),
            path: path.to_path_buf(),
        })
    }

    /// What it takes frames from.
    pub(crate) fn input(&mut self) -> Option<&mut impl Write> {
        self.child.stdin.as_mut()
    }

    /// Waits until it has come to the end.
    ///
    /// # Errors
    /// [`Error::InvalidImage`] if it failed, with what it said last.
    pub(crate) fn finish(&mut self) -> Result<()> {
        drop(self.child.stdin.take());
        let status = self.child.wait();
        match status.map_err(|e| Error::io(&self.path, e))?.success() {
            true => Ok(()),
            false => Err(self.complaint("failed")),
        }
    }

    /// An error with what it said last.
    pub(crate) fn complaint(&mut self, did: &str) -> Error {
        drop(self.child.stdin.take());
        let said = self.said().lines().last().unwrap_or_default().to_string();
        Error::InvalidImage(format!("{}: ffmpeg {did}: {said}", self.path.display()))
    }

    /// All that it said; it must be about to end.
    fn said(&mut self) -> String {
        let said = self.said.take().and_then(|thread| thread.join().ok());
        said.unwrap_or_default()
    }
}

impl Drop for Process {
    /// Whoever stops early needs no more frames.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The end of what is said.
fn end_of(stderr: impl Read) -> String {
    let mut said = vec![];
    let mut lines = BufReader::new(stderr);
    while lines
        .by_ref()
        .take(4096)
        .read_until(b'\n', &mut said)
        .is_ok_and(|read| read > 0)
    {
        said.drain(..said.len().saturating_sub(MAX_SAID));
    }
    String::from_utf8_lossy(&said).trim().to_string()
}

/// Checks that `ffmpeg` is installed, for whoever needs it only at the end of long work.
///
/// # Errors
/// [`Error::Unsupported`] if it is not.
pub fn ffmpeg_is_there() -> Result<()> {
    let mut command = command();
    command.arg("-version");
    let mut process = Process::spawn(command, Path::new("overlay.mp4"))?;
    process.finish()
}

/// Decodes a file's first frame to learn what `ffmpeg` makes of it.
///
/// # Errors
/// [`Error::Unsupported`] where there is no `ffmpeg`; [`Error::InvalidImage`] for a file without a
/// video, and one that is broken from the start.
pub(crate) fn probe(path: &Path) -> Result<About> {
    let mut command = command();
    command.args(["-v", "info", "-i"]).arg(file(path));
    command.args(["-map", "0:v:0", "-frames:v", "1", "-vf", "scale=16:16"]);
    // The only raw format whose header has the rate at which frames come.
    command.args(["-pix_fmt", "yuv420p", "-f", "yuv4mpegpipe", "-"]);
    let mut process = Process::spawn(command, path)?;
    let mut header = String::new();
    if let Some(stdout) = process.child.stdout.take() {
        let mut stdout = BufReader::new(stdout);
        // A header that cannot be read is one that is missing, which is reported below.
        let _ = stdout.by_ref().take(256).read_line(&mut header);
        let _ = std::io::copy(&mut stdout, &mut std::io::sink());
    }
    if !header.starts_with("YUV4MPEG2 ") {
        return Err(process.complaint("finds no video"));
    }
    process.finish()?;
    let rate = header
        .split_whitespace()
        .find_map(|part| part.strip_prefix('F'));
    let said = process.said();
    let duration = said.split("Duration: ").nth(1);
    let frames_per_second = rate.and_then(fraction);
    // How long it says it is.
    let seconds = duration.and_then(|text| clock(text.split(',').next()?));
    let product = frames_per_second.zip(seconds);
    Ok(About {
        frames: None,
        likely_frames: product.map(|(rate, seconds)| (rate * seconds).round() as usize),
        frames_per_second,
    })
}

/// `30000:1001`
fn fraction(text: &str) -> Option<f64> {
    let (above, below) = text.split_once(':')?;
    let (above, below) = (above.parse::<u32>().ok()?, below.parse::<u32>().ok()?);
    let rate = f64::from(above) / f64::from(below);
    (rate.is_finite() && rate > 0.).then_some(rate)
}

/// `01:02:03.45`
fn clock(text: &str) -> Option<f64> {
    let parts = text.trim().split(':').map(|part| part.parse::<f64>().ok());
    let parts = parts.collect::<Option<Vec<_>>>()?;
    let seconds = parts.iter().fold(0., |sum, part| 60. * sum + part);
    (parts.len() == 3 && seconds.is_finite()).then_some(seconds)
}

/// The frames of a video file.
pub(crate) struct Decoder {
    process: Process,
    stdout: BufReader<ChildStdout>,
}

impl Decoder {
    /// # Errors
    /// As of [`Process::spawn`].
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let mut command = command();
        command.arg("-i").arg(file(path)).args(["-map", "0:v:0"]);
        // One picture after the other, each with its size.
        command.args(["-f", "image2pipe", "-c:v", "ppm", "-pix_fmt", "rgb24", "-"]);
        let mut process = Process::spawn(command, path)?;
        drop(process.child.stdin.take());
        match process.child.stdout.take() {
            Some(stdout) => Ok(Self {
                process,
                stdout: BufReader::with_capacity(1 << 16, stdout),
            }),
            None => Err(process.complaint("has no output")),
        }
    }

    /// The next frame, number `frame`; `None` after the last.
    ///
    /// # Errors
    /// [`Error::InvalidImage`] where the video is broken.
    pub(crate) fn read(&mut self, frame: usize) -> Result<Option<Image>> {
        let at_end = self.stdout.fill_buf().map(<[u8]>::is_empty);
        let broken = format!("broke off at frame {frame}");
        match at_end {
            Ok(true) if frame > 0 => self.process.finish().map(|()| None),
            Ok(true) => Err(self.process.complaint("finds no frame")),
            Ok(false) => match self.read_ppm() {
                Ok(image) => image.map(Some),
                Err(_) => Err(self.process.complaint(&broken)),
            },
            Err(_) => Err(self.process.complaint(&broken)),
        }
    }

    fn read_ppm(&mut self) -> std::io::Result<Result<Image>> {
        let mut header = vec![];
        for _ in 0..3 {
            let mut line = String::new();
            (&mut self.stdout).take(32).read_line(&mut line)?;
            header.push(line.trim().to_string());
        }
        let is_valid = |side: usize| (1..=MAX_SIDE).contains(&side);
        let size = header[1].split_once(' ');
        let size = size.and_then(|(w, h)| Some((w.parse().ok()?, h.parse().ok()?)));
        let size = size.filter(|(w, h)| is_valid(*w) && is_valid(*h));
        let Some((width, height)) = size.filter(|_| header[0] == "P6" && header[2] == "255") else {
            return Ok(Err(Error::InvalidImage(format!(
                "{}: ffmpeg wrote no picture: {header:?}",
                self.process.path.display()
            ))));
        };
        let mut pixels = vec![0; 3 * width * height];
        self.stdout.read_exact(&mut pixels)?;
        Ok(Image::from_rgb8(width, height, pixels))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_and_clocks_are_read() {
        assert_eq!(fraction("25:1"), Some(25.));
        assert_eq!(fraction("0:0"), None);
        assert_eq!(fraction("1:0"), None);
        assert_eq!(clock("01:02:03.50"), Some(3723.5));
        assert_eq!(clock("N/A"), None);
    }

    #[test]
    fn only_the_end_of_what_is_said_is_kept() {
        let said = "a line\n".repeat(20_000) + "the last";
        let kept = end_of(said.as_bytes());
        assert!(kept.len() <= MAX_SAID && kept.ends_with("a line\nthe last"));
    }
}
