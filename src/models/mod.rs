//! Floor 2: whole models.
//!
//! [`load`] reads a checkpoint of any supported family; [`sam::Sam`], [`sam2::Sam2`] and
//! [`sam3::Sam3`] are the families themselves, and [`head`] is what answers points and boxes in all of
//! them.

pub mod any;
#[cfg(feature = "clip")]
pub mod clip;
pub mod head;
pub mod inspect;
pub mod int8;
pub mod interactive;
mod pixels;
pub mod sam;
pub mod sam2;
pub mod sam3;
pub mod tracker;
pub mod upscaling;
pub mod variant;

use std::sync::OnceLock;

use candle::{DType, Device, Tensor};

pub use any::{Embedding, Model, load};
pub use interactive::{InteractiveEmbedding, InteractiveModel, Point, VisualPrompt};
pub use upscaling::{Upscaling, UpscalingStep};

use crate::Result;
use crate::nn::{Precision, WeightFormat};
use crate::weights::{Checkpoint, Choice};

/// How to load a model. The default is the CPU in f32, for text and exemplars.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// Where the model runs.
    pub device: Device,
    /// Number format of the computation: f32, f16 or bf16.
    pub dtype: DType,
    /// Precision of matrix products. Applies to f32 on the CPU; elsewhere it must be the default.
    pub precision: Precision,
    /// How the weights of large layers are held. A file that has them in 8 bits needs the CPU and f32
    /// whatever is said here.
    pub weights: WeightFormat,
    /// Tokens per text, in place of the file's default. A student's positional table of 77 rows is
    /// resampled to 32 tokens by default, as it was trained; 77 uses it as is.
    pub context_length: Option<usize>,
    /// Load the interactive head of a SAM 3 for points, boxes and masks. It costs the memory of its
    /// part of the file, and of the trunk's features with each encoded image. SAM 1 and SAM 2.1 have
    /// nothing else.
    pub interactive: bool,
    /// Load the tracker of a SAM 2.1 or SAM 3, which follows objects through videos, with the
    /// interactive head.
    pub tracking: bool,
}

impl LoadOptions {
    /// The default, with the interactive head for points, boxes and masks.
    pub fn with_interactive() -> Self {
        Self {
            interactive: true,
            ..Self::default()
        }
    }

    /// The weights as they are to be read.
    ///
    /// # Errors
    /// [`Error::Unsupported`](crate::Error::Unsupported) for a precision or a format of weights that
    /// the device or the dtype does not have.
    fn prepare(&self, checkpoint: &Checkpoint) -> Result<Checkpoint> {
        let choice = self.int8_choice()?;
        self.format_of(checkpoint).check(&self.device, self.dtype)?;
        Ok(match choice {
            None => checkpoint.clone(),
            Some(choice) => checkpoint.quantized(choice),
        })
    }

    /// How a model of this file will hold the weights of its large layers.
    fn format_of(&self, checkpoint: &Checkpoint) -> WeightFormat {
        match checkpoint.is_int8() {
            true => WeightFormat::Int8,
            false => self.weights,
        }
    }

    /// The weights that become 8 bits, if any do.
    ///
    /// # Errors
    /// As [`Self::prepare`].
    fn int8_choice(&self) -> Result<Option<Choice>> {
        self.precision.check(&self.device, self.dtype)?;
        self.weights.check(&self.device, self.dtype)?;
        Ok(match self.weights {
            WeightFormat::Stored => None,
            WeightFormat::Int8 => Some(int8::is_int8),
        })
    }
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            device: Device::Cpu,
            dtype: DType::F32,
            precision: Precision::default(),
            weights: WeightFormat::default(),
            context_length: None,
            interactive: false,
            tracking: false,
        }
    }
}

/// What `cell` holds, from `make` when it is first asked for.
fn get_or_try_init<T, E>(cell: &OnceLock<T>, make: impl FnOnce() -> Result<T, E>) -> Result<&T, E> {
    match cell.get() {
        Some(value) => Ok(value),
        None => {
            let value = make()?;
            Ok(cell.get_or_init(|| value))
        }
    }
}

/// Memory that tensors keep, in bytes.
fn bytes_of<'a>(tensors: impl IntoIterator<Item = &'a Tensor>) -> usize {
    let bytes = |xs: &Tensor| xs.elem_count() * xs.dtype().size_in_bytes();
    tensors.into_iter().map(bytes).sum()
}

/// Models are shared between threads behind an `Arc`.
const _: () = {
    const fn assert_send_sync<T: Send + Sync>() {}
    assert_send_sync::<Model>();
    assert_send_sync::<Embedding>();
    assert_send_sync::<sam3::ImageEmbedding>();
    assert_send_sync::<sam3::TextEmbedding>();
    assert_send_sync::<InteractiveEmbedding>();
};
