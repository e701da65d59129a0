//! Tells text that was decoded in the wrong encoding from text that is merely unusual.
//!
//! The characters that UTF-8 turns into when it is read in another encoding fall into kinds;
//! sequences of kinds that no language writes give mojibake away. Kinds and sequences are those
//! of `ftfy.badness` 6.3.

use std::sync::LazyLock;

use regex::Regex;

/// A letter or a digit of any script, without marks.
static LETTER_OR_DIGIT_PATTERN: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"[\p{L}\p{N}]").expect("the pattern is constant and tested"));

/// The kinds of a character, as a set of bits.
type Kinds = u32;

/// Found in many contexts, innocent in themselves.
const COMMON: Kinds = 1 << 0;
const C1_CONTROL: Kinds = 1 << 1;
/// Next to never written outside of mojibake.
const BAD: Kinds = 1 << 2;
const LAW: Kinds = 1 << 3;
const CURRENCY: Kinds = 1 << 4;
const OPENING: Kinds = 1 << 5;
const CLOSING: Kinds = 1 << 6;
const NUMERIC: Kinds = 1 << 7;
/// Letters that make faces, as in `ò_ó`.
const KAOMOJI: Kinds = 1 << 8;
const UPPER_ACCENTED: Kinds = 1 << 9;
const LOWER_ACCENTED: Kinds = 1 << 10;
/// Letters of other alphabets, which may well end a word.
const UPPER_COMMON: Kinds = 1 << 11;
const LOWER_COMMON: Kinds = 1 << 12;
const BOX: Kinds = 1 << 13;
const ASCII_UPPER: Kinds = 1 << 14;
const ASCII_LOWER: Kinds = 1 << 15;
const SPACE: Kinds = 1 << 16;
const LETTER_OR_DIGIT: Kinds = 1 << 17;
const NO_ASCII_LETTER: Kinds = 1 << 18;
const NO_NEWLINE: Kinds = 1 << 19;

const ASCII_LETTER: Kinds = ASCII_UPPER | ASCII_LOWER;
const ACCENTED: Kinds = UPPER_ACCENTED | LOWER_ACCENTED;
const SYMBOL: Kinds = OPENING | CLOSING | CURRENCY | NUMERIC | LAW;

/// The characters of each kind; a hyphen spans a range.
const CHARACTERS: [(Kinds, &str); 14] = [
    (COMMON, "\u{a0}\u{ad}·´–—―…’"),
    (C1_CONTROL, "\u{80}-\u{9f}"),
    (BAD, "¦¤¨¬¯¸ƒˆˇ˘˛˜†‡‰⌐◊\u{fffd}ªº"),
    (LAW, "¶§"),
    (CURRENCY, "¢£¥₧€"),
    (OPENING, "¡«¿©΄΅‘‚“„•‹\u{f8ff}"),
    (CLOSING, "®»˝”›™"),
    (NUMERIC, "²³¹±¼½¾×µ÷⁄∂∆∏∑√∞∩∫≈≠≡≤≥№"),
    (KAOMOJI, "Ò-ÖÙ-Üò-öø-üŐŌŪŲ°"),
    (
        UPPER_ACCENTED,
        "À-ÑØÜÝĂĀĄĆČĎĐĘĚĒĖĞĢİĪĶĹĽŁĻŃŇŅŒŘŚŞŠŢŤŮŰŸŹŻŽҐ",
    ),
    (LOWER_ACCENTED, "ßà-ñăąāćčďđęěēėğģįīķĺľłļœŕśşšťüźżžґﬁﬂ"),
    (UPPER_COMMON, "ÞΑ-ΩΆΈΉΊΌΎΏΪΫЁ-Я"),
    (LOWER_COMMON, "α-ωάέήίΰа-џ"),
    (BOX, "│┌┐┘├┤┬┼═-╬▀▄█▌▐░▒▓"),
];

