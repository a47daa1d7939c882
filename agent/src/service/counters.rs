//! What the kernel counted for one Service; each mode adds up its own.

use std::net::IpAddr;

use netfilter::nft::TABLE;
use netfilter::{COMMENT_PREFIX, Family};
use routes::ipvs::{VirtualServiceKey, VirtualStats};
use services::proxy::model::{Frontend, Served};
use services::proxy::{ipvs, nftables};

use super::view::CounterView;
use super::words;
use crate::firewall::all_counted;
use crate::service_proxy::{counted, virtual_service_key};

/// Of rules of iptables, both families and back ends.
///
/// # Errors
/// If they cannot be read.
pub(super) async fn of_iptables(service: String) -> Result<Vec<CounterView>, String> {
    let all = all_counted().await.map_err(|error| error.to_string())?;
    let counted = tokio::task::spawn_blocking(move || {
        let listings = all.values().flatten();
        listings
            .flat_map(|listing| counters(listing, &service))
            .collect()
    });
    counted.await.map_err(|error| error.to_string())
}

/// Of the elements of our tables' sets by which a Service is asked: the flows that each let in.
///
/// # Errors
/// If they cannot be read.
pub(super) async fn of_nftables(served: &Served) -> Result<Vec<CounterView>, String> {
    let asked = nftables::asked_at(served);
    let mut found = Vec::new();
    for (family, kind) in [(Family::V4, "ip"), (Family::V6, "ip6")] {
        for set in [nftables::SERVICES, nftables::NODE_PORTS] {
            let is_here = |frontend: &Frontend, of: &str| frontend.family == family && of == set;
            let here = asked
                .iter()
                .filter(|(_, frontend, of, _)| is_here(frontend, of));
            let here: Vec<_> = here.collect();
            if here.is_empty() {
                continue;
            }
            let counted = counted(family, set).await;
            for one in counted.map_err(|error| error.to_string())? {
                let asked = here.iter().find(|(_, _, _, key)| *key == one.key);
                found.extend(asked.map(|(port, frontend, ..)| CounterView {
                    what: format!("{} {}", port.name, words::kind(frontend.kind)),
                    place: format!("set {kind} {TABLE} {set}"),
                    packets: one.packets,
                    octets: one.bytes,
                    connections: None,
                }));
            }
        }
    }
    Ok(found)
}

/// Of the virtual services of a Service on this node, and of each one's destinations.
///
/// # Errors
/// If they cannot be read.
pub(super) async fn of_ipvs(
    served: &Served,
    node_addresses: &[IpAddr],
) -> Result<Vec<CounterView>, String> {
    let doors = ipvs::doors(served, node_addresses);
    let keys = doors.iter().map(|(.., door)| virtual_service_key(door));
    let found = routes::ipvs::some_virtual_services(keys.collect()).await;
    let found = found.map_err(|error| error.to_string())?;
    let mut counters = Vec::new();
    for (port, frontend, door) in doors {
        let key = virtual_service_key(&door);
        let Some(seen) = found.get(&key).filter(|seen| seen.is_ours) else {
            continue;
        };
        let what = format!("{} {}", port.name, words::kind(frontend.kind));
        counters.push(of_virtual(&what, &key, seen.stats));
        let each = seen.destinations.iter();
        counters.extend(each.map(|(to, one)| {
            let what = format!("{what} -> {to}");
            of_virtual(&what, &key, one.stats)
        }));
    }
    Ok(counters)
}

fn of_virtual(what: &str, key: &VirtualServiceKey, stats: VirtualStats) -> CounterView {
    CounterView {
        what: what.to_owned(),
        place: format!("IPVS {key}"),
        packets: stats.packets_in,
        octets: stats.octets_in,
        connections: Some(stats.connections),
    }
}

/// Of one listing with counters: the rules whose comment names a port of the Service (`namespace/name`).
fn counters(listing: &str, service: &str) -> Vec<CounterView> {
    let mut table = "";
    let mut found = Vec::new();
    for line in listing.lines() {
        if let Some(name) = line.strip_prefix('*') {
            table = name;
        } else if line.contains(service)
            && let Some(counter) = counter(table, line, service)
        {
            found.push(counter);
        }
    }
    found
}

/// `[12:720] -A KUBE-SERVICES … --comment "ptl:… shop/web:http cluster IP" …`.
fn counter(table: &str, line: &str, service: &str) -> Option<CounterView> {
    let (counts, rule) = line.strip_prefix('[')?.split_once("] -A ")?;
    let (packets, octets) = counts.split_once(':')?;
    let (chain, rest) = rule.split_once(' ')?;
    let comment = rest.split_once("--comment \"")?.1.split_once('"')?.0;
    let (_, note) = comment.strip_prefix(COMMENT_PREFIX)?.split_once(' ')?;
    let is_named = |word: &str| word.split(':').next() == Some(service);
    note.split(' ').any(is_named).then_some(())?;
    Some(CounterView {
        what: note.to_owned(),
        place: format!("{table} {chain}"),
        packets: packets.parse().ok()?,
        octets: octets.parse().ok()?,
        connections: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_count_for_the_service_that_their_comment_names_and_for_no_other() {
        let rule = |counts: &str, note: &str| {
            format!(
                "[{counts}] -A KUBE-SERVICES -d 10.96.0.1/32 -m comment --comment \"{note}\" -j KUBE-SVC-A\n"
            )
        };
        let mut listing = "*nat\n:KUBE-SERVICES - [0:0]\n".to_owned();
        listing += &rule("3:180", "ptl:0a1b shop/web:http cluster IP");
        listing += &rule(
            "1:60",
            "ptl:0a1c masquerade traffic for shop/web external destinations",
        );
        listing += &rule("9:9", "ptl:0a1d shop/web-admin:http cluster IP");
        listing += &rule("9:9", "shop/web:http cluster IP");
        listing += "COMMIT\n";
        let found = counters(&listing, "shop/web");
        let told: Vec<(u64, u64)> = found.iter().map(|one| (one.packets, one.octets)).collect();
        assert_eq!(told, [(3, 180), (1, 60)]);
        assert_eq!(found[0].what, "shop/web:http cluster IP");
        assert_eq!(found[0].place, "nat KUBE-SERVICES");
    }
}
