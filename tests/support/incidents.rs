//! Incidents as machines have them, built by hand. Scores follow the kernel's own rules, so that
//! what a view says of them can be checked with a pencil.

use oomtrace::incident::{
    Candidate, Cgroup, CgroupEvents, CgroupVersion, Chosen, Frame, Gap, Gfp, Host, Incident,
    Outcome, Role, Scope, SkipReason, Source, SourceKind, Swap, System, Text, Time, Trigger,
    Victim,
};

pub(crate) const KIB: u64 = 1 << 10;
pub(crate) const MIB: u64 = 1 << 20;
pub(crate) const GIB: u64 = 1 << 30;
const PAGE: u64 = 4096;

/// Every case, with the name of its expected outputs.
pub(crate) fn all() -> Vec<(&'static str, Incident)> {
    vec![
        ("memcg-v1-httpd-java", memcg_v1_httpd_java()),
        ("global-swap-full", global_swap_full()),
        ("memcg-v2-grandparent", memcg_v2_grandparent()),
        ("oom-group", oom_group()),
        ("allocating-task", allocating_task()),
        ("sysrq", sysrq()),
        ("adj-decides", adj_decides()),
        ("protected", protected()),
        ("mm-sharers", mm_sharers()),
        ("same-name", same_name()),
        ("tie-tiny-limit", tie_tiny_limit()),
        ("already-dying", already_dying()),
        ("no-killable", no_killable()),
        ("page-cache", page_cache()),
        ("gaps", gaps()),
        ("kernel-log", kernel_log()),
        ("empty", Incident::default()),
        ("hostile", hostile()),
        ("many", many()),
        ("full", full()),
        ("v1-memsw", v1_memsw()),
        ("panic", panic()),
    ]
}

/// 41 httpd workers fill a cgroup, and the one Tomcat in it dies.
pub(crate) fn memcg_v1_httpd_java() -> Incident {
    let mut it = base();
    it.scope = Some(Scope::Memcg);
    it.message = Some("Memory cgroup out of memory".into());
    it.total_pages = Some(512 * MIB / PAGE);
    it.cgroups = vec![
        Cgroup {
            usage_bytes: Some(13 * GIB),
            ..v1(1, "/", None)
        },
        Cgroup {
            usage_bytes: Some(512 * MIB),
            max_bytes: Some(512 * MIB),
            peak_bytes: Some(512 * MIB),
            kmem_bytes: Some(6 * MIB),
            failcnt: Some(3630),
            swappiness: Some(60),
            ..v1(20, "/shop.slice", Some(1))
        },
        Cgroup {
            usage_bytes: Some(900 * MIB),
            ..v1(30, "/system.slice", Some(1))
        },
    ];
    it.oom_cgroup = Some(20);
    it.candidates = vec![
        process(1, "systemd", 4 * MIB, 8 * MIB, 30),
        Candidate {
            oom_score_adj: Some(-1000),
            ..process(612, "sshd", MIB, 5 * MIB, 30)
        },
        process(890, "mysqld", 780 * MIB, 21 * MIB, 30),
        Candidate {
            cmdline: Some("java -Xmx256m -jar /srv/shop/shop.jar --port=8080".into()),
            uid: Some(991),
            ..process(4302, "java", 171 * MIB, 12 * MIB, 20)
        },
    ];
    it.candidates.extend((0..41u32).map(|n| {
        let anon = 7 * MIB + u64::from(n % 7) * 128 * KIB;
        Candidate {
            cmdline: Some("/usr/sbin/httpd -DFOREGROUND".into()),
            uid: Some(48),
            ppid: Some(4401),
            ..process(4402 + n, "httpd", anon, 2 * MIB, 20)
        }
    }));
    it.trigger = Some(Trigger {
        cgroup: Some(20),
        reclaim_stall_ns: Some(1_810_000_000),
        ..fault(4411, "httpd")
    });
    settle(it, 4302)
}

