//! The network of a tracker: head, memory encoder, memory attention and what answers together.

use candle::{Result, Tensor};
use candle_nn::VarBuilder;

use super::entry::Answers;
use super::frame::FrameFeatures;
use super::memory_attention::{MemoryAttention, MemoryTokens};
use super::memory_encoder::{MemoryEncoder, MemoryMasks};
use super::multiplex::Multiplex;
use super::object_pointer::PointerTokens;
use super::prompt_network::{LabeledPoint, PromptNetwork};
use super::{Config, Generation, Memories, Tracker};
use crate::models::head::{MaskDecoder, SamHead};
use crate::nn::posenc::sine_2d;

/// The network of a tracker. Objects that are tracked together are a batch; in SAM 3.1 they share its
/// rows.
#[derive(Debug, Clone)]
pub struct TrackerNetwork {
    cfg: Config,
    prompts: PromptNetwork,
    encoder: MemoryEncoder,
    follower: Follower,
    pointers: PointerTokens,
    frame_positions: Tensor,       // (1, g * g, d)
    memory_positions: Vec<Tensor>, // of each row of the temporal embedding (1, g * g, m)
}

/// What looks at memories and answers.
#[derive(Debug, Clone)]
enum Follower {
    /// For one object at a time; the head answers, as it does prompts.
    Single(Box<MemoryAttention>),
    /// For the slots of SAM 3.1.
    Multiplex(Box<Multiplex>),
}

impl TrackerNetwork {
    /// Reads everything below `tracker`, in SAM 3.1 below `tracker.model`, but the `head`, which is
    /// shared with clicks on images, and `no_mem_pos_enc`, which is not used.
    ///
    /// # Errors
    /// If a tensor is missing or has another shape.
    pub fn new(cfg: &Config, head: &SamHead, vb: VarBuilder) -> Result<Self> {
        let attention = vb.pp("transformer.encoder");
        let follower = match cfg.generation {
            Generation::Sam2 | Generation::Sam3 => {
                Follower::Single(Box::new(MemoryAttention::new(cfg, attention)?))
            }
            Generation::Sam31 => {
                Follower::Multiplex(Box::new(Multiplex::new(cfg, head, vb.clone())?))
            }
        };
        Ok(Self {
            prompts: PromptNetwork::new(cfg, head, vb.clone())?,
            encoder: MemoryEncoder::new(cfg, vb.clone())?,
            follower,
            pointers: PointerTokens::new(cfg, vb.clone())?,
            frame_positions: frame_positions(cfg.grid, cfg.dim, &vb)?,
            memory_positions: memory_positions(cfg, &vb)?,
            cfg: cfg.clone(),
        })
    }

    /// The decoder of tracked frames, whose finer maps are those of the features to track on.
    pub fn decoder(&self) -> &MaskDecoder {
        match &self.follower {
            Follower::Single(_) => self.prompts.decoder(),
            Follower::Multiplex(network) => network.decoder(),
        }
    }

    /// The features of a frame (1 or b, g * g, d), b objects or buckets, that know of `memory`.
    fn remind(&self, frame: &FrameFeatures, memory: Memories) -> Result<Tensor> {
        let tokens = memory_tokens(memory, &self.memory_positions, &self.pointers)?;
        let (features, positions) = (&frame.image.tokens, &self.frame_positions);
        match &self.follower {
            Follower::Single(attention) => {
                let attend = || attention.attend_frame(features, positions);
                attention.forward(frame.attended(attend)?, &tokens)
            }
            Follower::Multiplex(network) => network.remind(frame, positions, memory, &tokens),
        }
    }
}

/// Positions of a frame's tokens in `width` channels (1, g * g, width).
fn frame_positions(grid: usize, width: usize, vb: &VarBuilder) -> Result<Tensor> {
    let map = sine_2d(grid, grid, width, vb.device())?.to_dtype(vb.dtype())?;
    map.flatten_from(2)?.transpose(1, 2)?.contiguous()
}

/// Positions in space and time of memory tokens, of each row of `maskmem_tpos_enc` (1, g * g, m).
fn memory_positions(cfg: &Config, vb: &VarBuilder) -> Result<Vec<Tensor>> {
    let in_space = frame_positions(cfg.grid, cfg.memory_dim, vb)?;
    let in_time = vb.get((cfg.num_memories, 1, 1, cfg.memory_dim), "maskmem_tpos_enc")?;
    let row = |i| in_space.broadcast_add(&in_time.narrow(0, i, 1)?.squeeze(0)?);
    (0..cfg.num_memories).map(row).collect()
}

/// What a frame attends to: memories in the order in which they were selected, then pointers.
fn memory_tokens(
    memory: Memories,
    rows: &[Tensor],
    pointers: &PointerTokens,
) -> Result<MemoryTokens> {
    let (mut tokens, mut positions) = (vec![], vec![]);
    for (t, row) in &memory.selection.memories {
        let kept = memory.entry(*t)?.memory.as_ref();
        tokens.push(kept.ok_or_else(|| not_remembered(*t))?.clone());
        positions.push(rows[*row].clone());
    }
    let mut pointer_tokens = 0;
    if !memory.selection.pointers.is_empty() {
        let selected = memory.selection.pointers.iter().copied();
        let (frames, offsets): (Vec<usize>, Vec<i64>) = selected.unzip();
        let kept = frames.iter().map(|t| Ok(&memory.entry(*t)?.pointers));
        let kept = pointers.tokens(&kept.collect::<Result<Vec<_>>>()?)?;
        pointer_tokens = kept.dim(1)?;
        tokens.push(kept);
        positions.push(pointers.positions(&offsets, memory.num_frames)?);
    }
    Ok(MemoryTokens {
        tokens: Tensor::cat(&tokens, 1)?,
        positions: Tensor::cat(&positions, 1)?,
        pointer_tokens,
    })
}

pub(super) fn not_remembered(frame: usize) -> candle::Error {
    candle::Error::msg(format!("frame {frame} is not remembered"))
}

impl Tracker for TrackerNetwork {
    fn config(&self) -> &Config {
        &self.cfg
    }

    fn prompt(
        &self,
        frame: &FrameFeatures,
        points: &[LabeledPoint],
        earlier: Option<&Tensor>,
        memory: Option<Memories>,
    ) -> Result<Answers> {
        let tokens = match (memory, &self.follower) {
            (None, _) => None,
            (Some(memory), Follower::Single(_)) => Some(self.remind(frame, memory)?),
            (Some(_), Follower::Multiplex(_)) => {
                candle::bail!("a prompt of SAM 3.1 looks at its own frame only")
            }
        };
        let image = frame.interactive()?;
        self.prompts.prompt(image, tokens, points, earlier)
    }

    fn point_to_mask(&self, frame: &FrameFeatures, mask: &Tensor) -> Result<Tensor> {
        self.prompts.point_to_mask(frame.interactive()?, mask)
    }

    fn track(&self, frame: &FrameFeatures, memory: Memories) -> Result<Answers> {
        let features = self.remind(frame, memory)?;
        match &self.follower {
            Follower::Single(_) => self.prompts.follow(&frame.image, &features),
            Follower::Multiplex(network) => network.decode(&frame.image, &features, memory.slots),
        }
    }

    fn remember(&self, frame: &FrameFeatures, masks: &MemoryMasks) -> Result<Tensor> {
        self.encoder.forward(&frame.image.tokens, masks)
    }

    fn absent_pointer(&self) -> Tensor {
        self.prompts.pointers().never_seen().clone()
    }
}
