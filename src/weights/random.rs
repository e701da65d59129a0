//! Random weights: a model of any size without its file.

use candle::{DType, Device, Result, Shape, Tensor};
use candle_nn::{Init, VarBuilder, var_builder::SimpleBackend};
use rayon::prelude::*;

use super::int8::{self, Choice};

/// Elements that one stream of numbers fills.
const CHUNK: usize = 1 << 16;

/// A builder that makes up every tensor it is asked for, always the same for a name and a shape.
///
/// For measuring speed and memory: values are scaled so that activations stay finite in every
/// number format through all the layers of every model, but what comes out means nothing. Those that
/// `int8` chooses are made 8 bits.
pub fn random(dtype: DType, device: &Device, int8: Option<Choice>) -> VarBuilder<'static> {
    int8::builder(Random, int8, dtype, device)
}

struct Random;

impl SimpleBackend for Random {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        _: Init,
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor> {
        let (middle, spread) = range(name, shape.dims());
        let seed = hash(name);
        let mut values = vec![0f32; shape.elem_count()];
        let chunks = values.par_chunks_mut(CHUNK).enumerate();
        chunks.for_each(|(i, chunk)| {
            let mut state = (seed ^ (i as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15)) | 1;
            for value in chunk {
                *value = middle + spread * next(&mut state);
            }
        });
        Tensor::from_vec(values, shape, &Device::Cpu)?
            .to_dtype(dtype)?
            .to_device(device)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> Result<Tensor> {
        candle::bail!("`{name}` was asked for without its shape, which random weights need")
    }

    /// Everything but scales: there is a weight of 8 bits only where one is made.
    fn contains_tensor(&self, name: &str) -> bool {
        int8::weight_of(name).is_none()
    }
}

/// `middle` and `spread`: values lie evenly in `middle` ± `spread`.
fn range(name: &str, dims: &[usize]) -> (f32, f32) {
    match (name.rsplit('.').next(), dims) {
        (Some("running_var"), _) => (1., 0.2),
        (Some("weight"), [_]) => (1., 0.2), // of a norm
        (_, [] | [_]) => (0., 0.1),
        // Half of what would keep the variance, so that residual branches do not add up.
        (_, [_, fan_in @ ..]) => {
            let fan_in = fan_in.iter().product::<usize>().max(1);
            (0., 0.5 * (3. / fan_in as f32).sqrt())
        }
    }
}

/// FNV-1a.
fn hash(name: &str) -> u64 {
    name.bytes().fold(0xCBF2_9CE4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3)
    })
}

/// The next number of an xorshift generator, in -1..1.
fn next(state: &mut u64) -> f32 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    // the upper bits are the better ones
    ((*state >> 40) as f32) / (1 << 23) as f32 - 1.
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(name: &str, shape: &[usize]) -> Vec<f32> {
        let tensor = random(DType::F32, &Device::Cpu, None)
            .get(shape, name)
            .unwrap();
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn a_name_always_gives_the_same_values_and_another_name_others() {
        let weight = values("a.weight", &[300, 400]);
        assert_eq!(weight, values("a.weight", &[300, 400]));
        assert_ne!(weight, values("b.weight", &[300, 400]));
        // chunks differ from each other
        assert_ne!(weight[..100], weight[CHUNK..CHUNK + 100]);
    }

    #[test]
    fn values_have_the_spread_of_their_role() {
        let weight = values("a.weight", &[256, 64, 3, 3]);
        let mean = weight.iter().sum::<f32>() / weight.len() as f32;
        let variance = weight.iter().map(|v| v * v).sum::<f32>() / weight.len() as f32;
        assert!(mean.abs() < 1e-3, "{mean}");
        assert!((variance * 576. - 0.25).abs() < 0.01, "{variance}");
        for (name, low, high) in [
            ("norm.weight", 0.8, 1.2),
            ("bn.running_var", 0.8, 1.2),
            ("bn.running_mean", -0.1, 0.1),
            ("bias", -0.1, 0.1),
        ] {
            let all = values(name, &[1000]);
            assert!(all.iter().all(|v| (low..=high).contains(v)), "{name}");
        }
    }

    #[test]
    fn a_tensor_without_a_shape_cannot_be_made_up() {
        let vb = random(DType::F32, &Device::Cpu, None);
        assert!(vb.get_unchecked("a.weight").is_err());
    }
}
