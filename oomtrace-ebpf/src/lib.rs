//! What crosses the boundary between the kernel side and user space.
//!
//! The kernel side reads, fills a record and submits it, or counts the loss. It decides nothing and
//! formats nothing. This library holds the two things that both sides must agree on to the byte:
//!
//! * [`event`]: the records that travel in the two ring buffers, and the counters beside them;
//! * [`layout`]: the list of kernel struct members that the kernel side reads. User space finds the
//!   offset of each in the running kernel's BTF and hands the table over before the programs load.
//!
//! It may not hold logic, `unsafe`, or anything that depends on the kernel version.
#![no_std]
#![forbid(unsafe_code)]

pub mod event;
pub mod layout;
