//! Answers as tables for eyes.

use std::fmt::Write as _;

use super::view::{BgpAnswer, ExplainView, PathView, PeerView};
use crate::report::{columns, duration};

pub(crate) fn render(answer: &BgpAnswer) -> String {
    let mut out = String::new();
    match answer {
        BgpAnswer::Peers(peers) => render_peers(&mut out, peers),
        BgpAnswer::Peer(peer) => render_peer(&mut out, peer),
        BgpAnswer::Routes(routes) => {
            let paths: Vec<_> = routes.iter().flat_map(|route| &route.paths).collect();
            render_paths(&mut out, &paths);
        }
        BgpAnswer::Advertised(paths) | BgpAnswer::Received(paths) => {
            render_paths(&mut out, &paths.iter().collect::<Vec<_>>());
        }
        BgpAnswer::Explain(explanation) => render_explanation(&mut out, explanation),
        BgpAnswer::Done(text) => {
            // Writing to a String cannot fail; so below.
            let _ = writeln!(out, "{text}");
        }
    }
    out
}

fn render_peers(out: &mut String, peers: &[PeerView]) {
    if peers.is_empty() {
        out.push_str("no peers: a BGPPeer whose nodeSelector matches this node makes one\n");
        return;
    }
    let head = [
        "PEER",
        "ADDRESS",
        "AS",
        "STATE",
        "FOR",
        "ACCEPTED",
        "REJECTED",
        "STALE",
        "SENT",
        "BFD",
        "LAST DOWN",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for peer in peers {
        rows.push(vec![
            peer.name.clone(),
            or_dash(peer.address.clone()),
            or_dash(peer.as_number.map(|asn| asn.to_string())),
            if peer.shut_down {
                "shut down".to_owned()
            } else {
                peer.state.clone()
            },
            or_dash(peer.established_seconds.map(duration)),
            peer.prefixes_accepted.to_string(),
            peer.prefixes_rejected.to_string(),
            peer.prefixes_stale.to_string(),
            peer.prefixes_sent.to_string(),
            or_dash(peer.bfd.clone()),
            or_dash(peer.last_down.clone()),
        ]);
    }
    columns(out, &rows);
}

fn render_peer(out: &mut String, peer: &PeerView) {
    let mut row = |name: &str, value: String| {
        let _ = writeln!(out, "{name:<22} {value}");
    };
    row("peer", peer.name.clone());
    row("state", peer.state.clone());
    row("address", or_dash(peer.address.clone()));
    row("our address", or_dash(peer.local_address.clone()));
    row("AS", or_dash(peer.as_number.map(|asn| asn.to_string())));
    row("router ID", or_dash(peer.router_id.clone()));
    row(
        "established for",
        or_dash(peer.established_seconds.map(duration)),
    );
    row("went down", format!("{} times", peer.flaps));
    row("last down", or_dash(peer.last_down.clone()));
    row("BFD", or_dash(peer.bfd.clone()));
    row(
        "prefixes",
        format!(
            "{} received, {} accepted, {} rejected, {} stale, {} sent; at most {} of each family",
            peer.prefixes_received,
            peer.prefixes_accepted,
            peer.prefixes_rejected,
            peer.prefixes_stale,
            peer.prefixes_sent,
            peer.max_prefixes
        ),
    );
    row(
        "UPDATEs",
        format!(
            "{} received, {} sent",
            peer.updates_received, peer.updates_sent
        ),
    );
    if let Some(left) = peer.stale_seconds_left {
        row(
            "stale routes stay",
            format!("at most {} more", duration(left)),
        );
    }
    if let Some(left) = peer.held_down_seconds {
        row("tried again in", duration(left));
    }
    if let Some(session) = &peer.session {
        let kind = if session.external {
            "external"
        } else {
            "internal"
        };
        row("kind", kind.to_owned());
        row("HoldTime", format!("{} s", session.hold_seconds));
        row("KeepaliveTime", format!("{} s", session.keepalive_seconds));
        row("families", session.families.join(", "));
        for capability in &session.capabilities {
            row("agreed on", capability.clone());
        }
    }
}

fn render_paths(out: &mut String, paths: &[&PathView]) {
    if paths.is_empty() {
        out.push_str("no routes\n");
        return;
    }
    let head = [
        "",
        "PREFIX",
        "NEXT HOP",
        "PEER",
        "LOCAL PREF",
        "MED",
        "AS PATH",
        "NOTES",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(paths.iter().map(|path| row_of(path)));
    columns(out, &rows);
}

fn row_of(path: &PathView) -> Vec<String> {
    let mark = match (path.best, path.multipath) {
        (true, _) => ">",
        (false, true) => "=",
        _ => "",
    };
    let attributes = &path.attributes;
    let mut notes: Vec<String> = Vec::new();
    notes.extend(path.problem.clone());
    if path.stale {
        notes.push("stale".to_owned());
    }
    if path.path_id != 0 {
        notes.push(format!("path {}", path.path_id));
    }
    notes.extend(attributes.communities.clone());
    notes.extend(attributes.large_communities.clone());
    vec![
        mark.to_owned(),
        path.prefix.to_string(),
        attributes.next_hop.clone(),
        path.peer.clone().unwrap_or_else(|| "this node".to_owned()),
        or_dash(attributes.local_pref.map(|value| value.to_string())),
        or_dash(attributes.med.map(|value| value.to_string())),
        format!("{} {}", attributes.as_path, attributes.origin)
            .trim()
            .to_owned(),
        notes.join(", "),
    ]
}

fn render_explanation(out: &mut String, told: &ExplainView) {
    let _ = writeln!(out, "{}", told.prefix);
    if told.paths.is_empty() {
        out.push_str("  nobody announces it, and neither does this node\n");
    }
    for path in &told.paths {
        let peer = path.path.peer.as_deref().unwrap_or("this node");
        let attributes = &path.path.attributes;
        let _ = writeln!(out, "  from {peer}, next hop {}:", attributes.next_hop);
        let _ = writeln!(out, "    {}", path.outcome);
    }
    for sent in &told.sent {
        let verb = if sent.sent { "sent to" } else { "not sent to" };
        let _ = writeln!(out, "  {verb} {}: {}", sent.peer, sent.reason);
    }
}

fn or_dash(value: Option<String>) -> String {
    value.unwrap_or_else(|| "-".to_owned())
}

#[cfg(test)]
mod tests;
