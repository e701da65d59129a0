//! Keeps large blocks of memory for the next tensor of their size.
//!
//! Touching fresh memory costs as much as the arithmetic that fills it: the kernel clears every
//! page of 4 KiB on its first use, and gets it back when the tensor is dropped. A library must not
//! choose its users' allocator, so this one belongs to the command.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr::{self, NonNull};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Blocks from this size on are kept; smaller ones are the system's.
const LARGE: usize = 2 << 20;
/// Blocks are aligned to this, which is a page where the kernel is set to use large ones by itself.
const PAGE: usize = 2 << 20;
/// At most this much is kept while nobody uses it, and at most this many blocks.
const MAX_KEPT: usize = 512 << 20;
const MAX_BLOCKS: usize = 64;

/// The allocator of the command.
pub struct KeepLarge {
    kept: Mutex<Kept>,
}

impl KeepLarge {
    pub const fn new() -> Self {
        let kept = Kept {
            blocks: [Block { at: 0, size: 0 }; MAX_BLOCKS],
            len: 0,
            bytes: 0,
        };
        Self {
            kept: Mutex::new(kept),
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A block for at least `size` bytes, and whether it is known to be zero.
    fn take(&self, size: usize) -> Option<(NonNull<u8>, bool)> {
        let size = rounded(size)?;
        let kept = self.kept().take(size);
        match kept {
            Some(block) => Some((block, false)),
            None => Some((map(size)?, true)),
        }
    }
}

// SAFETY: large blocks come from `map` or from what was given back with the same rounded size, so
// they are long enough and aligned to a page; the layout that is passed back says which blocks
// are large. Everything else is the system's.
unsafe impl GlobalAlloc for KeepLarge {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !is_large(&layout) {
            // SAFETY: the caller's promises.
            return unsafe { System.alloc(layout) };
        }
        let block = self.take(layout.size());
        block.map_or(ptr::null_mut(), |(at, _)| at.as_ptr())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if !is_large(&layout) {
            // SAFETY: the caller's promises.
            return unsafe { System.alloc_zeroed(layout) };
        }
        let Some((at, is_zero)) = self.take(layout.size()) else {
            return ptr::null_mut();
        };
        if !is_zero {
            // SAFETY: the block has at least this size.
            unsafe { at.write_bytes(0, layout.size()) };
        }
        at.as_ptr()
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        if !is_large(&layout) {
            // SAFETY: the caller's promises.
            return unsafe { System.dealloc(at, layout) };
        }
        let size = rounded(layout.size()).unwrap_or(layout.size());
        self.kept().give(at as usize, size);
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller promises that the new size is valid for the alignment.
        let new_layout = unsafe { Layout::from_size_align_unchecked(new_size, layout.align()) };
        match (is_large(&layout), is_large(&new_layout)) {
            // SAFETY: the caller's promises.
            (false, false) => return unsafe { System.realloc(at, layout, new_size) },
            (true, true) if rounded(layout.size()) == rounded(new_size) => return at,
            _ => {}
        }
        // SAFETY: both blocks have at least the smaller size; the old one is not used again.
        unsafe {
            let moved = self.alloc(new_layout);
            if !moved.is_null() {
                moved.copy_from_nonoverlapping(at, layout.size().min(new_size));
                self.dealloc(at, layout);
            }
            moved
        }
    }
}

fn is_large(layout: &Layout) -> bool {
    layout.size() >= LARGE && layout.align() <= PAGE
}

/// Sizes in steps of at most an eighth, so that tensors of similar size share blocks.
fn rounded(size: usize) -> Option<usize> {
    let step = (size.checked_next_power_of_two()? / 16).max(PAGE);
    size.checked_next_multiple_of(step)
}

#[derive(Clone, Copy)]
struct Block {
    at: usize,
    size: usize,
}

/// Blocks that nobody uses, the oldest first.
struct Kept {
    blocks: [Block; MAX_BLOCKS],
    len: usize,
    bytes: usize,
}

impl Kept {
    fn take(&mut self, size: usize) -> Option<NonNull<u8>> {
        let newest = self.blocks[..self.len]
            .iter()
            .rposition(|block| block.size == size)?;
        NonNull::new(self.remove(newest).at as *mut u8)
    }

