//! Reads the kernel's BTF: where members are, what values enumerators have, what functions take.
//!
//! Our own reader because the loader's keeps its index private, and because only some sixty of the
//! hundred thousand names matter: one pass notes where each type starts and which ids carry a wanted
//! name. The format is documented in the kernel tree, Documentation/bpf/btf.rst.

use std::{collections::HashMap, fs, path::Path};

use crate::error::{Error, Result};

const KIND_INT: u32 = 1;
const KIND_PTR: u32 = 2;
const KIND_ARRAY: u32 = 3;
pub(super) const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
pub(super) const KIND_ENUM: u32 = 6;
pub(super) const KIND_TYPEDEF: u32 = 8;
const KIND_VOLATILE: u32 = 9;
const KIND_CONST: u32 = 10;
const KIND_RESTRICT: u32 = 11;
pub(super) const KIND_FUNC: u32 = 12;
const KIND_FUNC_PROTO: u32 = 13;
const KIND_TYPE_TAG: u32 = 18;
const KIND_ENUM64: u32 = 19;

/// The types of the running kernel.
pub(super) struct Btf {
    data: Vec<u8>,
    /// Where the strings begin.
    strings: usize,
    /// Where each type begins, by id; 0 is `void`.
    types: Vec<u32>,
    /// Ids by wanted name.
    wanted: HashMap<Vec<u8>, Vec<u32>>,
}

/// A member that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Member {
    /// Offset in bytes from the start of the outermost struct.
    pub(super) offset: u32,
    /// Its type.
    pub(super) type_id: u32,
}

impl Btf {
    /// Reads a BTF file and indexes the names in `wanted`.
    pub(super) fn open(path: &Path, wanted: impl Iterator<Item = &'static str>) -> Result<Self> {
        let data = fs::read(path).map_err(|source| Error::Io {
            path: path.into(),
            source,
        })?;
        Self::parse(data, wanted).ok_or_else(|| Error::KernelLacks {
            what: format!("readable type information in {}", path.display()),
            remedy: "the file is damaged or of a newer format".into(),
        })
    }

    fn parse(data: Vec<u8>, wanted: impl Iterator<Item = &'static str>) -> Option<Self> {
        let word = |at: usize| Some(u32::from_ne_bytes(data.get(at..at + 4)?.try_into().ok()?));
        if u16::from_ne_bytes(data.get(..2)?.try_into().ok()?) != 0xeb9f {
            return None;
        }
        let header = word(4)? as usize;
        let first = header.checked_add(word(8)? as usize)?;
        let end = first.checked_add(word(12)? as usize)?;
        let strings = header.checked_add(word(16)? as usize)?;
        if end > data.len() || strings > data.len() {
            return None;
        }
        let mut wanted: HashMap<Vec<u8>, Vec<u32>> = wanted
            .map(|name| (name.as_bytes().to_vec(), Vec::new()))
            .collect();
        let mut types = Vec::with_capacity((end - first) / 36);
        types.push(0);
        let mut at = first;
        while at < end {
            let (name, info) = (word(at)?, word(at + 4)?);
            let id = u32::try_from(types.len()).ok()?;
            types.push(u32::try_from(at).ok()?);
            if name != 0 && is_named_kind(info >> 24 & 0x1f) {
                let text = text_at(&data, strings + name as usize)?;
                if let Some(ids) = wanted.get_mut(text) {
                    ids.push(id);
                }
            }
            at += 12 + body_size(info)?;
        }
        Some(Self {
            data,
            strings,
            types,
            wanted,
        })
    }

    /// Where a member is. `path` goes through named members, separated by dots; anonymous structs and
    /// unions on the way need no mention.
    pub(super) fn member(&self, name: &str, path: &str) -> Option<Member> {
        self.ids(name, KIND_STRUCT).find_map(|id| {
            let mut found = Member {
                offset: 0,
                type_id: id,
            };
            for step in path.split('.') {
                let next = self.member_of(self.resolve(found.type_id)?, step)?;
                found = Member {
                    offset: found.offset + next.offset,
                    type_id: next.type_id,
                };
            }
            Some(found)
        })
    }

    /// Size of a struct in bytes.
    pub(super) fn size_of(&self, name: &str) -> Option<u32> {
        self.ids(name, KIND_STRUCT).find_map(|id| self.size(id))
    }

    /// Id of a struct.
    pub(super) fn struct_id(&self, name: &str) -> Option<u32> {
        self.ids(name, KIND_STRUCT).next()
    }

