//! Objects on the frames before they were first shown.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use candle_sam3::output::video::{TrackedFrame, TrackedObject};
use candle_sam3::predict::video::{Folder, FrameReader, Frames};
use candle_sam3::{Image, Model, Run};

use super::TrackArgs;
use super::follow::Following;
use super::prompts::Prompts;
use crate::progress;

/// Bytes of decoded frames that are held at most: only the pictures of a folder can be read backward.
const MAX_BYTES: usize = 1 << 30;

/// A pass from the last prompt back to the first frame.
///
/// To a session that has seen nothing else this is a video like any other: going backward differs in
/// the numbers of frames alone, of which the network sees how far they lie apart.
#[derive(Default)]
pub struct Backward {
    /// Objects by frame, those that were first shown later.
    before: BTreeMap<usize, Vec<TrackedObject>>,
}

impl Backward {
    /// Refuses what cannot be followed backward, before any weights are read.
    pub fn check(args: &TrackArgs, prompts: &Prompts, first: &Image) -> Result<()> {
        let (Some(latest), Some(last)) = (prompts.latest_first(), prompts.last()) else {
            return Ok(());
        };
        if latest == 0 {
            bail!("every object is shown on frame 0, the first one; leave out --backward");
        }
        let frames = last.saturating_add(1); // of a video file the end is not known yet
        let bytes = frames.saturating_mul(first.pixels().len());
        if !args.input.is_dir() && bytes > MAX_BYTES {
            bail!(
                "the {frames} frames up to the last prompt take {} MB of memory, and --backward may hold \
                 {}; unpack the video into a folder of frames, which are read one by one",
                bytes >> 20,
                MAX_BYTES >> 20
            );
        }
        Ok(())
    }

    /// Follows all objects backward.
    pub fn run(
        model: &Model,
        args: &TrackArgs,
        prompts: &Prompts,
        frames: Option<usize>,
    ) -> Result<Self> {
        let Some(last) = prompts.last() else {
            return Ok(Self::default());
        };
        let mut following = Following::new(model, args, frames)?;
        let mut source = source(&args.input, last)?;
        prompts.check_frames(source.len())?;
        let mut before = BTreeMap::new();
        let bar = progress::frames(Some(last + 1));
        for frame in (0..=last).rev() {
            let image = source.get(frame)?;
            let answers = following.push(&image, prompts.on(frame), &mut Run::default())?;
            let objects = answers.into_iter().flat_map(|answer| answer.objects);
            let objects = objects.filter(|o| prompts.first_of(o.id).is_some_and(|t| frame < t));
            before.insert(frame, objects.collect());
            bar.inc(1);
        }
        bar.finish_and_clear();
        following.say_lost(|step| last - step, "back");
        Ok(Self { before })
    }

    /// Adds what was found on a frame.
    pub fn complete(&mut self, answer: &mut TrackedFrame) {
        let objects = self.before.remove(&answer.frame);
        answer.objects.extend(objects.unwrap_or_default());
        answer.objects.sort_by_key(|object| object.id);
    }
}

/// The frames up to `last`.
fn source(input: &Path, last: usize) -> Result<Box<dyn Frames>> {
    if input.is_dir() {
        return Ok(Box::new(Folder::open(input)?));
    }
    let frames = FrameReader::open(input)?.take(last + 1);
    let frames: candle_sam3::Result<Vec<Image>> = frames.collect();
    Ok(Box::new(
        frames.context("reading the frames up to the last prompt")?,
    ))
}
