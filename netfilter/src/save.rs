//! Reading of what `iptables-save` said.

use std::borrow::Cow;

use crate::held::{Actual, tokens};
use crate::names::Table;

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

/// A rule's line.
pub(crate) struct SavedLine<'a> {
    pub(crate) chain: &'a str,
    /// What follows `-A CHAIN`.
    pub(crate) words: &'a [Cow<'a, str>],
    /// The line as it stands, without counters.
    pub(crate) text: &'a str,
    /// Packets and bytes; 0 where the program was not asked for them.
    pub(crate) counters: (u64, u64),
}

/// What takes the chains and rules of the tables that we write to.
pub(crate) trait Sink {
    fn chain(&mut self, table: Table, name: &str);
    fn rule(&mut self, table: Table, line: &SavedLine<'_>);
}

/// Reads the output of `iptables-save` or `ip6tables-save`, of either back end, with or without counters, of one table
/// or several; outputs of several calls may follow each other.
pub(crate) fn read(text: &str, sink: &mut impl Sink) -> Result<(), ParseError> {
    let mut open = None;
    for (index, line) in text.lines().enumerate() {
        read_line(line.trim_end(), &mut open, sink).map_err(|kind| kind.at(index + 1, line))?;
    }
    match open {
        Some((name, _)) => Err(ParseError::Truncated(name)),
        None => Ok(()),
    }
}

impl Actual {
    /// Reads the output of `iptables-save` or `ip6tables-save`, of either back end, with or without counters, of one
    /// table or several; outputs of several calls may follow each other.
    ///
    /// # Errors
    /// If a line is not understood or a table is incomplete. Nothing must then be planned on it.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let mut actual = Self::default();
        read(text, &mut actual)?;
        for table in actual.tables.values_mut() {
            table.find_other_proxy();
            table.forget_foreign();
        }
        Ok(actual)
    }
}

impl Sink for Actual {
    fn chain(&mut self, table: Table, name: &str) {
        self.tables.entry(table).or_default().chain(name);
    }

    fn rule(&mut self, table: Table, line: &SavedLine<'_>) {
        let table = self.tables.entry(table).or_default();
        table.push(line.chain, line.words);
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

/// The table being read, by the program's name and by ours if it is one that we write to.
type Open = Option<(String, Option<Table>)>;

fn read_line(line: &str, open: &mut Open, sink: &mut impl Sink) -> Result<(), LineError> {
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
        if open.is_some() {
            return Err(LineError::Unknown);
        }
        let table = Table::ALL.into_iter().find(|table| table.name() == name);
        *open = Some((name.to_owned(), table));
        return Ok(());
    }
    let Some((_, table)) = open else {
        return Err(LineError::Unknown);
    };
    let table = *table;
    if line == "COMMIT" {
        *open = None;
        return Ok(());
    }
    let Some(table) = table else {
        return Ok(());
    };
    match line.strip_prefix(':') {
        Some(chain) => {
            let name = chain.split(' ').next().ok_or(LineError::Unknown)?;
            sink.chain(table, name);
            Ok(())
        }
        None => read_rule(line, table, sink),
    }
}

fn read_rule(line: &str, table: Table, sink: &mut impl Sink) -> Result<(), LineError> {
    let (counters, text) = split_counters(line);
    let words = tokens(text).ok_or(LineError::Unknown)?;
    let [append, chain, words @ ..] = words.as_slice() else {
        return Err(LineError::Unknown);
    };
    if append != "-A" {
        return Err(LineError::Unknown);
    }
    let line = SavedLine {
        chain,
        words,
        text,
        counters,
    };
    sink.rule(table, &line);
    Ok(())
}

/// `[packets:bytes] -A …`
fn split_counters(line: &str) -> ((u64, u64), &str) {
    let split = line
        .strip_prefix('[')
        .and_then(|rest| rest.split_once("] "));
    let Some((counters, rule)) = split else {
        return ((0, 0), line);
    };
    let numbers = counters
        .split_once(':')
        .and_then(|(packets, bytes)| Some((packets.parse().ok()?, bytes.parse().ok()?)));
    (numbers.unwrap_or_default(), rule)
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
    fn a_chain_of_services_is_ours_by_our_comment_in_it_and_another_proxys_is_told() {
        let rule = crate::rule::Rule::new([], crate::rule::Action::Return).render();
        let save = |chains: &str, rules: &str| {
            Actual::parse(&format!("*nat\n{chains}{rules}COMMIT\n")).unwrap()
        };
        let services = ":KUBE-SERVICES - [0:0]\n";
        let other = "-A KUBE-SERVICES -j LOG\n";
        let ours = format!("-A KUBE-SERVICES {rule}\n");
        assert_eq!(save(services, other).other_proxy(), Some("KUBE-SERVICES"));
        assert_eq!(save(services, other).rule_count(), 0);
        assert_eq!(save(services, &ours).other_proxy(), None);
        for mixed in [format!("{other}{ours}"), format!("{ours}{other}")] {
            let mixed = save(services, &mixed);
            assert_eq!(
                (mixed.rule_count(), mixed.other_proxy()),
                (2, None),
                "ours, and another's rule in it"
            );
        }
        let empty = save(
            ":KUBE-SERVICES - [0:0]\n:KUBE-FIREWALL - [0:0]\n",
            "-A KUBE-FIREWALL -j LOG\n",
        );
        assert_eq!((empty.rule_count(), empty.other_proxy()), (0, None));
        let canary = save(":KUBE-PROXY-CANARY - [0:0]\n", "");
        assert_eq!(canary.other_proxy(), Some("KUBE-PROXY-CANARY"));
    }

    #[test]
    fn chains_of_services_can_be_left_out_of_the_books_and_are_neither_used_nor_removed() {
        use crate::{Action, ChainName, Effort, Rule, Ruleset, plan};
        let to = |name| Rule::new([], Action::Jump(name)).render();
        let services = to(ChainName::of_services("KUBE-SERVICES"));
        let text = format!(
            "*nat\n:PREROUTING ACCEPT [0:0]\n:KUBE-SERVICES - [0:0]\n:PTL-A - [0:0]\n\
             -A PREROUTING {services}\n-A PREROUTING {}\n-A KUBE-SERVICES {}\nCOMMIT\n",
            to(ChainName::fixed("A")),
            Rule::new([], Action::Return).render(),
        );
        let actual = Actual::parse(&text).unwrap();
        let removal = |actual| plan(&actual, &Ruleset::default(), Effort::Exact).restore;
        let all = removal(actual.clone()).unwrap();
        let rest = removal(actual.without_services()).unwrap();
        assert!(
            all.contains("-X KUBE-SERVICES") && all.contains("-X PTL-A"),
            "{all}"
        );
        assert!(
            !rest.contains("KUBE-SERVICES") && rest.contains("-X PTL-A"),
            "{rest}"
        );
        assert!(rest.contains("-D PREROUTING 2") || rest.matches("-D PREROUTING").count() == 1);
    }

    #[test]
    fn tables_that_we_never_write_are_passed_over() {
        let actual = Actual::parse("*security\n:INPUT ACCEPT [0:0]\nCOMMIT\n").unwrap();
        assert_eq!(actual, Actual::default());
    }
}
