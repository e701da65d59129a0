//! Reads the tensors of a `.pt` or `.pth` file: a zip of one pickle and raw storages.
//!
//! Only the zip's directory and the pickle are read. `torch.save` stores storages uncompressed,
//! so a tensor is a strided view into the file.
//!
//! Format: <https://github.com/pytorch/pytorch/blob/v2.5.0/torch/serialization.py#L959>.

use super::pickle::{Id, Pickle};
use super::source::Source;
use super::tensor::{MAX_NAME, MAX_RANK, StoredTensor, checked_name};
use ::safetensors::Dtype;
use std::collections::{HashMap, HashSet};
use std::io::Cursor;
use std::ops::Range;
use std::sync::Arc;
use zip::read::{ArchiveOffset, Config, ZipArchive};

/// Entries under which checkpoints wrap their state dict.
const WRAPPERS: [&str; 3] = ["model", "state_dict", "model_state_dict"];
/// How deep tensors and dicts may be nested.
const MAX_DEPTH: usize = 8;
/// Far above any checkpoint; stops pickles in which dicts hold each other many times.
const MAX_ENTRIES: usize = 1 << 20;
/// Far above any model; with the limit on the length of a name it bounds what names take.
const MAX_TENSORS: usize = 1 << 16;
/// Tensors may share storages: tied weights, or a view of half of another. Together they are
/// at most as many times as large as the file.
const MAX_SHARING: usize = 4;
/// What tensors may take in any case: files that repeat one number for each tensor, as tests of
/// other programs make them, are larger than themselves by any factor.
const ALWAYS: usize = 1 << 30;

/// The tensors of the state dict.
pub(super) fn read(source: &Arc<Source>) -> Result<Vec<StoredTensor>, String> {
    let entries = entries(source.bytes())?;
    let root = entries
        .keys()
        .filter_map(|name| name.strip_suffix("data.pkl"))
        .filter(|root| root.is_empty() || root.ends_with('/'))
        .min_by_key(|root| root.len())
        .ok_or("a zip file, but not one of torch.save: it holds no data.pkl")?;
    if let Some(order) = entries.get(&format!("{root}byteorder"))
        && source.bytes()[order.clone()].trim_ascii() == b"big"
    {
        return Err("written on a big-endian machine; save it again on a little-endian one".into());
    }
    let pickle = Pickle::read(&source.bytes()[entries[&format!("{root}data.pkl")].clone()])?;
    let mut file = Archive {
        source,
        entries: &entries,
        storages: format!("{root}data/"),
        pickle: &pickle,
        tensors: vec![],
        budget: MAX_ENTRIES,
    };
    file.collect(state_dict(&pickle), "", 0)?;
    if file.tensors.is_empty() {
        return Err(
            "holds no tensors by name; torch.save the model's state_dict(), not the model".into(),
        );
    }
    let claimed: usize = file.tensors.iter().map(StoredTensor::len).sum();
    let limit = (MAX_SHARING * source.bytes().len()).max(ALWAYS);
    if claimed > limit {
        return Err(format!(
            "its tensors claim {claimed} bytes in a file of {}; at most {limit} are read. Views \
             that repeat a storage must be made contiguous before torch.save",
            source.bytes().len()
        ));
    }
    Ok(file.tensors)
}

