//! What products are made of, and how their operands lie in memory.
//!
//! A packed operand is a list of elements of 32 bits: one f32, or two bf16 that follow each other
//! in the summation. It is a list of f32 in either case, so that all code but the packing and the
//! innermost loop is the same.

/// What products are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// f32.
    Single,
    /// Both factors rounded to bf16, two products at a time.
    Pairs,
    /// Both factors split in two bf16, a high and a low part: three products of parts give that of
    /// the factors within some 1e-5. Where one factor is infinite, so is the product; where both
    /// are, it is not a number.
    Split,
}

impl Format {
    /// All formats.
    #[cfg(test)]
    pub const ALL: [Self; 3] = [Self::Single, Self::Pairs, Self::Split];
}

/// How a packed operand lies in memory. Its width is the number of rows of a left, of columns of a
/// right operand.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))] // tiles are AMX's
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// [elements][width], an element is a f32.
    Singles,
    /// [elements][width], an element is two bf16, the first in the low bits.
    Pairs,
    /// [groups of 16 elements][parts][width][16] of pairs: the left operand of AMX.
    LeftTiles {
        /// Whether there are two parts, high and low, or one.
        split: bool,
    },
    /// [groups of 16 elements][parts][16][width] of pairs: the right operand of AMX.
    RightTiles {
        /// As in [`Self::LeftTiles`].
        split: bool,
    },
}

/// Values in a group of 16 pairs: a row of a left tile, a column of a right one.
pub const GROUP: usize = 32;

impl Layout {
    /// Values to an element.
    pub fn values(self) -> usize {
        match self {
            Self::Singles => 1,
            Self::Pairs => 2,
            Self::LeftTiles { split } | Self::RightTiles { split } => match split {
                true => 1, // one for two parts
                false => 2,
            },
        }
    }

    /// Elements that hold `len` values; zeros fill up the last one, or the last group.
    pub fn elements(self, len: usize) -> usize {
        match self {
            Self::Singles | Self::Pairs => len.div_ceil(self.values()),
            _ => len.next_multiple_of(GROUP) / self.values(),
        }
    }
}
