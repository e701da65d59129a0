//! Huffman codes and the bits of entropy-coded segments.

use super::Problem;

/// Code lengths that the first lookup resolves.
const FAST: u32 = 9;

/// A Huffman table, built as in Annex C of the JPEG standard (ITU-T T.81).
pub struct Table {
    /// By the next [`FAST`] bits: length of the code << 8 | symbol; 0 for longer codes.
    fast: Vec<u16>,
    /// One past the last code of each length, aligned to 16 bits.
    ends: [u32; 17],
    /// Index of the first symbol of each length, less its first code.
    offsets: [i32; 17],
    symbols: Vec<u8>,
}

impl Table {
    /// Builds a table from the number of codes of each length 1..=16 and the symbols in order.
    ///
    /// `None` when more codes are announced than fit, or than there are symbols for.
    pub fn new(counts: &[u8; 16], symbols: &[u8]) -> Option<Self> {
        let mut table = Self {
            fast: vec![0; 1 << FAST],
            ends: [0; 17],
            offsets: [0; 17],
            symbols: symbols.to_vec(),
        };
        let (mut code, mut index) = (0u32, 0usize);
        for (bits, &count) in (1u32..).zip(counts) {
            table.offsets[bits as usize] = index as i32 - code as i32;
            for _ in 0..count {
                let symbol = *symbols.get(index)?;
                if code >= 1 << bits {
                    return None;
                }
                if bits <= FAST {
                    let entry = (bits << 8) as u16 | u16::from(symbol);
                    let first = (code << (FAST - bits)) as usize;
                    table.fast[first..first + (1 << (FAST - bits))].fill(entry);
                }
                code += 1;
                index += 1;
            }
            table.ends[bits as usize] = code << (16 - bits);
            code <<= 1;
        }
        Some(table)
    }
}

/// Reads the bits of one entropy-coded segment, which ends at a marker or with the file.
pub struct Bits<'a> {
    bytes: &'a [u8],
    position: usize,
    /// The next bits, from the top.
    buffer: u64,
    left: u32,
}

impl<'a> Bits<'a> {
    pub fn new(bytes: &'a [u8], position: usize) -> Self {
        Self {
            bytes,
            position,
            buffer: 0,
            left: 0,
        }
    }

    /// Position of the marker that ends the segment, or the length of the file; and the whole
    /// bytes between the bits that were used and it.
    pub fn end(&self) -> (usize, usize) {
        let mut position = self.position;
        let mut unused = (self.left / 8) as usize;
        while let Some((_, next)) = self.byte_at(position) {
            position = next;
            unused += 1;
        }
        (position, unused)
    }

    /// The data byte at a position, and where the next one is; `None` at a marker or the end.
    fn byte_at(&self, position: usize) -> Option<(u8, usize)> {
        let byte = *self.bytes.get(position)?;
        if byte != 0xff {
            return Some((byte, position + 1));
        }
        // Any number of fill bytes may precede a marker; a zero means that 0xff is data.
        let rest = &self.bytes[position..];
        let fill = rest.iter().take_while(|byte| **byte == 0xff).count();
        (rest.get(fill) == Some(&0)).then_some((0xff, position + fill + 1))
    }

    fn fill(&mut self) {
        while self.left <= 56 {
            let Some((byte, next)) = self.byte_at(self.position) else {
                return;
            };
            self.buffer |= u64::from(byte) << (56 - self.left);
            self.left += 8;
            self.position = next;
        }
    }

    /// Drops up to 56 bits.
    pub fn skip(&mut self, bits: u32) -> Result<(), Problem> {
        self.take(bits).map(drop)
    }

    /// The next up to 56 bits as a number.
    pub fn take(&mut self, bits: u32) -> Result<u64, Problem> {
        if bits == 0 {
            return Ok(0);
        }
        if self.left < bits {
            self.fill();
            if self.left < bits {
                return Err(self.exhausted());
            }
        }
        let value = self.buffer >> (64 - bits);
        self.buffer <<= bits;
        self.left -= bits;
        Ok(value)
    }

    /// A difference of `bits` bits, Annex F.2.2.1.
    pub fn difference(&mut self, bits: u32) -> Result<i64, Problem> {
        let value = self.take(bits)? as i64;
        let is_negative = bits > 0 && value < 1 << (bits - 1);
        Ok(if is_negative {
            value - (1 << bits) + 1
        } else {
            value
        })
    }

    /// The next symbol of a table.
    pub fn symbol(&mut self, table: &Table) -> Result<u8, Problem> {
        if self.left < 16 {
            self.fill();
        }
        let next = (self.buffer >> 48) as u32;
        let entry = table.fast[(next >> (16 - FAST)) as usize];
        let (bits, symbol) = if entry != 0 {
            (u32::from(entry >> 8), entry as u8)
        } else {
            let Some(bits) = (FAST + 1..=16).find(|bits| next < table.ends[*bits as usize]) else {
                return Err(match self.left < 16 {
                    true => self.exhausted(),
                    false => Problem::Damaged,
                });
            };
            let code = (next >> (16 - bits)) as i32;
            let symbol = table
                .symbols
                .get((code + table.offsets[bits as usize]) as usize);
            (bits, *symbol.ok_or(Problem::Damaged)?)
        };
        self.skip(bits)?;
        Ok(symbol)
    }

    fn exhausted(&self) -> Problem {
        let rest = &self.bytes[self.end().0..];
        match rest.iter().all(|byte| *byte == 0xff) {
            true => Problem::Cut,
            false => Problem::Damaged,
        }
    }
}

/// The tables of Annex K.3.3 as one DHT segment, for files that leave theirs out (Motion JPEG).
pub fn standard_tables() -> Vec<u8> {
    let mut segment = vec![0xff, 0xc4, 0x01, 0xa2];
    let parts: [(u8, &str, &str); 4] = [
        (0x00, "00010501010101010100000000000000", DC),
        (0x10, "0002010303020403050504040000017d", AC_LUMINANCE),
        (0x01, "00030101010101010101010000000000", DC),
        (0x11, "00020102040403040705040400010277", AC_CHROMINANCE),
    ];
    for (class, counts, symbols) in parts {
        segment.push(class);
        for text in [counts, symbols] {
            let pairs = (0..text.len()).step_by(2).map(|at| &text[at..at + 2]);
            segment.extend(pairs.flat_map(|pair| u8::from_str_radix(pair, 16)));
        }
    }
    segment
}

const DC: &str = "000102030405060708090a0b";

const AC_LUMINANCE: &str = "01020300041105122131410613516107227114328191a1082342b1c11552d1f0\
    2433627282090a161718191a25262728292a3435363738393a434445464748494a535455565758595a6364656667\
    68696a737475767778797a838485868788898a92939495969798999aa2a3a4a5a6a7a8a9aab2b3b4b5b6b7b8b9ba\
    c2c3c4c5c6c7c8c9cad2d3d4d5d6d7d8d9dae1e2e3e4e5e6e7e8e9eaf1f2f3f4f5f6f7f8f9fa";

const AC_CHROMINANCE: &str = "000102031104052131061241510761711322328108144291a1b1c109233352f0\
    156272d10a162434e125f11718191a262728292a35363738393a434445464748494a535455565758595a63646566\
    6768696a737475767778797a82838485868788898a92939495969798999aa2a3a4a5a6a7a8a9aab2b3b4b5b6b7b8\
    b9bac2c3c4c5c6c7c8c9cad2d3d4d5d6d7d8d9dae2e3e4e5e6e7e8e9eaf2f3f4f5f6f7f8f9fa";
