//! The folder that a video's objects are written to, frame by frame.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, BufWriter, Seek, Write};
use std::path::{Path, PathBuf};

use super::encoder::Encoder;
use super::gif::GifWriter;
use super::youtube_vis::YoutubeVis;
use super::{Format, TrackedFrame};
use crate::image::Image;
use crate::output::{encode_png, masks};
use crate::write::{NewFile, remove_abandoned, write_file};
use crate::{Error, Result, Size};

/// Name of the file of lines of JSON, one [`TrackedFrame`] each. It is always written, and flushed
/// with every frame: a run that was stopped goes on from it.
pub const JOURNAL: &str = "tracks.jsonl";

const GIF: &str = "overlay.gif";
const MP4: &str = "overlay.mp4";
const MASKS: &str = "masks";
const DAVIS: &str = "davis";
const OVERLAYS: &str = "overlay";
const MOT: &str = "mot.txt";
const YOUTUBE_VIS: &str = "youtube_vis.json";

/// What is known of a video besides its frames.
#[derive(Debug, Clone, PartialEq)]
pub struct About {
    /// What it is called.
    pub name: String,
    /// How fast it is played.
    pub frames_per_second: f64,
    /// The files of its frames, where it is a folder of them.
    pub file_names: Vec<String>,
}

/// Writes the objects of a video, frame by frame in their order.
///
/// Pictures of single frames and lines of JSON are there as soon as their frame is written, whole;
/// the other files once the video is at its end.
pub struct Writer {
    folder: PathBuf,
    formats: Vec<Format>,
    about: About,
    journal: File,
    /// Of a run that goes on: the lines that it has.
    past: Option<BufReader<File>>,
    size: Option<Size>,
    gif: Option<GifWriter<BufWriter<NewFile>>>,
    mp4: Option<Encoder>,
    mot: Option<BufWriter<NewFile>>,
}

impl Writer {
    /// Begins in a folder that is empty or does not exist yet.
    ///
    /// # Errors
    /// As of [`Writer::check`]; [`Error::Io`] when it cannot be written to;
    /// [`Error::InvalidArgument`] for a frame rate that is not above 0 and at most 1000.
    pub fn create(folder: &Path, formats: &[Format], about: About) -> Result<Self> {
        Self::check(folder)?;
        fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
        let path = folder.join(JOURNAL);
        let journal = OpenOptions::new().append(true).create_new(true).open(&path);
        let journal = journal.map_err(|e| Error::io(&path, e))?;
        Self::new(folder, formats, about, journal, None)
    }

