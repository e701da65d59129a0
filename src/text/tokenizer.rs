//! Words to token ids: the byte-pair encoding of CLIP, with its vocabulary built in.

use std::io::Read;
use std::sync::LazyLock;

use regex::Regex;
use tokenizers::Model;
use tokenizers::models::bpe::{BPE, Vocab};

use super::clean;
use crate::error::{Error, Result};

/// The merges of CLIP (OpenAI, MIT licence, see `clip_merges.LICENSE`), one pair a line, gzip.
const MERGES: &[u8] = include_bytes!("clip_merges.txt.gz");

/// End-of-word marker, carried by the last piece of each word.
const END_OF_WORD: &str = "</w>";

const START_OF_TEXT: &str = "<start_of_text>";
const END_OF_TEXT: &str = "<end_of_text>";

/// Words, single digits and runs of anything else. U+0345 falls between all of them: the
/// reference matches case-insensitively, where it is a case of a letter and yet no letter.
const WORDS: &str = r"(?x)
    (?i: <start_of_text> | <end_of_text> | 's | 't | 're | 've | 'm | 'll | 'd )
    | \p{L}+ | \p{N} | [^\s\p{L}\p{N}\u{345}]+";

/// The vocabulary is read once, by the first text that is encoded.
static CLIP: LazyLock<Tokenizer> = LazyLock::new(Tokenizer::new);

/// The tokenizer of all text encoders: CLIP's lower-case byte-pair encoding, 49408 tokens.
///
/// Mirrors `SimpleTokenizer` of the reference,
/// <https://github.com/facebookresearch/sam3/blob/99d02f2/sam3/model/tokenizer_ve.py>, and gives
/// the same ids. Characters that Unicode 15 or later added may be split differently: there the
/// reference depends on the Python it runs on.
///
/// ```
/// use candle_sam3::text::Tokenizer;
///
/// let encoding = Tokenizer::shared().encode("a yellow school bus", 8)?;
/// assert_eq!(encoding.ids, [49406, 320, 4481, 1228, 2840, 49407, 0, 0]);
/// # Ok::<(), candle_sam3::Error>(())
/// ```
pub struct Tokenizer {
    bpe: BPE,
    words: Regex,
    /// The character that stands for each byte.
    byte_chars: [char; 256],
}

/// The token ids of one text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoding {
    /// As many ids as the context is long: start, text, end, padding.
    pub ids: Vec<u32>,
    /// Number of tokens of the text, start and end included, if that is more than fit.
    pub truncated: Option<usize>,
}

impl Tokenizer {
    /// The id that begins every text.
    pub const START: u32 = 49406;
    /// The id that ends every text, also one that was cut.
    pub const END: u32 = 49407;
    /// The id that fills the context. It is also the piece `!` inside a word, and masked there
    /// like padding.
    pub const PADDING: u32 = 0;
    /// The longest text that is encoded, in bytes: many times what fits in a context, and little
    /// enough that cleaning takes well under a second whatever the text (see [`clean`]).
    pub const MAX_TEXT_BYTES: usize = 8 * 1024;

    /// The tokenizer with the built-in vocabulary, which is read on the first call.
    pub fn shared() -> &'static Self {
        &CLIP
    }

    fn new() -> Self {
        let mut merges = String::new();
        flate2::read::GzDecoder::new(MERGES)
            .read_to_string(&mut merges)
            .expect("the built-in merges are valid gzip and UTF-8, which the tests read");
        let merges: Vec<(String, String)> = merges
            .lines()
            .filter_map(|line| line.split_once(' '))
            .map(|(left, right)| (left.to_owned(), right.to_owned()))
            .collect();

        let byte_chars = byte_chars();
        let mut alphabet = byte_chars;
        alphabet.sort();
        let bytes = alphabet.iter().map(char::to_string);
        let last_bytes = alphabet.iter().map(|c| format!("{c}{END_OF_WORD}"));
        let merged = merges.iter().map(|(left, right)| format!("{left}{right}"));
        let vocabulary: Vocab = bytes.chain(last_bytes).chain(merged).zip(0..).collect();

        let bpe = BPE::builder()
            .vocab_and_merges(vocabulary, merges)
            .end_of_word_suffix(END_OF_WORD.to_owned())
            .build()
            .expect("every merge joins pieces of the built-in vocabulary, which the tests build");
        Self {
            bpe,
            words: Regex::new(WORDS).expect("the pattern is constant and tested"),
            byte_chars,
        }
    }

    /// Refuses a text that is longer than [`Tokenizer::MAX_TEXT_BYTES`].
    ///
    /// # Errors
    ///
    /// [`Error::InvalidPrompt`].
    pub fn check_length(text: &str) -> Result<()> {
        match text.len() <= Self::MAX_TEXT_BYTES {
            true => Ok(()),
            false => Err(Error::prompt(format!(
                "a text of {} bytes is too long, at most {} are read",
                text.len(),
                Self::MAX_TEXT_BYTES
            ))),
        }
    }

    /// Cleans and encodes a text into exactly `context_length` ids.
    ///
    /// A text that is too long is cut, with [`Tokenizer::END`] as the last id; a shorter one is
    /// filled up with [`Tokenizer::PADDING`]. An empty text is start and end alone. Masks are to
    /// be made from the ids: where they are 0.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidPrompt`] if the context length is 0 or the text is longer than
    /// [`Tokenizer::MAX_TEXT_BYTES`].
    pub fn encode(&self, text: &str, context_length: usize) -> Result<Encoding> {
        if context_length == 0 {
            return Err(Error::prompt(
                "a context length of 0 holds no text, at least 1 is needed",
            ));
        }
        Self::check_length(text)?;
        let text = clean(text);
        let mut ids = vec![Self::START];
        for word in self.words.find_iter(&text) {
            match word.as_str() {
                START_OF_TEXT => ids.push(Self::START),
                END_OF_TEXT => ids.push(Self::END),
                word => self.encode_word(word, &mut ids)?,
            }
        }
        ids.push(Self::END);

        let tokens = ids.len();
        ids.resize(context_length, Self::PADDING);
        if tokens > context_length {
            ids[context_length - 1] = Self::END;
        }
        Ok(Encoding {
            ids,
            truncated: (tokens > context_length).then_some(tokens),
        })
    }

    fn encode_word(&self, word: &str, ids: &mut Vec<u32>) -> Result<()> {
        let bytes: String = word
            .bytes()
            .map(|b| self.byte_chars[usize::from(b)])
            .collect();
        let pieces = self
            .bpe
            .tokenize(&bytes)
            .map_err(|e| Error::prompt(format!("cannot encode {word:?}: {e}")))?;
        ids.extend(pieces.iter().map(|piece| piece.id));
        Ok(())
    }
}

