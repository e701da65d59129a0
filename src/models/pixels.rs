//! The pixels that a network sees, made where it runs.
//!
//! On a GPU an image is sent as it is, 3 bytes a pixel, and resized and normalized there. The sums are
//! those of [`crate::image::transform`], in its order and with its roundings, so both give the same
//! numbers.

use candle::{DType, Device, Result, Tensor, WithDType};

use crate::device::upload;
use crate::image::Image;
use crate::image::passes::{IntegerPass, Pass};
use crate::image::resample;
use crate::image::resize;
use crate::image::transform::{FloatSquare, IMAGENET, LEVELS, LongestSide, Square};
use crate::nn::on_gpu;
use crate::size::Size;

/// [`Square::apply`] on `device`: (1, 3, s, s), f32
///
/// # Errors
/// As of it.
pub(super) fn square(image: &Image, by: Square, device: &Device) -> crate::Result<Tensor> {
    match on_gpu(device) {
        true => square_on_device(image, by, device),
        false => from_host(by.apply(image)?, by.size, device),
    }
}

/// [`FloatSquare::apply`] on `device`: (1, 3, s, s), f32
///
/// # Errors
/// As of it.
pub(super) fn float_square(
    image: &Image,
    by: FloatSquare,
    device: &Device,
) -> crate::Result<Tensor> {
    match on_gpu(device) && by.size > 0 {
        true => Ok(float_square_on_device(image, by, device)?),
        false => from_host(by.apply(image)?, by.size, device),
    }
}

/// [`LongestSide::apply`] on `device`: (1, 3, s, s), f32
///
/// # Errors
/// As of it.
pub(super) fn longest_side(
    image: &Image,
    by: LongestSide,
    device: &Device,
) -> crate::Result<Tensor> {
    match on_gpu(device) {
        true => longest_side_on_device(image, by, device),
        false => from_host(by.apply(image)?, by.size, device),
    }
}

fn from_host(planes: Vec<f32>, size: usize, device: &Device) -> crate::Result<Tensor> {
    Ok(upload(planes, (1, 3, size, size), device)?)
}

fn square_on_device(image: &Image, by: Square, device: &Device) -> crate::Result<Tensor> {
    let passes = resize::bilinear_antialias_passes(image.size(), Size::square(by.size))?;
    let levels = resize_levels(image, &passes, device)?;
    // A step rounds once, even where a device multiplies and adds at a time.
    let shares = (levels * f64::from(1f32 / 255.))?;
    let samples = ((shares - 0.5)? / 0.5)?;
    Ok(samples.unsqueeze(0)?)
}

fn longest_side_on_device(
    image: &Image,
    by: LongestSide,
    device: &Device,
) -> crate::Result<Tensor> {
    let (width, height) = by.resized(image.width(), image.height());
    let passes = resize::pillow_bilinear_passes(image.size(), Size::new(width, height))?;
    let levels = resize_levels(image, &passes, device)?;
    let samples = normalize(&levels, LEVELS)?;
    let padded = samples
        .pad_with_zeros(1, 0, by.size - height)?
        .pad_with_zeros(2, 0, by.size - width)?;
    Ok(padded.unsqueeze(0)?)
}

fn float_square_on_device(image: &Image, by: FloatSquare, device: &Device) -> Result<Tensor> {
    let passes = resample::passes(image.size(), Size::square(by.size));
    let whole = Tensor::full(255f32, (1, 1, 1), device)?;
    let shares = send(image, device)?
        .to_dtype(DType::F32)?
        .broadcast_div(&whole)?;
    let passes: Vec<&Pass<f32>> = passes.iter().collect();
    let resized = resize_by(shares, &passes, |_, sums| Ok(sums))?;
    normalize(&planes(&resized)?, IMAGENET)?.unsqueeze(0)
}

/// Samples of 0..255, resized and rounded: (3, h, w), f32
fn resize_levels(
    image: &Image,
    passes: &[IntegerPass<u32>],
    device: &Device,
) -> crate::Result<Tensor> {
    let constant = |value: u32| Tensor::full(value, (1, 1, 1), device);
    let round = |pass: usize, sums: Tensor| {
        let bits = passes[pass].bits;
        sums.broadcast_add(&constant(1 << (bits - 1))?)?
            .broadcast_div(&constant(1 << bits)?)?
            .broadcast_minimum(&constant(255)?)
    };
    let sums: Vec<&Pass<u32>> = passes.iter().map(|pass| &pass.sums).collect();
    let resized = resize_by(send(image, device)?, &sums, round)?;
    Ok(planes(&resized.to_dtype(DType::F32)?)?)
}

/// The pixels as they are: (h, w, 3), u8
fn send(image: &Image, device: &Device) -> Result<Tensor> {
    let shape = (image.height(), image.width(), 3);
    upload(image.pixels().to_vec(), shape, device)
}

