//! Tables that fit the page: columns give way, in order of importance, until they do.

use std::cmp::Reverse;
use std::io::{self, Write};

use super::layout::{Page, Tone};
use crate::view::units::{columns, cut, cut_front};

/// One column.
#[derive(Clone, Copy, Debug)]
pub(super) struct Column {
    /// Its title.
    title: &'static str,
    /// How the cells stand.
    kind: Kind,
    /// The higher, the longer it stays when room runs out.
    keep: u8,
}

impl Column {
    pub(super) const fn new(title: &'static str, kind: Kind, keep: u8) -> Self {
        Self { title, kind, keep }
    }
}

/// How the cells of a column stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Figures, flush right, always whole.
    Figure,
    /// Words, flush left, cut down to this many columns if need be.
    Words(usize),
    /// The same, cut in front.
    Path(usize),
    /// The same, but the last to be cut.
    Note(usize),
}

/// One row: as many cells as there are columns; `None` is what is not known.
pub(super) struct Row {
    /// Marks the row, in words and in colour.
    pub(super) marked: bool,
    /// The cells.
    pub(super) cells: Vec<Option<String>>,
}

const GUTTER: usize = 2;
const BETWEEN: usize = 2;

/// Writes the table. A column without a single known cell is left out.
pub(super) fn write(
    all: &[Column],
    rows: &[Row],
    page: &mut Page<'_, impl Write>,
) -> io::Result<()> {
    let shown = fit(all, rows, page.width);
    let titles: Vec<&str> = all.iter().map(|column| column.title).collect();
    page.line(Tone::Quiet, &laid_out(all, &shown, "", &titles))?;
    for row in rows {
        let (tone, mark) = if row.marked {
            (Tone::Victim, ">")
        } else {
            (Tone::Plain, "")
        };
        let cells: Vec<&str> = (0..all.len()).map(|at| shown_cell(row, at)).collect();
        page.line(tone, &laid_out(all, &shown, mark, &cells))?;
    }
    Ok(())
}

/// A line of the table.
fn laid_out(all: &[Column], shown: &[(usize, usize)], mark: &str, cells: &[&str]) -> String {
    let mut line = format!("{mark:GUTTER$}");
    for (at, width) in shown {
        let kind = all[*at].kind;
        let cell = match kind {
            Kind::Path(_) => cut_front(cells[*at], *width),
            Kind::Figure | Kind::Words(_) | Kind::Note(_) => cut(cells[*at], *width),
        };
        let pad = " ".repeat(width.saturating_sub(columns(&cell)));
        match kind {
            Kind::Figure => line += &format!("{pad}{cell}"),
            Kind::Words(_) | Kind::Path(_) | Kind::Note(_) => line += &format!("{cell}{pad}"),
        }
        line += &" ".repeat(BETWEEN);
    }
    line
}

/// The columns that are shown, each with its width.
fn fit(all: &[Column], rows: &[Row], room: usize) -> Vec<(usize, usize)> {
    let natural: Vec<usize> = (0..all.len()).map(|at| widest(all, rows, at)).collect();
    let least = |at: usize| match all[at].kind {
        Kind::Figure => natural[at],
        Kind::Words(least) | Kind::Path(least) | Kind::Note(least) => natural[at].min(least),
    };
    let mut shown: Vec<(usize, usize)> = (0..all.len())
        .filter(|at| !is_empty(rows, *at))
        .map(|at| (at, least(at)))
        .collect();
    let need = |shown: &[(usize, usize)]| -> usize {
        GUTTER
            + shown
                .iter()
                .map(|(_, width)| width + BETWEEN)
                .sum::<usize>()
    };
    let room = room + BETWEEN;
    while shown.len() > 1 && need(&shown) > room {
        let weakest = shown
            .iter()
            .map(|(at, _)| *at)
            .min_by_key(|at| (all[*at].keep, Reverse(*at)));
        shown.retain(|(at, _)| Some(*at) != weakest);
    }
    let mut spare = room.saturating_sub(need(&shown));
    for notes in [true, false] {
        for (at, width) in &mut shown {
            if matches!(all[*at].kind, Kind::Note(_)) == notes {
                let more = (natural[*at] - *width).min(spare);
                *width += more;
                spare -= more;
            }
        }
    }
    shown
}

fn shown_cell(row: &Row, at: usize) -> &str {
    row.cells.get(at).and_then(Option::as_deref).unwrap_or("?")
}

fn widest(all: &[Column], rows: &[Row], at: usize) -> usize {
    let cells = rows.iter().map(|row| columns(shown_cell(row, at)));
    cells.chain([columns(all[at].title)]).max().unwrap_or(0)
}

fn is_empty(rows: &[Row], at: usize) -> bool {
    rows.iter().all(|row| {
        row.cells
            .get(at)
            .and_then(Option::as_deref)
            .unwrap_or("")
            .is_empty()
    })
}
