//! Typed reads of kernel structs; the only file on this side that knows an offset.
//!
//! A pointer that the verifier knows the type of can be read with a plain load, at a third of the cost of
//! the helper `bpf_probe_read_kernel`. [`Direct`] does that, [`Probe`] calls the helper; code that works
//! for both is generic over [`Mem`]. Only the walk is worth direct loads. Elsewhere they cost more than
//! they save: for each pointer loaded from an argument, verifiers since 6.4 search all of the kernel's
//! types by name, which took 60 ms where the whole program now takes 5.

use core::mem::MaybeUninit;

use aya_ebpf::helpers::generated::bpf_probe_read_kernel;
use oomtrace_ebpf::layout::{self, ABSENT, kfunc};

use crate::state::offset;

/// An address in the kernel.
pub(crate) type Address = *const u8;

/// A way to read kernel memory.
pub(crate) trait Mem {
    /// Reads a value at `base + at`; zero if that faults.
    fn read<T: Copy>(base: Address, at: u32) -> T;
}

/// Plain loads through pointers that the verifier knows.
pub(crate) struct Direct;

impl Mem for Direct {
    #[inline(always)]
    fn read<T: Copy>(base: Address, at: u32) -> T {
        // SAFETY: the verifier accepts this load only through a pointer into a kernel struct whose
        // BTF has a member at that offset, and turns a fault into a zero.
        unsafe { base.add(at as usize).cast::<T>().read_volatile() }
    }
}

type ReadOnlyCast = unsafe extern "C" fn(Address, u32) -> Address;

/// A task at an address, for direct loads.
///
/// `bpf_rdonly_cast` (since v6.2, a35b9af4ec2c) costs nothing at run time: it tells the verifier what is
/// there, and loads through the result turn a fault into a zero.
#[inline(always)]
pub(crate) fn task_at(address: u64) -> Address {
    // SAFETY: user space rewrites a call of this number into a call of the kernel function of this
    // signature before the program is loaded.
    unsafe {
        let cast = core::mem::transmute::<usize, ReadOnlyCast>(kfunc::RDONLY_CAST as usize);
        cast(address as Address, offset(layout::TASK_BTF_ID))
    }
}

/// Reads through the helper.
pub(crate) struct Probe;

impl Mem for Probe {
    #[inline(always)]
    fn read<T: Copy>(base: Address, at: u32) -> T {
        let mut value = MaybeUninit::<T>::zeroed();
        // SAFETY: the helper fills exactly the bytes of `value`, or zeroes them when it faults.
        unsafe {
            bpf_probe_read_kernel(
                value.as_mut_ptr().cast(),
                size_of::<T>() as u32,
                base.wrapping_add(at as usize).cast(),
            );
            value.assume_init()
        }
    }
}

/// Whether the running kernel has a member.
#[inline(always)]
pub(crate) fn has(entry: usize) -> bool {
    offset(entry) != ABSENT
}

/// A member of `base`.
#[inline(always)]
pub(crate) fn get<M: Mem, T: Copy>(base: Address, entry: usize) -> T {
    M::read(base, offset(entry))
}

/// A member of `base` that the kernel may not have.
#[inline(always)]
pub(crate) fn get_or<M: Mem, T: Copy>(base: Address, entry: usize, absent: T) -> T {
    if has(entry) {
        get::<M, T>(base, entry)
    } else {
        absent
    }
}

/// A pointer that is a member of `base`.
#[inline(always)]
pub(crate) fn follow<M: Mem>(base: Address, entry: usize) -> Address {
    get::<M, Address>(base, entry)
}
