//! `portolan ipam check`: attachments, links, routes and files that nothing explains, each with what to do about it.

use std::net::IpAddr;
use std::time::Instant;

use ::ipam::{Finding, Holder, Lease, Scene};
use routes::{LINK_PREFIX, SHAPER_PREFIX};

use super::state::{IpamState, Seen};
use super::view::{CheckView, FindingView};
use crate::attachments::host_interface;

/// What the agent does by itself.
const LEASE_LOST: &str = "its lease was lost: put the state folder back, or, if no pod uses it";
const BY_ITSELF: &str = "the agent takes it back once it has been so for --reclaim-after";

/// Compares all with all.
pub(super) fn check(state: &IpamState, seen: &Seen, now: Instant) -> CheckView {
    let absent = seen.absent_for(now);
    let scene = Scene {
        links: &seen.host_ends,
        link_of: &host_interface,
        absent: &absent,
        pods: state.in_sync.then_some(&state.pods),
        delegated: &state.delegated,
    };
    let found = state.ipam.findings(&scene).into_iter();
    let mut findings: Vec<FindingView> = found
        .filter_map(|finding| told(state, seen, finding))
        .collect();
    findings.extend(held_elsewhere(state));
    findings.extend(seen.pending.iter().map(|container| FindingView {
        kind: "pendingDeletion".to_owned(),
        is_leak: false,
        text: format!("a deletion of container {container} waits on disk"),
        advice: "the agent looks for them every two seconds: its log says why one fails".to_owned(),
    }));
    findings.extend(shapers(seen));
    findings.extend(routes_of_nobody(state, seen));
    // Leaks first, in the order in which they were found.
    findings.sort_by_key(|finding| !finding.is_leak);
    CheckView {
        attachments: state.ipam.leases().count(),
        host_ends: seen.host_ends.len(),
        findings,
    }
}

/// A finding of the allocator's in words; none for an attachment that is being made.
fn told(state: &IpamState, seen: &Seen, finding: Finding) -> Option<FindingView> {
    let who = |holder: &Holder| described(state, holder);
    let (kind, is_leak, text, advice) = match finding {
        Finding::LinkGone { holder, absent } => {
            if seen.busy.contains(&holder) {
                return None;
            }
            let (end, seconds) = (host_interface(&holder), absent.as_secs());
            let text = format!(
                "{}: its host end {end} is gone for {seconds} s",
                who(&holder)
            );
            (
                "hostEndGone",
                true,
                text,
                format!("{BY_ITSELF}; at once: {}", release(&holder, false)),
            )
        }
        Finding::LinkUnknown { link } => {
            let text = format!("the host end {link} belongs to no attachment");
            let advice = format!("{LEASE_LOST}: ip link delete {link}");
            ("hostEndUnknown", true, text, advice)
        }
        Finding::PodUnknown { holder, pod } => {
            // If its host end is gone too, that is told already.
            if !seen.host_ends.contains(&host_interface(&holder)) {
                return None;
            }
            let text = format!("{}: the source has no Pod {pod} on this node", who(&holder));
            let advice = format!(
                "a pod without a manifest is fine; one that was deleted is the runtime's to remove, or: {}",
                release(&holder, true)
            );
            ("podUnknown", false, text, advice)
        }
        Finding::HolderOfOtherUid {
            holder,
            pod,
            held,
            present,
        } => {
            let text = format!(
                "{}: it is of an earlier Pod {pod} (UID {held}, now {present})",
                who(&holder)
            );
            let advice = format!(
                "the runtime should have removed it; by hand: {}",
                release(&holder, true)
            );
            ("otherUid", true, text, advice)
        }
        Finding::PodHeldTwice { pod, holders } => {
            let older: Vec<String> = holders
                .iter()
                .skip(1)
                .map(|one| release(one, true))
                .collect();
            let text = format!("Pod {pod} holds addresses by {} containers", holders.len());
            let advice = format!(
                "only one runs: see which by the runtime; the older ones: {}",
                older.join("; ")
            );
            ("podTwice", true, text, advice)
        }
        Finding::AddressOutside { holder, address } => {
            let text = format!(
                "{}: {address} is in none of this node's CIDRs and pools",
                who(&holder)
            );
            let advice =
                "it keeps it until it is deleted; its next one is of the present CIDRs".to_owned();
            ("outside", false, text, advice)
        }
    };
    Some(FindingView {
        kind: kind.to_owned(),
        is_leak,
        text,
        advice,
    })
}

/// Addresses that pods of other nodes say they have.
fn held_elsewhere(state: &IpamState) -> Vec<FindingView> {
    let mut findings = Vec::new();
    for lease in state.ipam.leases() {
        for address in &lease.addresses {
            let Some((pod, node)) = state.elsewhere.get(address) else {
                continue;
            };
            // One that moves is for a moment known at both places.
            if lease.pod.as_ref() == Some(pod) {
                continue;
            }
            findings.push(FindingView {
                kind: "heldElsewhere".to_owned(),
                is_leak: true,
                text: format!(
                    "{address} of {} is held by Pod {pod} of node {node} too",
                    whose(lease)
                ),
                advice: "delete one of the two pods: it gets another address".to_owned(),
            });
        }
    }
    findings
}

fn shapers(seen: &Seen) -> impl Iterator<Item = FindingView> {
    let lone = seen.shapers.iter().filter(|shaper| {
        let hash = shaper.strip_prefix(SHAPER_PREFIX).unwrap_or_default();
        !seen.host_ends.contains(&format!("{LINK_PREFIX}{hash}"))
    });
    lone.map(|shaper| FindingView {
        kind: "shaperUnknown".to_owned(),
        is_leak: true,
        text: format!("{shaper} shapes no pod's traffic any more"),
        advice: format!(
            "the agent deletes it with the next change of links; at once: ip link delete {shaper}"
        ),
    })
}

/// Routes of ours to single addresses of this node's that nobody holds.
fn routes_of_nobody(state: &IpamState, seen: &Seen) -> Vec<FindingView> {
    let is_leak = |address: &&IpAddr| {
        let is_own = state.own.iter().any(|cidr| cidr.contains(*address));
        is_own
            && state.ipam.holder_of(**address).is_none()
            && !state.elsewhere.contains_key(*address)
    };
    let leaked = seen.routes.iter().filter(is_leak);
    let finding = |address: &IpAddr| FindingView {
        kind: "routeUnknown".to_owned(),
        is_leak: true,
        text: format!("there is a route to {address}, which nobody holds"),
        advice:
            "the agent removes it with the next change of routes; if it stays, its log says why"
                .to_owned(),
    };
    leaked.map(finding).collect()
}

fn described(state: &IpamState, holder: &Holder) -> String {
    state
        .ipam
        .lease(holder)
        .map_or_else(|| holder.container_id.clone(), whose)
}

fn whose(lease: &Lease) -> String {
    let addresses: Vec<String> = lease.addresses.iter().map(ToString::to_string).collect();
    let pod = lease.pod.as_ref().map(|pod| format!("Pod {pod}, "));
    format!(
        "{}container {} ({})",
        pod.unwrap_or_default(),
        lease.holder.container_id,
        addresses.join(", ")
    )
}

fn release(holder: &Holder, force: bool) -> String {
    let interface = match holder.interface.as_str() {
        "eth0" => String::new(),
        other => format!(" --interface {other}"),
    };
    let force = if force { " --force" } else { "" };
    format!(
        "portolan ipam release --container {}{interface}{force}",
        holder.container_id
    )
}
