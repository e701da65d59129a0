//! Masks at the size of an image from low-resolution logits.
//!
//! With CUDA they are enlarged, cut and packed on the device, eight pixels to a byte, with the sums and
//! roundings of [`threshold_upsampled`], whose masks they equal. That takes f64, which Metal does not
//! have; its memory is the host's, where the masks are made then. Very large images stay on the host, too.

use candle::{D, DType, Result, Tensor};

use crate::device::{download, download_rows, upload};
use crate::mask::Mask;
use crate::mask::upsample::{Tap, taps, threshold_upsampled};
use crate::nn::on_gpu;
use crate::{Error, Size};

/// Pixels of a mask that are enlarged on a device at most: each takes about 40 bytes on the way.
const MAX_PIXELS: usize = 1 << 25;

/// Mask logits (1, k, h, w) -> k masks at the size of the image.
///
/// # Errors
/// [`Error::NotFinite`] for NaN and infinity.
pub(super) fn masks(logits: &Tensor, threshold: f32, size: Size) -> crate::Result<Vec<Mask>> {
    let device = logits.device();
    match on_gpu(device) && !device.is_metal() && size.area() <= MAX_PIXELS {
        true => masks_on_device(logits, threshold, size),
        false => masks_on_host(logits, threshold, size),
    }
}

fn masks_on_host(logits: &Tensor, threshold: f32, size: Size) -> crate::Result<Vec<Mask>> {
    let (_, _, h, w) = logits.dims4()?;
    let low_res = Size::new(w, h);
    let logits = download::<f32>(&logits.to_dtype(DType::F32)?)?;
    if logits.iter().any(|logit| !logit.is_finite()) {
        return Err(not_finite());
    }
    let maps = logits.chunks_exact(low_res.area());
    maps.map(|map| threshold_upsampled(map, low_res, size, threshold))
        .collect()
}

fn not_finite() -> Error {
    Error::not_finite("the mask head")
}

fn masks_on_device(logits: &Tensor, threshold: f32, size: Size) -> crate::Result<Vec<Mask>> {
    let logits = logits.squeeze(0)?.to_dtype(DType::F32)?;
    let (k, h, w) = logits.dims3()?;
    let blends = Blends::new([(w, size.width), (h, size.height)], &logits)?;
    let at_a_time = (MAX_PIXELS / size.area().max(1)).max(1);
    let mut masks = Vec::with_capacity(k);
    for start in (0..k).step_by(at_a_time) {
        let maps = logits.narrow(0, start, at_a_time.min(k - start))?;
        let maps = maps.contiguous()?;
        let large = blends.enlarge(&maps)?;
        let packed = pack(&large.gt(f64::from(threshold))?)?;
        let rows = Tensor::cat(&[is_finite(&maps)?, packed], 1)?;
        for row in download_rows::<u8>(&rows)? {
            let [1, bytes @ ..] = &row[..] else {
                return Err(not_finite());
            };
            let mask = Mask::from_packed_rows(size.width, size.height, bytes);
            masks.push(mask.ok_or_else(|| candle::Error::msg("a mask of another size"))?);
        }
    }
    Ok(masks)
}

/// 1 for each map (k, h, w) without NaN and infinity: (k, 1), u8
fn is_finite(maps: &Tensor) -> Result<Tensor> {
    (maps * 0.)?.flatten_from(1)?.sum_keepdim(1)?.eq(0f64)
}

/// Maps of 0 and 1 (k, h, w), u8, as whole bytes of rows (k, h * ceil(w / 8)), u8, the first pixel in
/// the lowest bit.
fn pack(above: &Tensor) -> Result<Tensor> {
    let (k, h, w) = above.dims3()?;
    let bytes = w.div_ceil(8);
    let bits = above.to_dtype(DType::F32)?;
    let bits = bits.pad_with_zeros(2, 0, 8 * bytes - w)?;
    let bits = bits.reshape((k, h * bytes, 8))?;
    let mut sum = bits.narrow(2, 0, 1)?;
    for bit in 1..8 {
        sum = (sum + (bits.narrow(2, bit, 1)? * f64::from(1 << bit))?)?;
    }
    sum.squeeze(D::Minus1)?.to_dtype(DType::U8)
}

/// Where the columns and rows of an enlarged map lie between those of the map.
struct Blends {
    columns: Axis,
    rows: Axis,
}

