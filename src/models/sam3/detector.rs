//! The network from pixels and token ids to boxes, scores and masks.
//!
//! Follows `Sam3Image.forward_grounding`,
//! <https://github.com/facebookresearch/sam3/blob/99d02f2/sam3/model/sam3_image.py#L439>.

use candle::{DType, Result, Tensor};
use candle_nn::{Module, VarBuilder};

use super::config::Config;
use super::decoder::{Decoded, Decoder};
use super::encoder::Encoder;
use super::geometry_encoder::{ExemplarBox, GeometryEncoder};
use super::neck::Neck;
use super::scoring::DotProductScoring;
use super::segmentation_head::SegmentationHead;
use crate::backbones::ImageEncoder;
use crate::nn::attention::padding_bias;
use crate::nn::posenc;
use crate::nn::sample::resize_bilinear;
use crate::text::TextEncoder;
use crate::trace::Trace;

/// What is known of an image before any prompt.
#[derive(Debug, Clone)]
pub struct ImageFeatures {
    /// The pyramid from fine to coarse: (1, d, 4g, 4g), (1, d, 2g, 2g), (1, d, g, g).
    pub fpn: [Tensor; 3],
    /// The coarse level as tokens (1, g * g, d).
    pub tokens: Tensor,
    /// Positions of the tokens (1, g * g, d).
    pub pos: Tensor,
    /// The tokens after the fusion encoder's first self-attention, which no prompt touches.
    pub attended: Tensor,
    /// The geometry encoder's token for "no exemplar box" (1, 1, d).
    pub no_boxes: Tensor,
}

impl ImageFeatures {
    fn grid(&self) -> Result<(usize, usize)> {
        let (_, _, h, w) = self.fpn[2].dims4()?;
        Ok((h, w))
    }
}

/// An encoded text.
#[derive(Debug, Clone)]
pub struct TextFeatures {
    /// (1, s, d)
    pub tokens: Tensor,
    /// (1, s) u8, 1 where the token id is 0.
    pub is_padding: Tensor,
}

/// A text and its exemplars as one sequence.
#[derive(Debug, Clone)]
pub struct PromptTokens {
    /// (1, m, d): the text, the exemplars, the CLS token of the geometry encoder.
    pub tokens: Tensor,
    /// (1, m) u8, 1 for padding.
    pub is_padding: Tensor,
    bias: Tensor, // (1, 1, 1, m), the padding as attention sees it
}

impl PromptTokens {
    /// From `tokens` (1, m, d) and `is_padding` (1, m) u8.
    pub fn new(tokens: Tensor, is_padding: Tensor) -> Result<Self> {
        let bias = padding_bias(&is_padding, tokens.dtype())?;
        Ok(Self {
            tokens,
            is_padding,
            bias,
        })
    }
}

/// All queries' answers to one prompt on one image.
#[derive(Debug, Clone)]
pub struct Grounding {
    /// Logit of each query (1, q), f32.
    pub logits: Tensor,
    /// What the decoder found.
    pub found: Decoded,
    /// Pixel embedding for the masks (1, d, 4g, 4g).
    pub pixels: Tensor,
}

/// The detector of SAM 3, EfficientSAM3 and SAM3-LiteText.
#[derive(Debug)]
pub struct Detector {
    image_encoder: ImageEncoder,
    neck: Neck,
    text_encoder: TextEncoder,
    geometry_encoder: GeometryEncoder,
    encoder: Encoder,
    decoder: Decoder,
    dot_prod_scoring: DotProductScoring,
    segmentation_head: SegmentationHead,
}