/// Name and place of every file in the zip.
fn entries(bytes: &[u8]) -> Result<HashMap<String, Range<usize>>, String> {
    // The end record is the last thing but a comment of at most 64 KiB. Looking for it here keeps
    // `zip` from searching gigabytes of a truncated file.
    let tail = &bytes[bytes.len().saturating_sub((1 << 16) + 22)..];
    if !tail.windows(4).any(|four| four == b"PK\x05\x06") {
        return Err("the zip directory at its end is missing; is the download complete?".into());
    }
    let broken = |e: zip::result::ZipError| format!("broken zip file: {e}");
    let config = Config {
        archive_offset: ArchiveOffset::Known(0),
    };
    let mut zip = ZipArchive::with_config(config, Cursor::new(bytes)).map_err(broken)?;
    let (mut entries, mut packed) = (HashMap::new(), None);
    for i in 0..zip.len() {
        let entry = zip.by_index_raw(i).map_err(broken)?;
        let name = entry.name().map_err(broken)?.into_owned();
        if entry.compression() != zip::CompressionMethod::Stored || entry.encrypted() {
            packed.get_or_insert(name);
            continue;
        }
        let start = entry.data_start().and_then(|at| usize::try_from(at).ok());
        let len = usize::try_from(entry.size()).ok();
        let range = start
            .zip(len)
            .and_then(|(at, len)| Some(at..at.checked_add(len)?));
        let range = range.filter(|range| range.end <= bytes.len());
        entries.insert(
            name.clone(),
            range.ok_or_else(|| {
                format!("`{name}` reaches beyond the end of the zip; is the download complete?")
            })?,
        );
    }
    if entries.keys().any(|name| name.ends_with("/constants.pkl")) {
        return Err("a TorchScript archive; torch.save the state_dict() instead".into());
    }
    match packed {
        Some(name) => Err(format!(
            "`{name}` in the zip is compressed or encrypted; torch.save does neither, so load \
             and torch.save it again"
        )),
        None => Ok(entries),
    }
}

/// Unwraps `{"model": {...}}`, and any other dict that holds tensors in one entry only.
fn state_dict(pickle: &Pickle) -> Id {
    let holders = holders(pickle);
    let mut at = pickle.root();
    for _ in 0..MAX_DEPTH {
        let Some(items) = pickle.dict(at) else { break };
        let inner = items
            .iter()
            .filter(|(key, value)| pickle.text(*key).is_some() && holders.contains(value));
        let inner: Vec<_> = inner.collect();
        let wrapper = WRAPPERS.iter().find_map(|name| {
            let mut entries = inner.iter();
            entries.find(|(key, _)| pickle.text(*key) == Some(name))
        });
        at = match (wrapper, &inner[..]) {
            (Some((_, inner)), _) => *inner,
            _ if items.iter().any(|(_, value)| is_tensor(pickle, *value)) => break,
            (None, [(_, only)]) => *only,
            _ => break,
        };
    }
    at
}

/// The dicts that have tensors under names, directly or in dicts under names.
///
/// All of them at once, from the inside out: asking each dict anew would walk those that others
/// share once for each of them.
fn holders(pickle: &Pickle) -> HashSet<Id> {
    let (mut holders, mut open) = (HashSet::new(), vec![]);
    let mut within = HashMap::<Id, Vec<Id>>::new();
    for dict in pickle.ids() {
        let items = pickle.dict(dict).unwrap_or_default();
        for (_, value) in items.iter().filter(|(key, _)| pickle.text(*key).is_some()) {
            if pickle.dict(*value).is_some() {
                within.entry(*value).or_default().push(dict);
            } else if is_tensor(pickle, *value) {
                open.push(dict);
            }
        }
    }
    while let Some(dict) = open.pop() {
        if holders.insert(dict) {
            open.extend(within.get(&dict).into_iter().flatten());
        }
    }
    holders
}

fn is_tensor(pickle: &Pickle, id: Id) -> bool {
    rebuild(pickle, id, MAX_DEPTH).is_some()
}

/// Finds the `_rebuild_tensor_*` call under parameters and tensor subclasses.
fn rebuild<'a>(pickle: &'a Pickle, id: Id, depth: usize) -> Option<(&'a str, &'a [Id])> {
    if depth == 0 {
        return None;
    }
    let ((module, function), args) = pickle.call(id)?;
    match (module, function, args) {
        ("torch._utils", "_rebuild_tensor_v2" | "_rebuild_tensor_v3", _) => Some((function, args)),
        ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state", [inner, ..]) => {
            rebuild(pickle, *inner, depth - 1)
        }
        // (function, type, arguments, state)
        ("torch._tensor", "_rebuild_from_type_v2", [function, _, args, ..]) => {
            let (module, function) = pickle.global(*function)?;
            let args = pickle.tuple(*args)?;
            (module == "torch._utils" && function.starts_with("_rebuild_tensor_v"))
                .then_some((function, args))
        }
        _ => None,
    }
}

