//! Where the results of an image go, and what may be replaced there.
//!
//! The results of one format are replaced as a whole, a folder included: no mask of an earlier run
//! stays among the new ones. They are replaced only if they are of the same image. Two images of one
//! name would otherwise overwrite each other's results, so each result says which image it is of
//! where its format has room for that: a chunk of PNG files, a key of JSON, a column of a table.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::{Files, Format, amg, csv, png, write_file, write_folder};
use crate::error::{Error, Result};
use crate::write::{self, folder_of};

/// As much of a PNG file as is read to find what it is of.
const HEAD: u64 = 4096;

/// The folder for the results of one image, whose names begin with that of the image.
#[derive(Debug, Clone)]
pub struct Place {
    folder: PathBuf,
    image: PathBuf,
    stem: OsString,
    source: String,
}

impl Place {
    /// A place in `folder` for results of the image that was read from `image`.
    ///
    /// # Errors
    /// [`Error::Io`] when `image` has no name.
    pub fn new(folder: impl Into<PathBuf>, image: impl Into<PathBuf>) -> Result<Self> {
        let (folder, image) = (folder.into(), image.into());
        let Some(stem) = image.file_stem().map(OsString::from) else {
            let why = "is a folder and has no name to call results by";
            return Err(Error::refused(image, why));
        };
        // What cannot be found again, as a pipe, is known by the name it was given.
        let path = fs::canonicalize(&image).unwrap_or_else(|_| image.clone());
        let hash = fnv1a(path.as_os_str().as_encoded_bytes());
        Ok(Self {
            folder,
            image,
            stem,
            source: format!("sam3:{hash:016x}"),
        })
    }

    /// Tells images of one name apart without giving away where they lie: a hash of the path. For
    /// [`super::ImageResults::source`].
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The file or folder of a format.
    pub fn path(&self, format: Format) -> PathBuf {
        let mut name = self.stem.clone();
        name.push(format.suffix());
        self.folder.join(name)
    }

    /// Finds out whether the formats can be written, before there is anything to write. Makes
    /// nothing, not even the folder.
    ///
    /// # Errors
    /// [`Error::Io`] when the folder cannot be made or written to, when a name is too long, and when
    /// what is there under it may not be replaced.
    pub fn check(&self, formats: &[Format]) -> Result<()> {
        let existing = self.folder.ancestors().find(|path| path.exists());
        let existing = existing.unwrap_or(Path::new("."));
        if !existing.is_dir() {
            return Err(Error::refused(existing, "is a file; results need a folder"));
        }
        for &format in formats {
            self.check_format(format, existing)?;
        }
        Ok(())
    }

    fn check_format(&self, format: Format, existing: &Path) -> Result<()> {
        let path = self.path(format);
        probe(existing, &path)?;
        let about = match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            other => other.map_err(|cause| Error::io(&path, cause))?,
        };
        let why = match (about.is_dir(), format.is_folder()) {
            _ if is_same(&path, &self.image) => "is the image itself; name another folder",
            (false, false) => return self.check_file(&path),
            (true, true) => return self.check_folder(&path),
            (true, false) => "is a folder where a file is to be written",
            (false, true) => "is a file where a folder is to be written",
        };
        Err(Error::refused(path, why))
    }

    /// Refuses a file of another image.
    fn check_file(&self, path: &Path) -> Result<()> {
        let read = || fs::read(path).map_err(|cause| Error::io(path, cause));
        let other = match path.extension().and_then(|e| e.to_str()) {
            Some("png") => png::source(&head(path)?).is_some_and(|source| source != self.source),
            Some("json") => json_source(&read()?).is_some_and(|source| source != self.source),
            Some("csv") => {
                let file = csv::first_file(&String::from_utf8_lossy(&read()?));
                file.is_some_and(|file| !is_same(Path::new(&file), &self.image))
            }
            _ => false,
        };
        match other {
            true => Err(Error::refused(path, OF_ANOTHER)),
            false => Ok(()),
        }
    }

    /// Refuses a folder that holds anything but results of this image.
    fn check_folder(&self, path: &Path) -> Result<()> {
        let entries = fs::read_dir(path).map_err(|cause| Error::io(path, cause))?;
        for entry in entries {
            let entry = entry.map_err(|cause| Error::io(path, cause))?.path();
            if entry.ends_with(amg::METADATA_FILE) {
                continue;
            }
            let head = match entry.is_file() {
                true => head(&entry)?,
                false => vec![],
            };
            match png::source(&head) {
                Some(source) if source == self.source => {}
                Some(_) => return Err(Error::refused(path, OF_ANOTHER)),
                None => {
                    let name = entry.file_name().unwrap_or_default().display();
                    let what = "which is no result; move it, or name another folder";
                    return Err(Error::refused(path, format!("holds {name}, {what}")));
                }
            }
        }
        Ok(())
    }

    /// Writes the results of a format in place of earlier ones of this image, and makes the folder
    /// if it is missing. Returns the path of the file or folder.
    ///
    /// # Errors
    /// As [`Place::check`], which is asked again; [`Error::Io`] when writing fails. What was there
    /// before is then still there.
    pub fn write(&self, format: Format, files: &Files) -> Result<PathBuf> {
        self.check(&[format])?;
        fs::create_dir_all(&self.folder).map_err(|cause| Error::io(&self.folder, cause))?;
        let path = self.path(format);
        match files {
            Files::One(bytes) => write_file(&path, bytes)?,
            Files::Folder(files) => write_folder(&path, files)?,
        }
        Ok(path)
    }
}