impl Detector {
    /// Reads everything below `detector` that inference needs.
    pub fn new(cfg: &Config, vb: VarBuilder) -> Result<Self> {
        let d = cfg.d_model();
        let vision = vb.pp("backbone.vision_backbone");
        let transformer = vb.pp("transformer");
        let (dim, grid) = (cfg.image_encoder.dim(), cfg.image_encoder.grid());
        let image_encoder = ImageEncoder::new(&cfg.image_encoder, vision.pp("trunk"))?;
        let scoring = vb.pp("dot_prod_scoring");
        let head = vb.pp("segmentation_head");
        Ok(Self {
            neck: Neck::new(dim, d, grid, vision.pp("convs"))?,
            image_encoder,
            text_encoder: TextEncoder::new(&cfg.text_encoder, vb.pp("backbone.language_backbone"))?,
            geometry_encoder: GeometryEncoder::new(
                &cfg.geometry,
                cfg.roi_size,
                vb.pp("geometry_encoder"),
            )?,
            encoder: Encoder::new(&cfg.encoder, transformer.pp("encoder"))?,
            decoder: Decoder::new(&cfg.decoder, cfg.num_queries, transformer.pp("decoder"))?,
            dot_prod_scoring: DotProductScoring::new(d, cfg.scoring_dim, cfg.max_logit, scoring)?,
            segmentation_head: SegmentationHead::new(d, cfg.encoder.num_heads, head)?,
        })
    }

    /// Normalised pixels (1, 3, s, s) -> what prompts share, and the trunk's features (1, c, h, w)
    /// before a student resizes them
    pub fn encode_image(
        &self,
        pixels: &Tensor,
        trace: &mut Trace,
    ) -> Result<(ImageFeatures, Tensor)> {
        trace.record("pixel_values", pixels);
        let features = self.features(pixels)?;
        self.record_trunk(&features, trace)?;
        let fpn = self.neck(&features)?;
        for (level, map) in fpn.iter().enumerate() {
            trace.record(&format!("neck.{level}"), map);
        }
        Ok((self.prepare(fpn)?, features))
    }

    /// Records the trunk's features as the official code has them, resized, if they are kept.
    pub(super) fn record_trunk(&self, features: &Tensor, trace: &mut Trace) -> Result<()> {
        match trace.is_on() {
            true => trace.record("trunk", &resize_bilinear(features, self.neck.grid())?),
            false => trace.record("trunk", features), // of which a timed trace notes the moment
        }
        Ok(())
    }

    /// Token ids (1, s), u32, padded with 0 to the context length.
    pub fn encode_text(&self, ids: &Tensor) -> Result<TextFeatures> {
        Ok(TextFeatures {
            tokens: self.text_encoder.forward(ids)?,
            is_padding: ids.eq(0u32)?,
        })
    }

    /// Finds what `text` and `boxes` mean in the image.
    pub fn ground(
        &self,
        image: &ImageFeatures,
        text: &TextFeatures,
        boxes: &[ExemplarBox],
        trace: &mut Trace,
    ) -> Result<Grounding> {
        let geometry = self.encode_boxes(image, boxes)?;
        trace.record("text_features", &text.tokens);
        trace.record("geometry", &geometry);
        let prompt = self.assemble(text, &geometry)?;
        trace.record("prompt", &prompt.tokens);
        trace.record("prompt_mask", &prompt.is_padding);
        let memory = self.fuse(image, &prompt)?;
        trace.record("encoder", &memory);
        let found = self.decode(image, &memory, &prompt)?;
        trace.record("hs", &found.hs);
        trace.record("pred_boxes", &found.boxes);
        trace.record("presence_logit", &found.presence_logit);
        let logits = self.score(&found.hs, &prompt)?;
        trace.record("pred_logits", &logits);
        let pixels = self.embed_pixels(image, &memory, &prompt)?;
        trace.record("pixel_embed", &pixels);
        Ok(Grounding {
            logits,
            found,
            pixels,
        })
    }
}

/// The stages one by one, in the order in which they run.
impl Detector {
    /// Normalised pixels (1, 3, s, s) -> features (1, c, g, g)
    pub fn trunk(&self, pixels: &Tensor) -> Result<Tensor> {
        self.image_encoder.forward(pixels)
    }

    /// Like [`Self::trunk`] before a student resizes its features: -> (1, c, h, w)
    pub fn features(&self, pixels: &Tensor) -> Result<Tensor> {
        self.image_encoder.features(pixels)
    }

