//! COCO run-length encoding, byte for byte as pycocotools writes it.
//!
//! Follows `rleEncode`, `rleToString` and `rleFrString`,
//! <https://github.com/cocodataset/cocoapi/blob/8c9bcc3cf640524c4c20a9c40e89cb6a2f2fa0e9/common/maskApi.c>.

use serde::{Deserialize, Serialize, Serializer};

use super::{BITS, BoxXyxy, Mask};
use crate::error::{Error, Result};

/// The most pixels of a mask: a run may be as long.
const MAX_AREA: u64 = u32::MAX as u64;

/// The most pixels along a side of a mask.
const MAX_SIDE: usize = 1 << 20;

/// A mask as run lengths.
///
/// Pixels are counted down the columns from the left. The first run is outside the mask and may be
/// zero, then runs inside and outside alternate. As JSON it is `{"size":[h,w],"counts":"…"}` with
/// the counts in COCO's compressed form; reading also accepts a plain list of counts.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Document")]
pub struct Rle {
    /// Height and width of the mask.
    pub size: [usize; 2],
    /// Run lengths; they add up to height * width.
    pub counts: Vec<u32>,
}

impl Rle {
    /// Encodes a mask.
    pub fn encode(mask: &Mask) -> Self {
        let (width, height) = (mask.width(), mask.height());
        let mut counts = Vec::new();
        let mut run_start = 0;
        // Where the value changes from one pixel to the next, for the 64 columns of one word.
        let mut changes: [Vec<usize>; BITS] = std::array::from_fn(|_| Vec::new());
        let mut left_column_end = 0;
        for column in 0..mask.stride {
            let word = |y: usize| mask.words[y * mask.stride + column];
            let end = if height > 0 { word(height - 1) } else { 0 };
            // The pixel before the top of a column is the bottom of the column to its left.
            let mut previous = end << 1 | left_column_end;
            for y in 0..height {
                let mut differs = word(y) ^ previous;
                while differs != 0 {
                    changes[differs.trailing_zeros() as usize].push(y);
                    differs &= differs - 1;
                }
                previous = word(y);
            }
            left_column_end = end >> (BITS - 1);
            for (bit, changes) in changes.iter_mut().enumerate() {
                let x = column * BITS + bit;
                for y in changes.drain(..).filter(|_| x < width) {
                    let position = x * height + y;
                    counts.push((position - run_start) as u32);
                    run_start = position;
                }
            }
        }
        counts.push((width * height - run_start) as u32);
        Self {
            size: [height, width],
            counts,
        }
    }

    /// A mask of `size` (height, width) without a pixel.
    ///
    /// # Errors
    /// [`Error::InvalidMask`] for an absurd size.
    pub(crate) fn outside(size: [usize; 2]) -> Result<Self> {
        let counts = vec![size[0].saturating_mul(size[1]).min(u32::MAX as usize) as u32];
        Self { size, counts }.checked()
    }

    /// The mask that was encoded.
    ///
    /// # Errors
    /// [`Error::InvalidMask`] when the counts do not add up to the size, or that is absurd.
    pub fn decode(&self) -> Result<Mask> {
        let [height, width] = self.size;
        self.check()?;
        let mut mask = Mask::new(width, height);
        for run in self.runs() {
            for position in run {
                mask.set(position / height, position % height, true);
            }
        }
        Ok(mask)
    }

    /// Number of pixels in the mask.
    pub fn area(&self) -> usize {
        self.runs().map(|run| run.len()).sum()
    }

    /// The smallest box around all pixels as [`Mask::bbox`]; `None` when the mask is empty.
    pub fn bbox(&self) -> Option<BoxXyxy> {
        let height = self.size[0];
        let (mut x0, mut y0, mut x1, mut y1) = (usize::MAX, usize::MAX, 0, 0);
        for run in self.runs().filter(|run| !run.is_empty()) {
            let (first, last) = (run.start, run.end - 1);
            let (left, right) = (first / height, last / height);
            let (top, bottom) = match left == right {
                true => (first % height, last % height + 1),
                false => (0, height),
            };
            (x0, y0) = (x0.min(left), y0.min(top));
            (x1, y1) = (x1.max(right + 1), y1.max(bottom));
        }
        (x1 > 0).then(|| BoxXyxy::from([x0 as f32, y0 as f32, x1 as f32, y1 as f32]))
    }

