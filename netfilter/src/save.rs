//! What `iptables-save` said: our chains word by word, of others' only the places that our hooks are measured by.

use std::collections::BTreeMap;

use crate::names::{CHAIN_PREFIX, ChainName, Table};
use crate::rule::{COMMENT_PREFIX, Protocol};

/// Why a saved text cannot be trusted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// A line that is none of the format.
    #[error("iptables-save, line {line}: {text:?} is not understood")]
    Line {
        /// Its number, from 1.
        line: usize,
        /// Its start.
        text: String,
    },
    /// A table that iptables-nft cannot show because another program wrote it.
    #[error("iptables-save, line {line}: a table was written by another program ({text:?})")]
    Incompatible {
        /// Its number, from 1.
        line: usize,
        /// The line.
        text: String,
    },
    /// The text ends before its table's COMMIT: the program was cut short.
    #[error("iptables-save: the text ends within table {0}")]
    Truncated(String),
}

/// A rule as words that do not hang on the program's version, joined by NUL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Words(String);

impl Words {
    /// Reads a rule's text (what follows `-A CHAIN`).
    pub(crate) fn parse(text: &str) -> Option<Self> {
        tokens(text).map(|words| Self::of(&words))
    }

    fn of(words: &[String]) -> Self {
        let mut previous = "";
        let mut parts: Vec<&str> = Vec::with_capacity(words.len());
        for word in words {
            parts.push(if previous == "-p" {
                Protocol::canonical(word)
            } else {
                word
            });
            previous = word;
        }
        Self(parts.join("\0"))
    }
}

/// One place in a chain that is not ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Slot {
    /// Another owner's rule.
    Foreign,
    /// A rule of ours.
    Ours(Words),
}

/// What one table holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ActualTable {
    pub(crate) ours: BTreeMap<ChainName, Vec<Words>>,
    pub(crate) others: BTreeMap<String, Vec<Slot>>,
}

/// What the tables of one family hold, as far as it concerns us.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Actual {
    pub(crate) tables: BTreeMap<Table, ActualTable>,
}

impl Actual {
    /// Reads the output of `iptables-save` or `ip6tables-save`, of either back end, with or without counters, of one
    /// table or several; outputs of several calls may follow each other.
    ///
    /// # Errors
    /// If a line is not understood or a table is incomplete. Nothing must then be planned on it.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let mut reader = Reader::default();
        for (index, line) in text.lines().enumerate() {
            reader
                .line(line.trim_end())
                .map_err(|kind| kind.at(index + 1, line))?;
        }
        match reader.open {
            Some((name, ..)) => Err(ParseError::Truncated(name)),
            None => Ok(reader.actual),
        }
    }

    /// How many rules of ours there are, hooks included.
    pub fn rule_count(&self) -> usize {
        let ours_in =
            |slots: &Vec<Slot>| slots.iter().filter(|slot| **slot != Slot::Foreign).count();
        let of_table = |table: &ActualTable| {
            table.ours.values().map(Vec::len).sum::<usize>()
                + table.others.values().map(ours_in).sum::<usize>()
        };
        self.tables.values().map(of_table).sum()
    }
}

enum LineError {
    Unknown,
    Incompatible,
}

impl LineError {
    fn at(self, line: usize, text: &str) -> ParseError {
        let text: String = text.chars().take(120).collect();
        match self {
            Self::Unknown => ParseError::Line { line, text },
            Self::Incompatible => ParseError::Incompatible { line, text },
        }
    }
}

#[derive(Default)]
struct Reader {
    actual: Actual,
    /// The table being read, by the program's name and by ours if it is one that we write to.
    open: Option<(String, Option<Table>)>,
}

impl Reader {
    fn line(&mut self, line: &str) -> Result<(), LineError> {
        if line.starts_with('#') {
            let incompatible = line.contains("is incompatible");
            return if incompatible {
                Err(LineError::Incompatible)
            } else {
                Ok(())
            };
        }
        if line.is_empty() {
            return Ok(());
        }
        if let Some(name) = line.strip_prefix('*') {
            return self.start(name);
        }
        let Some((_, table)) = &self.open else {
            return Err(LineError::Unknown);
        };
        let table = table.map(|table| self.actual.tables.entry(table).or_default());
        if line == "COMMIT" {
            self.open = None;
            return Ok(());
        }
        match (line.strip_prefix(':'), table) {
            (Some(chain), Some(table)) => table.chain(chain),
            (None, Some(table)) => table.rule(line),
            (_, None) => Ok(()),
        }
    }

