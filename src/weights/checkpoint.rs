//! One type over every kind of weight file.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::safetensors::Dtype;
use candle::{DType, Device, Shape, Tensor};
use candle_nn::{Init, VarBuilder, var_builder::SimpleBackend};

use super::int8::{self, Choice, weight_of};
use super::layout::{Asked, Fix, Layout, Table};
use super::names::{listing, matches};
use super::source::{Format, Source, format_of};
use super::tensor::{StoredTensor, join};
use super::{directory, layouts, prefix, safetensors, torch};
use crate::error::{Error, Result};

/// Weights, opened but not read.
///
/// All names given and returned are the official ones with the `detector.` or `tracker.` prefix
/// of `sam3.pt`, whatever the file calls them; shapes are the official ones, too. Buffers that no
/// module reads (`freqs_cis`, `num_batches_tracked`) and tied copies are not listed.
///
/// Cheap to clone.
#[derive(Clone)]
pub struct Checkpoint {
    file: Arc<Contents>,
    /// Others that supply what is missing under a prefix.
    parts: Vec<(String, Checkpoint)>,
    /// Weights that become 8 bits when they are read.
    int8: Option<Choice>,
}

struct Contents {
    path: PathBuf,
    files: Vec<PathBuf>,
    /// What was taken off every name.
    prefix: String,
    layout: &'static Layout,
    /// Everything in the file.
    stored: Vec<StoredTensor>,
    /// What can be asked for.
    tensors: BTreeMap<String, Entry>,
    metadata: HashMap<String, String>,
}

/// A tensor as it is asked for.
pub(super) struct Entry {
    /// Joined along the first axis.
    pub(super) parts: Vec<StoredTensor>,
    pub(super) shape: Vec<usize>,
    /// Elements of zeros before the first part.
    pub(super) skip: usize,
}