    /// The counts in COCO's compressed form: printable ASCII, 6 bits per character, each count
    /// from the fourth on as the difference to the one before the last.
    pub fn to_compressed(&self) -> String {
        let mut text = String::new();
        for (i, &count) in self.counts.iter().enumerate() {
            let mut rest = i64::from(count);
            if i > 2 {
                rest -= i64::from(self.counts[i - 2]);
            }
            loop {
                let mut bits = (rest & 0x1f) as u8;
                rest >>= 5;
                // Done when what is left is only the sign of the last five bits.
                let more = rest != if bits & 0x10 != 0 { -1 } else { 0 };
                if more {
                    bits |= 0x20;
                }
                text.push(char::from(bits + 48));
                if !more {
                    break;
                }
            }
        }
        text
    }

    /// Reads COCO's compressed counts for a mask of `size` (height, width).
    ///
    /// # Errors
    /// [`Error::InvalidMask`] when the text is not such a list, or does not add up to the size, or
    /// that is absurd.
    pub fn from_compressed(size: [usize; 2], text: &str) -> Result<Self> {
        let broken = |why: &str| Error::InvalidMask(format!("run-length mask: {why}"));
        let mut counts: Vec<u32> = Vec::new();
        let mut bytes = text.bytes();
        while bytes.len() > 0 {
            let (mut value, mut shift) = (0i64, 0);
            loop {
                let byte = bytes
                    .next()
                    .ok_or_else(|| broken("the counts end within a number"))?;
                let bits = byte
                    .checked_sub(48)
                    .filter(|bits| *bits < 64)
                    .ok_or_else(|| broken("the counts hold a character outside '0'..'o'"))?;
                value |= i64::from(bits & 0x1f) << shift;
                shift += 5;
                if bits & 0x20 == 0 {
                    if bits & 0x10 != 0 {
                        value |= -1 << shift;
                    }
                    break;
                }
                if shift > 35 {
                    return Err(broken("a count is longer than 32 bits"));
                }
            }
            if counts.len() > 2 {
                value += i64::from(counts[counts.len() - 2]);
            }
            counts.push(
                u32::try_from(value).map_err(|_| broken("a count is negative or over 32 bits"))?,
            );
        }
        Self { size, counts }.checked()
    }

    fn checked(self) -> Result<Self> {
        self.check().map(|()| self)
    }

    fn check(&self) -> Result<()> {
        let [height, width] = self.size;
        if height.max(width) > MAX_SIDE || height as u64 * width as u64 > MAX_AREA {
            return Err(Error::InvalidMask(format!(
                "run-length mask of {height} x {width} pixels; at most {MAX_AREA} in all, and \
                 {MAX_SIDE} along a side, can be"
            )));
        }
        let total: u64 = self.counts.iter().map(|&count| u64::from(count)).sum();
        if height as u64 * width as u64 == total {
            return Ok(());
        }
        Err(Error::InvalidMask(format!(
            "run-length mask: the counts add up to {total} pixels, {height} x {width} are needed"
        )))
    }

    /// The runs inside the mask, as positions down the columns.
    pub(super) fn runs(&self) -> impl Iterator<Item = std::ops::Range<usize>> + '_ {
        let mut position = 0;
        self.counts
            .iter()
            .enumerate()
            .filter_map(move |(i, &count)| {
                let start = position;
                position += count as usize;
                (i % 2 == 1).then_some(start..position)
            })
    }
}

#[derive(Serialize, Deserialize)]
struct Document {
    size: [usize; 2],
    counts: Counts,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Counts {
    Compressed(String),
    Plain(Vec<u32>),
}

/// As its run lengths.
impl Serialize for Mask {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Rle::encode(self).serialize(serializer)
    }
}

impl Serialize for Rle {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Document {
            size: self.size,
            counts: Counts::Compressed(self.to_compressed()),
        }
        .serialize(serializer)
    }
}

impl TryFrom<Document> for Rle {
    type Error = Error;

