//! The decoder's token of a mask becomes a pointer to its object, which later frames attend to.
//!
//! Follows `_forward_sam_heads`,
//! <https://github.com/facebookresearch/sam3/blob/99d02f2/sam3/model/sam3_tracker_base.py#L217>,
//! and `_get_tpos_enc`, L161.
//!
//! # Easy to get wrong
//! - A frame without its object has a learned pointer; in SAM 3.1 its own pointer, mapped.
//! - In SAM 3.1 the pointers of slots without an object are zeros, and are attended to.
//! - The sines are not interleaved: first all sines, then all cosines, and frequencies in pairs.
//! - Distances in time are divided by one less than the number of pointers, which is that of the
//!   frames in shorter videos.

use candle::{DType, Device, Result, Tensor};
use candle_nn::VarBuilder;

use super::Config;
use crate::device::upload;
use crate::nn::{Linear, Mlp, linear};

const TEMPERATURE: f32 = 10_000.;

/// What makes pointers of the decoder's tokens.
#[derive(Debug, Clone)]
pub struct PointerHead {
    proj: Mlp,
    absent: Absent,
    never_seen: Tensor, // (1, d)
}

/// What stands for a pointer to an object that is not there.
#[derive(Debug, Clone)]
enum Absent {
    /// One pointer (1, d) for all.
    Learned(Tensor),
    /// A linear map of the pointer.
    Mapped(Linear),
}

impl PointerHead {
    /// Reads `obj_ptr_proj` and `no_obj_ptr`.
    pub fn new(dim: usize, vb: VarBuilder) -> Result<Self> {
        let absent = vb.get((1, dim), "no_obj_ptr")?;
        Ok(Self {
            proj: Mlp::new(&[dim; 4], vb.pp("obj_ptr_proj"))?,
            never_seen: absent.clone(),
            absent: Absent::Learned(absent),
        })
    }

    /// Of SAM 3.1: reads `no_obj_ptr_linear` and the projection called `proj`.
    pub fn multiplex(dim: usize, proj: &str, vb: VarBuilder) -> Result<Self> {
        Ok(Self {
            proj: Mlp::new(&[dim; 4], vb.pp(proj))?,
            absent: Absent::Mapped(linear(dim, dim, vb.pp("no_obj_ptr_linear"))?),
            never_seen: Tensor::zeros((1, dim), vb.dtype(), vb.device())?,
        })
    }

    /// Tokens (b, d) of the masks that were chosen, `is_present` (b) in u8 -> pointers (b, d)
    pub fn forward(&self, mask_tokens: &Tensor, is_present: &Tensor) -> Result<Tensor> {
        let pointers = mask_tokens.contiguous()?.apply(&self.proj)?;
        self.without_absent(&pointers, is_present)
    }

    /// Pointers (b, d), and what stands for them where `is_present` (b) is 0 -> (b, d)
    pub fn without_absent(&self, pointers: &Tensor, is_present: &Tensor) -> Result<Tensor> {
        let absent = match &self.absent {
            Absent::Learned(pointer) => pointer.broadcast_as(pointers.shape())?,
            Absent::Mapped(map) => pointers.apply(map)?,
        };
        let is_present = is_present.unsqueeze(1)?.broadcast_as(pointers.shape())?;
        is_present.where_cond(pointers, &absent)
    }

    /// The pointer (1, d) to an object that was never seen: in SAM 3.1 that of an empty slot.
    pub fn never_seen(&self) -> &Tensor {
        &self.never_seen
    }
}

/// What makes memory tokens of pointers, and places them in time.
#[derive(Debug, Clone)]
pub struct PointerTokens {
    time_proj: Linear,
    dim: usize,
    memory_dim: usize,
    max_pointers: usize,
    slots: usize,
    dtype: DType,
    device: Device,
}

impl PointerTokens {
    /// Reads `obj_ptr_tpos_proj`.
    pub fn new(cfg: &Config, vb: VarBuilder) -> Result<Self> {
        let (d, m) = (cfg.dim, cfg.memory_dim);
        Ok(Self {
            time_proj: linear(d, m, vb.pp("obj_ptr_tpos_proj"))?,
            dim: d,
            memory_dim: m,
            max_pointers: cfg.max_pointers,
            slots: cfg.slots,
            dtype: vb.dtype(),
            device: vb.device().clone(),
        })
    }

    /// Memory tokens of a frame's pointers.
    fn each(&self) -> usize {
        self.slots * self.dim / self.memory_dim
    }

    /// Pointers of frames, (buckets * slots, d) each -> the tokens of all of them
    /// (buckets, frames * slots * d / m, m)
    pub fn tokens(&self, pointers: &[&Tensor]) -> Result<Tensor> {
        let of_frame = |pointers: &&Tensor| pointers.reshape(((), self.each(), self.memory_dim));
        let of_frames = pointers.iter().map(of_frame);
        Tensor::cat(&of_frames.collect::<Result<Vec<_>>>()?, 1)
    }