    fn give(&mut self, at: usize, size: usize) {
        if size > MAX_KEPT {
            return unmap(Block { at, size });
        }
        while self.len == MAX_BLOCKS || self.bytes + size > MAX_KEPT {
            unmap(self.remove(0));
        }
        self.blocks[self.len] = Block { at, size };
        self.len += 1;
        self.bytes += size;
    }

    fn remove(&mut self, index: usize) -> Block {
        let block = self.blocks[index];
        self.blocks.copy_within(index + 1..self.len, index);
        self.len -= 1;
        self.bytes -= block.size;
        block
    }
}

/// Fresh memory, zero, at a multiple of [`PAGE`].
fn map(size: usize) -> Option<NonNull<u8>> {
    let longer = size.checked_add(PAGE)?;
    // SAFETY: a new private mapping touches nobody's memory; what is cut off before and behind the
    // block belongs to it.
    unsafe {
        let start = libc::mmap(
            ptr::null_mut(),
            longer,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        );
        if start == libc::MAP_FAILED {
            return None;
        }
        let start = start.cast::<u8>();
        let before = start.align_offset(PAGE);
        let block = start.add(before);
        if before > 0 {
            libc::munmap(start.cast(), before);
        }
        libc::munmap(block.add(size).cast(), PAGE - before);
        NonNull::new(block)
    }
}

fn unmap(block: Block) {
    // SAFETY: the block is one of `map` and nobody uses it.
    unsafe { libc::munmap(block.at as *mut libc::c_void, block.size) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_used_again_and_zeroed_when_asked() {
        let allocator = KeepLarge::new();
        let layout = Layout::from_size_align(3 << 20, 64).unwrap();
        // SAFETY: blocks are written within their size and given back with their layout.
        unsafe {
            let first = allocator.alloc(layout);
            first.write_bytes(7, layout.size());
            allocator.dealloc(first, layout);
            let smaller = Layout::from_size_align((3 << 20) - 5, 64).unwrap();
            let second = allocator.alloc_zeroed(smaller);
            assert_eq!(first, second);
            let bytes = std::slice::from_raw_parts(second, smaller.size());
            assert!(bytes.iter().all(|byte| *byte == 0));
            allocator.dealloc(second, smaller);
        }
    }

    #[test]
    fn growing_keeps_what_was_written() {
        let allocator = KeepLarge::new();
        let small = Layout::from_size_align(1000, 8).unwrap();
        // SAFETY: as above.
        unsafe {
            let at = allocator.alloc(small);
            at.write_bytes(9, 1000);
            let grown = allocator.realloc(at, small, 5 << 20);
            let bytes = std::slice::from_raw_parts(grown, 1000);
            assert!(bytes.iter().all(|byte| *byte == 9));
            allocator.dealloc(grown, Layout::from_size_align(5 << 20, 8).unwrap());
        }
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let allocator = KeepLarge::new();
        let layout = Layout::from_size_align(100 << 20, 8).unwrap();
        let huge = Layout::from_size_align(MAX_KEPT + 1, 8).unwrap();
        // SAFETY: as above; nothing is written, so nothing is used.
        unsafe {
            let blocks: Vec<_> = (0..10).map(|_| allocator.alloc(layout)).collect();
            blocks
                .iter()
                .for_each(|block| allocator.dealloc(*block, layout));
            allocator.dealloc(allocator.alloc(huge), huge);
        }
        let kept = allocator.kept();
        assert!(kept.bytes <= MAX_KEPT && kept.len == 4, "{}", kept.len);
    }
}