const OF_ANOTHER: &str = "is a result of another image of that name; name another folder";

/// Finds out whether a file can be written, before there is anything to write. Leaves nothing behind.
///
/// # Errors
/// [`Error::NotFound`] when its folder is missing; [`Error::Io`] when that cannot be written to, when
/// the name is too long, and when it is that of a folder.
pub fn check_file(path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    match fs::metadata(path) {
        Ok(about) if about.is_dir() => {
            return Err(Error::refused(path, "is a folder; name a file"));
        }
        Ok(about) if !about.is_file() => return Err(Error::refused(path, "is no ordinary file")),
        _ => {}
    }
    let folder = folder_of(path);
    if !folder.is_dir() {
        return Err(Error::NotFound {
            path: folder.to_path_buf(),
        });
    }
    probe(folder, path)
}

/// Finds out whether a file can be made in `folder` whose name is as long as that of `path`.
fn probe(folder: &Path, path: &Path) -> Result<()> {
    let length = path.file_name().unwrap_or_default().len();
    let start = format!(".sam3-{}-", std::process::id());
    let probe = folder.join(format!("{start:.<length$}"));
    match OpenOptions::new().write(true).create_new(true).open(&probe) {
        Ok(_) => fs::remove_file(&probe).map_err(|cause| Error::io(folder, cause)),
        // Another thread of this process is trying the same.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(error) if error.kind() == ErrorKind::InvalidFilename => Err(Error::refused(
            path,
            "is too long a name for this file system; rename the image",
        )),
        Err(cause) => Err(Error::writing(folder, cause)),
    }
}

/// Whether two paths lead to one existing file.
fn is_same(a: &Path, b: &Path) -> bool {
    match (fs::canonicalize(a), fs::canonicalize(b)) {
        (Ok(a), Ok(b)) => a == b,
        _ => a == b,
    }
}

fn head(path: &Path) -> Result<Vec<u8>> {
    write::head(path, HEAD).map_err(|cause| Error::io(path, cause))
}

/// The source that a document or a dataset of one image was written with.
fn json_source(bytes: &[u8]) -> Option<String> {
    let value: serde_json::Value = serde_json::from_slice(bytes).ok()?;
    let source = ["/image/source", "/images/0/source"].map(|at| value.pointer(at));
    let source = source.into_iter().flatten().next()?;
    source.as_str().map(str::to_string)
}

