//! Convolutions, channels first (b, c, h, w).
//!
//! Every convolution of every model goes through [`Conv2d`], so that a faster kernel is put in
//! here and nowhere else. BatchNorm never runs: [`conv2d_bn`] folds it into the convolution
//! before it when the weights are loaded.

mod batch_norm;
mod depthwise;
mod mixer;

use std::fmt;
use std::sync::Arc;

use candle::{DType, Device, Module, Result, Tensor};
use candle_nn::VarBuilder;

use super::int8::Int8Rows;
use super::kernels::convolution::{self, PackedKernel};
use super::kernels::epilogue::{Activation, Bias, Epilogue};
use super::kernels::int8::{self, Int8Weight};
use super::kernels::view::elements;
use super::kernels::window::Window;
use super::kernels::winograd::{self, TransformedKernel};
use super::precision::Precision;
use super::{activate, cpu_slice, on_cpu_in_f32, on_host, values};
use crate::run;

pub use batch_norm::{BatchNorm, batch_norm, conv2d_bn, get_f64, loaded, pointwise_bn};
pub use depthwise::depthwise_conv1d;
pub use mixer::ChannelMixer;

/// How a square convolution window moves over the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConvConfig {
    /// Step between two windows, in pixels.
    pub stride: usize,
    /// Zeros added on each of the four sides.
    pub padding: usize,
    /// Number of independent groups of channels; all channels make it depthwise.
    pub groups: usize,
}

impl Default for ConvConfig {
    /// Stride 1, no padding, one group.
    fn default() -> Self {
        Self {
            stride: 1,
            padding: 0,
            groups: 1,
        }
    }
}

impl ConvConfig {
    /// Stride 1 with the padding that keeps the size under an odd `kernel`.
    pub fn same(kernel: usize) -> Self {
        Self {
            padding: kernel / 2,
            ..Self::default()
        }
    }

    /// The same window with another stride.
    pub fn with_stride(self, stride: usize) -> Self {
        Self { stride, ..self }
    }

    /// The same window with another number of groups.
    pub fn with_groups(self, groups: usize) -> Self {
        Self { groups, ..self }
    }
}

/// A 2-D convolution: (b, in, h, w) -> (b, out, h', w').
///
/// On the CPU in f32 a dense weight is packed when the layer is built, and only kept that way.
#[derive(Debug, Clone)]
pub struct Conv2d {
    weight: Weight,
    /// (out)
    bias: Option<Tensor>,
    cfg: ConvConfig,
}

#[derive(Clone)]
enum Weight {
    /// (out, in / groups, kernel, kernel)
    Plain(Tensor),
    Packed(Arc<PackedKernel>),
    Transformed(Arc<TransformedKernel>),
    /// (out, in), of a 1x1 convolution.
    Int8(Arc<Int8Weight>),
}

impl fmt::Debug for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(weight) => write!(f, "{:?}", weight.dims()),
            Self::Packed(kernel) => write!(f, "{:?} packed", kernel.dims()),
            Self::Transformed(kernel) => write!(f, "{:?} transformed", kernel.dims()),
            Self::Int8(weight) => write!(f, "{:?} of 8 bits", weight.dims()),
        }
    }
}

impl Conv2d {
    /// A convolution from its `weight` (out, in / groups, kernel, kernel) and `bias` (out).
    pub fn new(weight: &Tensor, bias: Option<Tensor>, cfg: ConvConfig) -> Result<Self> {
        let weight = match cfg.groups == 1 && on_cpu_in_f32(weight) {
            true => prepare(weight, &cfg)?,
            false => Weight::Plain(super::without_gaps(weight)?),
        };
        Ok(Self { weight, bias, cfg })
    }

    /// A 1x1 convolution from a weight of 8 bits and its `bias` (out).
    fn from_int8(rows: &Int8Rows, bias: Option<Tensor>) -> Result<Self> {
        let cfg = ConvConfig::default();
        // Turning activations that lie channels first into bytes takes longer than the bytes save over bf16.
        if let Some(weight) = rows.for_bf16()? {
            let (out, input) = weight.dims2()?;
            return Self::new(&weight.reshape((out, input, 1, 1))?, bias, cfg);
        }
        Ok(Self {
            weight: Weight::Int8(Arc::new(rows.pack()?)),
            bias,
            cfg,
        })
    }

