//! Following objects through a video: what a frame remembers, and how the next one looks at it.
//!
//! Follows `Sam3TrackerBase`,
//! <https://github.com/facebookresearch/sam3/blob/99d02f2/sam3/model/sam3_tracker_base.py#L20>, which
//! is the tracker of SAM 2.1 with other limits.
//!
//! The tracker of SAM 3.1, which answers up to 16 objects in one pass, shares everything that is
//! kept and selected, see `multiplex`.
//!
//! Tensors have the official names; all of them lie below `tracker` in a file of SAM 3.

pub mod decoupled_attention;
pub mod entry;
pub mod frame;
pub mod memory_attention;
pub mod memory_bank;
pub mod memory_encoder;
mod multiplex;
pub mod network;
pub mod object_pointer;
mod prompt_network;
mod rotary;
pub mod selection;
pub mod slots;
#[cfg(test)]
pub(crate) mod toy;

use candle::{Result, Tensor};

pub use decoupled_attention::DecoupledAttention;
pub use entry::{ABSENT_LOGIT, Answers, Entry};
pub use frame::FrameFeatures;
pub use memory_attention::{MemoryAttention, MemoryTokens};
pub use memory_bank::MemoryBank;
pub use memory_encoder::{MaskProbability, MemoryEncoder, MemoryMasks};
pub use network::TrackerNetwork;
pub use object_pointer::{PointerHead, PointerTokens};
pub use prompt_network::LabeledPoint;
pub(crate) use prompt_network::first_largest;
pub use selection::{Position, Rules, Selection};
pub use slots::Slots;

use crate::image::Image;
use crate::{Error, Run};

/// Sizes and limits of a tracker.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Width of image tokens.
    pub dim: usize,
    /// Width of memory tokens.
    pub memory_dim: usize,
    /// Side of the grid of image tokens.
    pub grid: usize,
    /// Side of the model's input, in pixels.
    pub image_size: usize,
    /// Layers of the memory attention.
    pub attention_layers: usize,
    /// Its heads.
    pub attention_heads: usize,
    /// Hidden width of its feed-forward networks.
    pub attention_ffn_dim: usize,
    /// Base of its rotary frequencies.
    pub rope_theta: f64,
    /// Object pointers that a frame attends to at most.
    pub max_pointers: usize,
    /// Rows of the temporal embedding of memories.
    pub num_memories: usize,
    /// Conditioning frames that a frame attends to at most.
    pub max_cond_frames: Option<usize>,
    /// Tracked frames of less quality are not attended to.
    pub min_quality: Option<f32>,
    /// Points of a prompt that are looked at: as many of the first as of the last.
    pub max_prompt_points: Option<usize>,
    /// Objects that one pass answers, see [`Slots`].
    pub slots: usize,
    /// Channels of the masks after each halving of their side in the memory encoder.
    pub mask_channels: [usize; 5],
    /// What probabilities of 1 become before they are encoded; those of 0 are the negative.
    pub mask_magnitude: f64,
    /// The rules by which a session prompts and groups objects.
    pub generation: Generation,
}

/// Whose rules a session follows where those of SAM 2.1 and SAM 3 differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Generation {
    /// Each object is tracked alone. A prompt on a frame that was tracked attends to the memories of
    /// other frames. A mask becomes logits of ±10 at the network's resolution.
    Sam2,
    /// Objects are tracked together, and of their masks on a prompted frame each pixel belongs to
    /// one. Prompts look at their own frame only. A mask stays what it is at the size of the video.
    Sam3,
    /// As SAM 3, but a prompt does not see earlier answers either, and what a prompted frame is
    /// remembered by are probabilities. An object can join others where they were tracked.
    Sam31,
}

impl Config {
    /// The tracker of every released SAM 3 with `grid`² image tokens.
    pub fn sam3(grid: usize, image_size: usize) -> Self {
        Self {
            dim: 256,
            memory_dim: 64,
            grid,
            image_size,
            attention_layers: 4,
            attention_heads: 1,
            attention_ffn_dim: 2048,
            rope_theta: 10_000.,
            max_pointers: 16,
            num_memories: 7,
            max_cond_frames: Some(4),
            min_quality: Some(0.01),
            max_prompt_points: Some(16),
            slots: 1,
            mask_channels: [1, 4, 16, 64, 256],
            mask_magnitude: 10.,
            generation: Generation::Sam3,
        }
    }

    /// The tracker of every released SAM 3.1 with `grid`² image tokens.
    pub fn sam31(grid: usize, image_size: usize) -> Self {
        Self {
            memory_dim: 256,
            attention_heads: 8,
            min_quality: None,
            slots: 16,
            mask_channels: [32, 16, 64, 256, 1024],
            mask_magnitude: 1.,
            generation: Generation::Sam31,
            ..Self::sam3(grid, image_size)
        }
    }

    /// The tracker of every released SAM 2.1 with `grid`² image tokens.
    pub fn sam2(grid: usize, image_size: usize) -> Self {
        Self {
            max_cond_frames: None,
            min_quality: None,
            max_prompt_points: None,
            generation: Generation::Sam2,
            ..Self::sam3(grid, image_size)
        }
    }

    /// Side of the masks that are encoded into memories.
    pub fn mask_size(&self) -> usize {
        16 * self.grid
    }

    /// Side of the low-resolution masks.
    pub fn low_res_side(&self) -> usize {
        4 * self.grid
    }

    /// What a frame attends to.
    pub fn rules(&self) -> Rules {
        Rules {
            num_memories: self.num_memories,
            max_cond_frames: self.max_cond_frames,
            max_pointers: self.max_pointers,
            min_quality: self.min_quality,
            placed_conditioning: self.generation == Generation::Sam31,
        }
    }
}

