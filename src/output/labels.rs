//! Labels: what they say, where they go, how they are drawn.

use std::collections::HashSet;
use std::sync::OnceLock;

use ab_glyph::{Font, FontRef, Glyph, PxScale, ScaleFont, point};

use super::answer::Found;
use super::canvas::{self, Rect};
use super::palette::Color;
use crate::image::Image;
use crate::mask::Mask;

const DARK: Color = [0x14, 0x16, 0x1a];
const WHITE: Color = [0xff, 0xff, 0xff];

/// A label with its place in the image.
pub(super) struct Label {
    text: String,
    rect: Rect,
    color: Color,
    style: Style,
}

/// Sizes in pixels.
#[derive(Clone, Copy)]
struct Style {
    /// Height of a line of text.
    line: f32,
    padding_x: f32,
    padding_y: f32,
    radius: f32,
    /// Distance from the edge of the image.
    margin: f32,
}

impl Style {
    /// Text of the same share of the image, but never too small to read.
    fn new(image: &Image) -> Self {
        let side = (image.width() as f32 * image.height() as f32).sqrt();
        let line = (side * 0.0165 + 4.0).max(11.0).round();
        Self {
            line,
            padding_x: line * 0.36,
            padding_y: line * 0.14,
            radius: line * 0.3,
            margin: (line * 0.2).round(),
        }
    }

    fn scale(self) -> PxScale {
        PxScale::from(self.line)
    }

    fn text_width(self, text: &str) -> f32 {
        glyphs(text, self.scale()).1
    }

    /// The longest beginning of a text that is at most this wide, in time that grows with the width.
    fn within(self, text: &str, width: f32) -> &str {
        let font = font().as_scaled(self.scale());
        let (mut x, mut previous) = (0.0, None);
        for (at, letter) in text.char_indices() {
            let id = font.glyph_id(letter);
            x += previous.map_or(0.0, |previous| font.kern(previous, id)) + font.h_advance(id);
            if x > width {
                return &text[..at];
            }
            previous = Some(id);
        }
        text
    }
}

/// The share of the image that a single label may hide; a small image goes without labels.
const MAX_SHARE: f32 = 1.0 / 6.0;

/// The share of the image that all labels together may hide.
const MAX_SHARE_OF_ALL: f32 = 0.2;

/// The share of a label that may lie on other labels.
const MAX_OVERLAP: f32 = 0.05;

/// Finds a place for the label of each object: near its mask, within the image, and clear of the
/// labels before it where there is room. Where there is not enough room for all, the objects of the
/// highest scores have labels.
pub(super) fn place(image: &Image, found: &[&Found], colors: &[Color]) -> Vec<Label> {
    let names = stand_ins(found.iter().map(|found| found.label.as_str()));
    let mut order: Vec<usize> = (0..found.len()).collect();
    let (labels, fit) = place_in(&order, image, found, colors, &names);
    if fit {
        return labels;
    }
    order.sort_by(|&a, &b| found[b].score.total_cmp(&found[a].score));
    place_in(&order, image, found, colors, &names).0
}

