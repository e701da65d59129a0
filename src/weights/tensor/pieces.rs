//! The elements of a stored tensor as bytes of another file.

use super::StoredTensor;
use super::element::Element;
use ::safetensors::Dtype;
use candle::bail;
use half::{bf16, f16};

/// Elements that are written at a time.
const PIECE: usize = 1 << 20;

impl StoredTensor {
    /// Hands the elements in row-major order to `write`, as little-endian `dtype` and a piece at a
    /// time, so that a large tensor takes little memory.
    ///
    /// Values that f16 cannot hold are an error, and so are dtypes that candle does not have.
    pub(in crate::weights) fn pieces(
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
            Dtype::U8 | Dtype::BOOL | Dtype::I8 => self.to_le::<u8>()?,
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
}

#[cfg(test)]
mod tests {
    use super::super::tests::view;
    use super::*;

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
}
