//! From a checkpoint of SAM 1 or MobileSAM to a model.

use candle::{DType, Device};
use candle_nn::VarBuilder;

use super::image_encoder::{BackboneConfig, ImageEncoder};
use super::{Config, Heads, Sam};
use crate::backbones::{tiny_vit, vit::sam1};
use crate::nn::Precision;
use crate::weights::{Checkpoint, Family, ImageEncoderKind, TinyVitSize, detect};
use crate::{Error, Result};

/// How to load a model. The default is the CPU in f32.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// Where the model runs.
    pub device: Device,
    /// What it computes in: f32, f16 or bf16.
    pub dtype: DType,
    /// How exactly it computes, on the CPU in f32; the only choice elsewhere is the default.
    pub precision: Precision,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            device: Device::Cpu,
            dtype: DType::F32,
            precision: Precision::default(),
        }
    }
}

/// MobileSAM's classifier, which segmentation never runs.
const LEFT_OUT: &[&str] = &["image_encoder.norm_head", "image_encoder.head"];

impl Sam {
    /// Loads a SAM 1 or MobileSAM checkpoint; sizes come from its tensors.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] listing the tensors that are missing, misshaped or left over;
    /// [`Error::Unsupported`] for another family or size, and for a precision that the device or the
    /// dtype does not have.
    pub fn load(checkpoint: &Checkpoint, options: &LoadOptions) -> Result<Self> {
        options.precision.check(&options.device, options.dtype)?;
        let (backbone, name) = backbone(checkpoint)?;
        let cfg = Config::sam1();
        let build = |vb: VarBuilder| {
            let image_encoder = ImageEncoder::new(&backbone, cfg.dim, vb.pp("image_encoder"))?;
            let heads = Heads::new(&cfg, vb.pp("prompt_encoder"), vb.pp("mask_decoder"))?;
            Ok((image_encoder, heads))
        };
        let built: candle::Result<_> = options
            .precision
            .scope(|| build(checkpoint.var_builder(options.dtype, &options.device)));
        let (image_encoder, heads) = match built {
            Ok(parts) => parts,
            Err(error) => {
                // the first problem; say all of them if there are more like it
                checkpoint.verify(build)?;
                return Err(Error::checkpoint(checkpoint.path(), error.to_string()));
            }
        };
        checkpoint.finish(LEFT_OUT)?;
        Ok(Self {
            image_encoder,
            heads,
            name: name.into(),
            device: options.device.clone(),
            dtype: options.dtype,
        })
    }
}

fn backbone(checkpoint: &Checkpoint) -> Result<(BackboneConfig, &'static str)> {
    let detected = detect(checkpoint)?;
    let unsupported = |what: String| Error::Unsupported {
        what,
        instead: "use sam_vit_b, sam_vit_l, sam_vit_h or mobile_sam".into(),
    };
    if detected.family == Family::Sam3 {
        return Err(Error::Unsupported {
            what: "loading a SAM 3 checkpoint as SAM 1".into(),
            instead: "load it as SAM 3, with its click head".into(),
        });
    }
    Ok(match detected.image_encoder {
        ImageEncoderKind::Vit { dim, depth } => {
            let (cfg, name) = match (dim, depth) {
                (768, 12) => (sam1::Config::base(), "SAM ViT-B"),
                (1024, 24) => (sam1::Config::large(), "SAM ViT-L"),
                (1280, 32) => (sam1::Config::huge(), "SAM ViT-H"),
                _ => {
                    return Err(unsupported(format!(
                        "a SAM with {depth} blocks of {dim} channels"
                    )));
                }
            };
            (BackboneConfig::Vit(cfg), name)
        }
        ImageEncoderKind::TinyVit(TinyVitSize::M5) => {
            let cfg = tiny_vit::Config::mobile_sam();
            (BackboneConfig::TinyVit(cfg), "MobileSAM")
        }
        other => return Err(unsupported(format!("a SAM on {other:?}"))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::key_lists::key_list;

    #[test]
    fn every_release_is_read_completely() {
        for (list, name) in [
            ("sam_vit_b", "SAM ViT-B"),
            ("sam_vit_b_hf", "SAM ViT-B"),
            ("mobile_sam", "MobileSAM"),
        ] {
            let checkpoint = Checkpoint::from_shapes(key_list(list)).unwrap();
            let model = Sam::load(&checkpoint, &LoadOptions::default());
            assert_eq!(model.unwrap().name(), name);
        }
    }

    #[test]
    fn vit_l_and_vit_h_are_read_completely() {
        // Those of ViT-B with other sizes: what is below a block does not depend on its number.
        for (dim, depth, head_dim, globals, name) in [
            (1024, 24, 64, [5, 11, 17, 23], "SAM ViT-L"),
            (1280, 32, 80, [7, 15, 23, 31], "SAM ViT-H"),
        ] {
            let scale = |n: usize| match n {
                768 | 2304 | 3072 => n / 768 * dim,
                other => other,
            };
            let mut tensors = vec![];
            for (tensor, shape, dtype) in key_list("sam_vit_b") {
                let wider: Vec<usize> = shape.iter().map(|n| scale(*n)).collect();
                let wider = match tensor.starts_with("image_encoder") {
                    true => wider,
                    false => shape,
                };
                let Some(part) = tensor.strip_prefix("image_encoder.blocks.0.") else {
                    if !tensor.starts_with("image_encoder.blocks.") {
                        tensors.push((tensor, wider, dtype));
                    }
                    continue;
                };
                for i in 0..depth {
                    let shape = match (part.contains("rel_pos"), globals.contains(&i)) {
                        (true, true) => vec![127, head_dim],
                        (true, false) => vec![27, head_dim],
                        (false, _) => wider.clone(),
                    };
                    tensors.push((format!("image_encoder.blocks.{i}.{part}"), shape, dtype));
                }
            }
            let checkpoint = Checkpoint::from_shapes(tensors).unwrap();
            // Shapes are checked without reading: ViT-H would take 2.5 GB.
            let (backbone, found) = backbone(&checkpoint).unwrap();
            assert_eq!(found, name);
            let encoder =
                |vb: VarBuilder| ImageEncoder::new(&backbone, 256, vb.pp("image_encoder"));
            checkpoint.verify(encoder).unwrap();
        }
    }

    #[test]
    fn a_missing_tensor_and_another_family_are_named() {
        let mut tensors = key_list("mobile_sam");
        tensors.retain(|(name, ..)| name != "mask_decoder.iou_token.weight");
        let checkpoint = Checkpoint::from_shapes(tensors).unwrap();
        let error = Sam::load(&checkpoint, &LoadOptions::default()).unwrap_err();
        assert!(
            error.to_string().contains("mask_decoder.iou_token.weight"),
            "{error}"
        );
        let checkpoint = Checkpoint::from_shapes(key_list("sam3")).unwrap();
        let error = Sam::load(&checkpoint, &LoadOptions::default()).unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }), "{error}");
    }
}
