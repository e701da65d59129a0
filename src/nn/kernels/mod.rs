//! Fast CPU paths behind the functions of [`crate::nn`].

#[cfg(target_arch = "x86_64")]
mod amx;
pub mod attention;
pub mod convolution;
pub mod depthwise;
mod lanes;
pub mod level;
mod math;
pub mod matmul;
pub mod pack;
pub mod tile;
pub mod winograd;

use candle::{DType, Device, Layout, Result, Storage, Tensor};
use rayon::prelude::*;
use tile::Shared;

/// How a window moves over the image; (rows, columns).
#[derive(Debug, Clone, Copy)]
pub struct Window {
    /// Step between two windows, in pixels.
    pub stride: (usize, usize),
    /// Zeros added on both sides of each axis.
    pub padding: (usize, usize),
}

impl Window {
    /// The output size for an image and a kernel, each (rows, columns).
    ///
    /// # Errors
    /// When the padded image is smaller than the kernel.
    pub fn output_size(
        &self,
        image: (usize, usize),
        kernel: (usize, usize),
    ) -> Result<(usize, usize)> {
        let axis = |size: usize, kernel: usize, stride: usize, padding: usize| {
            let padded = size + 2 * padding;
            if size == 0 || kernel == 0 || stride == 0 || padded < kernel {
                candle::bail!(
                    "a kernel of {kernel} with stride {stride} does not fit {size} pixels padded by {padding}"
                )
            }
            Ok((padded - kernel) / stride + 1)
        };
        Ok((
            axis(image.0, kernel.0, self.stride.0, self.padding.0)?,
            axis(image.1, kernel.1, self.stride.1, self.padding.1)?,
        ))
    }
}

/// The elements of a contiguous f32 tensor on the CPU.
pub(crate) fn cpu_slice<'a>(storage: &'a Storage, layout: &Layout) -> Result<&'a [f32]> {
    match storage {
        Storage::Cpu(storage) => Ok(&storage.as_slice()?[layout.start_offset()..]),
        _ => candle::bail!("this kernel needs a tensor on the CPU"),
    }
}

/// Whether the kernels of this module can take the tensor.
pub(crate) fn on_cpu_in_f32(xs: &Tensor) -> bool {
    xs.device().is_cpu() && xs.dtype() == DType::F32
}

/// An elementwise function with a fast path on the CPU.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Elementwise {
    Gelu,
    HardSwish,
}

impl Elementwise {
    /// Applies the function to a f32 tensor on the CPU, of any shape.
    pub fn apply(self, xs: &Tensor) -> Result<Tensor> {
        const CHUNK: usize = 1 << 12; // stays in the first cache
        let xs = xs.contiguous()?;
        let (storage, layout) = xs.storage_and_layout();
        let from = &cpu_slice(&storage, layout)?[..layout.shape().elem_count()];
        let mut out = Vec::with_capacity(from.len());
        let shared = Shared::new(&mut out);
        let chunks = from.par_chunks(CHUNK).enumerate();
        chunks.for_each(|(i, from)| {
            let len = from.len();
            // SAFETY: this chunk lies inside `out` and belongs to this task.
            let mut to = unsafe { shared.block(i * CHUNK, len, 1, len) };
            to.row(0).copy_from_slice(from);
            self.replace(to.row(0));
        });
        // SAFETY: the tasks wrote all chunks.
        unsafe { out.set_len(from.len()) };
        Tensor::from_vec(out, xs.shape(), &Device::Cpu)
    }

    /// Applies the function in place.
    pub fn replace(self, xs: &mut [f32]) {
        match self {
            Self::Gelu => math::gelu_all(xs),
            Self::HardSwish => math::hard_swish_all(xs),
        }
    }
}

/// Reproducible numbers in -0.5..0.5.
#[cfg(test)]
pub(crate) fn random(len: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as f32 / u32::MAX as f32 - 0.5
    };
    (0..len).map(|_| next()).collect()
}

/// Whether a test has time for this many products: an interpreter takes a millisecond for each.
#[cfg(test)]
pub(crate) fn is_affordable(products: usize) -> bool {
    !cfg!(miri) || products < 3_000
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use candle::DType;

    use super::level::{EMULATED_AMX, LEVEL_VARIABLE, Level, has_bf16, level};
    use super::*;
    use crate::nn::golden::assert_close;

    #[test]
    #[cfg_attr(miri, ignore = "candle's erf takes minutes")]
    fn activations_of_views_and_of_more_than_one_chunk() -> Result<()> {
        let xs = Tensor::from_vec(random(3 * 90 * 100, 1), (3, 90, 100), &Device::Cpu)?;
        let xs = (xs * 8.)?;
        for xs in [xs.clone(), xs.transpose(0, 2)?, xs.narrow(0, 1, 1)?] {
            let exact = xs.to_dtype(DType::F64)?;
            let swish = ((&exact + 3.)?.clamp(0., 6.)? * &exact)? / 6.;
            for (function, want) in [
                (Elementwise::Gelu, exact.gelu_erf()?),
                (Elementwise::HardSwish, swish?),
            ] {
                let want = want.to_dtype(DType::F32)?;
                assert_close(&function.apply(&xs)?, &want, 1e-6);
            }
        }
        Ok(())
    }

    #[test]
    #[cfg_attr(miri, ignore = "starts a process")]
    fn other_instruction_sets_pass_the_tests_of_layers_and_backbones() {
        if std::env::var_os(LEVEL_VARIABLE).is_some() {
            return; // this is such a run
        }
        let lesser = [
            ("avx512", Level::Avx512),
            ("avx2", Level::Avx2),
            ("portable", Level::Portable),
        ];
        let lesser = lesser.into_iter().filter(|(_, lesser)| *lesser < level());
        let emulated = has_bf16().then_some(EMULATED_AMX);
        for name in lesser.map(|(name, _)| name).chain(emulated) {
            let tests = std::env::current_exe().unwrap();
            let run = Command::new(tests)
                .args(["nn::", "backbones::"])
                .env(LEVEL_VARIABLE, name)
                .output()
                .unwrap();
            let report = String::from_utf8_lossy(&run.stdout);
            assert!(run.status.success(), "{name}: {report}");
            let passed = report
                .lines()
                .filter(|line| line.ends_with("... ok"))
                .count();
            assert!(passed > 50, "{name}: only {passed} tests ran");
        }
    }
}
