//! Files that are either complete or not there, of any size.

use std::fs::{self, File};
use std::io::{BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};

use super::{Layout, Link};
use crate::error::{Error, Result};
use crate::write::folder_of;

/// A file that appears in its place when it is finished.
pub(super) struct NewFile {
    path: PathBuf,
    temporary: PathBuf,
    writer: BufWriter<File>,
}

impl NewFile {
    /// A file below the output folder; missing folders are made.
    pub(super) fn create(layout: &Layout, relative: &str) -> Result<Self> {
        let path = layout.root.join(relative);
        for file in [&path, &layout.temporary] {
            if let Some(folder) = file.parent() {
                fs::create_dir_all(folder).map_err(|cause| Error::writing(folder, cause))?;
            }
        }
        let temporary = layout.temporary.clone();
        let file = File::create(&temporary).map_err(|cause| Error::writing(&temporary, cause))?;
        Ok(Self {
            path,
            temporary,
            writer: BufWriter::new(file),
        })
    }

    pub(super) fn write(&mut self, bytes: impl AsRef<[u8]>) -> Result<()> {
        let written = self.writer.write_all(bytes.as_ref());
        written.map_err(|cause| Error::writing(&self.path, cause))
    }

    pub(super) fn finish(mut self) -> Result<()> {
        let finished = self.writer.flush();
        let finished = finished.and_then(|()| fs::rename(&self.temporary, &self.path));
        finished.map_err(|cause| Error::writing(&self.path, cause))
    }
}

/// Writes a small file as a whole.
pub(super) fn write(layout: &Layout, relative: &str, bytes: impl AsRef<[u8]>) -> Result<()> {
    let mut file = NewFile::create(layout, relative)?;
    file.write(bytes)?;
    file.finish()
}

/// Removes the files in a folder, but not the folders in it.
pub(super) fn remove_files(layout: &Layout, relative: &str) -> Result<()> {
    let folder = layout.root.join(relative);
    let entries = match fs::read_dir(&folder) {
        Err(cause) if cause.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(|cause| Error::writing(&folder, cause))?,
    };
    for entry in entries {
        let entry = entry.map_err(|cause| Error::writing(&folder, cause))?;
        if entry.file_type().is_ok_and(|kind| !kind.is_dir()) {
            let path = entry.path();
            fs::remove_file(&path).map_err(|cause| Error::writing(&path, cause))?;
        }
    }
    Ok(())
}

/// Puts a picture below the output folder.
pub(super) fn link(layout: &Layout, relative: &str, source: &Path) -> Result<()> {
    let path = layout.root.join(relative);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(|cause| Error::writing(folder, cause))?;
    }
    if place(&path).is_some_and(|to| place(source) == Some(to)) {
        let why = "is the picture itself; write to another folder";
        return Err(Error::refused(&path, why));
    }
    // Left by a run that ended before it could note the picture as done.
    if let Err(cause) = fs::remove_file(&path)
        && cause.kind() != ErrorKind::NotFound
    {
        return Err(Error::writing(&path, cause));
    }
    // A link to a symbolic link would break with it.
    let followed = || fs::canonicalize(source).map_err(|cause| Error::io(source, cause));
    match layout.link {
        Link::Hard => {
            let source = followed()?;
            fs::hard_link(&source, &path).or_else(|_| copy(layout, &source, &path))
        }
        Link::Copy => copy(layout, source, &path),
        Link::Symbolic => symbolic_link(&followed()?, &path),
    }
    .map_err(|cause| Error::writing(&path, cause))
}

/// Where a file lies, without following it if it is a link.
fn place(path: &Path) -> Option<PathBuf> {
    let folder = fs::canonicalize(folder_of(path)).ok()?;
    Some(folder.join(path.file_name()?))
}

fn copy(layout: &Layout, source: &Path, path: &Path) -> std::io::Result<()> {
    if let Some(folder) = layout.temporary.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::copy(source, &layout.temporary)?;
    fs::rename(&layout.temporary, path)
}

#[cfg(unix)]
fn symbolic_link(source: &Path, path: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(source, path)
}

#[cfg(windows)]
fn symbolic_link(source: &Path, path: &Path) -> std::io::Result<()> {
    std::os::windows::fs::symlink_file(source, path)
}

#[cfg(not(any(unix, windows)))]
fn symbolic_link(_: &Path, _: &Path) -> std::io::Result<()> {
    Err(ErrorKind::Unsupported.into())
}
