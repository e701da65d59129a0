//! Files of the right size with a part that was never written: downloads in several pieces reserve
//! their place first.

use super::Checkpoint;
use super::names::listing;
use super::tensor::StoredTensor;
use crate::error::{Error, Result};

/// One of so many bytes in blank matrices is a hole. Some matrices are zero in models that are
/// whole, such as those of a part that was never trained.
const SHARE: usize = 8;

impl Checkpoint {
    /// Refuses a file of whose matrices a large part holds zeros only. Of each matrix that is not
    /// blank one page is read.
    pub(super) fn refuse_holes(self) -> Result<Self> {
        let tensors = self.tensors_as_stored();
        let matrices = tensors.iter().filter(|tensor| tensor.shape.len() > 1);
        let blank: Vec<_> = tensors.iter().filter(|tensor| tensor.is_blank()).collect();
        let lost: usize = blank.iter().map(|tensor| tensor.len()).sum();
        let all: usize = matrices.map(StoredTensor::len).sum();
        if lost == 0 || lost < all / SHARE {
            return Ok(self);
        }
        let (n, names) = (blank.len(), listing(blank.iter().map(|t| &t.name)));
        let problem = format!(
            "{n} matrices, {lost} of {all} bytes, hold zeros only, so a part of the file was never \
             written; download it again:{names}"
        );
        Err(Error::checkpoint(self.path(), problem))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle::{Device, Tensor};

    #[test]
    fn a_file_with_a_hole_is_refused_and_one_zero_matrix_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        let matrix = |value: f32| Tensor::full(value, (64, 64), &Device::Cpu).unwrap();
        let written = |zeros: usize| {
            let name = |i: usize| format!("detector.blocks.{i}.weight");
            let tensors = (0..20).map(|i| (name(i), matrix(if i < zeros { 0. } else { 1. })));
            let tensors = tensors.collect::<std::collections::HashMap<_, _>>();
            candle::safetensors::save(&tensors, &path).unwrap();
            Checkpoint::open(&path)
        };
        assert!(written(0).is_ok() && written(2).is_ok());
        let error = written(10).unwrap_err().to_string();
        assert!(
            error.contains("10 matrices, 163840 of 327680 bytes"),
            "{error}"
        );
        assert!(
            error.contains("\n  detector.blocks.*.{weight,bias} (10)"),
            "{error}"
        );
    }
}
