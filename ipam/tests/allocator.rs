//! What the allocator promises, case by case and against a slow, obvious model.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use api::NamespacedName;
use ipam::{Error, Holder, Ipam, Lease, Snapshot};
use ipnet::IpNet;
use proptest::prelude::*;

fn holder(id: impl ToString) -> Holder {
    Holder {
        container_id: id.to_string(),
        interface: "eth0".to_owned(),
    }
}

fn ipam(cidrs: &[&str]) -> Ipam {
    Ipam::new(nets(cidrs))
}

fn nets(cidrs: &[&str]) -> Vec<IpNet> {
    cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect()
}

fn add(ipam: &mut Ipam, id: impl ToString, fixed: &[&str]) -> Result<Vec<String>, Error> {
    let fixed: Vec<IpAddr> = fixed.iter().map(|ip| ip.parse().unwrap()).collect();
    let lease = ipam.allocate(holder(id), None, "", &fixed)?;
    Ok(lease.addresses.iter().map(ToString::to_string).collect())
}

#[test]
fn addresses_go_round_from_the_first_host_s_to_the_last() {
    let mut ipam = ipam(&["10.0.0.0/29"]);
    for n in 1..=6 {
        assert_eq!(add(&mut ipam, n, &[]).unwrap(), [format!("10.0.0.{n}")]);
    }
    ipam.release(&holder(5));
    ipam.release(&holder(2));
    assert_eq!(add(&mut ipam, "a", &[]).unwrap(), ["10.0.0.2"]);
    assert_eq!(add(&mut ipam, "b", &[]).unwrap(), ["10.0.0.5"]);
}

#[test]
fn an_address_given_back_rests_until_the_others_were_given() {
    let mut ipam = ipam(&["10.0.0.0/29"]);
    let mut given = Vec::new();
    for n in 0..12 {
        given.extend(add(&mut ipam, n, &[]).unwrap());
        ipam.release(&holder(n));
    }
    assert_eq!(given[..6].iter().collect::<BTreeSet<_>>().len(), 6);
    assert_eq!(given[..6], given[6..]);
}

#[test]
fn one_address_of_each_family_is_given_and_all_or_none() {
    let mut ipam = ipam(&["fd00:1::/64", "10.0.0.0/30"]);
    assert_eq!(add(&mut ipam, 1, &[]).unwrap(), ["fd00:1::1", "10.0.0.1"]);
    assert_eq!(add(&mut ipam, 2, &[]).unwrap(), ["fd00:1::2", "10.0.0.2"]);
    let before = ipam.snapshot();
    let error = add(&mut ipam, 3, &[]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "no address is left in 10.0.0.0/30: all 2 are held; delete pods here, or give the node a larger or a further Pod CIDR"
    );
    assert_eq!(ipam.snapshot(), before);
}

#[test]
fn further_cidrs_of_a_family_follow_when_one_is_full_and_the_first_comes_again() {
    let mut ipam = ipam(&["10.0.0.0/30", "10.0.1.0/30"]);
    let given: Vec<_> = (0..4)
        .flat_map(|n| add(&mut ipam, n, &[]).unwrap())
        .collect();
    assert_eq!(given, ["10.0.0.1", "10.0.0.2", "10.0.1.1", "10.0.1.2"]);
    ipam.release(&holder(0));
    assert_eq!(add(&mut ipam, 4, &[]).unwrap(), ["10.0.0.1"]);
}

#[test]
fn the_smallest_cidrs_have_the_addresses_they_have() {
    for (cidr, count) in [("10.0.0.0/30", 2), ("10.0.0.0/31", 2), ("10.0.0.0/32", 1)]
        .into_iter()
        .chain([("fd00::/126", 3), ("fd00::/127", 2), ("fd00::/128", 1)])
    {
        let mut ipam = ipam(&[cidr]);
        assert_eq!(ipam.usage().next().unwrap().usable, count, "{cidr}");
        for n in 0..count {
            add(&mut ipam, n, &[]).unwrap();
        }
        assert!(
            matches!(add(&mut ipam, "more", &[]), Err(Error::Exhausted { .. })),
            "{cidr}"
        );
    }
    let mut ends = ipam(&["255.255.255.254/31", "ffff::/16", "0.0.0.0/0", "::/0"]);
    assert_eq!(
        add(&mut ends, 1, &["255.255.255.255"]).unwrap()[0],
        "255.255.255.255"
    );
    let last = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
    assert_eq!(
        add(&mut ends, 2, &[last]).unwrap(),
        ["255.255.255.254", last]
    );
}