/// The host is full, swap too, and the database goes.
pub(crate) fn global_swap_full() -> Incident {
    let mut it = base();
    it.scope = Some(Scope::Global);
    it.host.ram_bytes = Some(8 * GIB - 180 * MIB);
    it.host.swap_total_bytes = Some(2 * GIB);
    it.total_pages = Some((10 * GIB - 180 * MIB) / PAGE);
    it.system = Some(System {
        free_bytes: Some(95 * MIB),
        swap: Some(Swap {
            total_bytes: 2 * GIB,
            free_bytes: 412 * KIB,
        }),
    });
    it.cgroups = vec![
        v2(1, "/", None),
        Cgroup {
            usage_bytes: Some(4 * GIB),
            ..v2(2, "/system.slice", Some(1))
        },
        Cgroup {
            usage_bytes: Some(3 * GIB),
            ..v2(3, "/system.slice/mariadb.service", Some(2))
        },
        Cgroup {
            usage_bytes: Some(GIB),
            ..v2(4, "/system.slice/php8.2-fpm.service", Some(2))
        },
    ];
    it.candidates = vec![
        process(1, "systemd", 4 * MIB, 8 * MIB, 1),
        Candidate {
            swap_bytes: Some(640 * MIB),
            cmdline: Some("/usr/sbin/mariadbd".into()),
            ..process(1201, "mariadbd", 2900 * MIB, MIB, 3)
        },
        Candidate {
            oom_score_adj: Some(-1000),
            ..process(702, "sshd", MIB, MIB, 2)
        },
    ];
    it.candidates.extend((0..60u32).map(|n| Candidate {
        swap_bytes: Some(22 * MIB),
        uid: Some(33),
        ..process(
            20_000 + n,
            "php-fpm8.2",
            64 * MIB + u64::from(n) * 64 * KIB,
            2 * MIB,
            4,
        )
    }));
    it.trigger = Some(Trigger {
        cgroup: Some(4),
        stack: stack(&[
            "oom_kill_process",
            "out_of_memory",
            "__alloc_pages_slowpath.constprop.0",
            "__alloc_pages_noprof",
            "alloc_pages_mpol_noprof",
            "vma_alloc_folio_noprof",
            "do_anonymous_page",
            "handle_mm_fault",
            "do_user_addr_fault",
            "exc_page_fault",
            "asm_exc_page_fault",
        ]),
        ..fault(20_017, "php-fpm8.2")
    });
    settle(it, 1201)
}

/// The limit of the grandparent is hit; the victim's own is not.
pub(crate) fn memcg_v2_grandparent() -> Incident {
    let mut it = base();
    it.scope = Some(Scope::Memcg);
    it.total_pages = Some((GIB + 128 * MIB) / PAGE);
    let events = |max| {
        Some(CgroupEvents {
            max: Some(max),
            oom: Some(3),
            oom_kill: Some(2),
            ..CgroupEvents::default()
        })
    };
    it.cgroups = vec![
        v2(1, "/", None),
        Cgroup {
            usage_bytes: Some(GIB - 64 * KIB),
            max_bytes: Some(GIB),
            swap_bytes: Some(128 * MIB),
            swap_max_bytes: Some(128 * MIB),
            events: events(914),
            ..v2(10, "/tenants.slice", Some(1))
        },
        Cgroup {
            usage_bytes: Some(700 * MIB),
            ..v2(11, "/tenants.slice/blue.slice", Some(10))
        },
        Cgroup {
            usage_bytes: Some(650 * MIB),
            max_bytes: Some(800 * MIB),
            high_bytes: Some(750 * MIB),
            ..v2(12, "/tenants.slice/blue.slice/worker.service", Some(11))
        },
        Cgroup {
            usage_bytes: Some(310 * MIB),
            ..v2(13, "/tenants.slice/green.slice", Some(10))
        },
    ];
    it.oom_cgroup = Some(10);
    it.candidates = vec![
        process(1, "systemd", 4 * MIB, 8 * MIB, 1),
        Candidate {
            swap_bytes: Some(90 * MIB),
            ..process(3001, "node", 610 * MIB, 20 * MIB, 12)
        },
        Candidate {
            swap_bytes: Some(30 * MIB),
            ..process(3100, "ruby", 200 * MIB, 14 * MIB, 13)
        },
        process(3101, "ruby", 80 * MIB, 14 * MIB, 13),
    ];
    it.trigger = Some(Trigger {
        cgroup: Some(13),
        stack: stack(&[
            "try_charge_memcg",
            "__mem_cgroup_charge",
            "shmem_get_folio_gfp",
            "shmem_file_write_iter",
            "vfs_write",
            "ksys_write",
            "__x64_sys_write",
            "do_syscall_64",
        ]),
        ..fault(3101, "ruby")
    });
    settle(it, 3001)
}

