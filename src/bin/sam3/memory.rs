//! What becomes of memory that a tensor gives back.

/// Keeps memory for the next tensor instead of giving it back to the system. To be called before there are
/// other threads.
///
/// Touching fresh memory costs up to as much as the arithmetic that fills it: the kernel clears every page
/// on its first use, and glibc gives large blocks back as soon as they are free. A library must not make
/// this choice for its users, so the command makes it.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn keep() {
    /// What may lie unused at the end of the heap.
    const KEPT: libc::c_int = 512 << 20;
    // SAFETY: mallopt only sets numbers of the allocator, and no other thread uses it yet.
    unsafe {
        libc::mallopt(libc::M_MMAP_MAX, 0); // no block is a mapping of its own
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT);
    }
}

/// Other allocators are left as they are.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn keep() {}
