//! Windows of an image as the panels that a product reads.

use std::ops::Range;

use super::PackedKernel;
use crate::nn::kernels::layout::Layout;
use crate::nn::kernels::pack::stack;
use crate::nn::kernels::tile::{MAX_COLS, Tile};
use crate::nn::kernels::view::{Block, Rows};
use crate::nn::kernels::window::Window;

/// An image under a moving window.
pub(super) struct Image<'a> {
    pub(super) xs: &'a [f32], // (channels, h, w)
    pub(super) h: usize,
    pub(super) w: usize,
    pub(super) side: usize,
    pub(super) window: Window,
    pub(super) out_width: usize,
}

/// Pixels of a panel that lie in one row of the output.
#[derive(Clone, Copy, Default)]
struct Run {
    column: usize,
    len: usize,
    y: usize,
    x: usize,
}

impl<'a> Image<'a> {
    /// An image of which each pixel is a window: `xs` (channels, pixels)
    pub(super) fn flat(xs: &'a [f32], pixels: usize) -> Self {
        Self {
            xs,
            h: 1,
            w: pixels,
            side: 1,
            window: Window::UNIT,
            out_width: pixels,
        }
    }

    /// Some elements of the windows of some output pixels -> a panel [elements][cols]
    ///
    /// `values` is room for the panel's values where it does not hold them as they are.
    pub(super) fn pack_elements(
        &self,
        pixels: Range<usize>,
        elements: Range<usize>,
        kernel: &PackedKernel,
        values: &mut [f32],
        panel: &mut [f32],
    ) {
        let Tile { cols, right, .. } = kernel.tile;
        match right {
            Layout::Singles => self.pack(pixels, elements.start, panel, &kernel.tile),
            layout => {
                let end = kernel.products().min(layout.values() * elements.end);
                let steps = layout.values() * elements.start..end;
                let values = &mut values[..steps.len() * cols];
                self.pack(pixels, steps.start, values, &kernel.tile);
                let values = Rows::new(values, cols, steps.len(), cols);
                stack(values, layout, Block::new(panel, cols));
            }
        }
    }

    /// Steps `start..` of the windows of some output pixels -> a panel [depth][cols]
    fn pack(&self, pixels: Range<usize>, start: usize, panel: &mut [f32], tile: &Tile) {
        if self.side == 1 && self.window == Window::UNIT {
            let plane = self.h * self.w;
            for (channel, row) in (start..).zip(panel.chunks_exact_mut(tile.cols)) {
                let from = &self.xs[channel * plane..][pixels.clone()];
                copy_row(from, &mut row[..pixels.len()]);
            }
            return;
        }
        let (mut runs, mut count) = ([Run::default(); MAX_COLS], 0);
        let mut at = pixels.start;
        while at < pixels.end {
            let (y, x) = (at / self.out_width, at % self.out_width);
            let len = (self.out_width - x).min(pixels.end - at);
            runs[count] = Run {
                column: at - pixels.start,
                len,
                y,
                x,
            };
            count += 1;
            at += len;
        }
        let Image { h, w, side, .. } = *self;
        let Window { stride, padding } = self.window;
        for (t, row) in (start..).zip(panel.chunks_exact_mut(tile.cols)) {
            let (channel, ky, kx) = (t / (side * side), t / side % side, t % side);
            let plane = &self.xs[channel * h * w..][..h * w];
            for run in &runs[..count] {
                let to = &mut row[run.column..run.column + run.len];
                let y = run.y * stride.0 + ky;
                if y < padding.0 || y - padding.0 >= h {
                    to.fill(0.);
                    continue;
                }
                let line = &plane[(y - padding.0) * w..][..w];
                let x = (run.x * stride.1 + kx) as isize - padding.1 as isize;
                match stride.1 {
                    1 => copy_shifted(line, x, to),
                    stride => copy_every(stride, line, x, to),
                }
            }
        }
    }
}

/// `to[j] = line[x + j]`, zero outside the line.
pub(in crate::nn::kernels) fn copy_shifted(line: &[f32], x: isize, to: &mut [f32]) {
    let len = to.len() as isize;
    let before = (-x).clamp(0, len);
    let inside = (line.len() as isize - x).clamp(before, len);
    to[..before as usize].fill(0.);
    to[inside as usize..].fill(0.);
    if inside > before {
        let from = (x + before) as usize;
        let count = (inside - before) as usize;
        copy_row(
            &line[from..from + count],
            &mut to[before as usize..inside as usize],
        );
    }
}

/// `to[j] = line[x + j * stride]`, zero outside the line.
fn copy_every(stride: usize, line: &[f32], x: isize, to: &mut [f32]) {
    let steps = |distance: isize| (distance.max(0) as usize).div_ceil(stride).min(to.len());
    let before = steps(-x);
    let inside = steps(line.len() as isize - x).max(before);
    to[..before].fill(0.);
    to[inside..].fill(0.);
    if inside > before {
        let first = (x + (before * stride) as isize) as usize;
        let from = line[first..].iter().step_by(stride);
        to[before..inside]
            .iter_mut()
            .zip(from)
            .for_each(|(o, x)| *o = *x);
    }
}

/// Copies a part of a panel's row: whole rows, the most frequent, without a call.
#[inline(always)]
fn copy_row(from: &[f32], to: &mut [f32]) {
    match to.len() {
        8 => copy_lanes::<8>(from, to),
        16 => copy_lanes::<16>(from, to),
        MAX_COLS => copy_lanes::<MAX_COLS>(from, to),
        _ => to.copy_from_slice(from),
    }
}

#[inline(always)]
fn copy_lanes<const N: usize>(from: &[f32], to: &mut [f32]) {
    if let (Ok(from), Ok(to)) = (<&[f32; N]>::try_from(from), <&mut [f32; N]>::try_from(to)) {
        *to = *from;
    }
}
