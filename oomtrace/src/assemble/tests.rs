//! Incidents from records made by hand, checked against figures worked out by hand.

use oomtrace_ebpf::event::{
    self, CGROUP_NAME_LEN, CGROUP_OOM_GROUP, CGROUP_ROOT, CGROUP_V2, Header, Row, STATE_IN_VFORK,
    Snapshot,
};
use zerocopy::FromZeros;

use super::*;
use crate::incident::{Candidate, CgroupVersion, SkipReason};

const PAGE: u64 = 4096;
/// `PAGE_COUNTER_MAX` with pages of 4 KiB.
const NO_LIMIT: u64 = i64::MAX as u64 / PAGE;

fn session() -> Session {
    Session {
        host: Host {
            boot_id: Some("0123456789".into()),
            page_size: Some(PAGE),
            ram_bytes: Some(1000 * PAGE),
            swap_total_bytes: Some(500 * PAGE),
            ..Host::default()
        },
        memcg_events: ["low", "high", "max", "oom", "oom_kill"]
            .map(String::from)
            .to_vec(),
        counts_v2_failures: true,
        ..Session::default()
    }
}

fn begin() -> Begin {
    let mut begin = Begin::new_zeroed();
    begin.header.time_ns = 1_000;
    begin.constraint = 3;
    begin.order = 0;
    begin.totalpages = 50_000;
    begin.chosen_pid = 20;
    begin.chosen_points = 700;
    begin.oom_cgroup = 2;
    begin.cgroup = 3;
    begin.nodemask = u64::MAX;
    begin.free_pages = ABSENT_I64;
    begin.swap_free_pages = ABSENT_I64;
    begin.swap_total_pages = ABSENT_I64;
    begin.reclaim_ns = ABSENT_U64;
    begin
}

fn row(pid: u32, anon: i64, cgroup: u64) -> Row {
    let mut row = Row::new_zeroed();
    (row.pid, row.tgid, row.ppid) = (pid, pid, 1);
    row.rss = [0, anon, 0, 0];
    row.rss_exact = [ABSENT_I64; 4];
    row.pgtables_bytes = 4096;
    row.mm = u64::from(pid) << 12;
    row.kernel_points = ABSENT_I64;
    row.ns_pid = ABSENT_U32;
    row.cgroup = cgroup;
    row
}

fn cgroup(id: u64, parent: u64, name: &str, flags: u32) -> event::Cgroup {
    let mut cgroup = event::Cgroup::new_zeroed();
    (cgroup.id, cgroup.parent, cgroup.flags) = (id, parent, flags);
    cgroup.max = NO_LIMIT;
    cgroup.high = NO_LIMIT;
    cgroup.swap_max = NO_LIMIT;
    cgroup.kmem_usage = ABSENT_U64;
    cgroup.swappiness = 60;
    cgroup.name_len = u32::try_from(name.len()).unwrap();
    assert!(name.len() <= CGROUP_NAME_LEN);
    cgroup.name[..name.len()].copy_from_slice(name.as_bytes());
    cgroup
}

/// `/` (1), `/shop` (2, the limit), `/shop/web` (3), `/other` (4).
fn parts(rows: Vec<Row>) -> Parts {
    let count = u32::try_from(rows.len()).unwrap();
    Parts {
        number: 1,
        begin: Some(Box::new(begin())),
        rows,
        cgroups: vec![
            cgroup(3, 2, "web", CGROUP_V2),
            cgroup(2, 1, "shop", CGROUP_V2),
            cgroup(4, 1, "other", CGROUP_V2),
            cgroup(1, 0, "", CGROUP_V2 | CGROUP_ROOT),
            cgroup(2, 1, "shop", CGROUP_V2),
        ],
        snapshot: Some(Snapshot {
            header: Header::default(),
            rows: count,
            rows_lost: 0,
            kernel_threads: 5,
            cgroups: 4,
            cgroups_lost: 0,
            flags: 0,
            took_ns: 9,
        }),
        ..Parts::default()
    }
}

fn victim(row: Row, state: u32) -> VictimRecord {
    let mut victim = VictimRecord::new_zeroed();
    victim.header.time_ns = 1_500;
    victim.row = row;
    victim.row.state |= state;
    victim
}

