//! A tensor in a file: a strided view of bytes, copied once into what a module asks for.

use super::source::Source;
use ::safetensors::Dtype;
use candle::{DType, Device, Tensor, WithDType, bail};
use half::{bf16, f16};
use rayon::prelude::*;
use std::any::Any;
use std::ops::Range;
use std::sync::Arc;

/// Above this many elements a copy is shared among threads.
const PARALLEL: usize = 1 << 20;
const CHUNK: usize = 1 << 18;
/// Above this many bytes the file's pages are handed back after the copy.
const RELEASE: usize = 1 << 16;
/// Elements that are written at a time.
const PIECE: usize = 1 << 20;
/// More axes than any weight has; keeps corrupt files from deep recursion.
const MAX_RANK: usize = 16;

/// Dtypes that can be read, and what candle calls them.
const DTYPES: [(Dtype, DType); 10] = [
    (Dtype::F32, DType::F32),
    (Dtype::F16, DType::F16),
    (Dtype::BF16, DType::BF16),
    (Dtype::F64, DType::F64),
    (Dtype::I64, DType::I64),
    (Dtype::I32, DType::I32),
    (Dtype::I16, DType::I16),
    (Dtype::U32, DType::U32),
    (Dtype::U8, DType::U8),
    (Dtype::BOOL, DType::U8),
];

/// A tensor as a file stores it.
#[derive(Debug, Clone)]
pub(super) struct StoredTensor {
    pub(super) name: String,
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    /// In elements.
    strides: Vec<usize>,
    bytes: Bytes,
}

#[derive(Debug, Clone)]
enum Bytes {
    /// A tensor known by its shape only.
    Zeros,
    /// `range` holds every element; its start is the first one.
    In {
        source: Arc<Source>,
        range: Range<usize>,
    },
}

impl StoredTensor {
    /// A tensor of zeros that takes no memory.
    pub(super) fn zeros(name: String, dtype: DType, shape: Vec<usize>) -> Result<Self, String> {
        let strides = contiguous(&name, &shape)?;
        let same = DTYPES.iter().find(|(_, candle)| *candle == dtype);
        let (dtype, _) = *same.ok_or_else(|| format!("`{name}` cannot be {dtype:?}"))?;
        Ok(Self {
            name,
            dtype,
            shape,
            strides,
            bytes: Bytes::Zeros,
        })
    }

    /// A view of `available` bytes of `source`.
    ///
    /// `layout` is the strides and the offset of the first element, counted in elements; `None`
    /// means contiguous from the start.
    pub(super) fn view(
        name: String,
        dtype: Dtype,
        shape: Vec<usize>,
        layout: Option<(Vec<usize>, usize)>,
        source: &Arc<Source>,
        available: Range<usize>,
    ) -> Result<Self, String> {
        let packed = contiguous(&name, &shape)?;
        let (strides, offset) = layout.unwrap_or((packed, 0));
        if strides.len() != shape.len() {
            return Err(format!("`{name}` has a stride for some axes only"));
        }
        let elements: usize = shape.iter().product();
        // Only an axis of stride 0 can make a tensor larger than its storage.
        if elements > available.len().max(1 << 24) {
            let shown = available.len();
            return Err(format!(
                "`{name}` claims {elements} elements in {shown} bytes"
            ));
        }
        let size = dtype.bitsize() / 8;
        // One past the last element, counted in elements.
        let end = match elements {
            0 => Some(offset),
            _ => shape
                .iter()
                .zip(&strides)
                .try_fold(offset.checked_add(1), |end, (n, stride)| {
                    Some(end?.checked_add((n - 1).checked_mul(*stride)?))
                })
                .flatten(),
        };
        let end = end.and_then(|end| available.start.checked_add(end.checked_mul(size)?));
        match end {
            Some(end) if end <= available.end => Ok(Self {
                name,
                dtype,
                shape,
                strides,
                bytes: Bytes::In {
                    source: source.clone(),
                    range: available.start + offset * size..end,
                },
            }),
            _ => Err(format!("`{name}` reaches beyond its storage")),
        }
    }

