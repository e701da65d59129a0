//! What `-m` means: a file, a folder, the built-in model, or a model by its name.

use std::io::ErrorKind;
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

/// Finds what `model` means other than the built-in model. A path never touches the network; a name
/// does if it is not in the cache, and if the model answers `prompts`.
pub fn locate(model: &Path, prompts: Option<PromptKind>) -> Result<PathBuf> {
    let name = model.to_str().unwrap_or_default();
    let path = model.to_path_buf();
    match std::fs::metadata(model) {
        Ok(_) => return Ok(path),
        Err(cause) if !matches!(cause.kind(), ErrorKind::NotFound | ErrorKind::InvalidInput) => {
            return Err(Error::Io { path, cause }.into());
        }
        Err(_) => {}
    }
    let is_known = variant::find(name).is_some();
    if let Some(release) = published_as(name).filter(|_| !is_known) {
        bail!(
            "{name} does not exist here; -m {0} downloads {0}",
            release.name
        );
    }
    if name.starts_with("~/") {
        bail!("{name} does not exist; ~ stands for the home folder only where the shell sees it");
    }
    if is_path(model) || name.is_empty() {
        return Err(Error::NotFound { path }.into());
    }
    let release = find(name)?;
    if let Some(kind) = prompts.filter(|kind| !release.answers(*kind)) {
        return Err(unanswered(release, kind).into());
    }
    hub::fetch(&Settings::from_env()?, release)
}

/// The release of this name.
pub fn find(name: &str) -> Result<&'static Release> {
    if name == DEMO {
        bail!("{DEMO} is built in; there is nothing to download");
    }
    variant::find(name).ok_or_else(|| {
        let near = match &nearest(name)[..] {
            [] => String::new(),
            near => format!("did you mean {}? ", near.join(", ")),
        };
        anyhow!("no file, folder or model is called {name}; {near}`sam3 models` lists all models")
    })
}

/// The release that is published under this name: a repository on the hub, with or without the
/// address before it, or a file, with or without its folder, its ending and the checksum in it.
fn published_as(name: &str) -> Option<&'static Release> {
    let lower = name.to_ascii_lowercase();
    let addresses = ["hf://", "https://huggingface.co/", "https://hf.co/"];
    let mut short = addresses.iter().find_map(|a| lower.strip_prefix(a));
    let short = short.get_or_insert(&lower).trim_end_matches('/');
    let file = short.rsplit('/').next()?;
    let mut releases = variant::releases().iter();
    let published = releases.find(|release| {
        let own = release.file.rsplit('/').next();
        release.repository.eq_ignore_ascii_case(short)
            || (own == Some(file) && file != "model.safetensors")
    });
    published.or_else(|| {
        let mut stem = file.rsplit_once('.').map_or(file, |(stem, _)| stem);
        // sam_vit_h_4b8939.pth
        if let Some((start, sum)) = stem.rsplit_once('_')
            && sum.len() == 6
            && sum.bytes().all(|b| b.is_ascii_hexdigit())
        {
            stem = start;
        }
        let name = stem.replace('_', "-");
        variant::find(&name).or_else(|| variant::find(&format!("sam-{name}")))
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
    fn what_publishers_call_a_model_leads_to_its_name() {
        for (published, name) in [
            ("facebook/sam3", "sam3"),
            ("hf://facebook/sam3", "sam3"),
            ("https://huggingface.co/facebook/sam-vit-huge/", "sam-vit-h"),
            ("sam_vit_h_4b8939.pth", "sam-vit-h"),
            ("weights/sam_vit_b_01ec64.pth", "sam-vit-b"),
            ("vit_l", "sam-vit-l"),
            ("mobile_sam.pt", "mobile-sam"),
            ("./sam3.pt", "sam3"),
            ("efficient_sam3_repvit_m.pt", "efficientsam3-stage1-rv-m"),
        ] {
            let found = published_as(published).map(|release| &*release.name);
            assert_eq!(found, Some(name), "{published}");
        }
        for other in [
            "facebook/sam2",
            "model.safetensors",
            "mine.pt",
            "",
            "/",
            "a_123456.pt",
        ] {
            assert!(published_as(other).is_none(), "{other}");
        }
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
