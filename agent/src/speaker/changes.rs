//! What a new configuration of the speaker changes, as lines of the log.

use std::collections::BTreeMap;

use bgp_speaker::{Config, Peer};

use super::Compiled;

/// So many lines of one change are told; more are counted.
const LINES: usize = 16;

/// What differs, in words for people; nothing that is secret. `None` before: the speaker starts.
pub(crate) fn changes(before: Option<&Compiled>, now: &Compiled) -> Vec<String> {
    let mut lines = Vec::new();
    match before {
        Some(before) => {
            speaker_lines(&before.config, &now.config, &mut lines);
            peer_lines(&before.config.peers, &now.config.peers, &mut lines);
        }
        None => {
            let speaker = &now.config.speaker;
            let (asn, peers) = (speaker.asn.0, now.config.peers.len());
            lines.push(format!(
                "the speaker starts: AS {asn}, router ID {}, {peers} peers, {} prefixes of its own",
                speaker.router_id,
                now.config.originate.len()
            ));
        }
    }
    for peer in before.iter().flat_map(|before| before.refused.keys()) {
        if now.accepted.contains(peer) {
            lines.push(format!("BGPPeer {peer} is accepted now"));
        }
    }
    bounded(lines)
}

/// BGPPeers that make no session, where that is news or has another reason now.
pub(crate) fn refusals(before: Option<&Compiled>, now: &Compiled) -> Vec<String> {
    let told = |peer: &String, why: &String| {
        before.is_some_and(|before| before.refused.get(peer) == Some(why))
    };
    let news = now.refused.iter().filter(|(peer, why)| !told(peer, why));
    let lines = news.map(|(peer, why)| format!("BGPPeer {peer} makes no session: {why}"));
    bounded(lines.collect())
}

fn bounded(mut lines: Vec<String>) -> Vec<String> {
    if lines.len() > LINES {
        let more = lines.len() - LINES;
        lines.truncate(LINES);
        lines.push(format!("and {more} changes more"));
    }
    lines
}

fn speaker_lines(before: &Config, now: &Config, lines: &mut Vec<String>) {
    if before.speaker != now.speaker {
        let (old, new) = (&before.speaker, &now.speaker);
        lines.push(format!(
            "the speaker is another: AS {} and router ID {} became AS {} and router ID {}",
            old.asn.0, old.router_id, new.asn.0, new.router_id
        ));
    }
    if before.listen != now.listen {
        lines.push(format!("listening on {:?} from now on", now.listen));
    }
    if before.draining != now.draining {
        lines.push(if now.draining {
            "the node drains: what it announces bears GRACEFUL_SHUTDOWN (RFC 8326)".to_owned()
        } else {
            "the node drains no longer".to_owned()
        });
    }
    for prefix in now.originate.keys() {
        if !before.originate.contains_key(prefix) {
            lines.push(format!("{prefix} is announced from now on"));
        }
    }
    for prefix in before.originate.keys() {
        if !now.originate.contains_key(prefix) {
            lines.push(format!("{prefix} is withdrawn"));
        }
    }
}

fn peer_lines(
    before: &BTreeMap<String, Peer>,
    now: &BTreeMap<String, Peer>,
    lines: &mut Vec<String>,
) {
    for (name, peer) in now {
        match before.get(name) {
            None => lines.push(format!("peer {name} is new")),
            Some(former) if former != peer => lines.push(peer_line(name, former, peer)),
            Some(_) => {}
        }
    }
    for name in before.keys() {
        if !now.contains_key(name) {
            lines.push(format!("peer {name} is removed"));
        }
    }
}

fn peer_line(name: &str, before: &Peer, now: &Peer) -> String {
    let (old, new) = (&before.session, &now.session);
    let filters: Vec<&str> = [
        (old.import != new.import, "import"),
        (old.export != new.export, "export"),
    ]
    .into_iter()
    .filter_map(|(differs, name)| differs.then_some(name))
    .collect();
    let mut rest = now.clone();
    rest.session.import = old.import.clone();
    rest.session.export = old.export.clone();
    match (filters.is_empty(), rest == *before) {
        (false, true) => {
            let filters = filters.join(" and ");
            format!("peer {name}: {filters} filters changed; its session stays")
        }
        (false, false) => format!(
            "peer {name}: {} filters and more changed",
            filters.join(" and ")
        ),
        (true, _) => format!("peer {name} changed"),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use bgp_proto::filter::{Action, FilterChain, Match, Rule};
    use bgp_proto::rib::Originated;
    use bgp_proto::session::PeerAs;
    use bgp_proto::wire::Asn;

    use super::*;

    fn compiled(change: impl FnOnce(&mut Compiled)) -> Compiled {
        let mut config = Config::new(Asn(64_512), Ipv4Addr::new(10, 0, 0, 1));
        let address: SocketAddr = "10.0.0.254:179".parse().unwrap();
        config
            .peers
            .insert("tor".to_owned(), Peer::at(address, PeerAs::External, None));
        let mut compiled = Compiled {
            config,
            accepted: ["tor".to_owned()].into(),
            refused: BTreeMap::new(),
        };
        change(&mut compiled);
        compiled
    }

    fn session(compiled: &mut Compiled) -> &mut bgp_proto::speaker::PeerConfig {
        &mut compiled.config.peers.get_mut("tor").unwrap().session
    }

    fn told(change: impl FnOnce(&mut Compiled)) -> Vec<String> {
        changes(Some(&compiled(|_| {})), &compiled(change))
    }

    #[test]
    fn each_kind_of_change_is_one_line_and_no_change_is_none() {
        assert_eq!(told(|_| {}), [""; 0]);
        let rule = Rule {
            matches: Match::default(),
            action: Action::Reject,
        };
        let reject = FilterChain::new([("edge", vec![rule])]);
        assert_eq!(
            told(|now| session(now).import = reject.clone()),
            ["peer tor: import filters changed; its session stays"]
        );
        assert_eq!(
            told(|now| {
                session(now).export = reject;
                session(now).passive = true;
            }),
            ["peer tor: export filters and more changed"]
        );
        assert_eq!(
            told(|now| now.config.peers.clear()),
            ["peer tor is removed"]
        );
        let cidr: ipnet::IpNet = "10.244.1.0/24".parse().unwrap();
        assert_eq!(
            told(|now| drop(now.config.originate.insert(cidr, Originated::default()))),
            ["10.244.1.0/24 is announced from now on"]
        );
        assert_eq!(
            told(|now| now.config.draining = true),
            ["the node drains: what it announces bears GRACEFUL_SHUTDOWN (RFC 8326)"]
        );
    }

    #[test]
    fn a_refused_peer_is_told_once_and_again_when_it_is_accepted() {
        let refused = compiled(|now| {
            now.refused.insert("tor".to_owned(), "no Secret".to_owned());
            now.accepted.clear();
        });
        let good = compiled(|_| {});
        let line = ["BGPPeer tor makes no session: no Secret"];
        assert_eq!(refusals(Some(&good), &refused), line);
        assert_eq!(refusals(None, &refused), line);
        assert_eq!(refusals(Some(&refused), &refused), [""; 0]);
        assert_eq!(
            changes(Some(&refused), &good),
            ["BGPPeer tor is accepted now"]
        );
    }

    #[test]
    fn a_flood_of_changes_is_counted() {
        let told = told(|now| {
            let peer = now.config.peers["tor"].clone();
            for number in 0..100 {
                now.config.peers.insert(format!("p{number}"), peer.clone());
            }
        });
        assert_eq!(told.len(), LINES + 1);
        assert_eq!(told[LINES], "and 84 changes more");
    }
}
