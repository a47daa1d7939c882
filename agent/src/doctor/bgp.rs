//! Checks of BGP: sessions, listeners, what a restart costs, and BFD.

use std::path::Path;

use super::bound;
use super::catalog::{BFD, BGP_LISTENER, BGP_RESTART, BGP_SESSION, SILENT_NODE};
use super::finding::Finding;
use super::silent_node;
use crate::bgp::{BgpAnswer, BgpQuestion, PeerView};
use crate::control;
use crate::report::{Listener, Report};
use crate::run::BFD_SOCKET;

/// What the speaker says.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    /// The sessions, or why the speaker cannot be asked: there is none without `bgp` in --features.
    peers: Result<Vec<PeerView>, String>,
    listeners: Vec<Listener>,
    /// BFD has a process of its own.
    bfd_apart: bool,
    /// Which peers are told addresses of Services.
    told: silent_node::Told,
}

impl Facts {
    /// Asks it; none without an agent.
    pub(super) fn gather(report: &Report, run_dir: &Path) -> Self {
        let dir = run_dir.to_owned();
        let asked = bound::blocking(move || control::ask_bgp(&dir, BgpQuestion::Peers));
        let peers = match asked {
            Ok(Ok(BgpAnswer::Peers(peers))) => Ok(peers),
            Ok(Ok(_)) => Err("the agent answered something else".to_owned()),
            Ok(Err(error)) => Err(format!("{error:#}")),
            Err(late) => Err(late.to_string()),
        };
        let sockets = std::fs::read_to_string("/proc/net/unix").unwrap_or_default();
        let path = run_dir.join(BFD_SOCKET).display().to_string();
        Self {
            peers,
            listeners: report.listeners.clone(),
            told: silent_node::Told::gather(report, run_dir),
            bfd_apart: sockets.lines().any(|line| line.ends_with(&path)),
        }
    }
}

/// Judges.
pub(super) fn judge(facts: Option<&Facts>) -> Vec<Finding> {
    let checks = [
        &BGP_SESSION,
        &BGP_LISTENER,
        &BGP_RESTART,
        &BFD,
        &SILENT_NODE,
    ];
    let Some(facts) = facts else {
        return checks
            .map(|check| check.skipped("the agent does not answer"))
            .into();
    };
    let peers = match &facts.peers {
        Ok(peers) => peers,
        Err(why) => {
            let mut findings: Vec<Finding> = vec![BGP_SESSION.skipped(why.clone())];
            findings.extend(listeners(facts));
            findings
                .extend([&BGP_RESTART, &BFD, &SILENT_NODE].map(|check| check.skipped(why.clone())));
            return findings;
        }
    };
    let mut findings = sessions(peers);
    findings.extend(listeners(facts));
    findings.extend(restart(peers));
    findings.extend(bfd(facts, peers));
    findings.extend(silent_node::judge(&facts.told, peers));
    findings
}

pub(super) fn is_up(peer: &PeerView) -> bool {
    peer.state.eq_ignore_ascii_case("established")
}

/// A peer by its name and address.
pub(super) fn named(peer: &PeerView) -> String {
    match &peer.address {
        Some(address) => format!("{} ({address})", peer.name),
        None => peer.name.clone(),
    }
}

fn sessions(peers: &[PeerView]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for peer in peers.iter().filter(|peer| !is_up(peer)) {
        let why = peer.last_down.as_deref().unwrap_or("it was never up");
        let what = format!("the session with {} is {}", named(peer), peer.state);
        let cause = format!("{why}. {}", what_to_look_at(why));
        findings.push(match (peer.shut_down, peer.held_down_seconds) {
            (true, _) => BGP_SESSION.warning(
                what,
                "it is shut down by its BGPPeer",
                format!("kubectl get bgppeer {} -o yaml", peer.name),
            ),
            (_, Some(seconds)) => BGP_SESSION.failure(
                what,
                format!("{why}; it is held down for another {seconds} s"),
                format!("portolan bgp reset {}", peer.name),
            ),
            _ => BGP_SESSION.failure(what, cause, format!("portolan bgp peer {}", peer.name)),
        });
    }
    let count = peers.len();
    BGP_SESSION.or_ok(findings, format!("{count} of {count} are Established"))
}

/// What usually stands behind a reason.
fn what_to_look_at(why: &str) -> &'static str {
    let why = why.to_lowercase();
    let has = |word: &str| why.contains(word);
    if has("refused") {
        "Nothing listens there: start the peer's BGP daemon, and see that it listens on this address"
    } else if has("unreachable") || has("no route") {
        "This node has no way there: look at `ip route get ADDRESS` and at the link"
    } else if has("timed out") || has("hold timer") || has("never") {
        "Its packets do not come: look at the link, at a firewall on TCP port 179, at the password of both sides, and at the TTL (multihop, ttlSecurity)"
    } else if has("as number") || has("bad peer") || has("open") {
        "Both sides name each other: compare AS numbers and addresses"
    } else {
        "The peer's log tells its side"
    }
}

