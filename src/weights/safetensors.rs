//! Reads the header of a safetensors file.

use super::source::Source;
use super::tensor::StoredTensor;
use ::safetensors::{SafeTensorError, SafeTensors};
use std::collections::HashMap;
use std::sync::Arc;

/// The tensors of a file and its `__metadata__`.
pub(super) fn read(
    source: &Arc<Source>,
) -> Result<(Vec<StoredTensor>, HashMap<String, String>), String> {
    let bytes = source.bytes();
    let (header, metadata) = SafeTensors::read_metadata(bytes).map_err(|e| problem(&e, bytes))?;
    let start = 8 + header;
    let tensors = metadata.tensors().into_iter().map(|(name, info)| {
        let (from, to) = info.data_offsets;
        let range = start + from..start + to;
        StoredTensor::view(name, info.dtype, info.shape.clone(), None, source, range)
    });
    let tensors = tensors.collect::<Result<_, _>>()?;
    Ok((tensors, metadata.metadata().clone().unwrap_or_default()))
}

fn problem(error: &SafeTensorError, bytes: &[u8]) -> String {
    use SafeTensorError::{
        HeaderTooLarge, HeaderTooSmall, InvalidHeaderLength, MetadataIncompleteBuffer,
    };
    let len = bytes.len();
    match error {
        HeaderTooSmall | InvalidHeaderLength | MetadataIncompleteBuffer => format!(
            "the file has {len} bytes, which is not what its header says; is the download complete?"
        ),
        HeaderTooLarge => "neither a torch zip file (.pt, .pth) nor safetensors".into(),
        other => format!("broken safetensors header: {other}"),
    }
}
