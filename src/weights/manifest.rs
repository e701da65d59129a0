//! `weights/manifest.toml` as types: every released checkpoint, and where it is published.
//!
//! Nothing here touches the network; fetching is the command line's business.

use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

use super::detect::{
    Detected, EfficientVitSize, Family, ImageEncoderKind, MobileClipSize, RepVitSize,
    TextEncoderKind, TinyVitSize,
};

/// A released checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Release {
    /// What users call it: lower-case words joined by hyphens.
    pub name: String,
    /// Other names of the same file.
    pub aliases: Vec<String>,
    /// Image encoder, as people write it.
    pub image_encoder: String,
    /// Text encoder, as people write it; `None` in SAM 1 and MobileSAM.
    pub text_encoder: Option<String>,
    /// What the file answers.
    pub prompts: Vec<PromptKind>,
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
    /// Size in words, where the exact one is not known.
    pub about: Option<String>,
    /// Licence of the weights.
    pub licence: String,
    /// Where the licence is read, and accepted if the repository is gated.
    pub licence_page: String,
    /// Whether the owners must grant access first.
    pub gated: bool,
    /// What a user should know first.
    pub note: Option<String>,
    /// What a complete file holds: for building the model without it.
    #[serde(skip)]
    pub contents: Detected,
}

/// What a checkpoint can be asked with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PromptKind {
    /// Words.
    Text,
    /// Boxes around examples of what is meant.
    Exemplars,
    /// Points and boxes on one object.
    Clicks,
    /// No prompt: masks of all there is.
    Everything,
}

impl PromptKind {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Exemplars => "exemplars",
            Self::Clicks => "clicks",
            Self::Everything => "everything",
        }
    }
}

impl Release {
    /// Whether `name` means this release, by its name or an alias; capitals do not matter.
    pub fn is_called(&self, name: &str) -> bool {
        let mut names = std::iter::once(&self.name).chain(&self.aliases);
        names.any(|known| known.eq_ignore_ascii_case(name))
    }

    /// Whether it answers prompts of this kind.
    pub fn answers(&self, kind: PromptKind) -> bool {
        self.prompts.contains(&kind)
    }

    /// The size in words: exact where known, `~` and `about` otherwise, or `?`.
    pub fn size_in_words(&self) -> String {
        match (self.size, &self.about) {
            (Some(bytes), _) if bytes >= 1_000_000_000 => format!("{:.2} GB", bytes as f64 / 1e9),
            (Some(bytes), _) => format!("{:.0} MB", bytes as f64 / 1e6),
            (None, Some(about)) => format!("~{about}"),
            (None, None) => "?".into(),
        }
    }
}

/// Every released checkpoint, in the order of `weights/manifest.toml`.
pub fn releases() -> &'static [Release] {
    static RELEASES: LazyLock<Vec<Release>> = LazyLock::new(|| {
        parse(include_str!("../../weights/manifest.toml"))
            .expect("the manifest is part of the library, and a test parses it")
    });
    &RELEASES
}

/// The release of this name or alias; capitals do not matter.
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
    family: String,
    licence: String,
    licence_page: String,
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
    prompts: Vec<PromptKind>,
    revision: Option<String>,
    size: Option<u64>,
    sha256: Option<String>,
    about: Option<String>,
    note: Option<String>,
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
            let fits = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-');
            if name.is_empty() || !name.bytes().all(fits) {
                return Err(format!("the name {name} is not made of a-z, 0-9 and -"));
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
        Ok(Release {
            name: model.name.clone(),
            aliases: model.aliases.clone(),
            contents: self.contents(model)?,
            image_encoder: model.image_encoder.clone(),
            text_encoder: model.text_encoder.clone(),
            prompts: model.prompts.clone(),
            repository: self.id.clone(),
            file: model.file.clone(),
            revision: model.revision.clone(),
            size: model.size,
            sha256: model.sha256.clone(),
            about: model.about.clone(),
            licence: self.licence.clone(),
            licence_page: self.licence_page.clone(),
            gated: self.gated,
            note: model.note.clone(),
        })
    }

    fn contents(&self, model: &Model) -> Result<Detected, String> {
        let family = family(&self.family)?;
        let text_encoder = model.text_encoder.as_deref();
        let text_encoder = text_encoder.map(|name| text_encoder_of(name, model.text_positions));
        let is_sam3 = family == Family::Sam3;
        let interactive = model.prompts.contains(&PromptKind::Clicks);
        Ok(Detected {
            family,
            layout: if is_sam3 { "SAM 3" } else { "SAM" },
            image_encoder: image_encoder(&model.image_encoder)?,
            text_encoder: text_encoder.transpose()?,
            interactive,
            memory: is_sam3 && interactive,
            geometry_encoder: is_sam3,
            dead_trunk: false,
        })
    }
}

fn family(name: &str) -> Result<Family, String> {
    Ok(match name {
        "sam3" => Family::Sam3,
        "sam" => Family::Sam,
        "mobile-sam" => Family::MobileSam,
        _ => return Err(format!("unknown family {name}")),
    })
}

