//! Floor 0: tensors in, tensors out; knows no model.

pub mod conv;
pub mod kernels;