/// One place of a sequence: a character of any of these kinds or among these characters.
struct Place(Kinds, &'static str);

/// Sequences that are mojibake anywhere in a text.
const SEQUENCES: [&[Place]; 37] = [
    &[any(C1_CONTROL)],
    &[any(BAD | ACCENTED | BOX | SYMBOL), any(BAD)],
    &[
        any(ASCII_LETTER),
        any(LOWER_COMMON | UPPER_COMMON),
        any(BAD),
    ],
    &[any(BAD), any(ACCENTED | BOX | SYMBOL)],
    &[
        any(LOWER_ACCENTED | LOWER_COMMON | BOX | CLOSING | CURRENCY | NUMERIC),
        any(UPPER_ACCENTED),
    ],
    &[any(BOX | CLOSING | CURRENCY | NUMERIC), any(LOWER_ACCENTED)],
    &[any(LOWER_ACCENTED | BOX | CLOSING), any(CURRENCY)],
    &[any(SPACE), any(UPPER_ACCENTED), any(CURRENCY)],
    &[any(UPPER_ACCENTED | BOX), any(NUMERIC | LAW)],
    &[
        any(ACCENTED | BOX | CURRENCY | CLOSING),
        any(OPENING),
        any(NUMERIC),
    ],
    &[
        any(ACCENTED | CURRENCY | NUMERIC | BOX | LAW),
        any(CLOSING),
        any(OPENING),
    ],
    &[any(CURRENCY | NUMERIC | BOX), any(OPENING)],
    &[
        any(ASCII_LOWER),
        any(UPPER_ACCENTED),
        any(OPENING | CURRENCY),
    ],
    &[any(BOX), any(KAOMOJI)],
    &[any(ACCENTED | SYMBOL), any(BOX)],
    &[any(BOX), any(CLOSING)],
    &[
        any(ACCENTED),
        any(OPENING | CLOSING),
        Place(LETTER_OR_DIGIT, "_"),
    ],
    // A ligature without an unaccented letter after it, a degree sign after a capital.
    &[of("Œœ"), any(NO_ASCII_LETTER)],
    &[any(UPPER_ACCENTED), of("°")],
    // Windows-1252 for two-byte sequences.
    &[
        of("ÂÃÎÐ"),
        Place(OPENING | CLOSING, "€œŠš¢£Ÿž\u{a0}\u{ad}®©°·»–—´"),
    ],
    &[of("Ã"), of("\u{a0}¡")],
    &[of("×"), of("²³")],
    // Windows-1252 for Arabic, where the second characters are common: two pairs.
    &[of("ØÙ"), ARABIC_SECOND, of("ØÙ"), ARABIC_SECOND],
    // Windows-1252 for South Asian alphabets.
    &[of("à"), of("²µ¹¼½¾")],
    // Mac Roman.
    &[of("√"), of("±∂†≠®™´≤≥¥µø")],
    &[of("≈"), of("°¢")],
    &[of("‚"), of("Ä"), of("ìîïòôúùû†°¢π")],
    &[of("‚"), of("âó"), of("àä°ê")],
    // Windows-1251 for punctuation, for Latin-1 and Cyrillic, and on top of Windows-1252.
    &[of("в"), of("Ђ")],
    &[
        of("ВГРС"),
        Place(C1_CONTROL | BAD | OPENING | CLOSING | CURRENCY, "°µ"),
        of("ВГРС"),
    ],
    &[
        of("Г"),
        of("ў"),
        of("В"),
        of("Ђ"),
        of("В"),
        any(NO_NEWLINE),
        Place(ASCII_LETTER, " "),
    ],
    // A or A with a circumflex or a tilde, then a space that was a no-break space.
    &[any(ASCII_LOWER), of("ÃÂ"), of(" ")],
    &[any(ASCII_LOWER), any(SPACE), of("ÃÂ"), of(" ")],
    &[
        Place(ASCII_LOWER | CLOSING, ".,?!"),
        of("Â"),
        Place(OPENING | CLOSING, " "),
    ],
    // Windows-1253 for punctuation, for Latin-1 and Greek.
    &[of("β"), of("€"), of("™\u{a0}Ά\u{ad}®°")],
    &[
        of("ΒΓΞΟ"),
        Place(C1_CONTROL | BAD | OPENING | CLOSING | CURRENCY, "°"),
        of("ΒΓΞΟ"),
    ],
    // Windows-1257 for punctuation.
    &[of("ā"), of("€")],
];

const ARABIC_SECOND: Place = Place(COMMON | CURRENCY | BAD | NUMERIC | OPENING, "ŸŠ®°µ»");

/// A sequence that is mojibake at the start of a text.
const AT_START: [Place; 2] = [of("ÃÂ"), of(" ")];

const fn any(kinds: Kinds) -> Place {
    Place(kinds, "")
}

const fn of(characters: &'static str) -> Place {
    Place(0, characters)
}

/// Whether `text` looks like mojibake.
pub(super) fn is_bad(text: &str) -> bool {
    if text.is_ascii() {
        return false;
    }
    let text: Vec<(char, Kinds)> = text.chars().map(|c| (c, kinds(c))).collect();
    let begins = |text: &[(char, Kinds)], sequence: &[Place]| {
        text.len() >= sequence.len()
            && text
                .iter()
                .zip(sequence)
                .all(|(&(c, kinds), Place(wanted, characters))| {
                    kinds & wanted != 0 || characters.contains(c)
                })
    };
    // Every sequence has a character beyond ASCII among its first three.
    let may_begin = |text: &[(char, Kinds)]| text.iter().take(3).any(|(c, _)| !c.is_ascii());
    begins(&text, &AT_START)
        || (0..text.len())
            .map(|at| &text[at..])
            .filter(|rest| may_begin(rest))
            .any(|rest| SEQUENCES.iter().any(|sequence| begins(rest, sequence)))
}

fn kinds(c: char) -> Kinds {
    let when = |holds: bool, kind: Kinds| if holds { kind } else { 0 };
    let ascii =
        when(c.is_ascii_uppercase(), ASCII_UPPER) | when(c.is_ascii_lowercase(), ASCII_LOWER);
    let word = match c.is_ascii() {
        true => c.is_ascii_alphanumeric(),
        false => LETTER_OR_DIGIT_PATTERN.is_match(c.encode_utf8(&mut [0; 4])),
    };
    let general = when(word, LETTER_OR_DIGIT)
        | when(c.is_whitespace() || matches!(c, '\x1c'..='\x1f'), SPACE)
        | when(!c.is_ascii_alphabetic(), NO_ASCII_LETTER)
        | when(c != '\n', NO_NEWLINE);
    let special = match c.is_ascii() {
        true => 0,
        false => CHARACTERS
            .iter()
            .filter(|(_, characters)| spans(characters, c))
            .fold(0, |all, (kind, _)| all | kind),
    };
    ascii | general | special
}

/// Whether `c` is among `characters`, in which a hyphen spans a range.
fn spans(characters: &str, c: char) -> bool {
    let mut rest = characters.chars().peekable();
    while let Some(first) = rest.next() {
        let last = match rest.next_if_eq(&'-') {
            Some(_) => rest.next().unwrap_or(first),
            None => first,
        };
        if (first..=last).contains(&c) {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mojibake_is_bad() {
        for text in [
            "âœ” no problem",
            "schÃ¶n",
            "Iâ€™m",
            "voilÃ le travail",
            "Â for a space",
            "a\u{85}",
            "РџСЂРёРІРµС‚ В° В",
            "‚Äî",
            "Ø§Ù„",
        ] {
            assert!(is_bad(text), "{text:?}");
        }
    }

    #[test]
    fn unusual_text_is_not_bad() {
        for text in [
            "",
            "schön",
            "I’m",
            "à la carte",
            "50 °C ± 2",
            "Привет",
            "¿Qué?",
            "ò_ó",
            "© 2024",
            "日本",
        ] {
            assert!(!is_bad(text), "{text:?}");
        }
    }
}
