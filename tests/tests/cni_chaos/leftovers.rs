//! What the kernel, the state and the agent's process hold beyond what living pods explain, and what they lack.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use tests::agent::Agent;
use tests::netns::Netns;
use tests::snapshot::Snapshot;

use crate::stage::CIDRS;
use crate::worker::Pod;

/// What living pods explain.
#[derive(Debug, Default)]
pub(crate) struct Expected {
    interfaces: BTreeSet<String>,
    addresses: BTreeSet<IpAddr>,
    containers: BTreeSet<String>,
}

impl Expected {
    pub(crate) fn of<'a>(pods: impl Iterator<Item = &'a Pod>) -> Self {
        let mut all = Self::default();
        for pod in pods {
            all.interfaces.insert(pod.host_end().to_owned());
            if pod.is_limited {
                all.interfaces
                    .insert(pod.host_end().replacen("ptl", "ptb", 1));
            }
            all.addresses.extend(&pod.addresses);
            all.containers.insert(pod.container.clone());
        }
        all
    }
}

/// Compares; what does not fit, in words.
pub(crate) fn look(node: &Netns, agent: &Agent, expected: &Expected) -> Result<(), String> {
    let mut found = Vec::new();
    let kernel = Snapshot::of(node);
    let links = interfaces(kernel.part("links"));
    differ("links", &links, &expected.interfaces, &mut found);
    let routes: BTreeSet<IpAddr> = ["route show proto 179", "-6 route show proto 179"]
        .iter()
        .flat_map(|words| addresses(&node.ip(&format!("{words} table all")).unwrap_or_default()))
        .collect();
    differ("routes", &routes, &expected.addresses, &mut found);
    for part in [
        "addresses",
        "routes",
        "routes6",
        "rules",
        "rules6",
        "iptables",
        "ip6tables",
        "sets",
    ] {
        no_more(part, kernel.part(part), expected, &mut found);
    }
    no_more(
        "neighbours",
        &node.ip("neigh show").unwrap_or_default(),
        expected,
        &mut found,
    );
    held(agent, expected, &mut found);
    // It ends with an error if there is a leak.
    if let Err(error) = agent.verb(&["ipam", "check"]) {
        found.push(error.to_string());
    }
    let pending = agent.state_dir().join("pending-del");
    for entry in std::fs::read_dir(&pending).into_iter().flatten().flatten() {
        found.push(format!("pending: {}", entry.path().display()));
    }
    namespaces_held(agent, &mut found);
    if found.is_empty() {
        Ok(())
    } else {
        Err(found.join("\n"))
    }
}

/// The agent's own list of who holds which address.
fn held(agent: &Agent, expected: &Expected, found: &mut Vec<String>) {
    let text = match agent.verb(&["status", "-o", "json"]) {
        Ok(text) => text,
        Err(error) => return found.push(error.to_string()),
    };
    differ("held", &addresses(&text), &expected.addresses, found);
    for container in &expected.containers {
        if !text.contains(container.as_str()) {
            found.push(format!("held: {container} is missing"));
        }
    }
}

/// An open descriptor of a dead pod's namespace would keep it, and all in it, for ever.
fn namespaces_held(agent: &Agent, found: &mut Vec<String>) {
    let folder = format!("/proc/{}/fd", agent.id().unwrap_or_default());
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let target = std::fs::read_link(entry.path()).unwrap_or_default();
        if target.to_string_lossy().starts_with("net:[") {
            found.push(format!("the agent holds {}", target.display()));
        }
    }
}

fn differ<T: Ord + std::fmt::Debug>(
    what: &str,
    there: &BTreeSet<T>,
    expected: &BTreeSet<T>,
    found: &mut Vec<String>,
) {
    let more: Vec<&T> = there.difference(expected).collect();
    let less: Vec<&T> = expected.difference(there).collect();
    if !more.is_empty() || !less.is_empty() {
        found.push(format!("{what}: too many {more:?}, missing {less:?}"));
    }
}

fn no_more(what: &str, text: &str, expected: &Expected, found: &mut Vec<String>) {
    let dead = addresses(text);
    let dead: Vec<_> = dead.difference(&expected.addresses).collect();
    let gone = interfaces(text);
    let gone: Vec<_> = gone.difference(&expected.interfaces).collect();
    if !dead.is_empty() || !gone.is_empty() {
        found.push(format!("{what}: {dead:?} {gone:?} of no living pod"));
    }
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|character: char| !character.is_ascii_alphanumeric() && !".:".contains(character))
}

/// The names of pods' interfaces and shapers in a text.
fn interfaces(text: &str) -> BTreeSet<String> {
    let is_ours = |word: &&str| {
        let hash = word.strip_prefix("ptl").or(word.strip_prefix("ptb"));
        hash.is_some_and(|hash| hash.len() == 11 && hash.chars().all(|c| c.is_ascii_hexdigit()))
    };
    words(text)
        .map(|word| word.trim_end_matches(':'))
        .filter(is_ours)
        .map(str::to_owned)
        .collect()
}

/// The pod addresses in a text; a CIDR's own first address is none.
fn addresses(text: &str) -> BTreeSet<IpAddr> {
    let cidrs = CIDRS.map(|cidr| cidr.parse::<IpNet>().unwrap());
    let parse = |word: &str| {
        let alone = word.parse().ok();
        alone.or_else(|| Some(word.parse::<SocketAddr>().ok()?.ip()))
    };
    let all = words(text).filter_map(parse);
    all.filter(|ip| {
        cidrs
            .iter()
            .any(|cidr| cidr.contains(ip) && cidr.network() != *ip)
    })
    .collect()
}
