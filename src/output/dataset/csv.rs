//! One line for each object.

use super::ascii::score;
use super::files::NewFile;
use super::{Layout, Pictures};
use crate::error::Result;
use crate::output::coco::bbox;
use crate::output::csv::{HEADER, line};

pub(super) fn write_document(layout: &Layout, pictures: &dyn Pictures) -> Result<()> {
    let mut file = NewFile::create(layout, "labels.csv")?;
    file.write(format!("{HEADER}\n"))?;
    pictures.for_each(&mut |picture| {
        for object in &picture.objects {
            let [x, y, w, h] = bbox(&object.mask);
            let (label, bbox) = (layout.class(object.class), [x, y, x + w, y + h]);
            let score = score(object.score);
            file.write(line(&picture.name, label, score, bbox, &object.mask))?;
        }
        Ok(())
    })?;
    file.finish()
}
