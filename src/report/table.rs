//! Columns of text, aligned.

use std::fmt::Write as _;
use std::io::{self, Write};

/// On which side of a column its text stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Align {
    Left,
    Right,
}

/// Rows that are written once all are known. What is put in is printable already.
pub(super) struct Table {
    align: Vec<Align>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(head: impl IntoIterator<Item = (impl Into<String>, Align)>) -> Self {
        let (head, align) = head.into_iter().map(|(name, align)| (name.into(), align)).unzip();
        Self { align, rows: vec![head] }
    }

    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// Writes the rows with two blanks between the columns, and none at the ends of lines.
    pub(super) fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let width = |text: &String| text.chars().count();
        let widths: Vec<usize> = (0..self.align.len())
            .map(|column| self.rows.iter().filter_map(|row| row.get(column)).map(width).max().unwrap_or(0))
            .collect();
        for row in &self.rows {
            let mut line = String::new();
            for ((cell, width), align) in row.iter().zip(&widths).zip(&self.align) {
                let between = if line.is_empty() { "" } else { "  " };
                line.push_str(between);
                // Writing to a `String` cannot fail.
                let _ = match align {
                    Align::Left => write!(line, "{cell:width$}"),
                    Align::Right => write!(line, "{cell:>width$}"),
                };
            }
            writeln!(out, "{}", line.trim_end())?;
        }
        Ok(())
    }
}
