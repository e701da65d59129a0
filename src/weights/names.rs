//! Tensor names: patterns over them and short lists of them.

use std::collections::BTreeMap;

/// Groups shown before a list is cut.
const SHOWN: usize = 10;

/// Matches a pattern of whole segments against the start of a name.
///
/// A `*` stands for a segment or part of one, a leading `**` for any number of segments. Returns
/// what the stars stood for, and the segments after the pattern.
pub(crate) fn matches<'a>(name: &'a str, pattern: &str) -> Option<(Vec<&'a str>, &'a str)> {
    if let Some(pattern) = pattern.strip_prefix("**.") {
        let tails = name.match_indices('.').map(|(dot, _)| &name[dot + 1..]);
        return std::iter::once(name)
            .chain(tails)
            .find_map(|tail| matches(tail, pattern));
    }
    let (mut stars, mut rest) = (vec![], Some(name));
    for want in pattern.trim_end_matches('.').split('.') {
        let (segment, after) = match rest?.split_once('.') {
            Some((segment, after)) => (segment, Some(after)),
            None => (rest?, None),
        };
        match want.split_once('*') {
            Some((before, behind)) => {
                let inner = segment.strip_prefix(before)?.strip_suffix(behind)?;
                stars.push(inner);
            }
            None if want == segment => {}
            None => return None,
        }
        rest = after;
    }
    Some((stars, rest.unwrap_or("")))
}

/// Puts `stars` and `rest` into the places of another pattern.
pub(super) fn fill(pattern: &str, stars: &[&str], rest: &str) -> String {
    let mut stars = stars.iter();
    let mut name = String::new();
    for (i, piece) in pattern.split('*').enumerate() {
        if i > 0 {
            name.push_str(stars.next().unwrap_or(&"*"));
        }
        name.push_str(piece);
    }
    if !rest.is_empty() {
        name.push('.');
        name.push_str(rest);
    }
    name
}

/// `a.{x,y}.b` -> `a.x.b`, `a.y.b`.
pub(super) fn expand(pattern: &str) -> Vec<String> {
    let braces = pattern
        .split_once('{')
        .and_then(|(head, tail)| Some((head, tail.split_once('}')?)));
    match braces {
        Some((head, (list, tail))) => {
            let parts = list.split(',');
            parts.map(|part| format!("{head}{part}{tail}")).collect()
        }
        None => vec![pattern.to_string()],
    }
}

/// A list for an error message: names that differ in numbers only, or in being weight or bias,
/// are one line; ten lines are shown.
pub(crate) fn listing<S: AsRef<str>>(names: impl IntoIterator<Item = S>) -> String {
    let mut groups = BTreeMap::<String, (S, usize)>::new();
    for name in names {
        let segments = name.as_ref().split('.').map(|segment| match segment {
            "weight" | "bias" => "{weight,bias}",
            _ if segment.bytes().all(|b| b.is_ascii_digit()) => "*",
            _ => segment,
        });
        let group = segments.collect::<Vec<_>>().join(".");
        groups.entry(group).or_insert((name, 0)).1 += 1;
    }
    let mut text = String::new();
    for (group, (name, count)) in groups.iter().take(SHOWN) {
        text.push_str(&match count {
            1 => format!("\n  {}", name.as_ref()),
            _ => format!("\n  {group} ({count})"),
        });
    }
    if groups.len() > SHOWN {
        let rest: usize = groups.values().skip(SHOWN).map(|(_, count)| count).sum();
        text.push_str(&format!("\n  and {rest} more"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_segments_from_the_start() {
        let stars =
            |name, pattern| matches(name, pattern).map(|(stars, rest)| (stars.join("|"), rest));
        let yes = |stars: &str, rest| Some((stars.to_string(), rest));
        assert_eq!(stars("a.b.c", "a.b"), yes("", "c"));
        assert_eq!(stars("a.b.c", "a.b."), yes("", "c"));
        assert_eq!(stars("a.bc", "a.b"), None);
        assert_eq!(stars("a", "a.b"), None);
        assert_eq!(
            stars("a.7.in_proj_weight", "a.*.in_proj_*"),
            yes("7|weight", "")
        );
        assert_eq!(stars("x.y.freqs_cis", "**.freqs_cis"), yes("", ""));
        assert_eq!(stars("freqs_cis", "**.freqs_cis"), yes("", ""));
        assert_eq!(stars("x.freqs", "**.freqs_cis"), None);
    }

    #[test]
    fn filling_a_pattern_keeps_stars_and_rest() {
        assert_eq!(
            fill("b.*.q_proj.*", &["7", "weight"], ""),
            "b.7.q_proj.weight"
        );
        assert_eq!(fill("b.*", &["7"], "x.y"), "b.7.x.y");
    }

    #[test]
    fn a_listing_is_short_however_many_names_there_are() {
        let blocks: Vec<_> = (0..32)
            .flat_map(|i| ["norm.weight", "norm.bias", "qkv.weight"].map(|n| format!("b.{i}.{n}")))
            .collect();
        let text = listing(&blocks);
        assert_eq!(
            text,
            "\n  b.*.norm.{weight,bias} (64)\n  b.*.qkv.{weight,bias} (32)"
        );
        let names: Vec<_> = ('a'..='m').map(String::from).collect();
        let text = listing(&names);
        assert!(text.ends_with("\n  j\n  and 3 more"), "{text}");
    }
}
