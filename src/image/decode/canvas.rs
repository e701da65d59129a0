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
    /// Whether alpha follows the color.
    pub has_alpha: bool,
}

impl Layout {
    pub fn of(color: Color) -> Self {
        let has_alpha = false;
        Self { color, has_alpha }
    }

    pub fn with_alpha(color: Color) -> Self {
        let has_alpha = true;
        Self { color, has_alpha }
    }

    /// All samples of a pixel.
    pub fn channels(self) -> usize {
        self.color.samples() + usize::from(self.has_alpha)
    }

    /// Whether this sample of a pixel is color rather than alpha.
    pub fn is_color(self, channel: usize) -> bool {
        channel < self.color.samples()
    }
}

/// The picture that decoders fill.
pub struct Canvas {
    pub width: usize,
    pub height: usize,
    /// Of what is written to it.
    layout: Layout,
    /// (height, width, 3)
    pub pixels: Vec<u8>,
    /// (height, width), if it was asked for and is there.
    pub alpha: Option<Vec<u8>>,
}

impl Canvas {
    /// A black picture, opaque until alpha is written.
    pub fn new(width: usize, height: usize, layout: Layout, keeps_alpha: bool) -> Self {
        Self {
            width,
            height,
            layout,
            pixels: vec![0; width * height * 3],
            alpha: (keeps_alpha && layout.has_alpha).then(|| vec![255; width * height]),
        }
    }

    /// The picture of all these samples.
    pub fn of(
        width: usize,
        height: usize,
        layout: Layout,
        keeps_alpha: bool,
        samples: Vec<u8>,
    ) -> Self {
        if layout == Layout::of(Color::Rgb) {
            return Self {
                width,
                height,
                layout,
                pixels: samples,
                alpha: None,
            };
        }
        let mut canvas = Self::new(width, height, layout, keeps_alpha);
        canvas.put(0, 0, &samples);
        canvas
    }

    /// Writes pixels that follow each other from (x, y) on.
    pub fn put(&mut self, x: usize, y: usize, samples: &[u8]) {
        let start = y * self.width + x;
        to_rgb(self.layout, samples, &mut self.pixels[3 * start..]);
        if let Some(alpha) = &mut self.alpha {
            for (to, from) in alpha[start..].iter_mut().zip(alphas(self.layout, samples)) {
                *to = from;
            }
        }
    }

    /// Writes one sample of each of the pixels that follow each other from (x, y) on. CMYK is not
    /// written plane by plane.
    pub fn put_plane(&mut self, x: usize, y: usize, plane: usize, samples: &[u8]) {
        let start = y * self.width + x;
        if !self.layout.is_color(plane) {
            if let Some(alpha) = &mut self.alpha {
                alpha[start..start + samples.len()].copy_from_slice(samples);
            }
            return;
        }
        let (pixels, _) = self.pixels[3 * start..].as_chunks_mut::<3>();
        for (to, &sample) in pixels.iter_mut().zip(samples) {
            match self.layout.color {
                Color::Grey => *to = [sample; 3],
                Color::Rgb | Color::Cmyk => to[plane.min(2)] = sample,
            }
        }
    }

    /// Writes a row of an interlaced picture.
    pub fn put_interlaced(&mut self, place: &png::Adam7Info, samples: &[u8]) {
        let mut rgb = vec![0; samples.len() / self.layout.channels() * 3];
        to_rgb(self.layout, samples, &mut rgb);
        png::expand_interlaced_row(&mut self.pixels, 3 * self.width, &rgb, place, 24);
        if let Some(alpha) = &mut self.alpha {
            let row: Vec<u8> = alphas(self.layout, samples).collect();
            png::expand_interlaced_row(alpha, self.width, &row, place, 8);
        }
    }
}

/// Samples of pixels to as many RGB triples.
fn to_rgb(layout: Layout, samples: &[u8], rgb: &mut [u8]) {
    let pixels = samples.chunks_exact(layout.channels());
    let pixels = rgb.as_chunks_mut::<3>().0.iter_mut().zip(pixels);
    match layout.color {
        Color::Grey => pixels.for_each(|(to, from)| *to = [from[0]; 3]),
        Color::Rgb => pixels.for_each(|(to, from)| *to = [from[0], from[1], from[2]]),
        Color::Cmyk => pixels.for_each(|(to, from)| {
            *to = [from[0], from[1], from[2]].map(|ink| without_ink(ink, from[3]));
        }),
    }
}

/// The alpha of pixels that have it.
fn alphas(layout: Layout, samples: &[u8]) -> impl Iterator<Item = u8> {
    let pixels = samples.chunks_exact(layout.channels());
    pixels.map(move |pixel| pixel[layout.color.samples()])
}

/// What an ink and black leave of white, as PIL rounds it.
fn without_ink(ink: u8, black: u8) -> u8 {
    let paper = 255 - u32::from(black);
    let product = u32::from(ink) * paper + 128;
    (paper - ((product + (product >> 8)) >> 8)) as u8
}
