//! The files that a run leaves, frame by frame.

use std::fs::{File, create_dir_all};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use candle_sam3::mask::BoxXyxy;
use candle_sam3::output::video::{GifWriter, TrackedFrame, YoutubeVis};
use candle_sam3::output::{self, LabeledInstance, OverlayOptions};
use candle_sam3::{Image, Mask};

use crate::args::TrackFormat;

/// Open files of the formats that were asked for.
pub struct Files {
    folder: PathBuf,
    name: String,
    formats: Vec<TrackFormat>,
    jsonl: Option<BufWriter<File>>,
    mot: Option<BufWriter<File>>,
    gif: Option<GifWriter<BufWriter<File>>>,
    youtube_vis: Option<YoutubeVis>,
}

const JSONL: &str = "tracks.jsonl";

impl Files {
    pub fn new(folder: &Path, formats: &[TrackFormat], input: &Path) -> Result<Self> {
        let subfolder = |format, name: &str| match formats.contains(&format) {
            true => create_dir_all(folder.join(name)).with_context(|| name.to_string()),
            false => Ok(()),
        };
        subfolder(TrackFormat::Overlay, "overlay")?;
        subfolder(TrackFormat::Masks, "masks")?;
        subfolder(TrackFormat::Davis, "davis")?;
        Ok(Self {
            folder: folder.to_path_buf(),
            name: input
                .file_stem()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
            formats: formats.to_vec(),
            jsonl: None,
            mot: None,
            gif: None,
            youtube_vis: None,
        })
    }

    /// The lines of the first `count` frames of a run that was stopped. They are written again.
    pub fn take_lines(&mut self, count: usize) -> Result<Vec<TrackedFrame>> {
        let path = self.folder.join(JSONL);
        let file = File::open(&path).with_context(|| path.display().to_string())?;
        let mut lines = vec![];
        for line in BufReader::new(file).lines().take(count) {
            lines.push(TrackedFrame::from_json(&line?)?);
        }
        if lines.len() < count || lines.iter().enumerate().any(|(i, line)| line.frame != i) {
            bail!("{} lacks frames that the saved state has", path.display());
        }
        Ok(lines)
    }

    /// Writes a frame and its objects.
    pub fn write(&mut self, frame: TrackedFrame, image: &Image) -> Result<()> {
        let number = frame.frame;
        let masks = frame
            .objects
            .iter()
            .map(|object| object.segmentation.decode());
        let masks = masks.collect::<candle_sam3::Result<Vec<Mask>>>()?;
        if self.has(TrackFormat::Jsonl) {
            let line = frame.to_json()?;
            let file = open_once(&mut self.jsonl, &self.folder.join(JSONL))?;
            writeln!(file, "{line}")?;
            file.flush()?; // a run that is killed keeps its lines
        }
        if self.has(TrackFormat::Mot) {
            let file = open_once(&mut self.mot, &self.folder.join("mot.txt"))?;
            file.write_all(frame.to_mot().as_bytes())?;
        }
        if self.has(TrackFormat::Masks) {
            for (object, mask) in frame.objects.iter().zip(&masks) {
                let path = self
                    .folder
                    .join(format!("masks/{number:05}_{}.png", object.id));
                output::write_file(path, &output::masks::mask_png(mask)?)?;
            }
        }
        if self.has(TrackFormat::Davis) {
            let path = self.folder.join(format!("davis/{number:05}.png"));
            output::write_file(path, &frame.to_davis_png(image.size())?)?;
        }
        if self.has(TrackFormat::Gif) || self.has(TrackFormat::Overlay) {
            let drawn = drawn(&frame, &masks, image);
            if self.has(TrackFormat::Overlay) {
                let path = self.folder.join(format!("overlay/{number:05}.png"));
                output::write_file(path, &output::encode_png(&drawn)?)?;
            }
            if self.has(TrackFormat::Gif) {
                let gif = match self.gif.take() {
                    Some(gif) => gif,
                    None => GifWriter::new(create(&self.folder.join("overlay.gif"))?)?,
                };
                self.gif.insert(gif).add(&drawn)?;
            }
        }
        if self.has(TrackFormat::YoutubeVis) {
            let video = self
                .youtube_vis
                .get_or_insert_with(|| YoutubeVis::new(&self.name, image.size()));
            video.add(frame);
        }
        Ok(())
    }

    /// Completes the files.
    pub fn finish(mut self) -> Result<()> {
        if let Some(mot) = &mut self.mot {
            mot.flush()?;
        }
        if let Some(video) = &self.youtube_vis {
            let json = serde_json::to_vec(&video.to_json())?;
            output::write_file(self.folder.join("youtube_vis.json"), &json)?;
        }
        Ok(())
    }

    fn has(&self, format: TrackFormat) -> bool {
        self.formats.contains(&format)
    }
}

fn create(path: &Path) -> Result<BufWriter<File>> {
    let file = File::create(path).with_context(|| path.display().to_string())?;
    Ok(BufWriter::new(file))
}

fn open_once<'a>(
    file: &'a mut Option<BufWriter<File>>,
    path: &Path,
) -> Result<&'a mut BufWriter<File>> {
    let open = match file.take() {
        Some(open) => open,
        None => create(path)?,
    };
    Ok(file.insert(open))
}

/// The objects drawn on the frame, each with its number.
fn drawn(frame: &TrackedFrame, masks: &[Mask], image: &Image) -> Image {
    let labels: Vec<String> = frame
        .objects
        .iter()
        .map(|o| format!("{} {}", o.label, o.id))
        .collect();
    let objects = frame.objects.iter().zip(masks).zip(&labels);
    let instances: Vec<LabeledInstance> = objects
        .filter(|((_, mask), _)| !mask.is_empty())
        .map(|((object, mask), label)| LabeledInstance {
            label,
            mask,
            bbox: BoxXyxy::from(object.bbox),
            score: object.score,
        })
        .collect();
    output::overlay(image, &instances, &OverlayOptions::default())
}
