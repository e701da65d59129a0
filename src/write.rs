//! Files that are either complete or not there.
//!
//! Every file that this library writes is made here: under a name of its own in the same folder,
//! then flushed to the disk, then renamed. Whoever looks at the final name sees the old file or the
//! new one, never a part of either.
//!
//! Easy to get wrong: the temporary name must be unpredictable and made with `O_EXCL`, or somebody
//! else's file or link of that name is written through; and a process that is told to end has no
//! destructors, so a command line must call [`remove_unfinished`] from its signal handler.

use std::collections::BTreeSet;
use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tempfile::{Builder, NamedTempFile, TempDir};

use crate::error::{Error, Result};

/// As much of an existing file as is read to tell what it is.
const HEAD: u64 = 512;

/// How temporary names begin and end.
const PREFIX: &str = ".sam3-";
const SUFFIX: &str = ".tmp";

/// Writes a file as a whole, or nothing; never over a file of another kind. See the
/// [module](self).
///
/// An existing file is replaced only if it is of the very kind of `bytes`: a PNG that this program
/// wrote by another one, JSON by JSON with the same first key, a table by one whose first column
/// has the same name, safetensors by safetensors with the same first entry.
///
/// # Errors
/// [`Error::NotFound`] when the folder is missing, [`Error::Io`] for a file of another kind under
/// that name and when writing or renaming fails.
pub fn write_file(path: impl AsRef<Path>, bytes: &[u8]) -> Result<()> {
    let kind = Kind::of(bytes);
    let mut file = NewFile::create(path, |existing| Kind::of(existing) == kind)?;
    file.write_all(bytes).map_err(|cause| file.error(cause))?;
    file.finish()
}

/// A file that is not complete yet; dropped before [`NewFile::finish`], it leaves nothing behind.
#[derive(Debug)]
pub struct NewFile {
    path: PathBuf,
    temporary: NamedTempFile,
    /// Whether a file that was there may be replaced.
    replaces: bool,
    _listed: Listed,
}

impl NewFile {
    /// Begins a file in the folder of `path`. Of a file that is there already `is_own` is shown the
    /// first 512 bytes, and says whether it may be replaced; an empty one may be in any case.
    ///
    /// # Errors
    /// [`Error::NotFound`] when the folder is missing; [`Error::Io`] when it cannot be written to,
    /// and when what is there may not be replaced: another kind of file, a link, a device.
    pub fn create(path: impl AsRef<Path>, is_own: impl FnOnce(&[u8]) -> bool) -> Result<Self> {
        let path = path.as_ref();
        let folder = folder_of(path);
        if !folder.is_dir() {
            return Err(Error::NotFound {
                path: folder.to_path_buf(),
            });
        }
        let replaces = may_replace(path, is_own)?;
        let mut unfinished = unfinished();
        let temporary = temporary(0o666).tempfile_in(folder);
        let temporary = temporary.map_err(|e| Error::io(folder, bare(e)))?;
        unfinished.insert(temporary.path().to_path_buf());
        Ok(Self {
            path: path.to_path_buf(),
            _listed: Listed(temporary.path().to_path_buf()),
            temporary,
            replaces,
        })
    }

    /// Flushes the file to the disk and gives it its name.
    ///
    /// # Errors
    /// [`Error::Io`] when that fails, and when something has appeared under the name meanwhile.
    pub fn finish(self) -> Result<()> {
        let Self {
            path,
            temporary,
            replaces,
            _listed,
        } = self;
        let failed = |cause| Error::writing(&path, cause);
        temporary.as_file().sync_all().map_err(failed)?;
        let done = match replaces {
            true => temporary.persist(&path),
            false => persist_new(temporary, &path),
        };
        done.map(drop).map_err(|e| match e.error.kind() {
            ErrorKind::AlreadyExists => refusal(&path, "appeared while it was being written"),
            _ => failed(e.error),
        })
    }

    /// The error of a failed write to this file.
    pub fn error(&self, cause: io::Error) -> Error {
        Error::writing(&self.path, cause)
    }
}

