//! `weights/manifest.toml` as types: every released checkpoint, and where it is published.
//!
//! Nothing here touches the network; fetching is up to the command line.

use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

use super::{Family, IMAGE_ENCODERS, PromptKind, TEXT_ENCODERS, TextSizes, Variant};

/// A released checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Release {
    /// What users call it, as in "sam3.1-litetext-s0".
    pub name: String,
    /// Other names of the same file.
    pub aliases: Vec<String>,
    /// Name of the image encoder.
    pub image_encoder: &'static str,
    /// Name of the text encoder; `None` in SAM 1, MobileSAM and SAM 2.1.
    pub text_encoder: Option<&'static str>,
    /// The prompts that it answers.
    pub prompts: Vec<PromptKind>,
    /// True if it follows objects through a video with a memory.
    pub video: bool,
    /// Repository on the Hugging Face Hub, `owner/name`.
    pub repository: String,
    /// Path of the file in the repository, with forward slashes.
    pub file: String,
    /// Commit of the repository, 40 hex digits; `None` means the main branch.
    pub revision: Option<String>,
    /// Bytes of the file, where known.
    pub size: Option<u64>,
    /// SHA-256 of the file in lower-case hex, where known.
    pub sha256: Option<String>,
    /// Estimate of the size for people to read, where the exact one is not known.
    pub approx_size: Option<String>,
    /// License of the weights.
    pub license: String,
    /// Where the license is read, and accepted if the repository is gated.
    pub license_page: String,
    /// True if the owners must grant access first.
    pub gated: bool,
    /// What a user should know first.
    pub note: Option<String>,
    /// The model in a complete file: for building it without the file.
    #[serde(skip)]
    pub variant: Variant,
}

impl Release {
    /// True if `name` is the name or an alias of this release; case does not matter.
    pub fn is_called(&self, name: &str) -> bool {
        let mut names = std::iter::once(&self.name).chain(&self.aliases);
        names.any(|known| known.eq_ignore_ascii_case(name))
    }

    /// True if it answers prompts of this kind.
    pub fn answers(&self, kind: PromptKind) -> bool {
        self.prompts.contains(&kind)
    }

    /// The size for people to read: exact where known, an estimate after `~` otherwise, or `?`.
    pub fn size_in_words(&self) -> String {
        match (self.size, &self.approx_size) {
            (Some(bytes), _) if bytes >= 1_000_000_000 => format!("{:.2} GB", bytes as f64 / 1e9),
            (Some(bytes), _) => format!("{:.0} MB", bytes as f64 / 1e6),
            (None, Some(size)) => format!("~{size}"),
            (None, None) => "?".into(),
        }
    }
}

/// Every released checkpoint, in the order of `weights/manifest.toml`.
pub fn releases() -> &'static [Release] {
    static RELEASES: LazyLock<Vec<Release>> = LazyLock::new(|| {
        parse(include_str!("../../../weights/manifest.toml"))
            .expect("the manifest is part of the library, and a test parses it")
    });
    &RELEASES
}