    /// Elements of an array type.
    pub(super) fn elements(&self, type_id: u32) -> Option<u32> {
        let at = self.at(self.resolve(type_id)?)?;
        (self.kind(at)? == KIND_ARRAY).then(|| self.word(at + 20))?
    }

    /// Size in bytes of a type.
    pub(super) fn size(&self, type_id: u32) -> Option<u32> {
        let at = self.at(self.resolve(type_id)?)?;
        match self.kind(at)? {
            KIND_INT | KIND_STRUCT | KIND_UNION | KIND_ENUM | KIND_ENUM64 => self.word(at + 8),
            KIND_PTR => Some(8),
            KIND_ARRAY => Some(self.size(self.word(at + 12)?)? * self.word(at + 20)?),
            _ => None,
        }
    }

    /// Type of the elements of an array.
    pub(super) fn element_type(&self, type_id: u32) -> Option<u32> {
        let at = self.at(self.resolve(type_id)?)?;
        (self.kind(at)? == KIND_ARRAY).then(|| self.word(at + 12))?
    }

    /// All enumerators of an enum. With an empty name every anonymous enum is looked through for the
    /// one that holds `marker`.
    pub(super) fn enumerators(&self, name: &str) -> Option<Vec<(String, u32)>> {
        let id = self.ids(name, KIND_ENUM).next()?;
        self.enumerators_at(self.at(id)?)
    }

    /// All enumerators of the anonymous enum that has one called `marker`.
    pub(super) fn enum_with(&self, marker: &str) -> Option<Vec<(String, u32)>> {
        self.types.iter().skip(1).find_map(|&at| {
            let at = at as usize;
            if self.kind(at)? != KIND_ENUM {
                return None;
            }
            let count = (self.word(at + 4)? & 0xffff) as usize;
            (0..count)
                .any(|i| {
                    self.word(at + 12 + 8 * i)
                        .and_then(|name| text_at(&self.data, self.strings + name as usize))
                        == Some(marker.as_bytes())
                })
                .then(|| self.enumerators_at(at))?
        })
    }

    fn enumerators_at(&self, at: usize) -> Option<Vec<(String, u32)>> {
        let count = (self.word(at + 4)? & 0xffff) as usize;
        (0..count)
            .map(|i| {
                let name = self.word(at + 12 + 8 * i)?;
                let text = text_at(&self.data, self.strings + name as usize)?;
                Some((
                    String::from_utf8_lossy(text).into_owned(),
                    self.word(at + 16 + 8 * i)?,
                ))
            })
            .collect()
    }

    /// Id of a function.
    pub(super) fn function(&self, name: &str) -> Option<u32> {
        self.ids(name, KIND_FUNC).next()
    }

    /// Id of a typedef.
    pub(super) fn typedef(&self, name: &str) -> Option<u32> {
        self.ids(name, KIND_TYPEDEF).next()
    }

    /// Type ids of the parameters of a function, or of the tracepoint whose typedef is
    /// `btf_trace_NAME` (without the leading context argument). 0 is a variadic tail.
    pub(super) fn parameters(&self, name: &str) -> Option<Vec<u32>> {
        if let Some(id) = self.function(name) {
            return self.proto(self.word(self.at(id)? + 8)?);
        }
        let id = self.typedef(name)?;
        let proto = self.resolve(id)?;
        let pointed = self.word(self.at(proto)? + 8)?;
        let mut parameters = self.proto(pointed)?;
        (!parameters.is_empty()).then(|| parameters.remove(0))?;
        Some(parameters)
    }

    /// Whether a type is a pointer.
    pub(super) fn is_pointer(&self, type_id: u32) -> bool {
        self.resolve(type_id)
            .and_then(|id| self.kind(self.at(id)?))
            .is_some_and(|kind| kind == KIND_PTR)
    }

    /// The name a type itself bears, such as that of a typedef.
    pub(super) fn type_name(&self, type_id: u32) -> Option<String> {
        let name = self.word(self.at(type_id)?)?;
        let text = text_at(&self.data, self.strings + name as usize)?;
        Some(String::from_utf8_lossy(text).into_owned())
    }

    fn proto(&self, id: u32) -> Option<Vec<u32>> {
        let at = self.at(id)?;
        if self.kind(at)? != KIND_FUNC_PROTO {
            return None;
        }
        let count = (self.word(at + 4)? & 0xffff) as usize;
        (0..count).map(|i| self.word(at + 16 + 8 * i)).collect()
    }

