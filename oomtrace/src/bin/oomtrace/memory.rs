//! Giving back what is not needed between two kills.
//!
//! The BPF loader reads all of the kernel's types into some twenty megabytes of small pieces, and drops
//! them; an incident of ten thousand processes takes ten, and goes. The C library keeps the room for the
//! next time, on a machine that is short of it.

#![expect(
    unsafe_code,
    reason = "one call of the C library that no safe crate offers"
)]

/// Returns memory that is not in use to the system.
pub(crate) fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: takes no pointer, and the allocator locks what it walks.
    unsafe {
        libc::malloc_trim(0);
    }
}
