//! Prompt tokens and an image become masks and their quality.
//!
//! Follows `MaskDecoder`,
//! <https://github.com/facebookresearch/segment-anything/blob/dca509f/segment_anything/modeling/mask_decoder.py#L16>
//! and <https://github.com/facebookresearch/sam3/blob/99d02f2/sam3/sam/mask_decoder.py#L15>; for
//! SAM 3.1, whose pass answers many objects without a prompt, `MultiplexMaskDecoder`,
//! <https://github.com/facebookresearch/sam3/blob/96914d2/sam3/model/multiplex_mask_decoder.py>.
//!
//! The upscaling never sees two pixels at a time, so it runs on tokens: each becomes four, twice,
//! and only the finished logits are put where they belong.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use candle::{DType, Result, Tensor};
use candle_nn::{VarBuilder, ops::sigmoid};

use super::Config;
use super::two_way::{PreparedImage, TwoWayTransformer};
use crate::models::{bytes_of, get_or_try_init};
use crate::nn::conv::{Conv2d, ConvConfig, conv2d};
use crate::nn::conv_transpose::conv_transpose2x2_tokens;
use crate::nn::draw::Upscale;
use crate::nn::{LayerNorm, Linear, Mlp, gelu, layer_norm};

/// Masks per prompt: one for a clear prompt, three for an ambiguous one.
pub const NUM_MASKS: usize = 4;
/// Epsilon of the norm between the two upscalings.
const EPS: f64 = 1e-6;

/// Features of an image that every prompt attends to.
#[derive(Debug, Clone)]
pub struct ImageTokens {
    /// (1, g * g, d), by rows
    pub tokens: Tensor,
    /// Finer maps for the upscaling of SAM 3: for each token its 4 pixels at double size
    /// (1, g * g, 4, d / 4), and its 16 at four times the size (1, g * g, 4 * 4, d / 8).
    pub high_res_features: Option<[Tensor; 2]>,
    /// For prompts without a mask; made when the first one comes, shared by clones.
    prepared: Arc<OnceLock<PreparedImage>>,
}

impl ImageTokens {
    /// Tokens (1, g * g, d), and for SAM 3 the finer maps as
    /// [`ImageTokens::high_res_features`] has them.
    pub fn new(tokens: Tensor, high_res_features: Option<[Tensor; 2]>) -> Self {
        Self {
            tokens,
            high_res_features,
            prepared: Arc::default(),
        }
    }

    /// The image as prompts without a mask see it, from `prepare` when it is first asked for.
    pub(super) fn prepared(
        &self,
        prepare: impl FnOnce(&Tensor) -> Result<PreparedImage>,
    ) -> Result<&PreparedImage> {
        get_or_try_init(&self.prepared, || prepare(&self.tokens))
    }

    /// Memory that the features keep, in bytes.
    pub fn bytes(&self) -> usize {
        let tensors = self.high_res_features.iter().flatten();
        let tensors = tensors.chain([&self.tokens]);
        let prepared = self.prepared.get().map_or(0, PreparedImage::bytes);
        bytes_of(tensors) + prepared
    }
}

/// Decoder outputs for `b` prompts, or `b` slots of several passes, before mask upscaling.
#[derive(Debug, Clone)]
pub struct Decoded {
    /// Output tokens of all masks (b, masks, d): what object pointers are made of.
    pub mask_tokens: Tensor,
    /// Image tokens after the transformer (passes, g * g, d): one pass for each prompt.
    pub image: Tensor,
    /// Predicted IoU of all masks (b, masks), f32.
    pub iou: Tensor,
    /// Logit of "there is an object" (b), f32; not in SAM 1.
    pub object_score: Option<Tensor>,
}

impl Decoded {
    /// The outputs for `len` prompts from `start` on; nothing is copied.
    ///
    /// # Errors
    /// If there are fewer prompts.
    pub fn narrow(&self, start: usize, len: usize) -> Result<Self> {
        let narrow = |xs: &Tensor| xs.narrow(0, start, len);
        Ok(Self {
            mask_tokens: narrow(&self.mask_tokens)?,
            image: narrow(&self.image)?,
            iou: narrow(&self.iou)?,
            object_score: self.object_score.as_ref().map(narrow).transpose()?,
        })
    }
}

