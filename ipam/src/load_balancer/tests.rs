//! Allocations by hand and by chance, with Services and pools as manifests.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use api::Resource;
use api::resources::{IpPool, Service};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn read(kind: &str, version: &str, value: Value) -> Resource {
    api::parse(kind, version, value).unwrap().unwrap().1
}

fn pool(name: &str, cidr: &str, disabled: bool) -> IpPool {
    let value = json!({
        "metadata": {"name": name},
        "spec": {"cidr": cidr, "blockSize": if cidr.contains(':') { 128 } else { 32 },
                 "allowedUses": ["LoadBalancer"], "disabled": disabled},
    });
    match read("IPPool", "portolan.io/v1alpha1", value) {
        Resource::IpPool(pool) => pool,
        other => panic!("{other:?}"),
    }
}

/// A Service as the tests change it.
#[derive(Clone, Debug)]
struct Made {
    name: String,
    annotations: BTreeMap<String, String>,
    spec: Value,
    held: Vec<String>,
    ours: bool,
    age: u8,
}

fn made(name: &str) -> Made {
    Made {
        name: name.to_owned(),
        annotations: BTreeMap::new(),
        spec: json!({"type": "LoadBalancer", "clusterIPs": ["10.96.0.1"], "ports": [{"port": 80}]}),
        held: Vec::new(),
        ours: true,
        age: 0,
    }
}

impl Made {
    fn note(mut self, key: &str, value: &str) -> Self {
        self.annotations
            .insert(format!("portolan.io/{key}"), value.to_owned());
        self
    }

    fn spec(mut self, field: &str, value: Value) -> Self {
        self.spec[field] = value;
        self
    }

    fn holds(mut self, address: &str) -> Self {
        self.held.push(address.to_owned());
        self
    }

    fn of_nobody(mut self) -> Self {
        self.ours = false;
        self
    }

    fn age(mut self, age: u8) -> Self {
        self.age = age;
        self
    }

    fn service(&self) -> Service {
        let conditions = self
            .ours
            .then(|| json!({"type": "portolan.io/AddressesAllocated"}));
        let held: Vec<Value> = self.held.iter().map(|ip| json!({"ip": ip})).collect();
        let value = json!({
            "metadata": {
                "namespace": "shop", "name": self.name, "annotations": self.annotations,
                "creationTimestamp": format!("2026-01-01T00:00:{:02}Z", self.age),
            },
            "spec": self.spec,
            "status": {
                "loadBalancer": {"ingress": held},
                "conditions": conditions.into_iter().collect::<Vec<_>>(),
            },
        });
        match read("Service", "v1", value) {
            Resource::Service(service) => *service,
            other => panic!("{other:?}"),
        }
    }
}

