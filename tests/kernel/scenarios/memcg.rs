//! A cgroup reaches its limit.

use std::fs;

use anyhow::Context as _;
use oomtrace::incident::{Role, SkipReason};

use crate::{
    cgroup::Scratch,
    context::{Context, Skip, Verdict},
    crew::{Job, Worker},
    scene::Scene,
};

/// The plain case: a big idle process dies for the growth of a small one.
pub(super) fn memcg(context: &Context, args: &[&str]) -> anyhow::Result<Verdict> {
    if args.contains(&"tp_btf") && !mark_victim_hands_over_a_task() {
        return Err(Skip("mark_victim hands over a number here, not a task".into()).into());
    }
    let scratch = context.scratch("memcg")?;
    let dir = scratch.dir();
    let hog = Job::new("hold", 40)
        .name(b"hog")
        .uid(1000)
        .cgroup(dir)
        .start()?;
    let _idle = idlers(&scratch)?;
    let mut grower = grower(&scratch)?;
    let seen = Scene::memcg(context, &scratch)
        .watch(args)
        .kill(|| grower.go())?;
    seen.judge(&[hog.pid()], |tally| {
        if let [_, hook] = args {
            let rung = seen.incident.source.rungs.get("decision");
            let asked = rung.is_some_and(|rung| rung.starts_with(hook));
            tally.holds(format!("asked for {hook}, used {rung:?}"), asked);
        }
        Ok(())
    })
}

/// The limit is the grandparent's, and two of its grandchildren hold the memory.
pub(super) fn nested(context: &Context) -> anyhow::Result<Verdict> {
    let scratch = context.scratch("nested")?;
    let (left, right) = (scratch.child("a b/x")?, scratch.child("c,pid=1/y")?);
    let outside = context.scratch("outside")?;
    let hog = Job::new("hold", 40).name(b"hog").cgroup(&left).start()?;
    let idle = Job::new("hold", 8).name(b"idle").cgroup(&right).start()?;
    let bystander = Job::new("hold", 60)
        .name(b"bystander")
        .cgroup(outside.dir())
        .start()?;
    let mut grower = Job::new("grow", 32).cgroup(&right).start()?;
    let seen = Scene::memcg(context, &scratch).kill(|| grower.go())?;
    seen.judge(&[hog.pid()], |tally| {
        for (worker, dir, at) in [(&hog, &left, &scratch), (&idle, &right, &scratch)] {
            let id = seen.candidate(worker.pid())?.cgroup.context("no cgroup")?;
            let path = seen
                .incident
                .cgroup(id)
                .map(|cgroup| cgroup.path.as_bytes());
            let path = path.map(String::from_utf8_lossy);
            tally.same("path", path.as_deref(), Some(at.kernel_path(dir).as_str()));
        }
        let bystander = seen.candidate(bystander.pid())?;
        tally.same(
            "bystander",
            bystander.skip_reason,
            Some(SkipReason::OutsideCgroup),
        );
        Ok(())
    })
}

/// Fifty processes that die together: one incident, fifty victims.
pub(super) fn oom_group(context: &Context) -> anyhow::Result<Verdict> {
    let scratch = context.scratch("group")?;
    scratch.set_oom_group()?;
    let _hog = Job::new("hold", 40)
        .name(b"hog")
        .cgroup(scratch.dir())
        .start()?;
    let _family = Job::new("fork", 47).cgroup(scratch.dir()).start()?;
    let mut grower = grower(&scratch)?;
    let all = scratch.processes()?;
    let seen = Scene::memcg(context, &scratch).kill(|| grower.go())?;
    seen.judge(&all, |tally| {
        tally.same("members", all.len(), 50);
        let group = &seen.report.group;
        tally.holds("the kernel kills no group", group.is_some());
        let victims = &seen.incident.victims;
        let members = victims
            .iter()
            .filter(|victim| victim.role == Role::GroupMember)
            .count();
        tally.same("members beside the chosen", members, 49);
        let cgroup = seen
            .incident
            .oom_cgroup
            .and_then(|id| seen.incident.cgroup(id));
        tally.same(
            "oom_group",
            cgroup.and_then(|cgroup| cgroup.oom_group),
            Some(true),
        );
        Ok(())
    })
}

/// The biggest may not be killed.
pub(super) fn protected(context: &Context) -> anyhow::Result<Verdict> {
    require_lower_adj()?;
    let scratch = context.scratch("protected")?;
    let dir = scratch.dir();
    let safe = Job::new("hold", 60)
        .name(b"safe")
        .adj(-1000)
        .cgroup(dir)
        .start()?;
    let hog = Job::new("hold", 40).name(b"hog").cgroup(dir).start()?;
    let mut grower = grower(&scratch)?;
    let seen = Scene::memcg(context, &scratch).kill(|| grower.go())?;
    seen.judge(&[hog.pid()], |tally| {
        let safe = seen.candidate(safe.pid())?;
        tally.same("safe", safe.skip_reason, Some(SkipReason::Protected));
        tally.same("safe, eligible", safe.eligible, Some(false));
        Ok(())
    })
}