/// Places labels one after the other; `false` if some had to be left out for want of room.
fn place_in(
    order: &[usize],
    image: &Image,
    found: &[&Found],
    colors: &[Color],
    names: &[(&str, String)],
) -> (Vec<Label>, bool) {
    let style = Style::new(image);
    let area = image.width() as f32 * image.height() as f32;
    let mut labels: Vec<Label> = Vec::new();
    let (mut hidden, mut fit) = (0.0, true);
    for &index in order {
        let (found, color) = (found[index], colors[index]);
        let text = text(found, names, style, image.width() as f32);
        let size = (
            (style.text_width(&text) + 2.0 * style.padding_x).ceil(),
            (style.line + 2.0 * style.padding_y).ceil(),
        );
        if size.0 * size.1 > MAX_SHARE * area {
            continue;
        }
        let Some(candidates) = candidates(&found.mask, size) else {
            continue;
        };
        if hidden + size.0 * size.1 > MAX_SHARE_OF_ALL * area && !labels.is_empty() {
            fit = false;
            continue;
        }
        let best = candidates
            .into_iter()
            .enumerate()
            .map(|(order, (x, y))| {
                let within = |position: f32, size: f32, image_side: usize| {
                    let last = image_side as f32 - size;
                    let margin = style.margin.min(last / 2.0);
                    position.min(last - margin).max(margin).max(0.0).round()
                };
                let inside = Rect {
                    x: within(x, size.0, image.width()),
                    y: within(y, size.1, image.height()),
                    width: size.0,
                    height: size.1,
                };
                let taken: f32 = labels
                    .iter()
                    .map(|label| label.rect.grown(1.0).overlap(inside))
                    .sum();
                let moved = (inside.x - x).abs() * 0.2 + (inside.y - y).abs();
                let cost = taken / size.1 * 10.0 + moved + order as f32 * style.line * 0.3;
                (cost, taken, inside)
            })
            .min_by(|(a, ..), (b, ..)| a.total_cmp(b));
        let Some((_, taken, rect)) = best else {
            continue;
        };
        if taken > MAX_OVERLAP * size.0 * size.1 {
            fit = false;
            continue;
        }
        hidden += size.0 * size.1;
        labels.push(Label {
            text,
            rect,
            color,
            style,
        });
    }
    (labels, fit)
}

/// Labels that the overlay's font cannot show, in order, and what is drawn in their place: `#1`,
/// `#2`, …
pub fn stand_ins<'a>(labels: impl Iterator<Item = &'a str>) -> Vec<(&'a str, String)> {
    let mut seen = HashSet::new();
    let distinct = labels.filter(|label| seen.insert(*label));
    let hidden = distinct.filter(|label| !can_show(label));
    let numbered = hidden.zip(1..).map(|(label, n)| (label, format!("#{n}")));
    numbered.collect()
}

/// Whether a line of text can be read as it is drawn here: letter after letter, from the left.
fn can_show(text: &str) -> bool {
    text.trim().chars().all(|letter| {
        // Hebrew, Arabic and their neighbors are written from the right.
        let from_the_left = !('\u{590}'..='\u{8ff}').contains(&letter);
        letter.is_whitespace() || from_the_left && font().glyph_id(letter).0 != 0
    })
}

/// Phrase and score; a long phrase is cut so that the label takes at most the width of the image.
fn text(found: &Found, names: &[(&str, String)], style: Style, image_width: f32) -> String {
    let score = format!("{:.2}", found.score);
    let name = names.iter().find(|(label, _)| *label == found.label);
    let phrase = name.map_or(found.label.as_str(), |(_, name)| name).trim();
    if phrase.is_empty() {
        return score;
    }
    let room = image_width - 2.0 * style.padding_x;
    let whole = format!("{phrase} {score}");
    if style.within(&whole, room) == whole {
        return whole;
    }
    let tail = format!("… {score}");
    match style
        .within(phrase, room - style.text_width(&tail))
        .trim_end()
    {
        "" => score,
        start => format!("{start}{tail}"),
    }
}

/// Top left corners to try for a label of this size, the best first. `None` for an empty mask.
fn candidates(mask: &Mask, (width, height): (f32, f32)) -> Option<Vec<(f32, f32)>> {
    let extent = mask.extent()?;
    let top = extent.rows.start as f32;
    let bottom = extent.rows.end as f32;
    let (left, right) = (extent.columns.start as f32, extent.columns.end as f32);
    let middle = ((left + right) / 2.0, (top + bottom) / 2.0);
    let peak = mask
        .runs(extent.rows.start)
        .max_by_key(ExactSizeIterator::len)
        .map_or(middle.0, |run| (run.start + run.end) as f32 / 2.0);
    let gap = height * 0.3;
    Some(vec![
        (peak - width / 2.0, top - height - gap),
        (peak - width / 2.0, top + gap),
        (middle.0 - width / 2.0, middle.1 - height / 2.0),
        (middle.0 - width / 2.0, bottom - height - gap),
        (middle.0 - width / 2.0, bottom + gap),
        (right + gap, middle.1 - height / 2.0),
        (left - width - gap, middle.1 - height / 2.0),
        (peak - width / 2.0, top - 2.1 * height - gap),
        (peak - width / 2.0, top + 1.1 * height + gap),
        (middle.0 - width / 2.0, middle.1 + 0.7 * height),
    ])
}

