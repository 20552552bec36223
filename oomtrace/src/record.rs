//! Owned form of what the kernel side sends, and what user space adds to it at the time.
//!
//! Everything that [`crate::assemble`] needs is here, so that an incident can be assembled again, on
//! another machine, by a better version.

use std::collections::{BTreeMap, HashMap};

use oomtrace_ebpf::event::{
    self, Begin, CGROUP_NAME_LEN, Close, Header, KIND_BEGIN, KIND_CGROUP, KIND_CLOSE, KIND_ROWS,
    KIND_SNAPSHOT, KIND_VICTIM, Row, Rows, Snapshot, Victim,
};
use zerocopy::FromBytes;

use crate::{
    error::{Error, Result},
    incident::{Frame, Host, Text},
};

/// One record of the kernel side.
#[derive(Clone, Debug)]
pub enum Record {
    /// The decision.
    Begin(Box<Begin>),
    /// Some candidates.
    Rows(Header, Vec<Row>),
    /// A cgroup.
    Cgroup(Box<event::Cgroup>),
    /// The end of the walk.
    Snapshot(Snapshot),
    /// A victim.
    Victim(Box<Victim>),
    /// The end of the decision.
    Close(Close),
}

impl Record {
    /// Reads one record.
    ///
    /// # Errors
    /// When the bytes are not a record of this version.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let (header, _) = Header::read_from_prefix(bytes).map_err(|_short| too_short("header"))?;
        if header.size as usize > bytes.len() || (header.size as usize) < size_of::<Header>() {
            return Err(bad(format!(
                "size {} in {} bytes",
                header.size,
                bytes.len()
            )));
        }
        let bytes = &bytes[..header.size as usize];
        Ok(match header.kind {
            KIND_BEGIN => Self::Begin(Box::new(whole(bytes, "decision")?)),
            KIND_ROWS => rows(bytes)?,
            KIND_CGROUP => Self::Cgroup(Box::new(cgroup(bytes)?)),
            KIND_SNAPSHOT => Self::Snapshot(whole(bytes, "snapshot")?),
            KIND_VICTIM => Self::Victim(Box::new(whole(bytes, "victim")?)),
            KIND_CLOSE => Self::Close(whole(bytes, "close")?),
            kind => return Err(bad(format!("kind {kind} is unknown"))),
        })
    }

    /// The common start.
    pub fn header(&self) -> &Header {
        match self {
            Self::Begin(begin) => &begin.header,
            Self::Rows(header, _) => header,
            Self::Cgroup(cgroup) => &cgroup.header,
            Self::Snapshot(snapshot) => &snapshot.header,
            Self::Victim(victim) => &victim.header,
            Self::Close(close) => &close.header,
        }
    }
}

fn whole<T: FromBytes>(bytes: &[u8], what: &str) -> Result<T> {
    T::read_from_prefix(bytes)
        .map(|(record, _)| record)
        .map_err(|_short| too_short(what))
}

fn rows(bytes: &[u8]) -> Result<Record> {
    let (head, rest) = Rows::read_from_prefix(bytes).map_err(|_short| too_short("rows"))?;
    let count = head.count as usize;
    if rest.len() < count.saturating_mul(size_of::<Row>()) {
        return Err(too_short("rows"));
    }
    let rows = rest
        .chunks_exact(size_of::<Row>())
        .take(count)
        .map(|row| Row::read_from_bytes(row).map_err(|_size| too_short("row")))
        .collect::<Result<_>>()?;
    Ok(Record::Rows(head.header, rows))
}

/// The kernel side cuts the record behind the name.
fn cgroup(bytes: &[u8]) -> Result<event::Cgroup> {
    let fixed = size_of::<event::Cgroup>() - CGROUP_NAME_LEN;
    if bytes.len() < fixed || bytes.len() > size_of::<event::Cgroup>() {
        return Err(too_short("cgroup"));
    }
    let mut padded = [0; size_of::<event::Cgroup>()];
    padded[..bytes.len()].copy_from_slice(bytes);
    let record: event::Cgroup = whole(&padded, "cgroup")?;
    if record.name_len as usize > bytes.len() - fixed {
        return Err(bad(format!(
            "cgroup name of {} bytes is cut",
            record.name_len
        )));
    }
    Ok(record)
}

