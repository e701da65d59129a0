//! Tells text that was decoded in the wrong encoding from text that is merely unusual.
//!
//! The characters that UTF-8 turns into when it is read in another encoding fall into kinds;
//! sequences of kinds that no language writes give mojibake away. Kinds and sequences are those
//! of `ftfy.badness` 6.3.

use std::sync::LazyLock;

use regex::Regex;

// The characters of each kind, as a class of a pattern lists them.

/// Found in many contexts, innocent in themselves.
const COMMON: &str = r"\xa0\xad·´–—―…’";
const C1_CONTROL: &str = r"\x80-\x9f";
/// Next to never written outside of mojibake.
const BAD: &str = r"¦¤¨¬¯¸ƒˆˇ˘˛˜†‡‰⌐◊\u{fffd}ªº";
const LAW: &str = "¶§";
const CURRENCY: &str = "¢£¥₧€";
const OPENING: &str = r"¡«¿©΄΅‘‚“„•‹\u{f8ff}";
const CLOSING: &str = "®»˝”›™";
const NUMERIC: &str = "²³¹±¼½¾×µ÷⁄∂∆∏∑√∞∩∫≈≠≡≤≥№";
/// Letters that make faces, as in `ò_ó`.
const KAOMOJI: &str = "Ò-ÖÙ-Üò-öø-üŐŌŪŲ°";
const UPPER_ACCENTED: &str = "À-ÑØÜÝĂĀĄĆČĎĐĘĚĒĖĞĢİĪĶĹĽŁĻŃŇŅŒŘŚŞŠŢŤŮŰŸŹŻŽҐ";
const LOWER_ACCENTED: &str = "ßà-ñăąāćčďđęěēėğģįīķĺľłļœŕśşšťüźżžґﬁﬂ";
/// Letters of other alphabets, which may well end a word.
const UPPER_COMMON: &str = "ÞΑ-ΩΆΈΉΊΌΎΏΪΫЁ-Я";
const LOWER_COMMON: &str = "α-ωάέήίΰа-џ";
const BOX: &str = "│┌┐┘├┤┬┼═-╬▀▄█▌▐░▒▓";

/// Sequences that are mojibake.
static MOJIBAKE: LazyLock<Regex> = LazyLock::new(|| {
    let accented = [UPPER_ACCENTED, LOWER_ACCENTED].concat();
    let symbol = [OPENING, CLOSING, CURRENCY, NUMERIC, LAW].concat();
    let pattern = format!(
        r"(?x)
          [{C1_CONTROL}]
        | [{BAD}{accented}{BOX}{symbol}] [{BAD}]
        | [a-zA-Z] [{LOWER_COMMON}{UPPER_COMMON}] [{BAD}]
        | [{BAD}] [{accented}{BOX}{symbol}]
        | [{LOWER_ACCENTED}{LOWER_COMMON}{BOX}{CLOSING}{CURRENCY}{NUMERIC}] [{UPPER_ACCENTED}]
        | [{BOX}{CLOSING}{CURRENCY}{NUMERIC}] [{LOWER_ACCENTED}]
        | [{LOWER_ACCENTED}{BOX}{CLOSING}] [{CURRENCY}]
        | [\s\x1c-\x1f] [{UPPER_ACCENTED}] [{CURRENCY}]
        | [{UPPER_ACCENTED}{BOX}] [{NUMERIC}{LAW}]
        | [{accented}{BOX}{CURRENCY}{CLOSING}] [{OPENING}] [{NUMERIC}]
        | [{accented}{CURRENCY}{NUMERIC}{BOX}{LAW}] [{CLOSING}] [{OPENING}]
        | [{CURRENCY}{NUMERIC}{BOX}] [{OPENING}]
        | [a-z] [{UPPER_ACCENTED}] [{OPENING}{CURRENCY}]
        | [{BOX}] [{KAOMOJI}]
        | [{accented}{symbol}] [{BOX}]
        | [{BOX}] [{CLOSING}]
        | [{accented}] [{OPENING}{CLOSING}] [\p{{L}}\p{{N}}_]
        # A ligature without an unaccented letter after it, a degree sign after a capital.
        | [Œœ] [^a-zA-Z]
        | [{UPPER_ACCENTED}] °
        # Windows-1252 for two-byte sequences.
        | [ÂÃÎÐ] [{OPENING}{CLOSING}€œŠš¢£Ÿž\xa0\xad®©°·»–—´]
        | Ã [\xa0¡]
        | × [²³]
        # Windows-1252 for Arabic, where the second characters are common: two pairs.
        | (?: [ØÙ] [{COMMON}{CURRENCY}{BAD}{NUMERIC}{OPENING}ŸŠ®°µ»] ){{2}}
        # Windows-1252 for South Asian alphabets.
        | à [²µ¹¼½¾]
        # Mac Roman.
        | √ [±∂†≠®™´≤≥¥µø]
        | ≈ [°¢]
        | ‚Ä [ìîïòôúùû†°¢π]
        | ‚ [âó] [àä°ê]
        # Windows-1251 for punctuation, for Latin-1 and Cyrillic, and on top of Windows-1252.
        | вЂ
        | [ВГРС] [{C1_CONTROL}{BAD}{OPENING}{CLOSING}{CURRENCY}°µ] [ВГРС]
        | ГўВЂВ . [a-zA-Z\x20]
        # A or A with a circumflex or a tilde, then a space that was a no-break space.
        | (?: ^ | [a-z] [\s\x1c-\x1f]? ) [ÃÂ] \x20
        | [a-z{CLOSING}.,?!] Â [{OPENING}{CLOSING}\x20]
        # Windows-1253 for punctuation, for Latin-1 and Greek.
        | β€ [™\xa0Ά\xad®°]
        | [ΒΓΞΟ] [{C1_CONTROL}{BAD}{OPENING}{CLOSING}{CURRENCY}°] [ΒΓΞΟ]
        # Windows-1257 for punctuation.
        | ā€"
    );
    Regex::new(&pattern).expect("the pattern is constant and tested")
});

/// Whether `text` looks like mojibake.
pub(super) fn is_bad(text: &str) -> bool {
    !text.is_ascii() && MOJIBAKE.is_match(text)
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
