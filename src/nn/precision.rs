//! How exactly products are computed.

use std::cell::Cell;
use std::fmt;
use std::str::FromStr;

use candle::{DType, Device};

use super::kernels::level::has_fast_bf16;
use super::kernels::pack::Format;
use crate::{Error, Result};

/// How exactly a model computes on the CPU. Weights and results are f32 with any of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// Sums of products of f32, in the order of the definition. Never uses AMX, which has none.
    Strict,
    /// What is fastest among methods whose every stage stays within 5e-4 of the reference. With AMX
    /// that is three products of bf16 for one of f32: linear layers, attention and convolutions are
    /// then some 5e-6 from f32, one by one.
    #[default]
    Exact,
    /// Products of bf16 summed in f32, where the processor is faster at these, with AMX or without;
    /// elsewhere the same as [`Self::Exact`].
    Fast,
}

thread_local! {
    static CURRENT: Cell<Precision> = const { Cell::new(Precision::Exact) };
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
        if self == Self::Fast && !has_fast_bf16() {
            tracing::warn!(
                "this processor is not faster at bf16: precision fast computes in f32, as exact does"
            );
        }
        Ok(())
    }

    /// What products are made of, where the processor is faster at that than at f32.
    pub(crate) fn format(self) -> Format {
        match self {
            Self::Strict => Format::Single,
            Self::Exact => Format::Split,
            Self::Fast => Format::Pairs,
        }
    }
}

impl FromStr for Precision {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "strict" => Ok(Self::Strict),
            "exact" => Ok(Self::Exact),
            "fast" => Ok(Self::Fast),
            _ => Err(Error::Unsupported {
                what: format!("precision {name:?}"),
                instead: "use strict, exact or fast".into(),
            }),
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Strict => "strict",
            Self::Exact => "exact",
            Self::Fast => "fast",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::kernels::tile::Tile;

    #[test]
    fn strict_products_are_of_f32_on_any_processor() {
        assert_eq!(Tile::of(Precision::Strict.format()).format, Format::Single);
    }

    #[test]
    fn a_scope_ends_also_when_building_fails() {
        let failed = Precision::Fast.scope(|| {
            assert_eq!(Precision::current(), Precision::Fast);
            Precision::Strict.scope(|| assert_eq!(Precision::current(), Precision::Strict));
            assert_eq!(Precision::current(), Precision::Fast);
            std::panic::catch_unwind(|| Precision::Strict.scope(|| panic!()))
        });
        assert!(failed.is_err());
        assert_eq!(Precision::current(), Precision::Exact);
    }

    #[test]
    fn another_dtype_has_the_default_only() {
        let check = |precision: Precision, dtype| precision.check(&Device::Cpu, dtype);
        assert!(check(Precision::Fast, DType::F32).is_ok());
        assert!(check(Precision::Exact, DType::BF16).is_ok());
        let error = check(Precision::Fast, DType::BF16).unwrap_err().to_string();
        assert!(error.contains("precision fast on Cpu in BF16"), "{error}");
    }

    #[test]
    fn names_parse_and_others_say_what_works() {
        for precision in [Precision::Strict, Precision::Exact, Precision::Fast] {
            assert_eq!(
                precision.to_string().parse::<Precision>().unwrap(),
                precision
            );
        }
        let error = "bf16".parse::<Precision>().unwrap_err().to_string();
        assert!(error.contains("strict, exact or fast"), "{error}");
    }
}
