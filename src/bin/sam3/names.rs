//! What `-m` means: a file, a folder, the built-in model, or a model by its name.

use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, bail};
use candle_sam3::Error;
use candle_sam3::models::variant::{self, PromptKind, Release};

use crate::hub::{self, Settings};

/// The built-in model.
pub const DEMO: &str = "demo";

/// Endings of what can only be a file.
const ENDINGS: [&str; 6] = ["pt", "pth", "safetensors", "json", "bin", "ckpt"];

/// Names that are suggested at most.
const SUGGESTIONS: usize = 3;

pub enum Located {
    Demo,
    File(PathBuf),
}

/// Finds what `model` means. A path never touches the network; a name does if it is not in the
/// cache, and if the model answers `prompts`.
pub fn locate(model: &Path, prompts: Option<PromptKind>) -> Result<Located> {
    let name = model.to_str().unwrap_or_default();
    if name == DEMO {
        return Ok(Located::Demo);
    }
    if model.exists() {
        return Ok(Located::File(model.to_path_buf()));
    }
    if is_path(model) || name.is_empty() {
        let path = model.to_path_buf();
        return Err(Error::NotFound { path }.into());
    }
    let release = find(name)?;
    if let Some(kind) = prompts.filter(|kind| !release.answers(*kind)) {
        return Err(unanswered(release, kind).into());
    }
    let settings = Settings::from_env()?;
    Ok(Located::File(hub::fetch(&settings, release)?))
}

/// The release of this name.
pub fn find(name: &str) -> Result<&'static Release> {
    if name == DEMO {
        bail!("{DEMO} is built in; there is nothing to download");
    }
    variant::find(name).ok_or_else(|| {
        let near = nearest(name).join(", ");
        let near = match near.is_empty() {
            true => String::new(),
            false => format!("did you mean {near}? "),
        };
        anyhow!("no file, folder or model is called {name}; {near}`sam3 models` lists all models")
    })
}

fn is_path(model: &Path) -> bool {
    let text = model.to_string_lossy();
    let ending = model.extension().and_then(|ending| ending.to_str());
    text.contains(std::path::is_separator)
        || text.starts_with('.')
        || ending.is_some_and(|e| ENDINGS.iter().any(|known| known.eq_ignore_ascii_case(e)))
}

fn unanswered(release: &Release, kind: PromptKind) -> Error {
    let name = &release.name;
    let takes: Vec<&str> = release.prompts.iter().map(|kind| kind.name()).collect();
    let (what, of) = if matches!(kind, PromptKind::Text | PromptKind::Exemplars) {
        ("a text or an exemplar", "text")
    } else {
        ("a click, or everything,", "clicks")
    };
    Error::Unsupported {
        what: format!("{what} on {name}"),
        instead: format!(
            "it takes {}; `sam3 models` shows which models take {of}",
            takes.join(", ")
        ),
    }
}

/// The names and aliases most like `name`, best first.
fn nearest(name: &str) -> Vec<&'static str> {
    let name = name.to_ascii_lowercase();
    let mut near: Vec<(usize, &str)> = vec![];
    for release in variant::releases() {
        let names = std::iter::once(&release.name).chain(&release.aliases);
        let ranked = names.map(|known| (strsim::levenshtein(&name, known), known.as_str()));
        let Some((far, known)) = ranked.min() else {
            continue;
        };
        if far <= name.len().div_ceil(3) || (name.len() > 3 && known.starts_with(&name)) {
            near.push((far, known));
        }
    }
    near.sort();
    near.truncate(SUGGESTIONS);
    near.into_iter().map(|(_, known)| known).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_pen_is_understood() {
        assert_eq!(nearest("sam-vit-bb")[0], "sam-vit-b");
        assert_eq!(nearest("moble-sam")[0], "mobile-sam");
        assert_eq!(nearest("efficientsam3-rvm")[0], "efficientsam3-rv-m");
        assert!(nearest("efficientsam3").len() == SUGGESTIONS);
        assert!(nearest("yolo").is_empty());
    }

    #[test]
    fn paths_are_told_from_names() {
        for path in ["a/b", "./sam3", "sam3.pt", "X.PTH", "..", "/sam3"] {
            assert!(is_path(Path::new(path)), "{path}");
        }
        for name in ["sam3", "efficientsam3-rv-m", "mobile-sam", "sam3.1"] {
            assert!(!is_path(Path::new(name)), "{name}");
        }
    }
}
