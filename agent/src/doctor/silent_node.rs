//! The check of what this node's silent death would cost clients of Services: a peer without BFD goes on to send for the hold time,
//! and for the restart time after it, since a silent node may be one that restarts (RFC 8538).

use std::collections::BTreeMap;
use std::path::Path;

use ipnet::IpNet;

use super::bgp::{is_up, named};
use super::bound;
use super::catalog::SILENT_NODE;
use super::finding::Finding;
use crate::bgp::{BgpAnswer, BgpQuestion, PeerView};
use crate::control;
use crate::report::Report;

/// So many prefixes are asked for, each of another range.
const ASKED: usize = 8;
/// How sessions of the node-to-node mesh begin: nodes serve Services themselves, and send nobody's packets for them to another one.
const MESH: &str = "mesh/";
/// What is advised: three of a tenth of a second.
const BFD: &str = r#"{"spec":{"bfd":{"minTx":"100ms","minRx":"100ms","multiplier":3}}}"#;

/// Which peers are told addresses of Services, each with examples; an error says why that is not known.
#[derive(Clone, Debug)]
pub(super) struct Told(Result<BTreeMap<String, Vec<IpNet>>, String>);

impl Default for Told {
    fn default() -> Self {
        Self(Ok(BTreeMap::new()))
    }
}

impl Told {
    /// Asks the speaker whom it tells.
    pub(super) fn gather(report: &Report, run_dir: &Path) -> Self {
        let prefixes: Vec<IpNet> = report
            .announced_services
            .iter()
            .take(ASKED)
            .copied()
            .collect();
        let dir = run_dir.to_owned();
        let asked = bound::blocking(move || ask(&dir, &prefixes).map_err(|e| format!("{e:#}")));
        Self(asked.unwrap_or_else(|late| Err(late.to_string())))
    }
}

fn ask(run_dir: &Path, prefixes: &[IpNet]) -> anyhow::Result<BTreeMap<String, Vec<IpNet>>> {
    let mut told: BTreeMap<String, Vec<IpNet>> = BTreeMap::new();
    for prefix in prefixes {
        let question = BgpQuestion::Explain { prefix: *prefix };
        let BgpAnswer::Explain(explained) = control::ask_bgp(run_dir, question)? else {
            anyhow::bail!("the agent answered something else");
        };
        for sent in explained.sent.into_iter().filter(|sent| sent.sent) {
            told.entry(sent.peer).or_default().push(*prefix);
        }
    }
    Ok(told)
}

/// Judges.
pub(super) fn judge(told: &Told, peers: &[PeerView]) -> Vec<Finding> {
    let told = match &told.0 {
        Ok(told) => told,
        Err(why) => return vec![SILENT_NODE.skipped(why.clone())],
    };
    let is_outside = |peer: &&PeerView| is_up(peer) && !peer.name.starts_with(MESH);
    let mut found = Vec::new();
    let mut with_bfd = 0;
    for peer in peers.iter().filter(is_outside) {
        let Some(prefixes) = told.get(&peer.name) else {
            continue;
        };
        // Where it is wanted and not up another check says so.
        match peer.bfd {
            Some(_) => with_bfd += 1,
            None => found.push(of_peer(peer, prefixes)),
        }
    }
    let well = match with_bfd {
        0 => "no peer outside is told addresses of Services".to_owned(),
        count => format!("{count} peers that are told addresses of Services have BFD"),
    };
    SILENT_NODE.or_ok(found, well)
}

fn of_peer(peer: &PeerView, prefixes: &[IpNet]) -> Finding {
    let session = peer.session.clone().unwrap_or_default();
    let (hold, kept) = (session.hold_seconds, session.kept_when_silent_seconds);
    let time = match hold {
        0 => "for ever".to_owned(),
        _ => format!("for up to {} s", hold + kept),
    };
    let why = match (hold, kept) {
        (0, _) => {
            "the session has a holdTime of 0: nobody looks whether the other is there".to_owned()
        }
        (_, 0) => {
            format!("its holdTime is {hold} s, and nothing else tells it that this node is gone")
        }
        _ => format!(
            "its holdTime is {hold} s, and then it keeps routes for the restartTime of {kept} s, since a silent node may be one that restarts (RFC 8538)"
        ),
    };
    let shown: Vec<String> = prefixes.iter().map(ToString::to_string).collect();
    let (name, _) = peer.name.split_once('/').unwrap_or((&peer.name, ""));
    let own = peer.local_address.as_deref().unwrap_or("ADDRESS");
    SILENT_NODE.warning(
        format!(
            "{} is told addresses of Services ({}) and has no BFD: it would send to this node {time} after it fell silent",
            named(peer),
            shown.join(", ")
        ),
        format!("{why}; clients lose what goes here until then. With BFD it is less than a second (docs/load-balancer.md)"),
        format!(
            "kubectl patch bgppeer {name} --type=merge -p '{BFD}'; on the peer (FRR): vtysh -c 'configure terminal' -c 'bfd' -c 'peer {own}' -c 'receive-interval 100' -c 'transmit-interval 100'"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict;
    use super::*;
    use crate::bgp::SessionView;

    fn peer(name: &str, bfd: Option<&str>, (hold, kept): (u64, u64)) -> PeerView {
        PeerView {
            name: name.to_owned(),
            address: Some("10.0.0.1:179".to_owned()),
            state: "Established".to_owned(),
            bfd: bfd.map(str::to_owned),
            session: Some(SessionView {
                hold_seconds: hold,
                kept_when_silent_seconds: kept,
                ..SessionView::default()
            }),
            ..PeerView::default()
        }
    }

    fn judged(peer: PeerView) -> Finding {
        let prefixes = vec!["198.51.100.0/24".parse().unwrap()];
        let told =
            ["tor", "rack/10.0.0.1", "mesh/n2"].map(|name| (name.to_owned(), prefixes.clone()));
        judge(&Told(Ok(told.into())), &[peer]).remove(0)
    }

    #[test]
    fn a_peer_without_bfd_costs_its_hold_time_and_the_restart_time_it_grants() {
        let found = judged(peer("tor", None, (90, 120)));
        assert_eq!(found.verdict, Verdict::Warning);
        assert!(found.what.contains("for up to 210 s"), "{}", found.what);
        assert!(found.what.contains("198.51.100.0/24"), "{}", found.what);
        assert!(found.remedy.starts_with("kubectl patch bgppeer tor "));
        let found = judged(peer("rack/10.0.0.1", None, (3, 0)));
        assert!(found.what.contains("for up to 3 s"), "{}", found.what);
        assert!(found.remedy.starts_with("kubectl patch bgppeer rack "));
        let found = judged(peer("tor", None, (0, 120)));
        assert!(found.what.contains("for ever"), "{}", found.what);
    }

    #[test]
    fn nothing_is_said_with_bfd_of_other_nodes_and_of_who_is_told_nothing() {
        for (name, bfd) in [("tor", Some("Up")), ("mesh/n2", None), ("other", None)] {
            let found = judged(peer(name, bfd, (90, 120)));
            assert_eq!(found.verdict, Verdict::Ok, "{name}: {found:?}");
        }
        let unknown = judge(&Told(Err("no answer".to_owned())), &[]);
        assert_eq!(unknown[0].verdict, Verdict::Skipped);
    }
}
