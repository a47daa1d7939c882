//! The questions of `portolan bgp` and their answers, as they go over the agent's socket and as `-o json` prints them.

use std::time::Duration;

use bgp_proto::rib::{
    Explanation, Export, PathExplanation, PathView as RibPath, Refusal, RouteView as RibRoute,
    Step, Verdict,
};
use bgp_proto::speaker::{Advertised, PeerStatus, Received};
use bgp_proto::wire::{AsPathSegment, Nlri, PathAttributes, SegmentKind};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// What can be asked of the speaker.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "camelCase")]
pub(crate) enum BgpQuestion {
    Peers,
    Peer { name: String },
    Routes { within: Option<IpNet>, limit: usize },
    Advertised { peer: String, limit: usize },
    Received { peer: String, limit: usize },
    Explain { prefix: IpNet },
    Refresh { peer: String },
    Reset { peer: String, message: String },
}

/// What is answered.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum BgpAnswer {
    Peers(Vec<PeerView>),
    Peer(Box<PeerView>),
    Routes(Vec<RouteView>),
    Advertised(Vec<PathView>),
    Received(Vec<PathView>),
    Explain(ExplainView),
    Done(String),
}

impl BgpAnswer {
    /// What `-o json` prints: the content alone.
    ///
    /// # Errors
    /// None that these types have.
    pub(crate) fn json(&self) -> serde_json::Result<String> {
        match self {
            Self::Peers(peers) => serde_json::to_string_pretty(peers),
            Self::Peer(peer) => serde_json::to_string_pretty(peer),
            Self::Routes(routes) => serde_json::to_string_pretty(routes),
            Self::Advertised(paths) | Self::Received(paths) => serde_json::to_string_pretty(paths),
            Self::Explain(explanation) => serde_json::to_string_pretty(explanation),
            Self::Done(text) => serde_json::to_string_pretty(&serde_json::json!({ "done": text })),
        }
    }
}

/// One session.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PeerView {
    pub(crate) name: String,
    pub(crate) address: Option<String>,
    pub(crate) local_address: Option<String>,
    pub(crate) as_number: Option<u32>,
    #[serde(rename = "routerID")]
    pub(crate) router_id: Option<String>,
    /// The state of RFC 4271 §8.2.2.
    pub(crate) state: String,
    pub(crate) established_seconds: Option<u64>,
    pub(crate) flaps: u64,
    pub(crate) last_down: Option<String>,
    pub(crate) last_down_seconds_ago: Option<u64>,
    /// Announced by the peer: accepted and rejected ones.
    pub(crate) prefixes_received: usize,
    pub(crate) prefixes_accepted: usize,
    pub(crate) prefixes_rejected: usize,
    pub(crate) prefixes_stale: usize,
    pub(crate) prefixes_sent: usize,
    pub(crate) max_prefixes: u32,
    pub(crate) updates_received: u64,
    pub(crate) updates_sent: u64,
    pub(crate) bfd: Option<String>,
    pub(crate) shut_down: bool,
    pub(crate) stale_seconds_left: Option<u64>,
    pub(crate) held_down_seconds: Option<u64>,
    pub(crate) session: Option<SessionView>,
}

/// What the OPENs agreed on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SessionView {
    pub(crate) external: bool,
    pub(crate) hold_seconds: u64,
    pub(crate) keepalive_seconds: u64,
    /// For how long after the hold time the peer keeps our routes, as a silent node may be one that restarts (RFC 8538).
    #[serde(default)]
    pub(crate) kept_when_silent_seconds: u64,
    pub(crate) families: Vec<String>,
    pub(crate) capabilities: Vec<String>,
}

/// One prefix with its paths.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RouteView {
    pub(crate) prefix: IpNet,
    pub(crate) paths: Vec<PathView>,
}

/// One path.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PathView {
    pub(crate) prefix: IpNet,
    #[serde(rename = "pathID")]
    pub(crate) path_id: u32,
    /// Who announced it; absent: this node.
    pub(crate) peer: Option<String>,
    pub(crate) best: bool,
    /// Used beside the best.
    pub(crate) multipath: bool,
    pub(crate) stale: bool,
    /// Why it is not used, if it isn't.
    pub(crate) problem: Option<String>,
    #[serde(flatten)]
    pub(crate) attributes: AttributesView,
}

