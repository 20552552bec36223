//! A whole machine runs out of memory. Never on a host.

use std::fs;

use anyhow::Context as _;
use oomtrace::incident::Scope;

use crate::{
    context::{Context, Skip, Verdict},
    crew::{Job, Worker},
    procfs,
    scene::Scene,
};

/// The whole machine runs out.
pub(super) fn global(context: &Context, args: &[&str]) -> anyhow::Result<Verdict> {
    let scene = Scene::global(context)?.watch(args);
    let (hog, mut grower) = fill_machine()?;
    let _idle = [
        Job::new("hold", 3)
            .name(b"idle")
            .adj(200)
            .uid(1000)
            .start()?,
        Job::new("hold", 9).name(b"idle").adj(-500).start()?,
        Job::new("hold", 5).name(b"safe").adj(-1000).start()?,
    ];
    let seen = scene.kill(|| grower.go())?;
    let scored = seen.incident.source.rungs.contains_key("kernel score");
    if args.contains(&"--kernel-scores") && !scored {
        return Err(Skip("this kernel has no hook for its own score".into()).into());
    }
    seen.judge(&[hog.pid()], |tally| {
        if args.contains(&"--kernel-scores") {
            let mut all = seen.incident.candidates.iter();
            tally.holds(
                "no score of the kernel",
                all.any(|one| one.kernel_score.is_some()),
            );
        }
        Ok(())
    })
}

/// `vm.oom_kill_allocating_task`: whoever asks, dies.
pub(super) fn allocating_task(context: &Context) -> anyhow::Result<Verdict> {
    let scene = Scene::global(context)?.unscored();
    let _sysctl = Sysctl::set("/proc/sys/vm/oom_kill_allocating_task", "1")?;
    let (_hog, mut grower) = fill_machine()?;
    let pid = grower.pid();
    let seen = scene.kill(|| grower.go())?;
    seen.judge(&[pid], |tally| {
        tally.same(
            "score",
            seen.incident.chosen.and_then(|chosen| chosen.score),
            None,
        );
        Ok(())
    })
}

/// Somebody asks for a kill while memory is plenty.
pub(super) fn sysrq_f(context: &Context) -> anyhow::Result<Verdict> {
    let scene = Scene::global(context)?;
    let hog = Job::new("hold", 40).name(b"hog").start()?;
    let _idle = Job::new("hold", 5).name(b"idle").uid(1000).start()?;
    let seen = scene.kill(|| fs::write("/proc/sysrq-trigger", "f").context("sysrq-trigger"))?;
    seen.judge(&[hog.pid()], |tally| {
        tally.same("scope", seen.incident.scope, Some(Scope::Sysrq));
        Ok(())
    })
}

/// A hog with more than half of what is free, and one that is going to want the rest and more.
fn fill_machine() -> anyhow::Result<(Worker, Worker)> {
    let free = usize::try_from(procfs::meminfo("MemAvailable")? >> 20).context("MemAvailable")?;
    let hog = Job::new("hold", free * 60 / 100).name(b"hog").start()?;
    let grower = Job::new("grow", free * 55 / 100).start()?;
    Ok((hog, grower))
}

/// A setting that is put back.
struct Sysctl {
    path: &'static str,
    before: String,
}

impl Sysctl {
    fn set(path: &'static str, value: &str) -> anyhow::Result<Self> {
        let before = fs::read_to_string(path).map_err(|error| Skip(format!("{path}: {error}")))?;
        fs::write(path, value).context(path)?;
        Ok(Self { path, before })
    }
}

impl Drop for Sysctl {
    fn drop(&mut self) {
        let _ = fs::write(self.path, &self.before);
    }
}
