//! Floor 1: words to tokens to features.

mod cleaning;
pub mod clip;
pub mod mobileclip;
mod rep_mixer;
mod tokenizer;

pub use cleaning::clean;
pub use tokenizer::{Encoding, Tokenizer};

use candle::{Result, Tensor};
use candle_nn::VarBuilder;

/// Which text encoder, and its sizes.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Config {
    /// The encoder of SAM 3.
    Clip(clip::Config),
    /// A student of it.
    MobileClip(mobileclip::Config),
}

impl Config {
    /// Tokens per prompt, padding included.
    pub fn context_length(&self) -> usize {
        match self {
            Self::Clip(cfg) => cfg.context_length,
            Self::MobileClip(cfg) => cfg.context_length,
        }
    }
}

/// Any text encoder of the SAM 3 family.
#[derive(Debug)]
pub enum TextEncoder {
    /// The encoder of SAM 3.
    Clip(clip::ClipText),
    /// A student of it.
    MobileClip(mobileclip::MobileClipText),
}

impl TextEncoder {
    /// Reads everything below `backbone.language_backbone`.
    pub fn new(cfg: &Config, vb: VarBuilder) -> Result<Self> {
        Ok(match cfg {
            Config::Clip(cfg) => Self::Clip(clip::ClipText::new(cfg, vb)?),
            Config::MobileClip(cfg) => Self::MobileClip(mobileclip::MobileClipText::new(cfg, vb)?),
        })
    }

    /// Token ids (b, s), u32 -> features (b, s, d)
    pub fn forward(&self, ids: &Tensor) -> Result<Tensor> {
        match self {
            Self::Clip(encoder) => encoder.forward(ids),
            Self::MobileClip(encoder) => encoder.forward(ids),
        }
    }
}
