//! Fast CPU paths behind the functions of [`crate::nn`].

pub mod depthwise;
pub mod patches;

use candle::{Layout, Result, Storage};

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
