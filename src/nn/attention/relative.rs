//! Learned biases for the distance of query and key, one table per axis.
//!
//! Follows `add_decomposed_rel_pos`,
//! <https://github.com/facebookresearch/segment-anything/blob/dca509f/segment_anything/modeling/image_encoder.py#L325>.

use std::fmt;
use std::sync::Arc;

use candle::{Device, Result, Tensor};
use candle_nn::VarBuilder;
use rayon::prelude::*;

use super::{Heads, in_rows, sdpa, sdpa_on_grid};
use crate::device::upload;
use crate::nn::kernels::epilogue::Epilogue;
use crate::nn::kernels::layout::Format;
use crate::nn::kernels::matmul::{PackedWeight, matmul};
use crate::nn::kernels::view::elements;
use crate::nn::precision::Precision;
use crate::nn::{on_cpu_in_f32, on_host};

/// The tables of one block: a bias is a product of the query and an entry of each.
#[derive(Debug, Clone)]
pub struct RelativePositions {
    tables: Tables,
    side: usize,
    precision: Precision,
}

#[derive(Clone)]
enum Tables {
    /// Both tables, the largest distance first: (2 * (2 * side - 1), c).
    Packed(Arc<PackedWeight>),
    /// Entries looked up for every pair of rows and of columns.
    Plain {
        rows: Tensor,      // (side, c, side): query row, channel, key row
        columns: Tensor,   // the same of columns
        indicator: Tensor, // (1, 1, side², 2 * side): ones at the key's row and column
    },
}

impl fmt::Debug for Tables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Packed(tables) => write!(f, "{:?} packed", tables.dims()),
            Self::Plain { rows, .. } => write!(f, "{:?}", rows.dims()),
        }
    }
}

impl RelativePositions {
    /// Reads `rel_pos_h` and `rel_pos_w` (2 * side - 1, head_dim).
    pub fn new(side: usize, head_dim: usize, vb: VarBuilder) -> Result<Self> {
        let table = |name| vb.get((2 * side - 1, head_dim), name)?.contiguous();
        let (rows, columns) = (table("rel_pos_h")?, table("rel_pos_w")?);
        let tables = match on_cpu_in_f32(&rows) {
            true => packed(&rows, &columns)?,
            false => plain(&rows, &columns, side)?,
        };
        Ok(Self {
            tables,
            side,
            precision: Precision::current(),
        })
    }

    /// Attention with the biases: `q`, `k`, `v` (b, heads, side², c) -> (b, heads, side², c)
    pub fn attend(&self, q: &Tensor, k: &Tensor, v: &Tensor, scale: f64) -> Result<Tensor> {
        let (_, _, n, _) = q.dims4()?;
        let side = self.side;
        if n != side * side {
            candle::bail!("relative positions of a {side} x {side} grid got {n} tokens");
        }
        match &self.tables {
            Tables::Packed(tables) => {
                let [rows, columns] = look_up(&in_rows(q)?, tables, side)?;
                sdpa_on_grid(q, k, v, scale, [&rows, &columns], self.precision)
            }
            Tables::Plain {
                rows,
                columns,
                indicator,
            } => {
                let (q, k) = extend(q, k, scale, [rows, columns], indicator)?;
                sdpa(&q, &k, v, 1., None, self.precision)
            }
        }
    }
}

fn packed(rows: &Tensor, columns: &Tensor) -> Result<Tables> {
    let (mut weight, (n, c)) = (vec![], rows.dims2()?);
    for table in [rows, columns] {
        weight.extend(on_host::<f32>(table)?.chunks_exact(c).rev().flatten());
    }
    let weight = PackedWeight::new(&weight, 2 * n, c, Format::Single);
    Ok(Tables::Packed(Arc::new(weight)))
}

fn plain(rows: &Tensor, columns: &Tensor, side: usize) -> Result<Tables> {
    let distances: Vec<u32> = (0..side * side)
        .map(|i| (i / side + side - 1 - i % side) as u32)
        .collect();
    let distances = upload(distances, side * side, rows.device())?;
    let of_pairs = |table: &Tensor| {
        table
            .index_select(&distances, 0)?
            .reshape((side, side, ()))?
            .transpose(1, 2)?
            .contiguous()
    };
    let mut indicator = vec![0f32; side * side * 2 * side];
    for (key, ones) in indicator.chunks_exact_mut(2 * side).enumerate() {
        ones[key / side] = 1.;
        ones[side + key % side] = 1.;
    }
    let shape = (1, 1, side * side, 2 * side);
    Ok(Tables::Plain {
        rows: of_pairs(rows)?,
        columns: of_pairs(columns)?,
        indicator: upload(indicator, shape, rows.device())?.to_dtype(rows.dtype())?,
    })
}

