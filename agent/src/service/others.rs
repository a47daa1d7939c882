//! Signs of another proxy of Services that serves without chains of iptables: kube-proxy's other modes, kube-router.

use std::collections::BTreeSet;
use std::path::Path;

use crate::exec;

/// The tables of kube-proxy's nftables mode.
const TABLES: [&str; 2] = ["table ip kube-proxy", "table ip6 kube-proxy"];
/// What holds the addresses of Services where IPVS serves them: kube-proxy's device, and kube-router's.
const DEVICES: [&str; 2] = ["kube-ipvs0", "kube-dummy-if"];

/// What was found of another proxy, as people look for it; the first thing, if there are several.
pub(crate) async fn other_proxy() -> Option<String> {
    // Where there is no such program, nobody works with it.
    let tables = exec::run("nft", &["list", "tables"], None).await;
    of_tables(&tables.unwrap_or_default()).or_else(|| of_devices(&devices(), &with_addresses()))
}

fn of_tables(listed: &str) -> Option<String> {
    let mut tables = listed.lines().map(str::trim);
    tables
        .find(|table| TABLES.contains(table))
        .map(str::to_owned)
}

/// A device without addresses is what is left of one that was cleaned up.
fn of_devices(devices: &BTreeSet<String>, with_addresses: &BTreeSet<String>) -> Option<String> {
    let mut both = devices.intersection(with_addresses);
    both.find(|name| DEVICES.contains(&name.as_str()))
        .map(|name| format!("device {name}"))
}

fn devices() -> BTreeSet<String> {
    let is_there = |name: &&str| Path::new("/sys/class/net").join(name).exists();
    let there = DEVICES.into_iter().filter(is_there);
    there.map(str::to_owned).collect()
}

/// Interfaces with an address that the kernel didn't make up itself.
fn with_addresses() -> BTreeSet<String> {
    let Ok(all) = nix::ifaddrs::getifaddrs() else {
        return BTreeSet::new();
    };
    let is_given = |address: &nix::sys::socket::SockaddrStorage| {
        let v6 = address.as_sockaddr_in6();
        address.as_sockaddr_in().is_some() || v6.is_some_and(|at| !at.ip().is_unicast_link_local())
    };
    let given = all.filter(|one| one.address.as_ref().is_some_and(is_given));
    given.map(|one| one.interface_name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_149_another_proxy_is_known_by_its_tables_and_by_its_device_with_addresses() {
        let listed = "table ip filter\ntable ip portolan\ntable ip6 kube-proxy\n";
        assert_eq!(of_tables(listed).unwrap(), "table ip6 kube-proxy");
        assert_eq!(of_tables("table inet kube-proxy-mine\n"), None);
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let (there, none) = (names(&["kube-ipvs0"]), BTreeSet::new());
        assert_eq!(of_devices(&there, &there).unwrap(), "device kube-ipvs0");
        assert_eq!(of_devices(&there, &none), None, "cleaned up");
        assert_eq!(of_devices(&none, &names(&["eth0"])), None);
    }
}
