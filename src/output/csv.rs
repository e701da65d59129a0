//! Results as a table.

use std::borrow::Cow;
use std::fmt::Display;

use super::ImageResults;
use crate::error::{Error, Result};
use crate::mask::Rle;

/// The first line. The box is in pixels; `rle` holds COCO's compressed counts.
pub const HEADER: &str = "file,label,score,x0,y0,x1,y1,area,rle";

/// One line per object below [`HEADER`], fields quoted where they need it.
///
/// # Errors
/// [`Error::InvalidArgument`] for a score or a box that is NaN or infinite.
pub fn table(results: &ImageResults) -> Result<String> {
    let mut table = format!("{HEADER}\n");
    for found in results.found() {
        let [x0, y0, x1, y1] = <[f32; 4]>::from(found.bbox);
        if ![found.score, x0, y0, x1, y1].iter().all(|v| v.is_finite()) {
            return Err(Error::argument(format!(
                "the score or box of {:?} is not finite",
                found.label
            )));
        }
        let (score, bbox) = (
            found.score,
            [x0, y0, x1, y1].map(|edge| format!("{edge:.2}")),
        );
        let (label, mask) = (&found.label, Rle::encode(&found.mask));
        table += &line(results.path, label, format_args!("{score:.4}"), bbox, &mask);
    }
    Ok(table)
}

/// A line below [`HEADER`].
pub(super) fn line(
    file: &str,
    label: &str,
    score: impl Display,
    bbox: [impl Display; 4],
    mask: &Rle,
) -> String {
    let (file, label, area) = (field(file), field(label), mask.area());
    let [x0, y0, x1, y1] = bbox;
    let counts = mask.to_compressed();
    let rle = field(&counts);
    format!("{file},{label},{score},{x0},{y0},{x1},{y1},{area},{rle}\n")
}

/// A field as RFC 4180 wants it.
fn field(text: &str) -> Cow<'_, str> {
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\"")).into()
    } else {
        text.into()
    }
}

/// The file of the first line below [`HEADER`]; `None` for another table and one without lines.
pub(super) fn first_file(table: &str) -> Option<String> {
    let line = table.strip_prefix(HEADER)?.strip_prefix('\n')?;
    let Some(quoted) = line.strip_prefix('"') else {
        return line.split_once(',').map(|(file, _)| file.to_string());
    };
    let mut file = String::new();
    let mut letters = quoted.chars();
    loop {
        match letters.next()? {
            '"' if letters.as_str().starts_with('"') => file.extend(letters.next()),
            '"' => return Some(file),
            letter => file.push(letter),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Kind;
    use super::super::format::tests::{answer, image, results};
    use super::*;

    #[test]
    fn a_line_has_the_file_the_label_and_the_mask() {
        let (image, mut answers) = (image(), [answer()]);
        answers[0].instances[0].label = "red, \"big\" wheel".to_string();
        let table = table(&results(&image, &answers, Kind::Text)).unwrap();
        let want = concat!(
            "file,label,score,x0,y0,x1,y1,area,rle\n",
            "photos/truck.jpg,\"red, \"\"big\"\" wheel\",0.9123,1.00,1.00,2.00,3.00,2,426\n"
        );
        assert_eq!(table, want);
    }

    #[test]
    fn a_score_that_is_no_number_is_refused() {
        let (image, mut answers) = (image(), [answer()]);
        answers[0].instances[0].score = f32::NAN;
        assert!(table(&results(&image, &answers, Kind::Text)).is_err());
    }

    #[test]
    fn the_file_is_read_back() {
        let (image, answers) = (image(), [answer()]);
        for path in ["a.png", "a,b.png", "say \"cheese\".png", "two\nlines.png"] {
            let mut results = results(&image, &answers, Kind::Text);
            results.path = path;
            let table = table(&results).unwrap();
            assert_eq!(first_file(&table).as_deref(), Some(path));
        }
        assert_eq!(first_file(&format!("{HEADER}\n")), None);
        assert_eq!(first_file("id,area\n1,2\n"), None);
    }
}
