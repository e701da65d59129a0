//! Empty and non-finite inputs of every layer.

use std::collections::HashMap;

use candle::{DType, Device, Module, Result, Tensor};
use candle_nn::VarBuilder;

use super::conv::{Conv2d, ConvConfig};
use super::conv_transpose::ConvTranspose2x2;
use super::golden::assert_close;
use super::kernels::level::takes_candles_way;
use super::sample::resize_bilinear;
use super::{
    GroupNorm, LayerNorm, Linear, Precision, gelu, group_norm, hard_swish, layer_norm, sdpa,
};

const CHANNELS: usize = 32;
const SIZE: (usize, usize) = (13, 11);

fn random(seed: u32, shape: &[usize]) -> Result<Tensor> {
    let values = super::kernels::random(shape.iter().product(), seed);
    Tensor::from_vec(values, shape, &Device::Cpu)
}

/// A convolution (32 -> 32) and how far a pixel reaches: by its window, or by the tiles it lies in.
fn convolutions() -> Result<Vec<(&'static str, Conv2d, usize)>> {
    let c = CHANNELS;
    let make = |shape: [usize; 4], cfg| {
        let bias = random(2, &[shape[0]])?;
        Conv2d::new(&random(1, &shape)?, Some(bias), cfg)
    };
    let depthwise = ConvConfig::same(3).with_groups(c);
    Ok(vec![
        ("1x1", make([c, c, 1, 1], ConvConfig::default())?, 0),
        ("3x3 by tiles", make([c, c, 3, 3], ConvConfig::same(3))?, 4),
        ("3x3", make([c - 1, c, 3, 3], ConvConfig::same(3))?, 1),
        ("depthwise", make([c, 1, 3, 3], depthwise)?, 1),
    ])
}

fn norms() -> Result<(LayerNorm, GroupNorm)> {
    let vector = |seed| random(seed, &[CHANNELS]);
    let tensors = HashMap::from([
        ("weight".to_string(), vector(5)?),
        ("bias".to_string(), vector(6)?),
    ]);
    let vb = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
    Ok((
        layer_norm(CHANNELS, 1e-5, vb.clone())?,
        group_norm(8, CHANNELS, vb)?,
    ))
}

fn are_numbers(xs: &Tensor) -> Result<Vec<bool>> {
    let values = xs.flatten_all()?.to_vec1::<f32>()?;
    Ok(values.iter().map(|x| x.is_finite()).collect())
}

#[test]
fn an_empty_batch_stays_empty() -> Result<()> {
    let (h, w) = SIZE;
    let images = Tensor::zeros((0, CHANNELS, h, w), DType::F32, &Device::Cpu)?;
    for (name, conv, _) in convolutions()? {
        let dims = conv.forward(&images).map(|ys| ys.dims().to_vec());
        assert_eq!(dims.unwrap()[0], 0, "{name}");
    }
    let transposed =
        ConvTranspose2x2::from_tensors(&random(1, &[CHANNELS, 5, 2, 2])?, random(2, &[5])?)?;
    assert_eq!(
        transposed.forward(&images)?.dims(),
        [0, 5, 2 * h, 2 * w],
        "transposed"
    );
    assert_eq!(resize_bilinear(&images, 20)?.dims(), [0, CHANNELS, 20, 20]);
    let (layer, group) = norms()?;
    assert_eq!(group.forward(&images)?.dims(), images.dims());
    assert_eq!(group.forward_relu(images.copy()?)?.dims(), images.dims());
    assert_eq!(gelu(&images)?.dims(), images.dims());
    assert_eq!(hard_swish(&images)?.dims(), images.dims());
    let tokens = images.flatten_from(2)?.transpose(1, 2)?;
    assert_eq!(layer.forward(&tokens)?.dims(), tokens.dims());
    let linear = Linear::new(&random(1, &[7, CHANNELS])?, None)?;
    assert_eq!(linear.forward(&tokens)?.dims(), [0, h * w, 7]);
    Ok(())
}

#[test]
fn what_is_no_number_stays_within_the_reach_of_its_pixel() -> Result<()> {
    let (h, w) = SIZE;
    let (y, x) = (6, 5);
    let clean = random(3, &[1, CHANNELS, h, w])?;
    for bad in [f32::NAN, f32::INFINITY] {
        let mut values = clean.flatten_all()?.to_vec1::<f32>()?;
        values[(3 * h + y) * w + x] = bad;
        let image = Tensor::from_vec(values, clean.dims(), &Device::Cpu)?;
        for (name, conv, reach) in convolutions()? {
            let want = conv.forward(&clean)?.flatten_all()?.to_vec1::<f32>()?;
            let got = conv.forward(&image)?.flatten_all()?.to_vec1::<f32>()?;
            for (i, (got, want)) in got.iter().zip(&want).enumerate() {
                let (channel, row, column) = (i / (h * w), i / w % h, i % w);
                let distance = row.abs_diff(y).max(column.abs_diff(x));
                let is_depthwise = name == "depthwise";
                if distance > reach || (is_depthwise && channel != 3) {
                    assert_eq!(got, want, "{name}, {bad} at {channel} {row} {column}");
                } else if distance <= reach.min(1) {
                    assert!(
                        !got.is_finite(),
                        "{name}, {bad} at {channel} {row} {column}"
                    );
                }
            }
        }
    }
    Ok(())
}

