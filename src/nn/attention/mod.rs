//! Attention: one entry point, [`sdpa`], and PyTorch's multi-head module on top of it.

pub(crate) mod few_tokens;
mod fused;
mod multi_head;
mod relative;

use candle::{D, DType, Device, Layout, Result, Storage, Tensor};
use candle_nn::ops::softmax_last_dim;

use super::kernels::attention::{Bias, Head, attend};
use super::kernels::view::Rows;
use super::precision::Precision;
use super::{cpu_slice, is_half_on_cpu, on_cpu_in_f32};
use crate::run;
use fused::Fused;

pub use multi_head::{MultiHeadAttention, ScoreBias, merge_heads};
pub use relative::RelativePositions;

/// At most this many scores exist at a time (64 MiB in f32); longer query lists go in chunks.
const MAX_SCORES: usize = 1 << 24;

/// Scaled dot-product attention: `softmax(q k^T * scale + bias) v`.
///
/// `q` (b, h, n, c), `k` (b, h, m, c), `v` (b, h, m, d), `bias` broadcastable to (b, h, n, m) with
/// negative infinity where a key must not be seen -> (b, h, n, d). The softmax runs in f32. On the
/// CPU all of it does: `precision` is that of the two products, and only the last axes must be
/// without gaps to be read as they are.
pub fn sdpa(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    scale: f64,
    bias: Option<&Tensor>,
    precision: Precision,
) -> Result<Tensor> {
    if [q, k, v].into_iter().all(on_cpu_in_f32) {
        return sdpa_on_cpu(q, k, v, scale, bias, precision);
    }
    if is_half_on_cpu(q) {
        let f32 = |xs: &Tensor| xs.to_dtype(DType::F32);
        let bias = bias.map(f32).transpose()?;
        let ys = sdpa_on_cpu(
            &f32(q)?,
            &f32(k)?,
            &f32(v)?,
            scale,
            bias.as_ref(),
            precision,
        )?;
        return ys.to_dtype(q.dtype());
    }
    let (b, h, n, _) = q.dims4()?;
    let (m, d) = (k.dim(2)?, v.dim(3)?);
    if bias.is_none()
        && let Some(fused) = Fused::of(q, d)?
    {
        run::check()?;
        return fused.attend(q, k, v, scale);
    }
    // Metal's product of matrices does not check the strides of batches.
    let k_t = k.contiguous()?.t()?;
    let v = v.contiguous()?;
    let chunk = (MAX_SCORES / (b * h * m).max(1)).clamp(1, n.max(1));
    let attend = |start: usize, len: usize| -> Result<Tensor> {
        run::check()?;
        // Scaled before the product: in f16 unscaled scores may overflow, and q is smaller.
        let q = (q.narrow(2, start, len)?.contiguous()? * scale)?;
        let scores = q.matmul(&k_t)?;
        let scores = match bias {
            None => scores,
            Some(bias) if bias.dim(2)? == 1 => scores.broadcast_add(bias)?,
            Some(bias) => scores.broadcast_add(&bias.narrow(2, start, len)?)?,
        };
        super::in_f32(&scores, softmax_last_dim)?.matmul(&v)
    };
    if chunk >= n {
        return attend(0, n);
    }
    let chunks = (0..n)
        .step_by(chunk)
        .map(|start| attend(start, chunk.min(n - start)))
        .collect::<Result<Vec<_>>>()?;
    Tensor::cat(&chunks, 2)
}

/// [`sdpa`] with a bias that is the sum of one for the key's row and one for its column: keys form
/// a grid.
///
/// `rows` (b, h, n, grid rows), `columns` (b, h, n, grid columns) -> (b, h, n, d)
fn sdpa_on_grid(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    scale: f64,
    [rows, columns]: [&Tensor; 2],
    precision: Precision,
) -> Result<Tensor> {
    if ![q, k, v, rows, columns].into_iter().all(on_cpu_in_f32) {
        let bias = grid_sums(rows, columns)?;
        return sdpa(q, k, v, scale, Some(&bias), precision);
    }
    let (rows, columns) = (rows.contiguous()?, columns.contiguous()?);
    let ((rs, rl), (cs, cl)) = (rows.storage_and_layout(), columns.storage_and_layout());
    let (rows, columns) = (Heads::new(&rs, rl)?, Heads::new(&cs, cl)?);
    let ([b, h, n, grid_rows], [.., grid_columns]) = (rows.dims, columns.dims);
    let m = k.dim(2)?;
    if columns.dims[..3] != [b, h, n] || grid_rows * grid_columns != m || q.dims()[..3] != [b, h, n]
    {
        candle::bail!(
            "biases of {:?} and {:?} for {:?} queries and {m} keys",
            rows.dims,
            columns.dims,
            q.dims()
        );
    }
    attend_on_cpu(q, k, v, scale, precision, |b, h| Bias::Grid {
        rows: rows.of(b, h),
        columns: columns.of(b, h),
    })
}