fn listeners(facts: &Facts) -> Vec<Finding> {
    let broken = facts.listeners.iter().filter_map(|listener| {
        let error = listener.error.as_ref()?;
        let address = &listener.address;
        let port = address.rsplit(':').next().unwrap_or("179");
        Some(BGP_LISTENER.failure(
            format!("BGP does not listen on {address}: {error}"),
            "another BGP daemon has the port, such as an earlier network's BIRD or an FRR on this host; peers that connect reach that one",
            format!("ss -Hltnp sport = :{port}"),
        ))
    });
    let count = facts.listeners.len();
    BGP_LISTENER.or_ok(broken.collect(), format!("listens on {count} addresses"))
}

fn restart(peers: &[PeerView]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for peer in peers.iter().filter(|peer| is_up(peer)) {
        let Some(session) = &peer.session else {
            continue;
        };
        let keeps = |said: &String| said.starts_with("graceful restart");
        if !session.capabilities.iter().any(keeps) {
            findings.push(BGP_RESTART.warning(
                format!("{} does not speak graceful restart", named(peer)),
                "when the agent restarts, this peer drops our routes at once, and pods are not reached until the session is back",
                "on the peer (FRR): vtysh -c 'configure terminal' -c 'router bgp' -c 'bgp graceful-restart'",
            ));
        }
    }
    BGP_RESTART.or_ok(findings, "every peer keeps our routes over a restart")
}

fn bfd(facts: &Facts, peers: &[PeerView]) -> Vec<Finding> {
    let place = match facts.bfd_apart {
        true => "in a process of its own (C bit 1): it outlives the agent",
        false => "in the agent (C bit 0): peers that heed the C bit keep routes over its restart",
    };
    let wanted: Vec<&PeerView> = peers.iter().filter(|peer| peer.bfd.is_some()).collect();
    let down = wanted
        .iter()
        .filter(|peer| peer.bfd.as_deref() != Some("Up"));
    let findings = down.map(|peer| {
        let address = peer.address.as_deref().unwrap_or_default();
        let host = address.parse().map_or_else(|_| address.to_owned(), |at: std::net::SocketAddr| at.ip().to_string());
        BFD.failure(
            format!("BFD with {} is not up; BFD runs {place}", named(peer)),
            "the peer does not speak BFD with this node (any more), or UDP ports 3784 (4784 over several hops) are filtered",
            format!("on the peer (FRR): vtysh -c 'show bfd peers'; here: tcpdump -ni any host {host} and udp portrange 3784-4784"),
        )
    });
    let count = wanted.len();
    BFD.or_ok(
        findings.collect(),
        match count {
            0 => "no peer wants it".to_owned(),
            _ => format!("up with {count} peers; it runs {place}"),
        },
    )
}

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict;
    use super::*;
    use crate::bgp::SessionView;

    fn peer() -> PeerView {
        PeerView {
            name: "tor".to_owned(),
            address: Some("10.0.0.1:179".to_owned()),
            state: "Established".to_owned(),
            session: Some(SessionView {
                capabilities: vec!["graceful restart (RFC 4724), Restart Time 120 s".to_owned()],
                ..SessionView::default()
            }),
            ..PeerView::default()
        }
    }

    fn judged(peer: PeerView) -> Vec<Finding> {
        let facts = Facts {
            peers: Ok(vec![peer]),
            listeners: Vec::new(),
            bfd_apart: false,
            told: silent_node::Told::default(),
        };
        judge(Some(&facts))
    }

    fn only_bad(peer: PeerView) -> Finding {
        Finding::only_bad(judged(peer))
    }

    #[test]
    fn a_session_that_is_down_says_why_and_one_held_down_how_to_let_it_go() {
        let verdicts: Vec<Verdict> = judged(peer()).iter().map(|f| f.verdict).collect();
        assert_eq!(verdicts, [Verdict::Ok; 5]);
        let down = PeerView {
            state: "Active".to_owned(),
            last_down: Some("connect: Connection refused".to_owned()),
            ..peer()
        };
        let found = only_bad(down.clone());
        assert!(
            found.cause.contains("start the peer's BGP daemon"),
            "{found:?}"
        );
        assert_eq!(found.remedy, "portolan bgp peer tor");
        let held = PeerView {
            held_down_seconds: Some(60),
            ..down.clone()
        };
        assert_eq!(only_bad(held).remedy, "portolan bgp reset tor");
        let shut = PeerView {
            shut_down: true,
            ..down
        };
        assert_eq!(only_bad(shut).verdict, Verdict::Warning);
    }

    #[test]
    fn a_peer_without_graceful_restart_is_a_warning_and_bfd_that_is_down_a_failure() {
        let mut without = peer();
        without.session = Some(SessionView::default());
        assert_eq!(only_bad(without).check, "bgp-graceful-restart");
        let mut with = peer();
        with.bfd = Some("Down".to_owned());
        let found = only_bad(with.clone());
        assert_eq!((found.check, found.verdict), ("bfd", Verdict::Failure));
        assert!(found.remedy.contains("host 10.0.0.1 "), "{}", found.remedy);
        with.bfd = Some("Up".to_owned());
        assert!(judged(with)[3].what.contains("C bit 0"));
    }

    #[test]
    fn without_an_agent_nothing_is_said_of_bgp() {
        assert!(judge(None).iter().all(|f| f.verdict == Verdict::Skipped));
    }
}
