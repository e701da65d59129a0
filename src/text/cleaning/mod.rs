//! Cleaning of prompts: what the reference does to a text before it is split into tokens.
//!
//! The reference cleans with the Python package ftfy 6.3 (Robyn Speer, Apache-2.0), whose rules
//! are followed here, then decodes HTML twice, folds white space and lowers the case.

mod badness;
mod code_pages;
mod entities;
mod mojibake;

use std::sync::LazyLock;

use regex::Regex;
use unicode_normalization::UnicodeNormalization;

/// Colors and other commands for a terminal.
static TERMINAL_ESCAPE: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"\x1b\[[\d;]*[a-zA-Z]").expect("the pattern is constant and tested")
});

/// Cleans a prompt: repairs text that was decoded wrongly, makes typographic variants plain,
/// decodes HTML references, folds white space to single spaces and lowers the case.
///
/// Mirrors `_clean_lower` of the reference,
/// <https://github.com/facebookresearch/sam3/blob/99d02f2/sam3/model/tokenizer_ve.py>.
///
/// Every round of repair reads the whole text, and a text such as `&amp;amp;amp;` takes a round
/// per level: the time can grow with the square of the length.
///
/// ```
/// use candle_sam3::text::clean;
///
/// assert_eq!(clean("  The &quot;ＬＯＵＤ&quot;\n NoiseÂ´s ﬂuﬀ "), "the \"loud\" noise´s fluff");
/// ```
pub fn clean(text: &str) -> String {
    let text = fix_text(text);
    let text = entities::unescape(&entities::unescape(&text));
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").to_lowercase()
}

/// Repairs line by line, as `ftfy.fix_text` does.
fn fix_text(text: &str) -> String {
    let mut unescapes = true;
    text.split_inclusive('\n')
        .map(|line| {
            // From the first "<" on the text is taken for HTML, in which references are meant.
            unescapes &= !line.contains('<');
            fix_line(line, unescapes)
        })
        .collect()
}

fn fix_line(line: &str, unescapes: bool) -> String {
    let mut text = line.to_owned();
    loop {
        let mut fixed = match unescapes {
            true => entities::unescape_unambiguous(&text),
            false => text.clone(),
        };
        let has_more_to_fix = |byte| !matches!(byte, b' '..=b'~' | b'\t' | b'\n');
        if fixed.bytes().any(has_more_to_fix) {
            fixed = fix_characters(&fixed);
        }
        if fixed == text {
            return fixed;
        }
        text = fixed;
    }
}

/// One round of all repairs but the decoding of references.
fn fix_characters(text: &str) -> String {
    let fixed = mojibake::fix_encoding(text);
    let fixed = mojibake::fix_c1_controls(&fixed);
    let fixed = fixed.replace("\r\n", "\n").replace('\r', "\n");
    let fixed = plain_characters(&fixed);
    let fixed = TERMINAL_ESCAPE.replace_all(&fixed, "");
    let shown = fixed.chars().filter(|c| !is_unwanted_control(*c));
    shown.nfc().collect()
}

/// Replaces ligatures, full-width and half-width forms, curly quotes and exotic line breaks.
fn plain_characters(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\u{3000}' => plain.push(' '),
            '\u{ff01}'..='\u{ffef}' => plain.extend([c].into_iter().nfkc()),
            // Latin ligatures, and digraphs that are one character for legacy reasons
            'Ĳ' | 'ĳ' | 'Ǆ'..='ǌ' | 'Ǳ'..='ǳ' | 'ﬀ'..='ﬄ' | 'ﬆ' => {
                plain.extend([c].into_iter().nfkc());
            }
            'ﬅ' => plain.push_str("ſt"),
            // The modifier letter that ŉ begins with is a curly quote.
            'ŉ' => plain.push_str("'n"),
            '\u{2bc}' | '‘'..='‛' => plain.push('\''),
            '“'..='‟' => plain.push('"'),
            '\u{2028}' | '\u{2029}' | '\u{85}' => plain.push('\n'),
            _ => plain.push(c),
        }
    }
    plain
}

/// Whether `c` is a control character without a visible effect. Joiners, direction marks and
/// tags stay: they shape what follows.
fn is_unwanted_control(c: char) -> bool {
    matches!(c,
        '\0'..='\u{8}' | '\u{b}' | '\u{e}'..='\u{1f}' | '\u{7f}'
        | '\u{206a}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffc}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typographic_variants_become_plain() {
        assert_eq!(clean("“ﬁve” ‘ﬂuﬃeﬆ’ Ŀ ŉ Ĳ"), "\"five\" 'fluffiest' ŀ 'n ij");
        assert_eq!(clean("ＬＯＵＤ　Ｕﾀｰﾝ"), "loud uターン");
    }

    #[test]
    fn white_space_is_folded_and_control_characters_vanish() {
        assert_eq!(
            clean(" a\u{a0}b\r\nc\u{2028}d\u{1f}e\u{7}f\u{feff} "),
            "a b c def"
        );
        assert_eq!(clean("\u{1b}[36;44mblue\u{1b}[0m car"), "blue car");
        assert_eq!(clean(" \t\n"), "");
    }

    #[test]
    fn letters_are_composed_before_their_case_is_lowered() {
        assert_eq!(clean("E\u{301}T\u{C9}"), "été");
        assert_eq!(clean("İ ΣΊΣΥΦΟΣ STRAẞE"), "i\u{307} σίσυφος straße");
    }

    #[test]
    fn references_survive_the_first_pass_in_text_that_looks_like_html() {
        assert_eq!(clean("&amp;amp;amp;lt;"), "<");
        assert_eq!(clean("<b> &amp;amp;amp;lt;"), "<b> &amp;lt;");
        assert_eq!(clean("<b>\n&amp;amp;amp;lt;"), "<b> &amp;lt;");
    }
}
