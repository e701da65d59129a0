//! The released models by name, for building one without its file.

use super::detect::{
    Detected, EfficientVitSize, Family, ImageEncoderKind, MobileClipSize, RepVitSize,
    TextEncoderKind, TinyVitSize,
};
use super::manifest;
use crate::error::{Error, Result};

use EfficientVitSize::{B0, B1, B2};
use ImageEncoderKind::{EfficientVit, RepVit, TinyVit, Vit};
use MobileClipSize::{L, S0, S1};
use RepVitSize::{M0_9, M1_1, M2_3};
use TinyVitSize::{M5, M11, M21};

const SAM3_VIT: ImageEncoderKind = Vit {
    dim: 1024,
    depth: 32,
};
const CLIP: TextEncoderKind = TextEncoderKind::Clip {
    width: 1024,
    layers: 24,
    context: 32,
};

/// Every released model and what a complete file of it holds.
///
/// The Stage-3 files of EfficientSAM3 lack the geometry encoder; here it is counted in, since no
/// prompt works without one.
pub const VARIANTS: &[(&str, Detected)] = &[
    ("sam3", sam3(SAM3_VIT, CLIP, true)),
    ("sam3-litetext-s0", sam3(SAM3_VIT, student(S0, 16), true)),
    ("sam3-litetext-s0-32", sam3(SAM3_VIT, student(S0, 32), true)),
    ("sam3-litetext-s1", sam3(SAM3_VIT, student(S1, 16), true)),
    ("sam3-litetext-s1-32", sam3(SAM3_VIT, student(S1, 32), true)),
    ("sam3-litetext-l", sam3(SAM3_VIT, student(L, 16), true)),
    ("sam3-litetext-l-32", sam3(SAM3_VIT, student(L, 32), true)),
    ("efficientsam3-rv-m", stage3(RepVit(M1_1))),
    ("efficientsam3-tv-m", stage3(TinyVit(M11))),
    ("efficientsam3-ev-m", stage3(EfficientVit(B1))),
    ("efficientsam3-stage1-rv-s", sam3(RepVit(M0_9), CLIP, true)),
    ("efficientsam3-stage1-rv-m", sam3(RepVit(M1_1), CLIP, true)),
    ("efficientsam3-stage1-rv-l", sam3(RepVit(M2_3), CLIP, true)),
    ("efficientsam3-stage1-tv-s", sam3(TinyVit(M5), CLIP, true)),
    ("efficientsam3-stage1-tv-m", sam3(TinyVit(M11), CLIP, true)),
    ("efficientsam3-stage1-tv-l", sam3(TinyVit(M21), CLIP, true)),
    (
        "efficientsam3-stage1-ev-s",
        sam3(EfficientVit(B0), CLIP, true),
    ),
    (
        "efficientsam3-stage1-ev-m",
        sam3(EfficientVit(B1), CLIP, true),
    ),
    (
        "efficientsam3-stage1-ev-l",
        sam3(EfficientVit(B2), CLIP, true),
    ),
    ("efficientsam3-stage1-rv-s-mc-s1", with_s1(RepVit(M0_9))),
    ("efficientsam3-stage1-rv-m-mc-s1", with_s1(RepVit(M1_1))),
    ("efficientsam3-stage1-rv-l-mc-s1", with_s1(RepVit(M2_3))),
    ("efficientsam3-stage1-tv-s-mc-s1", with_s1(TinyVit(M5))),
    ("efficientsam3-stage1-tv-m-mc-s1", with_s1(TinyVit(M11))),
    ("efficientsam3-stage1-tv-l-mc-s1", with_s1(TinyVit(M21))),
    ("efficientsam3-stage1-ev-s-mc-s1", with_s1(EfficientVit(B0))),
    ("efficientsam3-stage1-ev-m-mc-s1", with_s1(EfficientVit(B1))),
    ("efficientsam3-stage1-ev-l-mc-s1", with_s1(EfficientVit(B2))),
    ("mobile-sam", sam1(Family::MobileSam, TinyVit(M5))),
    ("sam-vit-b", sam1(Family::Sam, vit(768, 12))),
    ("sam-vit-l", sam1(Family::Sam, vit(1024, 24))),
    ("sam-vit-h", sam1(Family::Sam, vit(1280, 32))),
];

