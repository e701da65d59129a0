//! Floor 0: mask arithmetic in plain Rust.
//!
//! A [`Mask`] has the size of the original image; x goes right, y goes down.

pub mod boxes;
pub mod contour;
pub mod nms;
pub mod polygon;
pub mod regions;
pub mod rle;
mod runs;
pub mod stability;
pub mod upsample;

pub use boxes::BoxXyxy;
pub use rle::Rle;

use image::GrayImage;

use crate::size::Size;

const BITS: usize = u64::BITS as usize;

/// A binary mask, one bit per pixel.
///
/// Rows are padded to whole 64-bit words, so that area, overlap and neighbourhoods are word
/// operations and a 1800x1200 mask takes 0.3 MB.
#[derive(Clone, PartialEq, Eq)]
pub struct Mask {
    width: usize,
    height: usize,
    /// Words per row; bit b of word w is pixel x = 64 w + b. Bits from `width` on are zero.
    stride: usize,
    words: Vec<u64>,
}

impl Mask {
    /// An empty mask.
    pub fn new(width: usize, height: usize) -> Self {
        let stride = width.div_ceil(BITS);
        Self {
            width,
            height,
            stride,
            words: vec![0; stride * height],
        }
    }

    /// The pixels (x, y) for which `inside` holds.
    pub fn from_fn(width: usize, height: usize, inside: impl Fn(usize, usize) -> bool) -> Self {
        let mut mask = Self::new(width, height);
        for y in 0..height {
            for x in 0..width {
                if inside(x, y) {
                    mask.set(x, y, true);
                }
            }
        }
        mask
    }

    /// From rows of whole bytes, whose bit b of byte i is pixel x = 8 i + b; bits from `width` on are
    /// not looked at. `None` for another number of bytes.
    pub(crate) fn from_packed_rows(width: usize, height: usize, bytes: &[u8]) -> Option<Self> {
        let row = width.div_ceil(8);
        if bytes.len() != row * height {
            return None;
        }
        let mut mask = Self::new(width, height);
        if bytes.is_empty() {
            return Some(mask);
        }
        let rows = bytes.chunks_exact(row);
        for (words, bytes) in mask.words.chunks_exact_mut(mask.stride).zip(rows) {
            for (word, bytes) in words.iter_mut().zip(bytes.chunks(8)) {
                let mut eight = [0; 8];
                eight[..bytes.len()].copy_from_slice(bytes);
                *word = u64::from_le_bytes(eight);
            }
        }
        mask.clear_padding();
        Some(mask)
    }

    /// Width and height in pixels.
    pub fn size(&self) -> Size {
        Size::new(self.width, self.height)
    }

    /// Pixels per row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Number of rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// True if the pixel is in the mask; `false` outside the image.
    pub fn get(&self, x: usize, y: usize) -> bool {
        x < self.width
            && y < self.height
            && self.words[y * self.stride + x / BITS] >> (x % BITS) & 1 == 1
    }

    /// Puts the pixel in the mask or takes it out; without effect outside the image.
    pub fn set(&mut self, x: usize, y: usize, inside: bool) {
        if x >= self.width || y >= self.height {
            return;
        }
        let bit = 1 << (x % BITS);
        let word = &mut self.words[y * self.stride + x / BITS];
        if inside {
            *word |= bit;
        } else {
            *word &= !bit;
        }
    }

    /// Number of pixels in the mask.
    pub fn area(&self) -> usize {
        count(self.words.iter().copied())
    }

