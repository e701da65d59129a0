//! Learned biases for the distance of query and key, one table per axis.
//!
//! Follows `add_decomposed_rel_pos`,
//! <https://github.com/facebookresearch/segment-anything/blob/dca509f/segment_anything/modeling/image_encoder.py#L325>.

use candle::{Result, Tensor};
use candle_nn::VarBuilder;

/// The tables of one block, looked up for every pair of rows and of columns.
///
/// A bias is a product of the query and an entry of each table, so both become part of the
/// product of query and key: the query is extended by its biases for all rows and columns, the key
/// by ones at its own. No bias per pair of tokens is ever stored.
#[derive(Debug, Clone)]
pub struct RelativePositions {
    rows: Tensor,      // (side, c, side): query row, channel, key row
    columns: Tensor,   // the same of columns
    indicator: Tensor, // (1, 1, side², 2 * side): ones at the key's row and column
    side: usize,
}

impl RelativePositions {
    /// Reads `rel_pos_h` and `rel_pos_w` (2 * side - 1, head_dim).
    pub fn new(side: usize, head_dim: usize, vb: VarBuilder) -> Result<Self> {
        let distances: Vec<u32> = (0..side * side)
            .map(|i| (i / side + side - 1 - i % side) as u32)
            .collect();
        let distances = Tensor::from_vec(distances, side * side, vb.device())?;
        let table = |name| {
            vb.get((2 * side - 1, head_dim), name)?
                .contiguous()?
                .index_select(&distances, 0)?
                .reshape((side, side, head_dim))?
                .transpose(1, 2)?
                .contiguous()
        };
        let mut indicator = vec![0f32; side * side * 2 * side];
        for (key, ones) in indicator.chunks_exact_mut(2 * side).enumerate() {
            ones[key / side] = 1.;
            ones[side + key % side] = 1.;
        }
        let shape = (1, 1, side * side, 2 * side);
        Ok(Self {
            rows: table("rel_pos_h")?,
            columns: table("rel_pos_w")?,
            indicator: Tensor::from_vec(indicator, shape, vb.device())?.to_dtype(vb.dtype())?,
            side,
        })
    }

    /// `q` and `k` (b, heads, side², c) -> (b, heads, side², c + 2 * side), whose products are
    /// those of `q * scale` and `k` plus the biases.
    pub fn extend(&self, q: &Tensor, k: &Tensor, scale: f64) -> Result<(Tensor, Tensor)> {
        let (b, heads, n, c) = q.dims4()?;
        let side = self.side;
        if n != side * side {
            candle::bail!("relative positions of a {side} x {side} grid got {n} tokens");
        }
        let grid = q.reshape((b * heads, side, side, c))?;
        // The matrix of a row or column serves all its queries, so it comes first.
        let by_row = grid.transpose(0, 1)?.contiguous()?;
        let rows = by_row
            .reshape((side, b * heads * side, c))?
            .matmul(&self.rows)?
            .reshape((side, b * heads, side, side))?
            .transpose(0, 1)?;
        let by_column = grid.permute((2, 0, 1, 3))?.contiguous()?;
        let columns = by_column
            .reshape((side, b * heads * side, c))?
            .matmul(&self.columns)?
            .reshape((side, b * heads, side, side))?
            .permute((1, 2, 0, 3))?;
        let biases = Tensor::cat(&[rows, columns], 3)?.reshape((b, heads, n, 2 * side))?;
        let indicator = self.indicator.expand((b, heads, n, 2 * side))?;
        Ok((
            Tensor::cat(&[&(q * scale)?, &biases], 3)?,
            Tensor::cat(&[k, &indicator], 3)?,
        ))
    }
}