/// `memory.oom.group`: the pool dies together, but for one protected member.
pub(crate) fn oom_group() -> Incident {
    let mut it = base();
    it.scope = Some(Scope::Memcg);
    it.total_pages = Some(256 * MIB / PAGE);
    it.cgroups = vec![
        v2(1, "/", None),
        Cgroup {
            usage_bytes: Some(256 * MIB),
            max_bytes: Some(256 * MIB),
            oom_group: Some(true),
            ..v2(7, "/jobs.slice/pool.scope", Some(1))
        },
    ];
    it.oom_cgroup = Some(7);
    it.candidates = (0..50u32)
        .map(|n| process(900 + n, "worker", 4 * MIB + u64::from(n) * 16 * KIB, MIB, 7))
        .collect();
    it.candidates.push(Candidate {
        oom_score_adj: Some(-1000),
        ..process(980, "watchdog", MIB, MIB, 7)
    });
    it.trigger = Some(Trigger {
        cgroup: Some(7),
        ..fault(912, "worker")
    });
    let mut it = settle(it, 949);
    for candidate in it
        .candidates
        .clone()
        .iter()
        .filter(|c| c.comm == "worker".into() && c.tgid != 949)
    {
        it.victims.push(Victim {
            role: Role::GroupMember,
            ..victim(candidate)
        });
    }
    it
}

/// `memory.oom.group` with a thousand members.
pub(crate) fn large_group() -> Incident {
    let mut it = oom_group();
    it.candidates.retain(|c| c.tgid != 980);
    it.candidates
        .extend((0..951u32).map(|n| process(2_000 + n, "worker", MIB, MIB, 7)));
    let mut it = settle(it, 949);
    let others: Vec<_> = it
        .candidates
        .iter()
        .filter(|c| c.tgid != 949)
        .map(victim)
        .collect();
    it.victims.extend(others.into_iter().map(|v| Victim {
        role: Role::GroupMember,
        ..v
    }));
    it
}

/// Not the limit for memory is hit, but that for memory and swap together, by a request for more
/// than a page; and the kernel's figure is not quite the sum of the parts.
pub(crate) fn v1_memsw() -> Incident {
    let mut it = memcg_v1_httpd_java();
    it.cgroups[1].usage_bytes = Some(400 * MIB);
    it.cgroups[1].memsw_bytes = Some(600 * MIB);
    it.cgroups[1].memsw_max_bytes = Some(600 * MIB);
    let trigger = it.trigger.as_mut().expect("the case has a trigger");
    (trigger.order, trigger.reclaim_stall_ns) = (Some(2), None);
    it.chosen = Some(Chosen {
        pid: 4302,
        score: Some(46_960),
    });
    it
}

/// `vm.panic_on_oom`: nobody is compared, the machine goes down.
pub(crate) fn panic() -> Incident {
    let mut it = settle(global_swap_full(), 0);
    it.outcome = Some(Outcome::Panic);
    it
}

/// `vm.oom_kill_allocating_task`: whoever asks, dies.
pub(crate) fn allocating_task() -> Incident {
    let mut it = global_swap_full();
    it.message = Some("Out of memory (oom_kill_allocating_task)".into());
    let mut it = settle(it, 20_017);
    it.chosen = Some(Chosen {
        pid: 20_017,
        score: None,
    });
    it
}

/// Somebody pressed Alt-SysRq-F.
pub(crate) fn sysrq() -> Incident {
    let mut it = global_swap_full();
    it.scope = Some(Scope::Sysrq);
    it.system = Some(System {
        free_bytes: Some(3 * GIB),
        swap: Some(Swap {
            total_bytes: 2 * GIB,
            free_bytes: GIB,
        }),
    });
    it.trigger = Some(Trigger {
        pid: 51,
        tgid: Some(51),
        comm: "kworker/1:1".into(),
        order: Some(-1),
        gfp: Some(Gfp {
            raw: 0xcc0,
            names: vec!["GFP_KERNEL".into()],
        }),
        ..Trigger::default()
    });
    settle(it, 1201)
}

/// Without its `oom_score_adj`, the small one would have lived.
pub(crate) fn adj_decides() -> Incident {
    let mut it = memcg_v2_grandparent();
    for candidate in &mut it.candidates {
        match candidate.tgid {
            3001 => candidate.oom_score_adj = Some(-200),
            3100 => candidate.oom_score_adj = Some(500),
            _ => {}
        }
    }
    settle(it, 3100)
}