/// What a complete file of the released model of this name, or alias in the manifest, holds.
///
/// # Errors
/// [`Error::Unsupported`] for another name, listing those there are.
pub fn variant(name: &str) -> Result<&'static Detected> {
    let listed = manifest::find(name).map_or(name, |release| &release.name);
    // Fine-tuned and converted files hold the same tensors.
    let same = ["-geo-ft", "-ft", "-hf"].iter();
    let same = same.filter_map(|suffix| listed.strip_suffix(suffix)).next();
    let wanted = same.unwrap_or(listed);
    let found = VARIANTS.iter().find(|(known, _)| *known == wanted);
    found.map(|(_, detected)| detected).ok_or_else(|| {
        let names: Vec<_> = VARIANTS.iter().map(|(name, _)| *name).collect();
        Error::Unsupported {
            what: format!("a model called {name:?}"),
            instead: format!("use one of {}", names.join(", ")),
        }
    })
}

const fn sam3(
    image_encoder: ImageEncoderKind,
    text_encoder: TextEncoderKind,
    interactive: bool,
) -> Detected {
    Detected {
        family: Family::Sam3,
        layout: "SAM 3",
        image_encoder,
        text_encoder: Some(text_encoder),
        interactive,
        memory: interactive,
        geometry_encoder: true,
        dead_trunk: false,
    }
}

const fn with_s1(image_encoder: ImageEncoderKind) -> Detected {
    sam3(image_encoder, student(S1, 77), true)
}

const fn stage3(image_encoder: ImageEncoderKind) -> Detected {
    sam3(image_encoder, student(S0, 16), false)
}

const fn sam1(family: Family, image_encoder: ImageEncoderKind) -> Detected {
    Detected {
        family,
        layout: "SAM",
        image_encoder,
        text_encoder: None,
        interactive: true,
        memory: false,
        geometry_encoder: false,
        dead_trunk: false,
    }
}

const fn vit(dim: usize, depth: usize) -> ImageEncoderKind {
    Vit { dim, depth }
}

const fn student(size: MobileClipSize, table: usize) -> TextEncoderKind {
    let (width, layers) = match size {
        S0 => (512, 6),
        S1 => (512, 12),
        L => (768, 12),
    };
    TextEncoderKind::MobileClip {
        size,
        width,
        layers,
        table,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::key_lists::key_list;
    use crate::weights::{Checkpoint, detect};

    #[test]
    fn variants_are_what_the_lists_of_their_files_say() {
        for (name, list) in [
            ("sam3", "sam3"),
            ("sam3-litetext-s0", "litetext_mobileclip-s0_ctx16"),
            ("sam3-litetext-s0-32", "litetext_mobileclip-s0_ctx32"),
            ("sam3-litetext-s1", "litetext_mobileclip-s1_ctx16"),
            ("sam3-litetext-s1-32", "litetext_mobileclip-s1_ctx32"),
            ("sam3-litetext-l", "litetext_mobileclip2-l_ctx16"),
            ("sam3-litetext-l-32", "litetext_mobileclip2-l_ctx32"),
            (
                "efficientsam3-stage1-rv-s-mc-s1",
                "efficientsam3_repvit-m0.9_mobileclip-s1",
            ),
            (
                "efficientsam3-stage1-tv-m-mc-s1",
                "efficientsam3_tinyvit-11m_mobileclip-s1",
            ),
            (
                "efficientsam3-stage1-ev-l-mc-s1",
                "efficientsam3_efficientvit-b2_mobileclip-s1",
            ),
            ("mobile-sam", "mobile_sam"),
            ("sam-vit-b", "sam_vit_b"),
        ] {
            let found = detect(&Checkpoint::from_shapes(key_list(list)).unwrap()).unwrap();
            assert_eq!(variant(name).unwrap(), &found, "{name}");
        }
        let list = key_list("efficientsam3_repvit-m1.1_stage3");
        let found = detect(&Checkpoint::from_shapes(list).unwrap()).unwrap();
        let complete = Detected {
            geometry_encoder: true,
            ..found
        };
        assert_eq!(variant("efficientsam3-rv-m").unwrap(), &complete);
    }

    #[test]
    fn every_release_in_the_manifest_is_a_variant() {
        for release in manifest::releases() {
            let variant = variant(&release.name).unwrap();
            assert!(release.describes(variant), "{}", release.name);
        }
        assert_eq!(variant("mobilesam").unwrap().family, Family::MobileSam);
    }

    #[test]
    fn an_unknown_name_lists_the_known_ones() {
        let error = variant("sam4").unwrap_err().to_string();
        assert!(
            error.contains("sam-vit-h") && error.contains("efficientsam3-rv-m"),
            "{error}"
        );
    }
}