    /// A member of a struct or union, by name, looking into anonymous ones.
    fn member_of(&self, id: u32, name: &str) -> Option<Member> {
        let at = self.at(id)?;
        if !matches!(self.kind(at)?, KIND_STRUCT | KIND_UNION) {
            return None;
        }
        let info = self.word(at + 4)?;
        let bitfields = info >> 31 != 0;
        for i in 0..(info & 0xffff) as usize {
            let entry = at + 12 + 12 * i;
            let (name_at, type_id, bits) = (
                self.word(entry)?,
                self.word(entry + 4)?,
                self.word(entry + 8)?,
            );
            let bits = if bitfields { bits & 0x00ff_ffff } else { bits };
            let offset = bits / 8;
            if name_at == 0 {
                if let Some(inner) = self.member_of(self.resolve(type_id)?, name) {
                    return Some(Member {
                        offset: offset + inner.offset,
                        ..inner
                    });
                }
            } else if text_at(&self.data, self.strings + name_at as usize)? == name.as_bytes() {
                return Some(Member { offset, type_id });
            }
        }
        None
    }

    /// Follows typedefs and qualifiers.
    fn resolve(&self, mut id: u32) -> Option<u32> {
        for _ in 0..32 {
            let at = self.at(id)?;
            match self.kind(at)? {
                KIND_TYPEDEF | KIND_VOLATILE | KIND_CONST | KIND_RESTRICT | KIND_TYPE_TAG => {
                    id = self.word(at + 8)?;
                }
                _ => return Some(id),
            }
        }
        None
    }

    fn ids(&self, name: &str, kind: u32) -> impl Iterator<Item = u32> {
        self.wanted
            .get(name.as_bytes())
            .into_iter()
            .flatten()
            .copied()
            .filter(move |&id| self.at(id).and_then(|at| self.kind(at)) == Some(kind))
    }

    fn at(&self, id: u32) -> Option<usize> {
        if id == 0 {
            return None;
        }
        self.types.get(id as usize).map(|&at| at as usize)
    }

    fn kind(&self, at: usize) -> Option<u32> {
        Some(self.word(at + 4)? >> 24 & 0x1f)
    }

    fn word(&self, at: usize) -> Option<u32> {
        Some(u32::from_ne_bytes(
            self.data.get(at..at + 4)?.try_into().ok()?,
        ))
    }
}

/// A type to be found by name.
#[derive(Clone, Copy)]
pub(super) struct Named {
    pub(super) name: &'static str,
    pub(super) kind: u32,
    pub(super) id: u32,
}

/// BTF that holds nothing but these types, each at its id; what lies between are pointers to `void`.
pub(super) fn sparse(named: &[Named]) -> Vec<u8> {
    const HEADER: u32 = 24;
    let filler = [0, KIND_PTR << 24, 0];
    let last = named.iter().map(|named| named.id).max().unwrap_or(0) as usize;
    let mut types = vec![filler; last];
    let mut strings = vec![0];
    for named in named {
        let at = strings.len() as u32;
        types[named.id as usize - 1] = [at, named.kind << 24, 0];
        strings.extend_from_slice(named.name.as_bytes());
        strings.push(0);
    }
    let types_len = 12 * last as u32;
    let mut bytes = Vec::with_capacity((HEADER + types_len) as usize + strings.len());
    bytes.extend_from_slice(&0xeb9f_u16.to_ne_bytes());
    bytes.extend_from_slice(&[1, 0]);
    for word in [HEADER, 0, types_len, types_len, strings.len() as u32] {
        bytes.extend_from_slice(&word.to_ne_bytes());
    }
    for word in types.iter().flatten() {
        bytes.extend_from_slice(&word.to_ne_bytes());
    }
    bytes.extend_from_slice(&strings);
    bytes
}

/// Kinds whose names are looked up.
fn is_named_kind(kind: u32) -> bool {
    matches!(kind, KIND_STRUCT | KIND_ENUM | KIND_TYPEDEF | KIND_FUNC)
}

/// Bytes after the twelve that every type has; `None` for a kind that this reader does not know.
fn body_size(info: u32) -> Option<usize> {
    let count = (info & 0xffff) as usize;
    Some(match info >> 24 & 0x1f {
        KIND_INT => 4,
        KIND_ARRAY => 12,
        KIND_STRUCT | KIND_UNION | KIND_ENUM64 => 12 * count,
        KIND_ENUM | KIND_FUNC_PROTO => 8 * count,
        14 => 4,          // BTF_KIND_VAR
        15 => 12 * count, // BTF_KIND_DATASEC
        17 => 4,          // BTF_KIND_DECL_TAG
        KIND_PTR | 7 | KIND_TYPEDEF | KIND_VOLATILE | KIND_CONST | KIND_RESTRICT | KIND_FUNC
        | 16 | KIND_TYPE_TAG => 0,
        _ => return None,
    })
}