fn of(incident: &Incident, pid: u32) -> &Candidate {
    incident
        .candidates
        .iter()
        .find(|candidate| candidate.pid == pid)
        .unwrap()
}

#[test]
fn the_score_is_the_kernels_arithmetic() {
    let mut adjusted = row(20, 500, 3);
    adjusted.rss = [30, 500, 7, 11];
    adjusted.pgtables_bytes = 3 * 4096;
    adjusted.oom_score_adj = 3;
    let incident = assemble(&session(), &parts(vec![adjusted]));
    // 30 + 500 + 7 + 11 pages, 3 of page tables, 3 times 50,000 / 1,000.
    assert_eq!(of(&incident, 20).score, Some(548 + 3 + 150));
    assert_eq!(of(&incident, 20).swap_bytes, Some(7 * PAGE));
    assert_eq!(of(&incident, 20).rss_exact, Some(false));
}

#[test]
fn a_counter_below_zero_weighs_nothing() {
    let mut row = row(20, 100, 3);
    row.rss[event::RSS_FILE] = -40;
    let incident = assemble(&session(), &parts(vec![row]));
    assert_eq!(of(&incident, 20).file_bytes, Some(0));
    assert_eq!(of(&incident, 20).score, Some(101));
}

#[test]
fn exact_sums_are_used_where_they_were_taken() {
    let mut row = row(20, 100, 3);
    row.state |= event::STATE_EXACT;
    row.rss_exact = [1, 164, 0, 2];
    let incident = assemble(&session(), &parts(vec![row]));
    assert_eq!(of(&incident, 20).score, Some(168));
    assert_eq!(of(&incident, 20).rss_exact, Some(true));
}

#[test]
fn each_skip_has_its_reason() {
    let mut protected = row(21, 900, 3);
    protected.oom_score_adj = -1000;
    let mut vfork = row(22, 900, 3);
    vfork.state |= STATE_IN_VFORK;
    let mut gone = row(23, 0, 3);
    gone.state |= event::STATE_NO_MM;
    gone.rss = [ABSENT_I64; 4];
    gone.pgtables_bytes = ABSENT_I64;
    let mut reaped = row(24, 900, 3);
    reaped.state |= event::STATE_OOM_VICTIM | event::STATE_MM_OOM_SKIP;
    let mut container_init = row(1, 5, 3);
    container_init.pid = 25;
    container_init.ns_pid = 1;
    container_init.tgid = 25;
    let rows = vec![
        row(1, 900, 3),
        row(20, 600, 2),
        protected,
        vfork,
        gone,
        reaped,
        container_init,
        row(26, 900, 4),
    ];
    let incident = assemble(&session(), &parts(rows));
    let reason = |pid| of(&incident, pid).skip_reason;
    assert_eq!(reason(1), Some(SkipReason::Init));
    assert_eq!(reason(20), None);
    assert_eq!(reason(21), Some(SkipReason::Protected));
    assert_eq!(reason(22), Some(SkipReason::Vfork));
    assert_eq!(reason(23), Some(SkipReason::NoMemory));
    assert_eq!(reason(24), Some(SkipReason::AlreadyReaped));
    assert_eq!(reason(25), None);
    assert_eq!(reason(26), Some(SkipReason::OutsideCgroup));
    assert_eq!(of(&incident, 20).eligible, Some(true));
    assert_eq!(of(&incident, 23).anon_bytes, None);
    assert_eq!(of(&incident, 23).score, None);
}

#[test]
fn cgroups_come_once_parents_first_with_their_paths() {
    let incident = assemble(&session(), &parts(vec![row(20, 1, 3)]));
    let paths: Vec<String> = incident
        .cgroups
        .iter()
        .map(|cgroup| cgroup.path.to_string())
        .collect();
    assert_eq!(paths, ["/", "/other", "/shop", "/shop/web"]);
    assert_eq!(
        incident.cgroups[0].usage_bytes, None,
        "the v2 root is not charged"
    );
    assert_eq!(incident.cgroups[2].max_bytes, None, "no limit is no number");
    assert_eq!(incident.cgroups[2].version, Some(CgroupVersion::V2));
}

