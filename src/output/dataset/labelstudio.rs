//! Label Studio: predictions with brush masks, and the labeling interface that they fit.

use serde_json::{Value, json};

use super::ascii::{self, score};
use super::cvat::escaped;
use super::files::{self, NewFile};
use super::{Layout, Picture, Pictures};
use crate::error::Result;
use crate::output::brush;

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
                "rle": brush::encode(&object.mask.decode()?),
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
