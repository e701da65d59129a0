//! Tells what a file holds, from names and shapes and never from the file's name.

use super::Checkpoint;
use crate::error::{Error, Result};

/// What a checkpoint holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detected {
    /// The kind of model.
    pub family: Family,
    /// How the file names its tensors: [`Layout::name`](super::Layout::name).
    pub layout: &'static str,
    /// The image encoder and its size.
    pub image_encoder: ImageEncoderKind,
    /// The text encoder and its size; `None` in SAM 1 and MobileSAM.
    pub text_encoder: Option<TextEncoderKind>,
    /// Whether the parts that answer points and boxes are there.
    pub interactive: bool,
    /// Whether the tracker's memory is there.
    pub memory: bool,
    /// Whether the geometry encoder is there. SAM 3 needs it even for text prompts: the token it
    /// learned is part of every prompt.
    pub geometry_encoder: bool,
    /// Whether the file still carries the ViT that a student replaced: 447 M elements that
    /// nobody reads.
    pub dead_trunk: bool,
}

/// The kinds of model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// SAM 3, EfficientSAM3 and SAM3-LiteText: one detector with different encoders.
    Sam3,
    /// SAM 1 with a ViT.
    Sam,
    /// SAM 1 with a TinyViT.
    MobileSam,
}

/// The image encoders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageEncoderKind {
    /// The ViT of SAM 3 or SAM 1.
    Vit {
        /// Channels.
        dim: usize,
        /// Blocks.
        depth: usize,
    },
    /// RepViT.
    RepVit(RepVitSize),
    /// TinyViT.
    TinyVit(TinyVitSize),
    /// EfficientViT-B of MIT.
    EfficientVit(EfficientVitSize),
}

/// The sizes of RepViT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum RepVitSize {
    M0_9,
    M1_1,
    M2_3,
}

/// The sizes of TinyViT, in millions of parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum TinyVitSize {
    M5,
    M11,
    M21,
}

/// The sizes of EfficientViT-B.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum EfficientVitSize {
    B0,
    B1,
    B2,
}

/// The text encoders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextEncoderKind {
    /// The causal CLIP text encoder of SAM 3.
    Clip {
        /// Channels.
        width: usize,
        /// Blocks.
        layers: usize,
        /// Rows of the positional table, which is the number of tokens of a prompt.
        context: usize,
    },
    /// A MobileCLIP student.
    MobileClip {
        /// Which one.
        size: MobileClipSize,
        /// Channels.
        width: usize,
        /// Blocks, of both kinds.
        layers: usize,
        /// Rows of the positional table. Trained on as many tokens if 16 or 32; a table of 77
        /// was interpolated to 32 tokens.
        table: usize,
    },
}

/// The MobileCLIP text encoders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MobileClipSize {
    /// MobileCLIP-S0: convolutional mixers first and last.
    S0,
    /// MobileCLIP-S1: 512 channels.
    S1,
    /// MobileCLIP2-L: 768 channels.
    L,
}

const VISION: &str = "detector.backbone.vision_backbone";
const TRUNK: &str = "detector.backbone.vision_backbone.trunk";
const STUDENT: &str = "detector.backbone.vision_backbone.trunk.model.backbone.model";
const TEXT: &str = "detector.backbone.language_backbone.encoder";

