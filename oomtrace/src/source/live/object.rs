//! The committed BPF object, made fit for the running kernel.

use std::ops::Range;

use oomtrace_ebpf::layout::{ABSENT, STAND_IN};

use crate::error::{Error, Result};

/// What `cargo xtask build-ebpf` builds from the package `oomtrace-ebpf`.
static OBJECT: &[u8] = aya::include_bytes_aligned!("oomtrace.bpf.o");

/// `BPF_JMP | BPF_CALL`.
const CALL: u8 = 0x85;
/// `BPF_PSEUDO_KFUNC_CALL`, in the upper half of the register byte.
const PSEUDO_KFUNC: u8 = 2 << 4;
/// `BPF_LDX | BPF_MEM` of one, two, four and eight bytes.
const LOADS: [u8; 4] = [0x71, 0x69, 0x61, 0x79];
/// `SHF_EXECINSTR` (elf.h).
const EXECUTABLE: u64 = 4;

/// The object with its stand-ins replaced: direct loads get the offsets of `layout`, and calls of
/// impossible helpers become calls of the kernel functions in `kfuncs`, pairs of stand-in and BTF id.
///
/// The programs are compiled with stand-ins because neither rustc nor the loader can put in what only
/// the running kernel knows. What the kernel does not have is left as it is or becomes offset 0: it
/// sits in code that the verifier finds unreachable, or in a program that is not loaded.
pub(super) fn fitted(layout: &[u32], kfuncs: Option<&[(u32, u32)]>) -> Result<Vec<u8>> {
    let mut object = OBJECT.to_vec();
    let sections = executable(&object).ok_or_else(|| not_ours("find its code"))?;
    for section in sections {
        let code = object
            .get_mut(section)
            .ok_or_else(|| not_ours("find its code"))?;
        for insn in code.chunks_exact_mut(8) {
            fit(insn, layout, kfuncs.unwrap_or_default())?;
        }
    }
    Ok(object)
}

/// Replaces a stand-in, if the instruction has one.
fn fit(insn: &mut [u8], layout: &[u32], kfuncs: &[(u32, u32)]) -> Result<()> {
    if LOADS.contains(&insn[0]) {
        let offset = usize::from(u16::from_le_bytes([insn[2], insn[3]]));
        let entry = offset
            .checked_sub(STAND_IN)
            .and_then(|entry| layout.get(entry));
        if let Some(&real) = entry {
            let real = if real == ABSENT { 0 } else { real };
            let real = i16::try_from(real).map_err(|_range| not_ours("reach so far a member"))?;
            insn[2..4].copy_from_slice(&real.to_le_bytes());
        }
    } else if insn[..4] == [CALL, 0, 0, 0] {
        let number = u32::from_le_bytes([insn[4], insn[5], insn[6], insn[7]]);
        if let Some(&(_, id)) = kfuncs.iter().find(|&&(stand_in, _)| stand_in == number) {
            insn[1] = PSEUDO_KFUNC;
            insn[4..].copy_from_slice(&id.to_le_bytes());
        }
    }
    Ok(())
}

/// Where the sections with code are (System V ABI, 64-bit little-endian ELF).
fn executable(object: &[u8]) -> Option<Vec<Range<usize>>> {
    let number = |at: usize, len: usize| {
        let mut bytes = [0; 8];
        bytes[..len].copy_from_slice(object.get(at..at + len)?);
        usize::try_from(u64::from_le_bytes(bytes)).ok()
    };
    let (headers, size, count) = (number(0x28, 8)?, number(0x3a, 2)?, number(0x3c, 2)?);
    let mut found = Vec::new();
    for at in (0..count).map(|index| headers + index * size) {
        let flags = number(at + 8, 8)? as u64;
        let (start, length) = (number(at + 0x18, 8)?, number(at + 0x20, 8)?);
        if flags & EXECUTABLE != 0 {
            found.push(start..start.checked_add(length)?);
        }
    }
    Some(found)
}

fn not_ours(what: &str) -> Error {
    Error::Bpf {
        what: format!("{what} in the BPF object"),
        source: None,
    }
}

#[cfg(test)]
mod tests {
    use oomtrace_ebpf::layout::{COUNT, kfunc};

    use super::*;

    fn insns(object: &[u8]) -> Vec<[u8; 8]> {
        let sections = executable(object).expect("an object of ours");
        let code = sections.into_iter().flat_map(|section| &object[section]);
        let bytes: Vec<u8> = code.copied().collect();
        bytes
            .chunks_exact(8)
            .map(|insn| insn.try_into().expect("eight bytes"))
            .collect()
    }

    fn stand_ins(insns: &[[u8; 8]]) -> (usize, usize) {
        let loads = insns.iter().filter(|insn| {
            let offset = usize::from(u16::from_le_bytes([insn[2], insn[3]]));
            LOADS.contains(&insn[0]) && (STAND_IN..STAND_IN + COUNT).contains(&offset)
        });
        let number = kfunc::RDONLY_CAST.to_le_bytes();
        let calls = insns
            .iter()
            .filter(|insn| insn[..4] == [CALL, 0, 0, 0] && insn[4..] == number);
        (loads.count(), calls.count())
    }

    #[test]
    fn every_stand_in_is_replaced_and_nothing_else_changes() {
        let before = insns(OBJECT);
        let (loads, calls) = stand_ins(&before);
        assert!(loads > 30 && calls > 0, "{loads} loads, {calls} calls");
        let layout: Vec<u32> = (0..COUNT as u32).map(|entry| 8 * entry).collect();
        let object = fitted(&layout, Some(&[(kfunc::RDONLY_CAST, 4711)])).expect("ours");
        let after = insns(&object);
        assert_eq!(stand_ins(&after), (0, 0));
        let changed = before.iter().zip(&after).filter(|(a, b)| a != b).count();
        assert_eq!(changed, loads + calls);
        assert_eq!(object.len(), OBJECT.len());
    }

    #[test]
    fn an_offset_that_does_not_fit_is_refused() {
        assert!(fitted(&[40_000; COUNT], None).is_err());
    }

    #[test]
    fn damage_is_an_error_and_no_panic() {
        assert_eq!(executable(&[]), None);
        assert_eq!(executable(&OBJECT[..0x3e]), None);
    }
}