/// The mask decoder of SAM 1, of SAM 3's click head, and of SAM 3.1's tracker.
#[derive(Debug, Clone)]
pub struct MaskDecoder {
    transformer: TwoWayTransformer,
    output_tokens: Tensor, // ([object scores,] IoUs, masks slot by slot; d)
    upscale1: Linear,      // to the four pixels of each token
    norm: LayerNorm,
    upscale2: Linear,
    hypernetworks: Vec<Mlp>,
    iou_head: Mlp,
    /// `conv_s0` and `conv_s1`
    high_res: Option<[Conv2d; 2]>,
    object_score_head: Option<Mlp>,
    iou_sigmoid: bool,
    grid: usize,
    slots: usize,
}

impl MaskDecoder {
    /// Reads `transformer`, `iou_token`, `mask_tokens`, `output_upscaling`,
    /// `output_hypernetworks_mlps`, `iou_prediction_head`, and of SAM 3 `obj_score_token`,
    /// `pred_obj_score_head`, `conv_s0` and `conv_s1`.
    pub fn new(cfg: &Config, vb: VarBuilder) -> Result<Self> {
        let (d, hidden) = (cfg.dim, cfg.iou_hidden_dim);
        let tokens = |name: &str, n| vb.pp(name).get((n, d), "weight");
        let mut output_tokens = vec![
            tokens("iou_token", cfg.slots)?,
            tokens("mask_tokens", cfg.slots * cfg.masks)?,
        ];
        if cfg.object_score {
            output_tokens.insert(0, tokens("obj_score_token", cfg.slots)?);
        }
        let pointwise = |channels: usize, name: &str| {
            conv2d(d, channels, 1, ConvConfig::default(), vb.pp(name))
        };
        let high_res = match cfg.high_res_features {
            true => Some([pointwise(d / 8, "conv_s0")?, pointwise(d / 4, "conv_s1")?]),
            false => None,
        };
        let object_score_head = || Mlp::new(&[d, d, d, 1], vb.pp("pred_obj_score_head"));
        let upscaling = vb.pp("output_upscaling");
        let hypernetworks = (0..cfg.masks).map(|i| {
            let vb = vb.pp("output_hypernetworks_mlps").pp(i);
            Mlp::new(&[d, d, d, d / 8], vb)
        });
        Ok(Self {
            transformer: TwoWayTransformer::new(cfg, vb.pp("transformer"))?,
            output_tokens: Tensor::cat(&output_tokens, 0)?,
            upscale1: conv_transpose2x2_tokens(d, d / 4, upscaling.pp(0))?,
            norm: layer_norm(d / 4, EPS, upscaling.pp(1))?,
            upscale2: conv_transpose2x2_tokens(d / 4, d / 8, upscaling.pp(3))?,
            hypernetworks: hypernetworks.collect::<Result<_>>()?,
            iou_head: Mlp::new(
                &[d, hidden, hidden, cfg.masks],
                vb.pp("iou_prediction_head"),
            )?,
            high_res,
            object_score_head: cfg.object_score.then(object_score_head).transpose()?,
            iou_sigmoid: cfg.iou_sigmoid,
            grid: cfg.grid,
            slots: cfg.slots,
        })
    }

    /// The maps of SAM 3's neck (1, d, 4g, 4g), (1, d, 2g, 2g) and (1, d, g, g) as prompts look at
    /// them; the finer ones are left out for a decoder that takes none.
    ///
    /// # Errors
    /// For maps of another shape.
    pub fn image_tokens(&self, [fine, middle, coarse]: &[Tensor; 3]) -> Result<ImageTokens> {
        let high_res_features = match &self.high_res {
            Some([conv_s0, conv_s1]) => {
                Some(self.by_tokens(&fine.apply(conv_s0)?, &middle.apply(conv_s1)?)?)
            }
            None => None,
        };
        let tokens = coarse.flatten_from(2)?.transpose(1, 2)?.contiguous()?;
        Ok(ImageTokens::new(tokens, high_res_features))
    }

    /// Maps (1, d / 8, 4g, 4g) and (1, d / 4, 2g, 2g) as [`ImageTokens::high_res_features`].
    pub(crate) fn by_tokens(&self, fine: &Tensor, middle: &Tensor) -> Result<[Tensor; 2]> {
        let g = self.grid;
        let s1 = middle
            .reshape(vec![1, middle.dim(1)?, g, 2, g, 2])?
            .permute(vec![0, 2, 4, 3, 5, 1])?
            .reshape((1, g * g, 4, middle.dim(1)?))?;
        let s0 = fine
            .reshape(vec![1, fine.dim(1)?, g, 2, 2, g, 2, 2])?
            .permute(vec![0, 2, 5, 3, 6, 4, 7, 1])?
            .reshape((1, g * g, 16, fine.dim(1)?))?;
        Ok([s1, s0])
    }