#[test]
fn an_orphan_is_a_gap_and_not_a_guess() {
    let mut parts = parts(vec![row(20, 1, 3)]);
    parts.cgroups.retain(|cgroup| cgroup.id != 2);
    let incident = assemble(&session(), &parts);
    assert!(incident.cgroup(3).is_none());
    assert!(
        incident
            .gaps
            .iter()
            .any(|gap| gap.what == "cgroups" && gap.count == Some(1))
    );
    assert_eq!(of(&incident, 20).eligible, None);
}

#[test]
fn lost_rows_are_counted() {
    let mut parts = parts(vec![row(20, 1, 3)]);
    if let Some(snapshot) = &mut parts.snapshot {
        snapshot.rows = 64;
        snapshot.rows_lost = 63;
    }
    let incident = assemble(&session(), &parts);
    let gap = incident
        .gaps
        .iter()
        .find(|gap| gap.what == "candidates")
        .unwrap();
    assert_eq!(gap.count, Some(63));
}

#[test]
fn nothing_but_a_number_is_an_incident_with_gaps() {
    let parts = Parts {
        number: 7,
        ..Parts::default()
    };
    let incident = assemble(&session(), &parts);
    assert_eq!(
        (incident.scope, incident.outcome, incident.chosen),
        (None, None, None)
    );
    let what: Vec<&str> = incident.gaps.iter().map(|gap| gap.what.as_str()).collect();
    assert_eq!(what, ["decision", "snapshot"]);
}

#[test]
fn group_members_are_victims_of_one_incident_and_count_once() {
    let mut parts = parts(vec![row(20, 500, 3), row(21, 10, 3), row(22, 10, 3)]);
    parts.victims = [20, 21, 21, 22]
        .map(|pid| victim(row(pid, 10, 3), STATE_KILLED))
        .to_vec();
    let incident = assemble(&session(), &parts);
    let roles: Vec<_> = incident
        .victims
        .iter()
        .map(|victim| (victim.pid, victim.role))
        .collect();
    assert_eq!(
        roles,
        [
            (20, Role::Chosen),
            (21, Role::GroupMember),
            (22, Role::GroupMember)
        ]
    );
    assert_eq!(incident.outcome, Some(Outcome::Killed));
    assert_eq!(incident.victims[0].killed_ns, Some(500));
}

#[test]
fn who_shares_the_memory_dies_along() {
    let mut sharer = row(21, 500, 4);
    sharer.mm = 20 << 12;
    let mut parts = parts(vec![row(20, 500, 3), sharer, row(22, 1, 3)]);
    parts.victims = vec![victim(row(20, 500, 3), STATE_KILLED)];
    let incident = assemble(&session(), &parts);
    assert_eq!(incident.victims.len(), 2);
    assert_eq!(incident.victims[1].role, Role::MmSharer);
    assert_eq!(of(&incident, 20).mm, of(&incident, 21).mm);
    assert_eq!(of(&incident, 22).mm, None);
}

#[test]
fn reserves_for_a_dying_process_are_no_kill() {
    let mut parts = parts(vec![row(20, 500, 3)]);
    parts.victims = vec![victim(row(20, 500, 3), 0)];
    let incident = assemble(&session(), &parts);
    assert_eq!(incident.outcome, Some(Outcome::AlreadyDying));
    assert_eq!(incident.victims[0].killed, Some(false));
}

#[test]
fn the_allocating_task_has_no_score() {
    let mut parts = parts(vec![row(20, 500, 3)]);
    if let Some(begin) = &mut parts.begin {
        let message = b"Out of memory (oom_kill_allocating_task)";
        begin.message[..message.len()].copy_from_slice(message);
        begin.chosen_points = 0;
    }
    let incident = assemble(&session(), &parts);
    assert_eq!(incident.chosen.and_then(|chosen| chosen.score), None);
}

#[test]
fn the_chosen_one_is_the_thread_that_has_the_memory() {
    let mut headless = row(20, 500, 3);
    headless.pid = 33;
    headless.state |= event::STATE_LEADER_GONE;
    let incident = assemble(&session(), &parts(vec![headless]));
    assert_eq!(incident.chosen.map(|chosen| chosen.pid), Some(33));
}

