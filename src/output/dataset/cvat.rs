//! CVAT for images 1.1, masks as row runs within their boxes.

use std::fmt::Write;

use super::files::NewFile;
use super::{Layout, Object, Picture, Pictures};
use crate::Size;
use crate::error::Result;

pub(super) fn write_document(layout: &Layout, pictures: &dyn Pictures) -> Result<()> {
    let mut file = NewFile::create(layout, "cvat.xml")?;
    // Some readers refuse a file without <meta>.
    let labels = layout.classes.iter().map(|name| {
        let name = escaped(name);
        format!("<label><name>{name}</name><type>mask</type><attributes></attributes></label>")
    });
    let labels: String = labels.collect();
    file.write(format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<annotations>\n  <version>1.1</version>\n  \
         <meta><task><labels>{labels}</labels></task></meta>\n"
    ))?;
    let mut id = 0;
    pictures.for_each(&mut |picture| {
        file.write(image(layout, picture, id)?)?;
        id += 1;
        Ok(())
    })?;
    file.write("</annotations>\n")?;
    file.finish()
}

fn image(layout: &Layout, picture: &Picture, id: usize) -> Result<String> {
    let (name, width, height) = (escaped(&picture.name), picture.width, picture.height);
    let mut text =
        format!("  <image id=\"{id}\" name=\"{name}\" width=\"{width}\" height=\"{height}\">\n");
    for object in &picture.objects {
        text.push_str(&mask(layout, object)?);
    }
    text.push_str("  </image>\n");
    Ok(text)
}

fn mask(layout: &Layout, object: &Object) -> Result<String> {
    let mask = object.mask.decode()?;
    let Some(extent) = mask.extent() else {
        return Ok(String::new());
    };
    let mask = mask.cropped(&extent);
    let (left, top) = (extent.columns.start, extent.rows.start);
    let Size { width, height } = mask.size();
    // Runs outside and inside in turn, row by row in the box, the first one outside.
    let mut counts: Vec<usize> = Vec::new();
    let mut end = 0;
    for span in mask.spans(mask.size()) {
        match counts.last_mut() {
            // It goes on from the row above.
            Some(inside) if span.start == end => *inside += span.len(),
            _ => counts.extend([span.start - end, span.len()]),
        }
        end = span.end;
    }
    if end < width * height {
        counts.push(width * height - end);
    }
    let counts: Vec<String> = counts.iter().map(usize::to_string).collect();
    let label = escaped(layout.class(object.class));
    let mut text = String::new();
    // Writing to memory does not fail.
    let _ = writeln!(
        text,
        "    <mask label=\"{label}\" source=\"auto\" occluded=\"0\" rle=\"{}\" left=\"{left}\" \
         top=\"{top}\" width=\"{width}\" height=\"{height}\" z_order=\"0\"></mask>",
        counts.join(", ")
    );
    Ok(text)
}

/// Text for XML, in quotes too. Control characters have no form in XML and become spaces.
pub(super) fn escaped(text: &str) -> String {
    htmlize::escape_attribute(text).replace(char::is_control, " ")
}
