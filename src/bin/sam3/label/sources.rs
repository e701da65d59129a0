//! Which pictures.

use std::collections::BTreeMap;
use std::io::BufRead;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail};
use candle_sam3::predict::dataset::Source;

/// What is taken from folders; a file that is named itself may have any name.
const EXTENSIONS: [&str; 13] = [
    "bmp", "gif", "jfif", "jpeg", "jpg", "pbm", "pgm", "png", "pnm", "ppm", "tif", "tiff", "webp",
];

/// The pictures of all inputs, by name: their path below the input folder, or below the folder that
/// all inputs have in common.
///
/// An input is a file, a folder with everything in it, a pattern such as `photos/**/*.jpg`, or `-` for
/// a list on standard input with a file on each line. Hidden files and folders are left out, and
/// everything below `output`.
pub fn list(inputs: &[String], output: &Path) -> Result<Vec<Source>> {
    // What is not there yet holds no pictures.
    let output = std::fs::canonicalize(output).or_else(|_| std::path::absolute(output))?;
    let mut files = Vec::new();
    let mut roots = Vec::new();
    for input in inputs {
        if input == "-" {
            for line in std::io::stdin().lock().lines() {
                let line = line.context("the list on standard input")?;
                if !line.trim().is_empty() {
                    add(Path::new(&line), &output, &mut files, &mut roots)?;
                }
            }
        } else if Path::new(input).exists() || !input.contains(['*', '?', '[']) {
            add(Path::new(input), &output, &mut files, &mut roots)?;
        } else {
            let found = glob::glob(input).with_context(|| format!("the pattern {input:?}"))?;
            let before = files.len();
            for path in found {
                let path = path?;
                if !resolved(&path)?.starts_with(&output) {
                    add(&path, &output, &mut files, &mut roots)?;
                }
            }
            if files.len() == before {
                bail!("no picture fits {input:?}");
            }
        }
    }
    let Some(root) = common(&roots) else {
        bail!("{} have no folder in common", inputs.join(", "));
    };
    let mut sources = BTreeMap::new();
    for path in files {
        let Some(name) = name_below(&root, &path) else {
            bail!("{}: the name is not Unicode; rename it", path.display());
        };
        // The same file, named twice, is one.
        sources.insert(name.clone(), Source { name, path });
    }
    if sources.is_empty() {
        bail!("no picture in {}", inputs.join(", "));
    }
    Ok(sources.into_values().collect())
}

/// The way from a folder to a file, with forward slashes. Made of the parts of the path: elsewhere than
/// on Windows a backslash is a letter like any other, and a file may be called `a\..\..\b.png`.
fn name_below(root: &Path, path: &Path) -> Option<String> {
    let below = path.strip_prefix(root).ok()?;
    let parts = below.components().map(|part| part.as_os_str().to_str());
    Some(parts.collect::<Option<Vec<_>>>()?.join("/"))
}

/// An absolute path without `..`, by which names would lead out of the output folder.
fn resolved(input: &Path) -> std::io::Result<PathBuf> {
    let path = std::path::absolute(input)?;
    if !path.components().any(|part| part == Component::ParentDir) {
        return Ok(path);
    }
    match (path.parent(), path.file_name()) {
        // The last name stays, whatever it is a link to.
        (Some(folder), Some(name)) => Ok(std::fs::canonicalize(folder)?.join(name)),
        _ => std::fs::canonicalize(&path),
    }
}

/// Takes in a file or a folder, and the folder that names begin below.
fn add(
    input: &Path,
    output: &Path,
    files: &mut Vec<PathBuf>,
    roots: &mut Vec<PathBuf>,
) -> Result<()> {
    let path = resolved(input).with_context(|| input.display().to_string())?;
    if path.is_dir() {
        if is_output(&path, output) {
            bail!(
                "{} is the output folder as well; results would be taken for pictures, so name \
                 another one, or one below it",
                input.display()
            );
        }
        walk(&path, output, files, 0)?;
        roots.push(path);
    } else if path.exists() {
        roots.push(path.parent().unwrap_or(&path).to_path_buf());
        files.push(path);
    } else {
        bail!("{} does not exist", input.display());
    }
    Ok(())
}

fn is_output(folder: &Path, output: &Path) -> bool {
    folder == output || std::fs::canonicalize(folder).is_ok_and(|folder| folder == output)
}

/// Links may lead round in circles.
const MAX_DEPTH: usize = 64;

fn walk(folder: &Path, output: &Path, files: &mut Vec<PathBuf>, depth: usize) -> Result<()> {
    if depth > MAX_DEPTH {
        bail!(
            "{}: folders in folders, {MAX_DEPTH} deep; is a link leading back?",
            folder.display()
        );
    }
    let entries = std::fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    for entry in entries {
        let entry = entry.with_context(|| folder.display().to_string())?;
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        let path = entry.path();
        if path.is_dir() {
            if !is_output(&path, output) {
                walk(&path, output, files, depth + 1)?;
            }
        } else if is_picture(&path) {
            files.push(path);
        }
    }
    Ok(())
}

