//! What was found, in one line for each prompt.

use candle_sam3::mask::BoxXyxy;
use candle_sam3::output::answer::{Answer, Found};
use candle_sam3::output::{self, Kind};

/// One line for each answer, and one for each label that the overlay shows as a number.
pub fn lines(kind: Kind, answers: &[Answer], shows_labels: bool) -> Vec<String> {
    let line = |answer| match kind {
        Kind::Interactive => click(answer),
        Kind::Everything => plural(answer.instances.len(), "mask"),
        _ => concept(answer),
    };
    let mut lines: Vec<String> = answers.iter().map(line).collect();
    if shows_labels {
        let found = answers.iter().flat_map(|answer| &answer.instances);
        let stand_ins = output::stand_ins(found.map(|found| found.label.as_str()));
        let line = |(label, number)| format!("{number} in the overlay: {label}");
        lines.extend(stand_ins.into_iter().map(line));
    }
    lines
}

/// "1 mask", "2 masks"
pub fn plural(n: usize, noun: &str) -> String {
    match n {
        1 => format!("1 {noun}"),
        n => format!("{n} {noun}s"),
    }
}

/// "wheel: 2 objects, best 0.91, presence 0.93"
fn concept(answer: &Answer) -> String {
    let name = answer.prompt.label();
    let scores = answer.instances.iter().map(|found| found.score);
    let found = match (answer.instances.len(), scores.reduce(f32::max)) {
        (0, _) | (_, None) => "nothing found".to_string(),
        (1, Some(score)) => format!("1 object, score {score:.2}"),
        (n, Some(best)) => format!("{n} objects, best {best:.2}"),
    };
    match answer.presence {
        Some(presence) => format!("{name}: {found}, presence {presence:.2}"),
        None => format!("{name}: {found}"),
    }
}

/// "box 40,60,120,180: 5120 pixels, IoU 0.97, stability 0.98"
fn click(answer: &Answer) -> String {
    let prompt = &answer.prompt;
    let mut name = match (prompt.points.len(), prompt.bbox) {
        (_, Some(BoxXyxy { x0, y0, x1, y1 })) => format!("box {x0},{y0},{x1},{y1}"),
        (0, None) => "mask".to_string(),
        (n, None) => plural(n, "point"),
    };
    if let Some(presence) = answer.presence {
        name += &format!(" (object {presence:.2})");
    }
    let mask = |found: &Found| {
        let mask = format!("{} pixels, IoU {:.2}", found.mask.area(), found.score);
        match found.stability {
            Some(stability) => format!("{mask}, stability {stability:.2}"),
            None => mask,
        }
    };
    let masks: Vec<String> = answer.instances.iter().map(mask).collect();
    format!("{name}: {}", masks.join("; "))
}