    /// True if no pixel is in the mask.
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|&word| word == 0)
    }

    /// The smallest box around all pixels, edge to edge: a single pixel (x, y) gives
    /// (x, y, x + 1, y + 1). `None` when the mask is empty.
    pub fn bbox(&self) -> Option<BoxXyxy> {
        let extent = self.extent()?;
        Some(BoxXyxy {
            x0: extent.columns.start as f32,
            y0: extent.rows.start as f32,
            x1: extent.columns.end as f32,
            y1: extent.rows.end as f32,
        })
    }

    /// The columns and rows between which all pixels lie. `None` when the mask is empty.
    pub(crate) fn extent(&self) -> Option<Extent> {
        let mut any_row = vec![0u64; self.stride];
        let (mut top, mut bottom) = (None, 0);
        for y in 0..self.height {
            let row = self.row(y);
            if row.iter().any(|&word| word != 0) {
                top.get_or_insert(y);
                bottom = y + 1;
                for (any, word) in any_row.iter_mut().zip(row) {
                    *any |= word;
                }
            }
        }
        let first = any_row.iter().position(|&word| word != 0)?;
        let last = any_row.iter().rposition(|&word| word != 0)?;
        Some(Extent {
            columns: first * BITS + any_row[first].trailing_zeros() as usize
                ..(last + 1) * BITS - any_row[last].leading_zeros() as usize,
            rows: top?..bottom,
        })
    }

    /// Number of pixels in both masks; 0 when the masks differ in size.
    pub fn intersection(&self, other: &Self) -> usize {
        if (self.width, self.height) != (other.width, other.height) {
            return 0;
        }
        count(self.words.iter().zip(&other.words).map(|(a, b)| a & b))
    }

    /// Intersection over union in 0..=1; 0 when both are empty or the masks differ in size.
    pub fn iou(&self, other: &Self) -> f32 {
        let intersection = self.intersection(other);
        let union = self.area() + other.area() - intersection;
        if union == 0 {
            return 0.0;
        }
        (intersection as f64 / union as f64) as f32
    }

    /// Intersection over the smaller area in 0..=1; 0 when a mask is empty or they differ in size.
    pub fn iom(&self, other: &Self) -> f32 {
        let smaller = self.area().min(other.area());
        if smaller == 0 {
            return 0.0;
        }
        (self.intersection(other) as f64 / smaller as f64) as f32
    }

    /// Puts all pixels of `other` in; without effect when the masks differ in size.
    pub fn unite(&mut self, other: &Self) {
        if (self.width, self.height) == (other.width, other.height) {
            for (word, other) in self.words.iter_mut().zip(&other.words) {
                *word |= other;
            }
        }
    }

    /// Takes all pixels of `other` out; without effect when the masks differ in size.
    pub fn subtract(&mut self, other: &Self) {
        if (self.width, self.height) == (other.width, other.height) {
            for (word, other) in self.words.iter_mut().zip(&other.words) {
                *word &= !other;
            }
        }
    }

    /// The mask as a part of a larger one of `width` x `height` pixels, its corner at (`x0`, `y0`);
    /// what lies outside is lost.
    pub fn placed(&self, x0: usize, y0: usize, width: usize, height: usize) -> Self {
        let mut placed = Self::new(width, height);
        for y in 0..self.height {
            for run in self.runs(y) {
                placed.set_run(y0 + y, x0 + run.start..x0 + run.end, true);
            }
        }
        placed
    }

    /// The part within `extent`, which must lie in the mask.
    pub(crate) fn cropped(&self, extent: &Extent) -> Self {
        let (columns, rows) = (&extent.columns, &extent.rows);
        let mut cropped = Self::new(columns.len(), rows.len());
        let (skipped, shift) = (columns.start / BITS, columns.start % BITS);
        for (to, y) in rows.clone().enumerate() {
            let from = &self.row(y)[skipped..];
            for (i, word) in cropped.row_mut(to).iter_mut().enumerate() {
                let high = from.get(i + 1).filter(|_| shift > 0);
                *word = from[i] >> shift | high.map_or(0, |high| high << (BITS - shift));
            }
        }
        cropped.clear_padding();
        cropped
    }

    /// Takes out what lies beyond the last column.
    fn clear_padding(&mut self) {
        let used = self.width % BITS;
        if used > 0 {
            for row in self.words.chunks_exact_mut(self.stride) {
                row[self.stride - 1] &= (1 << used) - 1;
            }
        }
    }

    /// One byte per pixel, rows from the top: `inside` for pixels of the mask and 0 for the rest.
    pub fn to_bytes(&self, inside: u8) -> Vec<u8> {
        let mut bytes = vec![0; self.width * self.height];
        for span in self.spans(self.size()) {
            bytes[span].fill(inside);
        }
        bytes
    }

    /// The words of row `y`.
    fn row(&self, y: usize) -> &[u64] {
        &self.words[y * self.stride..][..self.stride]
    }

    fn row_mut(&mut self, y: usize) -> &mut [u64] {
        &mut self.words[y * self.stride..][..self.stride]
    }

    /// The runs of consecutive mask pixels of row `y`, from the left.
    pub(crate) fn runs(&self, y: usize) -> impl Iterator<Item = std::ops::Range<usize>> + '_ {
        runs(self.row(y))
    }

    /// The runs of all rows as positions by rows in a map of `size`, as far as they lie in it.
    pub(crate) fn spans(&self, size: Size) -> impl Iterator<Item = std::ops::Range<usize>> + '_ {
        let Size { width, height } = size;
        (0..self.height.min(height)).flat_map(move |y| {
            let place = move |x: usize| y * width + x.min(width);
            self.runs(y)
                .map(move |run| place(run.start)..place(run.end))
        })
    }

    /// Puts the pixels of one run of row `y` in the mask or takes them out.
    fn set_run(&mut self, y: usize, run: std::ops::Range<usize>, inside: bool) {
        for x in run {
            self.set(x, y, inside);
        }
    }
}

