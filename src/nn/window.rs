//! Square windows over a feature map.

use candle::{Result, Tensor};

/// Cuts a map into windows: (b, h, w, c) -> (b * windows, size, size, c), row-major.
///
/// `h` and `w` must be multiples of `size`.
pub fn partition(xs: &Tensor, size: usize) -> Result<Tensor> {
    let (b, h, w, c) = xs.dims4()?;
    if h % size != 0 || w % size != 0 {
        candle::bail!("a {h} x {w} map does not divide into windows of {size}");
    }
    xs.reshape((b, h / size, size, w / size, size * c))?
        .transpose(2, 3)?
        .contiguous()?
        .reshape((b * (h / size) * (w / size), size, size, c))
}

/// Puts windows back: (b * windows, size, size, c) -> (b, h, w, c)
pub fn merge(xs: &Tensor, h: usize, w: usize) -> Result<Tensor> {
    let (n, size, _, c) = xs.dims4()?;
    let b = n * size * size / (h * w);
    xs.reshape((b, h / size, w / size, size, size * c))?
        .transpose(2, 3)?
        .contiguous()?
        .reshape((b, h, w, c))
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle::Device;

    #[test]
    fn merge_undoes_partition() -> Result<()> {
        let xs = Tensor::arange(0f32, 2. * 4. * 6. * 3., &Device::Cpu)?.reshape((2, 4, 6, 3))?;
        let windows = partition(&xs, 2)?;
        assert_eq!(windows.dims(), [12, 2, 2, 3]);
        // window 1 of the first image starts at column 2
        let first = windows.get(1)?.get(1)?.get(0)?.to_vec1::<f32>()?;
        assert_eq!(first, [24., 25., 26.]);
        let back = merge(&windows, 4, 6)?;
        assert_eq!(
            back.flatten_all()?.to_vec1::<f32>()?,
            xs.flatten_all()?.to_vec1::<f32>()?
        );
        Ok(())
    }
}
