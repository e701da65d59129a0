//! The network from pixels and token ids to boxes, scores and masks.
//!
//! Follows `Sam3Image.forward_grounding`,
//! <https://github.com/facebookresearch/sam3/blob/99d02f2/sam3/model/sam3_image.py#L439>.

use candle::{DType, Result, Tensor};
use candle_nn::{Module, VarBuilder};

use super::config::Config;
use super::decoder::Decoder;
use super::encoder::Encoder;
use super::geometry_encoder::{ExemplarBox, GeometryEncoder};
use super::neck::Neck;
use super::scoring::DotProductScoring;
use super::segmentation_head::SegmentationHead;
use crate::backbones::ImageEncoder;
use crate::nn::attention::padding_bias;
use crate::nn::posenc;
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

/// All queries' answers to one prompt on one image.
#[derive(Debug, Clone)]
pub struct Grounding {
    /// Logit of each query (1, q), f32.
    pub logits: Tensor,
    /// Boxes (1, q, 4): centre x, centre y, width, height in 0..1, f32.
    pub boxes: Tensor,
    /// Logit of "the concept is in the image" (1), f32.
    pub presence_logit: Tensor,
    /// Features of the queries (1, q, d).
    pub hs: Tensor,
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
        let image_encoder = ImageEncoder::new(&cfg.image_encoder, vision.pp("trunk"))?;
        let scoring = vb.pp("dot_prod_scoring");
        let head = vb.pp("segmentation_head");
        Ok(Self {
            neck: Neck::new(cfg.image_encoder.dim(), d, vision.pp("convs"))?,
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

    /// Normalised pixels (1, 3, s, s)
    pub fn encode_image(&self, pixels: &Tensor, trace: &mut Trace) -> Result<ImageFeatures> {
        trace.record("pixel_values", pixels);
        let trunk = self.image_encoder.forward(pixels)?;
        trace.record("trunk", &trunk);
        self.encode_trunk(&trunk, trace)
    }

    /// From the trunk's map (1, c, g, g) on.
    pub fn encode_trunk(&self, trunk: &Tensor, trace: &mut Trace) -> Result<ImageFeatures> {
        let fpn = self.neck.forward(trunk)?;
        for (level, map) in fpn.iter().enumerate() {
            trace.record(&format!("neck.{level}"), map);
        }
        self.prepare(fpn)
    }

    /// What every prompt on this pyramid shares.
    pub fn prepare(&self, fpn: [Tensor; 3]) -> Result<ImageFeatures> {
        let (_, d, h, w) = fpn[2].dims4()?;
        let as_tokens = |map: &Tensor| map.flatten_from(2)?.transpose(1, 2)?.contiguous();
        let tokens = as_tokens(&fpn[2])?;
        let pos = as_tokens(&posenc::sine_2d(h, w, d, tokens.device())?.to_dtype(tokens.dtype())?)?;
        Ok(ImageFeatures {
            attended: self.encoder.attend_image(&tokens, &pos)?,
            no_boxes: self.geometry_encoder.forward(&[], &tokens, (h, w), &pos)?,
            fpn,
            tokens,
            pos,
        })
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
        let grid = image.grid()?;
        let geometry = match boxes.is_empty() {
            true => image.no_boxes.clone(),
            false => self
                .geometry_encoder
                .forward(boxes, &image.tokens, grid, &image.pos)?,
        };
        trace.record("text_features", &text.tokens);
        trace.record("geometry", &geometry);
        let never = Tensor::zeros((1, geometry.dim(1)?), DType::U8, geometry.device())?;
        let prompt = Tensor::cat(&[&text.tokens, &geometry], 1)?;
        let is_padding = Tensor::cat(&[&text.is_padding, &never], 1)?;
        self.ground_prompt(image, &prompt, &is_padding, trace)
    }

    /// From the assembled prompt (1, m, d) with `is_padding` (1, m) u8 on.
    pub fn ground_prompt(
        &self,
        image: &ImageFeatures,
        prompt: &Tensor,
        is_padding: &Tensor,
        trace: &mut Trace,
    ) -> Result<Grounding> {
        let padding = padding_bias(is_padding, prompt.dtype())?;
        trace.record("prompt", prompt);
        trace.record("prompt_mask", is_padding);
        let memory = self
            .encoder
            .forward(&image.attended, &image.pos, prompt, &padding)?;
        trace.record("encoder", &memory);
        let found = self
            .decoder
            .forward(&memory, &image.pos, image.grid()?, prompt, &padding)?;
        trace.record("hs", &found.hs);
        trace.record("pred_boxes", &found.boxes);
        trace.record("presence_logit", &found.presence_logit);
        let logits = self
            .dot_prod_scoring
            .forward(&found.hs, prompt, is_padding)?;
        trace.record("pred_logits", &logits);
        let pixels = self
            .segmentation_head
            .embed_pixels(&memory, &image.fpn, prompt, &padding)?;
        trace.record("pixel_embed", &pixels);
        Ok(Grounding {
            logits,
            boxes: found.boxes,
            presence_logit: found.presence_logit,
            hs: found.hs,
            pixels,
        })
    }

    /// Mask logits (1, k, 4g, 4g) of the chosen queries (k), u32.
    pub fn masks(&self, grounding: &Grounding, queries: &Tensor) -> Result<Tensor> {
        self.segmentation_head
            .masks(&grounding.pixels, &grounding.hs.index_select(queries, 1)?)
    }

    /// Logits (1, 1, 4g, 4g) of "this pixel belongs to the concept".
    pub fn semantic(&self, grounding: &Grounding) -> Result<Tensor> {
        self.segmentation_head.semantic(&grounding.pixels)
    }
}
