//! Sampling of feature maps: resizes and regions of interest.

use std::ops::Range;

use candle::{DType, Device, Result, Tensor};
use rayon::prelude::*;

use super::{cpu_slice, on_cpu_in_f32};
use crate::device::upload;

/// Bilinear without antialiasing, pixels as areas (`align_corners=False`): (b, c, h, w) ->
/// (b, c, side, side). A map of that size comes back as it is.
pub fn resize_bilinear(xs: &Tensor, side: usize) -> Result<Tensor> {
    let (b, c, h, w) = xs.dims4()?;
    if (h, w) == (side, side) {
        return Ok(xs.clone());
    }
    if h * w * side == 0 || !on_cpu_in_f32(xs) {
        return xs.upsample_bilinear2d(side, side, false);
    }
    let (rows, columns) = (taps(h, side), taps(w, side));
    let xs = xs.contiguous()?;
    let (storage, layout) = xs.storage_and_layout();
    let xs = &cpu_slice(&storage, layout)?[..b * c * h * w];
    let mut out = vec![0f32; b * c * side * side];
    out.par_chunks_mut(side * side)
        .zip(xs.par_chunks(h * w))
        .for_each_init(
            || vec![0f32; h * side],
            |narrow, (out, plane)| {
                for (to, line) in narrow.chunks_exact_mut(side).zip(plane.chunks_exact(w)) {
                    for (x, tap) in to.iter_mut().zip(&columns) {
                        *x = tap.blend(line[tap.first], line[tap.second]);
                    }
                }
                for (to, tap) in out.chunks_exact_mut(side).zip(&rows) {
                    let first = &narrow[tap.first * side..][..side];
                    let second = &narrow[tap.second * side..][..side];
                    for ((x, a), b) in to.iter_mut().zip(first).zip(second) {
                        *x = tap.blend(*a, *b);
                    }
                }
            },
        );
    Tensor::from_vec(out, (b, c, side, side), &Device::Cpu)
}

/// The two samples that a sample of the result lies between, and how much of the second.
struct Tap {
    first: usize,
    second: usize,
    weight: f32,
}

impl Tap {
    #[inline(always)]
    fn blend(&self, first: f32, second: f32) -> f32 {
        first * (1. - self.weight) + second * self.weight
    }
}

fn taps(old: usize, new: usize) -> Vec<Tap> {
    let scale = old as f32 / new as f32;
    let tap = |i: usize| {
        let position = (scale * (i as f32 + 0.5) - 0.5).max(0.);
        let first = (position as usize).min(old - 1);
        Tap {
            first,
            second: (first + 1).min(old - 1),
            weight: position - first as f32,
        }
    };
    (0..new).map(tap).collect()
}

/// `xs` (1, c, h, w) repeated to the size of `level` (1, c, H, W), whole multiples of it, and added
/// to it: nearest-neighbour upsampling and a sum in one pass.
pub fn upsample_nearest_add(xs: &Tensor, level: &Tensor) -> Result<Tensor> {
    let ((b, c, h, w), (_, _, to_h, to_w)) = (xs.dims4()?, level.dims4()?);
    let is_multiple = to_h.is_multiple_of(h.max(1)) && to_w.is_multiple_of(w.max(1));
    let is_one = b == 1 && c * h * w > 0 && level.dims()[..2] == [1, c];
    if !(is_one && is_multiple && on_cpu_in_f32(xs) && on_cpu_in_f32(level)) {
        return xs.upsample_nearest2d(to_h, to_w)?.broadcast_add(level);
    }
    let (down, across) = (to_h / h, to_w / w);
    let (xs, level) = (xs.contiguous()?, level.contiguous()?);
    let ((xs, xs_layout), (level, level_layout)) =
        (xs.storage_and_layout(), level.storage_and_layout());
    let xs = &cpu_slice(&xs, xs_layout)?[..c * h * w];
    let level = &cpu_slice(&level, level_layout)?[..c * to_h * to_w];
    let mut out = vec![0f32; c * to_h * to_w];
    out.par_chunks_mut(to_h * to_w)
        .zip(level.par_chunks(to_h * to_w))
        .zip(xs.par_chunks(h * w))
        .for_each(|((out, level), plane)| {
            let lines = out.chunks_exact_mut(to_w).zip(level.chunks_exact(to_w));
            for (y, (out, level)) in lines.enumerate() {
                let line = &plane[y / down * w..][..w];
                let spans = out.chunks_exact_mut(across).zip(level.chunks_exact(across));
                for ((out, level), x) in spans.zip(line) {
                    for (o, l) in out.iter_mut().zip(level) {
                        *o = x + l;
                    }
                }
            }
        });
    Tensor::from_vec(out, (1, c, to_h, to_w), &Device::Cpu)
}