#[test]
fn a_retry_gets_the_same_lease_whatever_the_cidrs_are_by_now() {
    let mut ipam = ipam(&["10.0.0.0/24"]);
    let first = add(&mut ipam, "a", &[]).unwrap();
    assert_eq!(add(&mut ipam, "a", &[]).unwrap(), first);
    ipam.set_cidrs(nets(&["10.9.0.0/24"]));
    assert_eq!(add(&mut ipam, "a", &[]).unwrap(), first);
    assert_eq!(add(&mut ipam, "a", &[first[0].as_str()]).unwrap(), first);
    assert!(matches!(
        add(&mut ipam, "a", &["10.9.0.9"]),
        Err(Error::HoldsOthers { .. })
    ));
    assert_eq!(add(&mut ipam, "b", &[]).unwrap(), ["10.9.0.1"]);
    assert_eq!(ipam.leases().count(), 2);
    assert_eq!(
        ipam.holder_of("10.0.0.1".parse().unwrap()),
        Some(&holder("a"))
    );
}

#[test]
fn fixed_addresses_are_honoured_or_refused_with_the_reason() {
    let mut ipam = ipam(&["10.0.0.0/24", "fd00::/64"]);
    assert_eq!(
        add(&mut ipam, "a", &["10.0.0.9"]).unwrap(),
        ["10.0.0.9", "fd00::1"]
    );
    let reason = |fixed: &[&str], ipam: &mut Ipam| add(ipam, "b", fixed).unwrap_err().to_string();
    assert!(reason(&["10.0.0.9"], &mut ipam).contains("held by interface eth0 of container a"));
    for outside in [
        "10.0.1.1",
        "10.0.0.0",
        "10.0.0.255",
        "fd00::",
        "::ffff:10.0.0.8",
    ] {
        assert!(
            reason(&[outside], &mut ipam).contains("10.0.0.0/24, fd00::/64"),
            "{outside}"
        );
    }
    assert!(reason(&["10.0.0.8", "10.0.0.8"], &mut ipam).contains("one family"));
    assert_eq!(ipam.leases().count(), 1);
    // A fixed address does not move the round.
    assert_eq!(add(&mut ipam, "c", &[]).unwrap(), ["10.0.0.1", "fd00::2"]);
}

#[test]
fn without_a_cidr_the_error_says_what_is_missing() {
    let error = add(&mut ipam(&[]), "a", &[]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "this node has no Pod CIDR yet: give its Node object spec.podCIDRs"
    );
}

#[test]
fn a_snapshot_in_json_brings_back_leases_and_the_place_in_the_round() {
    let mut before = ipam(&["10.0.0.0/24"]);
    let pod = NamespacedName::new("web", "a-0");
    before
        .allocate(holder("a"), Some(pod.clone()), "u-1", &[])
        .unwrap();
    add(&mut before, "b", &[]).unwrap();
    before.release(&holder("b"));
    let json = serde_json::to_string(&before.snapshot()).unwrap();
    assert_eq!(
        json,
        r#"{"version":1,"leases":[{"containerId":"a","interface":"eth0","pod":{"namespace":"web","name":"a-0"},"uid":"u-1","addresses":["10.0.0.1"]}],"lastGiven":["10.0.0.2"]}"#
    );
    let mut after = Ipam::new(Vec::new());
    after.restore(serde_json::from_str(&json).unwrap());
    after.set_cidrs(nets(&["10.0.0.0/24"]));
    assert_eq!(after.lease(&holder("a")).unwrap().pod, Some(pod));
    assert_eq!(add(&mut after, "c", &[]).unwrap(), ["10.0.0.3"]);
}

#[test]
fn a_snapshot_that_cannot_be_believed_is_refused() {
    let lease = |id: &str, ip: &str| {
        format!(r#"{{"containerId":"{id}","interface":"eth0","addresses":["{ip}"]}}"#)
    };
    let text = |version: u32, leases: &[String]| {
        format!(r#"{{"version":{version},"leases":[{}]}}"#, leases.join(","))
    };
    let read = |text: String| serde_json::from_str::<Snapshot>(&text).map_err(|e| e.to_string());
    assert!(read(text(1, &[lease("a", "10.0.0.1")])).is_ok());
    assert!(read(text(2, &[])).unwrap_err().contains("form 2"));
    let twice = text(1, &[lease("a", "10.0.0.1"), lease("b", "10.0.0.1")]);
    assert_eq!(
        read(twice).unwrap_err(),
        "the address 10.0.0.1 is there twice"
    );
    let twice = text(1, &[lease("a", "10.0.0.1"), lease("a", "10.0.0.2")]);
    assert!(
        read(twice)
            .unwrap_err()
            .contains("container a is there twice")
    );
}

#[derive(Clone, Debug)]
enum Step {
    Add(u8),
    AddFixed(u8, u8),
    Del(u8),
    Cidrs(Vec<u8>),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..24_u8).prop_map(Step::Add),
        2 => (0..24_u8, any::<u8>()).prop_map(|(id, ip)| Step::AddFixed(id, ip)),
        5 => (0..24_u8).prop_map(Step::Del),
        1 => prop::collection::vec(0..6_u8, 0..4).prop_map(Step::Cidrs),
        1 => Just(Step::Restart),
    ]
}