    /// The convolution, then GELU with the error function.
    pub fn forward_gelu(&self, xs: &Tensor) -> Result<Tensor> {
        self.run(xs, Activation::Gelu)
    }

    /// The convolution, then [`hard_swish`](super::hard_swish).
    pub fn forward_hard_swish(&self, xs: &Tensor) -> Result<Tensor> {
        self.run(xs, Activation::HardSwish)
    }

    /// A depthwise convolution with channels last: (b, h, w, c) -> (b, h', w', c).
    pub fn forward_channels_last(&self, xs: &Tensor) -> Result<Tensor> {
        self.run_channels_last(xs, Activation::Identity)
    }

    /// [`Self::forward_channels_last`], then GELU with the error function.
    pub fn forward_gelu_channels_last(&self, xs: &Tensor) -> Result<Tensor> {
        self.run_channels_last(xs, Activation::Gelu)
    }

    fn run_channels_last(&self, xs: &Tensor, activation: Activation) -> Result<Tensor> {
        match &self.weight {
            Weight::Plain(weight) if is_depthwise(weight, &self.cfg)? && on_cpu_in_f32(xs) => {
                let bias = self.bias.as_ref();
                depthwise::depthwise_channels_last(xs, weight, bias, self.window(), activation)
            }
            _ => {
                let xs = xs.permute((0, 3, 1, 2))?.contiguous()?;
                let ys = self.run(&xs, activation)?;
                ys.permute((0, 2, 3, 1))?.contiguous()
            }
        }
    }

    /// (out, in), of a dense 1x1 convolution.
    fn pointwise_dims(&self) -> Option<(usize, usize)> {
        let dims = match &self.weight {
            Weight::Plain(weight) => weight.dims4().ok()?.into(),
            Weight::Packed(kernel) => kernel.dims(),
            Weight::Transformed(kernel) => kernel.dims(),
            Weight::Int8(weight) => [weight.dims().0, weight.dims().1, 1, 1],
        };
        match dims {
            [out, input, 1, 1] if self.cfg == ConvConfig::default() => Some((out, input)),
            _ => None,
        }
    }

    fn window(&self) -> Window {
        let ConvConfig {
            stride, padding, ..
        } = self.cfg;
        Window {
            stride: (stride, stride),
            padding: (padding, padding),
        }
    }

    fn run(&self, xs: &Tensor, activation: Activation) -> Result<Tensor> {
        run::check()?;
        let (window, bias) = (self.window(), self.bias.as_ref());
        match &self.weight {
            Weight::Plain(weight) => activate(&self.forward_plain(weight, xs)?, activation),
            Weight::Packed(kernel) => {
                dense(xs, kernel.dims(), window, bias, |image, size, bias| {
                    convolution::conv2d(image, size, kernel, window, &by_rows(bias, activation))
                })
            }
            Weight::Int8(weight) => {
                let (out, input) = weight.dims();
                let dims = [out, input, 1, 1];
                dense(xs, dims, window, bias, |image, (h, w), bias| {
                    let epilogue = by_rows(bias, activation);
                    let ys = int8::pointwise(image, elements(&[h, w])?, weight, &epilogue)?;
                    Ok((ys, (h, w)))
                })
            }
            Weight::Transformed(kernel) => {
                dense(xs, kernel.dims(), window, bias, |image, size, bias| {
                    let ys = winograd::conv3x3(image, size, kernel, bias, activation)?;
                    Ok((ys, size))
                })
            }
        }
    }

    /// Any weight on any device.
    fn forward_plain(&self, weight: &Tensor, xs: &Tensor) -> Result<Tensor> {
        if is_depthwise(weight, &self.cfg)? {
            return depthwise::depthwise_conv2d(xs, weight, self.bias.as_ref(), self.window());
        }
        let ConvConfig {
            stride,
            padding,
            groups,
        } = self.cfg;
        let ys = if weight.dims()[2..] == [1, 1] && stride == 1 && padding == 0 {
            pointwise(xs, weight, groups)?
        } else if lacks_half_precision(xs) {
            let dtype = xs.dtype();
            let (xs, weight) = (xs.to_dtype(DType::F32)?, weight.to_dtype(DType::F32)?);
            xs.conv2d(&weight, padding, stride, 1, groups)?
                .to_dtype(dtype)?
        } else {
            xs.conv2d(weight, padding, stride, 1, groups)?
        };
        match &self.bias {
            Some(bias) => ys.broadcast_add(&bias.reshape((1, (), 1, 1))?),
            None => Ok(ys),
        }
    }
}