    /// The number of elements.
    pub(super) fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Part `i` of `n` along the first axis, or `None` if that does not divide.
    pub(super) fn rows(&self, i: usize, n: usize) -> Option<Self> {
        let rows = *self.shape.first()?;
        if rows % n != 0 || i >= n {
            return None;
        }
        self.slice(i * (rows / n)..(i + 1) * (rows / n))
    }

    /// Some rows of the first axis, or `None` if it is shorter.
    fn slice(&self, rows: Range<usize>) -> Option<Self> {
        if rows.end > *self.shape.first()? {
            return None;
        }
        let mut part = self.clone();
        part.shape[0] = rows.len();
        if let Bytes::In { range, .. } = &mut part.bytes {
            let size = self.dtype.bitsize() / 8;
            let skipped = rows.start * self.strides[0] * size;
            range.start = (range.start + skipped).min(range.end);
            let last: usize = part
                .shape
                .iter()
                .zip(&part.strides)
                .map(|(n, s)| n.saturating_sub(1) * s)
                .sum();
            range.end = range.end.min(range.start + (last + 1) * size);
        }
        Some(part)
    }

    /// Hands the elements in row-major order to `write`, as little-endian `dtype` and a piece at a
    /// time, so that a large tensor takes little memory.
    ///
    /// Values that f16 cannot hold are an error, and so are dtypes that candle does not have.
    pub(super) fn pieces(
        &self,
        dtype: Dtype,
        write: &mut dyn FnMut(&[u8]) -> std::io::Result<()>,
    ) -> candle::Result<()> {
        let row: usize = self.shape.iter().skip(1).product();
        let (Some(&rows), true) = (self.shape.first(), row > 0) else {
            return self.piece(dtype, write);
        };
        let step = (PIECE / row).max(1);
        for start in (0..rows).step_by(step) {
            if let Some(piece) = self.slice(start..rows.min(start + step)) {
                piece.piece(dtype, write)?;
            }
        }
        Ok(())
    }

    fn piece(
        &self,
        dtype: Dtype,
        write: &mut dyn FnMut(&[u8]) -> std::io::Result<()>,
    ) -> candle::Result<()> {
        let bytes = match dtype {
            Dtype::F32 => self.to_le::<f32>()?,
            Dtype::F16 => {
                let bytes = self.to_le::<f16>()?;
                self.check_range(&bytes)?;
                bytes
            }
            Dtype::BF16 => self.to_le::<bf16>()?,
            Dtype::F64 => self.to_le::<f64>()?,
            Dtype::I64 => self.to_le::<i64>()?,
            Dtype::I32 => self.to_le::<i32>()?,
            Dtype::I16 => self.to_le::<i16>()?,
            Dtype::U32 => self.to_le::<u32>()?,
            Dtype::U8 | Dtype::BOOL => self.to_le::<u8>()?,
            other => bail!("`{}` cannot be written as {other:?}", self.name),
        };
        write(&bytes).map_err(candle::Error::from)
    }

    fn to_le<T: Element>(&self) -> candle::Result<Vec<u8>> {
        let mut elements = vec![T::zero(); self.elements()];
        self.copy_to(&mut elements)?;
        let mut bytes = Vec::with_capacity(elements.len() * size_of::<T>());
        elements.iter().for_each(|x| x.put_le(&mut bytes));
        Ok(bytes)
    }

    /// Fails if a finite value became infinite in these bytes of f16.
    fn check_range(&self, half: &[u8]) -> candle::Result<()> {
        let half = half
            .chunks_exact(2)
            .map(|b| f16::from_le_bytes([b[0], b[1]]));
        let is_infinite: Vec<bool> = half.map(f16::is_infinite).collect();
        if !is_infinite.contains(&true) {
            return Ok(());
        }
        let mut exact = vec![0f64; self.elements()];
        self.copy_to(&mut exact)?;
        let mut pairs = exact.iter().zip(is_infinite);
        match pairs.find(|(x, is_infinite)| *is_infinite && x.is_finite()) {
            Some((x, _)) => bail!(
                "`{}` holds {x}, and f16 ends at {}; use bf16",
                self.name,
                f16::MAX
            ),
            None => Ok(()),
        }
    }

