//! Square windows over a feature map.

use candle::{Device, Result, Tensor};

use super::kernels::grid::Grid;
use super::{cpu_slice, on_cpu_in_f32, with_slice};

/// Cuts a map into windows: (b, h, w, c) -> (b * windows, size, size, c), row-major.
///
/// Zeros complete the last windows of rows and columns.
pub fn partition(xs: &Tensor, size: usize) -> Result<Tensor> {
    let (b, h, w, c) = xs.dims4()?;
    let grid = Grid {
        map: [b, h, w, c],
        size,
    };
    let shape = grid.shape()?;
    if on_cpu_in_f32(xs) {
        let windows = with_slice(xs, |xs| grid.partition(xs))?;
        return Tensor::from_vec(windows, &shape, &Device::Cpu);
    }
    let (rows, columns) = (h.div_ceil(size), w.div_ceil(size));
    xs.pad_with_zeros(1, 0, rows * size - h)?
        .pad_with_zeros(2, 0, columns * size - w)?
        .reshape((b, rows, size, columns, size * c))?
        .transpose(2, 3)?
        .contiguous()?
        .reshape(&shape)
}

/// Puts windows back: (b * windows, size, size, c) -> (b, h, w, c), without what completed the last
/// ones.
pub fn merge(windows: &Tensor, h: usize, w: usize) -> Result<Tensor> {
    let (grid, windows) = grid_of(windows, h, w)?;
    if on_cpu_in_f32(&windows) {
        return merge_on_cpu(grid, &windows, None);
    }
    let ([b, _, _, c], size) = (grid.map, grid.size);
    let (rows, columns) = (h.div_ceil(size), w.div_ceil(size));
    windows
        .reshape((b, rows, columns, size, size * c))?
        .transpose(2, 3)?
        .contiguous()?
        .reshape((b, rows * size, columns * size, c))?
        .narrow(1, 0, h)?
        .narrow(2, 0, w)
}

/// [`merge`], added to a `residual` (b, h, w, c).
pub fn merge_onto(residual: &Tensor, windows: &Tensor) -> Result<Tensor> {
    let (_, h, w, _) = residual.dims4()?;
    let (grid, windows) = grid_of(windows, h, w)?;
    if residual.dims() != grid.map {
        candle::bail!("{:?} cannot be added to {:?}", grid.map, residual.dims());
    }
    if on_cpu_in_f32(&windows) && on_cpu_in_f32(residual) {
        return merge_on_cpu(grid, &windows, Some(residual));
    }
    residual + merge(&windows, h, w)?
}

/// The map of `h` x `w` tokens that `windows` (b * windows, size, size, c) cover.
fn grid_of(windows: &Tensor, h: usize, w: usize) -> Result<(Grid, Tensor)> {
    let (n, size, _, c) = windows.dims4()?;
    let one = Grid {
        map: [1, h, w, c],
        size,
    };
    let b = n / one.shape()?[0].max(1);
    let grid = Grid {
        map: [b, h, w, c],
        ..one
    };
    if windows.dims() != grid.shape()? {
        candle::bail!("windows {:?} do not cover a {h} x {w} map", windows.dims());
    }
    Ok((grid, windows.contiguous()?))
}

fn merge_on_cpu(grid: Grid, windows: &Tensor, residual: Option<&Tensor>) -> Result<Tensor> {
    let residual = residual.map(Tensor::contiguous).transpose()?;
    let residual = residual.as_ref().map(Tensor::storage_and_layout);
    let residual = match &residual {
        None => None,
        Some((storage, layout)) => Some(cpu_slice(storage, layout)?),
    };
    let map = with_slice(windows, |windows| grid.merge(windows, residual))?;
    Tensor::from_vec(map, &grid.map, &Device::Cpu)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(xs: &Tensor) -> Vec<f32> {
        xs.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn merge_undoes_partition() -> Result<()> {
        let xs = Tensor::arange(0f32, 2. * 4. * 6. * 3., &Device::Cpu)?.reshape((2, 4, 6, 3))?;
        let windows = partition(&xs, 2)?;
        assert_eq!(windows.dims(), [12, 2, 2, 3]);
        // window 1 of the first image starts at column 2
        let first = windows.get(1)?.get(1)?.get(0)?.to_vec1::<f32>()?;
        assert_eq!(first, [24., 25., 26.]);
        assert_eq!(values(&merge(&windows, 4, 6)?), values(&xs));
        Ok(())
    }

    #[test]
    fn zeros_complete_the_last_windows_and_are_dropped_again() -> Result<()> {
        for dtype in [candle::DType::F32, candle::DType::F64] {
            // f64 takes the path of the other devices
            let xs = Tensor::arange(1f32, 1. + 2. * 5. * 4. * 3., &Device::Cpu)?;
            let xs = xs.reshape((2, 5, 4, 3))?.to_dtype(dtype)?;
            let windows = partition(&xs, 3)?;
            assert_eq!(windows.dims(), [8, 3, 3, 3]);
            let f32 = |xs: &Tensor| xs.to_dtype(candle::DType::F32);
            // The last window of the second image holds one column of two rows.
            let last = f32(&windows.get(7)?)?;
            let of = |y: usize, x: usize| last.get(y)?.get(x)?.to_vec1::<f32>();
            let pixel = |y: usize, x: usize| f32(&xs.get(1)?.get(y)?.get(x)?)?.to_vec1::<f32>();
            assert_eq!(of(0, 0)?, pixel(3, 3)?);
            assert_eq!(of(1, 0)?, pixel(4, 3)?);
            for (y, x) in [(0, 1), (0, 2), (1, 1), (2, 0), (2, 2)] {
                assert_eq!(of(y, x)?, [0.; 3], "{y}, {x}");
            }
            let merged = merge(&windows, 5, 4)?;
            assert_eq!(values(&f32(&merged)?), values(&f32(&xs)?));
            let twice = merge_onto(&xs, &windows)?;
            assert_eq!(values(&f32(&twice)?), values(&f32(&(&xs + &xs)?)?));
        }
        Ok(())
    }

    #[test]
    fn windows_of_another_map_are_refused() -> Result<()> {
        let windows = Tensor::zeros((4, 3, 3, 2), candle::DType::F32, &Device::Cpu)?;
        assert!(merge(&windows, 6, 6).is_ok());
        assert!(merge(&windows, 7, 6).is_err());
        assert!(merge(&windows, 3, 9).is_err());
        let map = |h, c| Tensor::zeros((1, h, 6, c), candle::DType::F32, &Device::Cpu);
        assert!(merge_onto(&map(6, 2)?, &windows).is_ok());
        assert!(merge_onto(&map(6, 1)?, &windows).is_err());
        assert!(merge_onto(&map(9, 2)?, &windows).is_err());
        assert!(partition(&map(6, 1)?, 0).is_err());
        Ok(())
    }
}
