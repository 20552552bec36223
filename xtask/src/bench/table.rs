//! Numbers for people: spreads, and tables that are Markdown and still read well as text.

use std::fmt;

/// The least, the middle and the greatest of some values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Spread {
    min: f64,
    median: f64,
    max: f64,
}

impl Spread {
    /// None of no values.
    pub(super) fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let last = values.len().checked_sub(1)?;
        Some(Self {
            min: values[0],
            median: f64::midpoint(values[last / 2], values[last.div_ceil(2)]),
            max: values[last],
        })
    }

    pub(super) fn show(self, digits: usize, unit: &str) -> String {
        let Self { min, median, max } = self;
        let text = format!("{min:.digits$} / {median:.digits$} / {max:.digits$} {unit}");
        text.trim_end().to_owned()
    }
}

/// A table of Markdown.
pub(super) struct Table(Vec<Vec<String>>);

impl Table {
    pub(super) fn new(head: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let mut table = Self(Vec::new());
        table.row(head);
        table
    }

    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = impl Into<String>>) {
        self.0.push(cells.into_iter().map(Into::into).collect());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |column: usize| {
            let cells = self.0.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        for (index, row) in self.0.iter().enumerate() {
            for (column, cell) in row.iter().enumerate() {
                write!(f, "| {cell:<0$} ", width(column))?;
            }
            writeln!(f, "|")?;
            if index == 0 {
                for column in 0..row.len() {
                    write!(f, "| {} ", "-".repeat(width(column).max(3)))?;
                }
                writeln!(f, "|")?;
            }
        }
        Ok(())
    }
}

/// A count with its thousands apart.
pub(super) fn thousands(count: usize) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{Spread, Table, thousands};

    #[test]
    fn a_median_lies_in_the_middle() {
        let show = |values: &[f64]| Spread::of(values.to_vec()).map(|spread| spread.show(1, "ns"));
        assert_eq!(
            show(&[3.0, 1.0, 9.0]).as_deref(),
            Some("1.0 / 3.0 / 9.0 ns")
        );
        assert_eq!(show(&[4.0, 1.0]).as_deref(), Some("1.0 / 2.5 / 4.0 ns"));
        assert_eq!(show(&[]), None);
    }

    #[test]
    fn tables_are_aligned() {
        let mut table = Table::new(["what", "×"]);
        table.row(["armed", "3 ms"]);
        assert_eq!(
            table.to_string(),
            "| what  | ×    |\n| ----- | ---- |\n| armed | 3 ms |\n"
        );
        assert_eq!(thousands(10_000), "10,000");
        assert_eq!(thousands(999), "999");
    }
}
