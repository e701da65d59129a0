//! Prompts that name their frame, and may name their object.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Result, bail};
use candle_sam3::predict::interactive::{self, Options};
use candle_sam3::{BoxXyxy, Image, Mask, Point, VisualPrompt};

use crate::interactive::open_drawing;
use crate::prompts;

/// Something for an object on a frame.
#[derive(Debug, Clone, PartialEq)]
pub struct At<T> {
    pub id: u32,
    pub frame: usize,
    pub what: T,
}

pub fn point(text: &str) -> Result<At<Point>, String> {
    at(text, prompts::parse_point)
}

pub fn bbox(text: &str) -> Result<At<BoxXyxy>, String> {
    at(text, prompts::parse_box)
}

pub fn file(text: &str) -> Result<At<PathBuf>, String> {
    at(text, |path| Ok(path.into()))
}

/// `[ID@]FRAME:WHAT`
fn at<T>(text: &str, parse: impl Fn(&str) -> Result<T, String>) -> Result<At<T>, String> {
    let (id, rest) = match text.split_once('@') {
        // an @ after the frame belongs to a file's name
        Some((id, rest)) if !id.contains(':') => (id, rest),
        _ => ("1", text),
    };
    let (frame, what) = rest
        .split_once(':')
        .ok_or("the frame is missing; give FRAME:…, as in 0:320,180")?;
    let id = match id.parse() {
        Ok(0) => return Err("objects are numbered from 1".into()),
        Ok(id) => id,
        Err(_) => return Err(format!("the object {id:?} is not a whole number")),
    };
    Ok(At {
        id,
        frame: frame
            .parse()
            .map_err(|_| format!("the frame {frame:?} is not a whole number"))?,
        what: parse(what)?,
    })
}

/// What was given on the command line, by frame.
#[derive(Debug, Default)]
pub struct Prompts {
    frames: BTreeMap<usize, OnFrame>,
}

/// Prompts on one frame, by object.
#[derive(Debug, Default)]
pub struct OnFrame {
    pub masks: Vec<(u32, Mask)>,
    pub visual: Vec<(u32, VisualPrompt)>,
}

impl OnFrame {
    fn ids(&self) -> impl Iterator<Item = u32> {
        let visual = self.visual.iter().map(|(id, _)| *id);
        visual.chain(self.masks.iter().map(|(id, _)| *id))
    }
}

impl Prompts {
    /// Puts together what belongs to one object on one frame, and reads pictures of masks.
    pub fn new(points: &[At<Point>], boxes: &[At<BoxXyxy>], masks: &[At<PathBuf>]) -> Result<Self> {
        let mut visual: BTreeMap<(usize, u32), VisualPrompt> = BTreeMap::new();
        for at in points {
            let prompt = visual.entry((at.frame, at.id)).or_default();
            prompt.points.push(at.what);
        }
        for At { id, frame, what } in boxes {
            let prompt = visual.entry((*frame, *id)).or_default();
            if prompt.bbox.replace(*what).is_some() {
                bail!(
                    "two boxes for object {id} on frame {frame}; for two objects number them, as \
                     in 1@{frame}:… and 2@{frame}:…"
                );
            }
        }
        let mut frames: BTreeMap<usize, OnFrame> = BTreeMap::new();
        for ((frame, id), prompt) in visual {
            frames.entry(frame).or_default().visual.push((id, prompt));
        }
        for At { id, frame, what } in masks {
            let on_frame = frames.entry(*frame).or_default();
            if on_frame.ids().any(|other| other == *id) {
                bail!("object {id} has a mask and another prompt on frame {frame}; give one");
            }
            on_frame
                .masks
                .push((*id, interactive::drawn_in(&open_drawing(what)?)));
        }
        Ok(Self { frames })
    }

    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Checks everything against the first frame, before any work: all frames have its size.
    pub fn check(&self, first: &Image) -> Result<()> {
        for on_frame in self.frames.values() {
            for (_, mask) in &on_frame.masks {
                interactive::validate_drawn(mask, first.size())?;
            }
            for (_, prompt) in &on_frame.visual {
                let prompt = std::slice::from_ref(prompt);
                interactive::validate(prompt, &Options::default(), first.size())?;
            }
        }
        let all = || self.frames.values().flat_map(|on_frame| &on_frame.visual);
        let boxes: Vec<BoxXyxy> = all().filter_map(|(_, prompt)| prompt.bbox).collect();
        let points = all().flat_map(|(_, prompt)| &prompt.points);
        prompts::hint_at_fractions(first, &boxes, &points.copied().collect::<Vec<_>>());
        Ok(())
    }