struct Archive<'a> {
    source: &'a Arc<Source>,
    entries: &'a HashMap<String, Range<usize>>,
    /// The folder of the storages.
    storages: String,
    pickle: &'a Pickle<'a>,
    tensors: Vec<StoredTensor>,
    /// Dict entries that may still be looked at.
    budget: usize,
}

impl Archive<'_> {
    /// Takes the tensors of a dict, and of dicts in it joined by dots.
    fn collect(&mut self, dict: Id, prefix: &str, depth: usize) -> Result<(), String> {
        let pickle = self.pickle;
        let items = pickle.dict(dict).unwrap_or_default();
        let is_flat = items.iter().any(|(_, value)| is_tensor(pickle, *value));
        for (key, value) in items {
            self.budget = self
                .budget
                .checked_sub(1)
                .ok_or_else(|| format!("more than {MAX_ENTRIES} entries, more than any model"))?;
            let Some(key) = pickle.text(*key) else {
                continue;
            };
            let name = checked_name(prefix, key)?;
            if let Some((function, args)) = rebuild(pickle, *value, MAX_DEPTH) {
                let tensor = self
                    .tensor(&name, function, args)
                    .ok_or_else(|| format!("`{name}` is not described as torch.save does"))??;
                if self.tensors.len() == MAX_TENSORS {
                    return Err(format!(
                        "more than {MAX_TENSORS} tensors, more than any model"
                    ));
                }
                self.tensors.extend(tensor);
            } else if depth < MAX_DEPTH && !is_flat {
                self.collect(*value, &format!("{name}."), depth + 1)?;
            }
        }
        Ok(())
    }

    /// Arguments: storage, offset, size, stride, requires_grad, hooks(, dtype).
    /// <https://github.com/pytorch/pytorch/blob/v2.5.0/torch/_utils.py#L199>
    ///
    /// The outer `None` is a malformed description; the inner one a type that no model has.
    #[allow(clippy::type_complexity)]
    fn tensor(
        &self,
        name: &str,
        function: &str,
        args: &[Id],
    ) -> Option<Result<Option<StoredTensor>, String>> {
        let pickle = self.pickle;
        let [storage, offset, size, stride, ..] = args else {
            return None;
        };
        let super::pickle::Value::Persistent(storage) = pickle.get(*storage) else {
            return None;
        };
        // ("storage", type, key, location, elements)
        let [_, class, key, ..] = pickle.tuple(*storage)? else {
            return None;
        };
        let class = match function {
            "_rebuild_tensor_v3" => pickle.global(*args.get(6)?)?,
            _ => pickle.global(*class)?,
        };
        let Some(dtype) = dtype(class) else {
            return Some(Ok(None));
        };
        let numbers = |id: Id| -> Option<Vec<usize>> {
            // one tuple may be the shape of every tensor
            let items = pickle.tuple(id).filter(|items| items.len() <= MAX_RANK)?;
            let items = items.iter();
            items
                .map(|&id| usize::try_from(pickle.int(id)?).ok())
                .collect()
        };
        let (shape, strides) = (numbers(*size)?, numbers(*stride)?);
        let offset = usize::try_from(pickle.int(*offset)?).ok()?;
        let key = pickle.text(*key).filter(|key| key.len() <= MAX_NAME)?;
        let Some(place) = self.entries.get(&format!("{}{key}", self.storages)) else {
            return Some(Err(format!(
                "the storage `{key}` of `{name}` is missing in the zip"
            )));
        };
        let layout = Some((strides, offset));
        let (name, place) = (name.to_string(), place.clone());
        Some(StoredTensor::view(name, dtype, shape, layout, self.source, place).map(Some))
    }
}

