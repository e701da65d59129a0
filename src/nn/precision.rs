//! Precision of matrix products.

use std::cell::Cell;
use std::fmt;
use std::str::FromStr;

use candle::{DType, Device};

use super::kernels::layout::Format;
use super::kernels::level::has_fast_bf16;
use crate::{Error, Result};

/// Precision of f32 matrix products, attention and convolutions on the CPU. Weights and results are
/// f32 with any of them.
///
/// Names and meaning are those of PyTorch's
/// [`set_float32_matmul_precision`](https://docs.pytorch.org/docs/stable/generated/torch.set_float32_matmul_precision.html),
/// except that `High` is the default here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Precision {
    /// Sums of products of f32 in the order of the definition: no bf16, no Winograd transform.
    Highest,
    /// The fastest method that keeps every stage within 5e-4 of the reference. With AMX, which
    /// `CANDLE_SAM3_CPU=amx` turns on, each f32 is treated as the sum of two bf16 numbers: linear
    /// layers, attention and convolutions are then some 5e-6 from f32, one by one.
    #[default]
    High,
    /// Products of bf16 summed in f32, where the processor is faster at these: AMD's with AVX-512
    /// BF16, and AMX if it is turned on. Elsewhere the same as [`Self::High`]. 3x3 convolutions keep
    /// Winograd's transform with AVX-512, which makes the error of bf16 five times as large: 1e-2 of
    /// what a layer gives.
    Medium,
}

thread_local! {
    static CURRENT: Cell<Precision> = const { Cell::new(Precision::High) };
}

impl Precision {
    /// The precision that layers built now, on this thread, will have.
    ///
    /// Weights are packed when a layer is built, and how depends on the precision. So constructors
    /// ask here, and keep the answer if they need it again.
    pub fn current() -> Self {
        CURRENT.get()
    }

    /// Runs `build`; layers that it builds on this thread have this precision.
    pub fn scope<T>(self, build: impl FnOnce() -> T) -> T {
        struct Restore(Precision);
        impl Drop for Restore {
            fn drop(&mut self) {
                CURRENT.set(self.0);
            }
        }
        let _restore = Restore(CURRENT.replace(self));
        build()
    }

    /// Checks that a model can have this precision, and warns where it makes no difference.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for any but the default on a GPU, or in another dtype than f32.
    pub fn check(self, device: &Device, dtype: DType) -> Result<()> {
        if self != Self::default() && !(device.is_cpu() && dtype == DType::F32) {
            return Err(Error::Unsupported {
                what: format!("precision {self} on {:?} in {dtype:?}", device.location()),
                instead: "choose the dtype there; a precision is for the CPU in f32".into(),
            });
        }
        if self == Self::Medium && !has_fast_bf16() {
            tracing::warn!(
                "this processor is not faster at bf16: precision medium computes in f32, as high does"
            );
        }
        Ok(())
    }

    /// What products are made of, where the processor is faster at that than at f32.
    pub(crate) fn format(self) -> Format {
        match self {
            Self::Highest => Format::Single,
            Self::High => Format::Split,
            Self::Medium => Format::Pairs,
        }
    }
}

impl FromStr for Precision {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "highest" => Ok(Self::Highest),
            "high" => Ok(Self::High),
            "medium" => Ok(Self::Medium),
            _ => Err(Error::Unsupported {
                what: format!("precision {name:?}"),
                instead: "use highest, high or medium".into(),
            }),
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Highest => "highest",
            Self::High => "high",
            Self::Medium => "medium",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::kernels::tile::Tile;

    #[test]
    fn highest_products_are_of_f32_on_any_processor() {
        assert_eq!(Tile::of(Precision::Highest.format()).format, Format::Single);
    }

    #[test]
    fn a_scope_ends_also_when_building_fails() {
        let failed = Precision::Medium.scope(|| {
            assert_eq!(Precision::current(), Precision::Medium);
            Precision::Highest.scope(|| assert_eq!(Precision::current(), Precision::Highest));
            assert_eq!(Precision::current(), Precision::Medium);
            std::panic::catch_unwind(|| Precision::Highest.scope(|| panic!()))
        });
        assert!(failed.is_err());
        assert_eq!(Precision::current(), Precision::High);
    }

    #[test]
    fn another_dtype_has_the_default_only() {
        let check = |precision: Precision, dtype| precision.check(&Device::Cpu, dtype);
        assert!(check(Precision::Medium, DType::F32).is_ok());
        assert!(check(Precision::High, DType::BF16).is_ok());
        let error = check(Precision::Medium, DType::BF16)
            .unwrap_err()
            .to_string();
        assert!(error.contains("precision medium on Cpu in BF16"), "{error}");
    }

    #[test]
    fn names_parse_and_others_say_what_works() {
        for precision in [Precision::Highest, Precision::High, Precision::Medium] {
            assert_eq!(
                precision.to_string().parse::<Precision>().unwrap(),
                precision
            );
        }
        let error = "bf16".parse::<Precision>().unwrap_err().to_string();
        assert!(error.contains("highest, high or medium"), "{error}");
    }
}
