//! A weight file becomes a `VarBuilder`, whatever wrote it.
//!
//! ```no_run
//! # fn main() -> candle_sam3::Result<()> {
//! use candle::{DType, Device};
//! use candle_nn::VarBuilder;
//! use candle_sam3::weights::Checkpoint;
//!
//! let checkpoint = Checkpoint::open("sam3.pt")?;
//! let build = |vb: VarBuilder| candle_nn::linear(256, 256, vb.pp("detector.segmentation_head"));
//! let layer = checkpoint.build(DType::F32, &Device::Cpu, &["tracker"], build)?;
//! # Ok(())
//! # }
//! ```
//!
//! - [`Checkpoint`] opens `.pt`, safetensors, a directory of them or bytes in memory. Nothing is
//!   read but headers; a tensor is copied once, when a module asks for it.
//! - Modules ask for the names and shapes of the official PyTorch files. A [`Layout`] is a table
//!   that says where another publisher keeps the same tensors.
//! - [`Checkpoint::build`] compares what a model asks for with what there is before it reads
//!   anything.
//!
//! # Easy to get wrong
//!
//! - Stage-1 EfficientSAM3 files carry the 447 M elements of the trunk they replaced. They cost no
//!   memory here, because nobody asks for them.
//! - Files on Hugging Face split every fused q, k, v; drop the first row of the ViT's `pos_embed`;
//!   and stack the four point embeddings.

mod checkpoint;
mod directory;
mod fingerprint;
mod holes;
mod int8;
mod layout;
mod layouts;
mod names;
mod pickle;
mod prefix;
mod random;
mod safetensors;
mod source;
mod stored;
mod survey;
mod tensor;
mod torch;
mod write;

#[cfg(test)]
pub(crate) mod key_lists;

pub use checkpoint::Checkpoint;
pub use int8::Choice;
pub use layout::{Fix, Layout, Section};
pub(crate) use names::matches;
pub use random::random;
pub use stored::Stored;
pub use survey::Survey;
pub use write::{WriteOptions, Written};

/// A tiny model of SAM 3's architecture that knows colored shapes, built into the library with the
/// feature `demo`, which the default features include.
///
/// It finds circles, squares, triangles, stars, rings, crosses, hearts and hexagons in red, green,
/// blue, yellow, orange, purple, white and black on synthetic scenes of 224 x 224 pixels;
/// `weights/README.md` says how well.
///
/// # Errors
/// None that a released build can have: the file is part of it.
#[cfg(feature = "demo")]
pub fn demo() -> crate::Result<Checkpoint> {
    Checkpoint::from_bytes(include_bytes!("../../weights/demo.safetensors"))
}