/// (b, h, n, grid rows) and (b, h, n, grid columns) -> (b, h, n, grid rows * grid columns)
pub(crate) fn grid_sums(rows: &Tensor, columns: &Tensor) -> Result<Tensor> {
    let rows = rows.unsqueeze(D::Minus1)?;
    rows.broadcast_add(&columns.unsqueeze(3)?)?.flatten_from(3)
}

fn sdpa_on_cpu(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    scale: f64,
    bias: Option<&Tensor>,
    precision: Precision,
) -> Result<Tensor> {
    let Some(bias) = bias else {
        return attend_on_cpu(q, k, v, scale, precision, |_, _| Bias::None);
    };
    let (b, h, n, _) = q.dims4()?;
    let m = k.dim(2)?;
    let fits = |(have, want): (&usize, usize)| *have == 1 || *have == want;
    if bias.rank() != 4 || bias.dim(3)? != m || !bias.dims().iter().zip([b, h, n]).all(fits) {
        candle::bail!(
            "a bias of {:?} for scores of {:?}",
            bias.dims(),
            (b, h, n, m)
        );
    }
    let bias = bias.to_dtype(DType::F32)?;
    let rows = bias.dim(2)?;
    let bias = bias.broadcast_as((b, h, rows, m))?;
    let bias = in_rows(&bias)?;
    let (storage, layout) = bias.storage_and_layout();
    let bias = Heads::new(&storage, layout)?;
    attend_on_cpu(q, k, v, scale, precision, |b, h| match rows {
        1 => Bias::Keys(bias.of(b, h).row(0)),
        _ => Bias::Each(bias.of(b, h)),
    })
}

fn attend_on_cpu<'a>(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    scale: f64,
    precision: Precision,
    bias: impl Fn(usize, usize) -> Bias<'a> + Sync,
) -> Result<Tensor> {
    let (b, h, n, c) = q.dims4()?;
    let (m, d) = (k.dim(2)?, v.dim(3)?);
    if k.dims() != [b, h, m, c] || v.dims() != [b, h, m, d] {
        candle::bail!(
            "attention over {:?}, {:?}, {:?}",
            q.dims(),
            k.dims(),
            v.dims()
        );
    }
    let (q, k, v) = (in_rows(q)?, in_rows(k)?, in_rows(v)?);
    let ((qs, ql), (ks, kl), (vs, vl)) = (
        q.storage_and_layout(),
        k.storage_and_layout(),
        v.storage_and_layout(),
    );
    let (q, k, v) = (
        Heads::new(&qs, ql)?,
        Heads::new(&ks, kl)?,
        Heads::new(&vs, vl)?,
    );
    let head = |b, h| Head {
        q: q.of(b, h),
        k: k.of(b, h),
        v: v.of(b, h),
        bias: bias(b, h),
    };
    let out = attend((b, h), head, scale as f32, precision.format())?;
    Tensor::from_vec(out, (b, n, h, d), &Device::Cpu)?.transpose(1, 2)
}

/// The tensor, copied if its last axis has gaps.
pub(super) fn in_rows(xs: &Tensor) -> Result<Tensor> {
    match xs.layout().stride().last() {
        Some(1) => Ok(xs.clone()),
        _ => xs.contiguous(),
    }
}

/// Queries, keys and values of a projection that made them together: (3, ...) -> three of (...), all views.
/// `Tensor::get` copies what lies apart, on one thread.
pub fn split_qkv(qkv: &Tensor) -> Result<[Tensor; 3]> {
    let part = |i| qkv.narrow(0, i, 1)?.squeeze(0);
    Ok([part(0)?, part(1)?, part(2)?])
}

/// A tensor (b, h, n, c) on the CPU in f32, whose last axis has no gaps.
pub(super) struct Heads<'a> {
    xs: &'a [f32],
    pub dims: [usize; 4],
    strides: [usize; 3],
}

impl<'a> Heads<'a> {
    pub fn new(storage: &'a Storage, layout: &Layout) -> Result<Self> {
        let (b, h, n, c) = layout.shape().dims4()?;
        match layout.stride() {
            // A single value has no gaps, whatever its stride.
            [batch, head, row, step] if *step == 1 || c == 1 => Ok(Self {
                xs: cpu_slice(storage, layout)?,
                dims: [b, h, n, c],
                strides: [*batch, *head, *row],
            }),
            strides => candle::bail!("attention over strides of {strides:?}"),
        }
    }

    /// The rows (n, c) of a head.
    pub fn of(&self, batch: usize, head: usize) -> Rows<'a> {
        let start = batch * self.strides[0] + head * self.strides[1];
        let [.., n, c] = self.dims;
        Rows::new(&self.xs[start.min(self.xs.len())..], self.strides[2], n, c)
    }
}

