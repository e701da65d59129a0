//! Normalisation layers, computed in f32 whatever the dtype of the model.

use candle::backend::BackendStorage;
use candle::{CpuStorage, D, DType, Device, InplaceOp3, Layout, Module, Result, Tensor};
use candle_nn::VarBuilder;
use rayon::prelude::*;

use super::kernels::rowwise::{normalized, sum};
use super::{cpu_slice, on_cpu_in_f32, on_host};

/// Layer normalisation over the last axis.
///
/// The CPU path computes the variance in two passes; candle's own takes `E[x²] − E[x]²`, which
/// cancels when the mean is large.
#[derive(Debug, Clone)]
pub struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f32,
}

/// Reads `weight` and `bias` (dim) of a layer norm.
pub fn layer_norm(dim: usize, eps: f64, vb: VarBuilder) -> Result<LayerNorm> {
    Ok(LayerNorm {
        weight: vb.get(dim, "weight")?,
        bias: vb.get(dim, "bias")?,
        eps: eps as f32,
    })
}

impl LayerNorm {
    /// Weight, bias and epsilon, for a kernel.
    pub(in crate::nn) fn values(&self) -> Result<(Vec<f32>, Vec<f32>, f32)> {
        Ok((on_host(&self.weight)?, on_host(&self.bias)?, self.eps))
    }
}

impl Module for LayerNorm {
    /// (…, dim) -> (…, dim)
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let xs = xs.contiguous()?;
        if on_cpu_in_f32(&xs) {
            let (weight, bias, eps) = self.values()?;
            if xs.dim(D::Minus1)? != weight.len() {
                candle::bail!("a norm of {} channels got {:?}", weight.len(), xs.dims());
            }
            let (storage, layout) = xs.storage_and_layout();
            let rows = cpu_slice(&storage, layout)?;
            let out = normalized(rows, &weight, &bias, eps)?;
            return Tensor::from_vec(out, xs.shape(), &Device::Cpu);
        }
        if xs.device().is_metal() {
            // candle's kernel there subtracts the mean in half precision
            let weight = self.weight.to_dtype(DType::F32)?;
            let bias = self.bias.to_dtype(DType::F32)?;
            let norm = |xs: &Tensor| candle_nn::ops::layer_norm(xs, &weight, &bias, self.eps);
            return super::in_f32(&xs, norm);
        }
        candle_nn::ops::layer_norm(&xs, &self.weight, &self.bias, self.eps)
    }
}

/// Added to the variance of a group.
const GROUP_NORM_EPS: f64 = 1e-5;

/// Group normalisation of (b, c, h, w), statistics in f32.
#[derive(Debug, Clone)]
pub struct GroupNorm {
    weight: Tensor,
    bias: Tensor,
    num_groups: usize,
}

/// Reads `weight` and `bias` (c) of a group norm with eps 1e-5.
pub fn group_norm(num_groups: usize, channels: usize, vb: VarBuilder) -> Result<GroupNorm> {
    let (weight, bias) = (vb.get(channels, "weight")?, vb.get(channels, "bias")?);
    Ok(GroupNorm {
        weight,
        bias,
        num_groups,
    })
}

impl GroupNorm {
    /// Group norm followed by ReLU, in place of `xs` (b, c, h, w) on the CPU in f32: nothing else may
    /// use its storage.
    pub(crate) fn forward_relu(&self, xs: Tensor) -> Result<Tensor> {
        if !on_cpu_in_f32(&xs) || !xs.is_contiguous() {
            return self.forward(&xs)?.relu();
        }
        let (_, channels, h, w) = xs.dims4()?;
        if self.weight.dim(0)? != channels || h * w == 0 {
            candle::bail!(
                "a group norm of {} got {:?}",
                self.weight.dim(0)?,
                xs.dims()
            );
        }
        let norm = GroupNormRelu {
            group: channels / self.num_groups,
            plane: h * w,
        };
        xs.inplace_op3(&self.weight, &self.bias, &norm)?;
        Ok(xs)
    }
}

fn slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(all), Some((start, end))) => Ok(&all[start..end]),
        _ => candle::bail!(
            "group-norm-relu wants contiguous f32, got {:?}",
            storage.dtype()
        ),
    }
}

struct GroupNormRelu {
    /// Channels of a group.
    group: usize,
    /// Pixels of a channel.
    plane: usize,
}

