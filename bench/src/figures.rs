//! A row whose table is its own: cells, bars and notes, and on what and under what load it was measured.

use std::fmt::Write as _;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::machine::Machine;
use crate::policy::NodeRow;
use crate::report::Bar;

/// All that was measured of such a row in one run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Figures {
    /// The row.
    pub row: NodeRow,
    /// On what.
    pub machine: Machine,
    /// Our commit.
    pub version: String,
    /// The load average of a minute before it began: what else ran.
    pub load: f64,
    /// The table's head.
    pub head: Vec<String>,
    /// Its lines.
    pub lines: Vec<Vec<String>>,
    /// The bars.
    pub bars: Vec<Bar>,
    /// What has to be known to read the numbers.
    pub notes: Vec<String>,
}

impl Figures {
    /// Nothing measured yet.
    ///
    /// # Errors
    /// When /proc can't be read.
    pub fn new(row: NodeRow, head: &[&str]) -> Result<Self> {
        let load = std::fs::read_to_string("/proc/loadavg")?;
        let load = load.split(' ').next().and_then(|text| text.parse().ok());
        let commit = ::tests::process::said_by("git", &["rev-parse", "--short", "HEAD"])?;
        Ok(Self {
            row,
            machine: Machine::here()?,
            version: format!("Portolan {}", commit.trim()),
            load: load.unwrap_or_default(),
            head: head.iter().map(|cell| (*cell).to_owned()).collect(),
            lines: Vec::new(),
            bars: Vec::new(),
            notes: Vec::new(),
        })
    }

    /// Adds a line.
    pub fn line<const CELLS: usize>(&mut self, cells: [String; CELLS]) {
        self.lines.push(cells.into());
    }

    /// Adds a bar.
    pub fn bar(&mut self, what: impl Into<String>, got: f64, most: f64) {
        let what = what.into();
        self.bars.push(Bar { what, got, most });
    }

    /// Adds a note.
    pub fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    /// The row as Markdown.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = format!("## {}: {}\n\n", self.row.name(), self.row.title());
        let _ = writeln!(text, "| {} |", self.head.join(" | "));
        let _ = writeln!(text, "|{}", "---|".repeat(self.head.len()));
        for line in &self.lines {
            let _ = writeln!(text, "| {} |", line.join(" | "));
        }
        text.push('\n');
        for bar in &self.bars {
            let _ = writeln!(text, "- {}", bar.text());
        }
        for note in &self.notes {
            let _ = writeln!(text, "- {note}");
        }
        let _ = writeln!(text, "- load average when it began: {:.1}", self.load);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_bars_and_notes_are_in_the_table() {
        let mut figures = Figures::new(NodeRow::Judge, &["what", "ms"]).unwrap();
        figures.line(["one".to_owned(), "2".to_owned()]);
        figures.bar("time", 3.0, 2.0);
        figures.note("measured by hand");
        let table = figures.table();
        for line in [
            "| what | ms |\n|---|---|\n| one | 2 |",
            "- time: 3.000, at most 2.000: MISSED by 50 %",
            "- measured by hand",
        ] {
            assert!(table.contains(line), "{line} is not in\n{table}");
        }
    }
}
