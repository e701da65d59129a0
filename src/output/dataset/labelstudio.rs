//! Label Studio: predictions with brush masks, and the labeling interface that they fit.

use serde_json::{Value, json};

use super::ascii::{self, score};
use super::cvat::escaped;
use super::files::{self, NewFile};
use super::{Layout, Picture, Pictures};
use crate::error::Result;
use crate::mask::Mask;

pub(super) fn write_document(layout: &Layout, pictures: &dyn Pictures) -> Result<()> {
    let labels = layout.classes.iter();
    let labels: String = labels
        .map(|name| format!("<Label value=\"{}\"/>", escaped(name)))
        .collect();
    let interface = format!(
        "<View><Image name=\"image\" value=\"$image\"/><BrushLabels name=\"brush\" \
         toName=\"image\">{labels}</BrushLabels></View>\n"
    );
    files::write(layout, "labelstudio.xml", interface)?;
    let mut file = NewFile::create(layout, "labelstudio.json")?;
    file.write("[")?;
    let mut count = 0;
    pictures.for_each(&mut |picture| {
        count += 1;
        file.write(if count > 1 { "," } else { "" })?;
        file.write(ascii::json(&task(layout, picture, count)?))
    })?;
    file.write("]\n")?;
    file.finish()
}

fn task(layout: &Layout, picture: &Picture, number: usize) -> Result<Value> {
    let mut regions = Vec::new();
    for (i, object) in picture.objects.iter().enumerate() {
        regions.push(json!({
            "id": format!("{number}-{}", i + 1),
            "from_name": "brush",
            "to_name": "image",
            "type": "brushlabels",
            "original_width": picture.width,
            "original_height": picture.height,
            "image_rotation": 0,
            "score": score(object.score),
            "value": {
                "format": "rle",
                "rle": brush(&object.mask.decode()?),
                "brushlabels": [layout.class(object.class)],
            },
        }));
    }
    let scores = picture.objects.iter().map(|object| object.score);
    Ok(json!({
        "data": {"image": format!("{}{}", layout.url_prefix, picture.name)},
        "predictions": [{
            "model_version": "sam3",
            "score": score(scores.reduce(f32::max).unwrap_or(0.0)),
            "result": regions,
        }],
    }))
}

/// Label Studio's brush encoding: four bytes for each pixel, all 255 or 0, as runs.
///
/// Follows `encode_rle`,
/// <https://github.com/HumanSignal/label-studio-sdk/blob/2.0.0/src/label_studio_sdk/converter/brush.py>.
fn brush(mask: &Mask) -> Vec<u8> {
    let mut bits = Bits::default();
    let total = 4 * mask.width() * mask.height();
    bits.push(total as u64, 32);
    bits.push(8 - 1, 5);
    for size in [3, 4, 8, 16] {
        bits.push(size - 1, 4);
    }
    let mut run = |mut length: usize, value: u64| {
        while length > 0 {
            let count = length.min(1 << 16);
            bits.push(0b111, 3); // a run, its length in the fourth size
            bits.push(count as u64 - 1, 16);
            bits.push(value, 8);
            length -= count;
        }
    };
    let mut position = 0;
    let mut pending = 0..0;
    for y in 0..mask.height() {
        for columns in mask.runs(y) {
            let start = 4 * (y * mask.width() + columns.start);
            let end = 4 * (y * mask.width() + columns.end);
            // Runs that meet at the end of a row are one.
            if start == pending.end {
                pending.end = end;
                continue;
            }
            run(pending.start - position, 0);
            run(pending.len(), 255);
            position = pending.end;
            pending = start..end;
        }
    }
    run(pending.start - position, 0);
    run(pending.len(), 255);
    run(total - pending.end, 0);
    bits.into_bytes()
}

/// Bits, most significant first.
#[derive(Default)]
struct Bits {
    bytes: Vec<u8>,
    /// Bits in the last byte; 0 when it is full.
    used: u32,
}

impl Bits {
    fn push(&mut self, value: u64, count: u32) {
        for bit in (0..count).rev() {
            if self.used == 0 {
                self.bytes.push(0);
            }
            if let Some(last) = self.bytes.last_mut() {
                *last |= ((value >> bit & 1) as u8) << (7 - self.used);
            }
            self.used = (self.used + 1) % 8;
        }
    }

    fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}