/// Tells what `checkpoint` holds.
///
/// # Errors
/// [`Error::Unsupported`] for SAM 2, SAM 3.1 and encoders of another size;
/// [`Error::Checkpoint`] if it is no model of this kind at all.
pub fn detect(checkpoint: &Checkpoint) -> Result<Detected> {
    let has = |part: &str| checkpoint.contains_part(part);
    let known = |what| Found { checkpoint, what };
    let (convs, more) = (
        format!("{VISION}.interactive_convs"),
        format!("{VISION}.propagation_convs"),
    );
    if has("tracker.model") || has(&convs) || has(&more) {
        return Err(unsupported("SAM 3.1 (the multiplex model)"));
    }
    if has("image_encoder.trunk") {
        return Err(unsupported("SAM 2"));
    }
    let layout = checkpoint.layout().name;
    if has("image_encoder") && has("mask_decoder") {
        let mobile = has("image_encoder.patch_embed.seq");
        let (family, image_encoder) = match mobile {
            true => (
                Family::MobileSam,
                known("TinyViT").tiny_vit("image_encoder")?,
            ),
            false => (Family::Sam, known("ViT").vit("image_encoder")?),
        };
        return Ok(Detected {
            family,
            layout,
            image_encoder,
            text_encoder: None,
            interactive: true,
            memory: false,
            geometry_encoder: false,
            dead_trunk: false,
        });
    }
    if !has("detector.transformer") || !has(TRUNK) {
        return Err(unknown(checkpoint));
    }
    let student = |first: &str| has(&format!("{STUDENT}.{first}"));
    let (image_encoder, is_student) = if student("features") {
        (known("RepViT").rep_vit()?, true)
    } else if student("patch_embed.seq") {
        (known("TinyViT").tiny_vit(STUDENT)?, true)
    } else if student("input_stem") {
        (known("EfficientViT").efficient_vit()?, true)
    } else {
        (known("ViT").vit(TRUNK)?, false)
    };
    let sam_heads = ["tracker.sam_prompt_encoder", "tracker.sam_mask_decoder"];
    let interactive = sam_heads.into_iter().all(has) && has(&format!("{VISION}.sam2_convs"));
    Ok(Detected {
        family: Family::Sam3,
        layout,
        image_encoder,
        text_encoder: Some(known("text encoder").text()?),
        interactive,
        memory: has("tracker.maskmem_backbone") && has("tracker.transformer"),
        geometry_encoder: has("detector.geometry_encoder"),
        dead_trunk: is_student && has(&format!("{TRUNK}.blocks")),
    })
}

/// A part that is there, whose size is to be told.
struct Found<'a> {
    checkpoint: &'a Checkpoint,
    what: &'static str,
}

impl Found<'_> {
    fn vit(&self, prefix: &str) -> Result<ImageEncoderKind> {
        let pos_embed = format!("{prefix}.pos_embed");
        Ok(ImageEncoderKind::Vit {
            dim: *self
                .shape(&pos_embed)?
                .last()
                .ok_or_else(|| self.odd(&pos_embed))?,
            depth: self.count(&format!("{prefix}.blocks")),
        })
    }

    fn rep_vit(&self) -> Result<ImageEncoderKind> {
        let first = format!("{STUDENT}.features.0.0.c.weight");
        Ok(ImageEncoderKind::RepVit(match self.shape(&first)? {
            [24, ..] => RepVitSize::M0_9,
            [32, ..] => RepVitSize::M1_1,
            [40, ..] => RepVitSize::M2_3,
            _ => return Err(self.odd(&first)),
        }))
    }

    fn tiny_vit(&self, prefix: &str) -> Result<ImageEncoderKind> {
        let heads = format!("{prefix}.layers.3.blocks.0.attn.attention_biases");
        Ok(ImageEncoderKind::TinyVit(match self.shape(&heads)? {
            [10, ..] => TinyVitSize::M5,
            [14, ..] => TinyVitSize::M11,
            [18, ..] => TinyVitSize::M21,
            _ => return Err(self.odd(&heads)),
        }))
    }

    fn efficient_vit(&self) -> Result<ImageEncoderKind> {
        let first = format!("{STUDENT}.input_stem.op_list.0.conv.weight");
        Ok(ImageEncoderKind::EfficientVit(
            match self.shape(&first)? {
                [8, ..] => EfficientVitSize::B0,
                [16, ..] => EfficientVitSize::B1,
                [24, ..] => EfficientVitSize::B2,
                _ => return Err(self.odd(&first)),
            },
        ))
    }

    fn text(&self) -> Result<TextEncoderKind> {
        let clip = format!("{TEXT}.positional_embedding");
        if let Some(shape) = self.checkpoint.shape(&clip) {
            let &[context, width] = shape else {
                return Err(self.odd(&clip));
            };
            let layers = self.count(&format!("{TEXT}.transformer.resblocks"));
            return Ok(TextEncoderKind::Clip {
                width,
                layers,
                context,
            });
        }
        let table = format!("{TEXT}.positional_embedding.pos_embed.pos_embed");
        let &[_, _, rows, width] = self.shape(&table)? else {
            return Err(self.odd(&table));
        };
        let mixer = format!("{TEXT}.transformer.0.token_mixer");
        let size = match (self.checkpoint.contains_part(&mixer), width) {
            (true, 512) => MobileClipSize::S0,
            (false, 512) => MobileClipSize::S1,
            (false, 768) => MobileClipSize::L,
            _ => return Err(self.odd(&table)),
        };
        let layers = self.count(&format!("{TEXT}.transformer"));
        Ok(TextEncoderKind::MobileClip {
            size,
            width,
            layers,
            table: rows,
        })
    }

    /// The shape of the tensor that tells the size.
    fn shape(&self, name: &str) -> Result<&[usize]> {
        let shape = self.checkpoint.shape(name);
        let message = || self.checkpoint.missing_message(name);
        shape.ok_or_else(|| Error::checkpoint(self.checkpoint.path(), message()))
    }

    /// One more than the highest number after `prefix`.
    fn count(&self, prefix: &str) -> usize {
        let names = self.checkpoint.names().into_iter();
        let numbers = names.filter_map(|name| {
            let rest = name.strip_prefix(prefix)?.strip_prefix('.')?;
            rest.split('.').next()?.parse::<usize>().ok()
        });
        numbers.max().map_or(0, |last| last.saturating_add(1))
    }

    fn odd(&self, name: &str) -> Error {
        let shape = self.checkpoint.shape(name).unwrap_or_default();
        Error::Unsupported {
            what: format!("a {} whose `{name}` has shape {shape:?}", self.what),
            instead: "use one of the released sizes".into(),
        }
    }
}