impl InplaceOp3 for GroupNormRelu {
    fn name(&self) -> &'static str {
        "group-norm-relu"
    }

    fn cpu_fwd(
        &self,
        xs: &mut CpuStorage,
        l1: &Layout,
        weight: &CpuStorage,
        l2: &Layout,
        bias: &CpuStorage,
        l3: &Layout,
    ) -> Result<()> {
        let (weight, bias) = (slice(weight, l2)?, slice(bias, l3)?);
        let (CpuStorage::F32(xs), Some((start, end))) = (xs, l1.contiguous_offsets()) else {
            candle::bail!("{} wants contiguous f32", self.name())
        };
        let Self { group, plane } = *self;
        let channels = weight.len();
        for image in xs[start..end].chunks_exact_mut(channels * plane) {
            let planes: Vec<Moments> = image.par_chunks(plane).map(Moments::of).collect();
            let groups: Vec<(f32, f32)> = planes
                .chunks(group)
                .map(|planes| {
                    let all = planes.iter().copied().reduce(Moments::with);
                    all.map_or((0., 0.), Moments::mean_and_scale)
                })
                .collect();
            image.par_chunks_mut(plane).enumerate().for_each(|(c, xs)| {
                let (mean, scale) = groups[c / group];
                let (weight, bias) = (weight[c] * scale, bias[c]);
                for x in xs {
                    *x = ((*x - mean) * weight + bias).max(0.);
                }
            });
        }
        Ok(())
    }
}

/// Count, mean and summed squared distance from it of some values.
#[derive(Clone, Copy)]
struct Moments {
    count: f64,
    mean: f64,
    squares: f64,
}

impl Moments {
    /// In two passes over blocks that stay in the first cache.
    fn of(values: &[f32]) -> Self {
        let blocks = values.chunks(4096).map(|block| {
            let count = block.len() as f64;
            let mean = sum(block, |x| x) / block.len() as f32;
            // what the rounded mean misses is added back
            let rest = sum(block, |x| x - mean) as f64 / count;
            let squares = sum(block, |x| (x - mean) * (x - mean)) as f64;
            Self {
                count,
                mean: f64::from(mean) + rest,
                squares: squares - count * rest * rest,
            }
        });
        blocks.reduce(Self::with).unwrap_or(Self {
            count: 0.,
            mean: 0.,
            squares: 0.,
        })
    }

    /// Those of both sets together.
    fn with(self, other: Self) -> Self {
        let count = self.count + other.count;
        let distance = other.mean - self.mean;
        Self {
            count,
            mean: self.mean + distance * other.count / count,
            squares: self.squares
                + other.squares
                + distance * distance * self.count * other.count / count,
        }
    }

    fn mean_and_scale(self) -> (f32, f32) {
        let scale = 1. / (self.squares / self.count + GROUP_NORM_EPS).sqrt();
        (self.mean as f32, scale as f32)
    }
}

impl Module for GroupNorm {
    /// (b, c, h, w) -> (b, c, h, w)
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let (b, c, h, w) = xs.dims4()?;
        let dtype = xs.dtype();
        let lines = c / self.num_groups * h;
        let groups = xs
            .to_dtype(DType::F32)?
            .reshape((b, self.num_groups, lines, w))?;
        // A GPU sums each line in one block of threads; of whole groups there are too few.
        let mean_of = |xs: &Tensor| xs.mean_keepdim(3)?.mean_keepdim(2);
        let centred = groups.broadcast_sub(&mean_of(&groups)?)?;
        let std = (mean_of(&centred.sqr()?)? + GROUP_NORM_EPS)?.sqrt()?;
        let normed = centred
            .broadcast_div(&std)?
            .reshape((b, c, h, w))?
            .to_dtype(dtype)?;
        normed
            .broadcast_mul(&self.weight.reshape((1, c, 1, 1))?)?
            .broadcast_add(&self.bias.reshape((1, c, 1, 1))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::kernels::level::takes_candles_way;
    use candle::Device;

    #[test]
    fn a_group_norm_in_place_equals_candles_operations() -> Result<()> {
        let dev = &Device::Cpu;
        let norm = GroupNorm {
            weight: Tensor::randn(0f32, 1., 6, dev)?,
            bias: Tensor::randn(0f32, 1., 6, dev)?,
            num_groups: 2,
        };
        let xs = Tensor::randn(3f32, 2., (2, 6, 70, 61), dev)?; // more than one block
        let want = norm.forward(&xs)?.relu()?;
        let got = norm.forward_relu(xs.copy()?)?;
        let diff = (got - want)?.abs()?.max_all()?.to_scalar::<f32>()?;
        assert!(diff < 5e-6, "{diff:.1e}");
        Ok(())
    }

    #[test]
    fn a_large_mean_does_not_cancel() -> Result<()> {
        if takes_candles_way() {
            return Ok(()); // candle's does on the CPU
        }
        let dev = &Device::Cpu;
        let norm = LayerNorm {
            weight: Tensor::ones(4, DType::F32, dev)?,
            bias: Tensor::zeros(4, DType::F32, dev)?,
            eps: 1e-5,
        };
        let xs = Tensor::new(&[[10_001f32, 10_002., 10_003., 10_004.]], dev)?;
        let got = norm.forward(&xs)?.to_vec2::<f32>()?.remove(0);
        for (got, want) in got
            .iter()
            .zip([-1.341_635_4f32, -0.447_211_8, 0.447_211_8, 1.341_635_4])
        {
            assert!((got - want).abs() < 1e-5, "{got} {want}");
        }
        Ok(())
    }
}
