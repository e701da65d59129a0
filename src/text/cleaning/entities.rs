//! HTML character references: the cautious decoding of ftfy, and that of HTML itself.

use htmlize::ENTITIES;

/// The longest name of a character reference, in bytes after the `&`.
const LONGEST_NAME: usize = 32;

/// Decodes every reference as HTML does, also those without a semicolon.
///
/// Mirrors Python's `html.unescape`: the longest known name wins, numbers that are control
/// characters or noncharacters vanish, 0x80 to 0x9F are read as Windows-1252.
pub(super) fn unescape(text: &str) -> String {
    replace_references(text, |rest| numeric(rest).or_else(|| longest_named(rest)))
}

/// Decodes the references that cannot be meant otherwise: those that end in a semicolon, with
/// names also accepted in capitals (`&EACUTE;`) where that is no name of its own.
///
/// Mirrors `ftfy.fixes.unescape_html`.
pub(super) fn unescape_unambiguous(text: &str) -> String {
    replace_references(text, |rest| {
        let digits = rest.strip_prefix('#').unwrap_or(rest);
        let length = digits.bytes().take_while(u8::is_ascii_alphanumeric).count();
        if !(1..=24).contains(&length) || digits.as_bytes().get(length) != Some(&b';') {
            return None;
        }
        let end = rest.len() - digits.len() + length + 1;
        if digits.len() < rest.len() {
            // A number followed by other letters, or one that decodes to a semicolon, stays.
            return numeric(rest).filter(|(used, decoded)| *used == end && decoded != ";");
        }
        let name = &rest[..end];
        let decoded = named(name)
            .map(str::to_owned)
            .or_else(|| in_capitals(name))?;
        Some((end, decoded))
    })
}

/// Replaces what `decode` recognises: given the text after an `&`, it returns the bytes it used
/// up and their replacement.
fn replace_references(text: &str, decode: impl Fn(&str) -> Option<(usize, String)>) -> String {
    let mut decoded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('&') {
        decoded.push_str(before);
        match decode(after) {
            Some((used, replacement)) => {
                decoded.push_str(&replacement);
                rest = &after[used..];
            }
            None => {
                decoded.push('&');
                rest = after;
            }
        }
    }
    decoded + rest
}

fn numeric(rest: &str) -> Option<(usize, String)> {
    let number = rest.strip_prefix('#')?;
    let (digits, radix) = match number.strip_prefix(['x', 'X']) {
        Some(digits) => (digits, 16),
        None => (number, 10),
    };
    let length = digits
        .bytes()
        .take_while(|b| char::from(*b).is_digit(radix))
        .count();
    if length == 0 {
        return None;
    }
    let semicolon = digits[length..].starts_with(';') as usize;
    let used = rest.len() - digits.len() + length + semicolon;
    // A number too large for 32 bits is no code point either.
    let code = u32::from_str_radix(&digits[..length], radix).unwrap_or(u32::MAX);
    let decoded = match code {
        0x80..=0x9F => char::from_u32(code).map(super::code_pages::windows_1252),
        0x01..=0x08 | 0x0B | 0x0E..=0x1F | 0x7F | 0xFDD0..=0xFDEF => None,
        _ if code <= 0x10_FFFF && code & 0xFFFE == 0xFFFE => None,
        0 => Some(char::REPLACEMENT_CHARACTER),
        _ => Some(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER)),
    };
    Some((used, decoded.map(String::from).unwrap_or_default()))
}

/// What a name stands for; `name` is without the `&`, with the semicolon if there is one.
fn named(name: &str) -> Option<&'static str> {
    let decoded = ENTITIES.get(format!("&{name}").as_bytes())?;
    std::str::from_utf8(decoded).ok()
}

fn longest_named(rest: &str) -> Option<(usize, String)> {
    let letters = rest
        .bytes()
        .take(LONGEST_NAME)
        .take_while(u8::is_ascii_alphanumeric)
        .count();
    let semicolon = rest[letters..].starts_with(';') as usize;
    (2..=letters + semicolon)
        .rev()
        .find_map(|length| named(&rest[..length]).map(|decoded| (length, decoded.to_owned())))
}

fn in_capitals(name: &str) -> Option<String> {
    let is_capital = !name.bytes().any(|b| b.is_ascii_lowercase());
    if !is_capital || longest_named(name).is_some() {
        return None;
    }
    named(&name.to_ascii_lowercase()).map(str::to_uppercase)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn html_decodes_the_longest_name_with_or_without_a_semicolon() {
        assert_eq!(unescape("&notit; &notin; &ampamp &AMP"), "¬it; ∉ &amp &");
        assert_eq!(
            unescape("fish & chips &nosuch; &#;"),
            "fish & chips &nosuch; &#;"
        );
    }

    #[test]
    fn html_reads_numbers_as_browsers_do() {
        assert_eq!(unescape("&#65;&#x42&#X43;"), "ABC");
        assert_eq!(unescape("&#128;&#x99;&#0;&#xD800;"), "€™\u{fffd}\u{fffd}");
        assert_eq!(unescape("a&#1;b&#xFFFE;c&#99999999999;"), "abc\u{fffd}");
    }

    #[test]
    fn unambiguous_references_end_in_a_semicolon() {
        assert_eq!(
            unescape_unambiguous("this&not that &amp;amp;"),
            "this&not that &amp;"
        );
        assert_eq!(unescape_unambiguous("&#59; &#65x; &#65;"), "&#59; &#65x; A");
    }

    #[test]
    fn names_in_capitals_are_decoded_to_capitals() {
        assert_eq!(
            unescape_unambiguous("P&EACUTE;REZ STRA&SZLIG;E &nTILDE; &LTIMES;"),
            "PÉREZ STRASSE &nTILDE; &LTIMES;"
        );
    }
}
