//! Resizes as tables of sums, for a device that takes them with operations of its own.

/// One pass of a resize: sample i of the result is the sum of `taps` source samples from `starts[i]` on,
/// weighted.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Pass<W> {
    /// Along rows; else along columns.
    pub is_horizontal: bool,
    /// The first source sample of each sample of the result.
    pub starts: Vec<usize>,
    /// Source samples of each.
    pub taps: usize,
    /// `taps` weights for each.
    pub weights: Vec<W>,
}

/// A pass of integers whose sums are rounded to 8 bits.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct IntegerPass<W> {
    pub sums: Pass<W>,
    /// Fractional bits of the weights.
    pub bits: u32,
}

impl<W: Copy> Pass<W> {
    /// Of each tap, the source sample of each sample of the result.
    pub fn indices(&self, source: usize) -> Vec<u32> {
        let last = source.saturating_sub(1);
        let of_tap = |tap: usize| self.starts.iter().map(move |start| (start + tap).min(last));
        (0..self.taps)
            .flat_map(of_tap)
            .map(|index| index as u32)
            .collect()
    }

    /// Of each tap, its weight in each sample of the result.
    pub fn weights_by_tap(&self) -> Vec<W> {
        let of_tap = |tap: usize| self.weights.iter().skip(tap).step_by(self.taps).copied();
        (0..self.taps).flat_map(of_tap).collect()
    }
}