/// The largest of every two by two pixels, channels last: (b, h, w, c) -> (b, h / 2, w / 2, c)
///
/// # Errors
/// For an odd side.
pub fn max_pool_2x2(xs: &Tensor) -> Result<Tensor> {
    let (b, h, w, c) = xs.dims4()?;
    if !h.is_multiple_of(2) || !w.is_multiple_of(2) {
        candle::bail!("a {w} x {h} map does not divide into two by two pixels");
    }
    let (to_h, to_w) = (h / 2, w / 2);
    let xs = xs.contiguous()?;
    if xs.elem_count() == 0 || !on_cpu_in_f32(&xs) {
        let larger = |xs: Tensor| xs.narrow(1, 0, 1)?.maximum(&xs.narrow(1, 1, 1)?);
        let rows = larger(xs.reshape((b * to_h, 2, w * c))?)?;
        let pixels = larger(rows.reshape((b * to_h * to_w, 2, c))?)?;
        return pixels.reshape((b, to_h, to_w, c));
    }
    let (storage, layout) = xs.storage_and_layout();
    let xs = cpu_slice(&storage, layout)?;
    let mut out = vec![0f32; b * to_h * to_w * c];
    out.par_chunks_mut(to_w * c)
        .zip(xs.par_chunks(2 * w * c))
        .for_each(|(out, lines)| {
            let (upper, lower) = lines.split_at(w * c);
            let pairs = upper.chunks_exact(2 * c).zip(lower.chunks_exact(2 * c));
            for (out, (upper, lower)) in out.chunks_exact_mut(c).zip(pairs) {
                for (i, o) in out.iter_mut().enumerate() {
                    *o = upper[i].max(upper[c + i]).max(lower[i].max(lower[c + i]));
                }
            }
        });
    Tensor::from_vec(out, (b, to_h, to_w, c), &Device::Cpu)
}

/// Pools each box to `size` x `size`: `features` (c, h, w) -> (boxes, c, size, size).
///
/// Boxes are x0, y0, x1, y1 in cells of the map. Equals torchvision's `roi_align` with
/// `aligned=False` and `sampling_ratio=-1`: no half-pixel shift, a side of at least 1 cell, and
/// `ceil(side / size)` samples per bin and axis. Samples more than one cell outside count as 0.
///
/// The samples form a grid, so pooling is separable: two small matrices per box multiply the map,
/// on whatever device it lives.
pub fn roi_align(features: &Tensor, boxes: &[[f32; 4]], size: usize) -> Result<Tensor> {
    let (c, h, w) = features.dims3()?;
    let (dtype, device) = (features.dtype(), features.device());
    let features = features.to_dtype(DType::F32)?.contiguous()?;
    let weights = boxes.iter().flat_map(|[x0, y0, x1, y1]| {
        let along_x = bin_weights(*x0, *x1, w, size);
        along_x.into_iter().chain(bin_weights(*y0, *y1, h, size))
    });
    let weights = upload(
        weights.collect::<Vec<f32>>(),
        (boxes.len(), size * (w + h)),
        device,
    )?;
    let mut pooled = Vec::with_capacity(boxes.len());
    for i in 0..boxes.len() {
        let weights = weights.get(i)?;
        let along_x = weights.narrow(0, 0, size * w)?.reshape((size, w))?;
        let along_y = weights.narrow(0, size * w, size * h)?.reshape((size, h))?;
        let rows = features.reshape((c * h, w))?.matmul(&along_x.t()?)?; // (c h, size)
        let rows = rows.reshape((c, h, size))?;
        let bins = along_y.broadcast_left(c)?.contiguous()?.matmul(&rows)?; // (c, size, size)
        pooled.push(bins);
    }
    match pooled.is_empty() {
        true => Tensor::zeros((0, c, size, size), dtype, device),
        false => Tensor::stack(&pooled, 0)?.to_dtype(dtype),
    }
}

/// How much each of `len` cells contributes to each of `size` bins between `start` and `end`:
/// (size, len), row-major.
///
/// The time depends on `len`, however large the box is: only samples on the map are visited.
fn bin_weights(start: f32, end: f32, len: usize, size: usize) -> Vec<f32> {
    let extent = (end - start).max(1.);
    let bin = extent / size as f32;
    let samples = (extent / size as f32).ceil() as usize;
    let mut weights = vec![0f32; size * len];
    for (p, row) in weights.chunks_mut(len.max(1)).enumerate() {
        let position = |i: usize| start + p as f32 * bin + (i as f32 + 0.5) * bin / samples as f32;
        let mut i = first(0..samples, |i| position(i) >= -1. || position(i).is_nan());
        while i < samples {
            let at = position(i);
            if at > len as f32 {
                break;
            }
            // Far from 0, f32 has one position for many samples.
            let next = match i + 1 < samples && position(i + 1) > at {
                true => i + 1,
                false => first(i + 1..samples, |i| position(i) > at),
            };
            let count = (next - i) as f32;
            i = next;
            let at = at.max(0.);
            let low = (at as usize).min(len - 1);
            let fraction = if low + 1 < len { at - low as f32 } else { 0. };
            row[low] += (1. - fraction) * count / samples as f32;
            if fraction > 0. {
                row[low + 1] += fraction * count / samples as f32;
            }
        }
    }
    weights
}

