//! Prompts as a user types them.

use candle_sam3::{BoxXyxy, Image, Point};

use crate::progress;

/// The prompts in one `--text`: separated by commas, of which the last is forgiven; `\,` is a comma.
pub fn split_texts(text: &str) -> Vec<String> {
    let mut texts = vec![String::new()];
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        let last = texts.len() - 1;
        match letter {
            '\\' if letters.next_if_eq(&',').is_some() => texts[last].push(','),
            ',' => texts.push(String::new()),
            _ => texts[last].push(letter),
        }
    }
    if texts.len() > 1 && texts.last().is_some_and(|last| last.trim().is_empty()) {
        texts.pop();
    }
    texts.iter().map(|text| text.trim().to_string()).collect()
}

pub fn parse_box(text: &str) -> Result<BoxXyxy, String> {
    let numbers: Result<Vec<f32>, _> = text.split(',').map(|part| part.trim().parse()).collect();
    match numbers.as_deref() {
        Ok([x0, y0, x1, y1]) => Ok(BoxXyxy::from([*x0, *y0, *x1, *y1])),
        _ => Err("give four numbers in pixels: x0,y0,x1,y1".into()),
    }
}

pub fn parse_point(text: &str) -> Result<Point, String> {
    let parts: Vec<&str> = text.split(',').map(str::trim).collect();
    let (x, y, label) = match parts[..] {
        [x, y] => (x, y, "1"),
        [x, y, label] => (x, y, label),
        _ => return Err("give x,y in pixels, and 0 after them for what is not meant".into()),
    };
    match (x.parse(), y.parse(), label) {
        (Ok(x), Ok(y), "0" | "1") => Ok(Point {
            xy: [x, y],
            on_object: label == "1",
        }),
        (Ok(_), Ok(_), _) => Err(format!(
            "label {label}; use 1 on the object and 0 beside it"
        )),
        _ => Err("give x,y in pixels, and 0 after them for what is not meant".into()),
    }
}

pub fn parse_fraction(text: &str) -> Result<f32, String> {
    match text.parse() {
        Ok(value) if (0. ..=1.).contains(&value) => Ok(value),
        _ => Err("give a number in 0..1".into()),
    }
}

/// Says so if boxes or points look like fractions of the image.
pub fn hint_at_fractions(image: &Image, boxes: &[BoxXyxy], points: &[Point]) {
    let boxes = boxes.iter().map(|bbox| <[f32; 4]>::from(*bbox).to_vec());
    let points = points.iter().map(|point| point.xy.to_vec());
    for numbers in boxes.chain(points).filter(|n| are_fractions(n)) {
        let numbers: Vec<String> = numbers.iter().map(f32::to_string).collect();
        progress::say(&format!(
            "hint: {} looks like fractions; coordinates are pixels, and the image has {}",
            numbers.join(","),
            image.size()
        ));
    }
}

/// True for coordinates within the first pixel that are not all on its corners, and for a box of
/// that pixel.
fn are_fractions(numbers: &[f32]) -> bool {
    let small = numbers.iter().all(|v| (0. ..=1.).contains(v));
    small && (numbers.len() == 4 || numbers.iter().any(|v| v.fract() != 0.))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_split_at_commas_but_not_at_escaped_ones() {
        for (text, want) in [
            ("wheel", &["wheel"][..]),
            ("a dog, a red ball", &["a dog", "a red ball"]),
            ("dog,", &["dog"]),
            ("dog, ", &["dog"]),
            (r"salt\, not pepper,dog", &["salt, not pepper", "dog"]),
            (r"back\slash", &[r"back\slash"]),
            ("dog,,cat", &["dog", "", "cat"]),
            (",dog", &["", "dog"]),
            (",", &[""]),
            ("", &[""]),
        ] {
            assert_eq!(split_texts(text), want, "{text:?}");
        }
    }

    #[test]
    fn points_are_read_with_and_without_a_label() {
        let point = |xy, on_object| Ok(Point { xy, on_object });
        assert_eq!(parse_point("3,4.5"), point([3., 4.5], true));
        assert_eq!(parse_point("3, 4, 0"), point([3., 4.], false));
        assert!(parse_point("3,4,2").unwrap_err().contains("label 2"));
        for bad in ["3", "3,4,1,1", "a,4", ""] {
            assert!(parse_point(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn fractions_are_told_from_pixels() {
        assert!(are_fractions(&[0.13, 0.13, 0.42, 0.42]) && are_fractions(&[0., 0., 1., 1.]));
        assert!(are_fractions(&[0.5, 0.25]));
        for pixels in [&[0., 0.][..], &[1., 1.], &[0., 0., 1.5, 2.], &[0.5, 40.]] {
            assert!(!are_fractions(pixels), "{pixels:?}");
        }
    }
}
