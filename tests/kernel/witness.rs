//! The kernel's own report of an OOM kill, read from its log: the independent witness.
//!
//! Shares no code with the tracer, nor with the importer of kernel logs. It knows the records of
//! 5.10 and later as `/dev/kmsg` gives them, one record a line, and takes the columns of the task
//! table from the header that the kernel prints above it.

use std::collections::BTreeMap;

/// One run of the OOM killer, as the kernel tells it.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Report {
    /// Absent when the log lost it, or the kernel's rate limit left it out.
    pub(crate) header: Option<Header>,
    /// Thread id of the trigger, from the line above the stack.
    pub(crate) trigger_pid: Option<u32>,
    /// Names of the columns between `[ pid ]` and `name`.
    pub(crate) columns: Vec<String>,
    pub(crate) rows: Vec<Row>,
    /// Rows whose fields do not match the header.
    pub(crate) damaged: usize,
    pub(crate) choice: Option<Choice>,
    /// The cgroup that dies as a whole.
    pub(crate) group: Option<Vec<u8>>,
    pub(crate) kills: Vec<Kill>,
}

/// `X invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0`
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Header {
    pub(crate) comm: Vec<u8>,
    pub(crate) gfp: u32,
    pub(crate) gfp_names: String,
    pub(crate) order: i32,
    pub(crate) oom_score_adj: i32,
}

/// One line of the table `Tasks state`.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Row {
    pub(crate) pid: u32,
    pub(crate) values: BTreeMap<String, i64>,
    pub(crate) name: Vec<u8>,
}

/// `oom-kill:constraint=…,task=X,pid=N,uid=U`
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Choice {
    pub(crate) constraint: String,
    pub(crate) oom_memcg: Option<Vec<u8>>,
    pub(crate) task_memcg: Option<Vec<u8>>,
    pub(crate) task: Vec<u8>,
    pub(crate) pid: u32,
    pub(crate) uid: u32,
}

/// `MESSAGE: Killed process N (X) total-vm:…kB, …`
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Kill {
    pub(crate) message: String,
    pub(crate) pid: u32,
    pub(crate) comm: Vec<u8>,
    /// `total-vm`, `anon-rss`, `pgtables`, … as printed, in KiB where the kernel says kB.
    pub(crate) values: BTreeMap<String, i64>,
}

/// Reads the reports out of the texts of log records.
pub(crate) fn reports<'a>(lines: impl IntoIterator<Item = &'a [u8]>) -> Vec<Report> {
    let mut reports: Vec<Report> = Vec::new();
    for line in lines {
        if let Some(header) = header(line) {
            reports.push(Report {
                header: Some(header),
                ..Report::default()
            });
            continue;
        }
        if let Some(kill) = kill(line) {
            // A kill after the first belongs to the same report only where a group dies. Without,
            // the rate limit has left out the header of the next.
            let same = reports
                .last()
                .is_some_and(|last| last.kills.is_empty() || last.group.is_some());
            if !same {
                reports.push(Report::default());
            }
            if let Some(last) = reports.last_mut() {
                last.kills.push(kill);
            }
            continue;
        }
        if let Some(columns) = columns(line) {
            // A table without a report above it: the log lost the beginning.
            if reports.last().is_none_or(|last| !last.kills.is_empty()) {
                reports.push(Report::default());
            }
            if let Some(last) = reports.last_mut() {
                last.columns = columns;
            }
            continue;
        }
        if let Some(last) = reports.last_mut() {
            detail(last, line);
        }
    }
    reports
}

/// Files a line that means something only inside a report.
fn detail(report: &mut Report, line: &[u8]) {
    if report.trigger_pid.is_none() && line.starts_with(b"CPU: ") {
        report.trigger_pid = find(line, b" PID: ")
            .and_then(|at| leading_number(&line[at + 6..]))
            .and_then(|(pid, _)| u32::try_from(pid).ok());
    } else if let Some(choice) = choice(line) {
        report.choice = Some(choice);
    } else if let Some(path) = line
        .strip_prefix(b"Tasks in ")
        .and_then(|rest| rest.strip_suffix(b" are going to be killed due to memory.oom.group set"))
    {
        report.group = Some(path.to_vec());
    } else if !report.columns.is_empty() && report.choice.is_none() && line.starts_with(b"[") {
        match row(&report.columns, line) {
            Some(row) => report.rows.push(row),
            None => report.damaged += 1,
        }
    }
}

fn header(line: &[u8]) -> Option<Header> {
    const MARK: &[u8] = b" invoked oom-killer: gfp_mask=0x";
    let at = find(line, MARK)?;
    let rest = std::str::from_utf8(&line[at + MARK.len()..]).ok()?;
    let (gfp, rest) = rest.split_once('(')?;
    let (gfp_names, rest) = rest.split_once("), ")?;
    Some(Header {
        comm: line[..at].to_vec(),
        gfp: u32::from_str_radix(gfp, 16).ok()?,
        gfp_names: gfp_names.to_owned(),
        order: field(rest, "order=")?,
        oom_score_adj: field(rest, "oom_score_adj=")?,
    })
}

