//! Tables that fit the page: columns give way, in order of importance, until they do.

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
    let natural: Vec<usize> = (0..all.len()).map(|at| widest(all, rows, at)).collect();
    let mut shown: Vec<usize> = (0..all.len()).filter(|at| !is_empty(rows, *at)).collect();
    let least = |at: usize| match all[at].kind {
        Kind::Figure => natural[at],
        Kind::Words(least) | Kind::Path(least) | Kind::Note(least) => natural[at].min(least),
    };
    let need = |shown: &[usize]| -> usize {
        GUTTER + shown.iter().map(|at| least(*at) + BETWEEN).sum::<usize>() - BETWEEN
    };
    while shown.len() > 1 && need(&shown) > page.width {
        let weakest = shown
            .iter()
            .copied()
            .min_by_key(|at| (all[*at].keep, usize::MAX - *at));
        shown.retain(|at| Some(*at) != weakest);
    }
    let mut widths: Vec<usize> = shown.iter().map(|at| least(*at)).collect();
    let mut spare = page.width.saturating_sub(need(&shown));
    for notes in [true, false] {
        for (width, at) in widths.iter_mut().zip(&shown) {
            if matches!(all[*at].kind, Kind::Note(_)) == notes {
                let more = (natural[*at] - *width).min(spare);
                *width += more;
                spare -= more;
            }
        }
    }
    let mut line = |tone, mark: &str, cells: &dyn Fn(usize) -> String| {
        let mut out = format!("{mark:GUTTER$}");
        for (width, at) in widths.iter().zip(&shown) {
            let cell = match all[*at].kind {
                Kind::Path(_) => cut_front(&cells(*at), *width),
                _ => cut(&cells(*at), *width),
            };
            let pad = " ".repeat(width.saturating_sub(columns(&cell)));
            match all[*at].kind {
                Kind::Figure => out += &format!("{pad}{cell}"),
                Kind::Words(_) | Kind::Path(_) | Kind::Note(_) => {
                    out += &format!("{cell}{pad}");
                }
            }
            out += &" ".repeat(BETWEEN);
        }
        page.line(tone, &out)
    };
    line(Tone::Quiet, "", &|at| all[at].title.to_owned())?;
    for row in rows {
        let (tone, mark) = if row.marked {
            (Tone::Victim, ">")
        } else {
            (Tone::Plain, "")
        };
        line(tone, mark, &|at| shown_cell(row, at).to_owned())?;
    }
    Ok(())
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
