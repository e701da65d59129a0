//! What happens to a picture after the model: its files, and its line in the journal.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io::ErrorKind;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use candle_sam3::mask::Rle;
use candle_sam3::output::dataset::journal::{Journal, Line, Records, Stamp};
use candle_sam3::output::dataset::{Layout, Object, Picture, Pictures, write_picture};
use candle_sam3::predict::dataset::Labeled;
use indicatif::ProgressBar;

use crate::progress;
use crate::summary::plural;

/// Where the time of a run went.
#[derive(Debug, Default)]
pub struct Tally {
    pub pictures: usize,
    pub decoding: Duration,
    pub waiting: Duration,
    pub labeling: Duration,
    pub writing: Duration,
}

/// Writes pictures as they come, and notes each when its files are in place.
pub fn write_all(
    labeled: Receiver<(Labeled, Stamp)>,
    layout: &Layout,
    journal: &mut Journal,
    strict: bool,
    min_area: usize,
    bar: &ProgressBar,
) -> Result<Tally> {
    let mut tally = Tally::default();
    for (labeled, file) in labeled {
        let start = Instant::now();
        tally.pictures += 1;
        tally.decoding += labeled.decoding;
        tally.waiting += labeled.waiting;
        tally.labeling += labeled.labeling;
        let name = labeled.source.name.clone();
        match done(labeled, layout, min_area) {
            Ok(picture) => note(journal, &Line::Done { picture, file })?,
            Err(Failure::Picture(error)) => {
                if strict {
                    bail!("{name}: {error}");
                }
                progress::say(&format!("skipped {name}: {error}"));
                note(journal, &Line::Failed { name, error })?;
            }
            Err(Failure::Output(error)) => {
                return Err(error).with_context(|| {
                    format!("{name} could not be written; --resume continues from here")
                });
            }
        }
        tally.writing += start.elapsed();
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(tally)
}

fn note(journal: &mut Journal, line: &Line) -> Result<()> {
    let noted = journal.note(line);
    noted.context("what was done could not be noted; --resume continues from here")
}

enum Failure {
    /// Of one picture; the others can be labeled.
    Picture(String),
    /// Of the output, a full disk for one: every other picture would fail as well.
    Output(anyhow::Error),
}

fn done(labeled: Labeled, layout: &Layout, min_area: usize) -> Result<Picture, Failure> {
    let failed = |error: candle_sam3::Error| Failure::Picture(error.to_string());
    let objects = labeled.objects.map_err(failed)?;
    let Some(image) = labeled.image else {
        return Err(Failure::Picture("it has no pixels".to_string()));
    };
    let objects = objects.iter().filter(|o| o.mask.area() >= min_area);
    let objects = objects.map(|object| Object {
        class: object.class,
        score: object.score,
        mask: Rle::encode(&object.mask),
    });
    let picture = Picture {
        name: labeled.source.name,
        width: image.width(),
        height: image.height(),
        objects: objects.collect(),
    };
    match write_picture(layout, &picture, &labeled.source.path, &image) {
        Ok(()) => Ok(picture),
        Err(error) if is_of_the_picture(&error) => Err(failed(error)),
        Err(error) => Err(Failure::Output(error.into())),
    }
}

/// It went away since it was decoded, or files named after it would have names that are too long.
fn is_of_the_picture(error: &candle_sam3::Error) -> bool {
    match error {
        candle_sam3::Error::NotFound { .. } => true,
        candle_sam3::Error::Io { cause, .. } => cause.kind() == ErrorKind::InvalidFilename,
        _ => false,
    }
}

/// What was done, for people.
pub fn summary(records: &Records, tally: &Tally, wall: Duration) -> String {
    let mut text = objects(records).unwrap_or_default();
    let seconds = |time: Duration| time.as_secs_f64();
    // Writing to memory does not fail.
    let _ = writeln!(
        text,
        "{} in {:.1} s: labeling {:.1} s, waiting for pictures {:.1} s; meanwhile decoding \
         {:.1} s, writing {:.1} s",
        plural(tally.pictures, "picture"),
        seconds(wall),
        seconds(tally.labeling),
        seconds(tally.waiting),
        seconds(tally.decoding),
        seconds(tally.writing),
    );
    for (name, error) in records.failures() {
        let _ = writeln!(text, "failed: {name}: {error}");
    }
    text
}

/// Pictures, and objects of each class.
pub fn objects(records: &Records) -> Result<String> {
    let classes = &records.header.layout.classes;
    let mut counts: BTreeMap<usize, (usize, usize)> = BTreeMap::new();
    let mut empty = 0;
    records.for_each(&mut |picture| {
        let mut seen = Vec::new();
        for object in &picture.objects {
            let count = counts.entry(object.class).or_default();
            count.0 += 1;
            if !seen.contains(&object.class) {
                seen.push(object.class);
                count.1 += 1;
            }
        }
        empty += usize::from(picture.objects.is_empty());
        Ok(())
    })?;
    let (total, failed) = (records.len(), records.failures().count());
    let total = plural(total, "picture");
    let mut text = format!("{total}, {empty} without objects, {failed} failed\n");
    for (class, name) in classes.iter().enumerate() {
        let (objects, pictures) = counts.get(&class).copied().unwrap_or_default();
        let (objects, pictures) = (plural(objects, "object"), plural(pictures, "picture"));
        let _ = writeln!(text, "{name}: {objects} in {pictures}");
    }
    Ok(text)
}
