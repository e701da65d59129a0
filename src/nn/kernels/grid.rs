//! Maps cut into square windows, and windows put together again.

use candle::Result;
use rayon::prelude::*;

use super::view::{Shared, elements, filled};

/// A map (b, h, w, c) that is covered by windows of `size` x `size` tokens, the last ones of a row and
/// a column reaching beyond its edge.
#[derive(Debug, Clone, Copy)]
pub struct Grid {
    /// (b, h, w, c)
    pub map: [usize; 4],
    /// Tokens along a side of a window.
    pub size: usize,
}

impl Grid {
    /// Rows and columns of windows.
    fn windows(&self) -> (usize, usize) {
        let [_, h, w, _] = self.map;
        (h.div_ceil(self.size), w.div_ceil(self.size))
    }

    /// The shape of all windows, (b * windows, size, size, c).
    ///
    /// # Errors
    /// When there are no windows of that size, or more than any memory holds.
    pub fn shape(&self) -> Result<[usize; 4]> {
        if self.size == 0 {
            candle::bail!("windows of no tokens");
        }
        let (rows, columns) = self.windows();
        let [b, _, _, c] = self.map;
        let count = elements(&[b, rows, columns])?;
        elements(&[count, self.size, self.size, c])?;
        Ok([count, self.size, self.size, c])
    }

    /// The windows of the map `xs`, zeros beyond its edge.
    ///
    /// # Errors
    /// Those of [`Self::shape`], and when there is no memory for the result.
    ///
    /// # Panics
    /// When `xs` is not as large as the map.
    pub fn partition(&self, xs: &[f32]) -> Result<Vec<f32>> {
        let (shape, (rows, columns)) = (self.shape()?, self.windows());
        let ([_, h, w, c], size) = (self.map, self.size);
        assert!(xs.len() == self.map.iter().product::<usize>());
        let write = |shared: Shared| {
            (0..shape[0]).into_par_iter().for_each(|window| {
                let (image, row) = (window / (rows * columns), window / columns % rows);
                let x = window % columns * size;
                let there = size.min(w - x) * c;
                // SAFETY: this window belongs to this task.
                let mut to =
                    unsafe { shared.block(window * size * size * c, size * c, size, size * c) };
                for line in 0..size {
                    let (to, y) = (to.row(line), row * size + line);
                    let there = if y < h { there } else { 0 };
                    if there > 0 {
                        let from = ((image * h + y) * w + x) * c;
                        to[..there].copy_from_slice(&xs[from..][..there]);
                    }
                    to[there..].fill(0.);
                }
            });
            Ok(())
        };
        // SAFETY: the tasks write all lines of all windows.
        unsafe { filled(&shape, write) }
    }

    /// The map of its `windows`, added to `residual`; what lies beyond its edge is dropped.
    ///
    /// # Errors
    /// Those of [`Self::shape`], and when there is no memory for the result.
    ///
    /// # Panics
    /// When the sizes disagree.
    pub fn merge(&self, windows: &[f32], residual: Option<&[f32]>) -> Result<Vec<f32>> {
        let (shape, (rows, columns)) = (self.shape()?, self.windows());
        let ([b, h, w, c], size) = (self.map, self.size);
        assert!(windows.len() == shape.iter().product::<usize>());
        assert!(residual.is_none_or(|xs| xs.len() == self.map.iter().product::<usize>()));
        let write = |shared: Shared| {
            (0..b * h).into_par_iter().for_each(|line| {
                let (image, y) = (line / h, line % h);
                // SAFETY: this line belongs to this task.
                let mut to = unsafe { shared.block(line * w * c, w * c, 1, w * c) };
                let to = to.row(0);
                let first = (image * rows + y / size) * columns;
                for (column, to) in to.chunks_mut((size * c).max(1)).enumerate() {
                    let from = ((first + column) * size + y % size) * size * c;
                    to.copy_from_slice(&windows[from..][..to.len()]);
                }
                if let Some(residual) = residual {
                    let residual = &residual[line * w * c..][..w * c];
                    to.iter_mut().zip(residual).for_each(|(x, r)| *x += r);
                }
            });
            Ok(())
        };
        // SAFETY: the tasks write all lines.
        unsafe { filled(&self.map, write) }
    }
}