/// The names in `[  pid  ]   uid  tgid total_vm … name`, without the first and the last.
fn columns(line: &[u8]) -> Option<Vec<String>> {
    let line = std::str::from_utf8(line).ok()?;
    let (pid, rest) = line.strip_prefix('[')?.split_once(']')?;
    let rest = rest.trim_end().strip_suffix(" name")?;
    (pid.trim() == "pid").then(|| rest.split_whitespace().map(str::to_owned).collect())
}

fn row(columns: &[String], line: &[u8]) -> Option<Row> {
    let (pid, mut rest) = leading_number(trim_start(line.strip_prefix(b"[")?))?;
    rest = rest.strip_prefix(b"]")?;
    let mut values = BTreeMap::new();
    for column in columns {
        let (value, after) = leading_number(trim_start(rest))?;
        values.insert(column.clone(), value);
        rest = after;
    }
    // One space separates the name, which may itself begin with more.
    Some(Row {
        pid: pid.try_into().ok()?,
        values,
        name: rest.strip_prefix(b" ")?.to_vec(),
    })
}

fn choice(line: &[u8]) -> Option<Choice> {
    // From the right, since a cgroup's name may hold commas and anything else.
    let rest = line.strip_prefix(b"oom-kill:constraint=")?;
    let (rest, uid) = split_last(rest, b",uid=")?;
    let (rest, pid) = split_last(rest, b",pid=")?;
    let (rest, task) = split_last(rest, b",task=")?;
    let (rest, task_memcg) = match split_last(rest, b",task_memcg=") {
        Some((rest, path)) => (rest, Some(path.to_vec())),
        None => (rest, None),
    };
    let oom_memcg = split_last(rest, b",oom_memcg=").map(|(_, path)| path.to_vec());
    let constraint = rest.split(|&b| b == b',').next()?;
    Some(Choice {
        constraint: String::from_utf8(constraint.to_vec()).ok()?,
        oom_memcg,
        task_memcg,
        task: task.to_vec(),
        pid: std::str::from_utf8(pid).ok()?.parse().ok()?,
        // Printed as a signed number, here and in the table.
        uid: std::str::from_utf8(uid)
            .ok()?
            .trim_end()
            .parse::<i32>()
            .ok()?
            .cast_unsigned(),
    })
}

fn kill(line: &[u8]) -> Option<Kill> {
    const MARK: &[u8] = b": Killed process ";
    let at = find(line, MARK)?;
    let (pid, rest) = leading_number(&line[at + MARK.len()..])?;
    let (comm, figures) = split_last(rest.strip_prefix(b" (")?, b") total-vm:")?;
    let figures = format!("total-vm:{}", std::str::from_utf8(figures).ok()?);
    let mut values = BTreeMap::new();
    for part in figures.split([' ', ',']).filter(|part| !part.is_empty()) {
        let (name, value) = part.split_once(':')?;
        let value = value.strip_suffix("kB").unwrap_or(value);
        values.insert(name.to_owned(), value.trim().parse().ok()?);
    }
    Some(Kill {
        message: String::from_utf8(line[..at].to_vec()).ok()?,
        pid: pid.try_into().ok()?,
        comm: comm.to_vec(),
        values,
    })
}

fn field<T: std::str::FromStr>(text: &str, name: &str) -> Option<T> {
    text.split(", ")
        .find_map(|part| part.trim().strip_prefix(name))?
        .parse()
        .ok()
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}

fn split_last<'a>(text: &'a [u8], what: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let at = text
        .windows(what.len())
        .rposition(|window| window == what)?;
    Some((&text[..at], &text[at + what.len()..]))
}

fn trim_start(text: &[u8]) -> &[u8] {
    let blanks = text.iter().take_while(|&&b| b == b' ').count();
    &text[blanks..]
}

/// A signed decimal number and what follows it. Blanks after it inside brackets are part of it.
fn leading_number(text: &[u8]) -> Option<(i64, &[u8])> {
    let sign = usize::from(text.first() == Some(&b'-'));
    let digits = text[sign..]
        .iter()
        .take_while(|b| b.is_ascii_digit())
        .count();
    let number = std::str::from_utf8(&text[..sign + digits]).ok()?;
    Some((number.parse().ok()?, &text[sign + digits..]))
}

/// Tests of the witness itself, on reports written for the purpose.
pub(crate) mod tests {
    use anyhow::ensure;

    use super::reports;