/// Columns and rows, end excluded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) columns: std::ops::Range<usize>,
    pub(crate) rows: std::ops::Range<usize>,
}

impl Extent {
    /// What both have in common; `None` if that is nothing.
    pub(crate) fn intersection(&self, other: &Self) -> Option<Self> {
        let common = |a: &std::ops::Range<usize>, b: &std::ops::Range<usize>| {
            a.start.max(b.start)..a.end.min(b.end)
        };
        let columns = common(&self.columns, &other.columns);
        let rows = common(&self.rows, &other.rows);
        (!columns.is_empty() && !rows.is_empty()).then_some(Self { columns, rows })
    }
}

/// 255 in the mask and 0 elsewhere.
impl From<&Mask> for GrayImage {
    fn from(mask: &Mask) -> Self {
        let (width, height) = (mask.width as u32, mask.height as u32);
        Self::from_raw(width, height, mask.to_bytes(255)).expect("a mask has a byte for each pixel")
    }
}

/// Pixels of 128 and above are in the mask: those of the 255 that this library and others write, and the
/// inner half of an edge that was drawn smooth.
impl From<&GrayImage> for Mask {
    fn from(image: &GrayImage) -> Self {
        let (width, height) = (image.width() as usize, image.height() as usize);
        let pixels = image.as_raw();
        Self::from_fn(width, height, |x, y| pixels[y * width + x] >= 128)
    }
}

impl std::fmt::Debug for Mask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { width, height, .. } = self;
        write!(f, "Mask({width}x{height}, area {})", self.area())
    }
}

fn count(words: impl Iterator<Item = u64>) -> usize {
    words.map(|word| word.count_ones() as usize).sum()
}

