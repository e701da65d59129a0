//! The building blocks at the sizes at which models spend their time: `cargo bench --bench kernels`.
//!
//! Products also print their share of the rate at which this processor, with as many threads, multiplies
//! and adds f32 in registers. Winograd's convolution needs 2.25 times fewer products than are counted.

use std::hint::black_box;
use std::time::{Duration, Instant};

use candle::{DType, Device, Module, Result, Tensor};
use candle_nn::VarBuilder;
use candle_sam3::Size;
use candle_sam3::image::{Image, resize::resize_bilinear_antialias};
use candle_sam3::mask::upsample::threshold_upsampled;
use candle_sam3::mask::{Mask, Rle};
use candle_sam3::nn::conv::{Conv2d, ConvConfig};
use candle_sam3::nn::conv_transpose::ConvTranspose2x2;
use candle_sam3::nn::{self, Linear, Precision, gelu, layer_norm, sdpa};
use candle_sam3::weights::random;
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, criterion_group, criterion_main};

fn tensor(shape: &[usize]) -> Result<Tensor> {
    Tensor::randn(0f32, 1., shape, &Device::Cpu)
}

fn weights() -> VarBuilder<'static> {
    random(DType::F32, &Device::Cpu, None)
}

/// Operations a second of multiply-adds in registers: the best of a few runs.
fn peak() -> f64 {
    let rate = || {
        let start = Instant::now();
        let operations = nn::multiply_adds(black_box(10_000_000));
        operations / start.elapsed().as_secs_f64()
    };
    (0..5).map(|_| rate()).fold(0., f64::max)
}

/// A benchmark that also prints the rate and its share of [`peak`], measured right before.
fn product<T>(
    group: &mut BenchmarkGroup<WallTime>,
    name: &str,
    multiply_adds: usize,
    run: impl Fn() -> T,
) {
    group.bench_function(name, |b| b.iter(&run));
    let mut wanted = std::env::args().skip(1).filter(|arg| !arg.starts_with('-'));
    if wanted.next().is_some_and(|part| !name.contains(&part)) {
        return;
    }
    let peak = peak();
    let mut seconds: Vec<f64> = (0..5)
        .map(|_| {
            let start = Instant::now();
            black_box(run());
            start.elapsed().as_secs_f64()
        })
        .collect();
    seconds.sort_by(f64::total_cmp);
    let rate = 2. * multiply_adds as f64 / seconds[2];
    println!(
        "{name}: {:.0} GFLOP/s, {:.2} of the peak ({:.0} GFLOP/s in f32)",
        rate / 1e9,
        rate / peak,
        peak / 1e9
    );
}

fn kernels(c: &mut Criterion) {
    tensors(c).expect("every kernel runs on the CPU");
    pixels(c);
}

fn tensors(c: &mut Criterion) -> Result<()> {
    let mut group = c.benchmark_group("kernels");
    group.sample_size(10);
    group.measurement_time(Duration::from_secs(3));

    let tokens = tensor(&[5184, 1024])?; // of SAM 3's trunk
    let linear = Linear::new(&tensor(&[4736, 1024])?, Some(tensor(&[4736])?))?;
    product(
        &mut group,
        "linear_gelu_5184x1024x4736",
        5184 * 1024 * 4736,
        || linear.forward_gelu(black_box(&tokens)),
    );
    let int8 = nn::linear(1024, 4736, random(DType::F32, &Device::Cpu, Some(|_| true)))?;
    product(
        &mut group,
        "linear_gelu_5184x1024x4736_int8",
        5184 * 1024 * 4736,
        || int8.forward_gelu(black_box(&tokens)),
    );
    let norm = layer_norm(1024, 1e-6, weights())?;
    group.bench_function("layer_norm_5184x1024", |b| {
        b.iter(|| norm.forward(black_box(&tokens)))
    });
    group.bench_function("gelu_5184x1024", |b| b.iter(|| gelu(black_box(&tokens))));

    // Of SAM 3's trunk, of its fusion, and of memories in videos, whose values are narrower than their keys.
    for (name, [batch, heads, queries, keys, wide, narrow]) in [
        ("attention_windows_9x16x576x64", [9, 16, 576, 576, 64, 64]),
        ("attention_fusion_8x5184x32", [1, 8, 5184, 5184, 32, 32]),
        (
            "attention_memory_5184x36352x256x64",
            [1, 1, 5184, 36352, 256, 64],
        ),
    ] {
        let q = tensor(&[batch, heads, queries, wide])?;
        let k = tensor(&[batch, heads, keys, wide])?;
        let v = tensor(&[batch, heads, keys, narrow])?;
        let multiply_adds = batch * heads * queries * keys * (wide + narrow);
        product(&mut group, name, multiply_adds, || {
            sdpa(black_box(&q), &k, &v, 0.125, None, Precision::High)
        });
    }

    let map = tensor(&[1, 256, 144, 144])?;
    let dense = Conv2d::new(&tensor(&[256, 256, 3, 3])?, None, ConvConfig::same(3))?;
    product(
        &mut group,
        "conv3x3_256_144",
        256 * 256 * 9 * 144 * 144,
        || dense.forward(black_box(&map)),
    );
    let by_channel = ConvConfig::same(3).with_groups(256);
    let depthwise = Conv2d::new(&tensor(&[256, 1, 3, 3])?, None, by_channel)?;
    group.bench_function("depthwise3x3_256_144", |b| {
        b.iter(|| depthwise.forward(black_box(&map)))
    });
    let trunk = tensor(&[1, 1024, 72, 72])?;
    let up = ConvTranspose2x2::new(1024, 512, weights())?;
    product(
        &mut group,
        "transposed2x2_1024_512_72",
        1024 * 4 * 512 * 72 * 72,
        || up.forward(black_box(&trunk)),
    );
    group.finish();
    Ok(())
}

fn pixels(c: &mut Criterion) {
    let mut group = c.benchmark_group("pixels");
    group.sample_size(10);
    let samples = (0..3 * 1800 * 1200).map(|i| (i / 5 % 251) as u8).collect();
    let image = Image::from_rgb8(1800, 1200, samples).expect("3 samples a pixel");
    group.bench_function("resize_1800x1200_1008", |b| {
        b.iter(|| resize_bilinear_antialias(black_box(&image), 1008, 1008))
    });
    let logits: Vec<f32> = (0..288 * 288)
        .map(|i| ((i % 288) as f32 * 0.05).sin() + (i / 288) as f32 * 0.01 - 1.5)
        .collect();
    group.bench_function("mask_288_1200x1800", |b| {
        b.iter(|| {
            threshold_upsampled(
                black_box(&logits),
                Size::square(288),
                Size::new(1800, 1200),
                0.,
            )
        })
    });
    let mask = Mask::from_fn(1800, 1200, |x, y| (x / 37 + y / 23) % 3 == 0);
    group.bench_function("rle_1800x1200", |b| {
        b.iter(|| Rle::encode(black_box(&mask)))
    });
    group.finish();
}

criterion_group!(benches, kernels);
criterion_main!(benches);
