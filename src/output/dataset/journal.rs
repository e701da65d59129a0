//! What a run has done, line by line, so that it can be continued, split and joined.
//!
//! Below the output folder, `.sam3/` holds for each part of a run its lock and its journals
//! `part-I-of-N.RUN.jsonl`. The first line of a journal is the [`Header`], each other one a [`Line`]: a
//! picture is done when its line is complete, and that is written after the picture's own files. Every
//! start has a journal of its own, since locks of network file systems cannot be relied on.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::options::name_hash;
use super::{Layout, Picture, Pictures, ascii};
use crate::error::{Error, Result};
use crate::write::lock_file;

/// The folder of journals below the output folder.
pub const FOLDER: &str = ".sam3";

/// The most parts that a run can be split into.
pub const MAX_SHARDS: usize = 1_000_000;

/// Which of several equal parts of the input a run works on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    /// From 0.
    pub index: usize,
    /// At least 1.
    pub count: usize,
}

impl Shard {
    /// The whole input.
    pub const WHOLE: Self = Self { index: 0, count: 1 };

    /// Whether a picture belongs to this part: decided by its name alone, so that neither the order
    /// nor the number of pictures matters.
    pub fn contains(self, name: &str) -> bool {
        name_hash(name) % self.count as u64 == self.index as u64
    }

    fn part(self) -> String {
        format!("part-{}-of-{}", self.index, self.count)
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
}

/// Everything that results depend on. Runs into one folder must agree in it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// Version of the program.
    pub version: String,
    /// The model and what tells its weights from others.
    pub model: String,
    /// The input, prompts, thresholds: everything else that decides what is found.
    pub settings: serde_json::Map<String, serde_json::Value>,
    /// What is written.
    pub layout: Layout,
    /// How many parts the input is split into.
    pub shards: usize,
}

/// A line of a journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Line {
    /// A picture and what was found in it.
    Done {
        /// What belongs into a data set.
        #[serde(flatten)]
        picture: Picture,
        /// The file that it was found in.
        file: Stamp,
    },
    /// A picture that was skipped.
    Failed {
        /// Its path below the input folder, with forward slashes.
        name: String,
        /// Why.
        error: String,
    },
    /// Every picture of the part is done or failed.
    Finished {
        /// How many there are.
        pictures: usize,
    },
}

/// What tells a picture's file from a later one under the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Stamp {
    /// Length of the file.
    pub bytes: u64,
    /// When it was last written, in milliseconds since 1970.
    pub modified: u64,
}

impl Stamp {
    /// Of a file as it is now; zeros for one that cannot be seen.
    pub fn of(path: &Path) -> Self {
        let Ok(about) = fs::metadata(path) else {
            return Self::default();
        };
        let modified = about.modified().ok();
        let since = modified.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        Self {
            bytes: about.len(),
            modified: since.map_or(0, |time| time.as_millis() as u64),
        }
    }
}

/// A journal that is being written; its part stays locked as long as it lives.
#[derive(Debug)]
pub struct Journal {
    file: File,
    path: PathBuf,
    /// Held, not used.
    _lock: File,
}

impl Journal {
    /// Locks a part of the run and begins a journal for it.
    ///
    /// # Errors
    /// [`Error::Dataset`] when another process works on this part, when the folder holds a run with
    /// another header, when `resume` is false and the part was begun before, or when something that
    /// no run has made lies where results go; [`Error::Io`].
    pub fn begin(root: &Path, shard: Shard, header: &Header, resume: bool) -> Result<Self> {
        let folder = root.join(FOLDER);
        fs::create_dir_all(&folder).map_err(|cause| Error::io(&folder, cause))?;
        let lock_path = folder.join(format!("{}.lock", shard.part()));
        let Some(lock) = lock_file(&lock_path)? else {
            let problem = format!("another process is working on part {shard} of this folder");
            return Err(Error::dataset(root, problem));
        };
        // In this order: another part may begin its journal and write files meanwhile.
        let is_free = check_free(root, &header.layout);
        let journals = list(&folder)?;
        if journals.is_empty() {
            is_free?;
        }
        for journal in &journals {
            if let Some(found) = journal.header()? {
                agree(root, &found, header)?;
            }
        }
        let runs = journals.iter().filter(|journal| journal.shard == shard);
        let run = runs.map(|journal| journal.run.saturating_add(1));
        let run = run.max().unwrap_or(0);
        if run > 0 && !resume {
            let problem = format!(
                "holds results for part {shard} already; --resume continues them, or use another \
                 folder"
            );
            return Err(Error::dataset(root, problem));
        }
        let path = folder.join(format!("{}.{run}.jsonl", shard.part()));
        let file = OpenOptions::new().append(true).create_new(true).open(&path);
        let mut journal = Self {
            file: file.map_err(|cause| Error::io(&path, cause))?,
            path,
            _lock: lock,
        };
        journal.write(header)?;
        Ok(journal)
    }

