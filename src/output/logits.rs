//! Low-resolution logits as a file, to go on from in a later call.
//!
//! A safetensors file with the f32 tensor `low_res_logits` (masks, height, width).

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

use crate::error::{Error, Result};

const NAME: &str = "low_res_logits";

/// Writes maps of (height, width), by rows.
///
/// # Errors
/// [`Error::InvalidMask`] when a map does not have the size.
pub fn encode_logits(maps: &[&[f32]], (height, width): (usize, usize)) -> Result<Vec<u8>> {
    let bytes: Vec<u8> = maps
        .iter()
        .copied()
        .flatten()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    TensorView::new(Dtype::F32, vec![maps.len(), height, width], &bytes)
        .and_then(|tensor| safetensors::serialize([(NAME, tensor)], None))
        .map_err(|error| Error::InvalidMask(format!("{height} x {width} logits: {error}")))
}

/// Reads what [`encode_logits`] wrote, one map for each mask.
///
/// # Errors
/// [`Error::InvalidPrompt`] when the bytes are no such file.
pub fn decode_logits(bytes: &[u8]) -> Result<Vec<Vec<f32>>> {
    let wanted = |problem: String| {
        Error::prompt(format!(
            "no mask prompt: {problem}; a safetensors file with f32 {NAME} (masks, height, width) is \
             needed"
        ))
    };
    let tensor = SafeTensors::deserialize(bytes).and_then(|file| file.tensor(NAME));
    let tensor = tensor.map_err(|error| wanted(error.to_string()))?;
    let (&[_, height, width], Dtype::F32) = (tensor.shape(), tensor.dtype()) else {
        let (dtype, shape) = (tensor.dtype(), tensor.shape());
        return Err(wanted(format!("{NAME} is {dtype:?} {shape:?}")));
    };
    if height * width == 0 {
        return Err(wanted(format!("{NAME} has no values")));
    }
    let (values, _) = tensor.data().as_chunks::<4>();
    let values: Vec<f32> = values.iter().map(|b| f32::from_le_bytes(*b)).collect();
    let maps = values.chunks_exact(height * width);
    Ok(maps.map(<[f32]>::to_vec).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logits_come_back_from_their_file() {
        let maps = [vec![1.5; 6], vec![-2.0; 6]];
        let bytes = encode_logits(&[&maps[0], &maps[1]], (2, 3)).unwrap();
        assert_eq!(decode_logits(&bytes).unwrap(), maps);
        assert!(encode_logits(&[&maps[0]], (2, 2)).is_err());
    }

    #[test]
    fn other_files_are_refused_with_what_is_needed() {
        let bytes = [0; 16];
        let wide = TensorView::new(Dtype::F32, vec![2, 2], &bytes).unwrap();
        let none = TensorView::new(Dtype::F32, vec![1, 0, 2], &[]).unwrap();
        for (bytes, why) in [
            (b"no such file".to_vec(), "no mask prompt"),
            (
                safetensors::serialize([(NAME, wide)], None).unwrap(),
                "is F32 [2, 2]",
            ),
            (
                safetensors::serialize([(NAME, none)], None).unwrap(),
                "has no values",
            ),
            (
                safetensors::serialize(
                    [(
                        "other",
                        TensorView::new(Dtype::F32, vec![4], &bytes).unwrap(),
                    )],
                    None,
                )
                .unwrap(),
                "low_res_logits",
            ),
        ] {
            let error = decode_logits(&bytes).unwrap_err().to_string();
            assert!(
                error.contains(why) && error.contains("(masks, height, width)"),
                "{error}"
            );
        }
    }
}