/// (h, w, 3) -> (3, h, w)
fn planes(xs: &Tensor) -> Result<Tensor> {
    xs.permute((2, 0, 1))?.contiguous()
}

/// Runs passes over `xs` (h, w, 3), and `round` on what each one sums.
fn resize_by<W: WithDType>(
    mut xs: Tensor,
    passes: &[&Pass<W>],
    round: impl Fn(usize, Tensor) -> Result<Tensor>,
) -> Result<Tensor> {
    let axis = |pass: &Pass<W>| usize::from(pass.is_horizontal);
    let (mut indices, mut weights) = (vec![], vec![]);
    for pass in passes {
        // No other pass is along the axis.
        indices.extend(pass.indices(xs.dim(axis(pass))?));
        weights.extend(pass.weights_by_tap());
    }
    if indices.is_empty() {
        return Ok(xs);
    }
    let (len, device) = (indices.len(), xs.device().clone());
    let indices = upload(indices, len, &device)?;
    let weights = upload(weights, len, &device)?;
    let mut start = 0;
    for (i, pass) in passes.iter().enumerate() {
        let new = pass.starts.len();
        let along = match axis(pass) {
            0 => (new, 1, 1),
            _ => (1, new, 1),
        };
        let mut sums: Option<Tensor> = None;
        for _ in 0..pass.taps {
            let samples = xs.index_select(&indices.narrow(0, start, new)?, axis(pass))?;
            let weights = weights.narrow(0, start, new)?.reshape(along)?;
            let part = samples.to_dtype(W::DTYPE)?.broadcast_mul(&weights)?;
            sums = Some(match sums {
                None => part,
                Some(sums) => (sums + part)?,
            });
            start += new;
        }
        if let Some(sums) = sums {
            xs = round(i, sums)?;
        }
    }
    Ok(xs)
}

/// Subtracts each channel's mean and divides by its deviation: (3, h, w) -> (3, h, w)
fn normalize(planes: &Tensor, channels: [(f32, f32); 3]) -> Result<Tensor> {
    let of_channels = |values: [f32; 3]| {
        let full = |value| Tensor::full(value, (1, 1, 1), planes.device());
        Tensor::cat(
            &values.map(full).into_iter().collect::<Result<Vec<_>>>()?,
            0,
        )
    };
    planes
        .broadcast_sub(&of_channels(channels.map(|(mean, _)| mean))?)?
        .broadcast_div(&of_channels(channels.map(|(_, std)| std))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: [(usize, usize); 9] = [
        (1, 200),
        (64, 48),
        (48, 48),
        (48, 7),
        (7, 48),
        (3, 200),
        (200, 3),
        (431, 337),
        (1, 1),
    ];

    fn noise(width: usize, height: usize) -> Image {
        let values = crate::nn::noise(3 * width * height, (width * height) as u32);
        let pixels = values.iter().map(|v| ((v + 0.5) * 255.) as u8).collect();
        Image::from_rgb8(width, height, pixels).unwrap()
    }

    fn assert_same(got: &Tensor, want: Vec<f32>, size: usize) {
        assert_eq!(got.dims(), [1, 3, size, size]);
        let got: Vec<f32> = got.flatten_all().unwrap().to_vec1().unwrap();
        let differ = got.iter().zip(&want).filter(|(got, want)| got != want);
        assert_eq!(differ.count(), 0);
    }

    #[test]
    fn pixels_that_a_device_resizes_are_those_of_the_host_to_the_last_bit() {
        for (width, height) in SIZES {
            let (image, size) = (noise(width, height), 48);
            println!("{width}x{height}");
            let by = Square { size };
            let got = square_on_device(&image, by, &Device::Cpu).unwrap();
            assert_same(&got, by.apply(&image).unwrap(), size);
            let by = FloatSquare { size };
            let got = float_square_on_device(&image, by, &Device::Cpu).unwrap();
            assert_same(&got, by.apply(&image).unwrap(), size);
            let by = LongestSide { size };
            if matches!(by.resized(width, height), (0, _) | (_, 0)) {
                assert!(longest_side_on_device(&image, by, &Device::Cpu).is_err());
                continue;
            }
            let got = longest_side_on_device(&image, by, &Device::Cpu).unwrap();
            assert_same(&got, by.apply(&image).unwrap(), size);
        }
    }

    #[test]
    fn no_size_is_refused_on_a_device_too() {
        let image = noise(4, 4);
        assert!(square_on_device(&image, Square { size: 0 }, &Device::Cpu).is_err());
        assert!(float_square(&image, FloatSquare { size: 0 }, &Device::Cpu).is_err());
    }
}
