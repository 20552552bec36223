//! Lines of a page: wrapped, cut and coloured. Nothing here knows about incidents.

use std::io::{self, Write};

use super::Options;
use crate::view::units::{columns, cut, head};

/// What a line is, for those who see colour. The words must do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    Plain,
    Heading,
    Victim,
    Warning,
    Quiet,
}

impl Tone {
    fn code(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Heading => Some("1"),
            Self::Victim => Some("1;31"),
            Self::Warning => Some("1;33"),
            Self::Quiet => Some("2"),
        }
    }
}

/// A page being written.
pub(super) struct Page<'a, W> {
    /// Columns that a line may take.
    pub(super) width: usize,
    colour: bool,
    out: &'a mut W,
}

impl<'a, W: Write> Page<'a, W> {
    pub(super) fn new(options: &Options, out: &'a mut W) -> Self {
        let Options { width, colour } = *options;
        Self {
            width: width.max(60),
            colour,
            out,
        }
    }

    pub(super) fn blank(&mut self) -> io::Result<()> {
        self.out.write_all(b"\n")
    }

    /// One line that fits already.
    pub(super) fn line(&mut self, tone: Tone, line: &str) -> io::Result<()> {
        let line = line.trim_end_matches(' ');
        match tone.code().filter(|_| self.colour) {
            Some(code) => writeln!(self.out, "\x1b[{code}m{line}\x1b[0m"),
            None => writeln!(self.out, "{line}"),
        }
    }

    /// A heading after an empty line, with a remark where there is room for it.
    pub(super) fn heading(&mut self, heading: &str, remark: &str) -> io::Result<()> {
        self.blank()?;
        let room = self.width - columns(heading) - 2;
        let remark = cut(remark, room);
        match Tone::Heading.code().filter(|_| self.colour) {
            Some(code) if remark.is_empty() => writeln!(self.out, "\x1b[{code}m{heading}\x1b[0m"),
            Some(code) => writeln!(self.out, "\x1b[{code}m{heading}\x1b[0m  {remark}"),
            None if remark.is_empty() => writeln!(self.out, "{heading}"),
            None => writeln!(self.out, "{heading}  {remark}"),
        }
    }

    /// Words over as many lines as they need: the first after `lead`, the others below its end.
    pub(super) fn wrapped(&mut self, lead: &str, tone: Tone, text: &str) -> io::Result<()> {
        let indent = columns(lead);
        for (at, line) in wrap(text, self.width - indent).iter().enumerate() {
            let margin = if at == 0 {
                lead.to_owned()
            } else {
                " ".repeat(indent)
            };
            self.line(tone, &format!("{margin}{line}"))?;
        }
        Ok(())
    }
}

/// Lines of at most `room` columns, broken at spaces, and inside a word only if it is longer.
pub(super) fn wrap(text: &str, room: usize) -> Vec<String> {
    let room = room.max(2);
    let mut lines = Vec::new();
    let mut line = String::new();
    let mut used = 0;
    for (at, mut word) in words(text).into_iter().enumerate() {
        let wide = columns(word);
        if at > 0 && used + 1 + wide <= room {
            line.push(' ');
            used += 1;
        } else if at > 0 {
            lines.push(std::mem::take(&mut line));
            used = 0;
        }
        while used == 0 && columns(word) > room {
            let piece = head(word, room);
            lines.push(piece.to_owned());
            word = &word[piece.len()..];
        }
        line.push_str(word);
        used += columns(word);
    }
    lines.push(line);
    lines
}

/// The words between the spaces, where a number and its unit are one word.
fn words(text: &str) -> Vec<&str> {
    const UNITS: [&str; 11] = [
        "B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "s", "ms", "µs", "ns",
    ];
    let mut words = Vec::new();
    let (mut from, mut number) = (0, false);
    let mut start = 0;
    for word in text.split(' ') {
        let unit = word.trim_end_matches([',', '.', ';', ':', ')']);
        if start > 0 && !(number && UNITS.contains(&unit)) {
            words.push(&text[from..start - 1]);
            from = start;
        }
        number = word.ends_with(|c: char| c.is_ascii_digit());
        start += word.len() + 1;
    }
    words.push(&text[from..]);
    words
}

#[cfg(test)]
mod tests {
    use super::{columns, wrap};

    #[test]
    fn words_stay_whole_where_they_can() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("a 123456789 b", 4), ["a", "1234", "5678", "9 b"]);
        assert_eq!(wrap("used 10 MiB, or", 8), ["used", "10 MiB,", "or"]);
        assert_eq!(wrap("a  b", 3), ["a ", "b"]);
        assert_eq!(wrap("", 4), [""]);
        for line in wrap(&"漢".repeat(50), 7) {
            assert!(columns(&line) <= 7);
        }
    }
}