/// The largest may not be taken.
pub(crate) fn protected() -> Incident {
    let mut it = global_swap_full();
    for candidate in it.candidates.iter_mut().filter(|c| c.tgid == 1201) {
        candidate.oom_score_adj = Some(-1000);
    }
    settle(it, 20_059)
}

/// Two processes, one address space.
pub(crate) fn mm_sharers() -> Incident {
    let mut it = memcg_v2_grandparent();
    let mut twin = it.candidates[1].clone();
    it.candidates[1].mm = Some(1);
    (twin.pid, twin.tgid, twin.mm) = (3002, 3002, Some(1));
    it.candidates.insert(2, twin);
    let mut it = settle(it, 3002);
    let sharer = Victim {
        role: Role::MmSharer,
        ..victim(&it.candidates[1])
    };
    it.victims.push(sharer);
    it
}

/// One of many equals is taken: the kill does little.
pub(crate) fn same_name() -> Incident {
    let mut it = memcg_v1_httpd_java();
    it.candidates.retain(|c| c.comm != "java".into());
    settle(it, 4436)
}

/// A limit so small that `oom_score_adj` rounds to nothing, and two equals.
pub(crate) fn tie_tiny_limit() -> Incident {
    let mut it = oom_group();
    it.total_pages = Some(512);
    it.cgroups[1] = Cgroup {
        usage_bytes: Some(2 * MIB),
        max_bytes: Some(2 * MIB),
        ..v2(7, "/tiny", Some(1))
    };
    it.candidates = vec![
        Candidate {
            oom_score_adj: Some(500),
            ..process(41, "dd", 600 * KIB, 0, 7)
        },
        process(42, "dd", 600 * KIB, 0, 7),
    ];
    it.trigger = Some(Trigger {
        cgroup: Some(1),
        ..fault(1, "systemd")
    });
    settle(it, 42)
}

/// The chosen one was on its way out.
pub(crate) fn already_dying() -> Incident {
    let mut it = memcg_v1_httpd_java();
    it.outcome = Some(Outcome::AlreadyDying);
    it.victims[0].killed = Some(false);
    it
}

/// Everything in the cgroup is protected.
pub(crate) fn no_killable() -> Incident {
    let mut it = oom_group();
    for candidate in &mut it.candidates {
        candidate.oom_score_adj = Some(-1000);
    }
    it = settle(it, 0);
    it.outcome = Some(Outcome::NoKillableProcess);
    it.chosen = None;
    it
}

/// What fills the cgroup belongs to no process: files in a tmpfs.
pub(crate) fn page_cache() -> Incident {
    let mut it = oom_group();
    it.cgroups[1].oom_group = Some(false);
    it.candidates.truncate(3);
    settle(it, 902)
}

/// Half of it went missing.
pub(crate) fn gaps() -> Incident {
    let mut it = memcg_v1_httpd_java();
    it.candidates.truncate(20);
    it.candidates[6].anon_bytes = None;
    it.candidates[6].score = None;
    it.gaps = vec![
        Gap {
            what: "candidates".into(),
            count: Some(25),
            why: "the ring was full: 25 of 45 processes were not recorded".into(),
        },
        Gap { what: "decision".into(), count: None, why: "no hook at the decision on this kernel, so order and gfp come from the kernel stack".into() },
    ];
    it
}

/// What an old kernel log tells: no cgroups, no page size, no scores by rule.
pub(crate) fn kernel_log() -> Incident {
    Incident {
        source: Source {
            kind: SourceKind::KernelLog,
            ..Source::default()
        },
        time: Time {
            wall: None,
            boot_ns: Some(86_400_123_456_789),
        },
        outcome: Some(Outcome::Killed),
        trigger: Some(Trigger {
            pid: 21_177,
            comm: "httpd".into(),
            gfp: Some(Gfp {
                raw: 0x200da,
                names: vec![],
            }),
            order: Some(0),
            ..Trigger::default()
        }),
        candidates: (0..4u32)
            .map(|n| Candidate {
                pid: 21_271 + n,
                tgid: 21_271 + n,
                uid: Some(48),
                comm: "httpd".into(),
                total_vm_bytes: Some(440 * MIB),
                ..Candidate::default()
            })
            .collect(),
        chosen: Some(Chosen {
            pid: 13_011,
            score: Some(16),
        }),
        victims: vec![Victim {
            pid: 13_011,
            tgid: 13_011,
            comm: "httpd".into(),
            uid: Some(48),
            anon_bytes: Some(18_504 * KIB),
            file_bytes: Some(76 * KIB),
            killed: Some(true),
            ..Victim::default()
        }],
        gaps: vec![Gap {
            what: "candidates".into(),
            count: None,
            why: "the table is cut".into(),
        }],
        ..Incident::default()
    }
}