fn allocated(pools: &[IpPool], services: &[Made]) -> BTreeMap<String, Allocation> {
    let services: Vec<Service> = services.iter().map(Made::service).collect();
    let view = View {
        pools: pools.iter().collect(),
        services: services.iter().collect(),
        ..View::default()
    };
    let told = allocate(&view).into_iter();
    told.map(|(name, allocation)| (name.name, allocation))
        .collect()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn only(pools: &[IpPool], service: Made) -> Allocation {
    allocated(pools, &[service]).into_values().next().unwrap()
}

fn said(allocation: &Allocation) -> String {
    let said: Vec<String> = allocation
        .problems
        .iter()
        .map(ToString::to_string)
        .collect();
    said.join("; ")
}

#[test]
fn one_address_of_each_family_that_the_service_has() {
    let pools = [
        pool("v4", "192.0.2.0/28", false),
        pool("v6", "2001:db8::/120", false),
    ];
    let both = json!(["fd00::1", "10.96.0.1"]);
    let found = only(&pools, made("web").spec("clusterIPs", both.clone()));
    assert_eq!(found.addresses.len(), 2, "{found:?}");
    assert!(found.addresses[0].is_ipv6() && found.addresses[1].is_ipv4());
    let found = only(&pools[..1], made("web").spec("clusterIPs", both));
    assert_eq!(found.addresses.len(), 1);
    assert_eq!(
        said(&found),
        "no IPPool of IPv6 has LoadBalancer in its allowedUses: make one"
    );
}

#[test]
fn who_comes_back_gets_the_same_address_and_others_get_others() {
    let pools = [pool("v4", "192.0.2.0/26", false)];
    let many: Vec<Made> = (0..62).map(|number| made(&format!("s{number}"))).collect();
    let first = allocated(&pools, &many);
    let given: BTreeSet<IpAddr> = first
        .values()
        .flat_map(|one| one.addresses.clone())
        .collect();
    assert_eq!(
        given.len(),
        62,
        "all but the network's and the broadcast address"
    );
    // All others hold theirs: the one who comes back finds its own, as a rule.
    let wide = [pool("wide", "198.51.100.0/24", false)];
    let few: Vec<Made> = (0..8).map(|number| made(&format!("s{number}"))).collect();
    let before = allocated(&wide, &few);
    let back = few.iter().map(|one| match one.name.as_str() {
        "s7" => one.clone(),
        name => one.clone().holds(&before[name].addresses[0].to_string()),
    });
    let after = allocated(&wide, &back.collect::<Vec<_>>());
    assert_eq!(after["s7"].addresses, before["s7"].addresses);
    assert_ne!(after["s7"].addresses, after["s6"].addresses);
    let over: Vec<Made> = (0..63).map(|number| made(&format!("s{number}"))).collect();
    let missing: Vec<Allocation> = allocated(&pools, &over).into_values().collect();
    let mut missing = missing.iter().filter(|one| one.addresses.is_empty());
    assert_eq!(
        said(missing.next().unwrap()),
        "all addresses of IPPool v4 are held: make a further pool, or let Services share addresses (portolan.io/sharing-key)"
    );
    assert!(missing.next().is_none());
}

#[test]
fn what_is_asked_for_is_given_or_it_is_said_why_not() {
    let pools = [
        pool("a", "192.0.2.0/28", false),
        pool("b", "198.51.100.0/28", false),
    ];
    let asks = |address: &str| made("web").note("ip-addresses", &format!("[\"{address}\"]"));
    assert_eq!(only(&pools, asks("192.0.2.7")).addresses, [ip("192.0.2.7")]);
    let older = made("web").spec("loadBalancerIP", json!("192.0.2.9"));
    assert_eq!(only(&pools, older).addresses, [ip("192.0.2.9")]);
    let outside = only(&pools, asks("203.0.113.1"));
    assert!(outside.addresses.is_empty());
    assert!(said(&outside).starts_with("203.0.113.1 is in no IPPool"));
    let outside = only(&pools, asks("203.0.113.1").holds("192.0.2.3"));
    assert_eq!(outside.addresses, [ip("192.0.2.3")], "it keeps what it has");
    let family = only(&pools, asks("2001:db8::1"));
    assert!(
        said(&family).starts_with("2001:db8::1 is asked for, but the Service has no cluster IP")
    );
    let named = made("web").note("ipv4pools", r#"["b"]"#).holds("192.0.2.3");
    assert!(pools[1].cidr.contains(&only(&pools, named).addresses[0]));
    let unknown = made("web").note("ipv4pools", r#"["c"]"#);
    assert!(said(&only(&pools, unknown)).starts_with("IPPool c, which it names, is not there"));
    let mistaken = only(
        &pools,
        made("web")
            .note("ip-addresses", "192.0.2.7")
            .holds("192.0.2.3"),
    );
    assert_eq!(mistaken.addresses, [ip("192.0.2.3")]);
    assert!(said(&mistaken).contains("it should be a JSON list of addresses"));
    assert!(
        only(&pools, made("web").note("ip-addresses", "x"))
            .addresses
            .is_empty()
    );
}

#[test]
fn an_address_moves_only_when_nobody_has_it_any_more() {
    let pools = [pool("a", "192.0.2.0/28", false)];
    let asks = r#"["192.0.2.3"]"#;
    let moves = made("one")
        .holds("192.0.2.3")
        .note("ip-addresses", r#"["192.0.2.4"]"#);
    let waits = made("two").note("ip-addresses", asks).age(1);
    let first = allocated(&pools, &[moves.clone(), waits.clone()]);
    assert_eq!(first["one"].addresses, [ip("192.0.2.4")]);
    assert!(
        first["two"].addresses.is_empty(),
        "its status says it still"
    );
    assert!(said(&first["two"]).starts_with("192.0.2.3 is Service shop/one's"));
    let moved = Made {
        held: vec!["192.0.2.4".to_owned()],
        ..moves
    };
    let second = allocated(&pools, &[moved, waits]);
    assert_eq!(second["two"].addresses, [ip("192.0.2.3")]);
}

#[test]
fn pools_that_are_closed_or_gone_take_nothing_away() {
    let closed = [pool("a", "192.0.2.0/28", true)];
    let kept = only(&closed, made("web").holds("192.0.2.3"));
    assert_eq!(
        kept,
        Allocation {
            addresses: vec![ip("192.0.2.3")],
            problems: vec![]
        }
    );
    assert!(only(&closed, made("web")).addresses.is_empty());
    let gone = only(&[], made("web").holds("192.0.2.3"));
    assert_eq!(gone.addresses, [ip("192.0.2.3")]);
    assert!(said(&gone).starts_with("no IPPool of IPv4"));
    let other = [pool("b", "198.51.100.0/28", false)];
    let moved = only(&other, made("web").holds("192.0.2.3"));
    assert!(
        other[0].cidr.contains(&moved.addresses[0]),
        "once there is another"
    );
}

#[test]
fn services_share_an_address_if_both_want_to_and_their_ports_differ() {
    let pools = [pool("a", "192.0.2.0/28", false)];
    let shares = |name: &str, port: u16| {
        made(name)
            .note("sharing-key", "dns")
            .spec("ports", json!([{"port": port}]))
    };
    let two = allocated(&pools, &[shares("one", 53), shares("two", 54)]);
    assert_eq!(two["one"].addresses, two["two"].addresses);
    let udp = json!([{"port": 53, "protocol": "UDP"}]);
    let two = allocated(
        &pools,
        &[shares("one", 53), shares("two", 53).spec("ports", udp)],
    );
    assert_eq!(two["one"].addresses, two["two"].addresses);
    let two = allocated(&pools, &[shares("one", 53), shares("two", 53)]);
    assert_ne!(
        two["one"].addresses, two["two"].addresses,
        "a port in common"
    );
    let held = two["one"].addresses[0].to_string();
    let local = |made: Made| made.spec("externalTrafficPolicy", json!("Local"));
    let apart = local(shares("two", 54)).spec("selector", json!({"app": "two"}));
    let here = |made: Made| local(made).spec("selector", json!({"app": "one"}));
    let two = allocated(&pools, &[here(shares("one", 53)), here(shares("two", 54))]);
    assert_eq!(two["one"].addresses, two["two"].addresses, "the same pods");
    let two = allocated(&pools, &[here(shares("one", 53)), apart.clone()]);
    assert_ne!(two["one"].addresses, two["two"].addresses, "other pods");
    for other in [
        local(shares("two", 54)),
        apart,
        made("two").spec("ports", json!([{"port": 9}])),
    ] {
        let asks = other.note("ip-addresses", &format!("[\"{held}\"]")).age(1);
        let found = allocated(&pools, &[shares("one", 53).holds(&held), asks.clone()]);
        assert!(found["two"].addresses.is_empty());
        assert!(said(&found["two"]).starts_with(&format!("{held} is Service shop/one's")));
        // Who was there first keeps what two have.
        let has = asks.holds(&held);
        let found = allocated(&pools, &[shares("one", 53).holds(&held), has]);
        assert_eq!(found["one"].addresses, [ip(&held)]);
        assert!(!found["two"].addresses.contains(&ip(&held)));
    }
}

#[test]
fn others_are_left_alone_and_who_is_none_any_more_gives_back() {
    let pools = [pool("a", "192.0.2.0/28", false)];
    let classed = made("web")
        .spec("loadBalancerClass", json!("example.org/other"))
        .of_nobody();
    assert!(allocated(&pools, &[classed.holds("192.0.2.3")]).is_empty());
    let by_another = made("web").of_nobody().holds("203.0.113.9");
    let found = only(&pools, by_another.clone());
    assert_eq!(
        (found.addresses.clone(), found.problems[0].reason()),
        (vec![ip("203.0.113.9")], "BalancedElsewhere")
    );
    let claimed = by_another.spec("loadBalancerClass", json!(CLASS));
    assert!(pools[0].cidr.contains(&only(&pools, claimed).addresses[0]));
    let changed = made("web")
        .spec("type", json!("ClusterIP"))
        .holds("192.0.2.3");
    assert_eq!(only(&pools, changed), Allocation::default());
    let never = made("web").spec("type", json!("ClusterIP")).of_nobody();
    assert!(allocated(&pools, &[never]).is_empty());
}

/// Whoever wrote it: another load balancer's, one that is another's now, a second one of a family, one of a family that is gone.
#[test]
fn what_any_status_says_is_given_to_nobody_else() {
    let pools = [
        pool("a", "192.0.2.0/29", false),
        pool("b", "2001:db8::/125", false),
    ];
    let both = json!(["10.96.0.1", "fd00::1"]);
    let asks = made("two").age(1).spec("clusterIPs", both);
    let asks = asks.note("ip-addresses", r#"["192.0.2.3", "2001:db8::3"]"#);
    let plain = || made("one").holds("192.0.2.2");
    for holder in [
        plain().holds("192.0.2.3").holds("2001:db8::3"),
        made("one")
            .of_nobody()
            .holds("192.0.2.3")
            .holds("2001:db8::3")
            .spec("loadBalancerClass", json!("x/y")),
        made("one")
            .spec("type", json!("ClusterIP"))
            .holds("192.0.2.3")
            .holds("2001:db8::3"),
    ] {
        let found = allocated(&pools, &[holder, asks.clone()]);
        assert!(found["two"].addresses.is_empty(), "{found:?}");
        assert!(said(&found["two"]).contains("192.0.2.3 is Service shop/one's"));
    }
    // Of two that it has it may ask for the second.
    let second = plain()
        .holds("192.0.2.3")
        .note("ip-addresses", r#"["192.0.2.3"]"#);
    assert_eq!(only(&pools, second).addresses, [ip("192.0.2.3")]);
}

#[test]
fn of_a_reserved_pool_who_asks_for_an_address_gets_it_and_who_names_the_pool_gets_none() {
    let pools = [pool("a", "192.0.2.0/29", false)];
    let give = |made: &Made| {
        let service = made.service();
        let view = View {
            pools: pools.iter().collect(),
            reserved: vec!["192.0.2.0/29".parse().unwrap()],
            excluded: Vec::new(),
            services: vec![&service],
        };
        allocate(&view).into_values().next().unwrap()
    };
    let asks = made("web").note("ip-addresses", r#"["192.0.2.3"]"#);
    assert_eq!(give(&asks).addresses, [ip("192.0.2.3")]);
    for other in [made("web"), made("web").note("ipv4pools", r#"["a"]"#)] {
        let given = give(&other);
        assert!(given.addresses.is_empty(), "{given:?}");
        let pools = vec!["a".to_owned()];
        assert_eq!(given.problems, [Problem::Exhausted { pools }]);
    }
}

#[test]
fn nodes_addresses_are_given_to_nobody_and_reserved_ones_by_name_alone() {
    let pools = [pool("a", "192.0.2.0/29", false)];
    let asks = |address: &str| made("web").note("ip-addresses", &format!("[\"{address}\"]"));
    let give = |made: &Made| {
        let service = made.service();
        let view = View {
            pools: pools.iter().collect(),
            reserved: vec!["192.0.2.0/30".parse().unwrap()],
            excluded: vec![ip("192.0.2.4"), ip("192.0.2.5")],
            services: vec![&service],
        };
        allocate(&view).into_values().next().unwrap()
    };
    assert_eq!(give(&made("web")).addresses, [ip("192.0.2.6")]);
    assert_eq!(give(&asks("192.0.2.1")).addresses, [ip("192.0.2.1")]);
    assert_eq!(
        give(&asks("192.0.2.4")).problems,
        [Problem::OfNode(ip("192.0.2.4"))]
    );
    // A Node that came later.
    assert_eq!(
        give(&made("web").holds("192.0.2.4")).addresses,
        [ip("192.0.2.6")]
    );
}

fn any_service(number: usize) -> impl Strategy<Value = Made> {
    let address = || (1_u8..7).prop_map(|last| format!("192.0.2.{last}"));
    let held = prop::option::weighted(0.6, address());
    let asked = prop::option::weighted(0.3, address());
    let key = prop::option::weighted(0.4, "[ab]");
    (held, asked, key, 80_u16..83, any::<bool>(), 0_u8..3).prop_map(
        move |(held, asked, key, port, local, age)| {
            let policy = if local { "Local" } else { "Cluster" };
            let mut made = made(&format!("s{number}")).age(age);
            made = made.spec("ports", json!([{"port": port}]));
            made = made.spec("externalTrafficPolicy", json!(policy));
            if let Some(asked) = asked {
                made = made.note("ip-addresses", &format!("[\"{asked}\"]"));
            }
            if let Some(key) = key {
                made = made.note("sharing-key", &key);
            }
            made.held.extend(held);
            made
        },
    )
}

fn after(services: &[Made], told: &BTreeMap<String, Allocation>) -> Vec<Made> {
    let written = services.iter().cloned().map(|made| {
        let held = told[&made.name]
            .addresses
            .iter()
            .map(ToString::to_string)
            .collect();
        Made { held, ..made }
    });
    written.collect()
}

proptest! {
    /// Nobody has what another has who does not share it, whatever stood in the statuses; nor does a status that is written
    /// before the others; and it comes to rest.
    #[test]
    fn no_two_have_one_address_and_it_comes_to_rest(
        services in (0..8_usize).prop_flat_map(|many| (0..many).map(any_service).collect::<Vec<_>>()),
        first in any::<prop::sample::Index>(),
    ) {
        let pools = [pool("a", "192.0.2.0/29", false)];
        let told = allocated(&pools, &services);
        let mut turned = services.clone();
        turned.reverse();
        prop_assert_eq!(&told, &allocated(&pools, &turned), "the order of what is read");
        let held: BTreeMap<&str, &Made> = services.iter().map(|made| (made.name.as_str(), made)).collect();
        for (name, one) in &told {
            let own = held[name.as_str()];
            if one.addresses.is_empty() && !own.held.is_empty() {
                let lost = one.problems.iter().any(|problem| matches!(problem, Problem::Taken { .. }));
                prop_assert!(lost, "{}: {:?}", name, one);
            }
            for (other_name, other) in told.iter().filter(|(other, _)| *other != name) {
                let other_made = held[other_name.as_str()];
                let share = book::unshared(&own.service(), &other_made.service()).is_none();
                for address in &one.addresses {
                    prop_assert!(share || !other.addresses.contains(address));
                    // The other's status may still be the old one; what two had before is the one exception.
                    let before = own.held.contains(&address.to_string());
                    let still = other_made.held.contains(&address.to_string());
                    prop_assert!(share || before || !still, "{} before {} has given it back", name, other_name);
                }
            }
        }
        if services.is_empty() { return Ok(()); }
        // One is written alone, then all, a few times.
        let mut written = services.clone();
        let chosen = first.index(written.len());
        written[chosen] = after(&services, &told)[chosen].clone();
        let mut rounds = 0;
        loop {
            let told = allocated(&pools, &written);
            let next = after(&written, &told);
            let rests = next.iter().zip(&written).all(|(one, other)| one.held == other.held);
            written = next;
            if rests { break; }
            rounds += 1;
            prop_assert!(rounds <= 10, "{:?}", written);
        }
    }
}