#[test]
fn what_is_no_number_stays_in_its_row_or_group() -> Result<()> {
    let (layer, group) = norms()?;
    let rows = 21;
    for bad in [f32::NAN, f32::INFINITY] {
        let mut values = super::kernels::random(rows * CHANNELS, 4);
        values[9 * CHANNELS + 5] = bad;
        let xs = Tensor::from_vec(values.clone(), (rows, CHANNELS), &Device::Cpu)?;
        let got = are_numbers(&layer.forward(&xs)?)?;
        for (row, got) in got.chunks(CHANNELS).enumerate() {
            assert_eq!(got.iter().all(|x| *x), row != 9, "{bad}, row {row}");
        }
        // the same number in the second of four channels of a group
        let xs = Tensor::from_vec(values, (1, CHANNELS, 3, 7), &Device::Cpu)?;
        let channel = (9 * CHANNELS + 5) / rows;
        for ys in [group.forward(&xs)?.relu()?, group.forward_relu(xs.copy()?)?] {
            let got = are_numbers(&ys)?;
            for (c, got) in got.chunks(rows).enumerate() {
                let is_apart = c / 4 != channel / 4;
                assert!(!is_apart || got.iter().all(|x| *x), "{bad}, channel {c}");
            }
        }
    }
    Ok(())
}

#[test]
fn activations_of_what_is_no_number() -> Result<()> {
    let xs = Tensor::new(
        &[f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0., -1e30],
        &Device::Cpu,
    )?;
    for (name, ys) in [("gelu", gelu(&xs)?), ("hard swish", hard_swish(&xs)?)] {
        let ys = ys.to_vec1::<f32>()?;
        assert!(ys[0].is_nan(), "{name} {ys:?}");
        assert_eq!(ys[1], f32::INFINITY, "{name} {ys:?}");
        assert!(ys[2] == 0. || ys[2].is_nan(), "{name} {ys:?}"); // -inf * 0, as PyTorch has it
        assert_eq!(ys[3..], [0., 0.], "{name} {ys:?}");
    }
    Ok(())
}

#[test]
#[cfg_attr(miri, ignore = "candle's erf takes minutes")]
fn activations_of_views_and_of_more_than_one_chunk() -> Result<()> {
    let xs = (random(1, &[3, 90, 100])? * 8.)?;
    for xs in [xs.clone(), xs.transpose(0, 2)?, xs.narrow(0, 1, 1)?] {
        let exact = xs.to_dtype(DType::F64)?; // takes candle's functions
        for function in [gelu, hard_swish] {
            let want = function(&exact)?.to_dtype(DType::F32)?;
            assert_close(&function(&xs)?, &want, 1e-6);
        }
    }
    Ok(())
}

/// Each of these sizes has a product that wraps around to a small number.
#[test]
fn results_that_no_memory_holds_are_errors() -> Result<()> {
    if takes_candles_way() {
        return Ok(()); // candle does not check
    }
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu);
    let conv = |weight: &[usize], padding| {
        let cfg = ConvConfig {
            padding,
            ..ConvConfig::default()
        };
        Conv2d::new(&zeros(weight)?, None, cfg)
    };
    let image = zeros(&[1, 1, 2, 2])?;
    let wide = conv(&[6_148_914_691_236_517_208, 0, 1, 1], 0)?;
    assert!(wide.forward(&zeros(&[1, 0, 1, 3])?).is_err());
    for padding in [(1 << 30) - 1, usize::MAX / 2, usize::MAX] {
        assert!(conv(&[4, 1, 1, 1], padding)?.forward(&image).is_err());
    }
    let depthwise = ConvConfig {
        padding: (1 << 31) - 1,
        ..ConvConfig::default()
    };
    let depthwise = Conv2d::new(&zeros(&[1, 1, 1, 1])?, None, depthwise)?;
    assert!(depthwise.forward(&image).is_err());
    let last = image.reshape((1, 2, 2, 1))?;
    assert!(depthwise.forward_channels_last(&last).is_err());

    let (q, k) = (zeros(&[1, 1, 1 << 62, 0])?, zeros(&[1, 1, 3, 0])?);
    let v = zeros(&[1, 1, 3, 4])?;
    assert!(sdpa(&q, &k, &v, 1., None, Precision::High).is_err());

    let linear = Linear::new(&zeros(&[1 << 32, 0])?, None)?;
    assert!(linear.forward(&zeros(&[1 << 32, 0])?).is_err());
    Ok(())
}

#[test]
fn a_padding_wider_than_the_kernel_gives_zeros_around() -> Result<()> {
    let cfg = ConvConfig {
        padding: 4,
        ..ConvConfig::default()
    };
    let weight = random(1, &[3, 1, 3, 3])?;
    let conv = Conv2d::new(&weight, None, cfg.with_groups(3))?;
    let image = random(2, &[1, 3, 5, 4])?;
    let want = conv.forward(&image)?;
    let got = conv.forward_channels_last(&image.permute((0, 2, 3, 1))?)?;
    assert_close(&got.permute((0, 3, 1, 2))?, &want, 1e-6);
    Ok(())
}
