//! Floor 1: words to tokens to features.

mod cleaning;
pub mod tokenizer;

pub use cleaning::clean;
pub use tokenizer::{Encoding, Tokenizer};