fn too_short(what: &str) -> Error {
    bad(format!("{what} is cut short"))
}

fn bad(why: String) -> Error {
    Error::BadRecord { why }
}

/// What holds for all incidents of one tracer.
#[derive(Clone, Debug, Default)]
pub struct Session {
    /// The machine.
    pub host: Host,
    /// Hook in use by moment.
    pub rungs: BTreeMap<String, String>,
    /// Bits of `gfp_t` and their names.
    pub gfp_bits: Vec<(u32, String)>,
    /// `enum memcg_memory_event`, in order.
    pub memcg_events: Vec<String>,
    /// Whether the kernel scores by exact sums (since 7.0).
    pub scores_exact: bool,
    /// Whether it counts `memory.failcnt` for cgroup v2 (`page_counter.track_failcnt` came in 6.18
    /// and ended that).
    pub counts_v2_failures: bool,
}

/// All that is known of one decision.
#[derive(Clone, Debug, Default)]
pub struct Parts {
    /// Its number since the programs were loaded.
    pub number: u64,
    /// The decision; `None` if its record was lost.
    pub begin: Option<Box<Begin>>,
    /// Candidates in the kernel's order.
    pub rows: Vec<Row>,
    /// Cgroups as they came, possibly twice.
    pub cgroups: Vec<event::Cgroup>,
    /// The sum of the snapshot; `None` if its record was lost.
    pub snapshot: Option<Snapshot>,
    /// Victims as they came.
    pub victims: Vec<Victim>,
    /// The end; `None` where no hook sees it.
    pub close: Option<Close>,
    /// What user space found out meanwhile.
    pub notes: Notes,
}

/// What user space adds, because it would be gone later.
#[derive(Clone, Debug, Default)]
pub struct Notes {
    /// Names of the stack's addresses.
    pub symbols: HashMap<u64, Frame>,
    /// Command lines by (tgid, start in nanoseconds since boot).
    pub cmdlines: HashMap<(u32, u64), Text>,
    /// Wall clock minus boot clock, nanoseconds.
    pub wall_minus_boot_ns: Option<i64>,
    /// Not empty: the incident is passed on before it was over, and why.
    pub unfinished: Option<String>,
}

#[cfg(test)]
mod tests {
    use zerocopy::IntoBytes;

    use super::*;

    fn rows_record(count: u32) -> Vec<u8> {
        let size = size_of::<Rows>() + count as usize * size_of::<Row>();
        let head = Rows {
            header: Header {
                kind: KIND_ROWS,
                size: u32::try_from(size).expect("small"),
                incident: 1,
                time_ns: 2,
            },
            first: 0,
            count,
        };
        let mut bytes = head.as_bytes().to_vec();
        bytes.resize(size, 7);
        bytes
    }

    #[test]
    fn rows_come_back_whole() {
        let Ok(Record::Rows(header, rows)) = Record::decode(&rows_record(3)) else {
            panic!("not rows");
        };
        assert_eq!((header.incident, rows.len()), (1, 3));
        assert_eq!(rows[2].tgid, 0x0707_0707);
    }

    #[test]
    fn every_cut_and_every_kind_is_an_error_or_a_record_never_a_panic() {
        let bytes = rows_record(2);
        let (mut refused, mut read) = (0, 0);
        for kind in 0..8 {
            for cut in 0..=bytes.len() {
                for claim in [0, 23, cut, bytes.len(), usize::MAX] {
                    let mut bytes = bytes[..cut].to_vec();
                    if cut >= size_of::<Header>() {
                        bytes[..4].copy_from_slice(&u32::to_ne_bytes(kind));
                        let claim = u32::try_from(claim).unwrap_or(u32::MAX);
                        bytes[4..8].copy_from_slice(&claim.to_ne_bytes());
                    }
                    match Record::decode(&bytes) {
                        Ok(_) => read += 1,
                        Err(_) => refused += 1,
                    }
                }
            }
        }
        assert!(read > 0 && refused > read, "{read} read, {refused} refused");
    }
}
