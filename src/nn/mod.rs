//! Floor 0: tensors in, tensors out; knows no model.

pub mod conv;
#[cfg(test)]
pub(crate) mod golden;
pub mod kernels;
