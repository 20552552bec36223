//! Root of the BPF object: licence, maps, panic handler, `mod` lines, no logic.
//!
//! What runs when is decided in user space, which loads the best program for each moment that the
//! running kernel accepts (see `oomtrace::source::live`).
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod emit;
mod kernel;
mod probe;
mod state;

/// The kernel grants GPL-only helpers to this, and it fits the project's own licences.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier refuses unreachable loops only when they can be reached; nothing here panics.
    loop {}
}