struct Axis {
    first: Tensor,         // (new), u32
    second: Tensor,        // (new), u32
    first_weight: Tensor,  // (new), f64
    second_weight: Tensor, // (new), f32
}

impl Blends {
    /// From old to new widths and heights, on the device of `maps`.
    fn new(sides: [(usize, usize); 2], maps: &Tensor) -> Result<Self> {
        let device = maps.device();
        let [columns, rows] = sides.map(|(old, new)| taps(old, new));
        let lists = |of: [fn(&Tap) -> usize; 2]| {
            let all = [&columns, &rows].into_iter();
            let all = all.flat_map(|taps| of.map(|of| taps.iter().map(of)));
            all.flatten()
                .map(|index| index as u32)
                .collect::<Vec<u32>>()
        };
        let indices = lists([|tap| tap.first, |tap| tap.second]);
        let weights = [&columns, &rows].into_iter().flat_map(|taps| {
            let first = taps.iter().map(|tap| tap.first_weight);
            first.chain(taps.iter().map(|tap| tap.second_weight))
        });
        let weights: Vec<f32> = weights.collect();
        let len = indices.len();
        let indices = upload(indices, len, device)?;
        let weights = upload(weights, len, device)?;
        let axis = |start: usize, new: usize| -> Result<Axis> {
            Ok(Axis {
                first: indices.narrow(0, start, new)?,
                second: indices.narrow(0, start + new, new)?,
                first_weight: weights.narrow(0, start, new)?.to_dtype(DType::F64)?,
                second_weight: weights.narrow(0, start + new, new)?,
            })
        };
        Ok(Self {
            columns: axis(0, columns.len())?,
            rows: axis(2 * columns.len(), rows.len())?,
        })
    }

    /// Maps (k, h, w), f32 -> (k, new h, new w), f32
    fn enlarge(&self, maps: &Tensor) -> Result<Tensor> {
        let wide = self.columns.blend(maps, 2)?;
        self.rows.blend(&wide, 1)
    }
}

impl Axis {
    /// A product that is exact in f64 and one that is rounded to f32, in a sum that is rounded once to
    /// f64 and once to f32: [`Tap`]'s.
    fn blend(&self, maps: &Tensor, axis: usize) -> Result<Tensor> {
        let along = |weights: &Tensor| match axis {
            1 => weights.reshape((1, (), 1)),
            _ => weights.reshape((1, 1, ())),
        };
        let first = maps.index_select(&self.first, axis)?;
        let first = first
            .to_dtype(DType::F64)?
            .broadcast_mul(&along(&self.first_weight)?)?;
        let second = maps.index_select(&self.second, axis)?;
        let second = second.broadcast_mul(&along(&self.second_weight)?)?;
        (first + second.to_dtype(DType::F64)?)?.to_dtype(DType::F32)
    }
}

#[cfg(test)]
mod tests {
    use candle::Device;

    use super::*;

    fn maps(k: usize, h: usize, w: usize) -> Tensor {
        let values = crate::nn::noise(k * h * w, (h * w) as u32);
        let values = values.into_iter().map(|v| 20. * v).collect();
        Tensor::from_vec(values, (1, k, h, w), &Device::Cpu).unwrap()
    }

    #[test]
    fn masks_that_a_device_makes_are_those_of_the_host() {
        for ((h, w), (height, width), threshold) in [
            ((36, 36), (150, 333), 0.),
            ((36, 36), (64, 64), 1.5),
            ((36, 36), (20, 11), -0.5),
            ((1, 5), (40, 129), 0.),
            ((20, 30), (20, 30), 0.),
            ((3, 3), (1, 1), 0.),
        ] {
            let (logits, size) = (maps(3, h, w), Size::new(width, height));
            let want = masks_on_host(&logits, threshold, size).unwrap();
            assert!(want.iter().any(|mask| !mask.is_empty()) || size.area() == 1);
            let got = masks_on_device(&logits, threshold, size).unwrap();
            assert_eq!(got, want, "{w} x {h} to {size}");
        }
    }

    #[test]
    fn what_is_not_finite_is_an_error_on_a_device_and_on_the_host() {
        for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut values = vec![1f32; 2 * 16];
            values[20] = wrong;
            let logits = Tensor::from_vec(values, (1, 2, 4, 4), &Device::Cpu).unwrap();
            for make in [masks_on_host, masks_on_device] {
                let error = make(&logits, 0., Size::square(9)).unwrap_err();
                assert!(matches!(error, Error::NotFinite { .. }), "{error}");
            }
        }
    }
}