/// Path attributes in the words people use.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AttributesView {
    pub(crate) next_hop: String,
    pub(crate) as_path: String,
    pub(crate) origin: String,
    pub(crate) local_pref: Option<u32>,
    pub(crate) med: Option<u32>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) communities: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) large_communities: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) extended_communities: Vec<String>,
    #[serde(rename = "originatorID", skip_serializing_if = "Option::is_none")]
    pub(crate) originator_id: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) cluster_list: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) only_to_customer: Option<u32>,
}

/// Why a prefix goes the way it goes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ExplainView {
    pub(crate) prefix: IpNet,
    pub(crate) paths: Vec<ExplainedPath>,
    pub(crate) sent: Vec<SentView>,
}

/// A path and what became of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ExplainedPath {
    #[serde(flatten)]
    pub(crate) path: PathView,
    /// In words: that it won, at which step it lost and to whom, or what rejected it.
    pub(crate) outcome: String,
}

/// Whether a peer is told of the best path.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SentView {
    pub(crate) peer: String,
    pub(crate) sent: bool,
    /// Why, or why not.
    pub(crate) reason: String,
}

pub(crate) fn peer(status: &PeerStatus) -> PeerView {
    let (last_down, ago) = match &status.last_down {
        Some((why, ago)) => (Some(why.clone()), *ago),
        None => (None, None),
    };
    PeerView {
        name: status.name.clone(),
        address: status.address.map(|address| address.to_string()),
        local_address: status.local_address.map(|address| address.to_string()),
        as_number: status.asn.map(|asn| asn.0),
        router_id: status.router_id.map(|id| id.to_string()),
        state: status.state.name().to_owned(),
        established_seconds: status.established_for.map(|time| time.as_secs()),
        flaps: status.flaps,
        last_down,
        last_down_seconds_ago: ago.map(|time| time.as_secs()),
        prefixes_received: status.counts.accepted + status.counts.rejected,
        prefixes_accepted: status.counts.accepted,
        prefixes_rejected: status.counts.rejected,
        prefixes_stale: status.counts.stale,
        prefixes_sent: status.counts.sent,
        max_prefixes: status.max_prefixes,
        updates_received: status.updates.0,
        updates_sent: status.updates.1,
        bfd: status
            .bfd_up
            .map(|up| if up { "Up" } else { "Down" }.to_owned()),
        shut_down: status.shut_down,
        stale_seconds_left: status.stale_for.map(|time| time.as_secs()),
        held_down_seconds: status.held_down_for.map(|time| time.as_secs()),
        session: status
            .negotiated
            .as_ref()
            .map(|agreed| session(agreed, status.kept_when_silent)),
    }
}

fn session(agreed: &bgp_proto::session::Negotiated, kept_when_silent: Duration) -> SessionView {
    let context = &agreed.context;
    let restart = agreed.peer_graceful_restart.as_ref();
    let said: [(bool, String); 9] = [
        (context.four_byte_as, "four-byte AS (RFC 6793)".to_owned()),
        (agreed.route_refresh, "route refresh (RFC 2918)".to_owned()),
        (
            agreed.enhanced_refresh,
            "enhanced route refresh (RFC 7313)".to_owned(),
        ),
        (
            context.extended_messages,
            "extended messages (RFC 8654)".to_owned(),
        ),
        (
            !context.extended_next_hop.is_empty(),
            "IPv6 next hops for IPv4 (RFC 8950)".to_owned(),
        ),
        (
            !context.add_path_receive.is_empty(),
            "several paths received (RFC 7911)".to_owned(),
        ),
        (
            !context.add_path_send.is_empty(),
            "several paths sent (RFC 7911)".to_owned(),
        ),
        (
            restart.is_some(),
            format!(
                "graceful restart (RFC 4724), Restart Time {} s",
                restart.map_or(0, |said| said.restart_time)
            ),
        ),
        (
            agreed.long_lived_peer,
            "long-lived graceful restart (RFC 9494)".to_owned(),
        ),
    ];
    let roles = agreed
        .role
        .zip(agreed.peer_role)
        .map(|(own, other)| format!("role {own:?} towards {other:?} (RFC 9234)"));
    SessionView {
        external: agreed.external,
        hold_seconds: agreed.hold_time.as_secs(),
        keepalive_seconds: agreed.keepalive_time.as_secs(),
        kept_when_silent_seconds: kept_when_silent.as_secs(),
        families: context.families.iter().map(ToString::to_string).collect(),
        capabilities: said
            .into_iter()
            .filter_map(|(there, text)| there.then_some(text))
            .chain(roles)
            .collect(),
    }
}

