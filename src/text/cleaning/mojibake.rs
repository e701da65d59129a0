//! Repair of text that was decoded in the wrong encoding, such as `schÃ¶n` for `schön`.
//!
//! Follows `fix_encoding` of ftfy 6.3, whose tests for when a repair is safe are kept as they
//! are: text that is merely unusual must not change.

use std::sync::LazyLock;

use regex::bytes::{Captures, Regex};

use super::badness::is_bad;
use super::code_pages::{self, CODE_PAGES, stands_for};

/// UTF-8 sequences of likely characters in which a space stands for byte 0xA0. Of three bytes,
/// 0x85 reads as an ellipsis and 0xA0 as a space of its own.
static NO_BREAK_SPACE_LOST: LazyLock<Regex> = LazyLock::new(|| {
    let pattern = r"(?x-u)
          [\xC2\xC3\xC5\xCE\xD0\xD9] \x20
        | [\xE2\xE3] \x20 [\x80-\x84\x86-\x9F\xA1-\xBF]
        | [\xE0-\xE3] [\x80-\x84\x86-\x9F\xA1-\xBF] \x20
        | \xF0 \x20 [\x80-\xBF]{2}
        | \xF0 [\x80-\xBF] \x20 [\x80-\xBF]
        | \xF0 [\x80-\xBF]{2} \x20";
    Regex::new(pattern).expect("the pattern is constant and tested")
});

/// UTF-8 sequences of which a byte was lost, and lost bytes elsewhere, where 0x1A stands. At most
/// one byte of a sequence may be a question mark: that too stands for lost ones.
static BYTE_LOST: LazyLock<Regex> = LazyLock::new(|| {
    let pattern = r"(?x-u)
          [\xC2-\xDF] \x1A | [\xC2\xC3] \?
        # Two surrogates, each encoded on its own.
        | \xED [\xA0-\xAF] [\x1A?] \xED [\xB0-\xBF] [\x1A?\x80-\xBF]
        | \xED [\xA0-\xAF] [\x1A?\x80-\xBF] \xED [\xB0-\xBF] [\x1A?]
        | [\xE0-\xEF] [\x1A?] [\x1A\x80-\xBF]
        | [\xE0-\xEF] [\x1A\x80-\xBF] [\x1A?]
        | [\xF0-\xF4] [\x1A?] [\x1A\x80-\xBF]{2}
        | [\xF0-\xF4] [\x1A\x80-\xBF] [\x1A?] [\x1A\x80-\xBF]
        | [\xF0-\xF4] [\x1A\x80-\xBF]{2} [\x1A?]
        | \x1A";
    Regex::new(pattern).expect("the pattern is constant and tested")
});

/// Decodes mojibake again, until nothing changes; other text is returned as it is.
pub(super) fn fix_encoding(text: &str) -> String {
    let mut text = text.to_owned();
    loop {
        let fixed = fix_encoding_once(&text);
        if fixed == text {
            return fixed;
        }
        text = fixed;
    }
}

/// Replaces the control characters U+0080 to U+009F by what browsers take them for.
pub(super) fn fix_c1_controls(text: &str) -> String {
    text.chars().map(code_pages::windows_1252).collect()
}

fn fix_encoding_once(text: &str) -> String {
    if !is_bad(text) {
        return text.to_owned();
    }
    for page in &CODE_PAGES {
        let Some(mut bytes) = page.encode(text) else {
            continue;
        };
        if page.loses_nbsp {
            bytes = restore_no_break_spaces(bytes);
        }
        if page.loses_bytes {
            let lossy = BYTE_LOST.replace_all(&bytes, "\u{fffd}".as_bytes());
            bytes = lossy.into_owned();
        }
        if let Some(decoded) = decode_utf8_variants(&bytes) {
            return decoded;
        }
    }
    let fixed = fix_embedded_mojibake(text);
    match fixed == text {
        true => fix_c1_controls(text),
        false => fixed,
    }
}

/// Turns a space back into byte 0xA0 where that completes a UTF-8 sequence of a likely
/// character.
fn restore_no_break_spaces(mut bytes: Vec<u8>) -> Vec<u8> {
    const NBSP: u8 = 0xA0;
    // "Ã " within a text is most often "à " of a French or Catalan text that lost one of two
    // spaces; the Portuguese words that begin with "à" are told apart.
    const PORTUGUESE: [&[u8]; 5] = [b" ", b"quele", b"quela", b"quilo", b"s "];
    let mut at = 0;
    while at + 1 < bytes.len() {
        let after = &bytes[at + 2..];
        if bytes[at..].starts_with(b"\xC3 ") && !PORTUGUESE.iter().any(|w| after.starts_with(w)) {
            bytes.insert(at + 1, NBSP);
        }
        at += 1;
    }

    let restored = NO_BREAK_SPACE_LOST.replace_all(&bytes, |sequence: &Captures| {
        let byte = |byte: &u8| if *byte == b' ' { NBSP } else { *byte };
        sequence[0].iter().map(byte).collect::<Vec<u8>>()
    });
    restored.into_owned()
}