    pub(crate) const MEMCG: &[&[u8]] = &[
        b"a b) invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL|__GFP_ZERO), order=0, oom_score_adj=-7",
        b"CPU: 1 UID: 0 PID: 77 Comm: a b) Not tainted 6.12.1 #1",
        b"Tasks state (memory values in pages):",
        b"[  pid  ]   uid  tgid total_vm      rss rss_anon rss_file rss_shmem pgtables_bytes swapents oom_score_adj name",
        b"[     76]  1000    75     9000     8100     8000       90        10    86016        3           200  x\n) y ",
        b"[     77]     0    77      500      250      200       50         0    45056        0            -7 a b)",
        b"oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,oom_memcg=/t,pid=9/z,task_memcg=/t,pid=9/z/k,task= x\n) y ,pid=75,uid=1000",
        b"Memory cgroup out of memory: Killed process 76 ( x\n) y ) total-vm:36000kB, anon-rss:32000kB, file-rss:360kB, shmem-rss:40kB, UID:1000 pgtables:84kB oom_score_adj:200",
    ];

    pub(crate) fn reads_a_memcg_report() -> anyhow::Result<()> {
        let all = reports(MEMCG.iter().copied());
        ensure!(all.len() == 1, "{} reports", all.len());
        let report = &all[0];
        let header = report.header.as_ref().expect("the first line is a header");
        ensure!(header.comm == b"a b)" && header.gfp == 0xcc0 && header.order == 0);
        ensure!(header.gfp_names == "GFP_KERNEL|__GFP_ZERO" && header.oom_score_adj == -7);
        ensure!(report.trigger_pid == Some(77) && report.damaged == 0);
        ensure!(report.rows.len() == 2, "{} rows", report.rows.len());
        let row = &report.rows[0];
        ensure!(row.pid == 76 && row.name == b" x\n) y ", "{row:?}");
        ensure!(row.values["tgid"] == 75 && row.values["rss_shmem"] == 10);
        ensure!(row.values["pgtables_bytes"] == 86016 && row.values["oom_score_adj"] == 200);
        let choice = report
            .choice
            .as_ref()
            .expect("the seventh line is a choice");
        ensure!(choice.constraint == "CONSTRAINT_MEMCG" && choice.pid == 75 && choice.uid == 1000);
        ensure!(
            choice.oom_memcg.as_deref() == Some(b"/t,pid=9/z".as_slice()),
            "{choice:?}"
        );
        ensure!(
            choice.task_memcg.as_deref() == Some(b"/t,pid=9/z/k".as_slice()),
            "{choice:?}"
        );
        let kill = &report.kills[0];
        ensure!(kill.message == "Memory cgroup out of memory" && kill.pid == 76);
        ensure!(
            kill.comm == b" x\n) y " && kill.values["shmem-rss"] == 40,
            "{kill:?}"
        );
        ensure!(kill.values["UID"] == 1000 && kill.values["oom_score_adj"] == 200);
        Ok(())
    }

    pub(crate) fn reads_an_older_table_and_sysrq() -> anyhow::Result<()> {
        let lines: &[&[u8]] = &[
            b"kworker/0:1 invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=-1, oom_score_adj=0",
            b"CPU: 0 PID: 12 Comm: kworker/0:1 Not tainted 5.10.0 #1",
            b"[  pid  ]   uid  tgid total_vm      rss pgtables_bytes swapents oom_score_adj name",
            b"[    100]     0   100      300       90    40960        0          -999 oomtrace",
            b"[    101]     0 garbage",
            b"oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,mems_allowed=0,global_oom,task_memcg=/,task=hog,pid=101,uid=0",
            b"Out of memory: Killed process 101 (hog) total-vm:9kB, anon-rss:8kB, file-rss:0kB, shmem-rss:0kB, UID:0 pgtables:40kB oom_score_adj:0",
        ];
        let all = reports(lines.iter().copied());
        ensure!(all.len() == 1 && all[0].rows.len() == 1 && all[0].damaged == 1);
        ensure!(
            all[0]
                .header
                .as_ref()
                .is_some_and(|header| header.order == -1)
        );
        ensure!(!all[0].rows[0].values.contains_key("rss_anon"));
        ensure!(
            all[0]
                .choice
                .as_ref()
                .is_some_and(|choice| choice.oom_memcg.is_none())
        );
        Ok(())
    }

    pub(crate) fn tells_a_group_from_a_rate_limited_kill() -> anyhow::Result<()> {
        const KILL: &[u8] = b"Memory cgroup out of memory: Killed process 5 (m) total-vm:9kB, anon-rss:8kB, file-rss:0kB, shmem-rss:0kB, UID:0 pgtables:40kB oom_score_adj:0";
        let single = reports([KILL, KILL]);
        ensure!(single.len() == 2 && single.iter().all(|report| report.kills.len() == 1));
        let group: &[u8] = b"Tasks in /a b are going to be killed due to memory.oom.group set";
        let whole = reports([KILL, group, KILL, KILL]);
        ensure!(whole.len() == 1 && whole[0].kills.len() == 3, "{whole:?}");
        ensure!(whole[0].group.as_deref() == Some(b"/a b".as_slice()));
        Ok(())
    }
}
