//! What the C library does with memory that is free. Other ones than glibc have no such calls, and no such habits.

/// Lets all threads take memory from one heap, in place of one each: what was parsed to load programs is hundreds of
/// thousands of small pieces, and a heap that a thread keeps to itself keeps them. To be called before there are threads.
pub fn share_one_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes no pointer; that it did not work, which it tells, costs memory alone.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Gives memory that was freed back to the system.
pub(crate) fn release_freed() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes no pointer and may be called at any time, from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}
