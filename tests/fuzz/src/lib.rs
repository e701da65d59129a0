//! What is done with bytes that anybody could have made: one function for each parser.
//!
//! They may refuse the bytes; they must not panic, abort, hang or take memory without bound. Both
//! the fuzzer (`fuzz_targets`) and the deterministic mutations (`tests/field`) call them.

use std::io::{Cursor, Write};

use candle_sam3::device::DeviceKind;
use candle_sam3::image::Image;
use candle_sam3::mask::Rle;
use candle_sam3::models::inspect::inspect;
use candle_sam3::models::sam3::Config;
use candle_sam3::output::decode_logits;
use candle_sam3::text::Tokenizer;
use candle_sam3::weights::Checkpoint;
use zip::write::{SimpleFileOptions, ZipWriter};

/// Elements that are copied out of a checkpoint; what a file of this size can hold is known.
const MAX_READ: usize = 1 << 20;

/// A weight file: opened, described, and its small tensors read.
pub fn weights(bytes: &[u8]) {
    let Ok(checkpoint) = Checkpoint::from_bytes(bytes.to_vec()) else {
        return;
    };
    let _ = inspect(&checkpoint);
    let _ = checkpoint.stored();
    let Ok(device) = DeviceKind::Cpu.open() else {
        return;
    };
    let vb = checkpoint.var_builder(candle_sam3::DType::F32, &device);
    for name in checkpoint.names() {
        let shape = checkpoint.shape(name).unwrap_or_default();
        if shape.iter().product::<usize>() <= MAX_READ {
            let _ = vb.get_unchecked(name);
        }
    }
}

/// A `.pt` file.
pub fn torch(bytes: &[u8]) {
    weights(bytes);
}

/// A safetensors file.
pub fn safetensors(bytes: &[u8]) {
    weights(bytes);
}

/// The pickle of a `.pt` file that is whole otherwise.
pub fn pickle(bytes: &[u8]) {
    let mut file = ZipWriter::new(Cursor::new(vec![]));
    let stored = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    let written = [
        ("x/data.pkl", bytes),
        ("x/data/0", &[7; 256]),
        ("x/data/1", &[1; 16]),
    ]
    .into_iter()
    .try_for_each(|(name, bytes)| {
        file.start_file(name, stored)?;
        Ok(file.write_all(bytes)?)
    })
    .and_then(|()| file.finish());
    if let Result::<_, zip::result::ZipError>::Ok(file) = written {
        weights(&file.into_inner());
    }
}

/// The sizes that a safetensors file may carry in its metadata, also built on a file without them.
pub fn config(bytes: &[u8]) {
    let Ok(json) = std::str::from_utf8(bytes) else {
        return;
    };
    let _ = Config::from_json(json);
    let tensor = serde_json::json!({"dtype": "F32", "shape": [1], "data_offsets": [0, 4]});
    let header = serde_json::json!({"__metadata__": {"config": json}, "detector.x": tensor});
    let header = header.to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.bytes());
    file.extend([0; 4]);
    weights(&file);
}

/// A picture of any format.
pub fn picture(bytes: &[u8]) {
    if let Ok(image) = Image::decode(bytes) {
        assert_eq!(image.pixels().len(), 3 * image.width() * image.height());
    }
}

/// Run lengths: two bytes for each side, then the compressed text.
pub fn rle(bytes: &[u8]) {
    let Some(([h0, h1, w0, w1], text)) = bytes.split_first_chunk() else {
        return;
    };
    let size = [
        u16::from_le_bytes([*h0, *h1]),
        u16::from_le_bytes([*w0, *w1]),
    ];
    let Ok(text) = std::str::from_utf8(text) else {
        return;
    };
    // A mask of any size may be asked for; it is the caller who knows the image.
    let size = size.map(|side| usize::from(side) % 2048);
    let Ok(rle) = Rle::from_compressed(size, text) else {
        return;
    };
    let _ = rle.area();
    let _ = rle.bbox();
    if let Ok(mask) = rle.decode() {
        assert_eq!(Rle::encode(&mask).area(), mask.area());
    }
}

/// A prompt, cleaned and cut into tokens.
pub fn text(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let _ = Tokenizer::shared().encode(&text, 32);
}

/// Low-resolution logits as a mask prompt.
pub fn logits(bytes: &[u8]) {
    let _ = decode_logits(bytes);
}
