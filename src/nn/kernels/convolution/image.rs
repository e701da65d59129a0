//! Windows of an image as the panels that a product reads.

use std::ops::Range;

use super::PackedKernel;
use crate::nn::kernels::layout::Layout;
use crate::nn::kernels::pack::{copy_row, stack};
use crate::nn::kernels::tile::Tile;
use crate::nn::kernels::view::{Block, Rows};
use crate::nn::kernels::window::{Window, runs};

/// An image under a moving window.
pub(super) struct Image<'a> {
    pub(super) xs: &'a [f32], // (channels, h, w)
    pub(super) h: usize,
    pub(super) w: usize,
    pub(super) side: usize,
    pub(super) window: Window,
    pub(super) out_width: usize,
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

    /// Some elements of the windows of some output pixels -> panels [pixels / cols][elements][cols]
    ///
    /// `values` is room for the panels' values where they do not hold them as they are.
    pub(super) fn pack_elements(
        &self,
        pixels: Range<usize>,
        elements: Range<usize>,
        kernel: &PackedKernel,
        values: &mut [f32],
        panels: &mut [f32],
    ) {
        let Tile { cols, right, .. } = kernel.tile;
        let count = pixels.len().div_ceil(cols);
        if right == Layout::Singles {
            self.pack(pixels, elements, cols, panels);
            return;
        }
        let end = kernel.products().min(right.values() * elements.end);
        let steps = right.values() * elements.start..end;
        let values = &mut values[..count * steps.len() * cols];
        self.pack(pixels, steps.clone(), cols, values);
        let panels = panels.chunks_exact_mut((elements.len() * cols).max(1));
        for (values, panel) in values.chunks_exact((steps.len() * cols).max(1)).zip(panels) {
            let values = Rows::new(values, cols, steps.len(), cols);
            stack(values, right, Block::new(panel, cols));
        }
    }

    /// Some steps of the windows of some output pixels -> panels [pixels / cols][steps][cols]
    fn pack(&self, pixels: Range<usize>, steps: Range<usize>, cols: usize, panels: &mut [f32]) {
        let panel = steps.len() * cols;
        if self.side == 1 && self.window == Window::UNIT {
            let plane = self.h * self.w;
            let starts = pixels.clone().step_by(cols);
            for (start, panel) in starts.zip(panels.chunks_exact_mut(panel.max(1))) {
                let pixels = start..pixels.end.min(start + cols);
                for (channel, row) in steps.clone().zip(panel.chunks_exact_mut(cols)) {
                    let from = &self.xs[channel * plane..][pixels.clone()];
                    copy_row(from, &mut row[..pixels.len()]);
                }
            }
            return;
        }
        // Step by step and not panel by panel: the lines of one step lie far from those of another, and
        // each is read for all pixels at once.
        let runs = runs(pixels, self.out_width, cols, panel);
        let Image { h, w, side, .. } = *self;
        let Window { stride, padding } = self.window;
        for (row, t) in steps.enumerate() {
            let (channel, ky, kx) = (t / (side * side), t / side % side, t % side);
            let plane = &self.xs[channel * h * w..][..h * w];
            for run in &runs {
                let to = &mut panels[run.at + row * cols..][..run.len];
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
        let (from, to) = (&line[first..], &mut to[before..inside]);
        match (stride, to.len()) {
            (2, 8) if copy_even::<8, 16>(from, to) => {}
            (2, 16) if copy_even::<16, 32>(from, to) => {}
            (2, 32) if copy_even::<32, 64>(from, to) => {}
            _ => {
                let from = from.iter().step_by(stride);
                to.iter_mut().zip(from).for_each(|(to, x)| *to = *x);
            }
        }
    }
}

/// Every second value of a whole row; false where the line does not go on for as long.
#[inline(always)]
fn copy_even<const N: usize, const SPAN: usize>(from: &[f32], to: &mut [f32]) -> bool {
    let (Some(from), Ok(to)) = (from.first_chunk::<SPAN>(), <&mut [f32; N]>::try_from(to)) else {
        return false;
    };
    let (from, to) = (from.as_chunks::<8>().0, to.as_chunks_mut::<4>().0);
    for (from, to) in from.iter().zip(to) {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{_mm_loadu_ps, _mm_shuffle_ps, _mm_storeu_ps};
            // The compiler would copy value by value.
            // SAFETY: eight values are read and four written, by instructions that all have.
            unsafe {
                let halves = [0, 4].map(|at| _mm_loadu_ps(from.as_ptr().add(at)));
                let even = _mm_shuffle_ps::<0x88>(halves[0], halves[1]);
                _mm_storeu_ps(to.as_mut_ptr(), even);
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            *to = [from[0], from[2], from[4], from[6]];
        }
    }
    true
}
