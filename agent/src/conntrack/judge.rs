//! Which of the listed flows go: those that policy denies now, and those of addresses that nobody or another holds.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use netfilter::InterfaceName;
use policy::{Cut, Endpoint, Entry, Judge, Local, Tuple};
use routes::conntrack::{ConntrackEntry, Place, Ports};

use super::ledger::Work;

/// What is to be deleted.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Sentence {
    pub(super) entries: Vec<ConntrackEntry>,
    /// Of these, those that policy denies; the rest had their pod go.
    pub(super) denied: u64,
}

/// Judges what was listed. `endpoints` are those known after the listing, so that the flows of a pod which came
/// meanwhile aren't taken for an orphan's; `own` are this node's addresses.
pub(super) fn judge(
    work: &Work,
    endpoints: &BTreeMap<InterfaceName, Endpoint>,
    own: &BTreeSet<IpAddr>,
    listed: Vec<ConntrackEntry>,
) -> Sentence {
    let entries: Vec<Entry> = listed.iter().map(entry).collect();
    let local = Local {
        addresses: own,
        pod_cidrs: &work.goal.pod_cidrs,
        endpoints,
    };
    let judge = Judge::new(&work.goal.compiled, local);
    let cuts: BTreeMap<usize, Cut> = judge
        .cuts(&entries, Some(&work.dirty))
        .into_iter()
        .collect();
    let mut sentence = Sentence::default();
    for (place, flow) in listed.into_iter().enumerate() {
        let is_gone = Place::ALL
            .iter()
            .any(|place| work.gone.contains(&flow.address(*place)));
        match cuts.get(&place) {
            _ if is_gone => {}
            Some(Cut::Orphaned) if !is_elsewhere(work, &flow) => {}
            Some(Cut::Denied) => sentence.denied += 1,
            _ => continue,
        }
        sentence.entries.push(flow);
    }
    sentence
}

/// Whether an end is a pod of another node that holds an address of this node's Pod CIDRs.
fn is_elsewhere(work: &Work, flow: &ConntrackEntry) -> bool {
    let ends = [flow.original.source, flow.reply.source];
    let mut held = work.goal.elsewhere.iter();
    held.any(|net| ends.iter().any(|end| net.contains(end)))
}

/// As policy judges it.
pub(super) fn entry(flow: &ConntrackEntry) -> Entry {
    Entry {
        protocol: flow.protocol,
        original: tuple(&flow.original),
        reply: tuple(&flow.reply),
    }
}

fn tuple(tuple: &routes::conntrack::Tuple) -> Tuple {
    let (source_port, destination_port) = match tuple.ports {
        Ports::Ports {
            source,
            destination,
        } => (source, destination),
        Ports::Icmp { .. } | Ports::None => (0, 0),
    };
    Tuple {
        source: tuple.source,
        destination: tuple.destination,
        source_port,
        destination_port,
    }
}