impl Checkpoint {
    /// Opens a `.pt`, `.pth` or `.safetensors` file, the `*.safetensors.index.json` of a sharded
    /// model, or a directory with one of these.
    ///
    /// Only headers are read, and the first page of each matrix. Files are told apart by their
    /// content, not their name.
    ///
    /// # Errors
    /// [`Error::NotFound`], or [`Error::Checkpoint`] if the file is truncated, corrupt, something
    /// else than weights, or for a large part zeros, as an interrupted download leaves it.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let mut path = path.as_ref().to_path_buf();
        if path.is_dir() {
            path = directory::find(&path)?;
        }
        if directory::is_index(&path) {
            return Self::open_shards(&path);
        }
        let source = Arc::new(Source::open(&path)?);
        Self::read(path.clone(), vec![path], source)?.refuse_holes()
    }

    /// Opens weights in memory: safetensors or the bytes of a `.pt` file.
    ///
    /// # Errors
    /// [`Error::Checkpoint`], as [`Checkpoint::open`].
    pub fn from_bytes(bytes: impl AsRef<[u8]> + Send + Sync + 'static) -> Result<Self> {
        let source = Arc::new(Source::Memory(Box::new(bytes)));
        Self::read("weights in memory".into(), vec![], source)
    }

    /// Zeros of these names, shapes and dtypes that take no memory: for checking a variant
    /// against a key list without its file.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if a name comes twice, or a shape or dtype is impossible.
    pub fn from_shapes(
        tensors: impl IntoIterator<Item = (String, Vec<usize>, DType)>,
    ) -> Result<Self> {
        let path = PathBuf::from("list of shapes");
        let tensors = tensors
            .into_iter()
            .map(|(name, shape, dtype)| StoredTensor::zeros(name, dtype, shape));
        let tensors = tensors.collect::<Result<_, _>>();
        let tensors = tensors.map_err(|problem| Error::checkpoint(&path, problem))?;
        Self::index(path, vec![], tensors, HashMap::new())
    }

    fn open_shards(index: &Path) -> Result<Self> {
        let (mut files, mut tensors, mut metadata) = (vec![], vec![], HashMap::new());
        for (path, expected) in directory::shards(index)? {
            let source = Arc::new(Source::open(&path)?);
            let (shard, about) =
                safetensors::read(&source).map_err(|problem| Error::checkpoint(&path, problem))?;
            let held: BTreeSet<_> = shard.iter().map(|t| &t.name).collect();
            let lacking: Vec<_> = expected.iter().filter(|n| !held.contains(n)).collect();
            if !lacking.is_empty() {
                let (n, names) = (lacking.len(), listing(lacking));
                let problem = format!("{n} tensors of the index are not in this shard:{names}");
                return Err(Error::checkpoint(&path, problem));
            }
            files.push(path);
            tensors.extend(shard);
            metadata.extend(about);
        }
        Self::index(index.to_path_buf(), files, tensors, metadata)?.refuse_holes()
    }

    fn read(path: PathBuf, files: Vec<PathBuf>, source: Arc<Source>) -> Result<Self> {
        let read = match format_of(source.bytes()) {
            Ok(Format::Torch) => torch::read(&source).map(|tensors| (tensors, HashMap::new())),
            Ok(Format::Safetensors) => safetensors::read(&source),
            Err(problem) => Err(problem),
        };
        let (tensors, metadata) = read.map_err(|problem| Error::checkpoint(&path, problem))?;
        Self::index(path, files, tensors, metadata)
    }

    /// Gives stored tensors the names they are asked by.
    fn index(
        path: PathBuf,
        files: Vec<PathBuf>,
        mut stored: Vec<StoredTensor>,
        metadata: HashMap<String, String>,
    ) -> Result<Self> {
        let prefix = prefix::strip(&mut stored);
        let layout = layouts::of(stored.iter().map(|t| t.name.as_str()));
        let tensors = entries(layout, &stored).map_err(|e| Error::checkpoint(&path, e))?;
        let file = Contents {
            path,
            files,
            prefix,
            layout,
            stored,
            tensors,
            metadata,
        };
        Ok(Self {
            file: Arc::new(file),
            parts: vec![],
            int8: None,
        })
    }

    /// The file that was opened: in a directory, the one that was found.
    pub fn path(&self) -> &Path {
        &self.file.path
    }

    /// The files with the tensors: one, or every shard; none for weights in memory. What
    /// [`Checkpoint::with_part`] supplies is among them.
    pub fn files(&self) -> Vec<&Path> {
        let parts = self.parts.iter().flat_map(|(_, other)| other.files());
        let own = self.file.files.iter().map(PathBuf::as_path);
        own.chain(parts).collect()
    }

    /// What training put before every name in the file, such as `module.`; names here and in
    /// messages are without it. Empty for most files.
    pub fn prefix(&self) -> &str {
        &self.file.prefix
    }

    /// How the file names its tensors.
    pub fn layout(&self) -> &'static Layout {
        self.file.layout
    }

    /// The `__metadata__` of safetensors; empty for other files.
    pub fn metadata(&self) -> &HashMap<String, String> {
        &self.file.metadata
    }

    /// Every tensor a module can ask for, sorted.
    pub fn names(&self) -> Vec<&str> {
        let mut names: BTreeSet<&str> = self.own_names().collect();
        for (prefix, other) in &self.parts {
            let supplied = other.names().into_iter();
            names.extend(supplied.filter(|name| matches(name, prefix).is_some()));
        }
        names.into_iter().collect()
    }

    /// Whether a module can ask for `name`.
    pub fn contains(&self, name: &str) -> bool {
        self.find(name).is_some() || self.made_scale(name).is_some()
    }

    /// Whether any tensor's name begins with the segments of `prefix`, in which `*` stands for
    /// any segment.
    pub fn contains_part(&self, prefix: &str) -> bool {
        let mut names = self.names().into_iter();
        names.any(|name| matches(name, prefix).is_some())
    }

    /// The shape `name` will have when it is read.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        match self.find(name) {
            Some((_, entry)) => Some(&entry.shape),
            None => self.made_scale(name).map(|weight| &weight.shape[..1]),
        }
    }

    /// The dtype `name` is stored in; `None` also if candle has no such dtype. Weights of 8 bits are
    /// read as U8, bit by bit.
    pub fn dtype(&self, name: &str) -> Option<DType> {
        match self.find(name) {
            Some((_, entry)) => entry.parts.first()?.candle_dtype(),
            None => self.made_scale(name).map(|_| DType::F32),
        }
    }

    /// The same weights; those of floating point that `choice` names become 8 bits when a layer that
    /// can hold them so asks for them, or when they are written.
    pub fn quantized(&self, choice: Choice) -> Self {
        Self {
            int8: Some(choice),
            ..self.clone()
        }
    }

    /// Whether weights are stored in 8 bits, or become so when they are read.
    pub fn is_int8(&self) -> bool {
        let is_stored = |name: &str| {
            let entry = self.entry(name);
            entry.is_some_and(|entry| entry.parts.iter().any(|part| part.dtype == Dtype::I8))
        };
        self.int8.is_some() || self.names().into_iter().any(is_stored)
    }

    /// Whether `name` is to become 8 bits.
    pub(super) fn becomes_int8(&self, name: &str) -> bool {
        let is_chosen = self.int8.is_some_and(|choice| choice(name));
        is_chosen
            && self.entry(name).is_some_and(|entry| entry.shape.len() > 1)
            && self.dtype(name).is_some_and(|dtype| dtype.is_float())
    }

    /// The weight whose scales have this name, if they are not stored but made.
    fn made_scale(&self, scale: &str) -> Option<&Entry> {
        let weight = weight_of(scale)?;
        self.entry(weight).filter(|_| self.becomes_int8(weight))
    }

    /// Those of `names` that are not here.
    pub fn missing<S: AsRef<str>>(&self, names: impl IntoIterator<Item = S>) -> Vec<String> {
        let names = names.into_iter().map(|name| name.as_ref().to_string());
        names.filter(|name| !self.contains(name)).collect()
    }

    /// Checks that all of `names` are here, so that an error can name all that are not.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] with the names that are missing.
    pub fn require<S: AsRef<str>>(&self, names: impl IntoIterator<Item = S>) -> Result<()> {
        match &self.missing(names)[..] {
            [] => Ok(()),
            missing => {
                let names = listing(missing);
                let (n, layout) = (missing.len(), self.layout().name);
                let problem = format!("{n} tensors are missing ({layout} layout):{names}");
                Err(Error::checkpoint(self.path(), problem))
            }
        }
    }

    /// The same weights, with tensors under `prefix` that they lack taken from `other`.
    ///
    /// `other` is not asked to be read completely.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if `other` has nothing under `prefix`, or if one is SAM 3.1 and the
    /// other is not: nearly all their weights differ.
    pub fn with_part(&self, prefix: &str, other: &Self) -> Result<Self> {
        let is_sam31 = |checkpoint: &Self| checkpoint.layout().name == layouts::SAM31.name;
        if is_sam31(self) != is_sam31(other) {
            let (this, layout) = (self.path().display(), other.layout().name);
            let problem = format!(
                "`{prefix}` of this file ({layout} layout) does not fit {this} ({} layout): SAM 3 \
                 and SAM 3.1 were trained apart; take both from one of them",
                self.layout().name
            );
            return Err(Error::checkpoint(other.path(), problem));
        }
        if !other.contains_part(prefix) {
            let problem = format!("has no tensors under `{prefix}`");
            return Err(Error::checkpoint(other.path(), problem));
        }
        let mut whole = self.clone();
        whole.parts.push((prefix.to_string(), other.clone()));
        Ok(whole)
    }

    /// A builder that reads tensors as `dtype` onto `device` when a module asks for them.
    ///
    /// Each is copied once from the file. Missing and misshaped tensors are errors that name the
    /// tensor, what the file calls it, the file and its layout.
    pub fn var_builder(&self, dtype: DType, device: &Device) -> VarBuilder<'static> {
        let stored = Self {
            int8: None,
            ..self.clone()
        };
        int8::builder(stored, self.int8, dtype, device)
    }

    /// Every tensor that a module can ask for of the file itself, without parts; sorted.
    pub(super) fn own_names(&self) -> impl Iterator<Item = &str> {
        self.file.tensors.keys().map(String::as_str)
    }

    /// Others that supply what is missing under a prefix.
    pub(super) fn parts(&self) -> &[(String, Checkpoint)] {
        &self.parts
    }

    pub(super) fn entry(&self, name: &str) -> Option<&Entry> {
        self.find(name).map(|(_, entry)| entry)
    }

    /// Whether the file itself, without parts, has what a module asks for.
    pub(super) fn holds(&self, name: &str) -> bool {
        self.file.tensors.contains_key(name)
    }

    pub(super) fn tensors_as_stored(&self) -> &[StoredTensor] {
        &self.file.stored
    }

    fn find(&self, name: &str) -> Option<(&Contents, &Entry)> {
        if let Some(entry) = self.file.tensors.get(name) {
            return Some((&self.file, entry));
        }
        let mut parts = self.parts.iter();
        parts.find_map(|(prefix, other)| matches(name, prefix).and_then(|_| other.find(name)))
    }

    fn get(
        &self,
        name: &str,
        shape: Option<&Shape>,
        dtype: DType,
        device: &Device,
    ) -> candle::Result<Tensor> {
        let Some((file, entry)) = self.find(name) else {
            return Err(candle::Error::msg(self.missing_message(name)));
        };
        if let Some(want) = shape.filter(|want| want.dims() != entry.shape) {
            let (got, want, at) = (&entry.shape, want.dims(), file.place(name, entry));
            let message = format!("`{name}` has shape {got:?} instead of {want:?} {at}");
            return Err(candle::Error::msg(message));
        }
        let read = entry.read(dtype, device);
        read.map_err(|e| e.context(format!("`{name}` {}", file.place(name, entry))))
    }

    pub(super) fn missing_message(&self, name: &str) -> String {
        let (path, layout) = (self.path().display(), self.layout());
        let stored = match layout.stored(name) {
            stored if stored == name => String::new(),
            stored => format!(", where it would be `{stored}`"),
        };
        format!(
            "`{name}` is missing in {path} ({} layout{stored})",
            layout.name
        )
    }
}

