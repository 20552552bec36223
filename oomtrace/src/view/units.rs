//! Quantities and names for humans. Nothing here knows about incidents.

use jiff::Timestamp;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::incident::{Text, Time};

/// `512 MiB`, `9.8 MiB`, `0`: three digits at most, rounded to the nearest.
pub(crate) fn bytes(n: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if n == 0 {
        return "0".into();
    }
    let (mut unit, mut size) = (0, 1u128);
    let tenths_of = |size: u128| (u128::from(n) * 10 + size / 2) / size;
    // Also steps up where rounding would show 1,024 of a unit.
    while unit + 1 < UNITS.len() && tenths_of(size) >= 10_235 {
        unit += 1;
        size *= 1024;
    }
    let tenths = tenths_of(size);
    if tenths < 1000 && !tenths.is_multiple_of(10) {
        format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
    } else {
        format!("{} {}", (u128::from(n) + size / 2) / size, UNITS[unit])
    }
}

/// [`bytes`] without the space: one word.
pub(crate) fn bytes_word(n: u64) -> String {
    bytes(n).replace(' ', "")
}

/// `78,211`.
pub(crate) fn count(n: impl Into<i128>) -> String {
    let n: i128 = n.into();
    let digits = n.unsigned_abs().to_string();
    let mut out = String::from(if n < 0 { "-" } else { "" });
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Length of a list, for [`count`].
pub(crate) fn many(n: usize) -> String {
    count(n as u64)
}

/// `1.8 s`, `38 ms`, `410 µs`.
pub(crate) fn duration(ns: u64) -> String {
    const UNITS: [(&str, u64); 4] = [
        ("ns", 1),
        ("µs", 1_000),
        ("ms", 1_000_000),
        ("s", 1_000_000_000),
    ];
    let fits = |(_, size): &&(&str, u64)| ns >= *size;
    let (unit, size) = UNITS.iter().rev().find(fits).copied().unwrap_or(UNITS[0]);
    let tenths = ns / (size / 10).max(1);
    if size > 1 && tenths < 100 && !tenths.is_multiple_of(10) {
        format!("{}.{} {unit}", tenths / 10, tenths % 10)
    } else {
        format!("{} {unit}", count(ns / size))
    }
}

/// `69%`; `<1%` for a little; `None` of nothing.
pub(crate) fn percent(part: u64, whole: u64) -> Option<String> {
    let (part, whole) = (u128::from(part), u128::from(whole));
    let rounded = (part * 100 + whole / 2).checked_div(whole)?;
    Some(match rounded {
        0 if part > 0 => "<1%".into(),
        n => format!("{n}%"),
    })
}

/// Columns that a text takes on a terminal.
pub(crate) fn columns(text: &str) -> usize {
    // A terminal adds characters up; `UnicodeWidthStr` knows of some that join. Take the larger.
    text.chars()
        .map(|c| c.width().unwrap_or(0))
        .sum::<usize>()
        .max(text.width())
}

/// The text, or as much of its beginning as fits with an ellipsis.
pub(crate) fn cut(text: &str, room: usize) -> String {
    if columns(text) <= room {
        return text.to_owned();
    }
    let mut out = head(text, room.saturating_sub(1)).to_owned();
    if room > 0 {
        out.push('…');
    }
    out
}

/// The text, or as much of its end as fits with an ellipsis: for paths, which end in what matters.
pub(crate) fn cut_front(text: &str, room: usize) -> String {
    if columns(text) <= room {
        return text.to_owned();
    }
    let mut used = usize::from(room > 0);
    let mut from = text.len();
    for (at, c) in text.char_indices().rev() {
        used += c.width().unwrap_or(0);
        if used > room {
            break;
        }
        from = at;
    }
    if room == 0 {
        String::new()
    } else {
        format!("…{}", &text[from..])
    }
}

/// As much of the beginning as fits.
pub(crate) fn head(text: &str, room: usize) -> &str {
    let mut used = 0;
    for (at, c) in text.char_indices() {
        used += c.width().unwrap_or(0);
        if used > room {
            return &text[..at];
        }
    }
    text
}

/// A name inside a sentence or a line of words: in quotes where it could be taken for something
/// else than one name, and cut if it is longer than a name has a right to be.
pub(crate) fn name(text: &Text) -> String {
    framed(&cut(&text.to_string(), LONGEST))
}

/// A path inside a sentence or a line of words, cut in front.
pub(crate) fn path(text: &Text) -> String {
    framed(&cut_front(&text.to_string(), LONGEST))
}

/// A path where it is told in full, within reason.
pub(crate) fn full_path(text: &Text) -> String {
    framed(&cut_front(&text.to_string(), 4 * LONGEST))
}

/// Longest name or path in the middle of words, in columns.
const LONGEST: usize = 64;

fn framed(shown: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "_-./:@+#%~()*!?<>{}\\…".contains(c);
    if !shown.is_empty() && shown.chars().all(plain) {
        shown.to_owned()
    } else {
        quoted(shown)
    }
}

/// A text that is escaped already, in quotes.
pub(crate) fn quoted(shown: &str) -> String {
    format!("\"{}\"", shown.replace('"', "\\\""))
}

/// Words that came along with an incident, escaped like a name.
pub(crate) fn words(text: &str) -> String {
    Text::from(text).to_string()
}

/// `java[4302]`.
pub(crate) fn process(comm: &Text, pid: u32) -> String {
    format!("{}[{pid}]", name(comm))
}

/// Seconds in UTC by this [`strftime`](Timestamp::strftime) format, or since boot.
pub(crate) fn moment(time: &Time, format: &str) -> Option<String> {
    let Time { wall, boot_ns } = time;
    match (wall, boot_ns) {
        (Some(wall), _) => Some(match wall.parse::<Timestamp>() {
            Ok(at) => at.strftime(format).to_string(),
            Err(_) => quoted(&cut(&words(wall), LONGEST)),
        }),
        (None, Some(ns)) => Some(format!(
            "boot+{}.{:06}s",
            ns / 1_000_000_000,
            ns % 1_000_000_000 / 1_000
        )),
        (None, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{bytes, columns, count, cut, cut_front, duration, name, percent};
    use crate::incident::Text;

    #[test]
    fn sizes_read_well() {
        let shown = [
            (0, "0"),
            (1, "1 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (102_400, "100 KiB"),
            (1_048_575, "1 MiB"),
            (10_276_044, "9.8 MiB"),
            (536_870_912, "512 MiB"),
            (536_870_000, "512 MiB"),
            (19_327_352_832, "18 GiB"),
            (u64::MAX, "16 EiB"),
        ];
        for (n, expected) in shown {
            assert_eq!(bytes(n), expected);
        }
    }

    #[test]
    fn a_wide_name_is_cut_at_its_columns() {
        assert_eq!(cut("漢字漢字", 8), "漢字漢字");
        assert_eq!(cut("漢字漢字", 7), "漢字漢…");
        assert_eq!(cut("漢字漢字", 6), "漢字…");
        assert_eq!(cut("abc", 0), "");
        assert_eq!(cut_front("/a/漢字", 5), "…漢字");
        assert_eq!(cut_front("/a/漢字", 4), "…字");
        assert_eq!(cut_front("abc", 0), "");
        assert_eq!(columns("…×é"), 3);
    }

    #[test]
    fn numbers_read_well() {
        assert_eq!(count(-1_078_211), "-1,078,211");
        assert_eq!(count(100), "100");
        assert_eq!(duration(1_800_000_000), "1.8 s");
        assert_eq!(duration(38_000_000), "38 ms");
        assert_eq!(duration(999), "999 ns");
        assert_eq!(percent(1, 1000).as_deref(), Some("<1%"));
        assert_eq!(percent(1, 0), None);
    }

    #[test]
    fn a_name_that_could_mislead_is_quoted() {
        assert_eq!(
            name(&Text::from("kworker/0:1+events")),
            "kworker/0:1+events"
        );
        assert_eq!(name(&Text::from("")), "\"\"");
        assert_eq!(name(&Text::from("a b")), "\"a b\"");
        assert_eq!(name(&Text::from("a\"=b")), "\"a\\\"=b\"");
        assert_eq!(name(&Text::from("\x1b[1m")), "\"\\x1b[1m\"");
    }
}
