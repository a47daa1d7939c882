//! From sessions and configuration to a BGPNodeStatus; pure, but for remembering since when things are as they are.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use api::crd::{BgpNodeStatusStatus, FamilyCounts, NodeSession, PeerConditions, PrefixCounts};
use bgp_proto::session::State;
use bgp_proto::speaker::PeerStatus;
use bgp_proto::wire::Family;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;

use super::Configured;

/// Remembers since when.
#[derive(Debug, Default)]
pub(super) struct Composer {
    /// By session: whether it is Established, and since when.
    sessions: BTreeMap<String, (bool, SystemTime)>,
    /// By BGPPeer, and by the empty name for the node: what its condition says, and since when its status is so.
    conditions: BTreeMap<String, (bool, SystemTime)>,
}

impl Composer {
    pub(super) fn compose(
        &mut self,
        configured: &Configured,
        peers: &[PeerStatus],
        now: SystemTime,
    ) -> BgpNodeStatusStatus {
        self.sessions
            .retain(|name, _| peers.iter().any(|peer| peer.name == *name));
        let sessions: Vec<NodeSession> = peers.iter().map(|peer| self.session(peer, now)).collect();
        let up = peers.iter().filter(|peer| is_up(peer)).count();
        let known = |name: &String| {
            name.is_empty()
                || configured.accepted.contains(name)
                || configured.refused.contains_key(name)
        };
        self.conditions.retain(|name, _| known(name));
        BgpNodeStatusStatus {
            last_updated: Some(time(now)),
            as_number: Some(configured.as_number),
            router_id: configured.router_id.map(|id| id.to_string()),
            established: number(up),
            configured: number(peers.len()),
            sessions,
            peers: self.peers(configured, now),
            conditions: vec![self.established(peers, up, now)],
            // Written by itself, whether there is BGP or not.
            wire_guard: None,
        }
    }

    fn session(&mut self, peer: &PeerStatus, now: SystemTime) -> NodeSession {
        let up = is_up(peer);
        let ago = match (up, &peer.last_down) {
            (true, _) => peer.established_for,
            (false, Some((_, ago))) => *ago,
            (false, None) => None,
        };
        let since = self
            .sessions
            .get(&peer.name)
            .filter(|(was_up, _)| *was_up == up)
            .map_or_else(|| now - ago.unwrap_or(Duration::ZERO), |(_, since)| *since);
        self.sessions.insert(peer.name.clone(), (up, since));
        let counts = &peer.counts;
        NodeSession {
            name: peer.name.clone(),
            address: peer
                .address
                .map_or_else(String::new, |address| address.to_string()),
            as_number: peer.asn.map(|asn| asn.0),
            state: peer.state.name().to_owned(),
            since: Some(time(since)),
            down_reason: peer.last_down.as_ref().map(|(why, _)| why.clone()),
            bfd: peer
                .bfd_up
                .map(|up| if up { "Up" } else { "Down" }.to_owned()),
            prefixes: PrefixCounts {
                accepted: number(counts.accepted),
                rejected: number(counts.rejected),
                stale: number(counts.stale),
                sent: number(counts.sent),
            },
            families: counts
                .by_family
                .iter()
                .map(|(family, received)| FamilyCounts {
                    family: family_name(*family),
                    received: number(*received),
                })
                .collect(),
        }
    }

    fn peers(&mut self, configured: &Configured, now: SystemTime) -> Vec<PeerConditions> {
        let accepted = configured.accepted.iter().map(|name| (name, None));
        let refused = configured.refused.iter();
        let refused = refused.map(|(name, why)| (name, Some(why)));
        let all: BTreeMap<&String, Option<&String>> = accepted.chain(refused).collect();
        all.into_iter()
            .map(|(name, refusal)| {
                let (reason, message) = match refusal {
                    None => ("Valid", "it makes its sessions on this node".to_owned()),
                    Some(why) => ("Refused", why.clone()),
                };
                let said = (refusal.is_none(), reason, message);
                PeerConditions {
                    name: name.clone(),
                    conditions: vec![self.condition("Accepted", name, said, now)],
                }
            })
            .collect()
    }

    /// Whether all sessions are up that are to be.
    fn established(&mut self, peers: &[PeerStatus], up: usize, now: SystemTime) -> Condition {
        let down: Vec<&str> = peers
            .iter()
            .filter(|peer| !is_up(peer) && !peer.shut_down)
            .map(|peer| peer.name.as_str())
            .collect();
        let said = if down.is_empty() {
            let message = format!("{up} sessions are Established");
            (true, "AllEstablished", message)
        } else {
            let named = down.iter().take(8).copied().collect::<Vec<_>>().join(", ");
            let more = match down.len().saturating_sub(8) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            (
                false,
                "SessionsDown",
                format!("not Established: {named}{more}"),
            )
        };
        self.condition("Established", "", said, now)
    }

    fn condition(
        &mut self,
        kind: &str,
        key: &str,
        (holds, reason, message): (bool, &str, String),
        now: SystemTime,
    ) -> Condition {
        let since = self
            .conditions
            .get(key)
            .filter(|(held, _)| *held == holds)
            .map_or(now, |(_, since)| *since);
        self.conditions.insert(key.to_owned(), (holds, since));
        Condition {
            type_: kind.to_owned(),
            status: if holds { "True" } else { "False" }.to_owned(),
            reason: reason.to_owned(),
            message,
            last_transition_time: time(since),
            observed_generation: None,
        }
    }
}

/// What a change of which is worth a write: states and reasons, no counts, and no steps between two tries.
pub(super) fn essence(status: &BgpNodeStatusStatus) -> BgpNodeStatusStatus {
    let mut essence = status.clone();
    essence.last_updated = None;
    for session in &mut essence.sessions {
        if session.state != State::Established.name() {
            session.state = String::new();
        }
        session.prefixes = PrefixCounts::default();
        session.families.clear();
    }
    essence
}

/// The counts alone.
pub(super) fn counts(status: &BgpNodeStatusStatus) -> Vec<(&PrefixCounts, &[FamilyCounts])> {
    let sessions = status.sessions.iter();
    sessions
        .map(|session| (&session.prefixes, session.families.as_slice()))
        .collect()
}

fn is_up(peer: &PeerStatus) -> bool {
    peer.state == State::Established
}

fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn family_name(family: Family) -> String {
    match family {
        Family::IPV4_UNICAST => "IPv4".to_owned(),
        Family::IPV6_UNICAST => "IPv6".to_owned(),
        other => other.to_string(),
    }
}

/// Whole seconds, as Kubernetes writes them.
pub(crate) fn time(at: SystemTime) -> Time {
    let seconds = at
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
    Time(Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX))
}
