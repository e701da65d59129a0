//! What tells the weights of one model from those of another.

use sha2::{Digest, Sha256};

use super::Checkpoint;

/// Hex digits: enough to tell models apart, not to withstand somebody who wants them equal.
const DIGITS: usize = 16;

impl Checkpoint {
    /// 16 hex digits, of the name, type and shape of every tensor and of its first and last bytes: reading
    /// all of a large file takes longer than loading it. Where tensors lie, in which files or in memory,
    /// makes no difference; their type does.
    pub fn fingerprint(&self) -> String {
        let mut digest = Sha256::new();
        for name in self.names() {
            digest.update(name);
            let parts = self.entry(name).map_or(&[][..], |entry| &entry.parts);
            for part in parts {
                digest.update(format!(" {} {:?}", part.dtype, part.shape));
                let (first, last) = part.ends();
                digest.update(first);
                digest.update(last);
            }
        }
        format!("{:.DIGITS$x}", digest.finalize())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use candle::{DType, Device, Tensor};

    use super::*;

    #[test]
    fn weights_are_told_apart_wherever_they_lie() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        let write = |name: &str, dtype, last: f32| {
            let mut values = vec![1f32; 5000];
            values[4999] = last;
            let tensor = Tensor::from_vec(values, (50, 100), &Device::Cpu).unwrap();
            let tensors = HashMap::from([(name, tensor.to_dtype(dtype).unwrap())]);
            candle::safetensors::save(&tensors, &path).unwrap();
            Checkpoint::open(&path).unwrap().fingerprint()
        };
        let other = [
            write("b", DType::F32, 1.0),
            write("a", DType::F16, 1.0),
            write("a", DType::F32, 2.0),
        ];
        let one = write("a", DType::F32, 1.0);
        assert_eq!(one.len(), DIGITS);
        assert!(!other.contains(&one));
        let in_memory = Checkpoint::from_bytes(std::fs::read(&path).unwrap());
        assert_eq!(in_memory.unwrap().fingerprint(), one);
    }
}