fn image_encoder(name: &str) -> Result<ImageEncoderKind, String> {
    use ImageEncoderKind::{EfficientVit, RepVit, TinyVit, Vit};
    let vit = |dim, depth| Vit { dim, depth };
    Ok(match name {
        "SAM 3 ViT" => vit(1024, 32),
        "SAM ViT-B" => vit(768, 12),
        "SAM ViT-L" => vit(1024, 24),
        "SAM ViT-H" => vit(1280, 32),
        "RepViT-M0.9" => RepVit(RepVitSize::M0_9),
        "RepViT-M1.1" => RepVit(RepVitSize::M1_1),
        "RepViT-M2.3" => RepVit(RepVitSize::M2_3),
        "TinyViT-5M" => TinyVit(TinyVitSize::M5),
        "TinyViT-11M" => TinyVit(TinyVitSize::M11),
        "TinyViT-21M" => TinyVit(TinyVitSize::M21),
        "EfficientViT-B0" => EfficientVit(EfficientVitSize::B0),
        "EfficientViT-B1" => EfficientVit(EfficientVitSize::B1),
        "EfficientViT-B2" => EfficientVit(EfficientVitSize::B2),
        _ => return Err(format!("unknown image encoder {name}")),
    })
}

fn text_encoder_of(name: &str, positions: Option<usize>) -> Result<TextEncoderKind, String> {
    let (size, width, layers) = match name {
        "SAM 3 text" => {
            return Ok(TextEncoderKind::Clip {
                width: 1024,
                layers: 24,
                context: 32,
            });
        }
        "MobileCLIP-S0" => (MobileClipSize::S0, 512, 6),
        "MobileCLIP-S1" => (MobileClipSize::S1, 512, 12),
        "MobileCLIP2-L" => (MobileClipSize::L, 768, 12),
        _ => return Err(format!("unknown text encoder {name}")),
    };
    Ok(TextEncoderKind::MobileClip {
        size,
        width,
        layers,
        table: positions.ok_or_else(|| format!("{name} needs text_positions"))?,
    })
}

#[cfg(test)]
mod tests {
    use super::super::{Checkpoint, detect, key_lists::key_list};
    use super::*;

    fn detected(list: &str) -> Detected {
        detect(&Checkpoint::from_shapes(key_list(list)).unwrap()).unwrap()
    }

    /// The student of one list with SAM 3's own text encoder.
    fn with_sam3_text(list: &str) -> Detected {
        const TEXT: &str = "detector.backbone.language_backbone.";
        let is_text = |tensor: &(String, _, _)| tensor.0.starts_with(TEXT);
        let image = key_list(list).into_iter().filter(|t| !is_text(t));
        let tensors = image.chain(key_list("sam3").into_iter().filter(is_text));
        detect(&Checkpoint::from_shapes(tensors).unwrap()).unwrap()
    }

    #[test]
    fn every_release_holds_what_the_list_of_its_file_says() {
        let student = |release: &Release| match release.image_encoder.to_lowercase() {
            name if name.starts_with("sam") => "sam3".into(),
            name => format!("efficientsam3_{name}_mobileclip-s1"),
        };
        for release in releases() {
            let contents = &release.contents;
            let found = match (contents.family, contents.text_encoder) {
                (Family::Sam, _) => detected(
                    &release
                        .image_encoder
                        .to_lowercase()
                        .replace([' ', '-'], "_"),
                ),
                (Family::MobileSam, _) => detected("mobile_sam"),
                (_, None | Some(TextEncoderKind::Clip { .. })) => with_sam3_text(&student(release)),
                (_, Some(TextEncoderKind::MobileClip { table: 77, .. })) => {
                    detected(&student(release))
                }
                (_, Some(_)) if release.name.starts_with("sam3-litetext") => {
                    let text = release.text_encoder.as_deref().unwrap_or_default();
                    let positions = release.file.trim_end_matches(".pt").rsplit('_').next();
                    let list = [&text.to_lowercase(), positions.unwrap_or_default()].join("_");
                    detected(&format!("litetext_{list}"))
                }
                (_, Some(_)) => Detected {
                    geometry_encoder: true, // which the first uploads lacked
                    ..detected(&student(release).replace("mobileclip-s1", "stage3"))
                },
            };
            assert_eq!(*contents, found, "{}", release.name);
            let has_text = contents.text_encoder.is_some();
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
        ] {
            assert!(find(name).is_some(), "{name}");
        }
        assert_eq!(find("sam-vit-huge").unwrap().name, "sam-vit-h");
        assert!(find("sam2").is_none() && find("demo").is_none() && find("").is_none());
    }

    #[test]
    fn what_is_gated_says_where_to_ask() {
        for release in releases() {
            assert!(release.licence_page.starts_with("https://"));
            assert_eq!(release.gated, release.repository == "facebook/sam3");
        }
    }

    #[test]
    fn a_wrong_manifest_is_refused_with_the_model_and_the_reason() {
        let good = r#"
            [[repository]]
            id = "a/b"
            family = "sam"
            licence = "MIT"
            licence_page = "https://a"
            gated = false
            [[repository.models]]
            name = "one"
            file = "folder/one.pt"
            image_encoder = "SAM ViT-B"
            prompts = ["clicks"]
            [[repository.models]]
            name = "two"
            file = "two.pt"
            image_encoder = "SAM ViT-B"
            prompts = ["clicks"]
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
            ("clicks", "mouse", "mouse"),
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
