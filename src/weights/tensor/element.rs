//! Element types: read from little-endian bytes, and made into one another.

use candle::WithDType;
use half::{bf16, f16};
use std::any::Any;

/// An element type that can be read from little-endian bytes.
pub(super) trait Element: WithDType {
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

#[cfg(test)]
mod tests {
    use super::super::StoredTensor;
    use super::super::tests::{source, values};
    use super::*;
    use ::safetensors::Dtype;
    use candle::DType;

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
