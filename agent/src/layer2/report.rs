//! What is told of addresses that are answered for by ARP and neighbour discovery.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// Where this node stands with all of them, and what it has done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Layer2Report {
    /// By address.
    pub(crate) addresses: BTreeMap<IpAddr, Answering>,
    /// The nodes that are watched by BFD, so that an address moves when one dies: whether each is heard.
    pub(crate) watched: BTreeMap<String, bool>,
    /// Answers sent.
    pub(crate) answers: u64,
    /// Announcements sent, in frames.
    pub(crate) announcements: u64,
    /// Frames for which the interface had no room.
    pub(crate) unsent: u64,
    /// How often others claimed an address that this node answers for.
    pub(crate) claims: u64,
    /// How often this node began to answer for an address.
    pub(crate) taken: u64,
    /// How often a Lease was to be written.
    pub(crate) writes: u64,
    /// How often that failed; a conflict is none.
    pub(crate) failed_writes: u64,
    /// Whether Leases are to be read, and have not been yet.
    pub(crate) waits_for_leases: bool,
    /// The address whose Lease could not be written, and why, if the last one could not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) last_failure: Option<(IpAddr, String)>,
}

/// Who answers for an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Answering {
    /// The node, as far as this one knows: none yet, or nobody may.
    pub(crate) node: Option<String>,
    /// Whether this node does although its Lease has ended: the API server doesn't answer, and nobody else has announced it.
    pub(crate) is_overdue: bool,
    /// The nodes that may, in the order in which they come.
    pub(crate) order: Vec<String>,
    /// The IPPool that says so.
    pub(crate) pool: String,
    /// The interfaces of this node that would answer.
    pub(crate) interfaces: BTreeSet<String>,
    /// Those that the pool names; without any it is those of the address's subnet.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) named: BTreeSet<String>,
}

impl Layer2Report {
    /// How many addresses this node answers for.
    pub(crate) fn held(&self, node: &str) -> usize {
        let all = self.addresses.values();
        all.filter(|one| one.node.as_deref() == Some(node)).count()
    }

    /// The line of `portolan status`, where there is something to say.
    pub(crate) fn line(&self, node: &str) -> Option<String> {
        let overdue = self.addresses.values().filter(|one| one.is_overdue).count();
        let overdue = match overdue {
            0 => String::new(),
            count => format!(", {count} of them although the API server cannot be asked"),
        };
        (!self.addresses.is_empty()).then(|| {
            format!(
                "layer 2: answers for {} of {} addresses{overdue}",
                self.held(node),
                self.addresses.len()
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_how_many_are_answered_for() {
        let mut report = Layer2Report::default();
        assert_eq!(report.line("n1"), None);
        for (last, node) in [(7, Some("n1")), (8, Some("n2")), (9, None)] {
            let one = Answering {
                node: node.map(str::to_owned),
                is_overdue: node == Some("n1"),
                order: Vec::new(),
                pool: "outside".to_owned(),
                interfaces: BTreeSet::new(),
                named: BTreeSet::new(),
            };
            report
                .addresses
                .insert(IpAddr::from([192, 0, 2, last]), one);
        }
        let line = "layer 2: answers for 1 of 3 addresses, 1 of them although the API server cannot be asked";
        assert_eq!(report.line("n1").as_deref(), Some(line));
    }
}