/// The release of this name or alias; case does not matter.
pub fn find(name: &str) -> Option<&'static Release> {
    releases().iter().find(|release| release.is_called(name))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    repository: Vec<Repository>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Repository {
    id: String,
    family: Family,
    license: String,
    license_page: String,
    gated: bool,
    models: Vec<Model>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Model {
    name: String,
    #[serde(default)]
    aliases: Vec<String>,
    file: String,
    image_encoder: String,
    text_encoder: Option<String>,
    text_positions: Option<usize>,
    #[serde(default)]
    multiplex: bool,
    #[serde(default = "yes")]
    interactive: bool,
    revision: Option<String>,
    size: Option<u64>,
    sha256: Option<String>,
    approx_size: Option<String>,
    note: Option<String>,
}

fn yes() -> bool {
    true
}

/// Reads a manifest; the error says which model and what is wrong with it.
fn parse(text: &str) -> Result<Vec<Release>, String> {
    let manifest: Manifest = toml::from_str(text).map_err(|error| error.to_string())?;
    let mut releases: Vec<Release> = vec![];
    for repository in manifest.repository {
        for model in &repository.models {
            let release = repository
                .release(model)
                .map_err(|problem| format!("{}: {problem}", model.name))?;
            for name in std::iter::once(&release.name).chain(&release.aliases) {
                if releases.iter().any(|other| other.is_called(name)) {
                    return Err(format!("{}: another model is called {name}", model.name));
                }
            }
            releases.push(release);
        }
    }
    Ok(releases)
}

impl Repository {
    fn release(&self, model: &Model) -> Result<Release, String> {
        let is_hex = |text: &str, digits| {
            text.len() == digits && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        };
        for name in std::iter::once(&model.name).chain(&model.aliases) {
            let fits = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.');
            if name.is_empty() || !name.bytes().all(fits) {
                return Err(format!("the name {name} is not made of a-z, 0-9, - and ."));
            }
        }
        // what is put into addresses and paths
        for path in [&self.id, &model.file] {
            let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
            let mut parts = path.split('/');
            if !parts.all(|part| part.starts_with(|c: char| c != '.') && part.bytes().all(fits)) {
                return Err(format!("{path} is not a plain path"));
            }
        }
        if model.revision.as_deref().is_some_and(|r| !is_hex(r, 40)) {
            return Err("the revision is not 40 hex digits".into());
        }
        if model.sha256.as_deref().is_some_and(|s| !is_hex(s, 64)) {
            return Err("the sha256 is not 64 hex digits".into());
        }
        let variant = self.variant(model)?;
        Ok(Release {
            name: model.name.clone(),
            aliases: model.aliases.clone(),
            image_encoder: variant.image_encoder.name,
            text_encoder: variant.text_encoder.map(|row| row.name),
            prompts: variant.prompts(),
            video: variant.has_tracker(),
            variant,
            repository: self.id.clone(),
            file: model.file.clone(),
            revision: model.revision.clone(),
            size: model.size,
            sha256: model.sha256.clone(),
            approx_size: model.approx_size.clone(),
            license: self.license.clone(),
            license_page: self.license_page.clone(),
            gated: self.gated,
            note: model.note.clone(),
        })
    }

    fn variant(&self, model: &Model) -> Result<Variant, String> {
        let image_encoder = IMAGE_ENCODERS
            .iter()
            .find(|row| row.name == model.image_encoder && row.family() == self.family)
            .ok_or_else(|| format!("unknown image encoder {}", model.image_encoder))?;
        let text_encoder = model.text_encoder.as_deref().map(|name| {
            let mut rows = TEXT_ENCODERS.iter();
            rows.find(|row| row.name == name)
                .ok_or_else(|| format!("unknown text encoder {name}"))
        });
        let text_encoder = text_encoder.transpose()?;
        let has_table =
            text_encoder.is_some_and(|row| matches!(row.sizes, TextSizes::MobileClip(_)));
        if has_table != model.text_positions.is_some() {
            return Err("text_positions go with a MobileCLIP, and only with that".into());
        }
        Ok(Variant {
            image_encoder,
            text_encoder,
            text_positions: model.text_positions,
            multiplex: model.multiplex,
            interactive: model.interactive,
            geometry_encoder: self.family == Family::Sam3,
            dead_trunk: false,
        })
    }
}
#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::{Checkpoint, key_lists::key_list};

    fn detected(list: &str) -> Variant {
        Variant::of(&Checkpoint::from_shapes(key_list(list)).unwrap()).unwrap()
    }

    #[test]
    fn every_release_holds_what_the_list_of_its_file_says() {
        for release in releases() {
            let (image, text) = (release.image_encoder, release.text_encoder);
            let lower = |name: &str| name.to_lowercase().replace(' ', "_");
            let version = if release.variant.multiplex { ".1" } else { "" };
            let student = || format!("efficientsam3{version}_{}", lower(image));
            let found = match (release.variant.text_positions, text) {
                _ if version == ".1" && !image.starts_with("SAM") => {
                    detected(&format!("{}_mobileclip-s0", student()))
                }
                (None, None) if image.starts_with("SAM") => {
                    detected(&lower(image).replace('-', "_"))
                }
                (None, None) if image.starts_with("Hiera") => {
                    let stem = release.file.strip_suffix(".pt").unwrap();
                    detected(stem)
                }
                (None, None) => detected("mobile_sam"),
                (None, Some(_)) if image.starts_with("SAM") => detected(&format!("sam3{version}")),
                // Students with SAM 3's text encoder have no list of their own.
                (None, Some(_)) => Variant {
                    text_encoder: detected("sam3").text_encoder,
                    text_positions: None,
                    ..detected(&format!("{}_mobileclip-s1", student()))
                },
                (Some(77), _) => detected(&format!("{}_mobileclip-s1", student())),
                (Some(positions), Some(text)) if image.starts_with("SAM") => {
                    let list = format!(
                        "litetext{}_{}_ctx{positions}",
                        version.replace('.', "3."),
                        lower(text)
                    );
                    assert!(release.file.ends_with(&format!("ctx{positions}.pt")));
                    detected(&list)
                }
                _ => Variant {
                    geometry_encoder: true, // which the first uploads lacked
                    ..detected(&format!("{}_stage3", student()))
                },
            };
            assert_eq!(release.variant, found, "{}", release.name);
            let has_text = text.is_some();
            assert_eq!(release.answers(PromptKind::Text), has_text);
        }
    }

    #[test]
    fn names_find_their_release() {
        for name in [
            "sam3",
            "SAM3",
            "sam3-litetext-s0",
            "efficientsam3-rv-m",
            "mobile-sam",
            "sam-vit-b",
            "sam2.1-hiera-base-plus",
        ] {
            assert!(find(name).is_some(), "{name}");
        }
        assert_eq!(find("sam-vit-huge").unwrap().name, "sam-vit-h");
        assert!(find("sam2").is_none() && find("demo").is_none() && find("").is_none());
    }

    #[test]
    fn what_is_gated_says_where_to_ask() {
        for release in releases() {
            assert!(release.license_page.starts_with("https://"));
            assert_eq!(
                release.gated,
                release.repository.starts_with("facebook/sam3")
            );
        }
    }

    #[test]
    fn a_wrong_manifest_is_refused_with_the_model_and_the_reason() {
        let good = r#"
            [[repository]]
            id = "a/b"
            family = "sam"
            license = "MIT"
            license_page = "https://a"
            gated = false
            [[repository.models]]
            name = "one"
            file = "folder/one.pt"
            image_encoder = "SAM ViT-B"
            [[repository.models]]
            name = "two"
            file = "two.pt"
            image_encoder = "SAM ViT-B"
            revision = "0123456789012345678901234567890123456789"
        "#;
        assert_eq!(parse(good).unwrap().len(), 2);
        for (wrong, with, says) in [
            ("\"two\"", "\"one\"", "one: another model is called one"),
            ("\"two\"", "\"Two\"", "not made of a-z"),
            (
                "folder/one.pt",
                "../one.pt",
                "one: ../one.pt is not a plain",
            ),
            ("folder/one.pt", "/one.pt", "not a plain path"),
            ("SAM ViT-B", "SAM ViT-G", "one: unknown image encoder SAM"),
            ("0123456789", "012345678", "two: the revision is not 40"),
            ("\"sam\"", "\"sam9\"", "sam9"),
            (
                "name = \"one\"",
                "name = \"one\"\ntext_positions = 3",
                "one: text_positions",
            ),
            ("gated", "locked", "locked"),
        ] {
            let error = parse(&good.replace(wrong, with)).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn sizes_are_said_in_words() {
        let words = |name| find(name).unwrap().size_in_words();
        assert_eq!(words("sam3"), "3.45 GB");
        assert_eq!(words("mobile-sam"), "41 MB");
        assert_eq!(words("sam3-litetext-s0"), "~2.2 GB");
    }
}