/// Draws a label: a chip in the instance's color with a fine dark rim, and its text.
pub(super) fn draw(image: &mut Image, label: &Label) {
    let Label {
        rect, style, color, ..
    } = *label;
    let rim = (style.line * 0.07).max(0.75);
    canvas::fill_rounded(image, rect.grown(rim), style.radius + rim, DARK, 0.55);
    canvas::fill_rounded(image, rect, style.radius, color, 1.0);

    let text_color = readable_on(color);
    let (glyphs, _) = glyphs(&label.text, style.scale());
    let (left, top) = (rect.x + style.padding_x, rect.y + style.padding_y);
    for mut glyph in glyphs {
        glyph.position.x += left;
        glyph.position.y += top;
        let Some(outlined) = font().outline_glyph(glyph) else {
            continue;
        };
        let corner = outlined.px_bounds().min;
        outlined.draw(|x, y, coverage| {
            let (x, y) = (
                corner.x as isize + x as isize,
                corner.y as isize + y as isize,
            );
            canvas::blend(image, x, y, text_color, coverage);
        });
    }
}

/// Near-black or white, whichever stands out more.
fn readable_on(color: Color) -> Color {
    let linear = color.map(|sample| (f32::from(sample) / 255.0).powf(2.2));
    let luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
    // Contrast as WCAG defines it, (lighter + 0.05) / (darker + 0.05), is equal at 0.18; saturated
    // colors look darker than that, so white gets some more of them.
    if luminance > 0.26 { DARK } else { WHITE }
}

/// The glyphs of one line, its top left corner at the origin, and its width.
fn glyphs(text: &str, scale: PxScale) -> (Vec<Glyph>, f32) {
    let font = font().as_scaled(scale);
    let mut x = 0.0;
    let mut glyphs: Vec<Glyph> = Vec::new();
    for letter in text.chars() {
        let id = font.glyph_id(letter);
        if let Some(previous) = glyphs.last() {
            x += font.kern(previous.id, id);
        }
        glyphs.push(id.with_scale_and_position(scale, point(x, font.ascent())));
        x += font.h_advance(id);
    }
    (glyphs, x)
}

