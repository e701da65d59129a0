//! The prompts of a command line, by frame.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use candle_sam3::mask::Mask;
use candle_sam3::predict::interactive::drawn_in;
use candle_sam3::{Image, Point, Size, VisualPrompt};

use crate::args::TrackArgs;

/// What was given on the command line.
pub struct Prompts {
    frames: BTreeMap<usize, OnFrame>,
}

/// Prompts on one frame: by object, masks first.
#[derive(Default)]
pub struct OnFrame {
    pub masks: Vec<(u32, Mask)>,
    pub visual: Vec<(u32, VisualPrompt)>,
}

impl Prompts {
    /// Reads pictures of masks.
    pub fn new(args: &TrackArgs) -> Result<Self> {
        if args.text.is_none() && args.exemplar.is_none() && !args.is_visual() {
            bail!(
                "nothing to follow; name it with --text, or show it with --point, --box or --mask, \
                 as in --point 0:320,180"
            );
        }
        if args.simple && !args.masks.is_empty() {
            bail!("--simple follows points and boxes, no masks");
        }
        if args.simple && !args.is_visual() {
            bail!("--simple follows what is shown with --point or --box");
        }
        let mut visual: BTreeMap<(usize, u32), VisualPrompt> = BTreeMap::new();
        for at in &args.points {
            let prompt = visual.entry((at.frame, at.id)).or_default();
            prompt.points.push(Point {
                xy: at.what.xy,
                on_object: at.what.on_object,
            });
        }
        for at in &args.boxes {
            let prompt = visual.entry((at.frame, at.id)).or_default();
            if prompt.bbox.replace(at.what.0).is_some() {
                bail!(
                    "two boxes for object {} on frame {}; give one",
                    at.id,
                    at.frame
                );
            }
        }
        let mut frames: BTreeMap<usize, OnFrame> = BTreeMap::new();
        for ((frame, id), prompt) in visual {
            frames.entry(frame).or_default().visual.push((id, prompt));
        }
        for at in &args.masks {
            let picture = Image::open(&at.what)?;
            let on_frame = frames.entry(at.frame).or_default();
            if on_frame.visual.iter().any(|(id, _)| *id == at.id) {
                bail!(
                    "object {} has a mask and points or a box on frame {}; give one of them",
                    at.id,
                    at.frame
                );
            }
            on_frame.masks.push((at.id, drawn_in(&picture)));
        }
        Ok(Self { frames })
    }

    /// Refuses prompts beyond the end of a video.
    pub fn check_frames(&self, len: Option<usize>) -> Result<()> {
        let last = self.frames.keys().next_back();
        match (last, len) {
            (Some(frame), Some(len)) if *frame >= len => {
                bail!(
                    "a prompt on frame {frame} of a video of {len} frames; they are numbered from 0"
                )
            }
            _ => Ok(()),
        }
    }

    /// The prompts on a frame of this size.
    pub fn on(&mut self, frame: usize, size: Size) -> Result<OnFrame> {
        let prompts = self
            .frames
            .get_mut(&frame)
            .map(std::mem::take)
            .unwrap_or_default();
        for (id, mask) in &prompts.masks {
            if mask.size() != size {
                bail!(
                    "the mask of object {id} has {} pixels, the frame {size}",
                    mask.size()
                );
            }
        }
        Ok(prompts)
    }
}
