//! Maps that are enlarged and cut on a device, by candle's operations.

use candle::{D, DType, Result, Tensor};

use crate::device::upload;
use crate::mask::upsample::{Tap, taps};

/// 1 for each map (k, h, w) without NaN and infinity: (k, 1), u8
pub(super) fn is_finite(maps: &Tensor) -> Result<Tensor> {
    (maps * 0.)?.flatten_from(1)?.sum_keepdim(1)?.eq(0f64)
}

/// Maps of 0 and 1 (k, h, w), u8, as whole bytes of rows (k, h * ceil(w / 8)), u8, the first pixel in
/// the lowest bit.
pub(super) fn pack(above: &Tensor) -> Result<Tensor> {
    let (k, h, w) = above.dims3()?;
    let bytes = w.div_ceil(8);
    let bits = above.to_dtype(DType::F32)?;
    let bits = bits.pad_with_zeros(2, 0, 8 * bytes - w)?;
    let bits = bits.reshape((k, h * bytes, 8))?;
    let mut sum = bits.narrow(2, 0, 1)?;
    for bit in 1..8 {
        sum = (sum + (bits.narrow(2, bit, 1)? * f64::from(1 << bit))?)?;
    }
    sum.squeeze(D::Minus1)?.to_dtype(DType::U8)
}

/// How many are 1 in each of the maps of 0 and 1 (k, h, w), u8: four bytes, the lowest first (k, 4), u8.
pub(super) fn counts(above: &Tensor) -> Result<Tensor> {
    let by_row = above.to_dtype(DType::F32)?.sum(2)?;
    let count = by_row.to_dtype(DType::F64)?.sum_keepdim(1)?;
    let mut bytes = Vec::with_capacity(4);
    let mut rest = count;
    for _ in 0..4 {
        let higher = (&rest / 256.)?.floor()?;
        bytes.push((rest - (&higher * 256.)?)?.to_dtype(DType::U8)?);
        rest = higher;
    }
    Tensor::cat(&bytes, 1)
}

/// Where the columns and rows of an enlarged map lie between those of the map.
pub(super) struct Blends {
    columns: Axis,
    rows: Axis,
}

struct Axis {
    first: Tensor,         // (new), u32
    second: Tensor,        // (new), u32
    first_weight: Tensor,  // (new), f64
    second_weight: Tensor, // (new), f32
}

impl Blends {
    /// From old to new widths and heights, on the device of `maps`.
    pub(super) fn new(sides: [(usize, usize); 2], maps: &Tensor) -> Result<Self> {
        let device = maps.device();
        let [columns, rows] = sides.map(|(old, new)| taps(old, new));
        let axes = [&columns[..], &rows[..]];
        let indices: Vec<u32> = listed(axes, [|tap| tap.first as u32, |tap| tap.second as u32]);
        let weights: Vec<f32> = listed(axes, [|tap| tap.first_weight, |tap| tap.second_weight]);
        let len = indices.len();
        let indices = upload(indices, len, device)?;
        let weights = upload(weights, len, device)?;
        let axis = |start: usize, new: usize| -> Result<Axis> {
            Ok(Axis {
                first: indices.narrow(0, start, new)?,
                second: indices.narrow(0, start + new, new)?,
                first_weight: weights.narrow(0, start, new)?.to_dtype(DType::F64)?,
                second_weight: weights.narrow(0, start + new, new)?,
            })
        };
        Ok(Self {
            columns: axis(0, columns.len())?,
            rows: axis(2 * columns.len(), rows.len())?,
        })
    }

    /// Maps (k, h, w), f32 -> (k, new h, new w), f32
    pub(super) fn enlarge(&self, maps: &Tensor) -> Result<Tensor> {
        let wide = self.columns.blend(maps, 2)?;
        self.rows.blend(&wide, 1)
    }
}

/// Of each axis a list of the one, then a list of the other.
fn listed<T>(axes: [&[Tap]; 2], of: [fn(&Tap) -> T; 2]) -> Vec<T> {
    let lists = axes.into_iter();
    let lists = lists.flat_map(|taps| of.map(|of| taps.iter().map(of)));
    lists.flatten().collect()
}

impl Axis {
    /// A product that is exact in f64 and one that is rounded to f32, in a sum that is rounded once to
    /// f64 and once to f32: [`Tap`]'s.
    fn blend(&self, maps: &Tensor, axis: usize) -> Result<Tensor> {
        let along = |weights: &Tensor| match axis {
            1 => weights.reshape((1, (), 1)),
            _ => weights.reshape((1, 1, ())),
        };
        let first = maps.index_select(&self.first, axis)?;
        let first = first
            .to_dtype(DType::F64)?
            .broadcast_mul(&along(&self.first_weight)?)?;
        let second = maps.index_select(&self.second, axis)?;
        let second = second.broadcast_mul(&along(&self.second_weight)?)?;
        (first + second.to_dtype(DType::F64)?)?.to_dtype(DType::F32)
    }
}