/// What a frame attends to.
#[derive(Debug, Clone, Copy)]
pub struct Memories<'a> {
    /// What is remembered of other frames.
    pub bank: &'a MemoryBank,
    /// The slots of its objects.
    pub slots: &'a Slots,
    /// What of it was selected.
    pub selection: &'a Selection,
    /// Frames of the video.
    pub num_frames: usize,
}

impl<'a> Memories<'a> {
    fn entry(&self, frame: usize) -> Result<&'a Entry> {
        let entry = self.bank.get(frame);
        entry.ok_or_else(|| network::not_remembered(frame))
    }
}

/// Follows objects from frame to frame. The objects that are tracked together are a batch.
pub trait Tracker: Send + Sync {
    /// Sizes and limits.
    fn config(&self) -> &Config;

    /// Answers one prompt on a frame: points and corners of boxes, with the logits (1, 4g, 4g) of an
    /// earlier answer, and looking at what is remembered of other frames or at nothing else.
    ///
    /// # Errors
    /// If a tensor operation fails.
    fn prompt(
        &self,
        frame: &FrameFeatures,
        points: &[LabeledPoint],
        earlier: Option<&Tensor>,
        memory: Option<Memories>,
    ) -> Result<Answers>;

    /// Pointer (1, d) to an object whose mask is given as shares of pixels in 0..1
    /// (1, 16g, 16g).
    ///
    /// # Errors
    /// If a tensor operation fails.
    fn point_to_mask(&self, frame: &FrameFeatures, mask: &Tensor) -> Result<Tensor>;

    /// Follows the objects of a bank to a frame that attends to what was selected for it.
    ///
    /// # Errors
    /// If nothing was selected, or what was is not in the bank.
    fn track(&self, frame: &FrameFeatures, memory: Memories) -> Result<Answers>;

    /// The memory (buckets, g * g, m) of a frame.
    ///
    /// # Errors
    /// For more or fewer masks than objects have slots.
    fn remember(&self, frame: &FrameFeatures, masks: &MemoryMasks) -> Result<Tensor>;

    /// The pointer (1, d) to an object that was never seen on a frame.
    fn absent_pointer(&self) -> Tensor;
}

/// A model that follows objects through a video.
pub trait TrackingModel: Send + Sync {
    /// What was loaded, for people: "SAM 3".
    fn name(&self) -> &str;

    /// What follows the objects.
    ///
    /// # Errors
    /// [`crate::Error::Unsupported`] if the model was loaded without it.
    fn tracker(&self) -> crate::Result<&dyn Tracker>;

    /// Encodes a frame of any size.
    ///
    /// # Errors
    /// [`crate::Error::Cancelled`]; [`crate::Error::Unsupported`] if the model was loaded without
    /// its tracker.
    fn encode_frame(&self, image: &Image, run: &mut Run) -> crate::Result<FrameFeatures>;
}

/// The tracker of a model that was loaded with it.
pub(super) fn if_loaded(tracker: Option<&dyn Tracker>) -> crate::Result<&dyn Tracker> {
    tracker.ok_or_else(|| Error::Unsupported {
        what: "tracking with a model loaded without its tracker".into(),
        instead: "load it with `LoadOptions::tracking`".into(),
    })
}

/// Mask logits (b, h, w) of which each pixel belongs to the object with the largest, of equal ones
/// the first; those of the others are at most -10 there.
///
/// Follows `_apply_non_overlapping_constraints`,
/// <https://github.com/facebookresearch/sam3/blob/99d02f2/sam3/model/sam3_tracker_base.py#L1115>.
pub fn non_overlapping(logits: &Tensor) -> Result<Tensor> {
    const OUTSIDE: f64 = -10.;
    let (b, h, w) = logits.dims3()?;
    if b == 1 {
        return Ok(logits.clone());
    }
    let object = |i: usize| logits.narrow(0, i, 1);
    let mut highest = object(0)?;
    let mut owner = highest.zeros_like()?; // (1, h, w)
    for i in 1..b {
        let is_higher = object(i)?.gt(&highest)?;
        let number = Tensor::full(i as f32, (1, h, w), logits.device())?;
        owner = is_higher.where_cond(&number.to_dtype(logits.dtype())?, &owner)?;
        highest = is_higher.where_cond(&object(i)?, &highest)?;
    }
    let objects = (0..b).map(|i| {
        let is_owner = owner.eq(i as f64)?;
        is_owner.where_cond(&object(i)?, &object(i)?.minimum(OUTSIDE)?)
    });
    Tensor::cat(&objects.collect::<Result<Vec<_>>>()?, 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle::Device;

    #[test]
    fn a_pixel_belongs_to_the_highest_object_and_among_equals_to_the_first() -> Result<()> {
        let logits = [
            [[1f32, 2., -20., 3.]],
            [[1., 5., -12., -4.]],
            [[0., 4., -30., 3.]],
        ];
        let got = non_overlapping(&Tensor::new(&logits, &Device::Cpu)?)?;
        let want = [
            [[1f32, -10., -20., 3.]],
            [[-10., 5., -12., -10.]],
            [[-10., -10., -30., -10.]],
        ];
        assert_eq!(got.to_vec3::<f32>()?, want);
        let alone = Tensor::new(&[logits[0]], &Device::Cpu)?;
        assert_eq!(non_overlapping(&alone)?.to_vec3::<f32>()?, [logits[0]]);
        Ok(())
    }
}
