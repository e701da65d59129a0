//! Tracks as YouTube-VIS has them.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::TrackedFrame;
use crate::Size;
use crate::mask::Rle;

/// A video and its tracks, built from frame to frame.
#[derive(Debug, Default)]
pub(super) struct YoutubeVis {
    tracks: BTreeMap<u32, Track>,
    length: usize,
}

#[derive(Debug)]
struct Track {
    label: String,
    score: f32,
    /// By frame: mask, box as x, y, width and height, area.
    on: BTreeMap<usize, (Rle, [f32; 4], usize)>,
}

impl YoutubeVis {
    pub(super) fn add(&mut self, frame: TrackedFrame) {
        self.length = self.length.max(frame.frame + 1);
        for object in frame.objects {
            let track = self.tracks.entry(object.id).or_insert_with(|| Track {
                label: object.label,
                score: object.score,
                on: BTreeMap::new(),
            });
            track.score = track.score.max(object.score);
            if object.area > 0 {
                let shown = (object.segmentation, object.box_xyxy.to_xywh(), object.area);
                track.on.insert(frame.frame, shown);
            }
        }
    }

    /// The document: one video, its categories and an annotation for each track, with `null` for
    /// the frames on which it is not visible. `score` is the highest that the track has on a frame.
    pub(super) fn to_json(&self, name: &str, size: Size, file_names: &[String]) -> Value {
        let mut labels: Vec<&str> = self.tracks.values().map(|t| t.label.as_str()).collect();
        labels.sort_unstable();
        labels.dedup();
        let category = |label: &str| labels.iter().position(|l| *l == label).map(|i| i + 1);
        let tracks = self.tracks.iter().map(|(id, track)| {
            let on = |frame: usize| track.on.get(&frame);
            let frames = || (0..self.length).map(on);
            json!({
                "id": id,
                "video_id": 1,
                "category_id": category(&track.label),
                "segmentations": frames().map(|on| on.map(|(rle, ..)| rle)).collect::<Vec<_>>(),
                "bboxes": frames().map(|on| on.map(|(_, bbox, _)| bbox)).collect::<Vec<_>>(),
                "areas": frames().map(|on| on.map(|(.., area)| area)).collect::<Vec<_>>(),
                "iscrowd": 0,
                "height": size.height,
                "width": size.width,
                "length": self.length,
                "score": track.score,
            })
        });
        let annotations: Vec<Value> = tracks.collect();
        let categories = labels.iter().enumerate();
        let categories = categories.map(|(i, name)| json!({"id": i + 1, "name": name}));
        let file = |t: usize| match file_names.get(t) {
            Some(file) => format!("{name}/{file}"),
            None => format!("{name}/{t:05}.jpg"),
        };
        json!({
            "videos": [{
                "id": 1,
                "name": name,
                "width": size.width,
                "height": size.height,
                "length": self.length,
                "file_names": (0..self.length).map(file).collect::<Vec<_>>(),
            }],
            "categories": categories.collect::<Vec<_>>(),
            "annotations": annotations,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::video::tests::frame;

    #[test]
    fn a_track_that_is_hidden_has_a_gap() {
        let mut video = YoutubeVis::default();
        (0..3).for_each(|t| video.add(frame(t)));
        let document = video.to_json("clip", Size::new(6, 4), &["a.png".into()]);
        assert_eq!(document["videos"][0]["length"], 3);
        let names = json!(["clip/a.png", "clip/00001.jpg", "clip/00002.jpg"]);
        assert_eq!(document["videos"][0]["file_names"], names);
        let dot = &document["annotations"][1];
        assert_eq!((&dot["id"], &dot["category_id"]), (&json!(3), &json!(1)));
        assert_eq!(dot["areas"], json!([6, null, 6]));
        assert_eq!(dot["bboxes"][0], json!([3.0, 1.0, 2.0, 3.0]));
        assert!(dot["segmentations"][1].is_null());
        assert_eq!(document["categories"][1], json!({"id": 2, "name": "star"}));
    }
}