    /// Notes a picture as done or failed, or the part as finished.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn note(&mut self, line: &Line) -> Result<()> {
        self.write(line)
    }

    fn write(&mut self, value: &impl Serialize) -> Result<()> {
        let mut bytes = ascii::json(value);
        bytes.push(b'\n');
        // In one call: what the system has taken survives the end of this process.
        let written = self.file.write_all(&bytes);
        written.map_err(|cause| Error::io(&self.path, cause))
    }
}

/// Refuses to write over what is not from a run: labels made by hand, pictures.
fn check_free(root: &Path, layout: &Layout) -> Result<()> {
    let mut places = layout.formats.iter().flat_map(|format| format.places());
    let taken = places.find(|place| fs::symlink_metadata(root.join(place)).is_ok());
    let Some(place) = taken else {
        return Ok(());
    };
    let problem = format!(
        "holds {place}, which is not from a run of this program; move it, or use another folder"
    );
    Err(Error::dataset(root, problem))
}

/// Runs into one folder must look for the same, with the same model, and write the same.
fn agree(root: &Path, found: &Header, ours: &Header) -> Result<()> {
    let differs = if found.version != ours.version {
        format!("version {} of this program", found.version)
    } else if found.model != ours.model {
        format!("the model {}", found.model)
    } else if found.shards != ours.shards {
        format!("{} parts", found.shards)
    } else if let Some(key) = differing(&found.settings, &ours.settings) {
        let value = found.settings.get(key).unwrap_or(&serde_json::Value::Null);
        format!("{key} {value}")
    } else if found.layout.formats != ours.layout.formats {
        let names: Vec<_> = found.layout.formats.iter().map(|f| f.name()).collect();
        format!("the formats {}", names.join(","))
    } else if !found.layout.writes_as(&ours.layout) {
        "other options for its files".to_string()
    } else {
        return Ok(());
    };
    let problem = format!("holds results made with {differs}; use the same, or another folder");
    Err(Error::dataset(root, problem))
}

type Settings = serde_json::Map<String, serde_json::Value>;

fn differing<'a>(found: &'a Settings, ours: &'a Settings) -> Option<&'a String> {
    let mut keys = found.keys().chain(ours.keys());
    keys.find(|key| found.get(*key) != ours.get(*key))
}

/// A journal on disk.
struct Stored {
    shard: Shard,
    run: usize,
    path: PathBuf,
}

impl Stored {
    /// `None` when the run ended before its first line was complete.
    fn header(&self) -> Result<Option<Header>> {
        let path = &self.path;
        let mut line = Vec::new();
        if !next_line(&mut BufReader::new(open(path)?), &mut line, path)? {
            return Ok(None);
        }
        let header: Header = parsed(&line, 1, path)?;
        let parts = header.shards;
        if !(1..=MAX_SHARDS).contains(&parts) {
            let problem = format!("line 1: {parts} parts; at most {MAX_SHARDS} can be");
            return Err(Error::dataset(path, problem));
        }
        Ok(Some(header))
    }
}

fn open(path: &Path) -> Result<File> {
    File::open(path).map_err(|cause| Error::io(path, cause))
}

/// Reads the next line with its end; `false` at the end of the file, and for a line that was cut off.
fn next_line(reader: &mut BufReader<File>, line: &mut Vec<u8>, path: &Path) -> Result<bool> {
    line.clear();
    let read = reader.read_until(b'\n', line);
    read.map_err(|cause| Error::io(path, cause))?;
    Ok(line.ends_with(b"\n"))
}

fn parsed<T: DeserializeOwned>(line: &[u8], number: usize, path: &Path) -> Result<T> {
    serde_json::from_slice(line)
        .map_err(|error| Error::dataset(path, format!("line {number}: {error}")))
}

/// The journals of a folder, by part and start.
fn list(folder: &Path) -> Result<Vec<Stored>> {
    let entries = fs::read_dir(folder).map_err(|cause| Error::io(folder, cause))?;
    let mut journals = Vec::new();
    for entry in entries {
        let path = entry.map_err(|cause| Error::io(folder, cause))?.path();
        if let Some((shard, run)) = path.file_name().and_then(|name| parse(name.to_str()?)) {
            journals.push(Stored { shard, run, path });
        }
    }
    journals.sort_by_key(|journal| (journal.shard.index, journal.run));
    Ok(journals)
}

/// Reads `part-I-of-N.RUN.jsonl`.
fn parse(name: &str) -> Option<(Shard, usize)> {
    let name = name.strip_prefix("part-")?.strip_suffix(".jsonl")?;
    let (index, rest) = name.split_once("-of-")?;
    let (count, run) = rest.split_once('.')?;
    let shard = Shard {
        index: index.parse().ok()?,
        count: count.parse().ok()?,
    };
    Some((shard, run.parse().ok()?))
}