/// The biases of each query for all rows of keys, and for all columns: (b, heads, side², side) both
fn look_up(q: &Tensor, tables: &PackedWeight, side: usize) -> Result<[Tensor; 2]> {
    let (storage, layout) = q.storage_and_layout();
    let q = Heads::new(&storage, layout)?;
    let [b, heads, n, c] = q.dims;
    let (both, width) = tables.dims();
    if c != width {
        candle::bail!("relative positions of {width} channels got {c}");
    }
    let len = elements(&[b, heads, n, side])?;
    let mut found = [(); 2].map(|()| vec![0f32; len]);
    let [rows, columns] = &mut found;
    let of_heads = rows.par_chunks_mut((n * side).max(1));
    of_heads
        .zip(columns.par_chunks_mut((n * side).max(1)))
        .enumerate()
        .try_for_each(|(i, (rows, columns))| {
            // Products with every distance; those of a query lie side by side.
            let queries = q.of(i / heads, i % heads);
            let products = matmul(queries, tables, &Epilogue::default())?;
            let tokens = products.chunks_exact(both).enumerate();
            let to = rows
                .chunks_exact_mut(side)
                .zip(columns.chunks_exact_mut(side));
            for ((token, products), (rows, columns)) in tokens.zip(to) {
                let (of_rows, of_columns) = products.split_at(both / 2);
                rows.copy_from_slice(&of_rows[side - 1 - token / side..][..side]);
                columns.copy_from_slice(&of_columns[side - 1 - token % side..][..side]);
            }
            Ok::<_, candle::Error>(())
        })?;
    let [rows, columns] = found;
    let tensor = |values| Tensor::from_vec(values, (b, heads, n, side), &Device::Cpu);
    Ok([tensor(rows)?, tensor(columns)?])
}

/// Makes the biases part of the product of query and key: the query is extended by its biases for
/// all rows and columns, the key by ones at its own.
///
/// `q` and `k` (b, heads, side², c) -> (b, heads, side², c + 2 * side), whose products are those of
/// `q * scale` and `k` plus the biases.
fn extend(
    q: &Tensor,
    k: &Tensor,
    scale: f64,
    [rows, columns]: [&Tensor; 2],
    indicator: &Tensor,
) -> Result<(Tensor, Tensor)> {
    let (b, heads, n, c) = q.dims4()?;
    let side = rows.dim(0)?;
    let grid = q.reshape((b * heads, side, side, c))?;
    // The matrix of a row or column serves all its queries, so it comes first.
    let by_row = grid.transpose(0, 1)?.contiguous()?;
    let rows = by_row
        .reshape((side, b * heads * side, c))?
        .matmul(rows)?
        .reshape((side, b * heads, side, side))?
        .transpose(0, 1)?;
    let by_column = grid.permute((2, 0, 1, 3))?.contiguous()?;
    let columns = by_column
        .reshape((side, b * heads * side, c))?
        .matmul(columns)?
        .reshape((side, b * heads, side, side))?
        .permute((1, 2, 0, 3))?;
    let biases = Tensor::cat(&[rows, columns], 3)?.reshape((b, heads, n, 2 * side))?;
    let indicator = indicator.expand((b, heads, n, 2 * side))?;
    Ok((
        Tensor::cat(&[&(q * scale)?, &biases], 3)?,
        Tensor::cat(&[k, &indicator], 3)?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::golden::assert_close;
    use candle::DType;
    use std::collections::HashMap;

    #[test]
    fn both_ways_give_the_same_attention() -> Result<()> {
        let (dev, side, c) = (&Device::Cpu, 3, 4);
        let mut tensors = HashMap::new();
        let random = |shape: &[usize], seed| {
            let values = crate::nn::kernels::random(shape.iter().product(), seed);
            Tensor::from_vec(values, shape, dev)
        };
        for (name, seed) in [("rel_pos_h", 1), ("rel_pos_w", 2)] {
            tensors.insert(name.into(), random(&[2 * side - 1, c], seed)?);
        }
        let load = |dtype| {
            let vb = VarBuilder::from_tensors(tensors.clone(), dtype, dev);
            RelativePositions::new(side, c, vb)
        };
        let q = random(&[2, 2, side * side, c], 3)?;
        let wide = q.to_dtype(DType::F64)?; // takes the path of the other devices
        let got = load(DType::F32)?.attend(&q, &q, &q, 0.5)?;
        let want = load(DType::F64)?.attend(&wide, &wide, &wide, 0.5)?;
        assert_close(&got, &want, 2e-6);
        Ok(())
    }
}
