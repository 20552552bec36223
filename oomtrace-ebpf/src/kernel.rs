//! Typed reads of kernel structs; the only file on this side that knows an offset.
//!
//! A pointer that the verifier knows the type of can be read with a plain load, at a third of the cost of
//! the helper `bpf_probe_read_kernel`. [`Direct`] does that, [`Probe`] calls the helper; code that works
//! for both is generic over [`Mem`]. Only the walk is worth direct loads. Elsewhere they cost more than
//! they save: for each pointer loaded from an argument, verifiers since 6.4 search all of the kernel's
//! types by name, which took 60 ms where the whole program now takes 5.

use core::{arch::asm, mem::MaybeUninit};

use aya_ebpf::helpers::generated::bpf_probe_read_kernel;
use oomtrace_ebpf::layout::{self, ABSENT, STAND_IN, kfunc};

use crate::state::offset;

/// An address in the kernel.
pub(crate) type Address = *const u8;

/// What can be loaded from a struct.
pub(crate) trait Word: Copy {
    /// From the register it was loaded into.
    fn from_register(register: u64) -> Self;
}

macro_rules! word {
    ($($type:ty)*) => {
        $(impl Word for $type {
            #[inline(always)]
            fn from_register(register: u64) -> Self {
                register as $type
            }
        })*
    };
}

word!(u8 i16 u32 i32 u64 i64 Address);

/// A way to read members of kernel structs.
pub(crate) trait Mem {
    /// The member that `ENTRY` of the layout names; zero if reading it faults.
    fn load<T: Word, const ENTRY: usize>(base: Address) -> T;
}

/// Plain loads through pointers that the verifier knows.
///
/// The offset is a stand-in that user space replaces in the instruction itself. Taken from the table
/// instead, each load would need six instructions where now it is one.
pub(crate) struct Direct;

macro_rules! load {
    ($width:literal, $base:expr) => {{
        let register: u64;
        // SAFETY: the verifier accepts this load only through a pointer into a kernel struct whose BTF
        // has a member at that offset, and turns a fault into a zero.
        unsafe {
            asm!(
                concat!("{0} = *(", $width, " *)({1} + {2})"),
                out(reg) register,
                in(reg) $base,
                const STAND_IN + ENTRY,
                options(nostack, readonly),
            );
        }
        register
    }};
}

impl Mem for Direct {
    #[inline(always)]
    fn load<T: Word, const ENTRY: usize>(base: Address) -> T {
        T::from_register(match size_of::<T>() {
            1 => load!("u8", base),
            2 => load!("u16", base),
            4 => load!("u32", base),
            _ => load!("u64", base),
        })
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
    fn load<T: Word, const ENTRY: usize>(base: Address) -> T {
        Self::read(base, offset(ENTRY))
    }
}

impl Probe {
    /// Reads a value at `base + at`; zero if that faults.
    #[inline(always)]
    pub(crate) fn read<T: Copy>(base: Address, at: u32) -> T {
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
pub(crate) fn get<M: Mem, T: Word, const ENTRY: usize>(base: Address) -> T {
    M::load::<T, ENTRY>(base)
}

/// A member of `base` that the kernel may not have.
#[inline(always)]
pub(crate) fn get_or<M: Mem, T: Word, const ENTRY: usize>(base: Address, absent: T) -> T {
    if has(ENTRY) {
        get::<M, T, ENTRY>(base)
    } else {
        absent
    }
}

/// A pointer that is a member of `base`.
#[inline(always)]
pub(crate) fn follow<M: Mem, const ENTRY: usize>(base: Address) -> Address {
    get::<M, Address, ENTRY>(base)
}
