//! Windows of convolutions.

use std::ops::Range;

use candle::Result;

/// How a window moves over the image; (rows, columns).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Step between two windows, in pixels.
    pub stride: (usize, usize),
    /// Zeros added on both sides of each axis.
    pub padding: (usize, usize),
}

impl Window {
    /// Each pixel alone, with a kernel of 1 x 1.
    pub const UNIT: Self = Self {
        stride: (1, 1),
        padding: (0, 0),
    };

    /// The output size for an image and a kernel, each (rows, columns).
    ///
    /// # Errors
    /// When the padded image is smaller than the kernel, or larger than any memory.
    pub fn output_size(
        &self,
        image: (usize, usize),
        kernel: (usize, usize),
    ) -> Result<(usize, usize)> {
        let axis = |size: usize, kernel: usize, stride: usize, padding: usize| {
            let padded = padding
                .checked_mul(2)
                .and_then(|both| both.checked_add(size));
            // Positions are also counted from the image's first pixel, with a sign.
            match padded.filter(|padded| *padded <= isize::MAX as usize) {
                Some(padded) if size > 0 && kernel > 0 && stride > 0 && padded >= kernel => {
                    Ok((padded - kernel) / stride + 1)
                }
                _ => candle::bail!(
                    "a kernel of {kernel} with stride {stride} does not fit {size} pixels padded by {padding}"
                ),
            }
        };
        Ok((
            axis(image.0, kernel.0, self.stride.0, self.padding.0)?,
            axis(image.1, kernel.1, self.stride.1, self.padding.1)?,
        ))
    }
}

/// Pixels of panels, or tiles of pixels, that lie in one row of the output.
#[derive(Clone, Copy)]
pub struct Run {
    /// Where they begin in the panels.
    pub at: usize,
    /// How many there are.
    pub len: usize,
    /// Their row.
    pub y: usize,
    /// The column of the first.
    pub x: usize,
}

/// Some pixels of an output that is `width` wide, cut where a row of it ends, and where a panel of `cols`
/// pixels and `panel` values does.
pub fn runs(pixels: Range<usize>, width: usize, cols: usize, panel: usize) -> Vec<Run> {
    let mut runs = vec![];
    let mut at = pixels.start;
    while at < pixels.end {
        let (y, x) = (at / width, at % width);
        let (p, column) = ((at - pixels.start) / cols, (at - pixels.start) % cols);
        let len = (width - x).min(cols - column).min(pixels.end - at);
        runs.push(Run {
            at: p * panel + column,
            len,
            y,
            x,
        });
        at += len;
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_that_do_not_fit_are_errors() {
        let size = |stride, padding, image| {
            let window = Window {
                stride: (stride, 1),
                padding: (padding, 0),
            };
            window.output_size((image, 1), (3, 1))
        };
        assert_eq!(size(1, 1, 5).unwrap(), (5, 1));
        assert_eq!(size(2, 0, 8).unwrap(), (3, 1));
        for (stride, padding, image) in [
            (1, 0, 2),
            (0, 1, 5),
            (1, 1, 0),
            (1, usize::MAX / 2, 9),
            (1, usize::MAX, 9),
            (1, 0, usize::MAX),
        ] {
            assert!(size(stride, padding, image).is_err());
        }
    }
}
