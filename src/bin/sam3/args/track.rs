//! What `sam3 track` takes.

use std::path::PathBuf;
use std::str::FromStr;

use candle_sam3::mask::BoxXyxy;
use clap::{Args, ValueEnum};

use super::ModelArgs;

#[derive(Args)]
pub struct TrackArgs {
    /// Folder of frames, animated GIF or WebP, or a video file, which an installed ffmpeg decodes
    pub input: PathBuf,

    /// Follow every object that a text means, wherever it appears
    #[arg(short, long, value_name = "TEXT", help_heading = "Prompts")]
    pub text: Option<String>,

    /// A box on the first frame around one such object; alone, or with a text
    #[arg(long, value_name = "X0,Y0,X1,Y1", value_parser = parse_box, allow_hyphen_values = true,
        help_heading = "Prompts", conflicts_with_all = ["points", "boxes", "masks"])]
    pub exemplar: Option<BoxXyxy>,

    /// A point on object ID (1 by default) on a frame, or with a last 0 one beside it
    #[arg(
        long = "point",
        value_name = "[ID@]FRAME:X,Y[,0]",
        help_heading = "Prompts",
        conflicts_with = "text"
    )]
    pub points: Vec<At<PointOn>>,

    /// A box around object ID on a frame
    #[arg(
        long = "box",
        value_name = "[ID@]FRAME:X0,Y0,X1,Y1",
        help_heading = "Prompts",
        conflicts_with = "text"
    )]
    pub boxes: Vec<At<BoxOn>>,

    /// A picture that is white where object ID is on a frame
    #[arg(
        long = "mask",
        value_name = "[ID@]FRAME:FILE",
        help_heading = "Prompts",
        conflicts_with = "text"
    )]
    pub masks: Vec<At<PathBuf>>,

    /// Folder for the results, created if missing; INPUT.tracked by default
    #[arg(short, long, value_name = "DIR")]
    pub output: Option<PathBuf>,

    /// What to write
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "jsonl,gif",
        value_name = "LIST"
    )]
    pub formats: Vec<TrackFormat>,

    /// Follow without a memory, for SAM 1, MobileSAM and other models without a tracker: the last mask
    /// is the next prompt
    #[arg(long, conflicts_with = "text")]
    pub simple: bool,

    /// Answer each frame at once: objects are not on probation, and none is taken back
    #[arg(long, requires = "text")]
    pub no_delay: bool,

    /// Detections need a higher score than this
    #[arg(long, default_value_t = 0.5, value_name = "0..1", requires = "text")]
    pub threshold: f32,

    /// A detection becomes an object from this score on
    #[arg(long, default_value_t = 0.7, value_name = "0..1", requires = "text")]
    pub new_threshold: f32,

    /// Go on where a run that was stopped had saved its state
    #[arg(long)]
    pub resume: bool,

    /// Frames between two times that the state is saved for --resume; 0 never
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub save_every: usize,

    #[command(flatten)]
    pub model: ModelArgs,
}

impl TrackArgs {
    /// Whether objects are prompted by hand.
    pub fn is_visual(&self) -> bool {
        !(self.points.is_empty() && self.boxes.is_empty() && self.masks.is_empty())
    }
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TrackFormat {
    /// tracks.jsonl: a line for each frame
    Jsonl,
    /// overlay.gif: the frames with the objects drawn on them
    Gif,
    /// overlay/: the same, one PNG for each frame
    Overlay,
    /// masks/: one PNG for each frame and object
    Masks,
    /// davis/: one palette PNG for each frame
    Davis,
    /// mot.txt: boxes as MOTChallenge has them
    Mot,
    /// youtube_vis.json: tracks as YouTube-VIS and COCO-VID have them
    YoutubeVis,
}

/// Something for an object on a frame.
#[derive(Debug, Clone, PartialEq)]
pub struct At<T> {
    pub id: u32,
    pub frame: usize,
    pub what: T,
}

impl<T: FromStr> FromStr for At<T>
where
    T::Err: std::fmt::Display,
{
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (id, rest) = match text.split_once('@') {
            // an @ after the frame belongs to a file's name
            Some((id, rest)) if !id.contains(':') => (id, rest),
            _ => ("1", text),
        };
        let (frame, what) = rest
            .split_once(':')
            .ok_or("the frame is missing; give FRAME:…, as in 0:320,180")?;
        let number = |name: &str, text: &str| format!("{name} {text:?} is not a whole number");
        Ok(Self {
            id: id.parse().map_err(|_| number("the object", id))?,
            frame: frame.parse().map_err(|_| number("the frame", frame))?,
            what: what.parse().map_err(|e: T::Err| e.to_string())?,
        })
    }
}

/// A point, on the object or beside it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PointOn {
    pub xy: [f32; 2],
    pub on_object: bool,
}

impl FromStr for PointOn {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match numbers(text)?[..] {
            [x, y] | [x, y, 1.] => Ok(Self {
                xy: [x, y],
                on_object: true,
            }),
            [x, y, 0.] => Ok(Self {
                xy: [x, y],
                on_object: false,
            }),
            _ => Err(format!("{text:?} is not X,Y or X,Y,0")),
        }
    }
}

/// A box.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BoxOn(pub BoxXyxy);

impl FromStr for BoxOn {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse_box(text).map(Self)
    }
}

fn parse_box(text: &str) -> Result<BoxXyxy, String> {
    match numbers(text)?[..] {
        [x0, y0, x1, y1] => Ok(BoxXyxy::from([x0, y0, x1, y1])),
        _ => Err(format!("{text:?} is not X0,Y0,X1,Y1")),
    }
}

fn numbers(text: &str) -> Result<Vec<f32>, String> {
    let number = |part: &str| match part.trim().parse::<f32>() {
        Ok(number) if number.is_finite() => Ok(number),
        _ => Err(format!("{part:?} is not a number")),
    };
    text.split(',').map(number).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_name_their_frame_and_may_name_their_object() {
        let point: At<PointOn> = "3@12:320,180,0".parse().unwrap();
        assert_eq!((point.id, point.frame), (3, 12));
        assert_eq!((point.what.xy, point.what.on_object), ([320., 180.], false));
        let bbox: At<BoxOn> = "0:1,2,3,4.5".parse().unwrap();
        assert_eq!((bbox.id, bbox.frame), (1, 0));
        assert_eq!(bbox.what.0, BoxXyxy::from([1., 2., 3., 4.5]));
        let mask: At<PathBuf> = "0:me@home.png".parse().unwrap();
        assert_eq!(mask.what, PathBuf::from("me@home.png"));
    }

    #[test]
    fn what_is_no_prompt_is_refused_with_a_reason() {
        for (text, why) in [
            ("320,180", "frame is missing"),
            ("x:320,180", "whole number"),
            ("a@0:320,180", "whole number"),
            ("0:320", "X,Y"),
            ("0:nan,1", "not a number"),
        ] {
            let error = text.parse::<At<PointOn>>().unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
