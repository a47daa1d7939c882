//! Rules as `iptables-save` prints them, told apart into ours and others'; pure.

use netfilter::{CHAIN_PREFIX, COMMENT_PREFIX, Family};

use crate::firewall::Backend;

/// All tables of one family in one back end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listing {
    pub(super) backend: Backend,
    pub(super) family: Family,
    pub(super) chains: Vec<Chain>,
}

/// A chain and its rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chain {
    pub(super) table: String,
    pub(super) name: String,
    /// `ACCEPT`, `DROP`, or `-` for a chain that is not built in.
    pub(super) policy: String,
    /// Each as it stands behind `-A CHAIN`.
    pub(super) rules: Vec<String>,
}

impl Listing {
    /// Reads what a program printed.
    pub(super) fn parse(backend: Backend, family: Family, text: &str) -> Self {
        let mut table = String::new();
        let mut chains: Vec<Chain> = Vec::new();
        for line in text.lines() {
            if let Some(name) = line.strip_prefix('*') {
                name.clone_into(&mut table);
            } else if let Some(chain) = line.strip_prefix(':') {
                let mut words = chain.split(' ').map(str::to_owned);
                chains.push(Chain {
                    table: table.clone(),
                    name: words.next().unwrap_or_default(),
                    policy: words.next().unwrap_or_default(),
                    rules: Vec::new(),
                });
            } else if let Some((chain, rule)) = line
                .strip_prefix("-A ")
                .and_then(|rule| rule.split_once(' '))
            {
                let of_it = |held: &&mut Chain| held.table == table && held.name == chain;
                if let Some(held) = chains.iter_mut().find(of_it) {
                    held.rules.push(rule.to_owned());
                }
            }
        }
        Self {
            backend,
            family,
            chains,
        }
    }

    /// A chain of a table.
    pub(super) fn chain(&self, table: &str, name: &str) -> Option<&Chain> {
        let mut chains = self.chains.iter();
        chains.find(|chain| chain.table == table && chain.name == name)
    }

    /// Whether something of ours is in it.
    pub(super) fn has_ours(&self) -> bool {
        let mut chains = self.chains.iter();
        chains.any(|chain| chain.is_ours() || chain.rules.iter().any(|rule| is_ours(rule)))
    }

    /// Others' rules, with the chains that they are in.
    pub(super) fn others(&self) -> impl Iterator<Item = (&Chain, &str)> {
        let chains = self.chains.iter().filter(|chain| !chain.is_ours());
        chains.flat_map(|chain| {
            let rules = chain.rules.iter().filter(|rule| !is_ours(rule));
            rules.map(move |rule| (chain, rule.as_str()))
        })
    }

    /// The program that writes one rule of it.
    pub(super) fn program(&self) -> String {
        let family = match self.family {
            Family::V4 => "iptables",
            Family::V6 => "ip6tables",
        };
        format!("{family}-{}", self.backend.name())
    }
}

impl Chain {
    fn is_ours(&self) -> bool {
        self.name.starts_with(CHAIN_PREFIX)
    }
}

/// Whether a rule leads into a chain of ours or bears our comment.
pub(crate) fn is_ours(rule: &str) -> bool {
    leads_to_ours(rule) || comment(rule).is_some_and(|said| said.starts_with(COMMENT_PREFIX))
}

/// Whether a rule leads into a chain of ours.
pub(super) fn leads_to_ours(rule: &str) -> bool {
    target(rule).is_some_and(|name| name.starts_with(CHAIN_PREFIX))
}

/// Where a rule leads.
pub(crate) fn target(rule: &str) -> Option<&str> {
    let mut words = words(rule).into_iter();
    words
        .find(|word| matches!(*word, "-j" | "-g"))
        .and_then(|_| words.next())
}

/// A rule's comment, without quotes.
pub(super) fn comment(rule: &str) -> Option<&str> {
    let mut words = words(rule).into_iter();
    words
        .find(|word| *word == "--comment")
        .and_then(|_| words.next())
}

/// The words of a rule; what is in quotes is one.
pub(crate) fn words(rule: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let mut rest = rule.trim_start();
    while !rest.is_empty() {
        let (word, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => rest.split_once(' ').unwrap_or((rest, "")),
        };
        words.push(word);
        rest = after.trim_start();
    }
    words
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Of IPv4 in nft.
    pub(in crate::doctor) fn nft(text: &str) -> Listing {
        Listing::parse(Backend::Nft, Family::V4, text)
    }

    #[test]
    fn ours_are_told_from_others_by_chain_target_and_comment_alone() {
        let listing = nft(
            "*filter\n:FORWARD DROP [0:0]\n:PTL-FORWARD - [0:0]\n-A FORWARD -m comment --comment \"ptl:0a\" -j PTL-FORWARD\n\
             -A FORWARD -m comment --comment ptl:0b -j ACCEPT\n-A FORWARD -m comment --comment \"not -j PTL-X\" -j RETURN\n\
             -A PTL-FORWARD -j DROP\nCOMMIT\n",
        );
        assert!(listing.has_ours());
        let others: Vec<&str> = listing.others().map(|(_, rule)| rule).collect();
        assert_eq!(others, ["-m comment --comment \"not -j PTL-X\" -j RETURN"]);
        assert_eq!(listing.chain("filter", "FORWARD").unwrap().policy, "DROP");
        assert_eq!(comment(others[0]), Some("not -j PTL-X"));
        assert_eq!(target(others[0]), Some("RETURN"));
        assert_eq!(listing.program(), "iptables-nft");
    }
}
