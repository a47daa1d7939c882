//! What became of a peer, as lines of the log: what changed, and why.

use bgp_proto::speaker::PeerEvent;

pub(crate) fn peer_event(peer: &str, event: &PeerEvent) {
    match event {
        PeerEvent::Established { asn, families } => {
            let families: Vec<_> = families.iter().map(ToString::to_string).collect();
            tracing::info!(
                peer,
                asn = asn.0,
                families = families.join(","),
                "session established"
            );
        }
        PeerEvent::Down { reason, retained } => {
            tracing::info!(peer, %reason, routes_kept = retained, "session down");
        }
        PeerEvent::StaleRoutesRemoved { count } => {
            tracing::info!(
                peer,
                count,
                "stale routes removed: the peer did not announce them again in time"
            );
        }
        PeerEvent::LongLivedStale { family } => {
            tracing::info!(peer, %family, "stale routes kept as long-lived ones");
        }
        PeerEvent::Malformed(error) => tracing::warn!(peer, %error, "malformed attribute"),
        PeerEvent::ManyPrefixes {
            family,
            held,
            limit,
        } => tracing::warn!(peer, %family, held, limit, "the bound on prefixes is near"),
        PeerEvent::TooManyPrefixes { limit } => {
            tracing::warn!(peer, limit, "too many prefixes: session ended");
        }
        PeerEvent::BfdDown => tracing::warn!(peer, "BFD: the path to the peer is gone"),
        PeerEvent::BfdUp => tracing::info!(peer, "BFD: the path to the peer is there"),
        PeerEvent::RangeFull { address } => {
            tracing::warn!(range = peer, %address, "connection refused: the range has as many peers as it may have");
        }
    }
}
