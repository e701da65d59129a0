//! Rows of 8-bit samples of any layout to RGB pixels.

/// What the first samples of a pixel mean.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Color {
    Grey,
    Rgb,
    /// Inks, 0 for none.
    Cmyk,
}

impl Color {
    /// Samples of a pixel.
    pub fn samples(self) -> usize {
        match self {
            Self::Grey => 1,
            Self::Rgb => 3,
            Self::Cmyk => 4,
        }
    }
}

/// How the samples of a pixel follow each other.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Layout {
    pub color: Color,
    /// All samples of a pixel; what is neither color nor alpha is left out.
    pub channels: usize,
    /// Which of them is alpha.
    pub alpha: Option<usize>,
}

impl Layout {
    pub fn of(color: Color) -> Self {
        Self {
            color,
            channels: color.samples(),
            alpha: None,
        }
    }

    pub fn with_alpha(color: Color) -> Self {
        Self {
            color,
            channels: color.samples() + 1,
            alpha: Some(color.samples()),
        }
    }
}

/// The picture that decoders fill.
pub struct Canvas {
    pub width: usize,
    pub height: usize,
    /// (height, width, 3)
    pub pixels: Vec<u8>,
    /// (height, width), if it was asked for and is there.
    pub alpha: Option<Vec<u8>>,
}

impl Canvas {
    /// A black picture.
    pub fn new(width: usize, height: usize) -> Self {
        Self::from_rgb(width, height, vec![0; width * height * 3])
    }

    pub fn from_rgb(width: usize, height: usize, pixels: Vec<u8>) -> Self {
        Self {
            width,
            height,
            pixels,
            alpha: None,
        }
    }

    /// Keeps the alpha channel, opaque until it is written.
    pub fn keep_alpha(&mut self) {
        self.alpha = Some(vec![255; self.width * self.height]);
    }

    /// Writes whole rows from row `y` on.
    pub fn put_rows(&mut self, y: usize, layout: Layout, samples: &[u8]) {
        self.put(y * self.width, layout, samples);
    }

    /// Writes pixels that follow each other from (x, y) on.
    pub fn put_pixels(&mut self, x: usize, y: usize, layout: Layout, samples: &[u8]) {
        self.put(y * self.width + x, layout, samples);
    }

    /// Writes one sample of each of the pixels that follow each other from (x, y) on. CMYK is not
    /// written plane by plane.
    pub fn put_plane(&mut self, x: usize, y: usize, layout: Layout, plane: usize, samples: &[u8]) {
        let start = y * self.width + x;
        if Some(plane) == layout.alpha {
            if let Some(alpha) = &mut self.alpha {
                alpha[start..start + samples.len()].copy_from_slice(samples);
            }
            return;
        }
        let (pixels, _) = self.pixels[3 * start..].as_chunks_mut::<3>();
        for (to, &sample) in pixels.iter_mut().zip(samples) {
            match layout.color {
                Color::Grey => *to = [sample; 3],
                Color::Rgb | Color::Cmyk => to[plane.min(2)] = sample,
            }
        }
    }

    fn put(&mut self, start: usize, layout: Layout, samples: &[u8]) {
        to_rgb(layout, samples, &mut self.pixels[3 * start..]);
        if let (Some(alpha), Some(channel)) = (&mut self.alpha, layout.alpha) {
            let pixels = samples.chunks_exact(layout.channels);
            for (to, from) in alpha[start..].iter_mut().zip(pixels) {
                *to = from[channel];
            }
        }
    }
}

/// Samples of pixels to as many RGB triples.
pub fn to_rgb(layout: Layout, samples: &[u8], rgb: &mut [u8]) {
    let pixels = samples.chunks_exact(layout.channels);
    let (rgb, _) = rgb.as_chunks_mut::<3>();
    match layout.color {
        Color::Grey => {
            for (to, from) in rgb.iter_mut().zip(pixels) {
                *to = [from[0]; 3];
            }
        }
        Color::Rgb => {
            for (to, from) in rgb.iter_mut().zip(pixels) {
                *to = [from[0], from[1], from[2]];
            }
        }
        Color::Cmyk => {
            for (to, from) in rgb.iter_mut().zip(pixels) {
                *to = [from[0], from[1], from[2]].map(|ink| without_ink(ink, from[3]));
            }
        }
    }
}

/// What an ink and black leave of white, as PIL rounds it.
fn without_ink(ink: u8, black: u8) -> u8 {
    let paper = 255 - u32::from(black);
    let product = u32::from(ink) * paper + 128;
    (paper - ((product + (product >> 8)) >> 8)) as u8
}