/// Small CIDRs, two of which overlap, so that every case comes up often.
const CIDRS: [&str; 6] = [
    "10.0.0.0/29",
    "10.0.0.8/30",
    "10.0.0.0/28",
    "fd00::/125",
    "10.0.0.32/32",
    "fd00::100/127",
];

/// The model: leases in a map, and the pool as a plain list gone through from after the last one given.
#[derive(Default)]
struct Model {
    pools: [Vec<IpAddr>; 2],
    order: Vec<usize>,
    leases: BTreeMap<u8, Vec<IpAddr>>,
    last: [Option<IpAddr>; 2],
}

impl Model {
    fn set_cidrs(&mut self, cidrs: &[IpNet]) {
        (self.pools, self.order) = Default::default();
        for cidr in cidrs {
            let family = usize::from(cidr.addr().is_ipv6());
            if !self.order.contains(&family) {
                self.order.push(family);
            }
            let hosts: Vec<IpAddr> = cidr.hosts().collect();
            let skip = usize::from(family == 1 && hosts.len() > 2);
            self.pools[family].extend(hosts.into_iter().skip(skip));
        }
    }

    fn free(&self, ip: IpAddr) -> bool {
        !self.leases.values().flatten().any(|held| *held == ip)
    }

    fn add(&mut self, id: u8, fixed: Option<IpAddr>) -> Option<Vec<IpAddr>> {
        if let Some(lease) = self.leases.get(&id) {
            return fixed
                .is_none_or(|ip| lease.contains(&ip))
                .then(|| lease.clone());
        }
        if fixed.is_some_and(|ip| !self.pools.iter().flatten().any(|p| *p == ip) || !self.free(ip))
        {
            return None;
        }
        let mut chosen = Vec::new();
        for family in &self.order {
            let fixed = fixed.filter(|ip| usize::from(ip.is_ipv6()) == *family);
            chosen.push(fixed.or_else(|| self.next(*family))?);
        }
        for ip in &chosen {
            if Some(*ip) != fixed {
                self.last[usize::from(ip.is_ipv6())] = Some(*ip);
            }
        }
        if chosen.is_empty() {
            return None;
        }
        self.leases.insert(id, chosen.clone());
        Some(chosen)
    }

    fn next(&self, family: usize) -> Option<IpAddr> {
        let mut pool = self.pools[family].clone();
        if let Some(at) = pool.iter().position(|ip| Some(*ip) == self.last[family]) {
            pool.rotate_left(at + 1);
        }
        pool.into_iter().find(|ip| self.free(*ip))
    }
}

fn addresses(leases: impl Iterator<Item = Lease>) -> BTreeMap<Holder, Vec<IpAddr>> {
    leases
        .map(|lease| (lease.holder, lease.addresses))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn the_allocator_does_as_the_model_and_never_gives_an_address_twice(
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let (mut ipam, mut model) = (Ipam::default(), Model::default());
        let first = nets(&[CIDRS[0], CIDRS[3]]);
        ipam.set_cidrs(first.clone());
        model.set_cidrs(&first);
        for step in steps {
            match step {
                Step::Add(id) => {
                    let given = ipam.allocate(holder(id), None, "", &[]);
                    prop_assert_eq!(given.ok().map(|lease| lease.addresses.clone()), model.add(id, None));
                }
                Step::AddFixed(id, last) => {
                    let ip = IpAddr::from([10, 0, 0, last % 40]);
                    let given = ipam.allocate(holder(id), None, "", &[ip]);
                    prop_assert_eq!(given.ok().map(|lease| lease.addresses.clone()), model.add(id, Some(ip)));
                }
                Step::Del(id) => {
                    let lease = ipam.release(&holder(id)).map(|lease| lease.addresses);
                    prop_assert_eq!(lease, model.leases.remove(&id));
                }
                Step::Cidrs(which) => {
                    let mut cidrs: Vec<IpNet> = Vec::new();
                    for cidr in which.iter().map(|n| CIDRS[usize::from(*n)].parse().unwrap()) {
                        if !cidrs.contains(&cidr) {
                            cidrs.push(cidr);
                        }
                    }
                    model.set_cidrs(&cidrs);
                    ipam.set_cidrs(cidrs);
                }
                Step::Restart => {
                    let json = serde_json::to_vec(&ipam.snapshot()).unwrap();
                    ipam.restore(serde_json::from_slice(&json).unwrap());
                }
            }
            let held: Vec<IpAddr> = ipam.leases().flat_map(|lease| lease.addresses.clone()).collect();
            prop_assert_eq!(held.iter().collect::<BTreeSet<_>>().len(), held.len());
            let modelled: BTreeMap<_, _> = model.leases.iter().map(|(id, ips)| (holder(id), ips.clone())).collect();
            prop_assert_eq!(addresses(ipam.leases().cloned()), modelled);
        }
    }
}
