//! Text from files and the network, as it may be shown in a terminal.

/// The text without control characters other than line breaks, and without those that turn the
/// direction of writing: they could clear the screen, or make a name look like another.
pub fn printable(text: &str) -> String {
    text.chars().filter(|c| *c == '\n' || !steers(*c)).collect()
}

fn steers(c: char) -> bool {
    let turns = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || turns
}

#[cfg(test)]
mod tests {
    use super::printable;

    #[test]
    fn a_terminal_cannot_be_steered() {
        assert_eq!(printable("a\u{1b}[2J\u{9b}31m\tb\r\u{7}"), "a[2J31mb");
        assert_eq!(printable("tar\u{202e}gpj.exe"), "targpj.exe");
        assert_eq!(
            printable("two\nlines, 日本語 é 👩‍🔬"),
            "two\nlines, 日本語 é 👩‍🔬"
        );
    }
}