fn is_picture(path: &Path) -> bool {
    let extension = path.extension().unwrap_or_default();
    let mut known = EXTENSIONS.iter();
    known.any(|known| extension.eq_ignore_ascii_case(known))
}

/// The deepest folder above all of them.
fn common(folders: &[PathBuf]) -> Option<PathBuf> {
    let (first, rest) = folders.split_first()?;
    let mut ancestors = first.ancestors();
    ancestors
        .find(|ancestor| rest.iter().all(|folder| folder.starts_with(ancestor)))
        .map(Path::to_path_buf)
}

/// Refuses pictures whose files would have one name: `a.png` and `a.jpg`.
pub fn check_stems(sources: &[Source]) -> Result<()> {
    let mut stems: BTreeMap<&str, &str> = BTreeMap::new();
    for source in sources {
        let name = source.name.as_str();
        let stem = match name.rsplit_once('.') {
            Some((stem, extension)) if !extension.contains('/') => stem,
            _ => name,
        };
        if let Some(other) = stems.insert(stem, name) {
            bail!(
                "{other} and {name} would have the same files; --keep-extension tells them apart"
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for file in files {
            let path = folder.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        folder
    }

    fn names(folder: &tempfile::TempDir, inputs: &[&str]) -> Vec<String> {
        let inputs: Vec<String> = inputs
            .iter()
            .map(|input| folder.path().join(input).to_str().unwrap().to_string())
            .collect();
        let output = folder.path().join("in/out");
        list(&inputs, &output)
            .unwrap()
            .into_iter()
            .map(|s| s.name)
            .collect()
    }

    const FILES: [&str; 8] = [
        "in/b.png",
        "in/a/c.JPG",
        "in/a/d.txt",
        "in/.hidden/e.png",
        "in/.f.png",
        "in/out/yolo/g.png",
        "other/h.webp",
        "in/aa.png",
    ];

    #[test]
    fn a_folder_is_listed_by_name_without_hidden_files_and_results() {
        let folder = folder(&FILES);
        assert_eq!(names(&folder, &["in"]), ["a/c.JPG", "aa.png", "b.png"]);
    }

    #[test]
    fn several_inputs_are_named_below_what_they_have_in_common() {
        let folder = folder(&FILES);
        let want = ["in/a/c.JPG", "in/aa.png", "in/b.png", "other/h.webp"];
        assert_eq!(names(&folder, &["in", "other", "in/b.png"]), want);
        assert_eq!(
            names(&folder, &["in/b.png", "in/aa.png"]),
            ["aa.png", "b.png"]
        );
        assert_eq!(names(&folder, &["in/a/d.txt"]), ["d.txt"]);
    }

    #[cfg(unix)]
    #[test]
    fn no_name_leads_out_of_a_folder() {
        let folder = folder(&["in/a.png", "in/b\\..\\..\\c.png", "other/d.png"]);
        assert_eq!(names(&folder, &["in"]), ["a.png", "b\\..\\..\\c.png"]);
        assert_eq!(
            names(&folder, &["in/a.png", "in/../other/d.png"]),
            ["in/a.png", "other/d.png"]
        );
        assert_eq!(names(&folder, &["in/../other"]), ["d.png"]);
    }

    #[test]
    fn the_output_folder_is_no_input() {
        let folder = folder(&FILES);
        let path = |name: &str| folder.path().join(name);
        for input in ["in/out", "other/../in/out"] {
            let input = path(input).to_str().unwrap().to_string();
            let error = list(&[input], &path("in/out")).unwrap_err().to_string();
            assert!(error.contains("the output folder as well"), "{error}");
        }
        // An output folder by another name is still left out.
        let input = path("in").to_str().unwrap().to_string();
        let found = list(&[input], &path("other/../in/out")).unwrap();
        assert!(found.iter().all(|source| !source.name.starts_with("out")));
    }

    #[test]
    fn patterns_are_followed() {
        let folder = folder(&FILES);
        let everywhere = names(&folder, &["in/**/*.png"]);
        assert!(!everywhere.contains(&"out/yolo/g.png".to_string()));
        assert_eq!(names(&folder, &["in/*.png"]), [".f.png", "aa.png", "b.png"]);
        assert_eq!(names(&folder, &["in/**/*.JPG"]), ["c.JPG"]);
    }

    #[test]
    fn nothing_to_label_is_an_error() {
        let folder = folder(&["empty/readme.txt"]);
        for (input, want) in [
            ("empty", "no picture in"),
            ("missing", "does not exist"),
            ("*.png", "no picture fits"),
        ] {
            let input = folder.path().join(input).to_str().unwrap().to_string();
            let error = list(&[input], folder.path()).unwrap_err().to_string();
            assert!(error.contains(want), "{error}");
        }
    }

    #[test]
    fn equal_stems_are_refused() {
        let source = |name: &str| Source {
            name: name.to_string(),
            path: name.into(),
        };
        assert!(check_stems(&[source("a.jpg"), source("b/a.png"), source("c.png")]).is_ok());
        assert!(check_stems(&[source("a.b/c"), source("a.b/d")]).is_ok());
        let error = check_stems(&[source("a.jpg"), source("a.png")])
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("a.jpg and a.png") && error.contains("--keep-extension"),
            "{error}"
        );
    }
}