fn text_at(data: &[u8], at: usize) -> Option<&[u8]> {
    let rest = data.get(at..)?;
    rest.iter().position(|&b| b == 0).map(|end| &rest[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMED: [Named; 3] = [
        Named {
            name: "mark_oom_victim",
            kind: KIND_FUNC,
            id: 7,
        },
        Named {
            name: "btf_trace_mark_victim",
            kind: KIND_TYPEDEF,
            id: 900,
        },
        Named {
            name: "out_of_memory",
            kind: KIND_FUNC,
            id: 90_000,
        },
    ];

    fn parse(data: Vec<u8>) -> Option<Btf> {
        Btf::parse(data, NAMED.iter().map(|named| named.name))
    }

    #[test]
    fn sparse_types_keep_their_ids() {
        let btf = parse(sparse(&NAMED)).expect("what was written");
        assert_eq!(btf.function("mark_oom_victim"), Some(7));
        assert_eq!(btf.typedef("btf_trace_mark_victim"), Some(900));
        assert_eq!(btf.function("out_of_memory"), Some(90_000));
        assert_eq!(btf.function("btf_trace_mark_victim"), None);
    }

    #[test]
    fn the_loader_accepts_them() {
        let bytes = sparse(&NAMED);
        assert!(aya::Btf::parse(&bytes, aya::Endianness::default()).is_ok());
    }

    #[test]
    fn no_cut_or_flip_makes_it_panic() {
        let bytes = sparse(&NAMED[..2]);
        let mut tried = 0;
        for at in 0..bytes.len() {
            let _ = parse(bytes[..at].to_vec());
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (at % 8);
            if let Some(btf) = parse(flipped) {
                let _ = btf.parameters("btf_trace_mark_victim");
                let _ = btf.member("mark_oom_victim", "a.b");
            }
            tried += 1;
        }
        assert!(tried > 10_000);
    }

    /// `struct outer { int first; union { struct { int pad; int[3] deep; }; }; unsigned bit : 3; }`.
    fn outer() -> Vec<u8> {
        let strings = b"\0outer\0first\0pad\0deep\0bit\0int\0";
        let at = |name: &[u8]| {
            let found = strings
                .windows(name.len() + 2)
                .position(|window| window[0] == 0 && window[1..=name.len()] == *name);
            found.map_or(0, |found| found as u32 + 1)
        };
        let types: [&[u32]; 5] = [
            &[at(b"int"), KIND_INT << 24, 4, 32],
            &[0, KIND_ARRAY << 24, 0, 1, 1, 3],
            &[
                0,
                KIND_STRUCT << 24 | 2,
                16,
                at(b"pad"),
                1,
                0,
                at(b"deep"),
                2,
                32,
            ],
            &[0, KIND_UNION << 24 | 1, 16, 0, 3, 0],
            // The top bit says that members carry their width in bits above their offset.
            &[
                at(b"outer"),
                1 << 31 | KIND_STRUCT << 24 | 3,
                24,
                at(b"first"),
                1,
                0,
                0,
                4,
                32,
                at(b"bit"),
                1,
                3 << 24 | 160,
            ],
        ];
        let length: usize = types.iter().map(|words| words.len() * 4).sum();
        let mut bytes = vec![0x9f, 0xeb, 1, 0];
        for word in [24, 0, length as u32, length as u32, strings.len() as u32] {
            bytes.extend_from_slice(&u32::to_ne_bytes(word));
        }
        for word in types.iter().flat_map(|words| words.iter()) {
            bytes.extend_from_slice(&word.to_ne_bytes());
        }
        bytes.extend_from_slice(strings);
        bytes
    }

    #[test]
    fn members_are_found_through_what_has_no_name() {
        let btf = Btf::parse(outer(), ["outer"].into_iter()).expect("valid BTF");
        let offset = |path| btf.member("outer", path).map(|member| member.offset);
        assert_eq!(offset("first"), Some(0));
        assert_eq!(offset("pad"), Some(4));
        assert_eq!(offset("deep"), Some(8));
        assert_eq!(offset("bit"), Some(20));
        assert_eq!(offset("absent"), None);
        assert_eq!(offset("first.more"), None);
        assert_eq!(btf.size_of("outer"), Some(24));
        let deep = btf.member("outer", "deep").expect("found above");
        assert_eq!(btf.elements(deep.type_id), Some(3));
        assert_eq!(btf.size(deep.type_id), Some(12));
    }
}