pub(crate) fn route(route: &RibRoute) -> RouteView {
    RouteView {
        prefix: route.prefix,
        paths: route
            .paths
            .iter()
            .map(|held| path(route.prefix, held))
            .collect(),
    }
}

fn path(prefix: IpNet, held: &RibPath) -> PathView {
    PathView {
        prefix,
        path_id: held.path_id,
        peer: held.peer.as_ref().map(ToString::to_string),
        best: held.best,
        multipath: held.multipath && !held.best,
        stale: held.stale,
        problem: problem(held.verdict, held.reachable),
        attributes: attributes(&held.attributes),
    }
}

pub(crate) fn received((nlri, held, verdict): &Received) -> PathView {
    PathView {
        problem: problem(*verdict, true),
        ..announced(nlri, held)
    }
}

pub(crate) fn advertised((nlri, told): &Advertised) -> PathView {
    announced(nlri, told)
}

fn announced(nlri: &Nlri, held: &PathAttributes) -> PathView {
    PathView {
        prefix: nlri.prefix,
        path_id: nlri.path_id,
        peer: None,
        best: false,
        multipath: false,
        stale: false,
        problem: None,
        attributes: attributes(held),
    }
}

/// Why a path is not used, in words; `None`: it may be.
fn problem(verdict: Verdict, reachable: bool) -> Option<String> {
    let text = match verdict {
        Verdict::Accepted if reachable => return None,
        Verdict::Accepted => "its next hop cannot be reached",
        Verdict::Filtered => "a filter rejects it",
        Verdict::SafeDefault => {
            "an external peer may not announce it: a default route, or part of this node's own Pod CIDRs; a filter can accept it"
        }
        Verdict::AsLoop => "our own AS is in its AS path (allowASIn)",
        Verdict::ReflectionLoop => "we reflected or originated it ourselves",
        Verdict::NextHop => "its next hop is ourselves, or nobody's",
        Verdict::FirstAs => "its AS path does not begin with the peer's AS",
        Verdict::RouteLeak => "the peer's role does not let it announce this (RFC 9234)",
    };
    Some(text.to_owned())
}

pub(crate) fn explanation(told: &Explanation) -> ExplainView {
    let explained = |held: &PathExplanation| ExplainedPath {
        path: path(told.prefix, &held.path),
        outcome: outcome(held),
    };
    ExplainView {
        prefix: told.prefix,
        paths: told.paths.iter().map(explained).collect(),
        sent: told.exports.iter().map(sent).collect(),
    }
}

fn outcome(held: &PathExplanation) -> String {
    let rule = held.rule.as_deref();
    let by_rule = rule.map_or_else(String::new, |rule| format!(" ({rule})"));
    if let Some(problem) = problem(held.path.verdict, held.path.reachable) {
        return format!("not used: {problem}{by_rule}");
    }
    if held.path.best {
        return format!("best{by_rule}");
    }
    let beside = if held.path.multipath {
        "used beside the best; "
    } else {
        ""
    };
    match &held.lost {
        Some(lost) => format!(
            "{beside}lost to {} at {}: {} against {}{by_rule}",
            lost.to.as_deref().unwrap_or("this node's own"),
            step(lost.step),
            lost.value,
            lost.better,
        ),
        None => format!("{beside}not the best{by_rule}"),
    }
}

