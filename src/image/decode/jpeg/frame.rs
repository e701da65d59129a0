//! The frame header: size, components and the process that a JPEG is coded with.

/// What a start-of-frame segment says.
pub struct Frame {
    pub width: usize,
    pub height: usize,
    pub is_progressive: bool,
    pub components: Vec<Component>,
    /// Minimum coded units across and down.
    pub mcus: (usize, usize),
    /// Rows of pixels in one of them.
    pub mcu_height: usize,
}

pub struct Component {
    pub id: u8,
    /// Blocks across and down in a minimum coded unit.
    pub sampling: (usize, usize),
    /// Number of its quantization table.
    pub quantization: usize,
    /// Blocks across and down that hold pixels.
    pub blocks: (usize, usize),
    /// Blocks in a row, with the padding to whole minimum coded units.
    pub stride: usize,
    /// The AC coefficients that are not zero, a bit for each: what a refining scan must know.
    pub known: Vec<u64>,
    /// Whether a scan with its coefficients has come.
    pub is_read: bool,
}

impl Frame {
    /// Reads the segment after its length: Annex B.2.2. `None` when it makes no sense.
    pub fn parse(segment: &[u8], is_progressive: bool) -> Option<Self> {
        let (header, parts) = segment.split_first_chunk::<6>()?;
        let [_, h0, h1, w0, w1, count] = *header;
        let height = usize::from(u16::from_be_bytes([h0, h1]));
        let width = usize::from(u16::from_be_bytes([w0, w1]));
        let parts = parts.get(..3 * usize::from(count))?;
        let sampling = |part: &[u8]| (usize::from(part[1] >> 4), usize::from(part[1] & 15));
        let samplings: Vec<_> = parts.chunks_exact(3).map(sampling).collect();
        let is_sound = |&(x, y): &(usize, usize)| (1..=4).contains(&x) && (1..=4).contains(&y);
        if !(1..=4).contains(&count) || !samplings.iter().all(is_sound) {
            return None;
        }
        let across = samplings.iter().map(|s| s.0).max()?;
        let down = samplings.iter().map(|s| s.1).max()?;
        let mcus = (width.div_ceil(8 * across), height.div_ceil(8 * down));
        let component = |(part, (x, y)): (&[u8], (usize, usize))| Component {
            id: part[0],
            sampling: (x, y),
            quantization: usize::from(part[2] & 3),
            blocks: (
                (width * x).div_ceil(8 * across),
                (height * y).div_ceil(8 * down),
            ),
            stride: mcus.0 * x,
            known: vec![],
            is_read: false,
        };
        Some(Self {
            width,
            height,
            is_progressive,
            components: parts
                .chunks_exact(3)
                .zip(samplings)
                .map(component)
                .collect(),
            mcus,
            mcu_height: 8 * down,
        })
    }

    /// Makes room for what refining scans must know.
    pub fn prepare(&mut self) {
        for component in &mut self.components {
            let blocks = component.stride * self.mcus.1 * component.sampling.1;
            component.known = vec![0; blocks];
        }
    }

    /// Bytes of all coefficients, which decoders keep when a picture comes in several scans.
    pub fn coefficients(&self) -> u64 {
        let blocks = |c: &Component| c.stride * self.mcus.1 * c.sampling.1;
        let blocks: usize = self.components.iter().map(blocks).sum();
        blocks as u64 * 64 * 2
    }
}
