//! The entropy-coded data of one scan, read symbol by symbol without making pixels of it.
//!
//! Decoders fill with grey what a damaged file does not yield, silently. This pass finds out
//! whether every symbol that the frame needs is there and makes sense.

use super::frame::{Component, Frame};
use super::huffman::{Bits, Table};
use super::{Problem, Tables};

/// What a start-of-scan segment asks for.
pub struct Scan {
    /// Index of the component in the frame, its DC and its AC table.
    pub parts: Vec<(usize, usize, usize)>,
    /// First and last coefficient, in zigzag order.
    pub spectrum: (u32, u32),
    /// Bit positions of successive approximation: of the scan before and of this one.
    pub high: u32,
    pub low: u32,
}

impl Scan {
    /// Reads the segment after its length: Annex B.2.3.
    pub fn parse(segment: &[u8], frame: &Frame) -> Option<Self> {
        let (&count, rest) = segment.split_first()?;
        let (parts, rest) = rest.split_at_checked(2 * usize::from(count))?;
        let [start, end, approximation] = *rest.first_chunk::<3>()?;
        let parts: Option<Vec<_>> = parts
            .chunks_exact(2)
            .map(|pair| {
                let index = frame.components.iter().position(|c| c.id == pair[0])?;
                let (dc, ac) = (usize::from(pair[1] >> 4), usize::from(pair[1] & 15));
                (dc < 4 && ac < 4).then_some((index, dc, ac))
            })
            .collect();
        let scan = Self {
            parts: parts?,
            spectrum: (start.into(), end.into()),
            high: (approximation >> 4).into(),
            low: (approximation & 15).into(),
        };
        if !frame.is_progressive {
            return (1..=4).contains(&count).then_some(Self {
                spectrum: (0, 63),
                high: 0,
                low: 0,
                ..scan
            });
        }
        let is_sound = match start {
            0 => end == 0,
            _ => start <= end && end < 64 && count == 1,
        };
        ((1..=4).contains(&count) && is_sound && scan.low <= 13).then_some(scan)
    }
}

/// Where a scan ended.
pub struct End {
    /// Position of the marker behind it.
    pub position: usize,
    /// Bytes of data that no block needed.
    pub unused: usize,
}

/// A problem, and the MCU row that it is in: as many rows of pixels are whole.
pub type Stopped = (Problem, usize);

/// Reads the blocks of a scan from `position` on.
pub fn read(
    bytes: &[u8],
    position: usize,
    scan: &Scan,
    frame: &mut Frame,
    tables: &Tables,
) -> Result<End, Stopped> {
    let mut decoder = Decoder {
        bits: Bits::new(bytes, position),
        bytes,
        scan,
        tables,
        is_progressive: frame.is_progressive,
        run: 0,
        dc: [0; 4],
    };
    let (columns, rows, is_interleaved) = match scan.parts[..] {
        // One component alone goes through its own blocks, without the padding to whole MCUs.
        [(index, ..)] => {
            let (columns, rows) = frame.components[index].blocks;
            (columns, rows, false)
        }
        _ => (frame.mcus.0, frame.mcus.1, true),
    };
    let interval = tables.restart_interval;
    let mut restart = 0;
    for y in 0..rows {
        for x in 0..columns {
            let mcu = y * columns + x;
            if interval > 0 && mcu > 0 && mcu % interval == 0 {
                decoder.restart(restart).map_err(|problem| (problem, y))?;
                restart = (restart + 1) % 8;
            }
            let components = &mut frame.components;
            let read = if is_interleaved {
                decoder.mcu(components, x, y)
            } else {
                decoder.block(&mut components[scan.parts[0].0], 0, x, y)
            };
            read.map_err(|problem| (problem, y))?;
        }
    }
    let (position, unused) = decoder.bits.end();
    Ok(End { position, unused })
}

struct Decoder<'a> {
    bits: Bits<'a>,
    bytes: &'a [u8],
    scan: &'a Scan,
    tables: &'a Tables,
    is_progressive: bool,
    /// Blocks still to come without new coefficients.
    run: u64,
    /// The DC coefficient of the block before, for each part of the scan.
    dc: [i64; 4],
}

