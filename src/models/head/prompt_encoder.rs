//! Points, boxes and masks become tokens.
//!
//! Follows `PromptEncoder`,
//! <https://github.com/facebookresearch/segment-anything/blob/dca509f/segment_anything/modeling/prompt_encoder.py#L16>
//! and <https://github.com/facebookresearch/sam3/blob/99d02f2/sam3/sam/prompt_encoder.py#L15>.
//!
//! # Easy to get wrong
//! - The matrix of frequencies is random and part of the checkpoint.
//! - Half a pixel is added to points, after they were scaled to the model's input.
//! - Padding points carry no position; `not_a_point_embed` replaces the Fourier features.
//! - A mask prompt holds logits, not probabilities or a mask.

use candle::{DType, Device, Module, Result, Tensor};
use candle_nn::VarBuilder;

use super::Config;
use crate::device::upload;
use crate::nn::conv::{Conv2d, ConvConfig, conv2d};
use crate::nn::{LayerNorm, gelu, layer_norm};

/// Epsilon of the norms between the mask's convolutions.
const EPS: f64 = 1e-6;
/// Channels of a mask prompt, and after each halving of its side.
const MASK_CHANNELS: [usize; 3] = [1, 4, 16];

/// Role of a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Label {
    /// A padding point.
    Padding,
    /// Not on the object.
    Negative,
    /// On the object.
    Positive,
    /// The corner of a box with the smaller coordinates.
    TopLeft,
    /// The corner of a box with the larger coordinates.
    BottomRight,
}

/// Encodes points by sines of random frequencies, and masks by convolutions.
#[derive(Debug, Clone)]
pub struct PromptEncoder {
    frequencies: Tensor, // (2, d / 2), f32
    labels: Tensor,      // (5, d), f32, rows in the order of `Label`
    no_mask: Tensor,     // (1, 1, d)
    dense_pe: Tensor,    // (1, g * g, d)
    mask_downscaling: MaskDownscaling,
    cfg: Config,
}

impl PromptEncoder {
    /// Reads `pe_layer`, `point_embeddings.*`, `not_a_point_embed`, `no_mask_embed` and
    /// `mask_downscaling.*`.
    pub fn new(cfg: &Config, vb: VarBuilder) -> Result<Self> {
        let (d, dtype) = (cfg.dim, vb.dtype());
        let in_f32 = |shape: (usize, usize), vb: VarBuilder, name: &str| {
            vb.get_with_hints_dtype(shape, name, Default::default(), DType::F32)
        };
        let frequencies = frequencies(d, vb.pp("pe_layer"))?;
        let mut labels = vec![in_f32((1, d), vb.pp("not_a_point_embed"), "weight")?];
        for i in 0..4 {
            labels.push(in_f32((1, d), vb.pp("point_embeddings").pp(i), "weight")?);
        }
        let dense_pe = grid_positions(cfg.grid, &frequencies, dtype)?;
        let halve = (2, ConvConfig::default().with_stride(2));
        let downscaling = vb.pp("mask_downscaling");
        Ok(Self {
            frequencies,
            labels: Tensor::cat(&labels, 0)?,
            no_mask: vb.pp("no_mask_embed").get((1, d), "weight")?.unsqueeze(0)?,
            dense_pe,
            mask_downscaling: MaskDownscaling::new(&MASK_CHANNELS, d, halve, downscaling)?,
            cfg: cfg.clone(),
        })
    }

    /// Positions of the image tokens (1, g * g, d), by rows.
    pub fn dense_pe(&self) -> &Tensor {
        &self.dense_pe
    }

    /// Points of `b` prompts, as many for each, in pixels of the model's input -> (b, n, d)
    pub fn embed_points(&self, prompts: &[&[([f32; 2], Label)]]) -> Result<Tensor> {
        let (b, n) = (prompts.len(), prompts.first().map_or(0, |p| p.len()));
        let (d, dtype, device) = (self.cfg.dim, self.no_mask.dtype(), self.no_mask.device());
        if n == 0 {
            return Tensor::zeros((b, 0, d), dtype, device);
        }
        let size = self.cfg.image_size as f32;
        let row = |([x, y], label): &([f32; 2], Label)| {
            let share = |v: &f32| (v + 0.5) / size;
            [share(x), share(y), f32::from(*label as u8)]
        };
        let rows: Vec<f32> = prompts
            .iter()
            .flat_map(|points| points.iter().flat_map(row))
            .collect();
        let rows = upload(rows, (b * n, 3), device)?;
        let sines = fourier(&rows.narrow(1, 0, 2)?, &self.frequencies)?;
        let labels = rows.narrow(1, 2, 1)?;
        let placed = labels
            .ne(f64::from(Label::Padding as u8))?
            .to_dtype(DType::F32)?;
        let labels = labels.squeeze(1)?.to_dtype(DType::U32)?;
        let labels = self.labels.index_select(&labels, 0)?;
        (sines.broadcast_mul(&placed)? + labels)?
            .reshape((b, n, d))?
            .to_dtype(dtype)
    }

    /// Low-resolution logits (b, 4g, 4g) -> embedding added to the image tokens (b, g * g, d)
    pub fn embed_masks(&self, masks: &Tensor) -> Result<Tensor> {
        let masks = masks.to_dtype(self.no_mask.dtype())?.unsqueeze(3)?;
        self.mask_downscaling.forward(&masks)?.flatten(1, 2)
    }

