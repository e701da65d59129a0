//! Objects in videos as files.
//!
//! [`Writer`] takes frame after frame and writes a folder: `tracks.jsonl`, a line of JSON for each
//! frame, and any [`Format`]. What is kept in memory does not grow with the video.

mod encoder;
mod gif;
mod writer;
mod youtube_vis;

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::answer::Found;
use super::dataset::indexed_png;
use super::{OverlayOptions, overlay, palette};
use crate::image::Image;
use crate::mask::{BoxXyxy, Mask, Rle};
use crate::predict::Instance;
use crate::predict::video::{ConceptMasks, FrameMasks};
use crate::{Error, Result, Size};

pub use writer::{About, JOURNAL, Writer};

/// What can be written besides the lines of JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Format {
    /// `overlay.gif`: the frames with the objects drawn on them.
    Gif,
    /// `overlay.mp4`: the same as a video, which an installed `ffmpeg` encodes.
    Mp4,
    /// `overlay/00000.png`: the same, one file for each frame.
    Overlay,
    /// `masks/001/00000.png`: one file for each object and frame, as SA-V has them.
    Masks,
    /// `davis/00000.png`: one palette image for each frame, as DAVIS and YouTube-VOS have them.
    Davis,
    /// `mot.txt`: boxes as MOTChallenge has them.
    Mot,
    /// `youtube_vis.json`: tracks as YouTube-VIS has them.
    YoutubeVis,
}

named_formats!(
    Format,
    "video format",
    [
        Gif = "gif",
        Mp4 = "mp4",
        Overlay = "overlay",
        Masks = "masks",
        Davis = "davis",
        Mot = "mot",
        YoutubeVis = "youtube-vis",
    ]
);

/// One object on one frame.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrackedObject {
    /// Its number, the same on all frames, from 1 on.
    pub id: u32,
    /// What it is called: the text of its prompt, or `object`.
    pub label: String,
    /// Confidence in 0..=1: of the detection by which a named object was found, or the predicted IoU
    /// of the mask of one that was shown.
    pub score: f32,
    /// Its box in pixels of the frame; all zeros where it is not visible.
    pub box_xyxy: BoxXyxy,
    /// Pixels in the mask.
    pub area: usize,
    /// Its pixels.
    pub segmentation: Rle,
}

impl TrackedObject {
    /// An object with a mask; `bbox` is that around the mask if it is not given.
    pub fn new(id: u32, label: &str, score: f32, mask: &Mask, bbox: Option<BoxXyxy>) -> Self {
        let bbox = bbox.or_else(|| mask.bbox());
        Self {
            id,
            label: label.to_string(),
            score,
            box_xyxy: bbox.unwrap_or_default(),
            area: mask.area(),
            segmentation: Rle::encode(mask),
        }
    }

    fn to_found(&self) -> Result<Found> {
        let instance = Instance {
            mask: self.segmentation.decode()?,
            bbox: self.box_xyxy,
            score: self.score,
        };
        Ok(Found::new(format!("{} {}", self.label, self.id), instance))
    }
}

/// The objects on one frame: a line of [`JOURNAL`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrackedFrame {
    /// Its number, from 0 on.
    pub frame: usize,
    /// The objects that are followed, by id.
    pub objects: Vec<TrackedObject>,
}

impl TrackedFrame {
    /// The instances of a concept, which count from 0 and here from 1: 0 is the background, or no
    /// object, in most formats.
    pub fn of_concept(masks: &ConceptMasks, label: &str) -> Self {
        let objects = masks.objects.iter();
        let object =
            objects.map(|o| TrackedObject::new(o.id + 1, label, o.score, &o.mask, Some(o.bbox)));
        Self {
            frame: masks.frame,
            objects: object.collect(),
        }
    }

    /// The frame as a line of JSON, without its end.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a score or a box that is not finite.
    pub fn to_json(&self) -> Result<String> {
        let numbers = |o: &TrackedObject| {
            let [x0, y0, x1, y1] = <[f32; 4]>::from(o.box_xyxy);
            [o.score, x0, y0, x1, y1]
        };
        if !self.objects.iter().flat_map(numbers).all(f32::is_finite) {
            let problem = format!("frame {}: a score or a box is not finite", self.frame);
            return Err(Error::InvalidArgument(problem));
        }
        serde_json::to_string(self).map_err(|e| Error::InvalidArgument(e.to_string()))
    }

    /// Reads a line of JSON.
    ///
    /// # Errors
    /// [`Error::InvalidMask`] for anything else.
    pub fn from_json(line: &str) -> Result<Self> {
        serde_json::from_str(line)
            .map_err(|e| Error::InvalidMask(format!("a line of tracked objects: {e}")))
    }

    /// Lines of MOTChallenge: frame from 1 on, id, left, top, width, height, confidence and three
    /// times -1. Objects without pixels are left out.
    pub fn to_mot(&self) -> String {
        let mut lines = String::new();
        for object in self.objects.iter().filter(|object| object.area > 0) {
            let [x, y, w, h] = object.box_xyxy.to_xywh();
            let (frame, id, score) = (self.frame + 1, object.id, object.score);
            let _ = writeln!(
                lines,
                "{frame},{id},{x:.2},{y:.2},{w:.2},{h:.2},{score:.4},-1,-1,-1"
            );
        }
        lines
    }