/// The first index for which a condition holds that then holds for all that follow, or the end.
fn first(range: Range<usize>, holds: impl Fn(usize) -> bool) -> usize {
    let Range { mut start, mut end } = range;
    while start < end {
        let middle = start + (end - start) / 2;
        match holds(middle) {
            true => end = middle,
            false => start = middle + 1,
        }
    }
    start
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::golden::{Golden, assert_close};
    use candle::Device;

    #[test]
    fn equals_torchvision_on_tiny_huge_and_outlying_boxes() -> Result<()> {
        let golden = Golden::open("roi_align");
        let boxes = golden.tensor("in.boxes").to_vec2::<f32>()?;
        let boxes: Vec<[f32; 4]> = boxes.iter().map(|b| [b[0], b[1], b[2], b[3]]).collect();
        let got = roi_align(&golden.tensor("in.features").squeeze(0)?, &boxes, 7)?;
        assert_close(&got, &golden.tensor("out.regions"), 1e-5);
        Ok(())
    }

    #[test]
    fn resizes_equal_pytorchs() -> Result<()> {
        let golden = Golden::open("interpolate");
        let mut cases = 0;
        for name in golden.names().filter(|name| name.starts_with("out.")) {
            let [_, mode, input, size] = name.split('.').collect::<Vec<_>>()[..] else {
                panic!("{name}");
            };
            let (h, w) = size.split_once('x').unwrap();
            let (h, w) = (h.parse().unwrap(), w.parse().unwrap());
            let xs = golden.tensor(&format!("in.{input}"));
            let want = golden.tensor(name);
            let got = match mode {
                "bilinear" if h == w => {
                    assert_close(&xs.upsample_bilinear2d(h, w, false)?, &want, 1e-6);
                    resize_bilinear(&xs, h)?
                }
                "bilinear" => xs.upsample_bilinear2d(h, w, false)?,
                _ => upsample_nearest_add(&xs, &want.zeros_like()?)?,
            };
            assert_close(&got, &want, 1e-6);
            cases += 1;
        }
        assert!(cases >= 6, "{cases}");
        Ok(())
    }

    #[test]
    fn the_largest_of_four_pixels_is_that_of_each_channel() -> Result<()> {
        let xs = Tensor::randn(0f32, 1., (2, 6, 4, 3), &Device::Cpu)?;
        let want = xs.permute((0, 3, 1, 2))?.max_pool2d(2)?;
        let want = want.permute((0, 2, 3, 1))?;
        assert_close(&max_pool_2x2(&xs)?, &want, 0.);
        let part = xs.narrow(3, 1, 2)?; // not contiguous
        assert_close(&max_pool_2x2(&part)?, &want.narrow(3, 1, 2)?, 0.);
        // the way of a GPU
        let wide = max_pool_2x2(&xs.to_dtype(DType::F64)?)?;
        assert_close(&wide, &want, 0.);
        assert!(max_pool_2x2(&xs.narrow(1, 0, 5)?).is_err());
        Ok(())
    }

    #[test]
    fn a_constant_map_pools_to_the_constant() -> Result<()> {
        let map = Tensor::full(2f32, (3, 5, 6), &Device::Cpu)?;
        let got = roi_align(
            &map,
            &[[1., 1., 4., 3.], [0., 0., 6., 5.], [2., 2., 2.1, 2.1]],
            7,
        )?;
        assert_eq!(got.dims(), [3, 3, 7, 7]);
        let off = (got - 2.)?.abs()?.max_all()?.to_scalar::<f32>()?;
        assert!(off < 1e-5, "{off}");
        Ok(())
    }

    #[test]
    fn a_box_far_outside_pools_to_zero() -> Result<()> {
        let map = Tensor::full(2f32, (1, 4, 4), &Device::Cpu)?;
        let got = roi_align(&map, &[[-30., -30., -20., -20.]], 7)?;
        assert_eq!(got.abs()?.max_all()?.to_scalar::<f32>()?, 0.);
        Ok(())
    }

    #[test]
    fn a_box_with_far_corners_ends_soon() -> Result<()> {
        let map = Tensor::full(2f32, (1, 4, 4), &Device::Cpu)?;
        for far in [1e6, 1e9, 1e12, 1e18, 1e30, f32::MAX] {
            let boxes = [
                [0., 0., far, far],
                [-far, -far, far, far],
                [-far, 1., 2., 2.],
            ];
            let got = roi_align(&map, &boxes, 7)?
                .flatten_all()?
                .to_vec1::<f32>()?;
            assert!(
                got.iter().all(|x| (0.0..2.001).contains(x)),
                "{far:e}: {got:?}"
            );
        }
        Ok(())
    }

    #[test]
    fn no_boxes_pool_to_nothing() -> Result<()> {
        let map = Tensor::full(2f32, (1, 4, 4), &Device::Cpu)?;
        assert_eq!(roi_align(&map, &[], 7)?.dims(), [0, 1, 7, 7]);
        Ok(())
    }
}