/// What all journals of a folder say. Only names and places are in memory.
#[derive(Debug)]
pub struct Records {
    /// What the runs had in common.
    pub header: Header,
    files: Vec<PathBuf>,
    done: BTreeMap<String, Place>,
    failed: BTreeMap<String, String>,
    /// By part.
    finished: Vec<bool>,
}

/// Where a line is, and about which file.
#[derive(Debug, Clone, Copy)]
struct Place {
    stamp: Stamp,
    file: usize,
    start: u64,
    length: usize,
}

impl Records {
    /// Reads the journals below an output folder. A line that was cut off does not count.
    ///
    /// # Errors
    /// [`Error::Dataset`] when there is none, when they disagree, or when one is damaged;
    /// [`Error::Io`].
    pub fn read(root: &Path) -> Result<Self> {
        let folder = root.join(FOLDER);
        let none = || Error::dataset(root, "holds no results of `sam3 label`");
        if !folder.is_dir() {
            return Err(none());
        }
        let mut records: Option<Self> = None;
        for journal in list(&folder)? {
            let Some(header) = journal.header()? else {
                continue;
            };
            if let Some(records) = &records {
                agree(root, &records.header, &header)?;
            }
            let records = records.get_or_insert_with(|| Self {
                files: Vec::new(),
                done: BTreeMap::new(),
                failed: BTreeMap::new(),
                finished: vec![false; header.shards],
                header,
            });
            records.add(&journal)?;
        }
        let mut records = records.ok_or_else(none)?;
        records.header.layout.root = root.to_path_buf();
        records.header.layout.temporary = folder.join("documents.tmp");
        Ok(records)
    }

    fn add(&mut self, journal: &Stored) -> Result<()> {
        let path = &journal.path;
        let mut reader = BufReader::new(open(path)?);
        let file = self.files.len();
        self.files.push(path.clone());
        let (mut start, mut number, mut line) = (0, 0, Vec::new());
        while next_line(&mut reader, &mut line, path)? {
            number += 1;
            let length = line.len();
            if number > 1 {
                let place = Place {
                    stamp: Stamp::default(),
                    file,
                    start,
                    length,
                };
                self.note(parsed(&line, number, path)?, place, journal.shard);
            }
            start += length as u64;
        }
        Ok(())
    }

    /// The last line about a picture holds.
    fn note(&mut self, line: Line, place: Place, shard: Shard) {
        match line {
            Line::Done { picture, file } => {
                self.failed.remove(&picture.name);
                let stamp = file;
                self.done.insert(picture.name, Place { stamp, ..place });
            }
            Line::Failed { name, error } => {
                self.done.remove(&name);
                self.failed.insert(name, error);
            }
            Line::Finished { .. } => {
                if let Some(finished) = self.finished.get_mut(shard.index) {
                    *finished = true;
                }
            }
        }
    }

    /// Whether a picture is done, and its file is still the one that it was done from.
    pub fn is_done(&self, name: &str, file: Stamp) -> bool {
        self.done.get(name).is_some_and(|place| place.stamp == file)
    }

    /// How many pictures are done.
    pub fn len(&self) -> usize {
        self.done.len()
    }

    /// Whether no picture is done.
    pub fn is_empty(&self) -> bool {
        self.done.is_empty()
    }

    /// The names of the pictures that are done, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.done.keys().map(String::as_str)
    }

    /// The pictures that were skipped, and why.
    pub fn failures(&self) -> impl Iterator<Item = (&str, &str)> {
        self.failed
            .iter()
            .map(|(name, error)| (name.as_str(), error.as_str()))
    }

    /// The parts that have not come to their end.
    pub fn unfinished(&self) -> Vec<Shard> {
        let count = self.finished.len();
        let open = (0..count).filter(|&index| !self.finished[index]);
        open.map(|index| Shard { index, count }).collect()
    }

    /// One picture that is done.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::Dataset`] when its journal changed meanwhile.
    pub fn picture(&self, name: &str) -> Result<Option<Picture>> {
        let Some(&place) = self.done.get(name) else {
            return Ok(None);
        };
        let path = &self.files[place.file];
        read_line(&open(path)?, path, place).map(Some)
    }
}

impl Pictures for Records {
    fn for_each(&self, visit: &mut dyn FnMut(&Picture) -> Result<()>) -> Result<()> {
        let files = self.files.iter().map(|path| open(path));
        let files = files.collect::<Result<Vec<File>>>()?;
        for &place in self.done.values() {
            let picture = read_line(&files[place.file], &self.files[place.file], place)?;
            visit(&picture)?;
        }
        Ok(())
    }
}

fn read_line(mut file: &File, path: &Path, place: Place) -> Result<Picture> {
    let mut text = vec![0; place.length];
    let read = file.seek(SeekFrom::Start(place.start));
    let read = read.and_then(|_| file.read_exact(&mut text));
    read.map_err(|cause| Error::io(path, cause))?;
    serde_json::from_slice(&text).map_err(|error| Error::dataset(path, error.to_string()))
}