/// DejaVu Sans Bold: Latin, Greek, Cyrillic and more; free to embed (Bitstream Vera licence).
fn font() -> &'static FontRef<'static> {
    static FONT: OnceLock<FontRef<'static>> = OnceLock::new();
    FONT.get_or_init(|| {
        FontRef::try_from_slice(dejavu::sans::bold())
            .expect("the embedded font is the same valid file in every build")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::format::tests::found;

    fn image(width: usize, height: usize) -> Image {
        Image::from_rgb8(width, height, vec![90; width * height * 3]).unwrap()
    }

    fn instance(label: &str, mask: &Mask) -> Found {
        found(label, mask.clone(), 0.912)
    }

    fn placed(image: &Image, found: &[Found]) -> Vec<Label> {
        let found: Vec<&Found> = found.iter().collect();
        place(image, &found, &vec![[255, 0, 0]; found.len()])
    }

    #[test]
    fn labels_stay_inside_the_image() {
        let image = image(300, 200);
        for corner in [(0, 0), (290, 0), (0, 190), (290, 190)] {
            let mask = Mask::from_fn(300, 200, |x, y| {
                (corner.0..corner.0 + 10).contains(&x) && (corner.1..corner.1 + 10).contains(&y)
            });
            let labels = placed(&image, &[instance("yellow wheel", &mask)]);
            let Rect {
                x,
                y,
                width,
                height,
            } = labels[0].rect;
            assert!(x >= 0.0 && y >= 0.0 && x + width <= 300.0 && y + height <= 200.0);
        }
    }

    #[test]
    fn labels_of_one_place_do_not_cover_each_other() {
        let image = image(600, 400);
        let mask = Mask::from_fn(600, 400, |x, y| {
            (200..400).contains(&x) && (150..300).contains(&y)
        });
        let labels = placed(&image, &vec![instance("wheel", &mask); 5]);
        for (i, a) in labels.iter().enumerate() {
            for b in &labels[..i] {
                assert_eq!(a.rect.overlap(b.rect), 0.0);
            }
        }
    }

    #[test]
    fn a_long_phrase_is_cut_but_keeps_its_score() {
        let mask = Mask::from_fn(200, 100, |_, _| true);
        let phrase = "the small dog with a red collar next to the bicycle";
        let labels = placed(&image(200, 100), &[instance(phrase, &mask)]);
        assert!(labels[0].text.starts_with("the small") && labels[0].text.ends_with("… 0.91"));
        assert!(labels[0].rect.width <= 200.0);
    }

    #[test]
    fn labels_thin_out_where_there_are_too_many_and_the_best_stay() {
        let image = image(448, 448);
        let mask = Mask::from_fn(448, 448, |x, y| x.abs_diff(224) + y.abs_diff(224) < 40);
        let mut crowd = vec![instance("wheel", &mask); 300];
        crowd[299].score = 0.99;
        let labels = placed(&image, &crowd);
        assert!((5..100).contains(&labels.len()), "{}", labels.len());
        assert!(labels[0].text.ends_with("0.99"));
        let area: f32 = labels.iter().map(|l| l.rect.width * l.rect.height).sum();
        assert!(area <= MAX_SHARE_OF_ALL * 448.0 * 448.0);
    }

    #[test]
    fn a_phrase_of_any_length_is_cut_at_once() {
        let mask = Mask::from_fn(448, 448, |x, _| x > 200);
        let phrase = "shape ".repeat(20_000);
        let begun = std::time::Instant::now();
        let labels = placed(&image(448, 448), &vec![instance(&phrase, &mask); 100]);
        assert!(labels[0].text.ends_with("… 0.91"));
        assert!(begun.elapsed().as_secs() < 10, "{:?}", begun.elapsed());
    }

    #[test]
    fn scripts_that_the_font_lacks_have_a_number_instead() {
        let labels = ["猫", "dog", "собака", "猫", "كلب", "犬", "naïve café"];
        let names = stand_ins(labels.into_iter());
        let want = [("猫", "#1"), ("كلب", "#2"), ("犬", "#3")];
        assert_eq!(names.len(), want.len());
        for ((label, name), want) in names.iter().zip(want) {
            assert_eq!((*label, name.as_str()), want);
        }
        let mask = Mask::from_fn(300, 200, |x, y| x > 100 && y > 100);
        let labels = placed(&image(300, 200), &[instance("猫", &mask)]);
        assert_eq!(labels[0].text, "#1 0.91");
    }

    #[test]
    fn an_empty_mask_gets_no_label() {
        let mask = Mask::new(50, 50);
        assert!(placed(&image(50, 50), &[instance("wheel", &mask)]).is_empty());
    }

    #[test]
    fn a_small_image_is_not_hidden_by_its_labels() {
        let mask = Mask::from_fn(48, 32, |_, _| true);
        assert!(placed(&image(48, 32), &[instance("wheel", &mask)]).is_empty());
    }

    #[test]
    fn text_is_drawn_in_the_chip() {
        let mut image = image(300, 200);
        let mask = Mask::from_fn(300, 200, |x, y| x > 100 && y > 100);
        let labels = placed(&image, &[instance("wheel", &mask)]);
        draw(&mut image, &labels[0]);
        let count = |color: Color| {
            let pixels = image.pixels().chunks_exact(3);
            pixels.filter(|pixel| *pixel == color).count()
        };
        assert!(count([255, 0, 0]) > 200, "chip");
        assert!(count(readable_on([255, 0, 0])) > 20, "text");
    }

    #[test]
    fn text_is_dark_on_bright_and_bright_on_dark() {
        assert_eq!(readable_on([0xff, 0xe0, 0x3d]), DARK);
        assert_eq!(readable_on([0x4f, 0x5f, 0xf5]), WHITE);
    }
}
