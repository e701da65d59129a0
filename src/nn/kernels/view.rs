//! Views of matrices: what kernels read, and what their tasks write.

use std::marker::PhantomData;

use candle::Result;

/// A view of a matrix: `count` rows of `len` values, `stride` apart.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    xs: &'a [f32],
    /// Values from one row to the next.
    pub(super) stride: usize,
    /// The number of rows.
    pub count: usize,
    /// Values in a row.
    pub len: usize,
}

impl<'a> Rows<'a> {
    /// The rows that start at the first value of `xs`.
    ///
    /// # Panics
    /// When `xs` is too short for them.
    pub fn new(xs: &'a [f32], stride: usize, count: usize, len: usize) -> Self {
        assert!(end(0, stride, count, len).is_some_and(|end| end <= xs.len()));
        Self {
            xs,
            stride,
            count,
            len,
        }
    }

    /// Rows `start..start + count`, or as many of them as there are.
    pub fn rows(self, start: usize, count: usize) -> Self {
        let start = start.min(self.count);
        Self {
            xs: &self.xs[(start * self.stride).min(self.xs.len())..],
            count: count.min(self.count - start),
            ..self
        }
    }

    /// Columns `start..start + len`, or as many of them as there are.
    pub fn columns(self, start: usize, len: usize) -> Self {
        let start = start.min(self.len);
        Self {
            xs: &self.xs[start.min(self.xs.len())..],
            len: len.min(self.len - start),
            ..self
        }
    }

    /// The values of a row.
    pub fn row(&self, i: usize) -> &'a [f32] {
        &self.xs[i * self.stride..][..self.len]
    }
}

/// Where `count` rows of `width` values end, `stride` apart, the first at `start`. None when that is
/// beyond any memory.
fn end(start: usize, stride: usize, count: usize, width: usize) -> Option<usize> {
    match count.checked_sub(1) {
        None => Some(start),
        Some(last) => last
            .checked_mul(stride)?
            .checked_add(width)?
            .checked_add(start),
    }
}

/// The number of values of a result of these `sizes`.
///
/// # Errors
/// When no process can hold as many f32.
pub fn elements(sizes: &[usize]) -> Result<usize> {
    const MAX: usize = isize::MAX as usize / size_of::<f32>();
    let all = match sizes.contains(&0) {
        true => Some(0),
        false => sizes
            .iter()
            .try_fold(1, |all: usize, size| all.checked_mul(*size)),
    };
    match all {
        Some(all) if all <= MAX => Ok(all),
        _ => candle::bail!("a result of {sizes:?} values does not fit into memory"),
    }
}

/// The first `len` values of memory that tasks use again: what they are is left over.
pub fn room(memory: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if memory.len() < len {
        memory.resize(len, 0.);
    }
    &mut memory[..len]
}

/// A new result of these `sizes`, filled by the tasks that `write` starts.
///
/// # Safety
/// When `write` returns without an error, each value has been written.
///
/// # Errors
/// When there is no memory for it, and those of `write`.
pub(super) unsafe fn filled(
    sizes: &[usize],
    write: impl FnOnce(Shared) -> Result<()>,
) -> Result<Vec<f32>> {
    let len = elements(sizes)?;
    let mut out = Vec::new();
    if out.try_reserve_exact(len).is_err() {
        candle::bail!("there is no memory for a result of {sizes:?} values");
    }
    if len > 0 {
        write(Shared {
            first: out.as_mut_ptr(),
            len,
        })?;
    }
    // SAFETY: there is room for as many, and the caller promises that they were written.
    unsafe { out.set_len(len) };
    Ok(out)
}

/// A result of which several tasks fill parts.
#[derive(Clone, Copy)]
pub(super) struct Shared {
    first: *mut f32,
    len: usize,
}

// SAFETY: whoever writes through it keeps to parts that no other task touches.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    /// All of `xs`.
    pub fn new(xs: &mut [f32]) -> Self {
        Self {
            first: xs.as_mut_ptr(),
            len: xs.len(),
        }
    }

    /// `count` rows of `width` elements, `stride` apart, the first at `index`.
    ///
    /// # Panics
    /// When they do not lie inside the result.
    ///
    /// # Safety
    /// The memory that this was made from outlives the block, and nobody else touches these rows as
    /// long as the block exists.
    pub unsafe fn block<'a>(
        self,
        index: usize,
        stride: usize,
        count: usize,
        width: usize,
    ) -> Block<'a> {
        assert!(end(index, stride, count, width).is_some_and(|end| end <= self.len));
        Block {
            first: self.first.wrapping_add(index),
            stride,
            count,
            width,
            of: PhantomData,
        }
    }
}