    /// The same tensor with its two axes exchanged, or `None` if it has not two.
    pub(super) fn transposed(&self) -> Option<Self> {
        let mut view = self.clone();
        view.shape.reverse();
        view.strides.reverse();
        (self.shape.len() == 2).then_some(view)
    }

    /// The dtype candle has for what is stored.
    pub(super) fn candle_dtype(&self) -> Option<DType> {
        let same = DTYPES.iter().find(|(stored, _)| *stored == self.dtype);
        same.map(|(_, dtype)| *dtype)
    }

    /// Writes the elements in row-major order to `out`, which has as many.
    fn copy_to<T: Element>(&self, out: &mut [T]) -> candle::Result<()> {
        match self.dtype {
            Dtype::F32 => self.copy_as::<f32, T>(out),
            Dtype::F16 => self.copy_as::<f16, T>(out),
            Dtype::BF16 => self.copy_as::<bf16, T>(out),
            Dtype::F64 => self.copy_as::<f64, T>(out),
            Dtype::I64 => self.copy_as::<i64, T>(out),
            Dtype::I32 => self.copy_as::<i32, T>(out),
            Dtype::I16 => self.copy_as::<i16, T>(out),
            Dtype::U32 => self.copy_as::<u32, T>(out),
            Dtype::U8 | Dtype::BOOL => self.copy_as::<u8, T>(out),
            other => bail!("`{}` is stored as {other:?}, which is not read", self.name),
        }
        Ok(())
    }

