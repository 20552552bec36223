//! The rules of the house that no compiler checks. Each finding names its file and the rule.

use std::fs;

use anyhow::{Result, ensure};

use crate::host;

/// Files of tables, which may be long.
const LONG: &[&str] = &[];
const MAX_LINES: usize = 600;

/// Licences that what we link may have: permissive ones.
const LICENCES: &[&str] = &[
    "MIT",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Unlicense",
    "Zlib",
    "0BSD",
    "CC0-1.0",
    "Unicode-3.0",
    "MIT-0",
    "BSL-1.0",
];

/// Words that must not appear in a file, in two pieces so that they do not appear in this one.
const UNFINISHED: &[&str] = &[
    concat!("to", "do!("),
    concat!("dbg", "!("),
    concat!("unimpl", "emented!("),
];

/// Traces of one machine, or of one person's way to a registry.
const PLACES: &[&str] = &[
    concat!("/wo", "rk/"),
    concat!("/ro", "ot/"),
    concat!("/home", "/user"),
    concat!("deb.", "debian.org"),
    concat!("snapshot.", "debian.org"),
    concat!("index.", "crates.io"),
    concat!("static.", "rust-lang.org"),
];

pub(crate) fn tidy() -> Result<()> {
    let mut findings = Vec::new();
    for path in host::tracked_files()? {
        let bytes = fs::read(host::root().join(&path))?;
        // What others wrote is kept as it came.
        if path.starts_with("tests/data/") {
            continue;
        }
        let mut say = |rule: &str| findings.push(format!("{path}: {rule}"));
        for place in PLACES {
            if bytes
                .windows(place.len())
                .any(|window| window == place.as_bytes())
            {
                say(&format!("mentions {place}"));
            }
        }
        let Ok(text) = String::from_utf8(bytes) else {
            continue;
        };
        for (index, line) in text.lines().enumerate() {
            if line.ends_with([' ', '\t']) {
                say(&format!("line {}: trailing whitespace", index + 1));
            }
        }
        if path.ends_with(".rs") {
            rust(&path, &text, &mut say);
        }
    }
    findings.extend(licences()?);
    for finding in &findings {
        println!("tidy: {finding}");
    }
    ensure!(findings.is_empty(), "{} findings", findings.len());
    Ok(())
}

fn rust(path: &str, text: &str, say: &mut impl FnMut(&str)) {
    let lines = text.lines().count();
    if lines > MAX_LINES && !path.starts_with("tests/") && !LONG.contains(&path) {
        say(&format!(
            "{lines} lines; split it by direction, at most {MAX_LINES}"
        ));
    }
    if path.contains("/src/") && path.ends_with("/mod.rs") {
        say("is a mod.rs; a module is foo.rs, its children are in foo/");
    }
    for word in UNFINISHED {
        if text.contains(word) {
            say(&format!("holds {word}…)"));
        }
    }
    if let Some(module) = path.strip_prefix("oomtrace/src/") {
        hourglass(module, &code(text), say);
    }
}

/// Who may know whom: see ARCHITECTURE.md.
fn hourglass(module: &str, code: &str, say: &mut impl FnMut(&str)) {
    let within =
        |name: &str| module == format!("{name}.rs") || module.starts_with(&format!("{name}/"));
    let imports = imports(code);
    let mut never = |other: &str| {
        if imports.iter().any(|import| import == other) {
            say(&format!("imports crate::{other}"));
        }
    };
    if within("source") {
        never("view");
    }
    if within("view") {
        never("source");
        never("record");
    }
    if within("incident") {
        imports
            .iter()
            .filter(|import| *import != "incident")
            .for_each(|import| never(import));
    }
    if !within("source/live")
        && code
            .split(|c: char| !c.is_alphanumeric() && c != '_')
            .any(|word| word == "aya")
    {
        say("mentions aya; only source/live does");
    }
    if within("view") || within("assemble") {
        for impure in ["std::fs", "std::env", "SystemTime", "Instant::now"] {
            if code.contains(impure) {
                say(&format!("uses {impure}; views and assemble are pure"));
            }
        }
    }
}

/// What of a file is compiled into the library: neither comments nor its tests.
fn code(text: &str) -> String {
    let tests = text.find("#[cfg(test)]\nmod ").unwrap_or(text.len());
    let lines = text[..tests]
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

/// The modules of the crate that some code names: `a` and `b` of `use crate::{a::X, b}`.
fn imports(code: &str) -> Vec<String> {
    let first = |path: &str| {
        path.trim()
            .split(|c: char| !c.is_alphanumeric() && c != '_')
            .next()
            .unwrap_or("")
            .to_owned()
    };
    let mut found = Vec::new();
    for rest in code.split("crate::").skip(1) {
        let Some(group) = rest.strip_prefix('{') else {
            found.push(first(rest));
            continue;
        };
        let mut depth = 0;
        let mut start = 0;
        for (at, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth > 0 => depth -= 1,
                ',' | '}' if depth == 0 => {
                    found.push(first(&group[start..at]));
                    start = at + 1;
                    if c == '}' {
                        break;
                    }
                }
                _ => {}
            }
        }
    }
    found.retain(|name| !name.is_empty());
    found
}

/// Packages whose licence is not on the list.
fn licences() -> Result<Vec<String>> {
    let args = [
        "tree",
        "--workspace",
        "--all-features",
        "--locked",
        "--edges",
        "normal",
        "--prefix",
        "none",
    ];
    let tree = host::read(host::cargo().args(args).args(["--format", "{p}|{l}"]))?;
    let mut findings: Vec<String> = tree
        .lines()
        .filter_map(|line| line.split_once('|'))
        .map(|(package, licence)| (package, licence.trim_end_matches(" (*)")))
        .filter(|(_, licence)| !allowed(licence))
        .map(|(package, licence)| format!("{package}: its licence is not on the list: {licence}"))
        .collect();
    findings.sort();
    findings.dedup();
    Ok(findings)
}

fn allowed(licence: &str) -> bool {
    let licence = licence.replace('/', " OR ");
    let one = |alternative: &str| LICENCES.contains(&alternative.trim_matches([' ', '(', ')']));
    licence
        .split(" AND ")
        .all(|part| part.split(" OR ").any(one))
}

#[cfg(test)]
mod tests {
    use super::{allowed, hourglass, imports};

    #[test]
    fn imports_are_found_in_groups() {
        assert_eq!(
            imports("use crate::{\n error::{A, B},\n view,\n};\nlet x = crate::source::Y;"),
            ["error", "view", "source"]
        );
    }

    #[test]
    fn the_hourglass_is_kept() {
        let check = |module: &str, code: &str| {
            let mut findings = Vec::new();
            hourglass(module, code, &mut |rule: &str| {
                findings.push(rule.to_owned())
            });
            findings
        };
        assert_eq!(
            check("view/text.rs", "use crate::{incident::Incident, source};"),
            ["imports crate::source"]
        );
        assert_eq!(
            check("incident/task.rs", "use crate::error::Error;"),
            ["imports crate::error"]
        );
        assert_eq!(check("error.rs", "fn f(_: aya::EbpfError) {}").len(), 1);
        assert!(check("source/live/attach.rs", "use aya::Ebpf;").is_empty());
        assert!(check("incident.rs", "use crate::incident::task;").is_empty());
    }

    #[test]
    fn licences_are_expressions() {
        assert!(allowed("MIT OR GPL-2.0"));
        assert!(allowed("(MIT OR Apache-2.0) AND Unicode-3.0"));
        assert!(!allowed("GPL-3.0"));
        assert!(!allowed("MIT AND LGPL-2.1"));
    }
}