impl Module for Conv2d {
    /// (b, in, h, w) -> (b, out, h', w')
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        self.run(xs, Activation::Identity)
    }
}

/// Whether candle has no good convolution for the type of `xs` on its device: none for half precision
/// on the CPU, and through cuDNN sums in f16 for f16.
fn lacks_half_precision(xs: &Tensor) -> bool {
    match xs.dtype() {
        DType::F32 => false,
        DType::F16 if cfg!(feature = "cudnn") => !xs.device().is_metal(),
        _ => xs.device().is_cpu(),
    }
}

/// Whether every channel has its own kernel.
fn is_depthwise(weight: &Tensor, cfg: &ConvConfig) -> Result<bool> {
    let (out, in_per_group, _, _) = weight.dims4()?;
    Ok(in_per_group == 1 && cfg.groups == out)
}

/// A 1x1 convolution is a product of matrices: (g, out/g, in/g) x (b * g, in/g, h * w).
fn pointwise(xs: &Tensor, weight: &Tensor, g: usize) -> Result<Tensor> {
    let (b, _, h, w) = xs.dims4()?;
    let (out, in_per_group, _, _) = weight.dims4()?;
    let xs = xs.contiguous()?.reshape((b * g, in_per_group, h * w))?;
    let weight = weight.reshape((g, out / g, in_per_group))?;
    let weight = match (b, g) {
        (1, _) => weight,
        (_, 1) => weight.expand((b, out, in_per_group))?,
        _ => weight.repeat((b, 1, 1))?,
    };
    weight.matmul(&xs)?.reshape((b, out, h, w))
}

/// Fewer channels are not worth the detour over transformed tiles.
const TRANSFORMED_CHANNELS: usize = 32;
/// Transformed weights are four times as large; more than this many kernels would cost more memory than
/// the time is worth. A student's head has as many: 151 MB.
const TRANSFORMED_WEIGHTS: usize = 1 << 20;

/// A dense weight on the CPU in f32 in the form that its convolution reads.
fn prepare(weight: &Tensor, cfg: &ConvConfig) -> Result<Weight> {
    let (out, channels, side, width) = weight.dims4()?;
    if side != width {
        candle::bail!("a kernel of {side} x {width} is not square");
    }
    let values = on_host::<f32>(weight)?;
    let precision = Precision::current();
    let is_transformed = precision != Precision::Highest
        && *cfg == ConvConfig::same(3)
        && side == 3
        && out.min(channels) >= TRANSFORMED_CHANNELS
        && out * channels <= TRANSFORMED_WEIGHTS;
    let format = precision.format();
    Ok(match is_transformed {
        true => {
            let kernel = TransformedKernel::new(&values, out, channels, format);
            Weight::Transformed(Arc::new(kernel))
        }
        false => {
            let kernel = PackedKernel::new(&values, out, channels, side, format);
            Weight::Packed(Arc::new(kernel))
        }
    })
}

/// An epilogue of a bias for each channel.
fn by_rows(bias: Option<&[f32]>, activation: Activation) -> Epilogue<'_> {
    Epilogue {
        bias: bias.map_or(Bias::None, Bias::Rows),
        activation,
        residual: None,
    }
}

/// A dense convolution on the CPU in f32, image by image: `run` takes an image (c, h, w), its size
/// and the bias to an image and its size.
fn dense(
    xs: &Tensor,
    [out, channels, rows, columns]: [usize; 4],
    window: Window,
    bias: Option<&Tensor>,
    run: impl Fn(&[f32], (usize, usize), Option<&[f32]>) -> Result<(Vec<f32>, (usize, usize))>,
) -> Result<Tensor> {
    let (b, c, h, w) = xs.dims4()?;
    if c != channels || !on_cpu_in_f32(xs) {
        candle::bail!(
            "a convolution of {channels} channels got {:?} {:?}",
            xs.dtype(),
            xs.dims()
        );
    }
    let bias = values(bias)?;
    let xs = xs.contiguous()?;
    let (storage, layout) = xs.storage_and_layout();
    let xs = cpu_slice(&storage, layout)?;
    let images = (0..b).map(|i| {
        let image = &xs[i * c * h * w..][..c * h * w];
        let (ys, (oh, ow)) = run(image, (h, w), bias.as_deref())?;
        Tensor::from_vec(ys, (1, out, oh, ow), &Device::Cpu)
    });
    match &images.collect::<Result<Vec<_>>>()?[..] {
        [] => {
            let (oh, ow) = window.output_size((h, w), (rows, columns))?;
            Tensor::zeros((0, out, oh, ow), DType::F32, &Device::Cpu)
        }
        [image] => Ok(image.clone()),
        images => Tensor::cat(images, 0),
    }
}

