//! The check of checksums in tunnels: those of what comes, and those that are left to this node's NIC.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::thread;
use std::time::Duration;

use ::overlay::Kind;
use ipnet::IpNet;

use super::catalog::TUNNEL_CHECKSUM;
use super::finding::Finding;
use super::scene::Scene;
use crate::trace::checksums::{Answer, Heard, ask, listen};

/// For so long packets are looked at.
const LOOK: Duration = Duration::from_millis(1500);
/// So many nodes are asked.
const ASKED: usize = 8;

/// What was heard, and what was answered.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    /// Tunnels' devices.
    devices: Vec<String>,
    heard: Result<Vec<Heard>, String>,
    /// The other nodes' addresses in the tunnel, each with the device to them.
    answers: Vec<(IpAddr, String, Answer)>,
}

impl Facts {
    /// Looks and asks, side by side.
    pub(super) fn gather(scene: &Scene) -> Self {
        let peers = peers(scene);
        let devices = devices(scene).map(|(_, name)| name.to_owned()).collect();
        let (heard, answers) = thread::scope(|scope| {
            let listens = scope.spawn(|| listen(LOOK).map_err(|error| error.to_string()));
            let asks: Vec<_> = peers
                .iter()
                .map(|(to, device)| (to, device, scope.spawn(|| ask(*to))))
                .collect();
            let answers = asks.into_iter().filter_map(|(to, device, asked)| {
                let answer = asked.join().ok()?.ok()?;
                Some((*to, device.clone(), answer))
            });
            let answers: Vec<_> = answers.collect();
            let panicked = || Err("it failed".to_owned());
            (listens.join().unwrap_or_else(|_| panicked()), answers)
        });
        Self {
            devices,
            heard,
            answers,
        }
    }
}

fn devices(scene: &Scene) -> impl Iterator<Item = (u32, &str)> {
    let links = scene.links().iter();
    links
        .filter(|link| Kind::ALL.iter().any(|kind| kind.device() == link.name))
        .map(|link| (link.index, link.name.as_str()))
}

/// The first address of a block of each other node is that node's own; no pod has it.
fn peers(scene: &Scene) -> Vec<(IpAddr, String)> {
    let routes = scene.survey.iter().flat_map(|survey| &survey.routes);
    let mut nodes = BTreeSet::new();
    let mut peers = Vec::new();
    for route in routes.filter(|route| route.is_ours()) {
        let device = devices(scene).find(|(link, _)| route.links.contains(link));
        let is_block = |prefix: &IpNet| prefix.prefix_len() < prefix.max_prefix_len();
        let Some((_, device)) = device.filter(|_| is_block(&route.prefix)) else {
            continue;
        };
        if peers.len() < ASKED && nodes.insert((device, route.gateways.clone())) {
            peers.push((route.prefix.network(), device.to_owned()));
        }
    }
    peers
}

/// Judges.
pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    if facts.devices.is_empty() {
        return vec![TUNNEL_CHECKSUM.ok("this node has no tunnels")];
    }
    let heard = match &facts.heard {
        Ok(heard) => heard,
        Err(why) => {
            return vec![TUNNEL_CHECKSUM.skipped(format!("links cannot be watched: {why}"))];
        }
    };
    let devices = facts.devices.join(", ");
    let mend_all = mend(&facts.devices);
    let wrong = heard.iter().filter(|one| one.wrong > 0).map(|one| {
        TUNNEL_CHECKSUM.failure(
            format!("of {} packets that came in tunnels from {} {} had a wrong checksum", one.seen, one.from, one.wrong),
            "that node's NIC, or what is between, gets checksums of what is in a tunnel wrong; the kernel drops such packets without a \
             word, here or in the pod (InCsumErrors in /proc/net/snmp)",
            format!("on node {}: {mend_all}", one.from),
        )
    });
    let left = facts
        .answers
        .iter()
        .filter(|(_, _, answer)| *answer == Answer::OwnSumsOnly);
    let vanishes = left.map(|(to, device, _)| {
        TUNNEL_CHECKSUM.failure(
            format!("TCP to {to} by {device} is answered where the kernel computes the checksum, and not where that is left to the NIC"),
            "this node's NIC, or its driver, gets checksums of what is in a tunnel wrong; a ping passes all the same",
            mend(std::slice::from_ref(device)),
        )
    });
    let findings: Vec<Finding> = wrong.chain(vanishes).collect();
    let seen: usize = heard.iter().map(|one| one.seen).sum();
    let answered = facts
        .answers
        .iter()
        .filter(|(_, _, answer)| *answer == Answer::Always);
    TUNNEL_CHECKSUM.or_ok(
        findings,
        format!(
            "{seen} packets in tunnels looked at, and {} other nodes answer by {devices}, whoever computes the checksum",
            answered.count()
        ),
    )
}

fn mend(devices: &[String]) -> String {
    let switch = |device: &String| format!("ethtool -K {device} tx-checksum-ip-generic off; ");
    let switches: String = devices.iter().map(switch).collect();
    format!("{switches}`--tunnel-checksums kernel` of its agent keeps it so")
}

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict;
    use super::*;

    fn facts(wrong: usize, answer: Answer) -> Facts {
        Facts {
            devices: vec!["vxlan.portolan".to_owned()],
            heard: Ok(vec![Heard {
                from: "10.0.0.2".parse().unwrap(),
                seen: 40,
                wrong,
            }]),
            answers: vec![(
                "10.48.1.0".parse().unwrap(),
                "vxlan.portolan".to_owned(),
                answer,
            )],
        }
    }

    #[test]
    fn wrong_checksums_of_others_and_of_this_nodes_nic_are_two_findings() {
        let well = judge(&facts(0, Answer::Always));
        assert_eq!(well[0].verdict, Verdict::Ok);
        assert!(
            well[0]
                .what
                .starts_with("40 packets in tunnels looked at, and 1 other")
        );
        // Who says nothing at all is another check's.
        assert_eq!(judge(&facts(0, Answer::Never))[0].verdict, Verdict::Ok);
        let theirs = Finding::only_bad(judge(&facts(7, Answer::Always)));
        assert!(
            theirs
                .remedy
                .starts_with("on node 10.0.0.2: ethtool -K vxlan.portolan")
        );
        let ours = Finding::only_bad(judge(&facts(0, Answer::OwnSumsOnly)));
        assert!(
            ours.remedy.starts_with("ethtool -K vxlan.portolan"),
            "{ours:?}"
        );
        assert_eq!(judge(&facts(7, Answer::OwnSumsOnly)).len(), 2);
    }

    #[test]
    fn without_a_tunnel_there_is_nothing_to_get_wrong() {
        let mut none = facts(7, Answer::OwnSumsOnly);
        none.devices.clear();
        assert_eq!(judge(&none)[0].verdict, Verdict::Ok);
    }
}