    fn try_from(Document { size, counts }: Document) -> Result<Self> {
        match counts {
            Counts::Compressed(text) => Self::from_compressed(size, &text),
            Counts::Plain(counts) => Self { size, counts }.checked(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mask::tests::{drawn, noise};

    #[derive(Deserialize)]
    struct Golden {
        name: String,
        rows: Vec<String>,
        rle: Document,
        area: usize,
        /// Left, top, width, height; zeros for an empty mask.
        bbox: [f32; 4],
    }

    fn goldens() -> Vec<Golden> {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/rle.json");
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    }

    #[test]
    fn every_byte_equals_pycocotools() {
        let goldens = goldens();
        assert_eq!(goldens.len(), 12);
        for golden in goldens {
            let rows: Vec<&str> = golden.rows.iter().map(String::as_str).collect();
            let mask = drawn(&rows);
            let rle = Rle::encode(&mask);
            let Counts::Compressed(want) = golden.rle.counts else {
                panic!("{}: counts must be compressed", golden.name);
            };
            assert_eq!(rle.size, golden.rle.size, "{}", golden.name);
            assert_eq!(rle.to_compressed(), want, "{}", golden.name);
            assert_eq!(rle.area(), golden.area, "{}", golden.name);
            let bbox = rle.bbox().map_or([0.0; 4], BoxXyxy::to_xywh);
            assert_eq!(bbox, golden.bbox, "{}", golden.name);

            let read = Rle::from_compressed(golden.rle.size, &want).unwrap();
            assert_eq!(read, rle, "{}", golden.name);
            assert_eq!(read.decode().unwrap(), mask, "{}", golden.name);
        }
    }

    #[test]
    fn masks_of_any_width_come_back() {
        for (width, height) in [
            (1, 1),
            (64, 3),
            (65, 3),
            (63, 64),
            (129, 2),
            (200, 1),
            (1, 200),
        ] {
            for percent in [0, 5, 50, 100] {
                let mask = noise(width, height, 7, percent);
                let rle = Rle::encode(&mask);
                assert_eq!(rle.decode().unwrap(), mask, "{width}x{height}, {percent} %");
                assert_eq!(rle.area(), mask.area());
                assert_eq!(rle.bbox(), mask.bbox());
            }
        }
    }

    #[test]
    fn the_first_run_is_outside() {
        assert_eq!(Rle::encode(&drawn(&["#.", "#."])).counts, [0, 2, 2]);
        assert_eq!(Rle::encode(&drawn(&["..", "##"])).counts, [1, 1, 1, 1]);
        assert_eq!(Rle::encode(&drawn(&["...", "..."])).counts, [6]);
    }

    #[test]
    fn json_has_size_and_compressed_counts_and_plain_counts_can_be_read() {
        let rle = Rle::encode(&drawn(&[".#.", "##."]));
        let text = serde_json::to_string(&rle).unwrap();
        assert_eq!(text, r#"{"size":[2,3],"counts":"132"}"#);
        assert_eq!(
            serde_json::to_string(&drawn(&[".#.", "##."])).unwrap(),
            text
        );
        assert_eq!(serde_json::from_str::<Rle>(&text).unwrap(), rle);
        let plain = r#"{"size":[2,3],"counts":[1,3,2]}"#;
        assert_eq!(serde_json::from_str::<Rle>(plain).unwrap(), rle);
    }

    #[test]
    fn sizes_of_no_picture_are_refused() {
        for [height, width] in [
            [1 << 32, 1 << 32], // no pixels, in 64 bits
            [usize::MAX, 0],
            [1 << 20, 1 << 20],
        ] {
            let text = format!(r#"{{"size":[{height},{width}],"counts":[]}}"#);
            let error = serde_json::from_str::<Rle>(&text).unwrap_err().to_string();
            assert!(error.contains("along a side"), "{error}");
        }
        assert!(Rle::from_compressed([0, 1 << 20], "").is_ok());
    }

    #[test]
    fn broken_counts_are_refused() {
        for (text, why) in [
            ("13", "add up to 4"),
            ("1\u{7f}", "character"),
            ("1 2", "character"),
            ("1R", "within a number"),
            ("1oooooooooo2", "longer"),
            ("1O", "negative"),
        ] {
            let error = Rle::from_compressed([2, 3], text).unwrap_err().to_string();
            assert!(error.contains(why), "{text:?}: {error}");
        }
        let short = r#"{"size":[2,3],"counts":[1,3]}"#;
        assert!(serde_json::from_str::<Rle>(short).is_err());
    }
}