/// Decodes UTF-8 in which surrogate pairs may be encoded as two characters (CESU-8) and U+0000
/// as two bytes (Java); `None` for anything else.
///
/// As in ftfy, a newline that ends the text may stand for the last byte of either.
fn decode_utf8_variants(bytes: &[u8]) -> Option<String> {
    let completes = |byte: u8, after: &[u8]| match byte {
        b'\n' => after.is_empty(),
        _ => matches!(byte, 0x80..=0xBF),
    };
    let mut standard = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let [first, after @ ..] = rest {
        rest = match *rest {
            [0xC0, b @ (0x80 | b'\n'), ref after @ ..] if completes(b, after) => {
                standard.push(0);
                after
            }
            [
                0xED,
                a @ 0xA0..=0xAF,
                b @ 0x80..=0xBF,
                0xED,
                c @ 0xB0..=0xBF,
                d,
                ref after @ ..,
            ] if completes(d, after) => {
                let bits = |byte: u8, mask: u8| u32::from(byte & mask);
                let high = bits(a, 0x0F) << 6 | bits(b, 0x3F);
                let low = bits(c, 0x0F) << 6 | bits(d, 0x3F);
                let decoded = char::from_u32(0x1_0000 + (high << 10 | low))?;
                standard.extend(decoded.encode_utf8(&mut [0; 4]).bytes());
                after
            }
            _ => {
                standard.push(*first);
                after
            }
        };
    }
    String::from_utf8(standard).ok()
}

/// Repairs the parts of `text` that look like UTF-8 in a single-byte encoding, each by itself.
fn fix_embedded_mojibake(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut fixed = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        // Not after what may be a continuation itself: a few characters of a larger garble.
        let inside = at > 0 && continues_strictly(chars[at - 1]);
        let length = if inside { 0 } else { utf8_like(&chars[at..]) };
        if length == 0 {
            fixed.push(chars[at]);
            at += 1;
            continue;
        }
        let part: String = chars[at..at + length].iter().collect();
        // A part shorter than the text: this ends.
        match length < chars.len() && is_bad(&part) {
            true => fixed.push_str(&fix_encoding(&part)),
            false => fixed.push_str(&part),
        }
        at += length;
    }
    fixed
}

/// How many characters at the start of `chars` stand for whole UTF-8 sequences.
fn utf8_like(chars: &[char]) -> usize {
    let mut length = 0;
    while let [first, rest @ ..] = &chars[length..] {
        let continuations = rest.iter().take(3).take_while(|&&c| continues(c)).count();
        length += match continuations {
            1.. if stands_for(*first, |b| matches!(b, 0xC2..=0xDF)) => 2,
            2.. if stands_for(*first, |b| matches!(b, 0xE0..=0xEF)) => 3,
            3.. if stands_for(*first, |b| matches!(b, 0xF0 | 0xF3)) => 4,
            _ => break,
        };
    }
    length
}

/// Whether `c` may stand for a byte 0x80 to 0xBF, as a space may for 0xA0.
fn continues(c: char) -> bool {
    c == ' ' || stands_for(c, |byte| matches!(byte, 0x80..=0xBF))
}

/// As [`continues`], without what is common next to any text: dashes, quotes, dots.
fn continues_strictly(c: char) -> bool {
    let common = matches!(
        c,
        ' ' | '–' | '—' | '―' | '‘' | '’' | '‚' | '“' | '”' | '„' | '•' | '…'
    );
    !common && continues(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_texts_are_decoded_again() {
        for (text, fixed) in [
            ("âœ” no problem", "✔ no problem"),
            ("schÃ¶n", "schön"),
            ("Iâ€™m", "I’m"),
            ("voilÃ le travail", "voilà le travail"),
            ("l’humanitÃ©", "l’humanité"),
            ("РїСЂРёРІРµС‚", "привет"),
            ("â€œlost endâ€�", "“lost end�"),
            ("ðŸ˜ƒ", "😃"),
            ("Ãƒâ€šÃ‚Â¶", "¶"),
        ] {
            assert_eq!(fix_encoding(text), fixed);
        }
    }

    #[test]
    fn parts_are_decoded_by_themselves() {
        assert_eq!(fix_encoding("日本 schÃ¶n"), "日本 schön");
        assert_eq!(fix_encoding("☃ Iâ€™m"), "☃ I’m");
    }

    #[test]
    fn surrogate_pairs_and_null_in_two_bytes_are_decoded() {
        let decode = |bytes: &[u8]| decode_utf8_variants(bytes);
        assert_eq!(decode(b"\xED\xA0\xBD\xED\xB8\x83"), Some("😃".into()));
        assert_eq!(decode(b"a\xC0\x80b"), Some("a\0b".into()));
        assert_eq!(decode(b"\xED\xA0\xBD"), None);
        assert_eq!(decode(b"\xC0\n"), Some("\0".into()));
        assert_eq!(decode(b"\xC0\n "), None);
    }

    #[test]
    fn clean_text_stays() {
        for text in ["schön", "I’m", "à la carte", "100 °C", "Привет", "日本"] {
            assert_eq!(fix_encoding(text), text);
        }
    }
}