    fn start(&mut self, name: &str) -> Result<(), LineError> {
        if self.open.is_some() {
            return Err(LineError::Unknown);
        }
        let table = Table::ALL.into_iter().find(|table| table.name() == name);
        self.open = Some((name.to_owned(), table));
        Ok(())
    }
}

impl ActualTable {
    fn chain(&mut self, line: &str) -> Result<(), LineError> {
        let name = line.split(' ').next().ok_or(LineError::Unknown)?;
        match ChainName::read(name) {
            Some(name) => drop(self.ours.entry(name).or_default()),
            None => drop(self.others.entry(name.to_owned()).or_default()),
        }
        Ok(())
    }

    fn rule(&mut self, line: &str) -> Result<(), LineError> {
        let words = tokens(without_counters(line)).ok_or(LineError::Unknown)?;
        let [append, chain, rest @ ..] = words.as_slice() else {
            return Err(LineError::Unknown);
        };
        if append != "-A" {
            return Err(LineError::Unknown);
        }
        match ChainName::read(chain) {
            Some(name) => self.ours.entry(name).or_default().push(Words::of(rest)),
            None => self
                .others
                .entry(chain.clone())
                .or_default()
                .push(Slot::read(rest)),
        }
        Ok(())
    }
}

impl Slot {
    /// Ours is what bears our comment or leads into a chain of ours.
    fn read(words: &[String]) -> Self {
        let pairs = || words.iter().zip(words.iter().skip(1));
        let ours = pairs().any(|(option, value)| match option.as_str() {
            "--comment" => value.starts_with(COMMENT_PREFIX),
            "-j" | "-g" => value.starts_with(CHAIN_PREFIX),
            _ => false,
        });
        if ours {
            Self::Ours(Words::of(words))
        } else {
            Self::Foreign
        }
    }
}

fn without_counters(line: &str) -> &str {
    match line
        .strip_prefix('[')
        .and_then(|rest| rest.split_once("] "))
    {
        Some((_, rule)) => rule,
        None => line,
    }
}

/// Cuts a line into words; quotes keep blanks, a backslash keeps the next character. `None` if a quote stays open.
fn tokens(line: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quoted = false;
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        match character {
            '"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            '\\' => word.get_or_insert_default().push(characters.next()?),
            ' ' if !quoted => words.extend(word.take()),
            other => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    (!quoted).then_some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_counters_and_protocol_names_make_no_difference() {
        let plain =
            "*filter\n:PTL-A - [0:0]\n-A PTL-A -p 4 -m comment --comment ptl:ab -j DROP\nCOMMIT\n";
        let other = "# x\n*filter\n:PTL-A - [5:6]\n[7:8] -A PTL-A -p ipencap -m comment --comment \"ptl:ab\" -j DROP\nCOMMIT\n";
        assert_eq!(Actual::parse(plain).unwrap(), Actual::parse(other).unwrap());
        assert_eq!(Actual::parse(plain).unwrap().rule_count(), 1);
    }

    #[test]
    fn a_text_that_was_cut_short_is_an_error() {
        let text = "*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -j DROP\n";
        assert_eq!(
            Actual::parse(text),
            Err(ParseError::Truncated("filter".to_owned()))
        );
        assert!(Actual::parse("-A FORWARD -j DROP\n").is_err());
        assert!(Actual::parse("*filter\n-A FORWARD --comment \"x\nCOMMIT\n").is_err());
    }

    #[test]
    fn a_table_that_only_nft_understands_is_an_error() {
        let text = "# Table `filter' is incompatible, use 'nft' tool.\n";
        assert!(matches!(
            Actual::parse(text),
            Err(ParseError::Incompatible { line: 1, .. })
        ));
    }

    #[test]
    fn a_comment_of_anothers_that_quotes_ours_is_not_ours() {
        let text =
            "*filter\n-A FORWARD -m comment --comment \"see --comment ptl:ab\" -j DROP\nCOMMIT\n";
        assert_eq!(Actual::parse(text).unwrap().rule_count(), 0);
    }

    #[test]
    fn tables_that_we_never_write_are_passed_over() {
        let actual = Actual::parse("*security\n:INPUT ACCEPT [0:0]\nCOMMIT\n").unwrap();
        assert_eq!(actual, Actual::default());
    }
}
