//! Objects in videos as files: JSON lines, MOT text, YouTube-VIS JSON, DAVIS palette PNGs.

use std::collections::BTreeMap;
use std::io::Write;

use ::image::codecs::gif::{GifEncoder, Repeat};
use ::image::{Delay, DynamicImage, Frame, RgbImage};
use flate2::Compression;
use flate2::write::ZlibEncoder;
use serde::{Deserialize, Serialize};

use crate::image::Image;
use crate::mask::{BoxXyxy, Mask, Rle};
use crate::{Error, Result, Size};

/// One object on one frame, a part of a JSON line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrackedObject {
    /// Its number, the same on all frames.
    pub id: u32,
    /// What it is called: the text of its prompt, or `object`.
    pub label: String,
    /// Confidence in 0..=1.
    pub score: f32,
    /// x0, y0, x1, y1 in pixels of the frame.
    #[serde(rename = "box")]
    pub bbox: [f32; 4],
    /// Its pixels.
    pub segmentation: Rle,
}

impl TrackedObject {
    /// An object with a mask and the box around it.
    pub fn new(id: u32, label: &str, score: f32, mask: &Mask, bbox: Option<BoxXyxy>) -> Self {
        let bbox = bbox.or_else(|| mask.bbox());
        let bbox = bbox.map_or([0.; 4], |b| [b.x0, b.y0, b.x1, b.y1]);
        Self {
            id,
            label: label.to_string(),
            score,
            bbox,
            segmentation: Rle::encode(mask),
        }
    }
}

/// The objects of one frame: one JSON line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrackedFrame {
    /// Its number, from 0 on.
    pub frame: usize,
    /// The objects, by id.
    pub objects: Vec<TrackedObject>,
}

impl TrackedFrame {
    /// The frame as a line of JSON, without its end.
    ///
    /// # Errors
    /// If a number is not finite.
    pub fn to_json(&self) -> Result<String> {
        serde_json::to_string(self)
            .map_err(|e| Error::InvalidArgument(format!("frame {} as JSON: {e}", self.frame)))
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
    /// times -1. Objects without pixels are left out; ids are one higher, since 0 is none there.
    pub fn to_mot(&self) -> String {
        let visible = self.objects.iter().filter(|o| o.segmentation.area() > 0);
        let line = |o: &TrackedObject| {
            let [x0, y0, x1, y1] = o.bbox;
            let (frame, id, score) = (self.frame + 1, o.id + 1, o.score);
            let (width, height) = (x1 - x0, y1 - y0);
            format!("{frame},{id},{x0:.2},{y0:.2},{width:.2},{height:.2},{score:.4},-1,-1,-1\n")
        };
        visible.map(line).collect()
    }

    /// An indexed PNG as DAVIS and YouTube-VOS use it: a pixel is the number of its object plus one,
    /// 0 is background, in the colours of DAVIS. Of several objects the first has a pixel.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for an id above 254, which has no number there;
    /// [`Error::InvalidMask`] for a broken mask.
    pub fn to_davis_png(&self, size: Size) -> Result<Vec<u8>> {
        let mut pixels = vec![0u8; size.width * size.height];
        for object in self.objects.iter().rev() {
            let Some(index) = u8::try_from(object.id)
                .ok()
                .and_then(|id| id.checked_add(1))
            else {
                return Err(Error::InvalidArgument(format!(
                    "object {} in a palette image, which has room for ids 0 to 254; use another \
                     format",
                    object.id
                )));
            };
            let mask = object.segmentation.decode()?;
            for (pixel, inside) in pixels.iter_mut().zip(mask.to_bytes(1)) {
                if inside > 0 {
                    *pixel = index;
                }
            }
        }
        indexed_png(size, &pixels).map_err(|e| Error::InvalidMask(format!("an indexed PNG: {e}")))
    }
}

/// The colour of an index in DAVIS and PASCAL VOC: the bits of the index, spread over the channels
/// from the highest bit down.
fn davis_color(index: u8) -> [u8; 3] {
    let mut color = [0u8; 3];
    for bit in 0..8 {
        let channel = &mut color[bit % 3];
        if index >> bit & 1 == 1 {
            *channel |= 0x80 >> (bit / 3);
        }
    }
    color
}

fn indexed_png(size: Size, pixels: &[u8]) -> std::io::Result<Vec<u8>> {
    let side = |n: usize| {
        u32::try_from(n)
            .map_err(std::io::Error::other)
            .map(u32::to_be_bytes)
    };
    let (width, height) = (side(size.width)?, side(size.height)?);
    let palette: Vec<u8> = (0..=255).flat_map(davis_color).collect();
    let mut rows = ZlibEncoder::new(vec![], Compression::default());
    for row in pixels.chunks_exact(size.width.max(1)) {
        rows.write_all(&[0])?; // no filter
        rows.write_all(row)?;
    }
    let mut png = b"\x89PNG\r\n\x1a\n".to_vec();
    let indexed = [8, 3, 0, 0, 0]; // bits, palette, and the only compression, filter and order
    chunk(&mut png, b"IHDR", &[&width[..], &height, &indexed].concat());
    chunk(&mut png, b"PLTE", &palette);
    chunk(&mut png, b"IDAT", &rows.finish()?);
    chunk(&mut png, b"IEND", &[]);
    Ok(png)
}

fn chunk(png: &mut Vec<u8>, kind: &[u8; 4], data: &[u8]) {
    png.extend((data.len() as u32).to_be_bytes()); // a row of pixels is far below 4 GB
    let start = png.len();
    png.extend(kind);
    png.extend(data);
    let mut crc = flate2::Crc::new();
    crc.update(&png[start..]);
    png.extend(crc.sum().to_be_bytes());
}

/// A video and its tracks as YouTube-VIS and COCO-VID have them, built from frame to frame.
#[derive(Debug)]
pub struct YoutubeVis {
    name: String,
    size: Size,
    tracks: BTreeMap<u32, Track>,
    length: usize,
}

#[derive(Debug)]
struct Track {
    label: String,
    score: f32,
    on: BTreeMap<usize, (Rle, [f32; 4])>,
}

impl YoutubeVis {
    /// A video called `name`.
    pub fn new(name: &str, size: Size) -> Self {
        Self {
            name: name.to_string(),
            size,
            tracks: BTreeMap::new(),
            length: 0,
        }
    }