/// Names chosen to deceive.
pub(crate) fn hostile() -> Incident {
    const NAMES: [&[u8]; 10] = [
        b"\x1b[2J\x1b[31mOOM",
        b"a\nKilled 1 (b)",
        "\u{202e}gnp.exe".as_bytes(),
        b"a,b=c \"d\" killed=",
        "漢字漢字漢字漢字".as_bytes(),
        b"\xff\xfe\x80\x00bad",
        b"",
        b"    ",
        b"\\x1b \\",
        "e\u{301}\u{301}\u{301}\u{301}".as_bytes(),
    ];
    let mut it = memcg_v1_httpd_java();
    let long: Vec<u8> = NAMES.concat().repeat(40);
    it.host.hostname = Some(Text::new(NAMES[1]));
    it.host.kernel = Some(Text::new(long.clone()));
    it.time.wall = Some("yesterday\x1b[2J\n".into());
    it.id = "id\x1b]0;title\x07".into();
    it.cgroups[1].path = Text::new([b"/shop \x1b[1m,=\n".as_slice(), &long].concat());
    for (n, candidate) in it.candidates.iter_mut().enumerate() {
        candidate.comm = Text::new(NAMES[n % NAMES.len()]);
        candidate.cmdline = Some(Text::new(long.clone()));
    }
    it = settle(it, 4302);
    let trigger = it.trigger.as_mut().expect("the case has a trigger");
    trigger.comm = Text::new(NAMES[0]);
    trigger.gfp = Some(Gfp {
        raw: 0,
        names: vec!["GFP\x1b[1m".into(), "x".repeat(300)],
    });
    trigger.stack.push(Frame {
        addr: 1,
        symbol: Some("evil\nframe\u{202e}".into()),
        offset: None,
    });
    it.gaps.push(Gap {
        what: "x\x1b".into(),
        count: Some(u64::MAX),
        why: "漢".repeat(200),
    });
    it
}

/// Ten thousand processes, nine thousand of them elsewhere.
pub(crate) fn many() -> Incident {
    let mut it = memcg_v1_httpd_java();
    it.candidates.extend((0..9_000u32).map(|n| {
        process(
            100_000 + n,
            &format!("job-{n}"),
            u64::from(n) * KIB * 8,
            0,
            30,
        )
    }));
    it.candidates
        .extend((0..1_000u32).map(|n| process(200_000 + n, &format!("cgi-{n}"), 64 * KIB, 0, 20)));
    settle(it, 4302)
}

