//! What kube-router's flags come to: defaults applied, lists taken apart.

use std::time::Duration;

use api::GoDuration;

use super::super::cluster::Cluster;
use super::flags::{Flag, of};

/// kube-router's settings in a cluster.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    /// Whether its DaemonSet was read: without it annotations are all that is known.
    pub(super) known: bool,
    pub(super) full_mesh: bool,
    pub(super) internal: bool,
    pub(super) hold_time: Option<u64>,
    pub(super) override_next_hop: bool,
    pub(super) hops: Option<u8>,
    pub(super) bfd: BfdSettings,
    /// Peers of all nodes; where there are any, those of single nodes are not read.
    pub(super) peers: Vec<Peer>,
    /// Why the peers cannot be made.
    pub(super) wrong: Option<&'static str>,
    /// Passwords are in a file.
    pub(super) passwords_in_file: bool,
}

/// BFD as flags or an annotation say it, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct BfdSettings {
    pub(super) enabled: bool,
    pub(super) min_tx: Option<u64>,
    pub(super) min_rx: Option<u64>,
    pub(super) multiplier: Option<u64>,
}

/// One external peer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Peer {
    pub(super) address: String,
    pub(super) as_number: String,
    pub(super) port: Option<String>,
    /// Base64, as kube-router wants it.
    pub(super) password: Option<String>,
    pub(super) source: Option<String>,
    pub(super) bfd: BfdSettings,
}

impl Settings {
    pub(super) fn of(cluster: &Cluster<'_>) -> Self {
        let found = cluster
            .inputs
            .iter()
            .find(|input| super::daemon_set::is_daemon_set(input));
        let flags = found.map(of).unwrap_or_default();
        let text = |name: &str| {
            let found = flags.iter().rev().find(|flag| flag.name == name);
            found
                .map(|flag| flag.value.as_str())
                .filter(|value| !value.is_empty())
        };
        let switch = |name, default| text(name).map_or(default, is_true);
        let seconds = |name| text(name).and_then(seconds);
        let number = |name: &str| text(name).and_then(|text| text.parse().ok());
        let bfd = BfdSettings {
            enabled: switch("enable-bfd", false),
            min_tx: number("bfd-desired-min-tx-interval"),
            min_rx: number("bfd-required-min-rx-interval"),
            multiplier: number("bfd-detection-multiplier"),
        };
        let (peers, wrong) = match listed(
            &list(&flags, "peer-router-ips"),
            &list(&flags, "peer-router-asns"),
            &list(&flags, "peer-router-ports"),
            &list(&flags, "peer-router-passwords"),
            &[],
        ) {
            Ok(peers) => (peers, None),
            Err(why) => (Vec::new(), Some(why)),
        };
        Self {
            known: found.is_some(),
            full_mesh: switch("nodes-full-mesh", true),
            internal: switch("enable-ibgp", true),
            hold_time: seconds("bgp-holdtime"),
            override_next_hop: switch("override-nexthop", false),
            hops: text("peer-router-multihop-ttl")
                .and_then(|text| text.parse::<u8>().ok())
                .filter(|hops| *hops > 1),
            bfd,
            peers: peers.into_iter().map(|peer| Peer { bfd, ..peer }).collect(),
            wrong,
            passwords_in_file: text("peer-router-passwords-file").is_some()
                && text("peer-router-passwords").is_none(),
        }
    }
}

/// Go's true.
pub(super) fn is_true(text: &str) -> bool {
    matches!(text, "1" | "t" | "T" | "true" | "TRUE" | "True")
}

/// Whole seconds of a duration.
pub(super) fn seconds(text: &str) -> Option<u64> {
    let GoDuration(time) = text.parse().ok()?;
    Some((time + Duration::from_millis(500)).as_secs())
}

/// The entries of a flag that holds a list, and may be given again.
fn list(flags: &[Flag], name: &str) -> Vec<String> {
    let given = flags.iter().filter(|flag| flag.name == name);
    given.flat_map(|flag| split(&flag.value)).collect()
}

/// The entries of a list by commas; empty ones count.
pub(super) fn split(text: &str) -> Vec<String> {
    text.split(',')
        .map(|entry| entry.trim().to_owned())
        .collect()
}

/// Peers of lists that belong together.
///
/// # Errors
/// Lists of different lengths: kube-router refuses them too.
pub(super) fn listed(
    addresses: &[String],
    as_numbers: &[String],
    ports: &[String],
    passwords: &[String],
    sources: &[String],
) -> Result<Vec<Peer>, &'static str> {
    if addresses.len() != as_numbers.len() {
        return Err(
            "there are not as many AS numbers as addresses: kube-router makes no peers of them",
        );
    }
    let fits = |list: &[String]| list.is_empty() || list.len() == addresses.len();
    if ![ports, passwords, sources].into_iter().all(fits) {
        return Err(
            "there are not as many ports, passwords or local addresses as addresses: kube-router makes no peers of them",
        );
    }
    let entry =
        |list: &[String], index: usize| list.get(index).filter(|text| !text.is_empty()).cloned();
    let pairs = addresses.iter().zip(as_numbers).enumerate();
    Ok(pairs
        .map(|(index, (address, number))| Peer {
            address: address.clone(),
            as_number: number.clone(),
            port: entry(ports, index),
            password: entry(passwords, index),
            source: entry(sources, index),
            bfd: BfdSettings::default(),
        })
        .collect())
}