    /// `image` tokens with the embedded mask (1 or b, g * g, d), `image_pe` (1, g * g, d),
    /// `prompts` (b, n, d) -> everything but the masks, which [`MaskDecoder::draw`] computes from it
    ///
    /// # Errors
    /// For tensors of another shape.
    pub fn attend(&self, image: &Tensor, image_pe: &Tensor, prompts: &Tensor) -> Result<Decoded> {
        self.attend_prepared(&self.prepare(image, image_pe)?, image_pe, prompts)
    }

    /// `image` tokens with the embedded mask (1 or b, g * g, d) for [`MaskDecoder::attend_prepared`],
    /// good for any number of prompts.
    ///
    /// # Errors
    /// For tensors of another shape.
    pub fn prepare(&self, image: &Tensor, image_pe: &Tensor) -> Result<PreparedImage> {
        self.transformer.prepare(image, image_pe)
    }

    /// See [`MaskDecoder::attend`].
    ///
    /// # Errors
    /// For tensors of another shape.
    pub fn attend_prepared(
        &self,
        image: &PreparedImage,
        image_pe: &Tensor,
        prompts: &Tensor,
    ) -> Result<Decoded> {
        let (b, _, d) = prompts.dims3()?;
        let (first, _) = self.output_tokens.dims2()?;
        let output_tokens = self.output_tokens.unsqueeze(0)?.expand((b, first, d))?;
        self.decode(
            image,
            image_pe,
            &Tensor::cat(&[&output_tokens, prompts], 1)?,
        )
    }

    /// What is in each slot of `b` passes without a prompt: `image` tokens (b, g * g, d), `image_pe`
    /// (1, g * g, d), `occupied` (b, slots, d) what each slot's masks are told -> outputs for
    /// b * slots
    ///
    /// # Errors
    /// For tensors of another shape.
    pub fn attend_slots(
        &self,
        image: &Tensor,
        image_pe: &Tensor,
        occupied: &Tensor,
    ) -> Result<Decoded> {
        let (b, slots, d) = occupied.dims3()?;
        let (all, masks) = (self.output_tokens.dim(0)?, self.hypernetworks.len());
        let first = all - slots * masks;
        let to_masks = self.output_tokens.narrow(0, first, slots * masks)?;
        let to_masks = to_masks.reshape((1, slots, masks, d))?;
        let to_masks =
            to_masks
                .broadcast_add(&occupied.unsqueeze(2)?)?
                .reshape((b, slots * masks, d))?;
        let others = self.output_tokens.narrow(0, 0, first)?;
        let others = others.unsqueeze(0)?.expand((b, first, d))?;
        let tokens = Tensor::cat(&[&others, &to_masks], 1)?;
        self.decode(&self.prepare(image, image_pe)?, image_pe, &tokens)
    }

    /// `tokens` (b, n, d), the output tokens first
    fn decode(&self, image: &PreparedImage, image_pe: &Tensor, tokens: &Tensor) -> Result<Decoded> {
        let outputs = self.output_tokens.dim(0)?;
        let (hs, image) = self.transformer.forward(image, image_pe, tokens, outputs)?;
        let ((b, _, d), slots, masks) = (hs.dims3()?, self.slots, self.hypernetworks.len());
        // one row for each slot
        let of_slots = |first: usize| hs.narrow(1, first, slots)?.reshape((b * slots, d));
        let (first_iou, object_score) = match &self.object_score_head {
            None => (0, None),
            Some(head) => {
                let score = of_slots(0)?.apply(head)?.squeeze(1)?;
                (slots, Some(score.to_dtype(DType::F32)?))
            }
        };
        let iou = of_slots(first_iou)?.apply(&self.iou_head)?;
        let iou = iou.to_dtype(DType::F32)?;
        let iou = if self.iou_sigmoid {
            sigmoid(&iou)?
        } else {
            iou
        };
        let mask_tokens = hs.narrow(1, first_iou + slots, slots * masks)?;
        Ok(Decoded {
            mask_tokens: mask_tokens.reshape((b * slots, masks, d))?,
            image,
            iou,
            object_score,
        })
    }

