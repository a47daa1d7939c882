//! Import: what may be used of what a peer announced. Nothing is thrown away: a changed rule judges again without a reset.

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::engine::RibConfig;
use super::peers::{PeerInfo, PeerPolicy};
use crate::wire::PathAttributes;

/// What becomes of an announced path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It takes part in the decision.
    Accepted,
    /// An import rule rejects it.
    Rejected,
    /// It is a loop or points at ourselves (RFC 4271 §9.1.2, §5.1.3; RFC 4456 §8).
    Unusable,
}

pub(super) fn judge(
    config: &RibConfig,
    peer: &PeerInfo,
    policy: &PeerPolicy,
    prefix: &IpNet,
    attributes: &PathAttributes,
) -> Verdict {
    if is_loop(config, attributes) || points_at_us(peer, attributes) {
        return Verdict::Unusable;
    }
    let external = peer.asn != config.asn;
    if external && (prefix.prefix_len() == 0 || is_inside(&policy.import_reject, prefix)) {
        return Verdict::Rejected;
    }
    Verdict::Accepted
}

fn is_loop(config: &RibConfig, attributes: &PathAttributes) -> bool {
    attributes.originator_id == Some(config.router_id)
        || attributes
            .as_path
            .iter()
            .any(|segment| segment.asns.contains(&config.asn))
}

fn points_at_us(peer: &PeerInfo, attributes: &PathAttributes) -> bool {
    let next_hop = attributes.next_hop;
    next_hop == peer.local_address || next_hop.is_unspecified() || next_hop.is_multicast()
}

fn is_inside(rejected: &BTreeSet<IpNet>, prefix: &IpNet) -> bool {
    rejected.iter().any(|net| net.contains(prefix))
}
