//! The elements of stored tensors, in the dtype and on the device that a module asks for.

use super::element::{self, Element};
use super::{Bytes, StoredTensor};
use ::safetensors::Dtype;
use candle::{DType, Device, Tensor, bail};
use half::{bf16, f16};
use rayon::prelude::*;

/// Above this many elements a copy is shared among threads.
const PARALLEL: usize = 1 << 20;
const CHUNK: usize = 1 << 18;
/// Above this many bytes the file's pages are handed back after the copy.
const RELEASE: usize = 1 << 16;

/// Joins `parts` along the first axis into one tensor of `shape`; `skip` elements before the
/// first part stay zero.
pub(in crate::weights) fn join(
    parts: &[StoredTensor],
    skip: usize,
    shape: &[usize],
    dtype: DType,
    device: &Device,
) -> candle::Result<Tensor> {
    if parts.iter().all(|part| matches!(part.bytes, Bytes::Zeros)) {
        return Tensor::zeros((), dtype, device)?.broadcast_as(shape);
    }
    match dtype {
        DType::F32 => join_as::<f32>(parts, skip, shape, device),
        DType::F16 => join_as::<f16>(parts, skip, shape, device),
        DType::BF16 => join_as::<bf16>(parts, skip, shape, device),
        DType::F64 => join_as::<f64>(parts, skip, shape, device),
        DType::I64 => join_as::<i64>(parts, skip, shape, device),
        DType::I32 => join_as::<i32>(parts, skip, shape, device),
        DType::I16 => join_as::<i16>(parts, skip, shape, device),
        DType::U32 => join_as::<u32>(parts, skip, shape, device),
        DType::U8 => join_as::<u8>(parts, skip, shape, device),
        other => bail!("weights cannot be loaded as {other:?}; use f32, f16 or bf16"),
    }
}

fn join_as<T: Element>(
    parts: &[StoredTensor],
    skip: usize,
    shape: &[usize],
    device: &Device,
) -> candle::Result<Tensor> {
    let mut all = vec![T::zero(); shape.iter().product()];
    let mut rest = &mut all[skip..];
    for part in parts {
        let (out, after) = rest.split_at_mut(part.elements());
        part.copy_to(out)?;
        rest = after;
    }
    Tensor::from_vec(all, shape, device)
}

impl StoredTensor {
    /// Writes the elements in row-major order to `out`, which has as many.
    pub(super) fn copy_to<T: Element>(&self, out: &mut [T]) -> candle::Result<()> {
        if out.is_empty() {
            return Ok(());
        }
        match self.dtype {
            Dtype::F32 => self.copy_as::<f32, T>(out),
            Dtype::F16 => self.copy_as::<f16, T>(out),
            Dtype::BF16 => self.copy_as::<bf16, T>(out),
            Dtype::F64 => self.copy_as::<f64, T>(out),
            Dtype::F8_E4M3 => self.copy_with(out, 1, |byte| element::from_e4m3(byte[0])),
            Dtype::F8_E5M2 => self.copy_with(out, 1, |byte| element::from_e5m2(byte[0])),
            Dtype::I64 => self.copy_as::<i64, T>(out),
            Dtype::I32 => self.copy_as::<i32, T>(out),
            Dtype::I16 => self.copy_as::<i16, T>(out),
            Dtype::U32 => self.copy_as::<u32, T>(out),
            Dtype::U8 | Dtype::BOOL => self.copy_as::<u8, T>(out),
            Dtype::I8 if T::DTYPE == DType::U8 => self.copy_with(out, 1, |byte| byte[0]),
            Dtype::I8 => bail!(
                "`{}` is stored as I8, which this layer does not read",
                self.name
            ),
            other => bail!("`{}` is stored as {other:?}, which is not read", self.name),
        }
        Ok(())
    }

    fn copy_as<S: Element, T: Element>(&self, out: &mut [T]) {
        self.copy_with(out, size_of::<S>(), S::from_le);
    }

    /// Copies elements of `size` bytes, which `read` understands.
    fn copy_with<S: Element, T: Element>(
        &self,
        out: &mut [T],
        size: usize,
        read: impl Fn(&[u8]) -> S + Sync,
    ) {
        let Bytes::In { source, range } = &self.bytes else {
            return; // `out` comes as zeros
        };
        source.prefetch(range);
        let bytes = &source.bytes()[range.clone()];
        let copy = |(bytes, out): (&[u8], &mut [T])| {
            for (out, bytes) in out.iter_mut().zip(bytes.chunks_exact(size)) {
                *out = T::convert(read(bytes));
            }
        };
        if !self.is_contiguous() {
            let mut out = out.iter_mut();
            walk(&self.shape, &self.strides, 0, &mut |at| {
                if let Some(out) = out.next() {
                    *out = T::convert(read(&bytes[at * size..][..size]));
                }
            });
        } else if out.len() < PARALLEL {
            copy((bytes, out));
        } else {
            let bytes = bytes.par_chunks(CHUNK * size);
            bytes.zip(out.par_chunks_mut(CHUNK)).for_each(copy);
        }
        if range.len() >= RELEASE {
            source.release(range);
        }
    }
}

/// Calls `f` with the offset of every element, in row-major order.
fn walk(shape: &[usize], strides: &[usize], at: usize, f: &mut impl FnMut(usize)) {
    match (shape, strides) {
        ([n, shape @ ..], [stride, strides @ ..]) => {
            for i in 0..*n {
                walk(shape, strides, at + i * stride, f);
            }
        }
        _ => f(at),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{values, view};
    use super::*;

    #[test]
    fn joining_leaves_what_is_skipped_at_zero() {
        let t = view(&[1, 2], None, 2).unwrap();
        let all = join(&[t.clone(), t], 2, &[1, 3, 2], DType::F16, &Device::Cpu).unwrap();
        let all = all.to_dtype(DType::F32).unwrap().flatten_all().unwrap();
        assert_eq!(all.to_vec1::<f32>().unwrap(), [0., 0., 0., 1., 0., 1.]);
    }

    #[test]
    fn every_dtype_pair_keeps_small_integers() {
        let t = view(&[5], None, 5).unwrap();
        use DType::*;
        for dtype in [F32, F16, BF16, F64, I64, I32, U32, U8] {
            assert_eq!(values(&t, dtype), [0., 1., 2., 3., 4.], "{dtype:?}");
        }
    }

    #[test]
    fn a_copy_shared_among_threads_equals_a_serial_one() {
        let n = PARALLEL + CHUNK / 2 + 3;
        let t = view(&[n], None, n).unwrap();
        let got = values(&t, DType::F32);
        assert!(got.iter().enumerate().all(|(i, &x)| x == i as f32));
    }
}