    /// Adds a frame.
    pub fn add(&mut self, frame: TrackedFrame) {
        self.length = self.length.max(frame.frame + 1);
        for object in frame.objects {
            let [x0, y0, x1, y1] = object.bbox;
            let track = self.tracks.entry(object.id).or_insert_with(|| Track {
                label: object.label,
                score: object.score,
                on: BTreeMap::new(),
            });
            track.score = track.score.max(object.score);
            if object.segmentation.area() > 0 {
                let bbox = [x0, y0, x1 - x0, y1 - y0];
                track.on.insert(frame.frame, (object.segmentation, bbox));
            }
        }
    }

    /// The document: one video, its categories and one annotation for each track, with `null` for
    /// the frames on which it is not visible.
    pub fn to_json(&self) -> serde_json::Value {
        let mut labels: Vec<&str> = self.tracks.values().map(|t| t.label.as_str()).collect();
        labels.sort_unstable();
        labels.dedup();
        let category =
            |label: &str| labels.iter().position(|l| *l == label).unwrap_or_default() + 1;
        let tracks = self.tracks.iter().map(|(id, track)| {
            let on = |frame: usize| track.on.get(&frame);
            let frames = || 0..self.length;
            serde_json::json!({
                "id": id + 1,
                "video_id": 1,
                "category_id": category(&track.label),
                "segmentations": frames().map(|t| on(t).map(|(rle, _)| rle)).collect::<Vec<_>>(),
                "bboxes": frames().map(|t| on(t).map(|(_, bbox)| bbox)).collect::<Vec<_>>(),
                "areas": frames().map(|t| on(t).map(|(rle, _)| rle.area())).collect::<Vec<_>>(),
                "iscrowd": 0,
                "height": self.size.height,
                "width": self.size.width,
                "length": self.length,
                "score": track.score,
            })
        });
        let annotations: Vec<_> = tracks.collect();
        let categories = labels.iter().enumerate();
        let categories = categories.map(|(i, name)| serde_json::json!({"id": i + 1, "name": name}));
        let files = (0..self.length).map(|t| format!("{}/{t:05}.jpg", self.name));
        serde_json::json!({
            "videos": [{
                "id": 1,
                "name": self.name,
                "width": self.size.width,
                "height": self.size.height,
                "length": self.length,
                "file_names": files.collect::<Vec<_>>(),
            }],
            "categories": categories.collect::<Vec<_>>(),
            "annotations": annotations,
        })
    }
}

/// Frames as an animated GIF that repeats, ten a second.
pub struct GifWriter<W: Write> {
    encoder: GifEncoder<W>,
}

impl<W: Write> GifWriter<W> {
    /// Writes to `to`.
    ///
    /// # Errors
    /// [`Error::InvalidImage`] if that fails.
    pub fn new(to: W) -> Result<Self> {
        let mut encoder = GifEncoder::new_with_speed(to, 10);
        encoder.set_repeat(Repeat::Infinite).map_err(not_written)?;
        Ok(Self { encoder })
    }

