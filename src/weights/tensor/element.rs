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

/// 8 bits of sign, 4 of exponent and 3 of mantissa, without infinities (`float8_e4m3fn`).
///
/// <https://arxiv.org/abs/2209.05433>, table 1
pub(super) fn from_e4m3(bits: u8) -> bf16 {
    let (exponent, mantissa) = (i32::from(bits >> 3 & 15), f32::from(bits & 7));
    let magnitude = match (exponent, bits & 7) {
        (15, 7) => f32::NAN,
        (0, _) => mantissa * 2f32.powi(-9),
        _ => (1. + mantissa / 8.) * 2f32.powi(exponent - 7),
    };
    bf16::from_f32(if bits >> 7 == 1 {
        -magnitude
    } else {
        magnitude
    })
}

/// The upper half of an f16 (`float8_e5m2`).
pub(super) fn from_e5m2(bits: u8) -> bf16 {
    bf16::from_f32(widen(f16::from_bits(u16::from(bits) << 8)))
}

#[cfg(test)]
mod tests {
    use super::super::StoredTensor;
    use super::super::tests::{source, values};
    use super::*;
    use ::safetensors::Dtype;
    use candle::DType;

    /// Values of the paper's table 1, and every step between neighbors.
    #[test]
    fn eight_bit_floats_are_those_of_the_paper() {
        let e4m3 = |bits| from_e4m3(bits).to_f32();
        assert_eq!(
            [0x7e, 0x08, 0x07, 0x01, 0x80].map(e4m3),
            [
                448.,
                2f32.powi(-6),
                0.875 * 2f32.powi(-6),
                2f32.powi(-9),
                -0.,
            ]
        );
        assert!(e4m3(0x7f).is_nan() && e4m3(0xff).is_nan());
        let e5m2 = |bits| from_e5m2(bits).to_f32();
        assert_eq!(
            [0x7b, 0x04, 0x03, 0x01, 0x7c, 0xfc].map(e5m2),
            [
                57344.,
                2f32.powi(-14),
                0.75 * 2f32.powi(-14),
                2f32.powi(-16),
                f32::INFINITY,
                f32::NEG_INFINITY,
            ]
        );
        assert!(e5m2(0x7d).is_nan());
        for values in [e4m3 as fn(u8) -> f32, e5m2] {
            assert!((0..0x7b).all(|bits| values(bits) < values(bits + 1)));
            assert!((0..0x7b).all(|bits| values(bits | 0x80) == -values(bits)));
        }
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
