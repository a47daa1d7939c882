//! MetalLB's IPAddressPool: its ranges as CIDRs.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Subnets, Ipv6Subnets};
use serde_json::{Value, json};

use super::super::input::{Input, Reader};
use super::super::output::Output;

const ALLOCATION: &str = "agents with `load-balancer` in --features give its addresses to Services once MetalLB's controller is gone \
(docs/load-balancer.md); until then it keeps them from pods";
const ON_DEMAND: &str = "an address of it is given to a Service that asks for it by `portolan.io/ip-addresses`; one that names the pool alone gets none";
const BUGGY: &str = "the first and the last address of an IPPool are given to who asks for them alone; an IPReservation keeps others back";
const BY_SERVICE: &str = "a pool does not say which Services it is for: they say it, by `portolan.io/ipv4pools` and `portolan.io/ipv6pools`";

/// The most CIDRs that a range is taken apart into.
const MOST: usize = 64;

/// The CIDRs of one entry, `a.b.c.d/n` or `first-last`.
pub(super) fn cidrs(text: &str) -> Option<Vec<IpNet>> {
    if let Ok(net) = text.trim().parse::<IpNet>() {
        return Some(vec![net.trunc()]);
    }
    let (first, last) = text.split_once('-')?;
    let both: [IpAddr; 2] = [first.trim().parse().ok()?, last.trim().parse().ok()?];
    let found: Vec<IpNet> = match both {
        [IpAddr::V4(first), IpAddr::V4(last)] if first <= last => {
            let nets = Ipv4Subnets::new(first, last, 0).map(IpNet::from);
            nets.take(MOST + 1).collect()
        }
        [IpAddr::V6(first), IpAddr::V6(last)] if first <= last => {
            let nets = Ipv6Subnets::new(first, last, 0).map(IpNet::from);
            nets.take(MOST + 1).collect()
        }
        _ => return None,
    };
    (found.len() <= MOST).then_some(found)
}

/// All CIDRs of a pool that can be read.
pub(super) fn all(pool: &Input) -> Vec<IpNet> {
    let entries = pool.get("spec.addresses").and_then(Value::as_array);
    let texts = entries.into_iter().flatten().filter_map(Value::as_str);
    texts.filter_map(cidrs).flatten().collect()
}

pub(super) fn convert(reader: &mut Reader<'_>, output: &mut Output) {
    reader.common(None);
    let (mut number, mut all) = (0_u32, Vec::new());
    for (field, text) in reader.texts("spec.addresses") {
        let Some(nets) = cidrs(text) else {
            reader.none(
                &field,
                "it is no CIDR and no range first-last, or one of too many CIDRs",
            );
            continue;
        };
        let mut to = Vec::new();
        for net in nets {
            number += 1;
            let name = match number {
                1 => reader.input.name.clone(),
                number => format!("{}-{number}", reader.input.name),
            };
            let mut draft = output.draft("IPPool", &name);
            to.push(draft.set("cidr", net.to_string()));
            all.push(net.to_string());
            let (usual, shortest) = if net.addr().is_ipv4() {
                (26, 20)
            } else {
                (122, 116)
            };
            if net.prefix_len() > usual {
                draft.set("blockSize", net.prefix_len());
            }
            if net.addr().is_ipv6() && net.prefix_len() < shortest {
                // A pool has no length of its own to say; blocks are not taken of it anyway.
                draft.set("blockSize", shortest);
            }
            draft.set("allowedUses", json!(["LoadBalancer"]));
            output.add(draft);
        }
        reader.changed(&field, to, ALLOCATION);
    }
    match reader.flag("spec.autoAssign") {
        Some(true) => reader.not_needed("spec.autoAssign", "so it is here"),
        Some(false) if all.is_empty() => reader.not_needed("spec.autoAssign", "it has no address"),
        Some(false) => {
            let mut reservation = output.draft("IPReservation", &reader.input.name);
            let to = reservation.set("reservedCIDRs", all);
            output.add(reservation);
            reader.changed("spec.autoAssign", vec![to], ON_DEMAND);
        }
        None => {}
    }
    match reader.flag("spec.avoidBuggyIPs") {
        Some(true) => reader.none("spec.avoidBuggyIPs", BUGGY),
        Some(false) => reader.not_needed("spec.avoidBuggyIPs", "so it is here"),
        None => {}
    }
    let allocation = reader
        .get("spec.serviceAllocation")
        .and_then(Value::as_object);
    for key in allocation.into_iter().flatten().map(|(key, _)| key) {
        reader.none(
            &super::super::report::join("spec.serviceAllocation", key),
            BY_SERVICE,
        );
    }
}
