//! Files that are either complete or not there.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};

/// Writes a file as a whole: under another name in the same directory, then renamed.
///
/// Whoever looks at `path` sees the old file or the new one, never a part of it. When writing
/// fails, the temporary file is removed and an existing file stays as it was.
///
/// # Errors
/// [`Error::NotFound`] when the directory is missing, [`Error::Io`] when writing or renaming fails.
pub fn write_file(path: impl AsRef<Path>, bytes: &[u8]) -> Result<()> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let path = path.as_ref();
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    if !directory.is_dir() {
        return Err(Error::NotFound {
            path: directory.to_path_buf(),
        });
    }
    // Unique among the processes and threads that may write here at the same time.
    let temporary = Temporary(directory.join(format!(
        ".sam3-{}-{}.tmp",
        std::process::id(),
        COUNTER.fetch_add(1, Ordering::Relaxed)
    )));
    fs::write(&temporary.0, bytes)
        .and_then(|()| fs::rename(&temporary.0, path))
        .map_err(|cause| Error::Io {
            path: path.to_path_buf(),
            cause,
        })
}

/// Removes the file when dropped; after a successful rename there is nothing left to remove.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
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
    fn a_file_is_written_and_replaced_and_nothing_else_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("out.json");
        write_file(&path, b"first").unwrap();
        write_file(&path, b"second").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second");
        assert_eq!(names(directory.path()), ["out.json"]);
    }

    #[test]
    fn a_missing_directory_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("missing");
        let error = write_file(missing.join("out.json"), b"x").unwrap_err();
        assert!(matches!(error, Error::NotFound { path } if path == missing));
    }

    #[test]
    fn a_failed_rename_leaves_no_temporary_file() {
        let directory = tempfile::tempdir().unwrap();
        let occupied = directory.path().join("occupied");
        fs::create_dir(&occupied).unwrap();
        fs::write(occupied.join("file"), b"x").unwrap();
        assert!(matches!(write_file(&occupied, b"y"), Err(Error::Io { .. })));
        assert_eq!(names(directory.path()), ["occupied"]);
    }
}
