//! `portolan ipam show`: how full CIDRs are, and who has which address.

use std::net::IpAddr;

use ::ipam::{Cooling, Lease, Usage};

use super::state::{IpamState, Seen};
use super::view::{AddressState, AddressView, CidrView, ShowView};
use crate::attachments::host_interface;

/// Makes the view; `now` is in seconds since 1970.
pub(super) fn show(
    state: &IpamState,
    seen: &Seen,
    now: u64,
    (address, pod): (Option<IpAddr>, Option<&str>),
) -> ShowView {
    let held = state.ipam.leases().flat_map(|lease| held(lease, seen, now));
    let resting = state.ipam.cooling(now).map(|entry| resting(entry, now));
    let is_asked = |view: &AddressView| {
        address.is_none_or(|asked| asked == view.address)
            && pod.is_none_or(|asked| Some(asked) == view.pod.as_deref())
    };
    let mut addresses: Vec<AddressView> = held.chain(resting).filter(is_asked).collect();
    addresses.sort_by_key(|view| view.address);
    ShowView {
        node: state.node.clone(),
        cidrs: state.ipam.usage(now).map(usage).collect(),
        load_balancer_pools: state.balancer_pools.clone(),
        addresses,
        pending_deletions: seen.pending.len(),
    }
}

fn usage(usage: Usage) -> CidrView {
    let number = |number: u128| u64::try_from(number).unwrap_or(u64::MAX);
    CidrView {
        cidr: usage.cidr.to_string(),
        held: number(usage.held),
        resting: number(usage.cooling),
        reserved: number(usage.reserved),
        free: number(usage.free()),
    }
}

fn held(lease: &Lease, seen: &Seen, now: u64) -> Vec<AddressView> {
    let host_end = host_interface(&lease.holder);
    let view = |address: &IpAddr| AddressView {
        address: *address,
        state: AddressState::Held,
        pod: lease.pod.as_ref().map(ToString::to_string),
        uid: lease.uid.clone(),
        container_id: Some(lease.holder.container_id.clone()),
        interface: Some(lease.holder.interface.clone()),
        host_end: Some(host_end.clone()),
        host_end_there: Some(seen.host_ends.contains(&host_end)),
        seconds: (lease.since > 0).then(|| now.saturating_sub(lease.since)),
    };
    lease.addresses.iter().map(view).collect()
}

fn resting(entry: &Cooling, now: u64) -> AddressView {
    AddressView {
        address: entry.address,
        state: AddressState::Resting,
        pod: entry.pod.as_ref().map(ToString::to_string),
        uid: entry.uid.clone(),
        container_id: None,
        interface: None,
        host_end: None,
        host_end_there: None,
        seconds: Some(now.saturating_sub(entry.since)),
    }
}
