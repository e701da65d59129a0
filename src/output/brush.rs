//! Label Studio's run lengths of brush masks.
//!
//! Follows `encode_rle`,
//! <https://github.com/HumanSignal/label-studio-sdk/blob/97fcff1/src/label_studio_sdk/converter/brush.py>:
//! a bit stream, most significant bit first, of values as pictures in RGBA have them.

use crate::mask::Mask;

/// Bits that the length of a run may take.
const SIZES: [u32; 4] = [3, 4, 8, 16];
/// Bits of a value.
const WORD: u32 = 8;
/// The longest run that the largest size holds.
const LONGEST: usize = 1 << 16;
/// Red, green, blue, alpha.
const CHANNELS: usize = 4;

/// A mask, 255 inside, by rows.
pub fn encode(mask: &Mask) -> Vec<u8> {
    let pixels = mask.to_bytes(255);
    encode_runs(
        pixels
            .chunk_by(|a, b| a == b)
            .map(|run| (run[0], run.len() * CHANNELS)),
        pixels.len() * CHANNELS,
    )
}

fn encode_runs(runs: impl Iterator<Item = (u8, usize)>, count: usize) -> Vec<u8> {
    let mut bits = Bits::default();
    bits.push(count as u32, 32);
    bits.push(WORD - 1, 5);
    for size in SIZES {
        bits.push(size - 1, 4);
    }
    for (value, mut length) in runs {
        while length > 0 {
            let part = length.min(LONGEST);
            let index = SIZES
                .iter()
                .position(|size| part <= 1 << size)
                .unwrap_or(SIZES.len() - 1);
            bits.push(u32::from(part > 1), 1);
            bits.push(index as u32, 2);
            bits.push(part as u32 - 1, SIZES[index]);
            bits.push(value.into(), WORD);
            length -= part;
        }
    }
    bits.finish()
}

#[derive(Default)]
struct Bits {
    bytes: Vec<u8>,
    /// Bits of the byte that is not full yet, and how many.
    open: (u8, u32),
}

impl Bits {
    fn push(&mut self, value: u32, size: u32) {
        for at in (0..size).rev() {
            let (byte, count) = self.open;
            self.open = (byte << 1 | (value >> at & 1) as u8, count + 1);
            if self.open.1 == 8 {
                self.bytes.push(self.open.0);
                self.open = (0, 0);
            }
        }
    }

    /// Easy to get wrong: a whole byte of zeros follows where nothing is left to fill.
    fn finish(mut self) -> Vec<u8> {
        let (byte, count) = self.open;
        self.bytes
            .push(if count == 0 { 0 } else { byte << (8 - count) });
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The second list is the test of the SDK itself; the first and third were made with its code.
    #[test]
    fn bytes_are_those_of_the_sdk() {
        let checker = Mask::from_fn(2, 2, |x, y| x != y);
        assert_eq!(
            encode(&checker),
            [0, 0, 0, 16, 57, 27, 252, 96, 19, 255, 198, 0]
        );
        let values = [1, 1, 1, 1, 2, 3, 5, 6, 7, 8, 4, 4, 4, 4, 4, 4, 4, 4];
        let runs = values
            .chunk_by(|a, b| a == b)
            .map(|run| (run[0], run.len()));
        let want = [
            0, 0, 0, 18, 57, 27, 252, 96, 32, 1, 0, 6, 0, 40, 0, 192, 3, 128, 17, 56, 32,
        ];
        assert_eq!(encode_runs(runs, values.len()), want);
        let row = Mask::from_fn(16, 1, |x, _| x >= 10);
        assert_eq!(
            encode(&row),
            [0, 0, 0, 64, 57, 27, 254, 39, 0, 194, 255, 224]
        );
    }

    #[test]
    fn long_runs_are_cut() {
        let bytes = encode(&Mask::new(200, 100)); // 80,000 values
        assert_eq!(bytes.len(), (32 + 5 + 16 + 2 * (1 + 2 + 16 + 8) + 8) / 8);
    }
}
