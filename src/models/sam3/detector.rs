//! The network from pixels and token ids to boxes, scores and masks.
//!
//! Follows `Sam3Image.forward_grounding`,
//! <https://github.com/facebookresearch/sam3/blob/99d02f2/sam3/model/sam3_image.py#L439>.

use std::sync::OnceLock;

use candle::{DType, IndexOp, Result, Tensor};
use candle_nn::{Module, VarBuilder};

use super::config::Config;
use super::decoder::{Decoded, Decoder};
use super::encoder::Encoder;
use super::geometry_encoder::{ExemplarBox, GeometryEncoder};
use super::neck::Neck;
use super::scoring::DotProductScoring;
use super::segmentation_head::SegmentationHead;
use crate::Run;
use crate::backbones::ImageEncoder;
use crate::models::{bytes_of, get_or_try_init};
use crate::nn::attention::padding_bias;
use crate::nn::sample::resize_bilinear;
use crate::nn::{Precision, posenc};
use crate::text::TextEncoder;

/// Features of an image before any prompt.
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

    /// Memory that the features keep, in bytes, without the positions, which all images share.
    pub fn bytes(&self) -> usize {
        let tokens = [&self.tokens, &self.attended, &self.no_boxes];
        bytes_of(self.fpn.iter().chain(tokens))
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

/// Texts and exemplars of `b` prompts, each as one sequence.
#[derive(Debug, Clone)]
pub struct PromptTokens {
    /// (b, m, d): the text, the exemplars, the CLS token of the geometry encoder, padding.
    pub tokens: Tensor,
    /// (b, m) u8, 1 for padding.
    pub is_padding: Tensor,
    bias: Tensor, // (b, 1, 1, m), the padding as attention sees it
}

impl PromptTokens {
    /// From `tokens` (b, m, d) and `is_padding` (b, m) u8.
    ///
    /// # Errors
    /// If a tensor operation fails.
    pub fn new(tokens: Tensor, is_padding: Tensor) -> Result<Self> {
        let bias = padding_bias(&is_padding, tokens.dtype())?;
        Ok(Self {
            tokens,
            is_padding,
            bias,
        })
    }

    /// Prompts of one batch each (1, m, d) as one batch, padded to the longest.
    ///
    /// # Errors
    /// If there are none.
    pub fn batch(prompts: &[Self]) -> Result<Self> {
        if let [prompt] = prompts {
            return Ok(prompt.clone());
        }
        let lengths = prompts.iter().map(|p| p.tokens.dim(1));
        let longest = lengths.collect::<Result<Vec<_>>>()?.into_iter().max();
        let longest = longest.unwrap_or_default();
        let (mut tokens, mut is_padding) = (vec![], vec![]);
        for prompt in prompts {
            let missing = longest - prompt.tokens.dim(1)?;
            tokens.push(prompt.tokens.pad_with_zeros(1, 0, missing)?);
            let valid = &prompt.is_padding;
            let padding = Tensor::ones((1, missing), DType::U8, valid.device())?;
            is_padding.push(Tensor::cat(&[valid, &padding], 1)?);
        }
        Self::new(Tensor::cat(&tokens, 0)?, Tensor::cat(&is_padding, 0)?)
    }
}

/// All queries' answers to `b` prompts on one image.
#[derive(Debug, Clone)]
pub struct Grounding {
    /// Fused image tokens (b, g * g, d).
    pub memory: Tensor,
    /// Logit of each query (b, q), f32.
    pub logits: Tensor,
    /// Queries and boxes of the decoder.
    pub found: Decoded,
    /// Pixel embedding for the masks (b, d, 4g, 4g).
    pub pixels: Tensor,
}

impl Grounding {
    /// The answers to prompt `i` alone; nothing is copied.
    ///
    /// # Errors
    /// If there are fewer prompts.
    pub fn of_prompt(&self, i: usize) -> Result<Self> {
        let narrow = |t: &Tensor| t.i(i..i + 1);
        Ok(Self {
            memory: narrow(&self.memory)?,
            logits: narrow(&self.logits)?,
            found: Decoded {
                hs: narrow(&self.found.hs)?,
                boxes: narrow(&self.found.boxes)?,
                presence_logit: narrow(&self.found.presence_logit)?,
            },
            pixels: narrow(&self.pixels)?,
        })
    }
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
    /// Positions of the tokens, the same for every image.
    pos: OnceLock<Tensor>,
}

impl Detector {
    /// Reads everything below `detector` that inference needs. `layers` is the precision of the encoders, of
    /// the decoder's layers and of the pixel decoder; what makes boxes, presence, scores and masks of them has
    /// the current one.
    pub fn new(cfg: &Config, layers: Precision, vb: VarBuilder) -> Result<Self> {
        let d = cfg.d_model();
        let (vision, text) = (
            vb.pp("backbone.vision_backbone"),
            vb.pp("backbone.language_backbone"),
        );
        let transformer = vb.pp("transformer");
        let (dim, grid) = (cfg.image_encoder.dim(), cfg.image_encoder.grid());
        let scoring = vb.pp("dot_prod_scoring");
        let head = vb.pp("segmentation_head");
        Ok(Self {
            image_encoder: layers
                .scope(|| ImageEncoder::new(&cfg.image_encoder, vision.pp("trunk")))?,
            neck: layers.scope(|| Neck::new(dim, d, grid, vision.pp("convs")))?,
            text_encoder: layers.scope(|| TextEncoder::new(&cfg.text_encoder, text))?,
            geometry_encoder: GeometryEncoder::new(
                &cfg.geometry,
                cfg.roi_size,
                vb.pp("geometry_encoder"),
            )?,
            encoder: layers.scope(|| Encoder::new(&cfg.encoder, transformer.pp("encoder")))?,
            decoder: Decoder::new(
                &cfg.decoder,
                cfg.num_queries,
                grid,
                layers,
                transformer.pp("decoder"),
            )?,
            dot_prod_scoring: DotProductScoring::new(d, cfg.scoring_dim, cfg.max_logit, scoring)?,
            segmentation_head: SegmentationHead::new(d, cfg.encoder.num_heads, layers, head)?,
            pos: OnceLock::new(),
        })
    }

    /// Normalised pixels (b, 3, s, s) -> the features of each image, and the trunk's features
    /// (b, c, h, w) before a student resizes them
    ///
    /// # Errors
    /// [`crate::Error::Cancelled`], or if a tensor operation fails.
    pub fn encode_images(
        &self,
        pixels: &Tensor,
        run: &mut Run,
    ) -> crate::Result<(Vec<ImageFeatures>, Tensor)> {
        run.record("pixel_values", pixels);
        let trunk = run.stage("trunk", || self.features(pixels))?;
        if run.trace.is_some() {
            // As the official code has it.
            run.record("trunk", &resize_bilinear(&trunk, self.neck.grid())?);
        }
        let fpn = run.stage("neck", || self.neck(&trunk))?;
        for (level, map) in fpn.iter().enumerate() {
            run.record(&format!("neck.{level}"), map);
        }
        let features = run.stage("prepare", || {
            let of_image = |i: usize| {
                let [fine, middle, coarse] = &fpn;
                let map = |map: &Tensor| map.i(i..i + 1)?.contiguous();
                self.prepare([map(fine)?, map(middle)?, map(coarse)?])
            };
            (0..pixels.dim(0)?).map(of_image).collect::<Result<_>>()
        })?;
        Ok((features, trunk))
    }

    /// Token ids (1, s), u32, padded with 0 to the context length.
    pub fn encode_text(&self, ids: &Tensor) -> Result<TextFeatures> {
        Ok(TextFeatures {
            tokens: self.text_encoder.forward(ids)?,
            is_padding: ids.eq(0u32)?,
        })
    }

    /// Finds the objects that each prompt, a text with its exemplar boxes, means in the image.
    ///
    /// # Errors
    /// [`crate::Error::Cancelled`], or if a tensor operation fails.
    pub fn ground(
        &self,
        image: &ImageFeatures,
        prompts: &[(&TextFeatures, &[ExemplarBox])],
        run: &mut Run,
    ) -> crate::Result<Grounding> {
        let encoded = run.stage("geometry", || {
            let encode =
                |(text, boxes): &(_, &[ExemplarBox])| Ok((*text, self.encode_boxes(image, boxes)?));
            prompts.iter().map(encode).collect::<Result<Vec<_>>>()
        })?;
        self.ground_encoded(image, &encoded, run)
    }

    /// As [`Self::ground`], with exemplars as tokens (1, n, d), see [`Self::encode_boxes`]; of this
    /// image or another one.
    ///
    /// # Errors
    /// [`crate::Error::Cancelled`], or if a tensor operation fails.
    pub fn ground_encoded(
        &self,
        image: &ImageFeatures,
        prompts: &[(&TextFeatures, Tensor)],
        run: &mut Run,
    ) -> crate::Result<Grounding> {
        let assemble = |(text, exemplars): &(&TextFeatures, Tensor)| self.assemble(text, exemplars);
        let assembled: Result<Vec<_>> = prompts.iter().map(assemble).collect();
        let prompt = PromptTokens::batch(&assembled?)?;
        if let [(text, _)] = prompts {
            run.record("text_features", &text.tokens);
            let (start, len) = (text.tokens.dim(1)?, prompt.tokens.dim(1)?);
            run.record("geometry", &prompt.tokens.narrow(1, start, len - start)?);
        }
        run.record("prompt", &prompt.tokens);
        run.record("prompt_mask", &prompt.is_padding);
        let memory = run.stage("fusion", || self.fuse(image, &prompt))?;
        run.record("encoder", &memory);
        let found = run.stage("decoder", || self.decode(image, &memory, &prompt))?;
        run.record("hs", &found.hs);
        run.record("pred_boxes", &found.boxes);
        run.record("presence_logit", &found.presence_logit);
        let logits = run.stage("scoring", || self.score(&found.hs, &prompt))?;
        run.record("pred_logits", &logits);
        let pixels = run.stage("pixels", || self.embed_pixels(image, &memory, &prompt))?;
        run.record("pixel_embed", &pixels);
        Ok(Grounding {
            memory,
            logits,
            found,
            pixels,
        })
    }
}

/// A map (1, d, h, w) as (1, h * w, d)
fn as_tokens(map: &Tensor) -> Result<Tensor> {
    map.flatten_from(2)?.transpose(1, 2)?.contiguous()
}

/// The stages one by one, in the order in which they run.
impl Detector {
    /// Normalised pixels (b, 3, s, s) -> features (b, c, g, g)
    pub fn trunk(&self, pixels: &Tensor) -> Result<Tensor> {
        self.image_encoder.forward(pixels)
    }

    /// Like [`Self::trunk`] before a student resizes its features: -> (b, c, h, w)
    pub fn features(&self, pixels: &Tensor) -> Result<Tensor> {
        self.image_encoder.features(pixels)
    }

    /// Features of the trunk (b, c, h, w), resized or not, -> pyramid from fine to coarse, see
    /// [`ImageFeatures::fpn`]
    pub fn neck(&self, trunk: &Tensor) -> Result<[Tensor; 3]> {
        self.neck.forward(trunk)
    }

    /// Features that every prompt on this pyramid shares.
    pub fn prepare(&self, fpn: [Tensor; 3]) -> Result<ImageFeatures> {
        let (_, _, h, w) = fpn[2].dims4()?;
        let tokens = as_tokens(&fpn[2])?;
        let pos = self.positions(&fpn[2])?;
        Ok(ImageFeatures {
            attended: self.encoder.attend_image(&tokens, &pos)?,
            no_boxes: self.geometry_encoder.forward(&[], &tokens, (h, w), &pos)?,
            fpn,
            tokens,
            pos,
        })
    }

    /// Positions (1, h * w, d) of the tokens of a map (1, d, h, w) of the neck; made when the first
    /// one comes.
    fn positions(&self, map: &Tensor) -> Result<Tensor> {
        let make = || {
            let (_, d, h, w) = map.dims4()?;
            as_tokens(&posenc::sine_2d(h, w, d, map.device())?.to_dtype(map.dtype())?)
        };
        get_or_try_init(&self.pos, make).cloned()
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

    /// Image tokens that know the prompt: -> memory (b, g * g, d)
    pub fn fuse(&self, image: &ImageFeatures, prompt: &PromptTokens) -> Result<Tensor> {
        let (b, _, _) = prompt.tokens.dims3()?;
        let attended = match b {
            1 => image.attended.clone(),
            _ => image.attended.repeat((b, 1, 1))?,
        };
        self.encoder
            .forward(&attended, &image.pos, &prompt.tokens, &prompt.bias)
    }

    /// Objects in the `memory` (b, g * g, d).
    pub fn decode(
        &self,
        image: &ImageFeatures,
        memory: &Tensor,
        prompt: &PromptTokens,
    ) -> Result<Decoded> {
        self.decoder
            .forward(memory, &image.pos, &prompt.tokens, &prompt.bias)
    }

    /// Queries `hs` (b, q, d) -> logits (b, q), f32
    pub fn score(&self, hs: &Tensor, prompt: &PromptTokens) -> Result<Tensor> {
        self.dot_prod_scoring
            .forward(hs, &prompt.tokens, &prompt.is_padding)
    }

    /// `memory` (b, g * g, d) and the pyramid -> pixel embedding (b, d, 4g, 4g)
    pub fn embed_pixels(
        &self,
        image: &ImageFeatures,
        memory: &Tensor,
        prompt: &PromptTokens,
    ) -> Result<Tensor> {
        self.segmentation_head
            .embed_pixels(memory, &image.fpn, &prompt.tokens, &prompt.bias)
    }

    /// `pixels` (b, d, h, w) and queries `hs` (b, k, d) -> mask logits (b, k, h, w)
    pub fn masks(&self, pixels: &Tensor, hs: &Tensor) -> Result<Tensor> {
        self.segmentation_head.masks(pixels, hs)
    }

    /// `pixels` (1, d, h, w) -> logits (1, 1, h, w) of "this pixel belongs to the concept"
    pub fn semantic(&self, pixels: &Tensor) -> Result<Tensor> {
        self.segmentation_head.semantic(pixels)
    }
}