/// `oom_score_adj` turns the outcome round.
pub(super) fn adj(context: &Context) -> anyhow::Result<Verdict> {
    let scratch = context.scratch("adj")?;
    let dir = scratch.dir();
    let big = Job::new("hold", 60).name(b"big").cgroup(dir).start()?;
    let small = Job::new("hold", 36)
        .name(b"small")
        .adj(600)
        .cgroup(dir)
        .start()?;
    let mut grower = grower(&scratch)?;
    let seen = Scene::memcg(context, &scratch).kill(|| grower.go())?;
    seen.judge(&[small.pid()], |tally| {
        let (big, small) = (seen.candidate(big.pid())?, seen.candidate(small.pid())?);
        tally.holds(
            "the victim is the bigger one",
            big.rss_bytes() > small.rss_bytes(),
        );
        tally.holds("the victim scores less", big.score < small.score);
        Ok(())
    })
}

/// The kernel's own score of every candidate, beside ours.
pub(super) fn kernel_scores(context: &Context) -> anyhow::Result<Verdict> {
    let scratch = context.scratch("scores")?;
    let hog = Job::new("hold", 40)
        .name(b"hog")
        .cgroup(scratch.dir())
        .start()?;
    let _family = Job::new("fork", 40).adj(77).cgroup(scratch.dir()).start()?;
    let _idle = idlers(&scratch)?;
    let mut grower = grower(&scratch)?;
    let scene = Scene::memcg(context, &scratch).watch(&["--kernel-scores"]);
    let seen = scene.kill(|| grower.go())?;
    if !seen.incident.source.rungs.contains_key("kernel score") {
        return Err(Skip("this kernel has no hook for its own score".into()).into());
    }
    seen.judge(&[hog.pid()], |tally| {
        let all = seen.incident.candidates.iter();
        let scored = all
            .filter(|candidate| candidate.kernel_score.is_some())
            .count();
        let eligible = (seen.incident.candidates.iter())
            .filter(|candidate| candidate.eligible == Some(true))
            .count();
        tally.same("candidates with the kernel's score", scored, eligible);
        Ok(())
    })
}

/// Two processes in one address space: the other one dies too, though the kernel counts one kill.
pub(super) fn share_mm(context: &Context) -> anyhow::Result<Verdict> {
    let scratch = context.scratch("share")?;
    let mut hog = Job::new("share-mm", 40)
        .name(b"siamese")
        .cgroup(scratch.dir())
        .start()?;
    let sharer = hog.helper.context("the sharer's pid")?;
    let idle = Job::new("hold", 8)
        .name(b"idle")
        .cgroup(scratch.dir())
        .start()?;
    let mut grower = grower(&scratch)?;
    let seen = Scene::memcg(context, &scratch).kill(|| grower.go())?;
    // Equal scores: the kernel takes the later one. Which of the two is for it to say.
    let killed = seen.report.kills.first().context("no kill")?.pid;
    let told: Vec<u32> = (seen.incident.victims.iter())
        .filter(|victim| victim.role == Role::MmSharer)
        .map(|victim| victim.tgid)
        .collect();
    let mut due = vec![killed];
    due.extend(&told);
    seen.judge(&due, |tally| {
        let pair = [hog.pid(), sharer];
        tally.holds(
            format!("killed {killed}, not of {pair:?}"),
            pair.contains(&killed),
        );
        let other = if killed == sharer { hog.pid() } else { sharer };
        tally.holds(
            format!("sharers told: {told:?}"),
            told.is_empty() || told == [other],
        );
        let mm = seen.candidate(hog.pid())?.mm;
        tally.holds("no number of the address space", mm.is_some());
        tally.same(
            "address space of the sharer",
            seen.candidate(sharer)?.mm,
            mm,
        );
        tally.holds("idle shares it", seen.candidate(idle.pid())?.mm != mm);
        tally.holds("the first of the pair lives on", !hog.is_alive()?);
        Ok(())
    })
}