/// FNV-1a, the same on every machine and in every version.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::format::tests::{answer, image, results};
    use crate::output::{FormatOptions, Kind};

    /// Two folders with an image of one name in each, and a third one for results.
    struct Album {
        root: tempfile::TempDir,
    }

    impl Album {
        fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            for path in ["d1/img.png", "d2/img.jpg"] {
                fs::create_dir(root.path().join(path).parent().unwrap()).unwrap();
                fs::write(root.path().join(path), "pixels").unwrap();
            }
            Self { root }
        }

        fn place(&self, image: &str) -> Place {
            let path = self.root.path();
            Place::new(path.join("out/new"), path.join(image)).unwrap()
        }

        fn write(&self, image: &str, format: Format, objects: usize) -> Result<PathBuf> {
            let place = self.place(image);
            let (pixels, mut answers) = (super::tests::image(), [answer()]);
            answers[0].instances = vec![answers[0].instances[0].clone(); objects];
            let path = place.image.display().to_string();
            let results = crate::output::ImageResults {
                path: &path,
                source: Some(place.source()),
                ..results(&pixels, &answers, Kind::Text)
            };
            place.write(format, &format.encode(&results, &FormatOptions::default())?)
        }
    }

    fn count(folder: &Path) -> usize {
        fs::read_dir(folder).unwrap().count()
    }

    const OF_A_TEXT: [Format; 6] = [
        Format::Overlay,
        Format::Masks,
        Format::Cutout,
        Format::Json,
        Format::Csv,
        Format::Coco,
    ];

    #[test]
    fn results_of_one_image_are_replaced_as_a_set() {
        let album = Album::new();
        for format in OF_A_TEXT {
            album.write("d1/img.png", format, 3).unwrap();
            album.place("d1/img.png").check(&[format]).unwrap();
            let path = album.write("d1/img.png", format, 1).unwrap();
            if format.is_folder() {
                let map = usize::from(format == Format::Masks);
                assert_eq!(count(&path), 1 + map, "{format}");
            }
        }
        assert_eq!(count(&album.root.path().join("out/new")), OF_A_TEXT.len());
    }

    #[test]
    fn results_of_another_image_of_that_name_are_refused() {
        let album = Album::new();
        for format in OF_A_TEXT {
            let path = album.write("d1/img.png", format, 1).unwrap();
            let before = path.is_file().then(|| fs::read(&path).unwrap());
            let other = album.place("d2/img.jpg").check(&[format]).unwrap_err();
            assert!(other.to_string().contains("another image"), "{other}");
            assert!(album.write("d2/img.jpg", format, 1).is_err());
            assert_eq!(path.is_file().then(|| fs::read(&path).unwrap()), before);
        }
    }

    #[test]
    fn a_folder_with_a_file_that_is_no_result_is_refused() {
        let album = Album::new();
        let path = album.write("d1/img.png", Format::Masks, 1).unwrap();
        fs::write(path.join("notes.txt"), "mine").unwrap();
        let error = album.write("d1/img.png", Format::Masks, 1).unwrap_err();
        assert!(error.to_string().contains("holds notes.txt"), "{error}");
        assert_eq!(fs::read(path.join("notes.txt")).unwrap(), b"mine");
    }

    #[test]
    fn what_stands_in_the_way_is_found_before_the_work() {
        let album = Album::new();
        let root = album.root.path();
        let check = |folder: &Path, image: &str, format| {
            let place = Place::new(folder, root.join(image)).unwrap();
            place.check(&[format]).unwrap_err().to_string()
        };
        let file = root.join("d1/img.png");
        assert!(check(&file, "d1/img.png", Format::Json).contains("is a file"));
        assert!(check(&file.join("new"), "d1/img.png", Format::Json).contains("is a file"));
        let long = format!("d1/{}.png", "x".repeat(245));
        assert!(check(root, &long, Format::Overlay).contains("too long a name"));
        fs::create_dir(root.join("img.json")).unwrap();
        assert!(check(root, "d1/img.png", Format::Json).contains("is a folder"));
        fs::write(root.join("img_masks"), "").unwrap();
        assert!(check(root, "d1/img.png", Format::Masks).contains("is a file"));
        fs::write(root.join("d1/pic.json"), "pixels").unwrap();
        assert!(check(&root.join("d1"), "d1/pic.json", Format::Json).contains("the image itself"));
        assert_eq!(count(root), 4, "nothing is left behind");
    }

    #[test]
    fn checking_makes_nothing() {
        let album = Album::new();
        album.place("d1/img.png").check(&Format::ALL).unwrap();
        assert_eq!(count(album.root.path()), 2);
    }

    #[cfg(unix)]
    #[test]
    fn names_that_are_not_utf8_stay_apart() {
        use std::os::unix::ffi::OsStrExt;
        let name = |byte| PathBuf::from(std::ffi::OsStr::from_bytes(&[byte, b'.', b'p']));
        let path = |byte| Place::new("out", name(byte)).unwrap().path(Format::Json);
        assert_ne!(path(0xfe), path(0xff));
    }
}
