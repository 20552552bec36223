//! The committed BPF object, made fit for the running kernel.

use std::borrow::Cow;

use crate::error::{Error, Result};

/// What `cargo xtask build-ebpf` builds from the package `oomtrace-ebpf`.
static OBJECT: &[u8] = aya::include_bytes_aligned!("oomtrace.bpf.o");

/// Calls in the one function that walks with direct loads. The compiler may double a call, never drop
/// one.
const LEAST_KFUNC_CALLS: usize = 2;

/// `BPF_JMP | BPF_CALL`.
const CALL: u8 = 0x85;
/// `BPF_PSEUDO_KFUNC_CALL`, in the upper half of the register byte.
const PSEUDO_KFUNC: u8 = 2 << 4;

/// The object with its stand-in calls turned into calls of the kernel functions in `kfuncs`, pairs of
/// stand-in number and BTF id.
///
/// The programs call helpers of impossible numbers where they mean a kernel function, because neither
/// rustc nor the loader can name one. An instruction is eight bytes and sections are aligned to eight,
/// so the calls can be found without reading the file's structure.
pub(super) fn with_kfuncs(kfuncs: Option<&[(u32, u32)]>) -> Result<Cow<'static, [u8]>> {
    let Some(kfuncs) = kfuncs else {
        return Ok(Cow::Borrowed(OBJECT));
    };
    let mut object = OBJECT.to_vec();
    let mut calls = 0;
    for insn in object.chunks_exact_mut(8) {
        if insn[..4] != [CALL, 0, 0, 0] {
            continue;
        }
        let number = u32::from_le_bytes([insn[4], insn[5], insn[6], insn[7]]);
        if let Some(&(_, id)) = kfuncs.iter().find(|&&(stand_in, _)| stand_in == number) {
            insn[1] = PSEUDO_KFUNC;
            insn[4..].copy_from_slice(&id.to_le_bytes());
            calls += 1;
        }
    }
    if calls < LEAST_KFUNC_CALLS {
        return Err(Error::Bpf {
            what: format!("find the kernel functions in the BPF object ({calls} calls)"),
            source: None,
        });
    }
    Ok(Cow::Owned(object))
}

#[cfg(test)]
mod tests {
    use oomtrace_ebpf::layout::kfunc;

    use super::*;

    #[test]
    fn every_stand_in_becomes_a_call_of_the_kernel() {
        let object = with_kfuncs(Some(&[(kfunc::RDONLY_CAST, 4711)])).expect("an object of ours");
        let stand_in = kfunc::RDONLY_CAST.to_le_bytes();
        let left = object
            .chunks_exact(8)
            .filter(|insn| insn[..4] == [CALL, 0, 0, 0] && insn[4..] == stand_in)
            .count();
        let made = object
            .chunks_exact(8)
            .filter(|insn| {
                insn[..4] == [CALL, PSEUDO_KFUNC, 0, 0] && insn[4..] == 4711_u32.to_le_bytes()
            })
            .count();
        assert_eq!(left, 0);
        assert!(made >= LEAST_KFUNC_CALLS, "only {made} calls");
        assert_eq!(object.len(), OBJECT.len());
    }

    #[test]
    fn without_kernel_functions_the_object_is_left_alone() {
        assert_eq!(&*with_kfuncs(None).expect("an object of ours"), OBJECT);
    }
}
