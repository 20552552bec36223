//! Giving back what arming took.
//!
//! The BPF loader reads all of the kernel's types into some twenty megabytes of small pieces, and drops
//! them; the C library keeps the room for the next time, which never comes.

#![expect(
    unsafe_code,
    reason = "one call of the C library that no safe crate offers"
)]

use std::{thread, time::Duration};

/// When the loader's pieces are surely dropped; the library does that beside its work.
const SETTLED: Duration = Duration::from_millis(300);

/// Returns unused memory to the system, once things have settled.
pub(crate) fn give_back() {
    let trim = || {
        thread::sleep(SETTLED);
        #[cfg(all(target_os = "linux", target_env = "gnu"))]
        // SAFETY: takes no pointer, and the allocator locks what it walks.
        unsafe {
            libc::malloc_trim(0);
        }
    };
    // Without a thread the memory stays; nothing else depends on it.
    let _ = thread::Builder::new()
        .name("trim".into())
        .stack_size(64 << 10)
        .spawn(trim);
}
