//! Finds the weights in a model directory, and the shards of an index.

use crate::error::{Error, Result};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The names under which Hugging Face keeps the weights of a model, the preferred ones first.
const STANDARD: [&str; 3] = [
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
];
/// An index lists some thousand names; anything larger is none.
const MAX_INDEX: u64 = 64 << 20;

/// The file of weights, or index of them, in a directory.
///
/// `model.safetensors`, then `model.safetensors.index.json`, then `pytorch_model.bin`, then the
/// only other weight file. A model's folder in the hub's cache stands for the snapshot in use.
pub(super) fn find(dir: &Path) -> Result<PathBuf> {
    if let Ok(revision) = std::fs::read_to_string(dir.join("refs/main")) {
        let snapshot = dir.join("snapshots").join(revision.trim());
        if revision.trim().bytes().all(|b| b.is_ascii_hexdigit()) && snapshot.is_dir() {
            return find(&snapshot);
        }
    }
    if let Some(file) = STANDARD
        .iter()
        .map(|name| dir.join(name))
        .find(|p| p.is_file())
    {
        return Ok(file);
    }
    let (mut found, mut dangling) = (vec![], None);
    for entry in std::fs::read_dir(dir).map_err(|e| Error::io(dir, e))? {
        let path = entry.map_err(|e| Error::io(dir, e))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let endings = [".safetensors", ".safetensors.index.json", ".pt", ".pth"];
        let is_weights =
            STANDARD.contains(&&*name) || endings.iter().any(|ending| name.ends_with(ending));
        if is_weights && path.is_file() {
            found.push(path);
        } else if is_weights && path.is_symlink() {
            dangling = Some(path);
        }
    }
    found.sort();
    if let ([], Some(link)) = (&found[..], dangling) {
        let problem = "a link to a file that is not there; was the download interrupted?";
        return Err(Error::checkpoint(link, problem));
    }
    match &found[..] {
        [] => Err(Error::checkpoint(
            dir,
            "no weights in this directory; looked for model.safetensors, pytorch_model.bin, \
             *.safetensors.index.json, *.safetensors, *.pt and *.pth (of a model in several .bin \
             files, save one state_dict)",
        )),
        [only] => Ok(only.clone()),
        _ => {
            let names = found.iter().filter_map(|path| path.file_name());
            let names: Vec<_> = names.map(|name| name.to_string_lossy()).collect();
            let names = names.join(", ");
            let problem = format!("several weight files in this directory: {names}; pass one");
            Err(Error::checkpoint(dir, problem))
        }
    }
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// Whether a path is the index of a sharded model.
pub(super) fn is_index(path: &Path) -> bool {
    path.to_string_lossy().ends_with(".safetensors.index.json")
}

/// The shards an index names, each with the tensors it is said to hold.
pub(super) fn shards(index: &Path) -> Result<BTreeMap<PathBuf, BTreeSet<String>>> {
    let size = std::fs::metadata(index)
        .map_err(|e| Error::io(index, e))?
        .len();
    if size > MAX_INDEX {
        let problem = format!("an index of {size} bytes; at most {MAX_INDEX} are read");
        return Err(Error::checkpoint(index, problem));
    }
    let text = std::fs::read(index).map_err(|e| Error::io(index, e))?;
    let parsed: Index = serde_json::from_slice(&text)
        .map_err(|e| Error::checkpoint(index, format!("not an index of shards: {e}")))?;
    let mut shards = BTreeMap::<_, BTreeSet<_>>::new();
    for (tensor, file) in parsed.weight_map {
        // A downloaded index must not point out of its directory.
        if Path::new(&file)
            .file_name()
            .is_none_or(|name| name != file.as_str())
        {
            let problem = format!("`{file}` is not the name of a file beside the index");
            return Err(Error::checkpoint(index, problem));
        }
        shards
            .entry(index.with_file_name(file))
            .or_default()
            .insert(tensor);
    }
    Ok(shards)
}