/// Every key there is, once. No `..` here: a new field does not compile until it is documented.
pub(crate) fn full() -> Incident {
    let all_events = CgroupEvents {
        low: Some(1),
        high: Some(2),
        max: Some(3),
        oom: Some(4),
        oom_kill: Some(5),
        oom_group_kill: Some(6),
    };
    let candidate = Candidate {
        pid: 42,
        tgid: 41,
        ppid: Some(1),
        start_boot_ns: Some(1_000_000_000),
        uid: Some(1000),
        comm: "worker".into(),
        cmdline: Some("/usr/bin/worker --one".into()),
        cgroup: Some(7),
        oom_score_adj: Some(0),
        anon_bytes: Some(240 * MIB),
        file_bytes: Some(MIB),
        shmem_bytes: Some(MIB),
        swap_bytes: Some(8 * MIB),
        pgtables_bytes: Some(MIB),
        total_vm_bytes: Some(GIB),
        rss_exact: Some(true),
        score: Some(64_256),
        kernel_score: Some(64_256),
        eligible: Some(true),
        skip_reason: None,
        ns_pid: Some(3),
        mm: Some(1),
    };
    let passed_over = Candidate {
        pid: 50,
        tgid: 50,
        eligible: Some(false),
        skip_reason: Some(SkipReason::AlreadyVictim),
        mm: Some(2),
        ..candidate.clone()
    };
    Incident {
        id: "8f0c31d2-1122334455667788".into(),
        source: Source {
            kind: SourceKind::Recording,
            rungs: [("decision".into(), "fentry oom_kill_process".into())].into(),
        },
        time: Time {
            wall: Some("2026-11-23T09:41:07.120394Z".into()),
            boot_ns: Some(1_122_334_455_667_788),
        },
        host: Host {
            hostname: Some("web-7".into()),
            boot_id: Some("8f0c31d2-9d5c-4f4e-8d0a-5f4a1e1f7c11".into()),
            kernel: Some("6.12.107".into()),
            arch: Some("x86_64".into()),
            page_size: Some(4096),
            cpus: Some(4),
            ram_bytes: Some(8 * GIB),
            swap_total_bytes: Some(2 * GIB),
        },
        scope: Some(Scope::Memcg),
        outcome: Some(Outcome::Killed),
        message: Some("Memory cgroup out of memory".into()),
        trigger: Some(Trigger {
            pid: 42,
            tgid: Some(41),
            comm: "worker".into(),
            cmdline: Some("/usr/bin/worker --one".into()),
            cgroup: Some(7),
            oom_score_adj: Some(0),
            gfp: Some(Gfp {
                raw: 0xcc0,
                names: vec!["GFP_KERNEL".into()],
            }),
            order: Some(0),
            stack: vec![Frame {
                addr: 0xffff_ffff_8130_0001,
                symbol: Some("try_charge_memcg".into()),
                offset: Some(77),
            }],
            reclaim_stall_ns: Some(1_000_000),
        }),
        oom_cgroup: Some(7),
        cgroups: vec![Cgroup {
            id: 7,
            path: "/pool".into(),
            version: Some(CgroupVersion::V2),
            parent: Some(1),
            usage_bytes: Some(256 * MIB),
            max_bytes: Some(256 * MIB),
            high_bytes: Some(250 * MIB),
            low_bytes: Some(MIB),
            min_bytes: Some(MIB),
            peak_bytes: Some(256 * MIB),
            swap_bytes: Some(8 * MIB),
            swap_max_bytes: Some(64 * MIB),
            memsw_bytes: Some(264 * MIB),
            memsw_max_bytes: Some(320 * MIB),
            kmem_bytes: Some(3 * MIB),
            failcnt: Some(9),
            swappiness: Some(60),
            events: Some(all_events),
            events_local: Some(all_events),
            oom_group: Some(false),
            oom_kill_disable: Some(false),
        }],
        system: Some(System {
            free_bytes: Some(GIB),
            swap: Some(Swap {
                total_bytes: 2 * GIB,
                free_bytes: GIB,
            }),
        }),
        candidates: vec![candidate, passed_over],
        kernel_threads: Some(97),
        chosen: Some(Chosen {
            pid: 42,
            score: Some(64_256),
        }),
        total_pages: Some(81_920),
        victims: vec![Victim {
            pid: 42,
            tgid: 41,
            start_boot_ns: Some(1_000_000_000),
            comm: "worker".into(),
            cmdline: Some("/usr/bin/worker --one".into()),
            uid: Some(1000),
            cgroup: Some(7),
            oom_score_adj: Some(0),
            anon_bytes: Some(240 * MIB),
            file_bytes: Some(MIB),
            shmem_bytes: Some(MIB),
            swap_bytes: Some(8 * MIB),
            pgtables_bytes: Some(MIB),
            total_vm_bytes: Some(GIB),
            role: Role::Chosen,
            killed: Some(true),
            killed_ns: Some(12_000),
        }],
        snapshot_ns: Some(40_000),
        gaps: vec![Gap {
            what: "candidates".into(),
            count: Some(3),
            why: "the ring was full".into(),
        }],
    }
}

fn base() -> Incident {
    Incident {
        id: "8f0c31d2-1122334455667788".into(),
        time: Time {
            wall: Some("2026-11-23T09:41:07.120394Z".into()),
            boot_ns: Some(1_122_334_455_667_788),
        },
        host: Host {
            hostname: Some("web-7".into()),
            kernel: Some("6.12.107".into()),
            page_size: Some(PAGE),
            ram_bytes: Some(31 * GIB + 200 * MIB),
            swap_total_bytes: Some(0),
            ..Host::default()
        },
        outcome: Some(Outcome::Killed),
        system: Some(System {
            free_bytes: Some(18 * GIB),
            swap: Some(Swap {
                total_bytes: 0,
                free_bytes: 0,
            }),
        }),
        kernel_threads: Some(97),
        snapshot_ns: Some(61_000),
        ..Incident::default()
    }
}