/// A folder of a name that nothing else has; removed when dropped, with all that it holds, unless it
/// has another name by then.
pub(crate) fn temporary_folder(above: &Path) -> Result<TempDir> {
    let made = temporary(0o777).tempdir_in(above);
    made.map_err(|e| Error::io(above, bare(e)))
}

/// What is not complete yet: its name, and its permissions, which are what the user's mask leaves of
/// `mode`, as for anything else.
fn temporary(#[cfg_attr(not(unix), expect(unused))] mode: u32) -> Builder<'static, 'static> {
    let mut builder = Builder::new();
    builder.prefix(PREFIX).suffix(SUFFIX);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(fs::Permissions::from_mode(mode));
    }
    builder
}

/// The folder in which something of this path lies.
pub(crate) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

/// Removes the temporary files that a killed process left in a folder, and not below it. The caller
/// must know that no other process is writing there.
///
/// # Errors
/// [`Error::Io`] for what can be neither listed nor removed.
pub fn remove_abandoned(folder: &Path) -> Result<()> {
    let failed = |cause| Error::io(folder, cause);
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let is_file = entry.file_type().map_err(failed)?.is_file();
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if is_file && name.starts_with(PREFIX) && name.ends_with(SUFFIX) {
            let path = entry.path();
            fs::remove_file(&path).map_err(|cause| Error::io(&path, cause))?;
        }
    }
    Ok(())
}

/// Keeps other processes out for as long as the file is open; `None` if one of them was faster. What
/// the file holds stays, as it may be a link to somebody's own.
///
/// # Errors
/// [`Error::Io`].
pub fn lock_file(path: &Path) -> Result<Option<File>> {
    let failed = |cause| Error::io(path, cause);
    let mut options = File::options();
    let file = options.write(true).create(true).truncate(false).open(path);
    let file = file.map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(cause)) => Err(failed(cause)),
    }
}

impl Write for NewFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.temporary.as_file_mut().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(()) // nothing is held back
    }
}

/// Not every file system can refuse to replace; there the check before the work has to do.
fn persist_new(
    temporary: NamedTempFile,
    path: &Path,
) -> std::result::Result<File, tempfile::PersistError> {
    temporary
        .persist_noclobber(path)
        .or_else(|e| match e.error.kind() {
            ErrorKind::Unsupported | ErrorKind::InvalidInput if !path.exists() => {
                e.file.persist(path)
            }
            _ => Err(e),
        })
}

/// Whether `path` may be replaced; `false` if nothing is there.
fn may_replace(path: &Path, is_own: impl FnOnce(&[u8]) -> bool) -> Result<bool> {
    let failed = |cause| Error::writing(path, cause);
    let about = match fs::symlink_metadata(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(false),
        other => other.map_err(failed)?,
    };
    if !about.is_file() {
        return Err(refusal(path, "is there and is no ordinary file"));
    }
    let head = head(path, HEAD).map_err(failed)?;
    match head.is_empty() || is_own(&head) {
        true => Ok(true),
        false => Err(refusal(path, "is there and is not the same kind of file")),
    }
}

fn refusal(path: &Path, what: &str) -> Error {
    Error::refused(path, format!("{what}; remove it, or write to another name"))
}

/// The beginning of a file, of `length` bytes at most.
pub(crate) fn head(path: &Path, length: u64) -> io::Result<Vec<u8>> {
    let mut head = vec![];
    File::open(path)?.take(length).read_to_end(&mut head)?;
    Ok(head)
}

/// The operating system's error without the path that tempfile adds to it: nobody has heard of that.
fn bare(error: io::Error) -> io::Error {
    let cause = error.get_ref().and_then(|inner| inner.source());
    let cause = cause.and_then(|inner| inner.downcast_ref::<io::Error>());
    let code = cause.and_then(io::Error::raw_os_error);
    code.map_or(error, io::Error::from_raw_os_error)
}

/// Temporary files of this process.
static UNFINISHED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

fn unfinished() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes a file off the list when it has its name, or is gone.
#[derive(Debug)]
struct Listed(PathBuf);

impl Drop for Listed {
    fn drop(&mut self) {
        unfinished().remove(&self.0);
    }
}

