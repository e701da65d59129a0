//! Recognizes what a file holds by its tensors' names and shapes, never by the file's name.

use super::{Encoder, Family, IMAGE_ENCODERS, TEXT_ENCODERS, Variant};
use crate::models::sam3::Parts;
use crate::weights::Checkpoint;
use crate::{Error, Result};

const VISION: &str = "detector.backbone.vision_backbone";
const TRUNK: &str = "detector.backbone.vision_backbone.trunk";
const MOBILE_CLIP_TABLE: &str =
    "detector.backbone.language_backbone.encoder.positional_embedding.pos_embed.pos_embed";

/// What SAM 2.1 has and SAM 2.0 has not.
const OF_SAM21: &[&str] = &["no_obj_embed_spatial", "obj_ptr_tpos_proj"];

/// What SAM 3 has and SAM 3.1 has not.
const OF_SAM3: &[&str] = &[
    "detector.backbone.vision_backbone.sam2_convs",
    "detector.backbone.vision_backbone.convs.3",
    "tracker.sam_mask_decoder",
    "tracker.sam_prompt_encoder",
    "tracker.maskmem_backbone",
    "tracker.transformer",
    "tracker.no_mem_embed",
];

/// What SAM 3.1 has and SAM 3 has not.
const OF_SAM31: &[&str] = &[
    "detector.backbone.vision_backbone.interactive_convs",
    "detector.backbone.vision_backbone.propagation_convs",
    "tracker.model",
];

impl Family {
    /// The kind of model in `checkpoint`. One that carries its own sizes is a SAM 3.
    ///
    /// # Errors
    /// As [`Variant::of`].
    pub fn of(checkpoint: &Checkpoint) -> Result<Self> {
        match checkpoint.metadata().contains_key("config") {
            true => Ok(Self::Sam3),
            false => Ok(Variant::of(checkpoint)?.family()),
        }
    }
}

impl Variant {
    /// The variant in `checkpoint`, which may lack tensors that do not identify it.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for SAM 2.0 and encoders of another size; [`Error::Checkpoint`] if it is
    /// no model of this kind at all, or a mixture of SAM 3 and SAM 3.1.
    pub fn of(checkpoint: &Checkpoint) -> Result<Self> {
        let has = |part: &str| checkpoint.contains_part(part);
        let in_vision = |part: &str| has(&format!("{VISION}.{part}"));
        let is_sam1 = has("image_encoder") && has("mask_decoder");
        let is_sam2 = has("image_encoder.trunk") && has("sam_mask_decoder");
        let is_sam3 = has("detector.transformer") && has(TRUNK);
        if is_sam2 && has("memory_attention") && !OF_SAM21.iter().any(|part| has(part)) {
            return Err(Error::Unsupported {
                what: "SAM 2.0, whose tracker sees no distances in time and no occlusions".into(),
                instead: "use the file of SAM 2.1 that replaced it, as sam2.1_hiera_tiny.pt".into(),
            });
        }
        if !is_sam1 && !is_sam2 && !is_sam3 {
            return Err(unknown(checkpoint));
        }
        let image_encoder = find(checkpoint, &IMAGE_ENCODERS, "an image encoder")?;
        if image_encoder.family() != Family::Sam3 {
            return Ok(Self {
                image_encoder,
                text_encoder: None,
                text_positions: None,
                multiplex: false,
                interactive: true,
                geometry_encoder: false,
                dead_trunk: false,
            });
        }
        let text_encoder = find(checkpoint, &TEXT_ENCODERS, "a text encoder")?;
        let table = checkpoint.shape(MOBILE_CLIP_TABLE);
        Ok(Self {
            image_encoder,
            text_encoder: Some(text_encoder),
            text_positions: table.and_then(|shape| shape.get(2).copied()),
            multiplex: is_multiplex(checkpoint)?,
            interactive: is_interactive(checkpoint)?,
            geometry_encoder: has("detector.geometry_encoder"),
            dead_trunk: in_vision("trunk.model") && in_vision("trunk.blocks"),
        })
    }
}

/// True if the parts of a SAM 3 or SAM 3.1 that answer points, boxes and masks are there.
///
/// # Errors
/// [`Error::Checkpoint`] for a mixture of both.
pub fn is_interactive(checkpoint: &Checkpoint) -> Result<bool> {
    let mut parts = Parts::of(is_multiplex(checkpoint)?)
        .interactive()
        .into_iter();
    Ok(parts.all(|part| checkpoint.contains_part(part)))
}

/// True if `checkpoint` is SAM 3.1, false if it is SAM 3 or has nothing that tells them apart, as
/// a detector alone.
///
/// # Errors
/// [`Error::Checkpoint`] for a mixture of both.
pub(in crate::models) fn is_multiplex(checkpoint: &Checkpoint) -> Result<bool> {
    let found = |parts: &[&'static str]| {
        let mut parts = parts.iter().copied();
        parts.find(|part| checkpoint.contains_part(part))
    };
    let (sam3, sam31) = (found(OF_SAM3), found(OF_SAM31));
    if let (Some(sam3), Some(sam31)) = (sam3, sam31) {
        let problem = format!(
            "mixes SAM 3 (`{sam3}`) with SAM 3.1 (`{sam31}`), which were trained apart; use a file \
             with the tensors of one of them"
        );
        return Err(Error::checkpoint(checkpoint.path(), problem));
    }
    Ok(sam31.is_some())
}

/// The row of `table` whose signature `checkpoint` has.
fn find<S>(
    checkpoint: &Checkpoint,
    table: &'static [Encoder<S>],
    what: &str,
) -> Result<&'static Encoder<S>> {
    // The first architecture that is there decides; its sizes are rows next to each other.
    let mut rows = table.iter().map(|row| row.signature);
    let Some((tensor, _)) = rows.find(|(tensor, _)| checkpoint.contains(tensor)) else {
        let problem = format!("has no tensor that identifies {what} known here");
        return Err(Error::checkpoint(checkpoint.path(), problem));
    };
    let shape = checkpoint.shape(tensor).unwrap_or_default();
    let mut rows = table.iter();
    let fits = rows.find(|row| row.signature == (tensor, shape));
    fits.ok_or_else(|| Error::Unsupported {
        what: format!("{what} whose `{tensor}` has shape {shape:?}"),
        instead: "use one of the released sizes".into(),
    })
}

fn unknown(checkpoint: &Checkpoint) -> Error {
    let mut names = checkpoint.names();
    let total = names.len();
    let first = names.first().and_then(|name| name.split_once('.'));
    let shared = first.map(|(segment, _)| format!("{segment}."));
    let shared = shared.filter(|shared| names.iter().all(|name| name.starts_with(shared)));
    let behind = match shared.as_deref() {
        None | Some("detector." | "tracker.") => String::new(),
        Some(shared) => format!(
            ". All of them begin with `{shared}`: if a model's own names follow, take that off \
             before saving"
        ),
    };
    names.truncate(3);
    let problem = format!(
        "not a checkpoint of SAM 1, MobileSAM, SAM 2.1, SAM 3, EfficientSAM3 or SAM3-LiteText: none of \
         its {total} tensors, such as {}, is of a part that all of those have{behind}",
        names.join(", ")
    );
    Error::checkpoint(checkpoint.path(), problem)
}
