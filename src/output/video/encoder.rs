//! Frames as a video file that an installed `ffmpeg` encodes.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::image::Image;
use crate::predict::video::ffmpeg::{self, Process};
use crate::{Error, Result, Size};

/// A video that is being written, under another name until it is complete.
pub(super) struct Encoder {
    process: Process,
    path: PathBuf,
}

impl Encoder {
    /// # Errors
    /// [`Error::Unsupported`] where there is no `ffmpeg`; [`Error::Io`].
    pub(super) fn new(path: &Path, size: Size, frames_per_second: f64) -> Result<Self> {
        let size = format!("{}x{}", size.width, size.height);
        let rate = frames_per_second.to_string();
        let mut process = ffmpeg::command();
        process.args([
            "-y", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", &size, "-r", &rate,
        ]);
        process.args(["-i", "-", "-f", "mp4", "-movflags", "+faststart"]);
        // What players decode has even sides.
        process.args([
            "-pix_fmt",
            "yuv420p",
            "-vf",
            "pad=ceil(iw/2)*2:ceil(ih/2)*2",
        ]);
        process.arg(ffmpeg::file(&part(path)));
        Ok(Self {
            process: Process::spawn(process, path)?,
            path: path.to_path_buf(),
        })
    }

    /// # Errors
    /// [`Error::InvalidImage`] with what `ffmpeg` complains about.
    pub(super) fn add(&mut self, image: &Image) -> Result<()> {
        let input = self.process.input();
        match input.map(|pipe| pipe.write_all(image.pixels())) {
            Some(Ok(())) => Ok(()),
            _ => Err(self.process.complaint("did not take a frame")),
        }
    }

    /// Completes the file.
    ///
    /// # Errors
    /// [`Error::InvalidImage`] with what `ffmpeg` complains about; [`Error::Io`].
    pub(super) fn finish(mut self) -> Result<()> {
        self.process.finish()?;
        fs::rename(part(&self.path), &self.path).map_err(|e| Error::io(&self.path, e))
    }
}

fn part(path: &Path) -> PathBuf {
    path.with_extension("part.mp4")
}