fn unsupported(what: &str) -> Error {
    Error::Unsupported {
        what: what.into(),
        instead: "use sam3.pt, or an EfficientSAM3 or SAM3-LiteText file made from it".into(),
    }
}

fn unknown(checkpoint: &Checkpoint) -> Error {
    let mut names = checkpoint.names();
    let total = names.len();
    names.truncate(3);
    let problem = format!(
        "not a SAM 3, EfficientSAM3 or SAM3-LiteText checkpoint: none of its {total} tensors, \
         such as {}, is a detector's",
        names.join(", ")
    );
    Error::checkpoint(checkpoint.path(), problem)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::key_lists::key_list;
    use candle::DType;

    fn found(list: &str) -> Detected {
        detect(&Checkpoint::from_shapes(key_list(list)).unwrap()).unwrap()
    }

    fn refused(names: &[&str]) -> Error {
        let shapes = names
            .iter()
            .map(|name| (name.to_string(), vec![7; 4], DType::F32));
        detect(&Checkpoint::from_shapes(shapes).unwrap()).unwrap_err()
    }

    #[test]
    fn every_release_is_told_from_its_key_list() {
        use EfficientVitSize::*;
        use ImageEncoderKind::*;
        use MobileClipSize::*;
        use RepVitSize::*;
        use TinyVitSize::*;
        let vit = Vit {
            dim: 1024,
            depth: 32,
        };
        let clip = TextEncoderKind::Clip {
            width: 1024,
            layers: 24,
            context: 32,
        };
        let mobile = |size, table| {
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
        };
        for (list, image_encoder, text_encoder) in [
            ("sam3", vit, clip),
            ("sam3_hf", vit, clip),
            ("litetext_mobileclip-s0_ctx16", vit, mobile(S0, 16)),
            ("litetext_mobileclip-s0_ctx32", vit, mobile(S0, 32)),
            ("litetext_mobileclip-s1_ctx16", vit, mobile(S1, 16)),
            ("litetext_mobileclip-s1_ctx32", vit, mobile(S1, 32)),
            ("litetext_mobileclip2-l_ctx16", vit, mobile(L, 16)),
            ("litetext_mobileclip2-l_ctx32", vit, mobile(L, 32)),
            (
                "efficientsam3_repvit-m0.9_mobileclip-s1",
                RepVit(M0_9),
                mobile(S1, 77),
            ),
            (
                "efficientsam3_repvit-m1.1_mobileclip-s1",
                RepVit(M1_1),
                mobile(S1, 77),
            ),
            (
                "efficientsam3_repvit-m2.3_mobileclip-s1",
                RepVit(M2_3),
                mobile(S1, 77),
            ),
            (
                "efficientsam3_tinyvit-5m_mobileclip-s1",
                TinyVit(M5),
                mobile(S1, 77),
            ),
            (
                "efficientsam3_tinyvit-11m_mobileclip-s1",
                TinyVit(M11),
                mobile(S1, 77),
            ),
            (
                "efficientsam3_tinyvit-21m_mobileclip-s1",
                TinyVit(M21),
                mobile(S1, 77),
            ),
            (
                "efficientsam3_efficientvit-b0_mobileclip-s1",
                EfficientVit(B0),
                mobile(S1, 77),
            ),
            (
                "efficientsam3_efficientvit-b1_mobileclip-s1",
                EfficientVit(B1),
                mobile(S1, 77),
            ),
            (
                "efficientsam3_efficientvit-b2_mobileclip-s1",
                EfficientVit(B2),
                mobile(S1, 77),
            ),
            (
                "efficientsam3_repvit-m1.1_stage3",
                RepVit(M1_1),
                mobile(S0, 16),
            ),
            (
                "efficientsam3_tinyvit-11m_stage3",
                TinyVit(M11),
                mobile(S0, 16),
            ),
            (
                "efficientsam3_efficientvit-b1_stage3",
                EfficientVit(B1),
                mobile(S0, 16),
            ),
        ] {
            let stage3 = list.ends_with("stage3");
            let want = Detected {
                family: Family::Sam3,
                layout: if list == "sam3_hf" {
                    "SAM 3 (Hugging Face)"
                } else {
                    "SAM 3"
                },
                image_encoder,
                text_encoder: Some(text_encoder),
                interactive: !stage3,
                memory: !stage3,
                geometry_encoder: !stage3,
                dead_trunk: false,
            };
            assert_eq!(found(list), want, "{list}");
        }
    }

    #[test]
    fn the_trunk_a_student_replaced_is_noticed() {
        let list = "efficientsam3_repvit-m0.9_mobileclip-s1";
        let dead = key_list("sam3").into_iter();
        let dead = dead.filter(|(name, ..)| name.starts_with(TRUNK));
        let both = Checkpoint::from_shapes(key_list(list).into_iter().chain(dead)).unwrap();
        let want = Detected {
            dead_trunk: true,
            ..found(list)
        };
        assert_eq!(detect(&both).unwrap(), want);
    }

    #[test]
    fn sam1_is_told_from_mobile_sam() {
        let sam = found("sam_vit_b");
        assert_eq!(sam.family, Family::Sam);
        assert_eq!(
            sam.image_encoder,
            ImageEncoderKind::Vit {
                dim: 768,
                depth: 12
            }
        );
        let layout = "SAM (Hugging Face)";
        assert_eq!(found("sam_vit_b_hf"), Detected { layout, ..sam });
        let mobile = found("mobile_sam");
        assert_eq!(mobile.family, Family::MobileSam);
        assert_eq!(
            mobile.image_encoder,
            ImageEncoderKind::TinyVit(TinyVitSize::M5)
        );
        assert_eq!(mobile.text_encoder, None);
    }

    #[test]
    fn other_models_are_refused_by_name() {
        for (names, want) in [
            (
                &["tracker.model.interactive_sam_mask_decoder.x", "detector.x"][..],
                "SAM 3.1",
            ),
            (
                &["detector.backbone.vision_backbone.propagation_convs.0.x"],
                "SAM 3.1",
            ),
            (&["image_encoder.trunk.blocks.0.norm1.weight"], "SAM 2"),
            (&["model.layers.0.self_attn.q_proj.weight"], "not a SAM 3"),
            (&[], "none of its 0 tensors"),
        ] {
            let got = refused(names).to_string();
            assert!(got.contains(want), "{got}");
        }
    }

    #[test]
    fn an_encoder_of_another_size_says_what_is_odd() {
        let first = format!("{STUDENT}.features.0.0.c.weight");
        let got = refused(&["detector.transformer.x", &first]);
        assert!(matches!(got, Error::Unsupported { .. }));
        let got = got.to_string();
        assert!(
            got.contains("RepViT") && got.contains("[7, 7, 7, 7]"),
            "{got}"
        );
    }
}
