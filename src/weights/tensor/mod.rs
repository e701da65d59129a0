//! A tensor in a file: a strided view of bytes, copied once into what a module asks for.

mod element;
mod pieces;
mod read;

use super::source::Source;
use ::safetensors::Dtype;
use candle::DType;
use std::ops::Range;
use std::sync::Arc;

pub(super) use read::join;

/// More axes than any weight has; keeps corrupt files from deep recursion.
pub(super) const MAX_RANK: usize = 16;
/// Bytes of a name, several times those of the longest.
pub(super) const MAX_NAME: usize = 512;
/// Bytes of zeros that count as a hole in the file: a page.
const LEAST_BLANK: usize = 4096;
/// What the other axes of a tensor without elements may multiply to: no byte vouches for them.
const MAX_EMPTY: usize = 1 << 20;

/// Dtypes that can be read, and what candle calls them. 8-bit floats are read as bf16, which holds
/// them exactly: candle has one of the two kinds only, and can hardly compute with it.
const DTYPES: [(Dtype, DType); 13] = [
    (Dtype::F32, DType::F32),
    (Dtype::F16, DType::F16),
    (Dtype::BF16, DType::BF16),
    (Dtype::F64, DType::F64),
    (Dtype::F8_E4M3, DType::BF16),
    (Dtype::F8_E5M2, DType::BF16),
    (Dtype::I64, DType::I64),
    (Dtype::I32, DType::I32),
    (Dtype::I16, DType::I16),
    (Dtype::U32, DType::U32),
    (Dtype::U8, DType::U8),
    (Dtype::BOOL, DType::U8),
    (Dtype::I8, DType::U8), // its bits: candle has no such type
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
        let name = checked_name("", &name)?;
        let packed = contiguous(&name, &shape)?;
        let (strides, offset) = layout.unwrap_or((packed, 0));
        if strides.len() != shape.len() {
            return Err(format!("`{name}` has a stride for some axes only"));
        }
        let elements: usize = shape.iter().product();
        let others = || shape.iter().filter(|n| **n > 0).product::<usize>();
        if elements == 0 && others() > MAX_EMPTY {
            return Err(format!(
                "`{name}` has the shape {shape:?} without an element; the other axes may multiply \
                 to {MAX_EMPTY} at most"
            ));
        }
        // Only axes that go over the same elements again can make a tensor larger than its storage.
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

    /// The bytes that its elements take when they are written one after the other; unlike those in
    /// the file, they may be many.
    pub(super) fn len(&self) -> usize {
        self.elements().saturating_mul(self.dtype.bitsize()) / 8
    }

    /// Whether it is a matrix or more and all its bytes in the file are zero, which no training
    /// leaves and a download with a hole does.
    pub(super) fn is_blank(&self) -> bool {
        match &self.bytes {
            Bytes::In { source, range } if self.shape.len() > 1 && range.len() >= LEAST_BLANK => {
                let is_blank = source.bytes()[range.clone()].iter().all(|b| *b == 0);
                source.release(range);
                is_blank
            }
            _ => false,
        }
    }

    /// Its first and its last bytes in the file, a few of each; none of a tensor known by its shape only.
    pub(super) fn ends(&self) -> (&[u8], &[u8]) {
        const FEW: usize = 64;
        match &self.bytes {
            Bytes::Zeros => (&[], &[]),
            Bytes::In { source, range } => {
                let bytes = &source.bytes()[range.clone()];
                let few = bytes.len().min(FEW);
                (&bytes[..few], &bytes[bytes.len() - few..])
            }
        }
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

/// The name of a tensor, or why there can be no such name. Names are printed and kept in many
/// places.
pub(super) fn checked_name(prefix: &str, name: &str) -> Result<String, String> {
    let start = |text: &str| text.chars().take(40).collect::<String>();
    let len = prefix.len() + name.len();
    if len > MAX_NAME {
        let start = start(&[&start(prefix), name].concat());
        let start = start.escape_debug();
        return Err(format!(
            "a tensor's name has {len} bytes, beginning with `{start}`; at most {MAX_NAME} are read"
        ));
    }
    let name = [prefix, name].concat();
    match name.chars().any(is_invisible) {
        true => Err(format!(
            "the tensor name `{}` has control characters",
            start(&name).escape_debug()
        )),
        false => Ok(name),
    }
}

/// Characters that move the cursor, color text or turn its direction.
fn is_invisible(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
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

#[cfg(test)]
mod tests {
    use super::*;
    use candle::Device;

    pub(super) fn source(bytes: impl AsRef<[u8]> + Send + Sync + 'static) -> Arc<Source> {
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

    pub(super) fn view(
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

    pub(super) fn values(t: &StoredTensor, dtype: DType) -> Vec<f32> {
        let t = join(std::slice::from_ref(t), 0, &t.shape, dtype, &Device::Cpu).unwrap();
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
    fn names_are_short_and_can_be_printed() {
        assert_eq!(checked_name("model.", "weight").unwrap(), "model.weight");
        assert_eq!(checked_name("", "重み.é").unwrap(), "重み.é");
        let long = checked_name("\u{1b}[2J.", &"x".repeat(600)).unwrap_err();
        assert!(long.contains("605 bytes") && long.len() < 150, "{long}");
        for name in ["\u{1b}[2J", "a\nb", "a\u{202e}b"] {
            let got = checked_name("", name).unwrap_err();
            assert!(got.contains("control characters"), "{got}");
            assert!(!got.chars().any(is_invisible), "{got}");
        }
    }

    #[test]
    fn a_hole_in_a_file_is_seen_in_matrices_only() {
        let of = |value: f32, shape: &[usize]| {
            let n = shape.iter().product();
            let bytes: Vec<u8> = vec![value; n]
                .iter()
                .flat_map(|x| x.to_le_bytes())
                .collect();
            let (shape, len) = (shape.to_vec(), bytes.len());
            StoredTensor::view("x".into(), Dtype::F32, shape, None, &source(bytes), 0..len).unwrap()
        };
        assert!(of(0., &[32, 32]).is_blank());
        assert!(!of(1., &[32, 32]).is_blank());
        assert!(!of(0., &[1024]).is_blank() && !of(0., &[3, 3]).is_blank());
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
            (&[1 << 58, 0], None),
            (&[0, 1 << 40, 512], None),
        ] {
            assert!(view(shape, layout, 2).is_err(), "{shape:?} {layout:?}");
        }
    }
}