/// Turns a padding mask into an additive bias for [`sdpa`].
///
/// `is_padding` (b, m), u8 with 1 for padding -> (b, 1, 1, m) of 0 and negative infinity.
pub fn padding_bias(is_padding: &Tensor, dtype: DType) -> Result<Tensor> {
    let (b, m) = is_padding.dims2()?;
    let zeros = Tensor::zeros((b, m), DType::F32, is_padding.device())?;
    let masked = Tensor::full(f32::NEG_INFINITY, (b, m), is_padding.device())?;
    is_padding
        .where_cond(&masked, &zeros)?
        .to_dtype(dtype)?
        .reshape((b, 1, 1, m))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::golden::assert_close;
    use crate::nn::kernels::level::takes_candles_way;

    #[test]
    fn chunked_attention_equals_attention_in_one_piece() -> Result<()> {
        let dev = &Device::Cpu; // in f64 it takes the path of the other devices
        let n = MAX_SCORES / 4096 + 3; // one chunk more than fits
        let q = Tensor::randn(0f64, 1., (1, 1, n, 4), dev)?;
        let k = Tensor::randn(0f64, 1., (1, 1, 4096, 4), dev)?;
        let bias = Tensor::randn(0f64, 1., (1, 1, n, 4096), dev)?;
        let got = sdpa(&q, &k, &k, 0.5, Some(&bias), Precision::High)?;
        let tail = |t: &Tensor| t.narrow(2, n - 5, 5);
        let want = sdpa(
            &tail(&q)?,
            &k,
            &k,
            0.5,
            Some(&tail(&bias)?),
            Precision::High,
        )?;
        let diff = (tail(&got)? - want)?.abs()?.max_all()?.to_scalar::<f64>()?;
        assert!(diff < 1e-6, "{diff}");
        Ok(())
    }

    #[test]
    fn half_precision_on_the_cpu_rounds_inputs_and_result_only() -> Result<()> {
        if takes_candles_way() {
            return Ok(()); // as on a GPU, whose products sum in f32
        }
        let dev = &Device::Cpu;
        for dtype in [DType::F16, DType::BF16] {
            let random = |n| Tensor::randn(0f32, 1., (1, 1, n, 32), dev)?.to_dtype(dtype);
            let (q, k, v) = (random(1)?, random(5184)?, random(5184)?);
            let got = sdpa(&q, &k, &v, 0.2, None, Precision::High)?;
            let [q, k, v] = [&q, &k, &v].map(|xs| xs.to_dtype(DType::F32).unwrap());
            let want = sdpa(&q, &k, &v, 0.2, None, Precision::High)?.to_dtype(dtype)?;
            let [got, want] = [got, want].map(|xs| xs.flatten_all().unwrap());
            assert_eq!(
                got.to_dtype(DType::F32)?.to_vec1::<f32>()?,
                want.to_dtype(DType::F32)?.to_vec1::<f32>()?
            );
        }
        Ok(())
    }

    #[test]
    fn a_bias_on_a_grid_is_the_sum_of_its_axes() -> Result<()> {
        let random = |dims: [usize; 4], seed| {
            let values = crate::nn::kernels::random(dims.iter().product(), seed);
            Tensor::from_vec(values, &dims, &Device::Cpu)
        };
        let (q, k) = (random([2, 3, 7, 4], 1)?, random([2, 3, 15, 4], 2)?);
        // A query of zeros in front makes views of them, as in the decoder.
        let rows = random([2, 3, 6, 5], 3)?.pad_with_zeros(2, 1, 0)?;
        let columns = random([2, 3, 6, 3], 4)?.pad_with_zeros(2, 1, 0)?;
        let got = sdpa_on_grid(&q, &k, &k, 0.5, [&rows, &columns], Precision::High)?;
        let bias = Some(grid_sums(&rows, &columns)?);
        let want = sdpa(&q, &k, &k, 0.5, bias.as_ref(), Precision::High)?;
        assert_close(&got, &want, 1e-6);
        assert!(sdpa_on_grid(&q, &k, &k, 0.5, [&columns, &columns], Precision::High).is_err());
        Ok(())
    }

    #[test]
    fn a_padded_key_has_no_influence() -> Result<()> {
        let dev = &Device::Cpu;
        let random = |tokens: usize, seed| {
            let values = crate::nn::kernels::random(2 * tokens * 4, seed);
            Tensor::from_vec(values, (1, 2, tokens, 4), dev)
        };
        let (q, k) = (random(3, 1)?, random(5, 2)?);
        let mask = Tensor::new(&[[0u8, 0, 0, 0, 1]], dev)?;
        let got = sdpa(
            &q,
            &k,
            &k,
            1.,
            Some(&padding_bias(&mask, DType::F32)?),
            Precision::High,
        )?;
        let k = k.narrow(2, 0, 4)?.contiguous()?;
        let want = sdpa(&q, &k, &k, 1., None, Precision::High)?;
        assert_close(&got, &want, 1e-6);
        Ok(())
    }
}
