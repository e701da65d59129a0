//! `--classify` and `--clip`: which CLIP, and where it is.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use candle_sam3::models::variant::{self, Release};

use crate::hub::{self, Settings};

/// The names of weights, the preferred one first: what OpenAI published is the second only.
const WEIGHTS: [&str; 2] = ["model.safetensors", "pytorch_model.bin"];

/// The folder or file that `--clip` means. A path never touches the network; a name does if it is not in
/// the cache.
pub fn locate(clip: &str) -> Result<PathBuf> {
    if Path::new(clip).exists() {
        return Ok(clip.into());
    }
    if !is_name(clip) {
        let path = clip.into();
        let error = candle_sam3::Error::NotFound { path };
        return Err(error).context(
            "--clip takes a folder with config.json and weights as Hugging Face has them, or a name on \
             its hub, such as openai/clip-vit-base-patch32",
        );
    }
    let settings = Settings {
        instead: "--clip DIR",
        ..Settings::from_env()?
    };
    fetch(&settings, clip).with_context(|| format!("no file or folder is called {clip}"))
}

fn fetch(settings: &Settings, repository: &str) -> Result<PathBuf> {
    let weights = WEIGHTS.map(|file| release(repository, file, None));
    let mut known = weights.iter();
    let weights = match known.find_map(|release| hub::cached(settings, release)) {
        Some(path) => path,
        None => {
            let [preferred, other] = &weights;
            let is_there = settings.offline || hub::offers(settings, preferred)?;
            hub::fetch(settings, if is_there { preferred } else { other })?
        }
    };
    // Of the same commit, so that it lies beside the weights.
    let commit = weights.parent().and_then(Path::file_name);
    let commit = commit.map(|commit| commit.to_string_lossy().into_owned());
    hub::fetch(settings, &release(repository, "config.json", commit))?;
    Ok(weights)
}

/// A file on the hub; nothing else about it is known.
fn release(repository: &str, file: &str, revision: Option<String>) -> Release {
    Release {
        name: format!("{repository}/{file}"),
        repository: repository.to_string(),
        file: file.to_string(),
        revision,
        size: None,
        sha256: None,
        license_page: format!("https://huggingface.co/{repository}"),
        gated: false,
        // What the hub does not ask for.
        ..variant::releases()[0].clone()
    }
}

/// `owner/name`, in letters, digits and `-_.`
fn is_name(text: &str) -> bool {
    let is_part = |part: &str| {
        let mut bytes = part.bytes();
        !part.is_empty()
            && !part.starts_with('.')
            && bytes.all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
    };
    let parts: Vec<&str> = text.split('/').collect();
    parts.len() == 2 && parts.into_iter().all(is_part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_on_the_hub_are_told_from_paths() {
        assert!(is_name("openai/clip-vit-base-patch32"));
        for path in [
            "clip", "./clip", "../clip", "~/clip", "/clip", "a/b/c", "a/b c", "a/",
        ] {
            assert!(!is_name(path), "{path}");
        }
    }
}