/// Removes what is not complete, for a process that is about to end; nothing can be written
/// afterwards.
pub fn remove_unfinished() {
    let unfinished = unfinished();
    for path in unfinished.iter() {
        let _ = fs::remove_file(path); // whoever ends has nobody to complain to
    }
    // Threads that want to begin another file wait here until the process is gone.
    std::mem::forget(unfinished);
}

/// What a file is, as far as its beginning tells.
#[derive(Debug, PartialEq, Eq)]
enum Kind {
    /// A picture that says which image it is a result of.
    OwnPng,
    /// A JSON object, by its first key.
    Object(Vec<u8>),
    /// A JSON list.
    List,
    /// Safetensors, by the first entry of their header: the name of a tensor and of a field of it,
    /// or `__metadata__` and the first key of that.
    Tensors(Vec<u8>, Vec<u8>),
    /// Lines of numbers.
    Numbers,
    /// Another text, by its first word: the first column's name, or the first key.
    Text(Vec<u8>),
    /// Anything else, by its first four bytes.
    Magic(Vec<u8>),
}

impl Kind {
    fn of(head: &[u8]) -> Self {
        let head = &head[..head.len().min(HEAD as usize)];
        let key = |json: &[u8], i: usize| -> Vec<u8> {
            let mut quoted = json.split(|b| *b == b'"').skip(1).step_by(2);
            quoted.nth(i).unwrap_or_default().to_vec()
        };
        match head.trim_ascii_start() {
            _ if is_own_png(head) => Self::OwnPng,
            json @ [b'{', ..] => Self::Object(key(json, 0)),
            [b'[', ..] => Self::List,
            _ if is_safetensors(head) => Self::Tensors(key(&head[8..], 0), key(&head[8..], 1)),
            [b'0'..=b'9' | b'-', ..] => Self::Numbers,
            text @ [b'a'..=b'z' | b'A'..=b'Z', ..] => {
                let is_within = |b: &&u8| b.is_ascii_alphanumeric() || **b == b'_';
                Self::Text(text.iter().take_while(is_within).copied().collect())
            }
            other => Self::Magic(other[..other.len().min(4)].to_vec()),
        }
    }
}

/// Whether a file that begins like this is safetensors: a length, then JSON.
pub(crate) fn is_safetensors(head: &[u8]) -> bool {
    matches!(head, [_, _, _, _, _, _, _, _, b'{', ..])
}

/// Type, keyword and the beginning of the text of a chunk that every PNG result has.
const SOURCE: &[u8] = b"tEXtSource\0sam3:";