    /// Embedding added to the image tokens when there is no mask prompt (1, 1, d).
    pub fn no_mask(&self) -> &Tensor {
        &self.no_mask
    }
}

/// Coordinates (n, 2) in 0..1 -> sines, then cosines (n, d)
fn fourier(coords: &Tensor, frequencies: &Tensor) -> Result<Tensor> {
    let coords = coords.affine(2., -1.)?;
    let along = |axis| {
        let (coords, frequencies) = (coords.narrow(1, axis, 1)?, frequencies.narrow(0, axis, 1)?);
        coords.broadcast_mul(&frequencies)
    };
    let angles = ((along(0)? + along(1)?)? * std::f64::consts::TAU)?;
    Tensor::cat(&[angles.sin()?, angles.cos()?], 1)
}

/// The random frequencies of a layer that encodes positions in `d` channels (2, d / 2), f32.
pub(in crate::models) fn frequencies(d: usize, vb: VarBuilder) -> Result<Tensor> {
    let name = "positional_encoding_gaussian_matrix";
    vb.get_with_hints_dtype((2, d / 2), name, Default::default(), DType::F32)
}

/// Positions of the image tokens (1, grid², d), by rows.
pub(in crate::models) fn grid_positions(
    grid: usize,
    frequencies: &Tensor,
    dtype: DType,
) -> Result<Tensor> {
    let positions = fourier(&cell_centres(grid, frequencies.device())?, frequencies)?;
    positions.unsqueeze(0)?.to_dtype(dtype)
}

/// x and y of the centres of a grid's cells, by rows: (grid², 2) in 0..1
fn cell_centres(grid: usize, device: &Device) -> Result<Tensor> {
    let centre = |i: usize| (i as f32 + 0.5) / grid as f32;
    let coords: Vec<f32> = (0..grid * grid)
        .flat_map(|i| [centre(i % grid), centre(i / grid)])
        .collect();
    upload(coords, (grid * grid, 2), device)
}

/// Convolutions that each halve a mask's side, and one to the width of the features.
#[derive(Debug, Clone)]
pub(in crate::models) struct MaskDownscaling {
    stages: Vec<(Conv2d, LayerNorm)>,
    project: Conv2d,
}

impl MaskDownscaling {
    /// `channels` of the mask and after each of the convolutions `halve` of this `kernel`, `d` in the
    /// end.
    pub fn new(
        channels: &[usize],
        d: usize,
        (kernel, halve): (usize, ConvConfig),
        vb: VarBuilder,
    ) -> Result<Self> {
        let stages = channels.windows(2).enumerate().map(|(i, channels)| {
            // convolution, norm and GELU are numbered together
            let conv = conv2d(channels[0], channels[1], kernel, halve, vb.pp(3 * i))?;
            Ok((conv, layer_norm(channels[1], EPS, vb.pp(3 * i + 1))?))
        });
        let (pointwise, last) = (ConvConfig::default(), channels.len() - 1);
        Ok(Self {
            stages: stages.collect::<Result<_>>()?,
            project: conv2d(channels[last], d, 1, pointwise, vb.pp(3 * last))?,
        })
    }
}

impl Module for MaskDownscaling {
    /// (b, s, s, c) -> (b, g, g, d)
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let mut xs = xs.clone();
        for (conv, norm) in &self.stages {
            xs = gelu(&conv.forward_channels_last(&xs)?.apply(norm)?)?;
        }
        self.project.forward_channels_last(&xs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::golden::{Golden, assert_close};

    const ALL: [Label; 5] = [
        Label::Padding,
        Label::Negative,
        Label::Positive,
        Label::TopLeft,
        Label::BottomRight,
    ];

    #[test]
    fn points_masks_and_positions_equal_the_official_ones() -> Result<()> {
        let golden = Golden::open("sam_prompt_encoder");
        let encoder = PromptEncoder::new(&Config::of(&golden), golden.weights())?;
        assert_close(encoder.dense_pe(), &golden.tensor("out.dense_pe"), 2e-6);
        for case in ["points", "points_and_box", "box"] {
            let coords: Vec<Vec<Vec<f32>>> =
                golden.tensor(&format!("in.{case}.coords")).to_vec3()?;
            let labels: Vec<Vec<i64>> = golden.tensor(&format!("in.{case}.labels")).to_vec2()?;
            let prompts: Vec<Vec<_>> = coords
                .iter()
                .zip(&labels)
                .map(|(coords, labels)| {
                    let points = coords.iter().zip(labels);
                    let point = |(xy, label): (&Vec<f32>, &i64)| {
                        ([xy[0], xy[1]], ALL[(label + 1) as usize])
                    };
                    points.map(point).collect()
                })
                .collect();
            let prompts: Vec<&[_]> = prompts.iter().map(Vec::as_slice).collect();
            let got = encoder.embed_points(&prompts)?;
            assert_close(&got, &golden.tensor(&format!("out.{case}.sparse")), 2e-6);
        }
        let got = encoder.embed_masks(&golden.tensor("in.mask"))?;
        assert_close(&got, &golden.tensor("out.mask.dense"), 2e-6);
        let none = golden
            .tensor("out.points.dense")
            .narrow(1, 0, 1)?
            .narrow(0, 0, 1)?;
        assert_close(encoder.no_mask(), &none, 0.);
        Ok(())
    }
}