    /// A palette PNG as DAVIS and YouTube-VOS have it: a pixel is the id of its object, 0 the
    /// background. Of several objects the first has a pixel.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for an id above 255, which has no place there; [`Error::InvalidMask`]
    /// for a mask that is broken or of another size.
    pub fn to_davis_png(&self, size: Size) -> Result<Vec<u8>> {
        let mut pixels = vec![0; size.area()];
        for object in self.objects.iter().rev() {
            let id = u8::try_from(object.id).map_err(|_| Error::Unsupported {
                what: format!("object {} in a palette image", object.id),
                instead: "it has room for ids up to 255; use another format than davis".into(),
            })?;
            let mask = object.segmentation.decode()?;
            if mask.size() != size {
                let of = mask.size();
                let problem = format!("a mask of {of} pixels for a frame of {size}");
                return Err(Error::InvalidMask(problem));
            }
            mask.spans(size).for_each(|span| pixels[span].fill(id));
        }
        indexed_png(size, &pixels)
    }

    /// The frame with its objects drawn on it, each in its own color, the same on all frames.
    ///
    /// # Errors
    /// [`Error::InvalidMask`] for a broken mask.
    pub fn drawn_on(&self, image: &Image) -> Result<Image> {
        let visible = self.objects.iter().filter(|object| object.area > 0);
        let colors: Vec<_> = visible.clone().map(|o| palette::color(o.id)).collect();
        let found = visible.map(TrackedObject::to_found);
        let found = found.collect::<Result<Vec<_>>>()?;
        let found: Vec<&Found> = found.iter().collect();
        let options = OverlayOptions::default();
        Ok(overlay::overlay_in(&colors, image, &found, &options))
    }
}

/// Objects that were shown, with the ids that they were given.
impl From<FrameMasks> for TrackedFrame {
    fn from(masks: FrameMasks) -> Self {
        let objects = masks.objects.iter();
        let object =
            objects.map(|o| TrackedObject::new(o.id, "object", o.iou_score, &o.mask, None));
        Self {
            frame: masks.frame,
            objects: object.collect(),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A star that moves to the right and a dot that is hidden on frame 1.
    pub(in crate::output) fn frame(frame: usize) -> TrackedFrame {
        let bar = |from: usize| Mask::from_fn(6, 4, |x, y| (from..from + 2).contains(&x) && y > 0);
        let dot = if frame == 1 { Mask::new(6, 4) } else { bar(3) };
        let object = |id, label: &str, mask: Mask| TrackedObject::new(id, label, 0.5, &mask, None);
        TrackedFrame {
            frame,
            objects: vec![object(1, "star", bar(frame)), object(3, "dot", dot)],
        }
    }

    #[test]
    fn formats_are_read_by_name_and_an_unknown_one_lists_them() {
        for format in Format::ALL {
            assert_eq!(format.to_string().parse::<Format>().unwrap(), format);
        }
        let error = "avi".parse::<Format>().unwrap_err().to_string();
        assert!(error.contains("gif, mp4, overlay"), "{error}");
    }

    #[test]
    fn a_line_of_json_comes_back() {
        let line = frame(0).to_json().unwrap();
        let begin = r#"{"frame":0,"objects":[{"id":1,"label":"star","score":0.5,"box_xyxy":[0.0,1.0,2.0,4.0],"area":6,"segmentation":{"size":[4,6],"counts":""#;
        assert!(line.starts_with(begin), "{line}");
        assert_eq!(TrackedFrame::from_json(&line).unwrap(), frame(0));
        assert!(TrackedFrame::from_json("{").is_err());
        let mut broken = frame(0);
        broken.objects[1].score = f32::NAN;
        assert!(broken.to_json().is_err());
    }

    #[test]
    fn mot_leaves_out_what_is_not_visible() {
        let text = frame(1).to_mot();
        assert_eq!(text, "2,1,1.00,1.00,2.00,3.00,0.5000,-1,-1,-1\n");
    }

    #[test]
    fn a_palette_image_is_read_in_the_colors_of_davis() {
        let size = Size::new(6, 4);
        let png = frame(0).to_davis_png(size).unwrap();
        let rgb = ::image::load_from_memory(&png).unwrap().into_rgb8();
        assert_eq!(rgb.dimensions(), (6, 4));
        assert_eq!(rgb.get_pixel(0, 0).0, [0, 0, 0]);
        assert_eq!(rgb.get_pixel(0, 1).0, [0x80, 0, 0]); // object 1
        assert_eq!(rgb.get_pixel(3, 1).0, [0x80, 0x80, 0]); // object 3
        let mut many = frame(0);
        many.objects[0].id = 256;
        let error = many.to_davis_png(size).unwrap_err().to_string();
        assert!(error.contains("object 256"), "{error}");
        assert!(frame(0).to_davis_png(Size::new(4, 6)).is_err());
    }

    #[test]
    fn an_object_keeps_its_color_when_another_one_is_hidden() {
        let image = Image::from_rgb8(6, 4, vec![128; 6 * 4 * 3]).unwrap();
        let mut alone = frame(0);
        alone.objects.remove(0);
        let at = |image: &Image| image.pixels()[(3 * 6 + 4) * 3..][..3].to_vec();
        let (both, alone) = (frame(0).drawn_on(&image), alone.drawn_on(&image));
        assert_eq!(at(&both.unwrap()), at(&alone.unwrap()));
        let mut hidden = frame(1);
        hidden.objects.remove(0);
        assert_eq!(hidden.drawn_on(&image).unwrap(), image);
    }
}
