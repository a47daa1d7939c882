//! Who announces the addresses of a Service, and why other nodes don't: as `portolan service show` tells it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use services::proxy::announce::{Silence, Unfit, Way};
use services::proxy::model::FrontendKind;

use super::state::Announced;
use super::words;
use crate::layer2::Answering;
use crate::report::columns;

/// So many nodes of one verdict are named before eyes.
const MOST_NAMED: usize = 8;

/// One address of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AnnouncedView {
    /// `cluster IP`, `load balancer`, `external IP`.
    pub(crate) kind: String,
    pub(crate) address: String,
    /// Every node of the cluster.
    pub(crate) nodes: Vec<AnnouncingNode>,
}

/// What a node makes of an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AnnouncingNode {
    pub(crate) node: String,
    /// What it announces; absent where it announces nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) prefix: Option<String>,
    /// Why it announces nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) silent: Option<String>,
}

/// Asks for every node.
pub(super) fn views(announced: &Announced) -> Vec<AnnouncedView> {
    let mut service = announced.service.clone();
    let mut views: BTreeMap<(FrontendKind, IpAddr), Vec<AnnouncingNode>> = BTreeMap::new();
    for (place, unfit) in &announced.nodes {
        for one in service.on(place.clone(), *unfit) {
            let node = place.node.clone();
            let (prefix, silent) = match one.way {
                Ok(Way::Itself) => (Some(ipnet::IpNet::from(one.address).to_string()), None),
                Ok(Way::Aggregate(range)) => (Some(range.to_string()), None),
                Err(why) => (None, Some(silence(why).to_owned())),
            };
            let nodes = views.entry((one.kind, one.address)).or_default();
            nodes.push(AnnouncingNode {
                node,
                prefix,
                silent,
            });
        }
    }
    let views = views
        .into_iter()
        .map(|((kind, address), nodes)| AnnouncedView {
            kind: words::kind(kind).to_owned(),
            address: address.to_string(),
            nodes,
        });
    views.collect()
}

fn silence(why: Silence) -> &'static str {
    match why {
        Silence::NoRange => "no range of its kind in BGPConfiguration default holds it",
        Silence::Unfit(Unfit::Excluded) => {
            "the Node's label node.kubernetes.io/exclude-from-external-load-balancers"
        }
        Silence::Unfit(Unfit::Leaving) => "the node is about to go",
        Silence::OfAnother => "another Service has it: see below",
        Silence::NotOfItsFamilies => "the Service has no cluster IP of its family",
        Silence::NoEndpoint => "no endpoint of the Service can be asked",
        Silence::NoEndpointHere => "its traffic policy is Local, and no endpoint there is ready",
    }
}

/// As tables for eyes: nodes of one verdict share a line.
pub(super) fn table(views: &[AnnouncedView], out: &mut String) {
    if views.is_empty() {
        return;
    }
    *out += "\nannounced by BGP, as every agent decides it that reads Services and has a session\n";
    let head = ["  ADDRESS", "KIND", "ANNOUNCED", "NODES", "WHY-NOT"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for view in views {
        let mut verdicts: BTreeMap<(Option<&String>, Option<&String>), Vec<&str>> = BTreeMap::new();
        for one in &view.nodes {
            let verdict = (one.prefix.as_ref(), one.silent.as_ref());
            verdicts.entry(verdict).or_default().push(&one.node);
        }
        // Those that do come first.
        for ((prefix, silent), nodes) in verdicts.into_iter().rev() {
            rows.push(vec![
                format!("  {}", view.address),
                view.kind.clone(),
                prefix.map_or_else(|| "no".to_owned(), |prefix| format!("as {prefix}")),
                named(&nodes),
                silent.cloned().unwrap_or_default(),
            ]);
        }
    }
    columns(out, &rows);
}

/// Who answers ARP and neighbour discovery, a line an address.
pub(super) fn answering(addresses: &BTreeMap<IpAddr, Answering>, out: &mut String) {
    if addresses.is_empty() {
        return;
    }
    *out += "answered for by ARP and neighbour discovery, as this node knows it\n";
    let head = ["  ADDRESS", "POOL", "ANSWERED-BY", "MAY", "NOTE"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for (address, one) in addresses {
        let order: Vec<&str> = one.order.iter().map(String::as_str).collect();
        let note = match (&one.node, order.is_empty(), one.is_overdue) {
            (_, true, _) => "no node may: of the pool's nodes none has a reason to",
            (None, ..) => "nobody yet",
            (Some(_), _, true) => "although its Lease has ended: the API server cannot be asked",
            (Some(_), _, false) => "",
        };
        rows.push(vec![
            format!("  {address}"),
            one.pool.clone(),
            one.node.clone().unwrap_or_else(|| "-".to_owned()),
            named(&order),
            note.to_owned(),
        ]);
    }
    columns(out, &rows);
}

fn named(nodes: &[&str]) -> String {
    let shown = nodes.iter().take(MOST_NAMED).copied();
    let shown: Vec<&str> = shown.collect();
    match nodes.len().saturating_sub(MOST_NAMED) {
        0 => shown.join(","),
        more => format!("{},… ({more} more)", shown.join(",")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, prefix: Option<&str>, silent: Option<&str>) -> AnnouncingNode {
        AnnouncingNode {
            node: name.to_owned(),
            prefix: prefix.map(str::to_owned),
            silent: silent.map(str::to_owned),
        }
    }

    #[test]
    fn each_address_says_who_answers_for_it_and_why_nobody_does() {
        let one = |node: Option<&str>, order: &[&str]| Answering {
            node: node.map(str::to_owned),
            is_overdue: false,
            order: order.iter().map(|node| (*node).to_owned()).collect(),
            pool: "front".to_owned(),
            interfaces: Default::default(),
            named: Default::default(),
        };
        let addresses = BTreeMap::from([
            (IpAddr::from([192, 0, 2, 1]), one(Some("n2"), &["n2", "n1"])),
            (IpAddr::from([192, 0, 2, 2]), one(None, &[])),
        ]);
        let mut out = String::new();
        answering(&addresses, &mut out);
        let line = |address: &str| out.lines().find(|line| line.contains(address)).unwrap();
        assert!(line("192.0.2.1").contains("n2           n2,n1"), "{out}");
        assert!(line("192.0.2.2").ends_with("none has a reason to"), "{out}");
        assert_eq!(out.lines().filter(|line| !line.is_empty()).count(), 4);
    }

    #[test]
    fn nodes_of_one_verdict_share_a_line_and_those_that_announce_come_first() {
        let mut nodes: Vec<AnnouncingNode> = (1..=10)
            .map(|number| node(&format!("n{number:02}"), None, Some("excluded")))
            .collect();
        nodes.push(node("n11", Some("198.51.100.7/32"), None));
        let view = AnnouncedView {
            kind: "load balancer".to_owned(),
            address: "198.51.100.7".to_owned(),
            nodes,
        };
        let mut out = String::new();
        table(&[view], &mut out);
        let lines: Vec<&str> = out
            .lines()
            .filter(|line| line.contains("198.51.100.7 "))
            .collect();
        assert_eq!(lines.len(), 2, "{out}");
        assert!(lines[0].contains("as 198.51.100.7/32") && lines[0].contains("n11"));
        assert!(lines[1].contains("n01,") && lines[1].contains("(2 more)"));
        assert!(lines[1].ends_with("excluded"), "{out}");
    }
}
