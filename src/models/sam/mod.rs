//! SAM 1 and MobileSAM, and the heads that SAM 3 answers clicks with.

pub mod heads;
pub mod mask_decoder;
pub mod prompt_encoder;
pub mod two_way;

pub use heads::{Config, Generation, Heads, Prompt};
pub use mask_decoder::{ImageTokens, NUM_MASKS};
pub use prompt_encoder::Label;
