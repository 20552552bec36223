//! Every view over every case, compared with what a person has read and found right.
//! `UPDATE_EXPECT=1` rewrites the expected outputs; the review reads the difference.

#![expect(
    clippy::unwrap_used,
    reason = "a test may panic, and keeps its backtrace so"
)]

#[path = "support/incidents.rs"]
mod incidents;

use std::collections::BTreeMap;

use expect_test::expect_file;
use oomtrace::incident::Incident;
use oomtrace::view::{brief, json, text, why};
use serde_json::Value;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

fn report(incident: &Incident, width: usize, colour: bool) -> String {
    let mut out = Vec::new();
    text::write(incident, &text::Options { width, colour }, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

fn line(incident: &Incident) -> String {
    let mut out = Vec::new();
    brief::write(incident, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn reports_read_as_expected() {
    for (name, incident) in incidents::all() {
        expect_file![format!("data/views/{name}.80.txt")].assert_eq(&report(&incident, 80, false));
    }
}

#[test]
fn wide_reports_read_as_expected() {
    for name in ["memcg-v1-httpd-java", "hostile"] {
        let (_, incident) = incidents::all()
            .into_iter()
            .find(|(n, _)| *n == name)
            .unwrap();
        expect_file![format!("data/views/{name}.160.txt")]
            .assert_eq(&report(&incident, 160, false));
    }
}

#[test]
fn brief_lines_read_as_expected() {
    let lines: String = incidents::all()
        .iter()
        .map(|(_, incident)| line(incident))
        .collect();
    expect_file!["data/views/brief.txt"].assert_eq(&lines);
}

#[test]
fn no_line_is_wider_than_the_page_and_nothing_moves_the_cursor() {
    let mut lines = 0;
    for (name, incident) in incidents::all() {
        for width in 40..=200 {
            for colour in [false, true] {
                // The long ones at some widths only: they take their time.
                if (colour || incident.candidates.len() > 1_000) && width % 20 != 0 {
                    continue;
                }
                let report = report(&incident, width, colour);
                let killed = incident
                    .victims
                    .iter()
                    .any(|victim| victim.killed == Some(true));
                assert_eq!(report.contains("KILLED"), killed, "{name} at {width}");
                let limit = ["LIMIT HIT", "MEM+SWAP LIMIT"];
                let marked = limit.iter().any(|mark| report.contains(mark));
                assert_eq!(marked, incident.oom_cgroup.is_some(), "{name} at {width}");
                for line in report.lines() {
                    let line = uncoloured(line, colour);
                    let simple: usize = line.chars().map(|c| c.width().unwrap_or(0)).sum();
                    assert!(
                        line.width().max(simple) <= width.max(60),
                        "{name} at {width}: {line}"
                    );
                    assert!(line.chars().all(|c| !c.is_control()), "{name}: {line:?}");
                    assert!(!line.ends_with(' '), "{name} at {width}: {line:?}");
                    lines += 1;
                }
            }
        }
    }
    assert!(lines > 10_000);
}

/// Takes out the colours that the report may hold, and leaves any other escape for the test to find.
fn uncoloured(line: &str, colour: bool) -> String {
    let mut line = line.to_owned();
    if colour {
        for code in ["0", "1", "2", "1;31", "1;33"] {
            line = line.replace(&format!("\x1b[{code}m"), "");
        }
    }
    line
}

#[test]
fn colour_adds_nothing_but_colour() {
    for (name, incident) in incidents::all() {
        let coloured = report(&incident, 80, true);
        let plain: Vec<String> = coloured
            .lines()
            .map(|line| uncoloured(line, true))
            .collect();
        assert_eq!(
            plain.join("\n") + "\n",
            report(&incident, 80, false),
            "{name}"
        );
    }
}

#[test]
fn a_brief_line_is_one_line_of_words_and_pairs() {
    for (name, incident) in incidents::all() {
        let line = line(&incident);
        let body = line.strip_suffix('\n').unwrap();
        assert!(body.chars().all(|c| !c.is_control()), "{name}: {body:?}");
        let pairs = pairs(body);
        assert_eq!(pairs.last().unwrap().0, "gaps", "{name}: {body}");
        let victim = pairs
            .iter()
            .find(|(key, _)| key == "victim")
            .map(|(_, value)| value.clone());
        let expected = incident
            .chosen_victim()
            .map(|victim| victim.comm.to_string());
        assert_eq!(victim, expected, "{name}: {body}");
    }
}

/// Reads a brief line as its documentation says.
fn pairs(body: &str) -> Vec<(String, String)> {
    // The moment may be in quotes, if the recording holds nonsense.
    let mut rest = body.split_once(" oom ").unwrap().1;
    let mut pairs = Vec::new();
    while !rest.is_empty() {
        let (key, after) = rest.split_once('=').unwrap();
        let mut value = String::new();
        rest = if let Some(quoted) = after.strip_prefix('"') {
            let mut chars = quoted.char_indices();
            loop {
                match chars.next().unwrap() {
                    (_, '\\') => match chars.next().unwrap().1 {
                        '"' => value.push('"'),
                        other => value.extend(['\\', other]),
                    },
                    (at, '"') => break &quoted[at + 1..],
                    (_, c) => value.push(c),
                }
            }
        } else {
            let end = after.find(' ').unwrap_or(after.len());
            value.push_str(&after[..end]);
            &after[end..]
        };
        rest = rest.strip_prefix(' ').unwrap_or(rest);
        pairs.push((key.to_owned(), value));
    }
    pairs
}

#[test]
fn ten_thousand_processes_make_a_short_report() {
    let report = report(&incidents::many(), 80, false);
    assert!(
        report.lines().count() < 110,
        "{} lines",
        report.lines().count()
    );
}

#[test]
fn a_thousand_victims_make_a_short_report() {
    let report = report(&incidents::large_group(), 80, false);
    let lines = report.lines().count();
    assert!(lines < 110, "{lines} lines");
    assert!(report.contains("951 victims among all these"), "{report}");
}

#[test]
fn nothing_is_made_up_of_an_empty_incident() {
    assert_eq!(why::sentences(&Incident::default()), Vec::<String>::new());
    assert_eq!(report(&Incident::default(), 80, false), "OOM\n");
}

#[test]
fn every_key_of_the_json_is_documented_with_its_type() {
    let mut out = Vec::new();
    json::write(&incidents::full(), &mut out).unwrap();
    let mut written = BTreeMap::new();
    collect("", &serde_json::from_slice(&out).unwrap(), &mut written);

    let mut documented = BTreeMap::new();
    for row in include_str!("../oomtrace/src/view/json.md").lines() {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        if let [_, key, kind, _, _] = cells.as_slice()
            && let Some(key) = key.strip_prefix('`').and_then(|key| key.strip_suffix('`'))
        {
            let known = documented.insert(key.to_owned(), (*kind).to_owned());
            assert_eq!(known, None, "{key} is documented twice");
        }
    }
    assert!(
        documented.len() > 100,
        "{} keys documented",
        documented.len()
    );
    assert_eq!(written, documented);
}

/// Every key with its type, such as `trigger.gfp.names[]`.
fn collect(path: &str, value: &Value, keys: &mut BTreeMap<String, String>) {
    let mut note = |kind: &str| {
        if !path.is_empty() {
            keys.insert(path.to_owned(), kind.to_owned());
        }
    };
    match value {
        Value::Object(map) => {
            note("object");
            for (key, value) in map {
                let key = if path == "source.rungs" { "*" } else { key };
                let path = if path.is_empty() {
                    key.to_owned()
                } else {
                    format!("{path}.{key}")
                };
                collect(&path, value, keys);
            }
        }
        Value::Array(list) => {
            note("array");
            list.iter()
                .for_each(|value| collect(&format!("{path}[]"), value, keys));
        }
        Value::String(_) => note("string"),
        Value::Number(_) => note("integer"),
        Value::Bool(_) => note("boolean"),
        Value::Null => note("null"),
    }
}

#[test]
fn json_brings_every_case_back() {
    for (name, incident) in incidents::all() {
        let mut out = Vec::new();
        json::write(&incident, &mut out).unwrap();
        assert_eq!(
            out.iter().filter(|byte| **byte == b'\n').count(),
            1,
            "{name}"
        );
        assert_eq!(
            serde_json::from_slice::<Incident>(&out).unwrap(),
            incident,
            "{name}"
        );
    }
}