/// A convolution with bias: `weight` (out, in / groups, kernel, kernel), `bias` (out).
pub fn conv2d(
    in_channels: usize,
    out_channels: usize,
    kernel: usize,
    cfg: ConvConfig,
    vb: VarBuilder,
) -> Result<Conv2d> {
    let bias = vb.get(out_channels, "bias")?;
    let conv = conv2d_no_bias(in_channels, out_channels, kernel, cfg, vb)?;
    Ok(Conv2d {
        bias: Some(bias),
        ..conv
    })
}

/// A convolution without bias: `weight` (out, in / groups, kernel, kernel).
pub fn conv2d_no_bias(
    in_channels: usize,
    out_channels: usize,
    kernel: usize,
    cfg: ConvConfig,
    vb: VarBuilder,
) -> Result<Conv2d> {
    if let Some(rows) = int8_rows(in_channels, out_channels, kernel, cfg, &vb)? {
        return Conv2d::from_int8(&rows, None);
    }
    let shape = (out_channels, in_channels / cfg.groups, kernel, kernel);
    Conv2d::new(&vb.get(shape, "weight")?, None, cfg)
}

/// The weight of 8 bits of a convolution that has one: 1x1 convolutions only, each pixel a row.
fn int8_rows(
    in_channels: usize,
    out_channels: usize,
    kernel: usize,
    cfg: ConvConfig,
    vb: &VarBuilder,
) -> Result<Option<Int8Rows>> {
    match kernel == 1 && cfg == ConvConfig::default() {
        true => Int8Rows::read(&[out_channels, in_channels, 1, 1], "weight", vb),
        false => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::golden::assert_close;
    use crate::nn::kernels::level::{has_fast_bf16, takes_candles_way};
    use crate::nn::{gelu, hard_swish};

    pub(super) fn random(shape: &[usize]) -> Tensor {
        Tensor::randn(0f32, 1., shape, &Device::Cpu).unwrap()
    }

    pub(super) fn assert_equal(got: &Tensor, want: &Tensor) {
        assert_close(got, want, 2e-6);
    }

    #[test]
    fn the_zeros_of_a_survey_take_no_memory() {
        let zeros = Tensor::zeros((), DType::F64, &Device::Cpu).unwrap();
        let zeros = zeros.broadcast_as((1 << 20, 1 << 20, 1, 1)).unwrap(); // 8 TiB
        Conv2d::new(&zeros, None, ConvConfig::default()).unwrap();
    }

    #[test]
    fn a_convolution_of_eight_bits_is_near_the_one_it_stands_for() {
        if takes_candles_way() {
            return; // weights of 8 bits are refused there
        }
        let values = crate::nn::kernels::random(40 * 24, 1);
        let bytes: Vec<u8> = values.iter().map(|x| (x * 254.) as i8 as u8).collect();
        let exact: Vec<f32> = bytes.iter().map(|b| f32::from(*b as i8) / 64.).collect();
        let exact = Tensor::from_vec(exact, (40, 24, 1, 1), &Device::Cpu).unwrap();
        let norm = |name: &str, values: Tensor| (format!("bn.{name}"), values);
        let weight = Tensor::from_vec(bytes, (40, 24, 1, 1), &Device::Cpu).unwrap();
        let tensors = [
            ("weight".to_string(), weight),
            (
                "weight_scale".to_string(),
                Tensor::full(1f32 / 64., 40, &Device::Cpu).unwrap(),
            ),
            norm("weight", random(&[40])),
            norm("bias", random(&[40])),
            norm("running_mean", random(&[40])),
            norm("running_var", random(&[40]).sqr().unwrap()),
        ];
        let mut tensors = std::collections::HashMap::from(tensors);
        let cfg = ConvConfig::default();
        let convolutions = |tensors: &std::collections::HashMap<_, _>| {
            let vb = VarBuilder::from_tensors(tensors.clone(), DType::F32, &Device::Cpu);
            let folded = conv2d_bn(24, 40, 1, cfg, vb.clone(), vb.pp("bn")).unwrap();
            [conv2d_no_bias(24, 40, 1, cfg, vb).unwrap(), folded]
        };
        let got = convolutions(&tensors);
        let in_bf16 = Precision::Medium.scope(|| convolutions(&tensors));
        let broken = Tensor::full(f32::NAN, 40, &Device::Cpu).unwrap();
        tensors.insert("weight_scale".into(), broken);
        for precision in [Precision::High, Precision::Medium] {
            let vb = VarBuilder::from_tensors(tensors.clone(), DType::F32, &Device::Cpu);
            let refused = precision.scope(|| conv2d_no_bias(24, 40, 1, cfg, vb));
            assert!(refused.unwrap_err().to_string().contains("is NaN"));
        }
        tensors.remove("weight_scale");
        tensors.insert("weight".into(), exact);
        let xs = random(&[2, 24, 9, 7]);
        let want = convolutions(&tensors);
        for (got, want) in in_bf16.iter().zip(&want) {
            assert_eq!(matches!(got.weight, Weight::Int8(_)), !has_fast_bf16());
            let want = want.forward_gelu(&xs).unwrap();
            assert_close(&got.forward_gelu(&xs).unwrap(), &want, 1e-2);
        }
        for (got, want) in got.iter().zip(&want) {
            assert!(matches!(got.weight, Weight::Int8(_)));
            assert_close(
                &got.forward(&xs).unwrap(),
                &want.forward(&xs).unwrap(),
                1e-2,
            );
            let want = want.forward_gelu(&xs).unwrap();
            assert_close(&got.forward_gelu(&xs).unwrap(), &want, 1e-2);
        }
    }

    #[test]
    fn convolutions_equal_candles() {
        let pointwise = ConvConfig::default();
        // Channels in and out, kernel, window.
        let cases = [
            (6, 9, 1, pointwise),
            (6, 9, 1, pointwise.with_groups(3)),
            (6, 9, 1, pointwise.with_stride(2)),
            (6, 9, 3, ConvConfig::same(3)),
            (32, 32, 3, ConvConfig::same(3)), // in Winograd's way
            (6, 9, 3, ConvConfig::same(3).with_stride(2)),
            (6, 9, 3, ConvConfig::same(3).with_groups(3)),
            (6, 6, 3, ConvConfig::same(3).with_groups(6)),
            (6, 6, 5, ConvConfig::same(5).with_groups(6).with_stride(2)),
        ];
        for (input, output, kernel, cfg) in cases {
            let xs = random(&[2, input, 13, 10]);
            let weight = random(&[output, input / cfg.groups, kernel, kernel]);
            let bias = random(&[output]);
            let conv = Conv2d::new(&weight, Some(bias.clone()), cfg).unwrap();
            let ConvConfig {
                stride,
                padding,
                groups,
            } = cfg;
            let want = xs.conv2d(&weight, padding, stride, 1, groups).unwrap();
            let want = want.broadcast_add(&bias.reshape((1, (), 1, 1)).unwrap());
            let want = want.unwrap();
            assert_equal(&conv.forward(&xs).unwrap(), &want);
            let plain = want.to_dtype(DType::F64).unwrap(); // candle's own functions
            let gelu = gelu(&plain).unwrap().to_dtype(DType::F32).unwrap();
            assert_equal(&conv.forward_gelu(&xs).unwrap(), &gelu);
            let swish = hard_swish(&plain).unwrap().to_dtype(DType::F32).unwrap();
            assert_equal(&conv.forward_hard_swish(&xs).unwrap(), &swish);
            let channels_last = |t: &Tensor| t.permute((0, 2, 3, 1)).unwrap();
            let got = conv.forward_channels_last(&channels_last(&xs)).unwrap();
            assert_equal(&got, &channels_last(&want));
        }
    }
}