/// The runs of ones in a row of words.
fn runs(row: &[u64]) -> impl Iterator<Item = std::ops::Range<usize>> + '_ {
    // The first position at or after `from` whose bit is `one`.
    let next = move |from: usize, one: bool| {
        let flip = if one { 0 } else { u64::MAX };
        let mut index = from / BITS;
        let mut word = (row.get(index)? ^ flip) & (u64::MAX << (from % BITS));
        while word == 0 {
            index += 1;
            word = row.get(index)? ^ flip;
        }
        Some(index * BITS + word.trailing_zeros() as usize)
    };
    let mut position = 0;
    std::iter::from_fn(move || {
        let start = next(position, true)?;
        position = next(start, false).unwrap_or(row.len() * BITS);
        Some(start..position)
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A mask drawn in text: `#` is inside, lines are rows.
    pub(crate) fn drawn(rows: &[&str]) -> Mask {
        let width = rows.first().map_or(0, |row| row.len());
        Mask::from_fn(width, rows.len(), |x, y| rows[y].as_bytes()[x] == b'#')
    }

    #[test]
    fn a_gray_image_and_a_mask_become_each_other() {
        let mask = noise(67, 5, 3, 40);
        assert_eq!(Mask::from(&GrayImage::from(&mask)), mask);
        let smooth = GrayImage::from_raw(3, 1, vec![127, 128, 1]).unwrap();
        assert_eq!(Mask::from(&smooth), drawn(&[".#."]));
    }

    /// Pixels that look random and depend only on the arguments.
    pub(crate) fn noise(width: usize, height: usize, seed: u64, percent: u64) -> Mask {
        Mask::from_fn(width, height, |x, y| {
            let mut z = seed
                .wrapping_add((y * 65_537 + x) as u64)
                .wrapping_mul(0x9e37_79b9_7f4a_7c15);
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            (z ^ (z >> 31)) % 100 < percent
        })
    }

    #[test]
    fn pixels_can_be_set_and_cleared_and_nothing_lies_outside() {
        let mut mask = Mask::new(130, 3);
        for x in [0, 63, 64, 127, 128, 129] {
            mask.set(x, 1, true);
            assert!(mask.get(x, 1));
        }
        mask.set(130, 1, true);
        mask.set(0, 3, true);
        assert_eq!(mask.area(), 6);
        assert!(!mask.get(130, 1) && !mask.get(0, 3) && !mask.get(1, 1));
        mask.set(64, 1, false);
        assert_eq!(mask.area(), 5);
    }

    #[test]
    fn the_box_goes_from_edge_to_edge() {
        let mut mask = Mask::new(200, 50);
        assert_eq!(mask.bbox(), None);
        mask.set(70, 5, true);
        let single = BoxXyxy {
            x0: 70.0,
            y0: 5.0,
            x1: 71.0,
            y1: 6.0,
        };
        assert_eq!(mask.bbox(), Some(single));
        mask.set(199, 49, true);
        mask.set(3, 20, true);
        let all = BoxXyxy {
            x0: 3.0,
            y0: 5.0,
            x1: 200.0,
            y1: 50.0,
        };
        assert_eq!(mask.bbox(), Some(all));
    }

    #[test]
    fn overlap_is_counted_per_pixel() {
        let left = Mask::from_fn(100, 10, |x, _| x < 60);
        let right = Mask::from_fn(100, 10, |x, _| x >= 40);
        assert_eq!(left.intersection(&right), 200);
        assert_eq!(left.iou(&right), 0.2);
        assert_eq!(left.iou(&left), 1.0);
        assert_eq!(Mask::new(100, 10).iou(&Mask::new(100, 10)), 0.0);
        assert_eq!(left.iou(&Mask::from_fn(10, 100, |_, _| true)), 0.0);
    }

    #[test]
    fn masks_can_be_united_and_subtracted() {
        let left = Mask::from_fn(100, 10, |x, _| x < 60);
        let right = Mask::from_fn(100, 10, |x, _| x >= 40);
        let (mut all, mut rest) = (left.clone(), left.clone());
        all.unite(&right);
        rest.subtract(&right);
        assert_eq!(all.area(), 1000);
        assert_eq!(rest, Mask::from_fn(100, 10, |x, _| x < 40));
        all.subtract(&Mask::from_fn(10, 100, |_, _| true));
        assert_eq!(all.area(), 1000);
    }

    #[test]
    fn a_part_is_placed_in_the_whole_and_cut_at_its_edge() {
        let part = noise(70, 9, 4, 50);
        let whole = part.placed(90, 5, 150, 12);
        let want = Mask::from_fn(150, 12, |x, y| x >= 90 && y >= 5 && part.get(x - 90, y - 5));
        assert_eq!(whole, want);
        assert_eq!(part.placed(0, 0, 70, 9), part);
    }

    #[test]
    fn a_crop_is_the_pixels_of_the_extent() {
        let mask = noise(200, 9, 5, 50);
        for columns in [0..200, 64..128, 3..199, 70..71, 63..65] {
            let (left, rows) = (columns.start, 2..7);
            let crop = mask.cropped(&Extent { columns, rows });
            let (width, height) = (crop.width(), crop.height());
            let want = Mask::from_fn(width, height, |x, y| mask.get(x + left, y + 2));
            assert_eq!(crop, want);
        }
    }

    #[test]
    fn bytes_follow_the_pixels() {
        let mask = noise(131, 7, 1, 50);
        let bytes = mask.to_bytes(255);
        for y in 0..7 {
            for x in 0..131 {
                assert_eq!(bytes[y * 131 + x], if mask.get(x, y) { 255 } else { 0 });
            }
        }
    }

    #[test]
    fn runs_cross_words() {
        let mask = Mask::from_fn(256, 1, |x, _| {
            (60..130).contains(&x) || x == 200 || x >= 250
        });
        let runs: Vec<_> = mask.runs(0).collect();
        assert_eq!(runs, [60..130, 200..201, 250..256]);
        assert_eq!(Mask::new(256, 1).runs(0).count(), 0);
        assert_eq!(
            Mask::from_fn(64, 1, |_, _| true).runs(0).next(),
            Some(0..64)
        );
    }
}
