//! Folders of files that are replaced as a whole.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use crate::error::{Error, Result};
use crate::write::{folder_of, temporary_folder, write_file};

/// Writes a folder of files as a whole: under another name beside it, then renamed. A folder that
/// was there is replaced with all that it holds.
///
/// Whoever looks at `path` sees the old files or the new ones, never some of both; for an instant
/// between two renames there is no folder. When writing fails, the old one stays.
///
/// # Errors
/// [`Error::NotFound`] when the folder above is missing, [`Error::Io`] when writing or renaming fails.
pub fn write_folder(path: impl AsRef<Path>, files: &[(String, Vec<u8>)]) -> Result<()> {
    let path = path.as_ref();
    let above = folder_of(path);
    let failed = |cause| Error::io(path, cause);
    let new = temporary_folder(above)?;
    for (name, bytes) in files {
        write_file(new.path().join(name), bytes)?;
    }
    if let Err(error) = fs::symlink_metadata(path) {
        return match error.kind() {
            ErrorKind::NotFound => fs::rename(&new, path).map_err(failed),
            _ => Err(failed(error)),
        };
    }
    let old = temporary_folder(above)?;
    fs::rename(path, old.path().join("old")).map_err(failed)?;
    fs::rename(&new, path).map_err(|cause| {
        // The error to report is the first one.
        let _ = fs::rename(old.path().join("old"), path);
        failed(cause)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(names: &[&str]) -> Vec<(String, Vec<u8>)> {
        let file = |name: &&str| (name.to_string(), name.as_bytes().to_vec());
        names.iter().map(file).collect()
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let name = |entry: std::io::Result<fs::DirEntry>| {
            entry.unwrap().file_name().into_string().unwrap()
        };
        let mut names: Vec<String> = entries.map(name).collect();
        names.sort();
        names
    }

    #[test]
    fn nothing_of_the_old_folder_stays_and_nothing_lies_beside_it() {
        let above = tempfile::tempdir().unwrap();
        let folder = above.path().join("masks");
        write_folder(&folder, &files(&["0", "1", "2"])).unwrap();
        write_folder(&folder, &files(&["0"])).unwrap();
        assert_eq!(names(&folder), ["0"]);
        assert_eq!(fs::read(folder.join("0")).unwrap(), b"0");
        assert_eq!(names(above.path()), ["masks"]);
    }

    #[test]
    fn a_failure_leaves_the_old_folder_as_it_was() {
        let above = tempfile::tempdir().unwrap();
        let folder = above.path().join("masks");
        write_folder(&folder, &files(&["0", "1"])).unwrap();
        assert!(write_folder(&folder, &files(&["0", "no/such/folder"])).is_err());
        assert_eq!(names(&folder), ["0", "1"]);
        assert_eq!(names(above.path()), ["masks"]);
        let missing = above.path().join("missing/masks");
        assert!(matches!(
            write_folder(missing, &files(&["0"])),
            Err(Error::NotFound { .. })
        ));
    }
}