    /// Whether a run can begin in a folder, to be known before long work.
    ///
    /// # Errors
    /// [`Error::Io`] for a folder that holds anything but what begins with a dot, and for what is no
    /// folder.
    pub fn check(folder: &Path) -> Result<()> {
        let entries = match fs::read_dir(folder) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            entries => entries.map_err(|e| Error::io(folder, e))?,
        };
        for entry in entries {
            let name = entry.map_err(|e| Error::io(folder, e))?.file_name();
            if !name.to_string_lossy().starts_with('.') {
                let holds = format!("holds {} already; name an empty folder", name.display());
                return Err(Error::refused(folder, holds));
            }
        }
        Ok(())
    }

    /// Goes on in the folder of a run that was stopped. The lines of its first `frames` frames stay,
    /// what came after them is written again, and what a killed process had not completed is
    /// removed; [`Writer::replay`] must be given the images of those frames first. No other process
    /// may be writing to the folder.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Dataset`] if the folder has lines of fewer frames.
    pub fn resume(folder: &Path, formats: &[Format], about: About, frames: usize) -> Result<Self> {
        let path = folder.join(JOURNAL);
        let failed = |cause| Error::io(&path, cause);
        let mut past = BufReader::new(File::open(&path).map_err(failed)?);
        for frame in 0..frames {
            let found = read_line(&mut past, &path)?.map(|line| line.frame);
            if found != Some(frame) {
                let problem = format!("the line of frame {frame} is missing; start over elsewhere");
                return Err(Error::dataset(&path, problem));
            }
        }
        let end = past.stream_position().map_err(failed)?;
        let journal = OpenOptions::new().append(true).open(&path);
        let journal = journal.map_err(failed)?;
        for place in folders(folder) {
            remove_abandoned(&place)?;
        }
        journal.set_len(end).map_err(failed)?;
        past.rewind().map_err(failed)?;
        Self::new(folder, formats, about, journal, Some(past))
    }

    fn new(
        folder: &Path,
        formats: &[Format],
        about: About,
        journal: File,
        past: Option<BufReader<File>>,
    ) -> Result<Self> {
        let rate = about.frames_per_second;
        if !(rate > 0. && rate <= 1000.) {
            let problem = format!("{rate} frames per second; give more than 0 and at most 1000");
            return Err(Error::InvalidArgument(problem));
        }
        Ok(Self {
            folder: folder.to_path_buf(),
            formats: formats.to_vec(),
            about,
            journal,
            past,
            size: None,
            gif: None,
            mp4: None,
            mot: None,
        })
    }

    /// Writes the next frame and its objects.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Unsupported`] for what a format has no room for, and without `ffmpeg`
    /// for [`Format::Mp4`].
    pub fn write(&mut self, frame: &TrackedFrame, image: &Image) -> Result<()> {
        let number = frame.frame;
        if self.has(Format::Masks) {
            for object in &frame.objects {
                let png = masks::mask_png(&object.segmentation.decode()?)?;
                self.put(&format!("{MASKS}/{:03}/{number:05}.png", object.id), &png)?;
            }
        }
        if self.has(Format::Davis) {
            let png = frame.to_davis_png(image.size())?;
            self.put(&format!("{DAVIS}/{number:05}.png"), &png)?;
        }
        let drawn = self.add_to_documents(frame, image)?;
        if let Some(drawn) = drawn.filter(|_| self.has(Format::Overlay)) {
            self.put(&format!("{OVERLAYS}/{number:05}.png"), &encode_png(&drawn)?)?;
        }
        // Last: a frame that has a line is complete.
        let line = frame.to_json()? + "\n";
        let written = self.journal.write_all(line.as_bytes());
        written.map_err(|e| Error::io(self.folder.join(JOURNAL), e))
    }

    /// Takes the image of the next frame that a run had written before it was stopped, and gives
    /// back what was on it.
    ///
    /// # Errors
    /// As of [`Writer::write`]; [`Error::Dataset`] when there is no such frame.
    pub fn replay(&mut self, image: &Image) -> Result<TrackedFrame> {
        let path = self.folder.join(JOURNAL);
        let line = match &mut self.past {
            Some(past) => read_line(past, &path)?,
            None => None,
        };
        let Some(frame) = line else {
            return Err(Error::dataset(path, "has no further frame to go on from"));
        };
        self.add_to_documents(&frame, image)?;
        Ok(frame)
    }

    /// Adds a frame to the files that hold all of them, and gives back the drawing if one was made.
    fn add_to_documents(&mut self, frame: &TrackedFrame, image: &Image) -> Result<Option<Image>> {
        self.size = Some(image.size());
        if self.has(Format::Mot) {
            let mot = match self.mot.take() {
                Some(mot) => mot,
                None => BufWriter::new(self.begin(MOT)?),
            };
            let written = self.mot.insert(mot).write_all(frame.to_mot().as_bytes());
            written.map_err(|e| Error::io(self.folder.join(MOT), e))?;
        }
        let is_drawn = [Format::Gif, Format::Mp4, Format::Overlay];
        if !is_drawn.into_iter().any(|format| self.has(format)) {
            return Ok(None);
        }
        let drawn = frame.drawn_on(image)?;
        let rate = self.about.frames_per_second;
        if self.has(Format::Gif) {
            let gif = match self.gif.take() {
                Some(gif) => gif,
                None => GifWriter::new(BufWriter::new(self.begin(GIF)?), &drawn, rate)?,
            };
            self.gif.insert(gif).add(&drawn)?;
        }
        if self.has(Format::Mp4) {
            let mp4 = match self.mp4.take() {
                Some(mp4) => mp4,
                None => Encoder::new(&self.folder.join(MP4), drawn.size(), rate)?,
            };
            self.mp4.insert(mp4).add(&drawn)?;
        }
        Ok(Some(drawn))
    }

    /// Completes the files.
    ///
    /// # Errors
    /// As of [`Writer::write`].
    pub fn finish(mut self) -> Result<()> {
        if let Some(gif) = self.gif.take() {
            finish(gif.finish()?)?;
        }
        if let Some(mp4) = self.mp4.take() {
            mp4.finish()?;
        }
        if let Some(mot) = self.mot.take() {
            finish(mot)?;
        }
        let Some(size) = self.size.filter(|_| self.has(Format::YoutubeVis)) else {
            return Ok(());
        };
        // Made of the lines of the whole run, so that no more than one document is in memory, and
        // only now.
        let path = self.folder.join(JOURNAL);
        let mut lines = BufReader::new(File::open(&path).map_err(|e| Error::io(&path, e))?);
        let mut video = YoutubeVis::default();
        while let Some(frame) = read_line(&mut lines, &path)? {
            video.add(frame);
        }
        let json = video.to_json(&self.about.name, size, &self.about.file_names);
        write_file(self.folder.join(YOUTUBE_VIS), json.to_string().as_bytes())
    }

    fn has(&self, format: Format) -> bool {
        self.formats.contains(&format)
    }

    /// A file that is there once it is complete. What was there is of this run: it began in an empty
    /// folder.
    fn begin(&self, name: &str) -> Result<NewFile> {
        NewFile::create(self.folder.join(name), |_| true)
    }

    fn put(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.folder.join(name);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
        }
        let mut file = self.begin(name)?;
        file.write_all(bytes).map_err(|e| file.error(e))?;
        file.finish()
    }
}

