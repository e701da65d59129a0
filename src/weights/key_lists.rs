//! Reads the lists of tensors in `tests/keys`.
//!
//! A line is `name<TAB>shape[<TAB>dtype]` (f32 if not given), `= prefix` before the names that
//! follow, `+ file` to include another list, or `# comment`.

use candle::DType;
use std::path::{Path, PathBuf};

/// The tensors of `tests/keys/{list}.txt`: name, shape, dtype. Complex ones are left out.
pub fn key_list(list: &str) -> Vec<(String, Vec<usize>, DType)> {
    let mut tensors = vec![];
    read(&format!("{list}.txt"), &mut tensors);
    tensors
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/keys")
}

fn read(file: &str, tensors: &mut Vec<(String, Vec<usize>, DType)>) {
    let text = std::fs::read_to_string(folder().join(file)).expect(file);
    let mut prefix = "";
    for line in text.lines() {
        match line.split_once(' ') {
            Some(("#", _)) => continue,
            Some(("=", new)) => prefix = new,
            Some(("+", other)) => read(other, tensors),
            _ => {
                let mut columns = line.split('\t');
                let name = columns.next().expect("name");
                let shape = columns.next().expect("shape").split(',');
                let shape = shape.filter(|n| !n.is_empty());
                let shape = shape.map(|n| n.parse().expect("size")).collect();
                let dtype = match columns.next() {
                    None => DType::F32,
                    Some("int64") => DType::I64,
                    Some("complex64") => continue,
                    Some(other) => panic!("{file}: dtype {other}"),
                };
                tensors.push((format!("{prefix}{name}"), shape, dtype));
            }
        }
    }
}
