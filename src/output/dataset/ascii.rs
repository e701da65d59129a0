//! JSON of ASCII characters only: pycocotools opens files in the encoding of the locale.

use std::io;

use serde::Serialize;
use serde_json::Serializer;
use serde_json::ser::Formatter;

struct Ascii;

impl Formatter for Ascii {
    fn write_string_fragment<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        for c in fragment.chars() {
            if c.is_ascii() {
                writer.write_all(&[c as u8])?;
            } else {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    write!(writer, "\\u{unit:04x}")?;
                }
            }
        }
        Ok(())
    }
}

/// A value as one line of JSON. Every value here has string keys, so that nothing can fail.
pub(in crate::output) fn json(value: &impl Serialize) -> Vec<u8> {
    let mut bytes = Vec::new();
    // Writing to memory does not fail.
    let _ = value.serialize(&mut Serializer::with_formatter(&mut bytes, Ascii));
    bytes
}

/// A score with the digits that are worth keeping.
pub(super) fn score(score: f32) -> f64 {
    (f64::from(score) * 1e6).round() / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_beyond_ascii_are_escaped_and_come_back() {
        let text = "Ampel \"信号\" 🚦 é";
        let bytes = json(&text);
        assert!(bytes.is_ascii());
        assert_eq!(serde_json::from_slice::<String>(&bytes).unwrap(), text);
    }
}
