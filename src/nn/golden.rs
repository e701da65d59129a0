//! Golden files for the unit tests: weights, inputs and outputs of a reference module at toy size.

use std::collections::HashMap;

use candle::{DType, Device, Tensor};
use candle_nn::VarBuilder;

use super::kernels::layout::Format;
use super::kernels::tile::Tile;

/// A file of `tests/golden`: tensors `weights.*`, `in.*` and `out.*`, sizes in its metadata.
pub struct Golden {
    tensors: HashMap<String, Tensor>,
    config: serde_json::Value,
}

impl Golden {
    pub fn open(name: &str) -> Self {
        let path = format!(
            "{}/tests/golden/{name}.safetensors",
            env!("CARGO_MANIFEST_DIR")
        );
        let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
        let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        let metadata = header.metadata().clone().unwrap_or_default();
        let config = metadata.get("config").map_or("{}", String::as_str);
        Self {
            tensors: candle::safetensors::load_buffer(&bytes, &Device::Cpu).unwrap(),
            config: serde_json::from_str(config).unwrap(),
        }
    }

    /// A tensor, in f32 if it is kept in f16.
    pub fn tensor(&self, name: &str) -> Tensor {
        let tensor = self.tensors.get(name);
        let tensor = tensor.unwrap_or_else(|| panic!("no tensor {name}"));
        match tensor.dtype() {
            DType::F16 => tensor.to_dtype(DType::F32).unwrap(),
            _ => tensor.clone(),
        }
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    pub fn config(&self) -> &serde_json::Value {
        &self.config
    }

    /// A size in the metadata.
    pub fn size(&self, key: &str) -> usize {
        self.config[key].as_u64().unwrap() as usize
    }

    /// The map `name` (b, c, h, w) as tokens (b, h * w, c).
    pub fn tokens(&self, name: &str) -> Tensor {
        let tokens = self.tensor(name).flatten_from(2).unwrap();
        tokens.transpose(1, 2).unwrap().contiguous().unwrap()
    }

    /// The tensors under `weights.`, under their official names.
    pub fn weights(&self) -> VarBuilder<'static> {
        let weights = self
            .tensors
            .iter()
            .filter_map(|(name, t)| Some((name.strip_prefix("weights.")?.to_string(), t.clone())))
            .collect();
        VarBuilder::from_tensors(weights, DType::F32, &Device::Cpu)
    }
}

/// Fails unless `got` and `want` have one shape and differ by at most `tolerance` relative to the
/// norm of `want`.
///
/// The tolerance is for f32. Products of f32 split in two bf16 get twenty times as much, but no more
/// than a stage may be from the reference.
#[track_caller]
pub fn assert_close(got: &Tensor, want: &Tensor, tolerance: f64) {
    assert_eq!(got.dims(), want.dims());
    let tolerance = match Tile::of(Format::Split).format {
        Format::Split => tolerance.max((20. * tolerance).min(5e-4)),
        _ => tolerance,
    };
    let flat = |t: &Tensor| -> Vec<f32> {
        t.to_dtype(DType::F32)
            .unwrap()
            .flatten_all()
            .unwrap()
            .to_vec1()
            .unwrap()
    };
    let (got, want) = (flat(got), flat(want));
    let (mut worst, mut worst_at, mut diff2, mut want2) = (0f64, 0, 0f64, 0f64);
    for (i, (g, w)) in got.iter().zip(&want).enumerate() {
        let diff = (*g as f64 - *w as f64).abs();
        assert!(!diff.is_nan(), "index {i}: got {g}, want {w}");
        if diff > worst {
            (worst, worst_at) = (diff, i);
        }
        diff2 += diff * diff;
        want2 += (*w as f64).powi(2);
    }
    let relative = (diff2 / want2.max(1e-30)).sqrt();
    let (g, w) = (got[worst_at], want[worst_at]);
    println!("relative {relative:.2e}, max {worst:.2e} at {worst_at} (got {g}, want {w})");
    assert!(
        relative <= tolerance,
        "relative {relative:.2e} > {tolerance:.0e}; max {worst:.2e} at {worst_at}: got {g}, want {w}"
    );
}