impl Decoder<'_> {
    /// Expects the restart marker of this number.
    fn restart(&mut self, number: u8) -> Result<(), Problem> {
        let (position, _) = self.bits.end();
        let marker = position
            + self.bytes[position..]
                .iter()
                .take_while(|b| **b == 0xff)
                .count();
        match self.bytes.get(marker) {
            None => return Err(Problem::Cut),
            Some(&byte) if byte == 0xd0 + number => {}
            Some(_) => return Err(Problem::Damaged),
        }
        self.bits = Bits::new(self.bytes, marker + 1);
        self.run = 0;
        self.dc = [0; 4];
        Ok(())
    }

    fn mcu(&mut self, components: &mut [Component], x: usize, y: usize) -> Result<(), Problem> {
        for part in 0..self.scan.parts.len() {
            let component = &mut components[self.scan.parts[part].0];
            let (across, down) = component.sampling;
            for block in 0..across * down {
                let (dx, dy) = (block % across, block / across);
                self.block(component, part, x * across + dx, y * down + dy)?;
            }
        }
        Ok(())
    }

    fn block(
        &mut self,
        component: &mut Component,
        part: usize,
        x: usize,
        y: usize,
    ) -> Result<(), Problem> {
        let (_, dc, ac) = self.scan.parts[part];
        if !self.is_progressive {
            self.dc(part, table(&self.tables.dc[dc])?, component)?;
            return self.sequential_ac(table(&self.tables.ac[ac])?);
        }
        match (self.scan.spectrum.0, self.scan.high) {
            (0, 0) => self.dc(part, table(&self.tables.dc[dc])?, component),
            (0, _) => self.bits.skip(1),
            (_, high) => {
                let table = table(&self.tables.ac[ac])?;
                let stride = component.stride;
                let known = component.known.get_mut(y * stride + x);
                let known = known.ok_or(Problem::Damaged)?;
                match high {
                    0 => self.first_ac(table, known),
                    _ => self.refined_ac(table, known),
                }
            }
        }
    }

    /// Annex F.2.2.1. The DC coefficient is eight times the mean of a block, so that its range is
    /// known: beyond it, the decoder reads something that is no longer coefficients.
    fn dc(&mut self, part: usize, table: &Table, component: &Component) -> Result<(), Problem> {
        /// Twice what the mean of 8-bit samples can reach, because some writers overshoot.
        const LARGEST: i64 = 2 * 8 * 128;
        let bits = self.bits.symbol(table)?;
        if bits > 15 {
            return Err(Problem::Damaged);
        }
        self.dc[part] += self.bits.difference(bits.into())?;
        let step = i64::from(self.tables.dc_steps[component.quantization].max(1));
        match (self.dc[part] << self.scan.low) * step {
            value if value.abs() > LARGEST + step => Err(Problem::Damaged),
            _ => Ok(()),
        }
    }

    /// Annex F.2.2.2.
    fn sequential_ac(&mut self, table: &Table) -> Result<(), Problem> {
        let mut k = 1;
        while k < 64 {
            let symbol = self.bits.symbol(table)?;
            let (zeros, bits) = (u32::from(symbol >> 4), u32::from(symbol & 15));
            match (zeros, bits) {
                (15, 0) => k += 16,
                (_, 0) => return Ok(()),
                _ => {
                    k += zeros + 1;
                    if k > 64 {
                        return Err(Problem::Damaged);
                    }
                    self.bits.skip(bits)?;
                }
            }
        }
        Ok(())
    }

    /// Annex G.1.2.2.
    fn first_ac(&mut self, table: &Table, known: &mut u64) -> Result<(), Problem> {
        if self.run > 0 {
            self.run -= 1;
            return Ok(());
        }
        let (mut k, end) = self.scan.spectrum;
        while k <= end {
            let symbol = self.bits.symbol(table)?;
            let (zeros, bits) = (u32::from(symbol >> 4), u32::from(symbol & 15));
            match (zeros, bits) {
                (15, 0) => k += 16,
                (_, 0) => {
                    self.run = (1 << zeros) - 1 + self.bits.take(zeros)?;
                    return Ok(());
                }
                _ => {
                    k += zeros;
                    if k > end {
                        return Err(Problem::Damaged);
                    }
                    self.bits.skip(bits)?;
                    *known |= 1 << k;
                    k += 1;
                }
            }
        }
        Ok(())
    }

    /// Annex G.1.2.3: one more bit of the known coefficients, and new ones of one bit.
    fn refined_ac(&mut self, table: &Table, known: &mut u64) -> Result<(), Problem> {
        let (mut k, end) = self.scan.spectrum;
        if self.run == 0 {
            while k <= end {
                let symbol = self.bits.symbol(table)?;
                let (mut zeros, bits) = (symbol >> 4, symbol & 15);
                match (zeros, bits) {
                    (15, 0) => {}
                    (_, 0) => {
                        self.run = (1 << zeros) + self.bits.take(zeros.into())?;
                        break;
                    }
                    (_, 1) => self.bits.skip(1)?,
                    _ => return Err(Problem::Damaged),
                }
                while k <= end {
                    if *known >> k & 1 == 1 {
                        self.bits.skip(1)?;
                    } else if zeros == 0 {
                        break;
                    } else {
                        zeros -= 1;
                    }
                    k += 1;
                }
                if bits == 1 {
                    if k > end {
                        return Err(Problem::Damaged);
                    }
                    *known |= 1 << k;
                }
                k += 1;
            }
        }
        if self.run > 0 {
            self.run -= 1;
            let rest = (*known).checked_shr(k).unwrap_or(0);
            let rest = rest & (u64::MAX >> (63 - end.saturating_sub(k)));
            if k <= end {
                let bits = rest.count_ones();
                self.bits.skip(bits / 2)?;
                self.bits.skip(bits - bits / 2)?;
            }
        }
        Ok(())
    }
}

fn table(table: &Option<Table>) -> Result<&Table, Problem> {
    table.as_ref().ok_or(Problem::Damaged)
}