/// The step of the decision process (RFC 4271 §9.1.2.2) as people call it.
fn step(step: Step) -> &'static str {
    match step {
        Step::LongLivedStale => "long-lived stale routes come last",
        Step::Originated => "what is originated here comes first",
        Step::LocalPref => "the higher local preference",
        Step::AsPathLength => "the shorter AS path",
        Step::Origin => "the lower origin",
        Step::Med => "the lower MED of one neighbour AS",
        Step::External => "external before internal",
        Step::IgpCost => "the lower cost to the next hop",
        Step::RouterId => "the lower router ID",
        Step::ClusterListLength => "the shorter cluster list",
        Step::PeerAddress => "the lower peer address",
        Step::PathId => "the lower path ID",
    }
}

fn sent(held: &Export) -> SentView {
    let reason = match &held.refusal {
        None => "the best path".to_owned(),
        Some(refusal) => {
            let rule = held.rule.as_deref();
            let rule = rule.map_or_else(String::new, |rule| format!(" ({rule})"));
            format!("{}{rule}", why_not(*refusal))
        }
    };
    SentView {
        peer: held.peer.to_string(),
        sent: held.refusal.is_none(),
        reason,
    }
}

fn why_not(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::Family => "the session does not carry its address family",
        Refusal::NoTransit => {
            "it was learned, and a node is no transit: an export filter can accept it"
        }
        Refusal::Internal => {
            "it was learned from an internal peer, and neither is a route reflector client"
        }
        Refusal::Community => "its communities say so (no-export, no-advertise)",
        Refusal::Filter(_) => "an export filter rejects it",
        Refusal::RouteLeak => "the roles say so (RFC 9234)",
        Refusal::LongLivedStale => "it is long-lived stale, and the peer knows nothing of that",
        Refusal::NextHop => "there is no next hop that the session can carry",
        Refusal::FromThere => "it came from there",
        Refusal::Held => "learned routes wait until the restart is over",
        Refusal::Down => "the session is not up",
    }
}

fn attributes(held: &PathAttributes) -> AttributesView {
    let community = |value: &u32| match value {
        0xffff_0000 => "graceful-shutdown".to_owned(),
        0xffff_0006 => "llgr-stale".to_owned(),
        0xffff_0007 => "no-llgr".to_owned(),
        0xffff_ff01 => "no-export".to_owned(),
        0xffff_ff02 => "no-advertise".to_owned(),
        0xffff_ff03 => "no-export-subconfed".to_owned(),
        value => format!("{}:{}", value >> 16, value & 0xffff),
    };
    let large = held.large_communities.iter();
    AttributesView {
        next_hop: match held.link_local_next_hop {
            Some(link_local) if held.next_hop != std::net::IpAddr::V6(link_local) => {
                format!("{} {link_local}", held.next_hop)
            }
            _ => held.next_hop.to_string(),
        },
        as_path: as_path(&held.as_path),
        origin: format!("{:?}", held.origin).to_uppercase(),
        local_pref: held.local_pref,
        med: held.med,
        communities: held.communities.iter().map(community).collect(),
        large_communities: large
            .map(|large| format!("{}:{}:{}", large.global, large.local1, large.local2))
            .collect(),
        extended_communities: held
            .extended_communities
            .iter()
            .map(|value| format!("{value:#018x}"))
            .collect(),
        originator_id: held.originator_id.map(|id| id.to_string()),
        cluster_list: held.cluster_list.iter().map(ToString::to_string).collect(),
        only_to_customer: held.only_to_customer.map(|asn| asn.0),
    }
}

/// Sets in braces, confederation segments in brackets, as in every router.
fn as_path(path: &[AsPathSegment]) -> String {
    let segment = |segment: &AsPathSegment| {
        let asns: Vec<_> = segment.asns.iter().map(|asn| asn.0.to_string()).collect();
        match segment.kind {
            SegmentKind::Sequence => asns.join(" "),
            SegmentKind::Set => format!("{{{}}}", asns.join(",")),
            SegmentKind::ConfedSequence => format!("({})", asns.join(" ")),
            SegmentKind::ConfedSet => format!("[{}]", asns.join(",")),
        }
    };
    path.iter().map(segment).collect::<Vec<_>>().join(" ")
}