    /// Features of the trunk (1, c, h, w), resized or not, -> pyramid from fine to coarse, see
    /// [`ImageFeatures::fpn`]
    pub fn neck(&self, trunk: &Tensor) -> Result<[Tensor; 3]> {
        self.neck.forward(trunk)
    }

    /// What every prompt on this pyramid shares.
    pub fn prepare(&self, fpn: [Tensor; 3]) -> Result<ImageFeatures> {
        let (_, d, h, w) = fpn[2].dims4()?;
        let as_tokens = |map: &Tensor| map.flatten_from(2)?.transpose(1, 2)?.contiguous();
        let tokens = as_tokens(&fpn[2])?;
        let pos = posenc::sine_2d(h, w, d, tokens.device())?.to_dtype(tokens.dtype())?;
        let pos = as_tokens(&pos)?;
        Ok(ImageFeatures {
            attended: self.encoder.attend_image(&tokens, &pos)?,
            no_boxes: self.geometry_encoder.forward(&[], &tokens, (h, w), &pos)?,
            fpn,
            tokens,
            pos,
        })
    }

    /// Exemplar boxes -> tokens (1, boxes + 1, d), the CLS token last
    pub fn encode_boxes(&self, image: &ImageFeatures, boxes: &[ExemplarBox]) -> Result<Tensor> {
        match boxes.is_empty() {
            true => Ok(image.no_boxes.clone()),
            false => self
                .geometry_encoder
                .forward(boxes, &image.tokens, image.grid()?, &image.pos),
        }
    }

    /// Text and exemplar tokens (1, n, d) as one prompt.
    pub fn assemble(&self, text: &TextFeatures, geometry: &Tensor) -> Result<PromptTokens> {
        let valid = Tensor::zeros((1, geometry.dim(1)?), DType::U8, geometry.device())?;
        PromptTokens::new(
            Tensor::cat(&[&text.tokens, geometry], 1)?,
            Tensor::cat(&[&text.is_padding, &valid], 1)?,
        )
    }

    /// Image tokens that know the prompt: -> memory (1, g * g, d)
    pub fn fuse(&self, image: &ImageFeatures, prompt: &PromptTokens) -> Result<Tensor> {
        self.encoder
            .forward(&image.attended, &image.pos, &prompt.tokens, &prompt.bias)
    }

    /// Objects in the `memory` (1, g * g, d).
    pub fn decode(
        &self,
        image: &ImageFeatures,
        memory: &Tensor,
        prompt: &PromptTokens,
    ) -> Result<Decoded> {
        self.decoder.forward(
            memory,
            &image.pos,
            image.grid()?,
            &prompt.tokens,
            &prompt.bias,
        )
    }

    /// Queries `hs` (1, q, d) -> logits (1, q), f32
    pub fn score(&self, hs: &Tensor, prompt: &PromptTokens) -> Result<Tensor> {
        self.dot_prod_scoring
            .forward(hs, &prompt.tokens, &prompt.is_padding)
    }

    /// `memory` (1, g * g, d) and the pyramid -> pixel embedding (1, d, 4g, 4g)
    pub fn embed_pixels(
        &self,
        image: &ImageFeatures,
        memory: &Tensor,
        prompt: &PromptTokens,
    ) -> Result<Tensor> {
        self.segmentation_head
            .embed_pixels(memory, &image.fpn, &prompt.tokens, &prompt.bias)
    }

    /// `pixels` (1, d, h, w) and queries `hs` (1, k, d) -> mask logits (1, k, h, w)
    pub fn masks(&self, pixels: &Tensor, hs: &Tensor) -> Result<Tensor> {
        self.segmentation_head.masks(pixels, hs)
    }

    /// `pixels` (1, d, h, w) -> logits (1, 1, h, w) of "this pixel belongs to the concept"
    pub fn semantic(&self, pixels: &Tensor) -> Result<Tensor> {
        self.segmentation_head.semantic(pixels)
    }
}