/// The folders below `root` that a run has written to so far, and `root`.
fn folders(root: &Path) -> Vec<PathBuf> {
    let mut folders = vec![root.to_path_buf(), root.join(DAVIS), root.join(OVERLAYS)];
    if let Ok(objects) = fs::read_dir(root.join(MASKS)) {
        folders.extend(objects.flatten().map(|object| object.path()));
    }
    folders.retain(|folder| folder.is_dir());
    folders
}

fn finish(file: BufWriter<NewFile>) -> Result<()> {
    match file.into_inner() {
        Ok(file) => file.finish(),
        Err(failed) => {
            let (cause, file) = failed.into_parts();
            Err(file.get_ref().error(cause))
        }
    }
}

/// The next line; `None` at the end, and for one that is not complete.
fn read_line(lines: &mut BufReader<File>, path: &Path) -> Result<Option<TrackedFrame>> {
    let mut line = String::new();
    let read = lines.read_line(&mut line);
    read.map_err(|e| Error::io(path, e))?;
    match line.strip_suffix('\n') {
        Some(line) => TrackedFrame::from_json(line).map(Some),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::video::tests::frame;

    const FORMATS: [Format; 6] = [
        Format::Gif,
        Format::Overlay,
        Format::Masks,
        Format::Davis,
        Format::Mot,
        Format::YoutubeVis,
    ];

    fn about() -> About {
        About {
            name: "clip".into(),
            frames_per_second: 10.,
            file_names: vec![],
        }
    }

    fn image() -> Image {
        Image::from_rgb8(6, 4, vec![90; 6 * 4 * 3]).unwrap()
    }

    /// Every file below a folder and what it holds.
    fn files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
        let mut found = vec![];
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => found.extend(files(&path)),
                false => found.push((path.clone(), fs::read(&path).unwrap())),
            }
        }
        found.sort();
        found
    }

    #[test]
    fn a_run_that_goes_on_writes_what_one_in_one_go_writes() {
        let folder = tempfile::tempdir().unwrap();
        let (whole, parts) = (folder.path().join("whole"), folder.path().join("parts"));
        let mut writer = Writer::create(&whole, &FORMATS, about()).unwrap();
        (0..3).for_each(|t| writer.write(&frame(t), &image()).unwrap());
        writer.finish().unwrap();

        let mut writer = Writer::create(&parts, &FORMATS, about()).unwrap();
        (0..2).for_each(|t| writer.write(&frame(t), &image()).unwrap());
        drop(writer);
        assert!(!parts.join(GIF).exists());
        for left in [".sam3-1a2b.tmp", "masks/003/.sam3-3c4d.tmp"] {
            fs::write(parts.join(left), "half").unwrap(); // of a process that was killed
        }
        let other = parts.join("mine/.sam3-5e6f.tmp"); // of one that is at work
        fs::create_dir(other.parent().unwrap()).unwrap();
        fs::write(&other, "half").unwrap();
        let journal = OpenOptions::new().append(true).open(parts.join(JOURNAL));
        journal.unwrap().write_all(b"{\"frame\":2,\"obj").unwrap(); // killed while it wrote
        let mut writer = Writer::resume(&parts, &FORMATS, about(), 1).unwrap();
        assert_eq!(writer.replay(&image()).unwrap(), frame(0));
        (1..3).for_each(|t| writer.write(&frame(t), &image()).unwrap());
        writer.finish().unwrap();
        fs::remove_file(&other).unwrap();

        let relative = |root: &Path| -> Vec<(PathBuf, Vec<u8>)> {
            let files = files(root).into_iter();
            files
                .map(|(path, bytes)| (path.strip_prefix(root).unwrap().into(), bytes))
                .collect()
        };
        assert_eq!(relative(&whole), relative(&parts));
        let names: Vec<PathBuf> = relative(&whole).into_iter().map(|(path, _)| path).collect();
        for name in [
            "masks/003/00001.png",
            "davis/00002.png",
            "overlay/00000.png",
            MOT,
        ] {
            assert!(names.contains(&name.into()), "{names:?}");
        }
    }

    #[test]
    fn nothing_is_written_over_and_nothing_is_made_up() {
        let folder = tempfile::tempdir().unwrap();
        let create = |about| Writer::create(folder.path(), &[], about).map(drop);
        let still = About {
            frames_per_second: 0.,
            ..about()
        };
        assert!(matches!(create(still), Err(Error::InvalidArgument(_))));
        let error = create(about()).unwrap_err().to_string();
        assert!(error.contains("holds tracks.jsonl already"), "{error}");
        let error = Writer::resume(folder.path(), &[], about(), 2).map(drop);
        let error = error.unwrap_err().to_string();
        assert!(error.contains("frame 0 is missing"), "{error}");
    }
}
