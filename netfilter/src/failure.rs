//! Which line of a restore a program refused, and what of ours that line is about.

use crate::names::{ChainName, Table};

/// Finds the number of the line (from 1) that `iptables-restore` (either back end) or `ipset restore` blames. `None` if it
/// blames none: then nothing is known but that it failed.
///
/// Mind that iptables-legacy blames a table's `COMMIT` where the kernel refuses the table.
pub fn failed_line(program_stderr: &str) -> Option<usize> {
    // "Error occurred at line: 4", "line 4 failed", "line 4: RULE_APPEND failed (…)", "Error in line 4: …".
    let number = |rest: &str| {
        let rest = rest.trim_start_matches([':', ' ']);
        let end = rest.find(|c: char| !c.is_ascii_digit());
        rest.get(..end.unwrap_or(rest.len()))?.parse().ok()
    };
    program_stderr.split("line").skip(1).find_map(number)
}

/// What a line of a restore is about, if that is a chain of ours.
pub(crate) fn chain_at_line(restore: &str, line: usize) -> Option<(Table, ChainName)> {
    let mut table = None;
    for (index, text) in restore.lines().enumerate() {
        if let Some(name) = text.strip_prefix('*') {
            table = Table::ALL.into_iter().find(|table| table.name() == name);
        }
        if index + 1 == line {
            let mut words = text.split(' ');
            let first = words.next()?;
            let name = match first.strip_prefix(':') {
                Some(name) => name,
                None => words.next()?,
            };
            return table.zip(ChainName::read(name));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_found_in_what_each_program_says() {
        let said = [
            (
                "iptables-nft-restore v1.8.9 (nf_tables): Set ptl4-none doesn't exist.\n\nError occurred at line: 4\n\
                 Try `iptables-nft-restore -h' or 'iptables-nft-restore --help' for more information.\n",
                Some(4),
            ),
            ("iptables-restore: line 12 failed\n", Some(12)),
            (
                "iptables-nft-restore: line 2 failed: No chain/target/match by that name.\n",
                Some(2),
            ),
            (
                "ip6tables-nft-restore v1.8.9 (nf_tables): \nline 5: CHAIN_DEL failed (Device or resource busy): chain PTL-B\n",
                Some(5),
            ),
            (
                "ipset v7.17: Error in line 3: Hash is full, cannot add more elements\n",
                Some(3),
            ),
            ("Another app is currently holding the xtables lock.\n", None),
            ("a line of nothing", None),
            ("line", None),
            ("", None),
        ];
        for (text, line) in said {
            assert_eq!(failed_line(text), line, "{text}");
        }
    }
}
