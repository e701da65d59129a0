//! One line for each object.

use super::ascii::score;
use super::coco::bbox;
use super::files::NewFile;
use super::{Layout, Pictures};
use crate::error::Result;

pub(super) fn write_document(layout: &Layout, pictures: &dyn Pictures) -> Result<()> {
    let mut file = NewFile::create(layout, "labels.csv")?;
    file.write("file,label,score,x0,y0,x1,y1,area,rle\n")?;
    pictures.for_each(&mut |picture| {
        for object in &picture.objects {
            let [x, y, w, h] = bbox(&object.mask);
            let (x1, y1, area) = (x + w, y + h, object.mask.area());
            let (name, label) = (quoted(&picture.name), quoted(layout.class(object.class)));
            let (score, rle) = (score(object.score), quoted(&object.mask.to_compressed()));
            file.write(format!(
                "{name},{label},{score},{x},{y},{x1},{y1},{area},{rle}\n"
            ))?;
        }
        Ok(())
    })?;
    file.finish()
}

/// A field after RFC 4180.
fn quoted(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_string()
    }
}