/// Rows of a matrix that one task writes.
pub struct Block<'a> {
    /// The first element of the first row.
    pub(super) first: *mut f32,
    /// Elements from one row to the next.
    pub(super) stride: usize,
    pub(super) count: usize,
    pub(super) width: usize,
    of: PhantomData<&'a mut [f32]>,
}

impl<'a> Block<'a> {
    /// All of `xs`, in rows of `width` elements.
    pub fn new(xs: &'a mut [f32], width: usize) -> Self {
        Self {
            first: xs.as_mut_ptr(),
            stride: width,
            count: xs.len() / width.max(1),
            width,
            of: PhantomData,
        }
    }

    /// The number of rows.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Elements of a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// All elements, row by row.
    ///
    /// # Panics
    /// When there are gaps between the rows.
    pub fn elements(&mut self) -> &mut [f32] {
        assert!(self.stride == self.width);
        // SAFETY: the rows are the block's, which is borrowed as long as the slice.
        unsafe { std::slice::from_raw_parts_mut(self.first, self.count * self.width) }
    }

    /// The elements of row `i`.
    ///
    /// # Panics
    /// When there is no such row.
    pub fn row(&mut self, i: usize) -> &mut [f32] {
        assert!(i < self.count);
        // SAFETY: the row is one of the block's, which is borrowed as long as the slice.
        unsafe { std::slice::from_raw_parts_mut(self.first.add(i * self.stride), self.width) }
    }

    /// Rows `start..start + count`, or as many of them as there are.
    pub fn rows(&mut self, start: usize, count: usize) -> Block<'_> {
        let start = start.min(self.count);
        Block {
            first: self.first.wrapping_add(start * self.stride),
            count: count.min(self.count - start),
            of: PhantomData,
            ..*self
        }
    }

    /// Columns `start..start + width`, or as many of them as there are.
    pub fn columns(&mut self, start: usize, width: usize) -> Block<'_> {
        let start = start.min(self.width);
        Block {
            first: self.first.wrapping_add(start),
            width: width.min(self.width - start),
            of: PhantomData,
            ..*self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_that_no_memory_holds_are_an_error() {
        assert_eq!(elements(&[]).unwrap(), 1);
        assert_eq!(elements(&[2, 3, 5]).unwrap(), 30);
        assert_eq!(elements(&[usize::MAX, 0, usize::MAX]).unwrap(), 0);
        for sizes in [
            &[1 << 32, 1 << 32, 2][..],
            &[usize::MAX / 4, 4],
            &[1 << 61],
            &[6_148_914_691_236_517_208, 3],
        ] {
            let error = elements(sizes).unwrap_err().to_string();
            assert!(error.contains("does not fit into memory"), "{error}");
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "an interpreter has no such memory to refuse")]
    fn memory_that_is_not_there_is_an_error() {
        // SAFETY: `write` is not called.
        let result = unsafe { filled(&[1 << 60], |_| unreachable!()) };
        let error = result.unwrap_err().to_string();
        assert!(error.contains("no memory"), "{error}");
    }

    #[test]
    #[should_panic]
    fn a_block_beyond_the_result_is_refused() {
        let mut xs = [0.; 6];
        // SAFETY: nobody else touches `xs`.
        unsafe { Shared::new(&mut xs).block(1, 3, 2, 3) };
    }

    #[test]
    #[should_panic]
    fn a_block_whose_end_wraps_around_is_refused() {
        let mut xs = [0.; 6];
        // SAFETY: nobody else touches `xs`.
        unsafe { Shared::new(&mut xs).block(0, usize::MAX / 2 + 1, 3, 1) };
    }

    #[test]
    #[should_panic]
    fn rows_whose_end_wraps_around_are_refused() {
        Rows::new(&[0.; 6], usize::MAX / 2 + 1, 3, 1);
    }
}