/// Storage classes and dtypes by their names in torch.
fn dtype((module, class): (&str, &str)) -> Option<Dtype> {
    Some(match Some(class).filter(|_| module == "torch")? {
        "FloatStorage" | "float32" => Dtype::F32,
        "HalfStorage" | "float16" => Dtype::F16,
        "BFloat16Storage" | "bfloat16" => Dtype::BF16,
        "DoubleStorage" | "float64" => Dtype::F64,
        "LongStorage" | "int64" => Dtype::I64,
        "IntStorage" | "int32" => Dtype::I32,
        "ShortStorage" | "int16" => Dtype::I16,
        "CharStorage" | "int8" => Dtype::I8,
        "ByteStorage" | "uint8" => Dtype::U8,
        "BoolStorage" | "bool" => Dtype::BOOL,
        "uint16" => Dtype::U16,
        "uint32" => Dtype::U32,
        "uint64" => Dtype::U64,
        "float8_e4m3fn" => Dtype::F8_E4M3,
        "float8_e5m2" => Dtype::F8_E5M2,
        "ComplexFloatStorage" | "complex64" => Dtype::C64,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use zip::write::{SimpleFileOptions, ZipWriter};

    fn archive(pickle: &[u8]) -> Arc<Source> {
        let mut zip = ZipWriter::new(Cursor::new(vec![]));
        let stored =
            SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
        zip.start_file("x/data.pkl", stored).unwrap();
        zip.write_all(pickle).unwrap();
        Arc::new(Source::Memory(Box::new(zip.finish().unwrap().into_inner())))
    }

    /// 40 dicts, each of which holds the one before a hundred times.
    #[test]
    fn dicts_that_hold_each_other_many_times_end_soon() {
        let mut pickle = b"\x80\x02}q\x00".to_vec();
        for _ in 0..40 {
            pickle.extend(b"0}(");
            for key in 0..100 {
                pickle.extend([0x8c, 1, b'a' + key % 26, b'h', 0]);
            }
            pickle.extend(b"uq\x00");
        }
        pickle.push(b'.');
        let got = read(&archive(&pickle)).unwrap_err();
        assert!(got.contains("more than 1048576 entries"), "{got}");
    }

    /// As many dicts as are asked for, each of which holds the same one, that holds them.
    #[test]
    fn shared_dicts_are_walked_once() {
        // d = {}; for each of 100,000 entries: d[key] = {"x": d}
        let mut pickle = b"\x80\x02}q\x00(".to_vec();
        for key in 0..100_000u32 {
            pickle.extend([0x8c, 8]);
            pickle.extend(format!("{key:08}").as_bytes());
            pickle.extend(b"}\x8c\x01xh\x00s");
        }
        pickle.extend(b"u.");
        let started = std::time::Instant::now();
        let got = read(&archive(&pickle)).unwrap_err();
        assert!(got.contains("more than 1048576 entries"), "{got}");
        assert!(started.elapsed().as_secs() < 5, "{:?}", started.elapsed());
    }

    #[test]
    fn a_zip_of_something_else_is_not_a_checkpoint() {
        let got = read(&archive(b"\x80\x02K\x01.")).unwrap_err();
        assert!(got.contains("holds no tensors by name"), "{got}");
        let mut zip = ZipWriter::new(Cursor::new(vec![]));
        zip.start_file("word/document.xml", SimpleFileOptions::default())
            .unwrap();
        let bytes = zip.finish().unwrap().into_inner();
        let got = read(&Arc::new(Source::Memory(Box::new(bytes)))).unwrap_err();
        assert!(
            got.contains("data.pkl") || got.contains("compressed"),
            "{got}"
        );
    }
}