/// At `mark_victim` nothing is known of `oom_control`.
fn seen_at_the_mark(kind: u32) -> Parts {
    let mut parts = parts(vec![row(20, 500, 3), row(21, 10, 4)]);
    if let Some(begin) = &mut parts.begin {
        begin.constraint = ABSENT_U32;
        begin.totalpages = ABSENT_U64;
        begin.chosen_pid = ABSENT_U32;
        begin.chosen_points = ABSENT_I64;
        begin.oom_cgroup = ABSENT_U64;
        begin.gfp = ABSENT_U32;
        begin.order = i32::MIN;
        begin.reclaim_kind = kind;
        begin.reclaim_order = 2;
    }
    parts.victims = vec![victim(
        row(20, 500, 3),
        STATE_KILL_UNSEEN | event::STATE_OOM_VICTIM,
    )];
    parts
}

#[test]
fn at_the_mark_the_full_cgroup_is_found_from_the_asker_up() {
    let mut parts = seen_at_the_mark(RECLAIM_MEMCG);
    for cgroup in &mut parts.cgroups {
        match cgroup.id {
            2 => (cgroup.usage, cgroup.max, cgroup.swap_max) = (2_990, 3_000, 100),
            3 => (cgroup.usage, cgroup.max) = (1_000, 2_000),
            _ => {}
        }
    }
    let incident = assemble(&session(), &parts);
    assert_eq!(incident.scope, Some(Scope::Memcg));
    assert_eq!(incident.oom_cgroup, Some(2));
    // 3,000 of memory and the 100 of swap that it may use beside.
    assert_eq!(incident.total_pages, Some(3_100));
    assert_eq!(
        incident.chosen,
        Some(Chosen {
            pid: 20,
            score: None
        })
    );
    // A cgroup's reclaim is not given the order.
    assert_eq!(incident.trigger.and_then(|trigger| trigger.order), None);
    assert!(incident.gaps.iter().any(|gap| gap.what == "oom_control"));
}

#[test]
fn at_the_mark_the_fresh_victim_still_counts_as_eligible() {
    let mut parts = seen_at_the_mark(RECLAIM_DIRECT);
    parts.rows[0].state |= event::STATE_OOM_VICTIM;
    parts.rows[1].state |= event::STATE_OOM_VICTIM;
    let incident = assemble(&session(), &parts);
    assert_eq!(incident.scope, Some(Scope::Global));
    assert_eq!(incident.total_pages, Some(1_500));
    assert_eq!(
        incident.trigger.as_ref().and_then(|trigger| trigger.order),
        Some(2)
    );
    assert_eq!(of(&incident, 20).eligible, Some(true));
    assert_eq!(
        of(&incident, 21).skip_reason,
        Some(SkipReason::AlreadyVictim)
    );
}

#[test]
fn a_group_is_known_by_any_ancestor() {
    let cgroups = [
        cgroup(1, 0, "", CGROUP_V2 | CGROUP_ROOT),
        cgroup(2, 1, "a", CGROUP_V2 | CGROUP_OOM_GROUP),
        cgroup(3, 2, "b", CGROUP_V2),
        cgroup(4, 1, "c", CGROUP_V2),
    ];
    assert!(has_oom_group(&cgroups, 3));
    assert!(!has_oom_group(&cgroups, 4));
    assert!(!has_oom_group(&cgroups, 99));
}

#[test]
fn flags_are_named_as_the_kernel_names_them() {
    let bits: Vec<(u32, String)> = [
        (0x40, "IO"),
        (0x80, "FS"),
        (0x400, "DIRECT_RECLAIM"),
        (0x800, "KSWAPD_RECLAIM"),
        (0x2, "HIGHMEM"),
        (0x8, "MOVABLE"),
        (0x10_0000, "HARDWALL"),
        (0x100, "ZERO"),
    ]
    .map(|(bit, name)| (bit, format!("__GFP_{name}")))
    .to_vec();
    assert_eq!(gfp_names(&bits, 0xcc0), ["GFP_KERNEL"]);
    assert_eq!(gfp_names(&bits, 0x100cca), ["GFP_HIGHUSER_MOVABLE"]);
    assert_eq!(gfp_names(&bits, 0xdc0), ["GFP_KERNEL", "__GFP_ZERO"]);
    assert_eq!(gfp_names(&bits, 0x4000_0000), ["0x40000000"]);
}