    fn copy_as<S: Element, T: Element>(&self, out: &mut [T]) {
        let Bytes::In { source, range } = &self.bytes else {
            return; // `out` comes as zeros
        };
        source.prefetch(range);
        let bytes = &source.bytes()[range.clone()];
        let size = size_of::<S>();
        let copy = |(bytes, out): (&[u8], &mut [T])| {
            for (out, bytes) in out.iter_mut().zip(bytes.chunks_exact(size)) {
                *out = T::convert(S::from_le(bytes));
            }
        };
        if !self.is_contiguous() {
            let mut out = out.iter_mut();
            walk(&self.shape, &self.strides, 0, &mut |at| {
                if let Some(out) = out.next() {
                    *out = T::convert(S::from_le(&bytes[at * size..][..size]));
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

    fn is_contiguous(&self) -> bool {
        let mut packed = 1;
        self.shape
            .iter()
            .zip(&self.strides)
            .rev()
            .all(|(&n, &stride)| {
                let fits = n == 1 || stride == packed;
                packed *= n;
                fits
            })
    }
}

/// Joins `parts` along the first axis into one tensor of `shape`; `skip` elements before the
/// first part stay zero.
pub(super) fn join(
    parts: &[&StoredTensor],
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
    parts: &[&StoredTensor],
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

/// An element type that can be read from little-endian bytes.
trait Element: WithDType {
    fn from_le(bytes: &[u8]) -> Self;

    fn put_le(self, bytes: &mut Vec<u8>);

    fn to_f32(self) -> f32;

    /// Rounds once, to nearest; the same type comes back bit for bit.
    fn convert<S: Element>(x: S) -> Self;
}

macro_rules! element {
    ($($ty:ty: $to_f32:expr,)*) => {$(
        impl Element for $ty {
            #[inline(always)]
            fn from_le(bytes: &[u8]) -> Self {
                let mut le = [0; size_of::<Self>()];
                le.copy_from_slice(bytes);
                Self::from_le_bytes(le)
            }

            #[inline(always)]
            fn put_le(self, bytes: &mut Vec<u8>) {
                bytes.extend(self.to_le_bytes());
            }

            #[inline(always)]
            fn to_f32(self) -> f32 {
                $to_f32(self)
            }

            #[inline(always)]
            fn convert<S: Element>(x: S) -> Self {
                // Which of these holds is known when this is compiled.
                if let Some(same) = (&x as &dyn Any).downcast_ref() {
                    *same
                } else if let Some(f32) = (&x.to_f32() as &dyn Any).downcast_ref() {
                    *f32
                } else {
                    Self::from_f64(x.to_f64())
                }
            }
        }
    )*};
}
element!(
    f32: |x| x,
    f16: widen,
    bf16: bf16::to_f32,
    f64: |x| x as f32,
    i64: |x| x as f32,
    i32: |x| x as f32,
    i16: f32::from,
    u32: |x| x as f32,
    u8: f32::from,
);

/// `f16::to_f32` asks the CPU what it can do for every element; this is a loop the compiler
/// vectorises.
#[inline(always)]
fn widen(x: f16) -> f32 {
    let bits = u32::from(x.to_bits());
    let magnitude = (bits & 0x7fff) << 13;
    let scaled = f32::from_bits(magnitude) * f32::from_bits((127 + 112) << 23);
    let magnitude = match magnitude >= 0x7c00 << 13 {
        true => magnitude | 0x7f80_0000, // infinity or NaN
        false => scaled.to_bits(),
    };
    f32::from_bits(magnitude | (bits & 0x8000) << 16)
}

/// Row-major strides; fails on sizes that no file can hold.
fn contiguous(name: &str, shape: &[usize]) -> Result<Vec<usize>, String> {
    if shape.len() > MAX_RANK {
        return Err(format!("`{name}` has {} axes", shape.len()));
    }
    let mut strides = vec![0; shape.len()];
    let mut packed = 1usize;
    for (stride, &n) in strides.iter_mut().zip(shape).rev() {
        *stride = packed;
        packed = packed
            .checked_mul(n.max(1))
            .filter(|&elements| elements <= isize::MAX as usize / 16)
            .ok_or_else(|| format!("`{name}` has the impossible shape {shape:?}"))?;
    }
    Ok(strides)
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
    use super::*;

    fn source(bytes: impl AsRef<[u8]> + Send + Sync + 'static) -> Arc<Source> {
        Arc::new(Source::Memory(Box::new(bytes)))
    }

    /// 0, 1, 2, … as f32.
    fn counting(n: usize) -> Arc<Source> {
        source(
            (0..n)
                .flat_map(|i| (i as f32).to_le_bytes())
                .collect::<Vec<_>>(),
        )
    }

    fn view(
        shape: &[usize],
        layout: Option<(&[usize], usize)>,
        n: usize,
    ) -> Result<StoredTensor, String> {
        let layout = layout.map(|(strides, offset)| (strides.to_vec(), offset));
        let shape = shape.to_vec();
        StoredTensor::view(
            "x".into(),
            Dtype::F32,
            shape,
            layout,
            &counting(n),
            0..4 * n,
        )
    }

    fn values(t: &StoredTensor, dtype: DType) -> Vec<f32> {
        let t = join(&[t], 0, &t.shape, dtype, &Device::Cpu).unwrap();
        assert_eq!(t.dtype(), dtype);
        let t = t.to_dtype(DType::F32).unwrap().flatten_all().unwrap();
        t.to_vec1().unwrap()
    }

    #[test]
    fn strided_views_come_out_in_row_major_order() {
        let t = view(&[2, 3], Some((&[1, 2], 1)), 7).unwrap();
        assert_eq!(values(&t, DType::F32), [1., 3., 5., 2., 4., 6.]);
        let back = t.transposed().unwrap();
        assert_eq!(values(&back, DType::F32), [1., 2., 3., 4., 5., 6.]);
        let expanded = view(&[3], Some((&[0], 2)), 3).unwrap();
        assert_eq!(values(&expanded, DType::F32), [2., 2., 2.]);
        let scalar = view(&[], Some((&[], 4)), 5).unwrap();
        assert_eq!(values(&scalar, DType::F32), [4.]);
        let none = view(&[0, 3], None, 0).unwrap();
        assert!(values(&none, DType::F32).is_empty());
    }

    #[test]
    fn rows_are_cut_along_the_first_axis() {
        let t = view(&[4, 2], None, 8).unwrap();
        assert_eq!(values(&t.rows(1, 4).unwrap(), DType::F32), [2., 3.]);
        assert_eq!(values(&t.rows(1, 2).unwrap(), DType::F32), [4., 5., 6., 7.]);
        assert!(t.rows(0, 3).is_none());
    }

    #[test]
    fn pieces_joined_are_the_whole_tensor() {
        let collect = |t: &StoredTensor, dtype| {
            let mut bytes = vec![];
            let mut write = |piece: &[u8]| {
                bytes.extend(piece);
                Ok(())
            };
            t.pieces(dtype, &mut write).map(|()| bytes)
        };
        let f32s = |bytes: Vec<u8>| -> Vec<f32> {
            let chunks = bytes.chunks_exact(4);
            chunks
                .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                .collect()
        };
        // more than two pieces, and a transposed view of them
        let (rows, row) = (5, PIECE / 2);
        let n = rows * row;
        let t = view(&[rows, row], None, n).unwrap();
        let got = f32s(collect(&t, Dtype::F32).unwrap());
        assert!(got.len() == n && got.iter().enumerate().all(|(i, x)| *x == i as f32));
        let t = view(&[2, 3], Some((&[1, 2], 1)), 7).unwrap();
        assert_eq!(
            f32s(collect(&t, Dtype::F32).unwrap()),
            [1., 3., 5., 2., 4., 6.]
        );
        let scalar = view(&[], Some((&[], 4)), 5).unwrap();
        assert_eq!(f32s(collect(&scalar, Dtype::F32).unwrap()), [4.]);
        assert!(
            collect(&view(&[0, 3], None, 0).unwrap(), Dtype::F32)
                .unwrap()
                .is_empty()
        );

        assert!(collect(&view(&[65_505], None, 65_505).unwrap(), Dtype::F16).is_ok());
        let large = view(&[70_000], None, 70_000).unwrap();
        let error = collect(&large, Dtype::F16).unwrap_err().to_string();
        assert!(
            error.contains("`x` holds 65520") && error.contains("65504"),
            "{error}"
        );
        assert!(collect(&large, Dtype::BF16).is_ok());
    }

    #[test]
    fn joining_leaves_what_is_skipped_at_zero() {
        let t = view(&[1, 2], None, 2).unwrap();
        let all = join(&[&t, &t], 2, &[1, 3, 2], DType::F16, &Device::Cpu).unwrap();
        let all = all.to_dtype(DType::F32).unwrap().flatten_all().unwrap();
        assert_eq!(all.to_vec1::<f32>().unwrap(), [0., 0., 0., 1., 0., 1.]);
    }

    #[test]
    fn views_beyond_their_bytes_are_refused() {
        for (shape, layout) in [
            (&[3][..], None),
            (&[2, 2], None),
            (&[2], Some((&[2][..], 0))),
            (&[1], Some((&[1], 2))),
            (&[1], Some((&[1], usize::MAX))),
            (&[2], Some((&[usize::MAX], 0))),
            (&[usize::MAX, usize::MAX], None),
            (&[1 << 40], Some((&[0], 0))),
            (&[1; 17], None),
            (&[2], Some((&[1, 1], 0))),
        ] {
            assert!(view(shape, layout, 2).is_err(), "{shape:?} {layout:?}");
        }
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

    /// All 65536 f16 values, so that no shortcut loses subnormals, infinities or NaN.
    #[test]
    fn f16_widens_exactly() {
        let all: Vec<u16> = (0..=u16::MAX).collect();
        let bytes = source(all.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>());
        let shape = vec![all.len()];
        let t = StoredTensor::view("x".into(), Dtype::F16, shape, None, &bytes, 0..1 << 17);
        for (bits, got) in all.iter().zip(values(&t.unwrap(), DType::F32)) {
            let want = f16::from_bits(*bits).to_f32();
            assert!(got == want || (got.is_nan() && want.is_nan()), "{bits:#x}");
        }
    }
}