/// The printable character that stands for each byte: itself where it is one in Latin-1, the
/// next free one from U+0100 on for white space, control characters and the soft hyphen.
fn byte_chars() -> [char; 256] {
    let mut replacements = '\u{100}'..;
    std::array::from_fn(|byte| {
        let c = char::from(byte as u8);
        match c {
            '!'..='~' | '¡'..='¬' | '®'..='ÿ' => c,
            _ => replacements.next().unwrap_or(c),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(text: &str) -> Vec<u32> {
        let mut ids = Tokenizer::shared().encode(text, 64).unwrap().ids;
        ids.truncate(ids.iter().rposition(|&id| id != 0).unwrap() + 1);
        ids
    }

    #[test]
    fn the_vocabulary_is_complete() {
        let bpe = &Tokenizer::shared().bpe;
        assert_eq!(bpe.get_vocab_size(), 49406);
        assert_eq!(bpe.token_to_id("!"), Some(0));
        assert_eq!(bpe.token_to_id("jekyll</w>"), Some(49405));
    }

    #[test]
    fn an_empty_text_is_start_and_end() {
        assert_eq!(ids(""), [49406, 49407]);
        assert_eq!(ids(" \u{a0}\n"), [49406, 49407]);
    }

    #[test]
    fn the_piece_of_id_zero_appears_inside_a_text() {
        assert_eq!(ids("!;"), [49406, 0, 282, 49407]);
    }

    #[test]
    fn the_literal_special_strings_are_special_but_not_those_of_other_tokenizers() {
        assert_eq!(ids("<Start_of_Text>"), [49406, 49406, 49407]);
        assert_eq!(ids("<end_of_text>"), [49406, 49407, 49407]);
        assert!(ids("<|endoftext|>").len() > 3);
    }

    #[test]
    fn a_long_text_is_cut_and_says_so() {
        let encoding = Tokenizer::shared()
            .encode("dog ".repeat(40).as_str(), 32)
            .unwrap();
        assert_eq!(encoding.ids.len(), 32);
        assert_eq!(encoding.ids[30..], [1929, 49407]);
        assert_eq!(encoding.truncated, Some(42));
        let encoding = Tokenizer::shared().encode("dog", 3).unwrap();
        assert_eq!(encoding.ids, [49406, 1929, 49407]);
        assert_eq!(encoding.truncated, None);
    }

    /// Written by `tools/golden/tokenizer.py`.
    #[test]
    fn ids_equal_those_of_the_reference() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/golden/tokenizer.jsonl.gz"
        );
        let mut lines = String::new();
        flate2::read::GzDecoder::new(std::fs::File::open(path).unwrap())
            .read_to_string(&mut lines)
            .unwrap();

        let mut differing = Vec::new();
        for line in lines.lines() {
            let (text, context_length, tokens, ids): (String, usize, usize, Vec<u32>) =
                serde_json::from_str(line).unwrap();
            let mut wanted = Encoding {
                ids,
                truncated: (tokens > context_length).then_some(tokens),
            };
            wanted.ids.resize(context_length, Tokenizer::PADDING);
            let encoding = Tokenizer::shared().encode(&text, context_length).unwrap();
            if encoding != wanted {
                differing.push(format!("{text:?}\n  wanted {wanted:?}\n  got {encoding:?}"));
            }
        }
        assert!(lines.lines().count() >= 10_000);
        assert!(
            differing.is_empty(),
            "{} of {} texts differ, the first:\n{}",
            differing.len(),
            lines.lines().count(),
            differing[..differing.len().min(5)].join("\n")
        );
    }

    #[test]
    fn absurd_requests_are_refused() {
        assert!(Tokenizer::shared().encode("dog", 0).is_err());
        let text = "x".repeat(Tokenizer::MAX_TEXT_BYTES + 1);
        assert!(Tokenizer::shared().encode(&text, 32).is_err());
    }
}