fn is_own_png(head: &[u8]) -> bool {
    head.starts_with(b"\x89PNG\r\n\x1a\n") && head.windows(SOURCE.len()).any(|w| w == SOURCE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    #[test]
    fn a_lock_is_held_once_and_leaves_what_a_link_points_at() {
        let directory = tempfile::tempdir().unwrap();
        let (own, lock) = (directory.path().join("own"), directory.path().join("lock"));
        fs::write(&own, "mine").unwrap();
        #[cfg(unix)]
        std::os::unix::fs::symlink(&own, &lock).unwrap();
        let held = lock_file(&lock).unwrap();
        assert!(held.is_some() && lock_file(&lock).unwrap().is_none());
        drop(held);
        assert!(lock_file(&lock).unwrap().is_some());
        assert_eq!(fs::read(&own).unwrap(), b"mine");
    }

    #[test]
    fn a_file_is_written_and_replaced_and_nothing_else_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("out.json");
        write_file(&path, b"{\"image\": 1}").unwrap();
        write_file(&path, b"{ \"image\":2}").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"{ \"image\":2}");
        assert_eq!(names(directory.path()), ["out.json"]);
        assert!(unfinished().iter().all(|p| !p.starts_with(&directory)));
    }

    #[test]
    fn only_the_same_kind_of_result_is_replaced() {
        let foreign = [&b"\x89PNG\r\n\x1a\n"[..], &[0; 25]].concat();
        let png = [&foreign, &b"\0\0\0\x0ctEXtSource\0sam3:0"[..]].concat();
        let safetensors = |key: &str| [&[9, 0, 0, 0, 0, 0, 0, 0], key.as_bytes()].concat();
        let logits = safetensors("{\"low_res_logits\":{\"dtype\":0}}");
        let model = safetensors("{\"__metadata__\":{\"format\":0}}");
        let trace = safetensors("{\"__metadata__\":{\"trace\":0}}");
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("out");
        for (old, new, replaced) in [
            (&png[..], &png[..], true),
            (b"", &png, true),
            (&foreign, &png, false),
            (b"{\"image\": {}}", b"{\"image\":[]}", true),
            (b"{\"version\": 1, \"image\": 0}", b"{\"image\": {}}", false),
            (&foreign, b"{\"image\": {}}", false),
            (b"[]", b"[{\"segmentation\": 1}]", true),
            (b"{\"images\": []}", b"[]", false),
            (b"id,area\n1,2\n", b"id,area\n", true),
            (b"name,area\n1,2\n", b"id,area\n", false),
            (b"0 0.5 0.5 0.1 0.1\n", b"2 0.25 0.5 0.1 0.1\n", true),
            (b"path: a\n", b"path: b\n", true),
            (b"0 0.5\n", b"path: b\n", false),
            (b"\x93NUMPY\x01\x00a", b"\x93NUMPY\x01\x00b", true),
            (&logits, &logits, true),
            (&model, &logits, false),
            (&model, &trace, false),
            (&trace, &trace, true),
        ] {
            fs::write(&path, old).unwrap();
            let shown = (String::from_utf8_lossy(old), String::from_utf8_lossy(new));
            let written = write_file(&path, new);
            assert_eq!(written.is_ok(), replaced, "{shown:?}");
            assert_eq!(fs::read(&path).unwrap(), if replaced { new } else { old });
            if let Err(error) = written {
                let says = error.to_string();
                assert!(
                    says.contains("not the same kind of file; remove it"),
                    "{says}"
                );
            }
        }
        assert_eq!(names(directory.path()), ["out"]);
    }

    #[test]
    fn what_appears_meanwhile_is_not_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("out");
        let [mut first, mut second] = [(); 2].map(|()| NewFile::create(&path, |_| true).unwrap());
        first.write_all(b"first").unwrap();
        second.write_all(b"second").unwrap();
        second.finish().unwrap();
        let says = first.finish().unwrap_err().to_string();
        assert!(
            says.contains("appeared while it was being written"),
            "{says}"
        );
        assert_eq!(fs::read(&path).unwrap(), b"second");
        assert_eq!(names(directory.path()), ["out"]);
    }

    #[cfg(unix)]
    #[test]
    fn links_and_devices_are_neither_followed_nor_replaced() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let directory = tempfile::tempdir().unwrap();
        let (victim, link) = (
            directory.path().join("victim"),
            directory.path().join("link"),
        );
        fs::write(&victim, b"{\"image\":1}").unwrap();
        symlink(&victim, &link).unwrap();
        for path in [&link, Path::new("/dev/null")] {
            let says = write_file(path, b"{\"image\":2}").unwrap_err().to_string();
            assert!(says.contains("no ordinary file"), "{says}");
        }
        assert_eq!(fs::read(&victim).unwrap(), b"{\"image\":1}");
        write_file(directory.path().join("new"), b"x").unwrap();
        let mode = |name: &str| {
            let about = fs::metadata(directory.path().join(name)).unwrap();
            about.permissions().mode()
        };
        assert_eq!(mode("new"), mode("victim"), "as any other file");
    }

    #[test]
    fn a_missing_directory_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("missing");
        let error = write_file(missing.join("out.json"), b"x").unwrap_err();
        assert!(matches!(error, Error::NotFound { path } if path == missing));
    }

    #[test]
    fn a_folder_under_that_name_stays_and_so_does_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let occupied = directory.path().join("occupied");
        fs::create_dir(&occupied).unwrap();
        assert!(matches!(write_file(&occupied, b"y"), Err(Error::Io { .. })));
        assert_eq!(names(directory.path()), ["occupied"]);
    }
}
