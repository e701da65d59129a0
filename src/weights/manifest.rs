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
    #[serde(skip)]
    holds: Holds,
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

    /// Whether a file that holds `found` can be this release: family and encoders agree.
    pub fn describes(&self, found: &Detected) -> bool {
        let text = found.text_encoder.map(|text| match text {
            TextEncoderKind::Clip { .. } => TextEncoder::Sam3,
            TextEncoderKind::MobileClip { size, .. } => TextEncoder::MobileClip(size),
        });
        let Holds {
            family,
            image_encoder,
            text_encoder,
        } = self.holds;
        (family, image_encoder, text_encoder) == (found.family, found.image_encoder, text)
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

/// What [`Release::describes`] compares.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Holds {
    family: Family,
    image_encoder: ImageEncoderKind,
    text_encoder: Option<TextEncoder>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum TextEncoder {
    Sam3,
    MobileClip(MobileClipSize),
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
            holds: Holds {
                family: family(&self.family)?,
                image_encoder: image_encoder(&model.image_encoder)?,
                text_encoder: model
                    .text_encoder
                    .as_deref()
                    .map(text_encoder)
                    .transpose()?,
            },
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

fn text_encoder(name: &str) -> Result<TextEncoder, String> {
    Ok(match name {
        "SAM 3 text" => TextEncoder::Sam3,
        "MobileCLIP-S0" => TextEncoder::MobileClip(MobileClipSize::S0),
        "MobileCLIP-S1" => TextEncoder::MobileClip(MobileClipSize::S1),
        "MobileCLIP2-L" => TextEncoder::MobileClip(MobileClipSize::L),
        _ => return Err(format!("unknown text encoder {name}")),
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
    fn every_release_is_a_variant_that_the_loader_knows() {
        let students = [
            "efficientsam3_repvit-m0.9_mobileclip-s1",
            "efficientsam3_repvit-m1.1_mobileclip-s1",
            "efficientsam3_repvit-m2.3_mobileclip-s1",
            "efficientsam3_tinyvit-5m_mobileclip-s1",
            "efficientsam3_tinyvit-11m_mobileclip-s1",
            "efficientsam3_tinyvit-21m_mobileclip-s1",
            "efficientsam3_efficientvit-b0_mobileclip-s1",
            "efficientsam3_efficientvit-b1_mobileclip-s1",
            "efficientsam3_efficientvit-b2_mobileclip-s1",
        ];
        let others = [
            "sam3",
            "sam3_hf",
            "litetext_mobileclip-s0_ctx16",
            "litetext_mobileclip-s1_ctx32",
            "litetext_mobileclip2-l_ctx32",
            "efficientsam3_repvit-m1.1_stage3",
            "efficientsam3_tinyvit-11m_stage3",
            "efficientsam3_efficientvit-b1_stage3",
            "sam_vit_b",
            "mobile_sam",
        ];
        let mut known: Vec<Detected> = students.map(with_sam3_text).into();
        known.extend(students.iter().chain(&others).map(|list| detected(list)));
        let sam = |dim, depth| Detected {
            image_encoder: ImageEncoderKind::Vit { dim, depth },
            ..detected("sam_vit_b")
        };
        known.extend([sam(1024, 24), sam(1280, 32)]);
        for release in releases() {
            let fit = known.iter().filter(|found| release.describes(found));
            let fit: Vec<&Detected> = fit.collect();
            assert!(!fit.is_empty(), "{}", release.name);
            let has_text = fit.iter().all(|found| found.text_encoder.is_some());
            assert_eq!(release.answers(PromptKind::Text), has_text);
            let clicks = fit.iter().any(|found| found.interactive);
            assert_eq!(
                release.answers(PromptKind::Clicks),
                clicks,
                "{}",
                release.name
            );
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