fn v1(id: u64, path: &str, parent: Option<u64>) -> Cgroup {
    Cgroup {
        version: Some(CgroupVersion::V1),
        ..v2(id, path, parent)
    }
}

fn v2(id: u64, path: &str, parent: Option<u64>) -> Cgroup {
    Cgroup {
        id,
        path: path.into(),
        version: Some(CgroupVersion::V2),
        parent,
        ..Cgroup::default()
    }
}

fn process(tgid: u32, comm: &str, anon: u64, file: u64, cgroup: u64) -> Candidate {
    Candidate {
        pid: tgid,
        tgid,
        ppid: Some(1),
        uid: Some(0),
        comm: comm.into(),
        cgroup: Some(cgroup),
        oom_score_adj: Some(0),
        anon_bytes: Some(anon),
        file_bytes: Some(file),
        shmem_bytes: Some(0),
        swap_bytes: Some(0),
        pgtables_bytes: Some(((anon + file) / 512 / PAGE + 12) * PAGE),
        total_vm_bytes: Some(2 * (anon + file)),
        ..Candidate::default()
    }
}

fn fault(pid: u32, comm: &str) -> Trigger {
    Trigger {
        pid,
        tgid: Some(pid),
        comm: comm.into(),
        oom_score_adj: Some(0),
        gfp: Some(Gfp {
            raw: 0xcc0,
            names: vec!["GFP_KERNEL".into()],
        }),
        order: Some(0),
        stack: stack(&[
            "oom_kill_process",
            "out_of_memory",
            "try_charge_memcg",
            "__mem_cgroup_charge",
            "alloc_anon_folio",
            "do_anonymous_page",
            "__handle_mm_fault",
            "handle_mm_fault",
            "do_user_addr_fault",
            "exc_page_fault",
            "asm_exc_page_fault",
        ]),
        ..Trigger::default()
    }
}

fn stack(symbols: &[&str]) -> Vec<Frame> {
    symbols
        .iter()
        .map(|symbol| Frame {
            addr: 0xffff_ffff_8100_0000,
            symbol: Some((*symbol).to_owned()),
            offset: Some(16),
        })
        .collect()
}

fn victim(candidate: &Candidate) -> Victim {
    Victim {
        pid: candidate.pid,
        tgid: candidate.tgid,
        comm: candidate.comm.clone(),
        cmdline: candidate.cmdline.clone(),
        uid: candidate.uid,
        cgroup: candidate.cgroup,
        oom_score_adj: candidate.oom_score_adj,
        anon_bytes: candidate.anon_bytes,
        file_bytes: candidate.file_bytes,
        shmem_bytes: candidate.shmem_bytes,
        swap_bytes: candidate.swap_bytes,
        pgtables_bytes: candidate.pgtables_bytes,
        killed: Some(true),
        killed_ns: Some(210_000),
        ..Victim::default()
    }
}

/// Judges every candidate by the kernel's rules, and makes `chosen` the victim.
fn settle(mut it: Incident, chosen: u32) -> Incident {
    let total = i64::try_from(it.total_pages.unwrap_or(0)).expect("a small number");
    let frame = it.clone();
    for candidate in &mut it.candidates {
        let cgroup = candidate.cgroup.expect("every process has a cgroup");
        let outside = frame
            .oom_cgroup
            .is_some_and(|limit| frame.is_within(cgroup, limit) == Some(false));
        candidate.skip_reason = match candidate.tgid {
            1 => Some(SkipReason::Init),
            _ if outside => Some(SkipReason::OutsideCgroup),
            _ if candidate.oom_score_adj == Some(-1000) => Some(SkipReason::Protected),
            _ => None,
        };
        candidate.eligible = Some(candidate.skip_reason.is_none());
        let pages = candidate
            .weighed_bytes()
            .expect("all its figures are known")
            / PAGE;
        let adj = i64::from(candidate.oom_score_adj.expect("it is known"));
        let pages = i64::try_from(pages).expect("a small number");
        let eligible = candidate.skip_reason.is_none();
        candidate.score = eligible.then(|| pages + adj * (total / 1000));
    }
    it.victims.clear();
    it.chosen = None;
    if let Some(candidate) = it.candidates.iter().find(|c| c.tgid == chosen) {
        it.chosen = Some(Chosen {
            pid: candidate.pid,
            score: candidate.score,
        });
        it.victims = vec![victim(candidate)];
    }
    it
}