    /// The logits of some `masks` of each: (b, masks, 4g, 4g), f32
    pub fn draw(
        &self,
        decoded: &Decoded,
        high_res: Option<&[Tensor; 2]>,
        masks: Range<usize>,
    ) -> Result<Tensor> {
        let weights = masks
            .map(|i| {
                let token = decoded.mask_tokens.narrow(1, i, 1)?.squeeze(1)?;
                token.contiguous()?.apply(&self.hypernetworks[i])
            })
            .collect::<Result<Vec<_>>>()?;
        let weights = Tensor::stack(&weights, 1)?; // (b, masks, d / 8)
        let (b, masks, channels) = weights.dims3()?;
        let passes = decoded.image.dim(0)?;
        let weights = weights.reshape((passes, (), channels))?;
        let upscale = Upscale {
            first: &self.upscale1,
            norm: &self.norm,
            second: &self.upscale2,
            details: high_res,
        };
        let logits = match upscale.draw(&decoded.image, &weights, self.grid)? {
            Some(logits) => logits,
            None => {
                let logits = weights.matmul(&self.upscale(&decoded.image, high_res)?.t()?)?;
                self.place(&logits)?.to_dtype(DType::F32)?
            }
        };
        logits.reshape((b, masks, 4 * self.grid, 4 * self.grid))
    }

    /// (b, g * g, d) -> the 4 x 4 pixels of each token (b, g * g * 16, d / 8)
    fn upscale(&self, image: &Tensor, high_res: Option<&[Tensor; 2]>) -> Result<Tensor> {
        let (b, m, _) = image.dims3()?;
        let xs = image.apply(&self.upscale1)?.reshape((b, m, 4, ()))?; // (b, m, 4, d / 4)
        let xs = match high_res {
            Some([s1, _]) => xs.broadcast_add(s1)?,
            None => xs,
        };
        let xs = gelu(&xs.apply(&self.norm)?)?;
        let xs = xs.flatten(1, 2)?.apply(&self.upscale2)?; // (b, m * 4, 4 * d / 8)
        let xs = xs.reshape((b, m, 16, ()))?;
        let xs = match high_res {
            Some([_, s0]) => xs.broadcast_add(s0)?,
            None => xs,
        };
        gelu(&xs)?.flatten(1, 2)
    }

    /// Logits in the order of tokens (b, masks, g * g * 16) -> maps (b, masks, 4g, 4g)
    fn place(&self, logits: &Tensor) -> Result<Tensor> {
        let ((b, masks, _), g) = (logits.dims3()?, self.grid);
        logits
            .reshape(vec![b * masks, g, g, 2, 2, 2, 2])? // y, x, y and x of 2, y and x of 2
            .permute(vec![0, 1, 3, 5, 2, 4, 6])?
            .reshape((b, masks, 4 * g, 4 * g))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::golden::{Golden, assert_close};

    #[test]
    fn equals_the_official_decoder_of_sam1() -> Result<()> {
        check("sam_mask_decoder")
    }

    #[test]
    fn equals_the_official_decoder_of_sam3() -> Result<()> {
        check("sam_mask_decoder_sam3")
    }

    fn check(name: &str) -> Result<()> {
        let golden = Golden::open(name);
        let decoder = MaskDecoder::new(&Config::of(&golden), golden.weights())?;
        let details = match golden.contains("in.fine") {
            true => {
                let [fine, middle] = ["in.fine", "in.middle"].map(|name| golden.tensor(name));
                let coarse = middle.clone(); // which nothing looks at
                let image = decoder.image_tokens(&[fine, middle, coarse])?;
                image.high_res_features
            }
            false => None,
        };
        let (pe, prompts) = (golden.tensor("in.image_pe"), golden.tensor("in.prompts"));
        for (case, masks) in [
            ("shared", 0..NUM_MASKS),
            ("own", 0..NUM_MASKS),
            ("own", 1..3),
        ] {
            let image = golden.tensor(&format!("in.{case}.image"));
            let got = decoder.attend(&image, &pe, &prompts)?;
            let drawn = decoder.draw(&got, details.as_ref(), masks.clone())?;
            let want = |part: &str| -> Result<Tensor> {
                let all = golden.tensor(&format!("out.{case}.{part}"));
                all.narrow(1, masks.start, masks.len())
            };
            assert_close(&drawn, &want("masks")?, 5e-6);
            let iou = got.iou.narrow(1, masks.start, masks.len())?;
            assert_close(&iou, &want("iou")?, 5e-6);
            let last = prompts.dim(0)? - 1;
            let alone = got.narrow(last, 1)?;
            let alone = decoder.draw(&alone, details.as_ref(), masks.clone())?;
            assert_close(&alone, &want("masks")?.narrow(0, last, 1)?, 5e-6);
            if let Some(score) = got.object_score {
                let want = golden.tensor(&format!("out.{case}.object_score"));
                assert_close(&score, &want.squeeze(1)?, 5e-6);
            }
        }
        Ok(())
    }
}