    /// The positions of those tokens (1, frames * slots * d / m, m): `offsets` count frames back from
    /// the one that attends, in a video of `num_frames`.
    pub fn positions(&self, offsets: &[i64], num_frames: usize) -> Result<Tensor> {
        let sines = self.sines(offsets, num_frames, &self.device)?;
        let positions = sines.to_dtype(self.dtype)?.apply(&self.time_proj)?;
        let ((frames, m), each) = (positions.dims2()?, self.each());
        positions
            .unsqueeze(1)?
            .broadcast_as((frames, each, m))?
            .reshape((1, frames * each, m))
    }

    /// Offsets -> (offsets, d), f32
    fn sines(&self, offsets: &[i64], num_frames: usize, device: &Device) -> Result<Tensor> {
        let (half, length) = (self.dim / 2, num_frames.min(self.max_pointers));
        // A video of one frame has no other to be at a distance from.
        let scale = length.saturating_sub(1).max(1) as f32;
        let periods: Vec<f32> = (0..half)
            .map(|i| TEMPERATURE.powf((2 * (i / 2)) as f32 / half as f32))
            .collect();
        let mut sines = Vec::with_capacity(offsets.len() * self.dim);
        for offset in offsets {
            let angle = |period: &f32| *offset as f32 / scale / period;
            sines.extend(periods.iter().map(|period| angle(period).sin()));
            sines.extend(periods.iter().map(|period| angle(period).cos()));
        }
        upload(sines, (offsets.len(), self.dim), device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::tracker::toy::multiplex;
    use crate::nn::golden::{Golden, assert_close};

    #[test]
    fn pointers_and_their_places_in_time_equal_the_official_ones() -> Result<()> {
        let golden = Golden::open("object_pointer");
        let cfg = Config {
            dim: golden.size("dim"),
            memory_dim: golden.size("memory_dim"),
            max_pointers: golden.size("max_obj_ptrs"),
            ..Config::sam3(8, 112)
        };
        let head = PointerHead::new(cfg.dim, golden.weights())?;
        let is_present = golden.tensor("in.object_scores").gt(0f64)?;
        let got = head.forward(&golden.tensor("in.mask_tokens"), &is_present)?;
        assert_close(&got, &golden.tensor("out.pointers"), 5e-6);

        let pointers = PointerTokens::new(&cfg, golden.weights())?;
        let offsets = golden.tensor("in.offsets").to_vec1::<i64>()?;
        let each = cfg.dim / cfg.memory_dim;
        for num_frames in [16, 5] {
            let want = |part: &str| golden.tensor(&format!("out.{part}.frames_{num_frames}"));
            let sines = pointers.sines(&offsets, num_frames, &Device::Cpu)?;
            assert_close(&sines, &want("sine"), 5e-6);
            let positions = pointers.positions(&offsets, num_frames)?.squeeze(0)?;
            let first = Tensor::arange(0u32, offsets.len() as u32, &Device::Cpu)?;
            let first = (first * each as f64)?;
            let rows = positions.index_select(&first, 0)?;
            assert_close(&rows, &want("position"), 5e-6);
            let last = positions.index_select(&(first + (each - 1) as f64)?, 0)?;
            assert_close(&last, &want("position"), 5e-6);
        }
        Ok(())
    }

    #[test]
    fn the_pointers_of_a_bucket_share_their_place_in_time() -> Result<()> {
        let (golden, cfg) = multiplex();
        let pointers = PointerTokens::new(&cfg, golden.weights().pp("tracker.model"))?;
        let offsets: Vec<i64> = (0..20).collect();
        for num_frames in [16, 5] {
            let got = pointers.positions(&offsets, num_frames)?.squeeze(0)?;
            let rows = got.reshape((offsets.len(), cfg.slots, cfg.dim))?;
            let want = golden.tensor(&format!("out.pointer_pos.{num_frames}"));
            for slot in [0, cfg.slots - 1] {
                assert_close(&rows.narrow(1, slot, 1)?.squeeze(1)?, &want, 1e-5);
            }
        }
        Ok(())
    }

    #[test]
    fn a_pointer_becomes_its_pieces_in_order() -> Result<()> {
        let golden = Golden::open("object_pointer");
        let cfg = Config {
            dim: 32,
            memory_dim: 8,
            ..Config::sam3(8, 112)
        };
        let pointers = PointerTokens::new(&cfg, golden.weights())?;
        let pointer = |from: f32| Tensor::arange(from, from + 64., &Device::Cpu)?.reshape((2, 32));
        let tokens = pointers.tokens(&[&pointer(0.)?, &pointer(100.)?])?;
        assert_eq!(tokens.dims(), [2, 8, 8]);
        let second = tokens.to_vec3::<f32>()?.swap_remove(1);
        let firsts: Vec<f32> = second.iter().map(|token| token[0]).collect();
        assert_eq!(firsts, [32., 40., 48., 56., 132., 140., 148., 156.]);
        Ok(())
    }
}