    /// Adds a frame.
    ///
    /// # Errors
    /// [`Error::InvalidImage`] for more than 65,535 pixels a side, and if writing fails.
    pub fn add(&mut self, image: &Image) -> Result<()> {
        let side = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let pixels = image.pixels().to_vec();
        let buffer = RgbImage::from_raw(side(image.width()), side(image.height()), pixels);
        let buffer = buffer.ok_or_else(|| Error::InvalidImage("a frame of another size".into()))?;
        let buffer = DynamicImage::ImageRgb8(buffer).into_rgba8();
        let delay = Delay::from_numer_denom_ms(100, 1);
        let frame = Frame::from_parts(buffer, 0, 0, delay);
        self.encoder.encode_frame(frame).map_err(not_written)
    }
}

fn not_written(error: ::image::ImageError) -> Error {
    Error::InvalidImage(format!("an animated GIF: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(frame: usize) -> TrackedFrame {
        let bar = |from: usize| Mask::from_fn(6, 4, |x, y| (from..from + 2).contains(&x) && y > 0);
        let object = |id, label: &str, mask: Mask| TrackedObject::new(id, label, 0.5, &mask, None);
        TrackedFrame {
            frame,
            objects: vec![
                object(0, "star", bar(frame)),
                object(2, "dot", if frame == 1 { Mask::new(6, 4) } else { bar(3) }),
            ],
        }
    }

    #[test]
    fn a_line_of_json_comes_back() {
        let line = frame(0).to_json().unwrap();
        assert!(line.starts_with(r#"{"frame":0,"objects":[{"id":0,"label":"star","score":0.5,"box":[0.0,1.0,2.0,4.0],"segmentation":{"size":[4,6],"counts":""#), "{line}");
        assert_eq!(TrackedFrame::from_json(&line).unwrap(), frame(0));
        assert!(TrackedFrame::from_json("{").is_err());
    }

    #[test]
    fn mot_counts_from_one_and_leaves_out_what_is_not_visible() {
        let text = frame(1).to_mot();
        assert_eq!(text, "2,1,1.00,1.00,2.00,3.00,0.5000,-1,-1,-1\n");
    }

    #[test]
    fn a_palette_image_is_read_as_the_colors_of_davis() {
        let png = frame(0).to_davis_png(Size::new(6, 4)).unwrap();
        let rgb = ::image::load_from_memory(&png).unwrap().into_rgb8();
        assert_eq!(rgb.dimensions(), (6, 4));
        assert_eq!(rgb.get_pixel(0, 0).0, [0, 0, 0]);
        assert_eq!(rgb.get_pixel(0, 1).0, [0x80, 0, 0]); // object 0
        assert_eq!(rgb.get_pixel(3, 1).0, [0x80, 0x80, 0]); // object 2
        assert_eq!(davis_color(8), [0x40, 0, 0]);
        let mut many = frame(0);
        many.objects[0].id = 255;
        assert!(many.to_davis_png(Size::new(6, 4)).is_err());
    }

    #[test]
    fn youtube_vis_has_a_track_with_gaps() {
        let mut video = YoutubeVis::new("clip", Size::new(6, 4));
        (0..3).for_each(|t| video.add(frame(t)));
        let document = video.to_json();
        assert_eq!(document["videos"][0]["length"], 3);
        let dot = &document["annotations"][1];
        assert_eq!((&dot["id"], &dot["category_id"]), (&3.into(), &1.into()));
        assert_eq!(dot["areas"], serde_json::json!([6, null, 6]));
        assert_eq!(dot["bboxes"][0], serde_json::json!([3.0, 1.0, 2.0, 3.0]));
        assert!(dot["segmentations"][1].is_null());
        let names: Vec<_> = document["categories"].as_array().unwrap().iter().collect();
        assert_eq!(names[1]["name"], "star");
    }
}