/// The thread that holds the memory is not the leader, which has exited.
pub(super) fn leader_gone(context: &Context) -> anyhow::Result<Verdict> {
    let scratch = context.scratch("leader")?;
    let hog = Job::new("leader-exits", 40)
        .name(b"first")
        .cgroup(scratch.dir())
        .start()?;
    let thread = hog.helper.context("the thread's id")?;
    let _idle = idlers(&scratch)?;
    let mut grower = grower(&scratch)?;
    let seen = Scene::memcg(context, &scratch).kill(|| grower.go())?;
    seen.judge(&[hog.pid()], |tally| {
        let candidate = seen.candidate(hog.pid())?;
        tally.same("thread", candidate.pid, thread);
        tally.same("its name", candidate.comm.as_bytes(), b"second".as_slice());
        tally.same(
            "victim",
            seen.incident.victims.first().map(|v| v.pid),
            Some(thread),
        );
        Ok(())
    })
}

/// Names that would break a parser or a terminal.
pub(super) fn hostile_names(context: &Context) -> anyhow::Result<Verdict> {
    let scratch = context.scratch("names")?;
    let names: [&[u8]; 9] = [
        b" ",
        b"a\nb",
        b"\x1b[2J\x07",
        b"\xff\xfe\xc3",
        b") total-vm:1kB",
        b",task=x,pid=1",
        b"\\x41\\",
        "\u{202e}\u{200b}".as_bytes(),
        b"name\r\n",
    ];
    let mut idle = Vec::new();
    for name in names {
        idle.push(
            Job::new("hold", 2)
                .name(name)
                .cgroup(scratch.dir())
                .start()?,
        );
    }
    let hog = Job::new("hold", 40)
        .name(b"h) \"\\\n{\x01\x7f")
        .cgroup(scratch.dir())
        .start()?;
    let mut grower = Job::new("grow", 32)
        .name(b"invoked oom\t%s")
        .cgroup(scratch.dir())
        .start()?;
    let seen = Scene::memcg(context, &scratch).kill(|| grower.go())?;
    seen.judge(&[hog.pid()], |tally| {
        for (worker, name) in idle.iter().zip(names) {
            tally.same("name", seen.candidate(worker.pid())?.comm.as_bytes(), name);
        }
        Ok(())
    })
}

/// More processes than the kernel log has room for.
pub(super) fn many(context: &Context, count: usize) -> anyhow::Result<Verdict> {
    let scratch = context.scratch("many")?;
    let _family = Job::new("fork", count)
        .uid(1000)
        .cgroup(scratch.dir())
        .start()?;
    let hog = Job::new("hold", 40)
        .name(b"hog")
        .cgroup(scratch.dir())
        .start()?;
    let mut grower = grower(&scratch)?;
    let seen = Scene::memcg(context, &scratch).kill(|| grower.go())?;
    seen.judge(&[hog.pid()], |_| Ok(()))
}

/// A ring that has no room for the rows.
pub(super) fn lost_rows(context: &Context) -> anyhow::Result<Verdict> {
    let scratch = context.scratch("lost")?;
    let _family = Job::new("fork", 800).cgroup(scratch.dir()).start()?;
    let hog = Job::new("hold", 40)
        .name(b"hog")
        .cgroup(scratch.dir())
        .start()?;
    let mut grower = grower(&scratch)?;
    let scene = Scene::memcg(context, &scratch).watch(&["--ring", "64K"]);
    scene.kill(|| grower.go())?.judge_loss(hog.pid())
}

fn grower(scratch: &Scratch) -> anyhow::Result<Worker> {
    Job::new("grow", 32).cgroup(scratch.dir()).start()
}

/// Small processes that differ in everything the kernel prints.
fn idlers(scratch: &Scratch) -> anyhow::Result<Vec<Worker>> {
    [
        (1, 0, 0),
        (3, 100, 1000),
        (7, 33, 4_000_000_000),
        (2, 1, 65_534),
    ]
    .map(|(mib, adj, uid)| {
        let job = Job::new("hold", mib).name(format!("idle {mib}").as_bytes());
        job.adj(adj).uid(uid).cgroup(scratch.dir()).start()
    })
    .into_iter()
    .collect()
}

/// Since commit 72ba14deb40a ("mm: update mark_victim tracepoints fields") and its backports.
fn mark_victim_hands_over_a_task() -> bool {
    let format = "/sys/kernel/tracing/events/oom/mark_victim/format";
    fs::read_to_string(format).is_ok_and(|format| format.contains(" comm;"))
}

/// Only some may lower `oom_score_adj`, and root in a container often is not among them.
fn require_lower_adj() -> anyhow::Result<()> {
    const CAP_SYS_RESOURCE: u32 = 24;
    let status = fs::read_to_string("/proc/self/status").context("status")?;
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .context("CapEff")?;
    let effective = u64::from_str_radix(effective.trim(), 16).context("CapEff")?;
    if effective >> CAP_SYS_RESOURCE & 1 == 0 {
        return Err(Skip("oom_score_adj cannot be lowered without CAP_SYS_RESOURCE".into()).into());
    }
    Ok(())
}
