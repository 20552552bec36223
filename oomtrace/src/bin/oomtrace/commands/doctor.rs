//! `oomtrace doctor`: the checks, then the hooks that the kernel grants when it is really asked.

use std::io::{self, Write};

use anyhow::Result;
use oomtrace::source::live::{Hook, Refusal, Tracer};
use serde_json::{Map, Value, json};

use super::runtime;
use crate::{
    args::{Color, Doctor},
    doctor::{Check, State, checks},
    output::Paint,
};

/// What the attempt to trace came to.
struct Attempt {
    hooks: Vec<Hook>,
    error: Option<String>,
}

pub(super) fn doctor(args: &Doctor, color: Color) -> Result<u8> {
    let checks = checks();
    let attempt = runtime()?.block_on(attempt(args));
    let works = attempt.error.is_none();
    let mut buffer = Vec::new();
    if args.json {
        serde_json::to_writer(&mut buffer, &to_json(&checks, &attempt))?;
        buffer.push(b'\n');
    } else {
        write_text(&checks, &attempt, Paint::stdout(color), &mut buffer)?;
    }
    let mut stdout = io::stdout().lock();
    stdout.write_all(&buffer)?;
    stdout.flush()?;
    Ok(u8::from(!works))
}

async fn attempt(args: &Doctor) -> Attempt {
    match Tracer::start(&args.hooks.options()) {
        Ok(tracer) => Attempt {
            hooks: tracer.hooks().to_vec(),
            error: None,
        },
        Err(error) => Attempt {
            hooks: Vec::new(),
            error: Some(format!("{:#}", anyhow::Error::from(error))),
        },
    }
}

fn to_json(checks: &[Check], attempt: &Attempt) -> Value {
    let Attempt { hooks, error } = attempt;
    let mut object = Map::new();
    object.insert("version".to_owned(), env!("CARGO_PKG_VERSION").into());
    object.insert("works".to_owned(), error.is_none().into());
    if let Some(error) = error {
        object.insert("error".to_owned(), error.as_str().into());
    }
    let checks = checks.iter().map(check_to_json).collect();
    object.insert("checks".to_owned(), Value::Array(checks));
    let hooks = hooks.iter().map(hook_to_json).collect();
    object.insert("hooks".to_owned(), Value::Array(hooks));
    Value::Object(object)
}

fn check_to_json(check: &Check) -> Value {
    let Check {
        name,
        state,
        found,
        remedy,
    } = check;
    let mut value = json!({"name": name, "state": word(*state), "found": found});
    set(&mut value, "remedy", remedy);
    value
}

fn hook_to_json(hook: &Hook) -> Value {
    let Hook {
        moment,
        rung,
        refused,
        cost,
    } = hook;
    let refused: Vec<Value> = refused.iter().map(refusal_to_json).collect();
    let mut value = json!({"moment": moment, "refused": refused});
    set(&mut value, "rung", rung.as_deref().unwrap_or_default());
    set(&mut value, "cost", cost);
    value
}

fn refusal_to_json(refusal: &Refusal) -> Value {
    let Refusal {
        rung,
        reason,
        remedy,
    } = refusal;
    let mut value = json!({"rung": rung, "reason": reason});
    set(&mut value, "remedy", remedy);
    value
}

/// Absent is a missing key, as everywhere in the JSON of oomtrace.
fn set(value: &mut Value, key: &str, text: &str) {
    if let (Value::Object(object), false) = (value, text.is_empty()) {
        object.insert(key.to_owned(), text.into());
    }
}

fn word(state: State) -> &'static str {
    match state {
        State::Ok => "ok",
        State::Warn => "warn",
        State::Fail => "fail",
    }
}

fn write_text(
    checks: &[Check],
    attempt: &Attempt,
    paint: Paint,
    out: &mut impl Write,
) -> io::Result<()> {
    writeln!(out, "{}", paint.bold("CHECKS"))?;
    let column = 6 + checks.iter().map(|c| c.name.len()).max().unwrap_or(0) + 2;
    for check in checks {
        let Check {
            name,
            state,
            found,
            remedy,
        } = check;
        let state = match state {
            State::Ok => "  ok  ".to_owned(),
            State::Warn => paint.yellow("  warn"),
            State::Fail => paint.red("  FAIL"),
        };
        let width = column - 6 - 1;
        write!(out, "{state} {name:width$}")?;
        wrapped(out, found, column, paint.width)?;
        if !remedy.is_empty() {
            write!(out, "{:column$}", "")?;
            wrapped(out, &format!("→ {remedy}"), column, paint.width)?;
        }
    }
    writeln!(out, "\n{}", paint.bold("HOOKS"))?;
    let column = 2
        + attempt
            .hooks
            .iter()
            .map(|h| h.moment.len())
            .max()
            .unwrap_or(0)
        + 2;
    for hook in &attempt.hooks {
        write_hook(hook, column, paint, out)?;
    }
    match &attempt.error {
        None => writeln!(out, "\nKills on this machine can be traced."),
        Some(error) => {
            write!(out, "  ")?;
            wrapped(out, error, 2, paint.width)?;
            let verdict = paint.red("Kills on this machine cannot be traced.");
            writeln!(out, "\n{verdict}")
        }
    }
}

fn write_hook(hook: &Hook, column: usize, paint: Paint, out: &mut impl Write) -> io::Result<()> {
    let Hook {
        moment,
        rung,
        refused,
        cost,
    } = hook;
    let width = column - 2;
    write!(out, "  {moment:width$}")?;
    match rung {
        Some(rung) => writeln!(out, "{rung}")?,
        None => writeln!(out, "{}", paint.yellow("not seen"))?,
    }
    let mut line = |text: String| {
        write!(out, "{:column$}", "")?;
        wrapped(out, &text, column + 2, paint.width)
    };
    if !cost.is_empty() {
        line(format!("cost: {cost}"))?;
    }
    // Variants of one hook are mostly refused for one reason.
    let same = |a: &Refusal, b: &Refusal| a.reason == b.reason && a.remedy == b.remedy;
    for group in refused.chunk_by(same) {
        let rungs: Vec<&str> = group.iter().map(|refusal| refusal.rung.as_str()).collect();
        let Some(Refusal {
            rung: _,
            reason,
            remedy,
        }) = group.first()
        else {
            continue;
        };
        line(format!("refused {}: {reason}", rungs.join(", ")))?;
        if !remedy.is_empty() {
            line(format!("  → {remedy}"))?;
        }
    }
    Ok(())
}

/// Writes words, the cursor being at `column`, and continues there on the next line when full.
fn wrapped(out: &mut impl Write, text: &str, column: usize, width: usize) -> io::Result<()> {
    let room = width.saturating_sub(column).max(20);
    let mut used = 0;
    let lead = text.len() - text.trim_start().len();
    write!(out, "{:lead$}", "")?;
    for word in text.split_whitespace() {
        let length = word.chars().count();
        if used > 0 && used + 1 + length > room {
            write!(out, "\n{:column$}", "")?;
            used = 0;
        } else if used > 0 {
            write!(out, " ")?;
            used += 1;
        }
        write!(out, "{word}")?;
        used += length;
    }
    writeln!(out)
}