impl Contents {
    /// `in sam3.pt (SAM 3 layout, stored as …)`
    fn place(&self, name: &str, entry: &Entry) -> String {
        let stored: Vec<_> = entry.parts.iter().map(|t| t.name.as_str()).collect();
        let stored = match &stored[..] {
            [only] if *only == name => String::new(),
            _ => format!(", stored as {}", stored.join(", ")),
        };
        format!(
            "in {} ({} layout{stored})",
            self.path.display(),
            self.layout.name
        )
    }
}

impl fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checkpoint")
            .field("path", &self.path())
            .field("layout", &self.layout().name)
            .field("tensors", &self.file.tensors.len())
            .field("parts", &self.parts)
            .finish()
    }
}

impl SimpleBackend for Checkpoint {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        _: Init,
        dtype: DType,
        device: &Device,
    ) -> candle::Result<Tensor> {
        Self::get(self, name, Some(&shape), dtype, device)
    }

    fn get_unchecked(&self, name: &str, dtype: DType, device: &Device) -> candle::Result<Tensor> {
        Self::get(self, name, None, dtype, device)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.contains(name)
    }
}

/// Applies a layout to everything in a file.
fn entries(
    layout: &'static Layout,
    stored: &[StoredTensor],
) -> Result<BTreeMap<String, Entry>, String> {
    let table = Table::new(layout);
    let mut slots = BTreeMap::<String, Vec<Option<StoredTensor>>>::new();
    for tensor in stored {
        let Some(Asked { names, part }) = table.asked(&tensor.name) else {
            continue;
        };
        let cuts = names.len();
        for (i, name) in names.into_iter().enumerate() {
            let view = match cuts {
                1 => tensor.clone(),
                _ => tensor.rows(i, cuts).ok_or_else(|| {
                    let (name, shape) = (&tensor.name, &tensor.shape);
                    format!("`{name}` has shape {shape:?}, which does not divide by {cuts}")
                })?,
            };
            let parts = slots.entry(name).or_insert_with(|| vec![None; part.1]);
            match parts.get_mut(part.0) {
                Some(slot @ None) => *slot = Some(view),
                _ => {
                    let others = parts.iter().flatten().map(|t| t.name.as_str());
                    let others = others.collect::<Vec<_>>().join(", ");
                    return Err(format!("`{}` is the same tensor as {others}", tensor.name));
                }
            }
        }
    }
    let entries = slots.into_iter().map(|(name, parts)| {
        let count = parts.len();
        let parts: Vec<_> = parts.into_iter().flatten().collect();
        if parts.len() < count {
            let stored = layout.stored(&name);
            return Err(format!(
                "of `{stored}` only {} of {count} are there",
                parts.len()
            ));
        }
        let entry = Entry::new(parts, layout.fix(&name));
        let entry = entry.ok_or_else(|| {
            let stored = layout.stored(&name);
            format!("`{stored}` has shapes that do not make `{name}`")
        })?;
        Ok((name, entry))
    });
    entries.collect()
}

impl Entry {
    /// `None` if the shapes of the parts do not fit.
    fn new(mut parts: Vec<StoredTensor>, fix: Option<Fix>) -> Option<Self> {
        if fix == Some(Fix::Transpose) {
            parts = parts
                .iter()
                .map(StoredTensor::transposed)
                .collect::<Option<_>>()?;
        }
        let mut shape = parts.first()?.shape.clone();
        for part in &parts[1..] {
            let rows = part.shape.first()?;
            *shape.first_mut()? = shape.first()?.checked_add(*rows)?;
            if part.shape[1..] != shape[1..] {
                return None;
            }
        }
        let mut skip = 0;
        if fix == Some(Fix::PadFirst) {
            match &mut shape[..] {
                [1, rows, inner @ ..] => {
                    *rows += 1;
                    skip = inner.iter().product();
                }
                _ => return None,
            }
        }
        Some(Self { parts, shape, skip })
    }

    pub(super) fn read(&self, dtype: DType, device: &Device) -> candle::Result<Tensor> {
        join(&self.parts, self.skip, &self.shape, dtype, device)
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
