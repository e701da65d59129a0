//! Masks at the size of an image from low-resolution logits.
//!
//! With CUDA they are enlarged, cut and packed on the device, eight pixels to a byte, with the sums and
//! roundings of [`crate::mask::upsample`]: they equal the masks that the host makes. That takes f64,
//! which Metal does not have; its memory is the host's, where the masks are made then. Very large images
//! stay on the host, too.

mod blends;

use candle::{DType, Device, Tensor};
use rayon::prelude::*;

use blends::{Blends, counts, is_finite, pack};

use crate::device::{download, download_rows, upload};
use crate::mask::Mask;
use crate::mask::stability::StableMask;
use crate::mask::upsample::threshold_upsampled;
use crate::models::Upscaling;
use crate::nn::on_gpu;
use crate::{Error, Result, Size};

/// Pixels of a mask that are enlarged on a device at most: each takes about 40 bytes on the way.
const MAX_PIXELS: usize = 1 << 25;

fn is_made_on(device: &Device, pixels: usize) -> bool {
    on_gpu(device) && !device.is_metal() && pixels <= MAX_PIXELS
}

/// Mask logits (1, k, h, w) -> k masks at the size of the image.
///
/// # Errors
/// [`Error::NotFinite`] for NaN and infinity.
pub(super) fn masks(logits: &Tensor, threshold: f32, size: Size) -> Result<Vec<Mask>> {
    match is_made_on(logits.device(), size.area()) {
        true => masks_on_device(logits, threshold, size),
        false => masks_on_host(logits, threshold, size),
    }
}

fn masks_on_host(logits: &Tensor, threshold: f32, size: Size) -> Result<Vec<Mask>> {
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

fn masks_on_device(logits: &Tensor, threshold: f32, size: Size) -> Result<Vec<Mask>> {
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
            masks.push(unpacked(size, bytes)?);
        }
    }
    Ok(masks)
}

fn unpacked(size: Size, bytes: &[u8]) -> Result<Mask> {
    let mask = Mask::from_packed_rows(size.width, size.height, bytes);
    Ok(mask.ok_or_else(|| candle::Error::msg("a mask of another size"))?)
}

/// How the masks of points and boxes are made: enlarged, and cut at three heights.
pub(super) struct Cut<'a> {
    pub(super) upscaling: &'a Upscaling,
    pub(super) threshold: f64,
    pub(super) offset: f64,
}

impl Cut<'_> {
    /// What `then` makes of each mask and its number. Few masks are held at a time.
    ///
    /// # Errors
    /// [`Error::InvalidMask`] for another number of logits, and those of `then`.
    pub(super) fn each<T: Send>(
        &self,
        low_res_logits: &[&[f32]],
        device: &Device,
        then: impl Fn(usize, StableMask) -> Result<T> + Sync,
    ) -> Result<Vec<T>> {
        let pixels = self.upscaling.steps.iter().map(|step| step.to.area());
        let largest = pixels.fold(self.upscaling.low_res.area(), usize::max);
        if !is_made_on(device, largest) {
            let masks = low_res_logits.par_iter().enumerate();
            return masks
                .map(|(i, logits)| then(i, self.on_host(logits)?))
                .collect();
        }
        let at_a_time = (MAX_PIXELS / largest.max(1)).max(1);
        let mut made = Vec::with_capacity(low_res_logits.len());
        for (chunk, logits) in low_res_logits.chunks(at_a_time).enumerate() {
            let masks = self.on_device(logits, device)?.into_par_iter().enumerate();
            let then = |(i, mask)| then(chunk * at_a_time + i, mask);
            made.extend(masks.map(then).collect::<Result<Vec<T>>>()?);
        }
        Ok(made)
    }

    fn on_host(&self, low_res_logits: &[f32]) -> Result<StableMask> {
        let logits = self.upscaling.run(low_res_logits)?;
        let width = self.upscaling.size().width;
        StableMask::new(&logits, width, self.threshold, self.offset)
    }

    fn on_device(&self, low_res_logits: &[&[f32]], device: &Device) -> Result<Vec<StableMask>> {
        let mut size = self.upscaling.low_res;
        let mut filled = Vec::with_capacity(low_res_logits.len() * size.area());
        for logits in low_res_logits {
            filled.extend_from_slice(&self.upscaling.filled(logits)?);
        }
        let shape = (low_res_logits.len(), size.height, size.width);
        let mut logits = upload(filled, shape, device)?;
        for step in &self.upscaling.steps {
            let sides = [(size.width, step.to.width), (size.height, step.to.height)];
            logits = Blends::new(sides, &logits)?.enlarge(&logits)?;
            logits = logits.narrow(1, 0, step.kept.height)?;
            logits = logits.narrow(2, 0, step.kept.width)?.contiguous()?;
            size = step.kept;
        }
        let above = |threshold: f64| logits.gt(f64::from(threshold as f32));
        let rows = [
            counts(&above(self.threshold + self.offset)?)?,
            counts(&above(self.threshold - self.offset)?)?,
            pack(&above(self.threshold)?)?,
        ];
        let rows = download_rows::<u8>(&Tensor::cat(&rows, 1)?)?;
        let stable = |row: Vec<u8>| match &row[..] {
            [a, b, c, d, e, f, g, h, bytes @ ..] => Ok(StableMask {
                mask: unpacked(size, bytes)?,
                strict: u32::from_le_bytes([*a, *b, *c, *d]) as usize,
                lax: u32::from_le_bytes([*e, *f, *g, *h]) as usize,
            }),
            _ => Err(candle::Error::msg("a mask without its counts").into()),
        };
        rows.into_iter().map(stable).collect()
    }
}

#[cfg(test)]
mod tests {
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
    fn masks_of_clicks_that_a_device_makes_are_those_of_the_host() {
        let low_res = Size::square(36);
        let values = crate::nn::noise(3 * low_res.area(), 7);
        let values: Vec<f32> = values.into_iter().map(|v| 20. * v).collect();
        let maps: Vec<&[f32]> = values.chunks_exact(low_res.area()).collect();
        for (image, max_hole_area, padded) in [
            (Size::new(333, 150), 0, false),
            (Size::new(150, 333), 3, false),
            (Size::new(64, 40), 0, true),
            (Size::new(20, 11), 4, true),
        ] {
            let inside = Size::new(128, 128 * image.height / image.width.max(image.height));
            let mut upscaling = match padded {
                true => Upscaling::padded(low_res, Size::square(128), inside, image),
                false => Upscaling::direct(low_res, image),
            };
            upscaling.max_hole_area = max_hole_area;
            let cut = Cut {
                upscaling: &upscaling,
                threshold: 0.3,
                offset: 1.,
            };
            let got = cut.on_device(&maps, &Device::Cpu).unwrap();
            assert_eq!(got.len(), maps.len());
            for (map, got) in maps.iter().zip(got) {
                let want = cut.on_host(map).unwrap();
                assert!(want.strict < want.mask.area() && want.mask.area() < want.lax);
                assert_eq!(got, want, "{upscaling:?}");
            }
        }
    }

    #[test]
    fn counts_are_exact_beyond_what_one_byte_holds() {
        let above = Tensor::ones((2, 300, 257), DType::U8, &Device::Cpu).unwrap();
        let bytes = counts(&above).unwrap().to_vec2::<u8>().unwrap();
        for bytes in bytes {
            assert_eq!(u32::from_le_bytes(bytes.try_into().unwrap()), 300 * 257);
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