    /// Refuses prompts beyond the end of a video of `frames`.
    pub fn check_frames(&self, frames: usize) -> Result<()> {
        match self.last() {
            Some(frame) if frame >= frames => bail!(
                "a prompt on frame {frame} of a video of {frames} frames; they are numbered from 0"
            ),
            _ => Ok(()),
        }
    }

    /// The last frame with a prompt.
    pub fn last(&self) -> Option<usize> {
        self.frames.keys().next_back().copied()
    }

    /// The frame on which an object is first shown.
    pub fn first_of(&self, id: u32) -> Option<usize> {
        let shown = self
            .frames
            .iter()
            .find(|(_, on_frame)| on_frame.ids().any(|other| other == id));
        shown.map(|(frame, _)| *frame)
    }

    /// The latest of those frames.
    pub fn latest_first(&self) -> Option<usize> {
        let ids = self.frames.values().flat_map(OnFrame::ids);
        ids.filter_map(|id| self.first_of(id)).max()
    }

    /// The prompts on a frame, if there are any.
    pub fn on(&self, frame: usize) -> Option<&OnFrame> {
        self.frames.get(&frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_name_their_frame_and_may_name_their_object() {
        let on = |xy, on_object| Point { xy, on_object };
        let at = point("3@12:320,180,0").unwrap();
        assert_eq!((at.id, at.frame, at.what), (3, 12, on([320., 180.], false)));
        let at = bbox("0:1,2,3,4.5").unwrap();
        assert_eq!((at.id, at.frame, at.what), (1, 0, [1., 2., 3., 4.5].into()));
        assert_eq!(
            file("0:me@home.png").unwrap().what,
            PathBuf::from("me@home.png")
        );
    }

    #[test]
    fn what_is_no_prompt_is_refused_with_a_reason() {
        for (text, why) in [
            ("320,180", "frame is missing"),
            ("x:320,180", "the frame \"x\""),
            ("a@0:320,180", "the object \"a\""),
            ("0@0:320,180", "numbered from 1"),
            ("0:320", "give x,y"),
            ("-1:3,4", "the frame \"-1\""),
        ] {
            let error = point(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn points_and_a_box_of_one_object_are_one_prompt() {
        let boxes = [bbox("2@5:1,2,3,4").unwrap()];
        let points = [point("2@5:2,3").unwrap(), point("5:9,9,0").unwrap()];
        let prompts = Prompts::new(&points, &boxes, &[]).unwrap();
        let on_frame = prompts.on(5).unwrap();
        assert_eq!(on_frame.visual.len(), 2);
        assert!(on_frame.visual[1].1.bbox.is_some() && on_frame.visual[1].1.points.len() == 1);
        assert!(prompts.on(4).is_none());
        assert_eq!((prompts.first_of(2), prompts.first_of(3)), (Some(5), None));
        assert!(prompts.check_frames(6).is_ok() && prompts.check_frames(5).is_err());
        let twice = [boxes[0].clone(), boxes[0].clone()];
        let error = Prompts::new(&[], &twice, &[]).unwrap_err().to_string();
        assert!(error.contains("two boxes for object 2"), "{error}");
    }
}
