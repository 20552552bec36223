//! Names of kernel addresses, from `/proc/kallsyms`.

use std::{
    collections::HashMap,
    fs::File,
    io::{BufRead, BufReader},
};

use crate::incident::Frame;

const KALLSYMS: &str = "/proc/kallsyms";

/// Names that were needed so far. The table itself is some five megabytes of text, so it is read
/// through rather than kept.
#[derive(Default)]
pub(super) struct Symbols {
    known: HashMap<u64, Frame>,
}

impl Symbols {
    /// Names of `addresses`; those without one are left out.
    pub(super) fn resolve(&mut self, addresses: &[u64]) -> HashMap<u64, Frame> {
        let mut unknown: Vec<u64> = addresses
            .iter()
            .copied()
            .filter(|address| !self.known.contains_key(address))
            .collect();
        unknown.sort_unstable();
        unknown.dedup();
        if !unknown.is_empty() {
            self.look_up(&unknown);
        }
        addresses
            .iter()
            .filter_map(|address| Some((*address, self.known.get(address)?.clone())))
            .collect()
    }

    fn look_up(&mut self, addresses: &[u64]) {
        // The nearest text symbol at or below each address.
        let mut best: Vec<Option<(u64, String)>> = vec![None; addresses.len()];
        each_symbol(|address, kind, name| {
            if address == 0 || !matches!(kind, b't' | b'T' | b'w' | b'W') {
                return;
            }
            let from = addresses.partition_point(|&wanted| wanted < address);
            for (slot, _) in best.iter_mut().zip(addresses).skip(from) {
                match slot {
                    Some((nearest, _)) if *nearest > address => break,
                    Some((nearest, known)) => {
                        if *nearest < address {
                            *nearest = address;
                            known.clear();
                            known.push_str(name);
                        }
                    }
                    None => *slot = Some((address, name.to_owned())),
                }
            }
        });
        for (&addr, nearest) in addresses.iter().zip(best) {
            // Farther away it is memory that no symbol covers, such as a module's or a program's.
            if let Some((start, symbol)) = nearest.filter(|(start, _)| addr - start < 1 << 20) {
                let offset = Some(addr - start);
                self.known.insert(
                    addr,
                    Frame {
                        addr,
                        symbol: Some(symbol),
                        offset,
                    },
                );
            }
        }
    }
}

/// Addresses of data symbols; those the kernel does not show are left out. Most are there only with
/// CONFIG_KALLSYMS_ALL.
pub(super) fn addresses(names: &[&'static str]) -> HashMap<&'static str, u64> {
    let mut found = HashMap::new();
    each_symbol(|address, _, name| {
        if address != 0
            && let Some(&name) = names.iter().find(|&&wanted| wanted == name)
        {
            found.insert(name, address);
        }
    });
    found
}

/// Whether the kernel has a symbol whose name starts so.
pub(super) fn any_starts_with(start: &str) -> bool {
    let mut found = false;
    each_symbol(|_, _, name| found |= name.starts_with(start));
    found
}

/// Calls `visit` with address, kind and name of each symbol. Addresses are zero without the right to
/// see them (`kernel.kptr_restrict`).
fn each_symbol(mut visit: impl FnMut(u64, u8, &str)) {
    let Ok(file) = File::open(KALLSYMS) else {
        return;
    };
    let mut reader = BufReader::with_capacity(64 << 10, file);
    let mut line = String::new();
    loop {
        line.clear();
        match reader.read_line(&mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let mut fields = line.split_ascii_whitespace();
        let (Some(address), Some(kind), Some(name)) = (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        if let (Ok(address), [kind]) = (u64::from_str_radix(address, 16), kind.as_bytes()) {
            visit(address, *kind, name);
        }
    }
}
