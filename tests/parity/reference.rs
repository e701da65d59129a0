//! Tensors of a reference run, and how far ours are from them.

use std::collections::HashMap;
use std::path::Path;

use candle::{DType, Device, Tensor};

/// Named tensors of one run of the reference.
pub struct Reference {
    tensors: HashMap<String, Tensor>,
}

impl Reference {
    pub fn open(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        Self {
            tensors: candle::safetensors::load_buffer(&bytes, &Device::Cpu).unwrap(),
        }
    }

    pub fn tensor(&self, name: &str) -> Tensor {
        self.tensors
            .get(name)
            .unwrap_or_else(|| panic!("the reference lacks {name}"))
            .clone()
    }
}

/// All elements as f32.
pub fn values(tensor: &Tensor) -> Vec<f32> {
    tensor
        .to_dtype(DType::F32)
        .unwrap()
        .flatten_all()
        .unwrap()
        .to_vec1()
        .unwrap()
}

/// ‖got − want‖ / ‖want‖
pub fn relative_error(got: &Tensor, want: &Tensor) -> f64 {
    let (got, want) = (values(got), values(want));
    assert_eq!(got.len(), want.len());
    let square = |x: f64| x * x;
    let diff: f64 = got
        .iter()
        .zip(&want)
        .map(|(g, w)| square(*g as f64 - *w as f64))
        .sum();
    let norm: f64 = want.iter().map(|w| square(*w as f64)).sum();
    (diff / norm.max(1e-30)).sqrt()
}

/// The largest difference of two elements.
pub fn max_error(got: &[f32], want: &[f32]) -> f32 {
    assert_eq!(got.len(), want.len());
    got.iter()
        .zip(want)
        .map(|(g, w)| (g - w).abs())
        .fold(0., |a, b| if b > a || b.is_nan() { b } else { a })
}

/// Fails if a stage is farther from the reference than allowed; prints how far it is.
#[track_caller]
pub fn check(stage: &str, got: &Tensor, want: &Tensor, tolerance: f64) {
    assert_eq!(
        got.elem_count(),
        want.elem_count(),
        "{stage}: {:?} {:?}",
        got.dims(),
        want.dims()
    );
    let error = relative_error(got, want);
    let worst = max_error(&values(got), &values(want));
    println!("{stage:24} relative {error:9.2e}  max {worst:9.2e}");
    assert!(
        error <= tolerance,
        "{stage}: relative error {error:.2e} > {tolerance:.0e}"
    );
}
