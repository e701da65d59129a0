//! Golden files for unit tests: weights, inputs and outputs of the official PyTorch classes.

use std::collections::HashMap;
use std::path::PathBuf;

use candle::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use safetensors::SafeTensors;

/// One file of `tests/golden`, on the CPU in f32.
pub struct Golden {
    tensors: HashMap<String, Tensor>,
    config: serde_json::Value,
}

impl Golden {
    /// Opens `tests/golden/<name>.safetensors`.
    pub fn open(name: &str) -> Self {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden");
        let path = PathBuf::from(directory).join(format!("{name}.safetensors"));
        Self::from_bytes(&std::fs::read(&path).unwrap_or_else(|e| panic!("{path:?}: {e}")))
    }

    fn from_bytes(bytes: &[u8]) -> Self {
        let (_, header) = SafeTensors::read_metadata(bytes).unwrap();
        let config = header.metadata().as_ref().and_then(|m| m.get("config"));
        let config = config.map_or("null", String::as_str);
        Self {
            tensors: candle::safetensors::load_buffer(bytes, &Device::Cpu).unwrap(),
            config: serde_json::from_str(config).unwrap(),
        }
    }

    /// The tensors under `weights.`, under the names of the official `state_dict`.
    pub fn weights(&self) -> VarBuilder<'static> {
        VarBuilder::from_tensors(self.tensors.clone(), DType::F32, &Device::Cpu).pp("weights")
    }

    /// One tensor by its full name, such as `in.pixels`.
    pub fn tensor(&self, name: &str) -> Tensor {
        let tensor = self.tensors.get(name);
        tensor.unwrap_or_else(|| panic!("no tensor {name}")).clone()
    }

    /// The sizes the official class was built with.
    pub fn config(&self) -> serde_json::Value {
        self.config.clone()
    }
}

/// Asserts that ‖got - want‖ <= `rel_tol` ‖want‖, and prints how far apart the two are.
#[track_caller]
pub fn assert_close(got: &Tensor, want: &Tensor, rel_tol: f64) {
    assert_eq!(got.dims(), want.dims(), "shapes differ");
    let flat = |t: &Tensor| {
        let t = t.to_dtype(DType::F64).unwrap().flatten_all().unwrap();
        t.to_vec1::<f64>().unwrap()
    };
    let (got_values, want_values) = (flat(got), flat(want));
    let norm = |xs: &mut dyn Iterator<Item = f64>| xs.map(|x| x * x).sum::<f64>().sqrt();
    let mut worst = (0, 0.);
    let mut total = 0.;
    for (i, (g, w)) in got_values.iter().zip(&want_values).enumerate() {
        let difference = (g - w).abs();
        total += difference;
        // A NaN is the worst of all, and stays it.
        if difference > worst.1 || (difference.is_nan() && !worst.1.is_nan()) {
            worst = (i, difference);
        }
    }
    let difference = norm(&mut got_values.iter().zip(&want_values).map(|(g, w)| g - w));
    let relative = difference / norm(&mut want_values.iter().copied()).max(f64::MIN_POSITIVE);
    let mut index = Vec::new();
    let mut rest = worst.0;
    for &size in want.dims().iter().rev() {
        index.insert(0, rest % size);
        rest /= size;
    }
    let report = format!(
        "{:?}: relative {relative:.2e}, mean {:.2e}, max {:.2e} at {index:?} (got {}, want {})",
        want.dims(),
        total / want_values.len() as f64,
        worst.1,
        got_values[worst.0],
        want_values[worst.0],
    );
    println!("{report}");
    assert!(relative <= rel_tol, "{report}; allowed {rel_tol:.0e}");
}

#[test]
#[should_panic(expected = "at [1, 2]")]
fn a_wrong_value_is_found_and_named() {
    let want = Tensor::ones((2, 3), DType::F32, &Device::Cpu).unwrap();
    let bump = Tensor::new(&[[0f32, 0., 0.], [0., 0., 0.5]], &Device::Cpu).unwrap();
    assert_close(&(&want + bump).unwrap(), &want, 1e-5);
}

#[test]
#[should_panic(expected = "relative NaN")]
fn a_nan_is_never_close() {
    let want = Tensor::ones((2, 3), DType::F32, &Device::Cpu).unwrap();
    let nan = (&want * f64::NAN).unwrap();
    assert_close(&nan, &want, 1.);
}
