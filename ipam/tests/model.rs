//! The allocator against a slow, obvious model of it, over any sequence of requests, releases, times and restarts.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use api::NamespacedName;
use ipam::{Choice, Holder, Ipam, Request, Span};
use ipnet::IpNet;
use proptest::prelude::*;

/// Small CIDRs, two of which overlap, so that every case comes up often.
const CIDRS: [&str; 6] = [
    "10.0.0.0/29",
    "10.0.0.8/30",
    "10.0.0.0/28",
    "fd00::/125",
    "10.0.0.32/32",
    "fd00::100/127",
];
const RESERVED: [&str; 3] = ["10.0.0.2/31", "fd00::4/126", "10.0.0.32/32"];
const ELSEWHERE: [&str; 2] = ["10.0.0.0/26", "fd00::100/120"];
const COOL_DOWN: u64 = 5;

#[derive(Clone, Debug)]
enum Step {
    Add(Ask),
    Del(u8),
    /// The clock goes on, or steps back.
    Time(i8),
    Cidrs(Vec<u8>),
    Reserved(Vec<u8>),
    Elsewhere(Vec<u8>),
    CoolDown(u64),
    Restart,
}

#[derive(Clone, Debug)]
struct Ask {
    id: u8,
    /// Which pod: 0 has no UID.
    pod: u8,
    fixed: Option<IpAddr>,
    ranges: Vec<Vec<(IpAddr, IpAddr)>>,
    given: Vec<IpAddr>,
}

fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        3 => (0..70_u8).prop_map(|last| IpAddr::from([10, 0, 0, last])),
        1 => (0..=0x10f_u16).prop_map(|last| IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, last])),
    ]
}

fn ranges() -> impl Strategy<Value = Vec<Vec<(IpAddr, IpAddr)>>> {
    let v4 = (0..40_u8, 0..6_u8).prop_map(|(first, more)| {
        let ip = |last| IpAddr::from([10, 0, 0, last]);
        (ip(first), ip(first + more))
    });
    let v6 = (0..10_u16, 0..6_u16).prop_map(|(first, more)| {
        let ip = |last| IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, last]);
        (ip(first), ip(first + more))
    });
    let set = prop_oneof![
        prop::collection::vec(v4, 0..3),
        prop::collection::vec(v6, 1..3),
    ];
    prop::collection::vec(set, 0..3)
}

fn ask() -> impl Strategy<Value = Ask> {
    let (id, pod) = (0..24_u8, 0..6_u8);
    let plain = (id.clone(), pod.clone()).prop_map(|(id, pod)| Ask {
        id,
        pod,
        fixed: None,
        ranges: Vec::new(),
        given: Vec::new(),
    });
    let fixed = prop::option::weighted(0.3, address());
    let special = (
        id,
        pod,
        fixed,
        ranges(),
        prop::collection::vec(address(), 0..3),
    );
    let special = special.prop_map(|(id, pod, fixed, ranges, given)| {
        // Every other one is another plugin's.
        let given = if id % 4 == 0 { given } else { Vec::new() };
        Ask {
            id,
            pod,
            fixed,
            ranges,
            given,
        }
    });
    let fixed = (0..24_u8, address()).prop_map(|(id, ip)| Ask {
        id,
        pod: 0,
        fixed: Some(ip),
        ranges: Vec::new(),
        given: Vec::new(),
    });
    prop_oneof![5 => plain, 2 => fixed, 2 => special]
}

fn step() -> impl Strategy<Value = Step> {
    let few = |most: u8| prop::collection::vec(0..most, 0..4);
    prop_oneof![
        10 => ask().prop_map(Step::Add),
        7 => (0..24_u8).prop_map(Step::Del),
        3 => (-4..8_i8).prop_map(Step::Time),
        1 => few(6).prop_map(Step::Cidrs),
        1 => few(3).prop_map(Step::Reserved),
        1 => few(2).prop_map(Step::Elsewhere),
        1 => (0..9_u64).prop_map(Step::CoolDown),
        1 => Just(Step::Restart),
    ]
}

fn pick(all: &[&str], which: &[u8]) -> Vec<IpNet> {
    let mut cidrs: Vec<IpNet> = Vec::new();
    for cidr in which.iter().map(|n| all[usize::from(*n)].parse().unwrap()) {
        if !cidrs.contains(&cidr) {
            cidrs.push(cidr);
        }
    }
    cidrs
}

/// The addresses of a CIDR that pods can have, one by one.
fn hosts(cidr: &IpNet) -> Vec<IpAddr> {
    let hosts: Vec<IpAddr> = cidr.hosts().collect();
    let skip = usize::from(cidr.addr().is_ipv6() && hosts.len() > 2);
    hosts.into_iter().skip(skip).collect()
}

fn family(ip: &IpAddr) -> usize {
    usize::from(ip.is_ipv6())
}

#[derive(Clone)]
struct Rest {
    ip: IpAddr,
    since: u64,
    pod: u8,
}

/// Leases and rests in plain lists, and each pool as a list gone through from after the last one given.
#[derive(Default)]
struct Model {
    cidrs: Vec<IpNet>,
    elsewhere: Vec<IpNet>,
    reserved: Vec<IpNet>,
    cool_down: u64,
    leases: BTreeMap<u8, (u8, Vec<IpAddr>)>,
    rests: Vec<Rest>,
    last: [Option<IpAddr>; 2],
}

impl Model {
    fn pool(&self) -> Vec<IpAddr> {
        self.cidrs.iter().flat_map(hosts).collect()
    }

    fn is_held(&self, ip: &IpAddr) -> bool {
        self.leases.values().any(|(_, held)| held.contains(ip))
    }

    fn is_reserved(&self, ip: &IpAddr) -> bool {
        self.reserved.iter().any(|cidr| cidr.contains(ip))
    }

    fn is_allowed(&self, ip: &IpAddr) -> bool {
        let own = self.cidrs.iter().filter(|cidr| cidr.contains(ip));
        let own: Vec<_> = own.collect();
        if !own.is_empty() {
            return own.into_iter().any(|cidr| hosts(cidr).contains(ip));
        }
        self.elsewhere.iter().any(|cidr| hosts(cidr).contains(ip))
    }

    fn settle(&mut self, now: u64) {
        for rest in &mut self.rests {
            rest.since = rest.since.min(now);
        }
        let cool_down = self.cool_down;
        self.rests.retain(|rest| rest.since + cool_down > now);
    }

    fn add(&mut self, ask: &Ask, now: u64) -> Option<Vec<IpAddr>> {
        self.settle(now);
        if let Some((_, lease)) = self.leases.get(&ask.id) {
            let mut asked = ask.fixed.iter().chain(&ask.given);
            return asked.all(|ip| lease.contains(ip)).then(|| lease.clone());
        }
        let (chosen, round) = if ask.given.is_empty() {
            self.choose(ask)?
        } else {
            let mut given = Vec::new();
            for ip in &ask.given {
                if !given.contains(ip) {
                    given.push(*ip);
                }
            }
            (given, Vec::new())
        };
        if chosen.iter().any(|ip| self.is_held(ip)) {
            return None;
        }
        for ip in round {
            self.last[family(&ip)] = Some(ip);
        }
        self.rests.retain(|rest| !chosen.contains(&rest.ip));
        self.leases.insert(ask.id, (ask.pod, chosen.clone()));
        Some(chosen)
    }

    fn choose(&self, ask: &Ask) -> Option<(Vec<IpAddr>, Vec<IpAddr>)> {
        let pool = self.pool();
        if pool.is_empty()
            || ask
                .fixed
                .is_some_and(|ip| !self.is_allowed(&ip) || self.is_held(&ip))
        {
            return None;
        }
        let mut sets: Vec<Vec<IpAddr>> = Vec::new();
        for set in &ask.ranges {
            let mut of_set: Vec<IpAddr> = Vec::new();
            for cidr in &self.cidrs {
                for (first, last) in set {
                    let hosts = hosts(cidr).into_iter();
                    of_set.extend(hosts.filter(|ip| first <= ip && ip <= last));
                }
            }
            if of_set.is_empty() {
                return None;
            }
            sets.push(of_set);
        }
        let mut order: Vec<usize> = Vec::new();
        for of in pool.iter().chain(&ask.fixed).map(family) {
            if !order.contains(&of) {
                order.push(of);
            }
        }
        let (mut chosen, mut round) = (Vec::new(), Vec::new());
        for of in order {
            let mut fixed = ask.fixed.filter(|ip| family(ip) == of);
            let sets: Vec<_> = sets.iter().filter(|set| family(&set[0]) == of).collect();
            if sets.is_empty() {
                let pool: Vec<IpAddr> =
                    pool.iter().copied().filter(|ip| family(ip) == of).collect();
                chosen.push(match fixed.or_else(|| self.again(&pool, ask.pod, &[])) {
                    Some(ip) => ip,
                    None => {
                        round.push(self.next(&pool, of)?);
                        *round.last()?
                    }
                });
            } else if fixed.is_some_and(|ip| !sets.iter().any(|set| set.contains(&ip))) {
                return None;
            }
            for set in sets {
                if let Some(ip) = fixed.filter(|ip| set.contains(ip)) {
                    fixed = None;
                    chosen.push(ip);
                    continue;
                }
                let mut taken = chosen.clone();
                taken.extend(fixed);
                let free = |ip: &&IpAddr| self.is_free(ip) && !taken.contains(ip);
                let ip = self
                    .again(set, ask.pod, &taken)
                    .or_else(|| set.iter().find(free).copied())
                    .or_else(|| self.oldest(set, &taken))?;
                chosen.push(ip);
            }
        }
        Some((chosen, round))
    }

    fn is_free(&self, ip: &IpAddr) -> bool {
        !self.is_held(ip) && !self.is_reserved(ip) && !self.rests.iter().any(|rest| rest.ip == *ip)
    }

    fn again(&self, pool: &[IpAddr], pod: u8, taken: &[IpAddr]) -> Option<IpAddr> {
        let mine = self.rests.iter().filter(|rest| pod != 0 && rest.pod == pod);
        let mine = mine.map(|rest| rest.ip);
        mine.filter(|ip| pool.contains(ip) && !self.is_reserved(ip) && !taken.contains(ip))
            .min()
    }

    fn oldest(&self, pool: &[IpAddr], taken: &[IpAddr]) -> Option<IpAddr> {
        let rests = self.rests.iter().filter(|rest| pool.contains(&rest.ip));
        let rests = rests.filter(|rest| !self.is_reserved(&rest.ip) && !taken.contains(&rest.ip));
        rests
            .min_by_key(|rest| (rest.since, rest.ip))
            .map(|rest| rest.ip)
    }

    fn next(&self, pool: &[IpAddr], of: usize) -> Option<IpAddr> {
        let mut round = pool.to_vec();
        if let Some(at) = round.iter().position(|ip| Some(*ip) == self.last[of]) {
            round.rotate_left(at + 1);
        }
        let free = round.iter().find(|ip| self.is_free(ip)).copied();
        free.or_else(|| self.oldest(pool, &[]))
    }

    fn del(&mut self, id: u8, now: u64) -> Option<Vec<IpAddr>> {
        let (pod, addresses) = self.leases.remove(&id)?;
        for ip in &addresses {
            self.rests.push(Rest {
                ip: *ip,
                since: now,
                pod,
            });
        }
        Some(addresses)
    }
}

fn holder(id: u8) -> Holder {
    Holder {
        container_id: id.to_string(),
        interface: "eth0".to_owned(),
    }
}

fn request(ask: &Ask, now: u64) -> Request {
    let set = |set: &Vec<(IpAddr, IpAddr)>| {
        set.iter()
            .map(|(first, last)| Span::new(*first, *last).unwrap())
            .collect()
    };
    Request {
        pod: Some(NamespacedName::new("web", format!("p{}", ask.pod))),
        uid: if ask.pod == 0 {
            String::new()
        } else {
            format!("u{}", ask.pod)
        },
        fixed: ask.fixed.into_iter().collect(),
        ranges: ask.ranges.iter().map(set).collect(),
        given: ask.given.clone(),
        ..Request::new(holder(ask.id), now)
    }
}

/// Automatically given: nobody's, not reserved, and resting only for the same pod or when nothing else is left.
fn assert_given(before: &Ipam, ask: &Ask, now: u64, given: &[IpAddr]) -> Result<(), TestCaseError> {
    if !ask.given.is_empty() {
        return Ok(());
    }
    for ip in given.iter().filter(|ip| ask.fixed != Some(**ip)) {
        prop_assert_eq!(before.holder_of(*ip), None);
        let rest = before.cooling(now).find(|rest| rest.address == *ip);
        let Some(rest) = rest else { continue };
        let is_same = ask.pod != 0 && rest.uid == format!("u{}", ask.pod);
        let free = before.usage(now).filter(|usage| usage.cidr.contains(ip));
        let is_full = free.map(|usage| usage.free()).sum::<u128>() == 0;
        prop_assert!(
            is_same || is_full || !ask.ranges.is_empty(),
            "{} rests still",
            ip
        );
    }
    Ok(())
}

fn compare(ipam: &Ipam, model: &Model, now: u64) -> Result<(), TestCaseError> {
    let held: Vec<IpAddr> = ipam
        .leases()
        .flat_map(|lease| lease.addresses.clone())
        .collect();
    prop_assert_eq!(held.iter().collect::<BTreeSet<_>>().len(), held.len());
    let leases = ipam
        .leases()
        .map(|lease| (lease.holder.clone(), lease.addresses.clone()));
    let modelled = model
        .leases
        .iter()
        .map(|(id, (_, ips))| (holder(*id), ips.clone()));
    prop_assert_eq!(leases.collect::<BTreeMap<_, _>>(), modelled.collect());
    for usage in ipam.usage(now) {
        let hosts = hosts(&usage.cidr);
        let count =
            |wanted: &dyn Fn(&IpAddr) -> bool| hosts.iter().filter(|ip| wanted(ip)).count() as u128;
        let rests = |ip: &IpAddr| {
            let rest = |rest: &&Rest| rest.ip == *ip;
            let rest = model.rests.iter().find(rest);
            rest.is_some_and(|rest| rest.since.min(now) + model.cool_down > now)
        };
        prop_assert_eq!(usage.usable, hosts.len() as u128);
        prop_assert_eq!(usage.held, count(&|ip| model.is_held(ip)));
        prop_assert_eq!(usage.cooling, count(&|ip| !model.is_held(ip) && rests(ip)));
        let reserved = |ip: &IpAddr| model.is_reserved(ip) && !model.is_held(ip) && !rests(ip);
        prop_assert_eq!(usage.reserved, count(&reserved));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn the_allocator_does_as_the_model_and_never_gives_an_address_twice(
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let (mut ipam, mut model) = (Ipam::default(), Model::default());
        let mut now = 1_000_u64;
        (model.cidrs, model.cool_down) = (pick(&CIDRS, &[0, 3]), COOL_DOWN);
        ipam.set_cidrs(model.cidrs.clone());
        ipam.set_cool_down(COOL_DOWN);
        for step in steps {
            match step {
                Step::Add(ask) => {
                    let was = ipam.lease(&holder(ask.id)).map(|lease| lease.addresses.clone());
                    let before = ipam.clone();
                    let given = ipam.allocate(&request(&ask, now)).ok().map(|lease| lease.addresses);
                    if was.is_none() && let Some(given) = &given {
                        assert_given(&before, &ask, now, given)?;
                    }
                    prop_assert_eq!(given, model.add(&ask, now), "{:?} at {}", ask, now);
                }
                Step::Del(id) => {
                    let lease = ipam.release(&holder(id), now).map(|lease| lease.addresses);
                    prop_assert_eq!(lease, model.del(id, now));
                }
                Step::Time(by) => now = now.saturating_add_signed(i64::from(by)),
                Step::Cidrs(which) => {
                    model.cidrs = pick(&CIDRS, &which);
                    ipam.set_cidrs(model.cidrs.clone());
                }
                Step::Reserved(which) => {
                    model.reserved = pick(&RESERVED, &which);
                    ipam.set_reserved(model.reserved.clone());
                }
                Step::Elsewhere(which) => {
                    model.elsewhere = pick(&ELSEWHERE, &which);
                    ipam.set_elsewhere(model.elsewhere.clone());
                }
                Step::CoolDown(seconds) => {
                    model.cool_down = seconds;
                    ipam.set_cool_down(seconds);
                }
                Step::Restart => {
                    let before = ipam.snapshot();
                    let json = serde_json::to_vec(&before).unwrap();
                    ipam.restore(serde_json::from_slice(&json).unwrap());
                    prop_assert_eq!(ipam.snapshot(), before);
                }
            }
            compare(&ipam, &model, now)?;
        }
    }

    #[test]
    fn changes_carried_out_again_lead_to_the_same_state(
        asks in prop::collection::vec((ask(), any::<bool>(), 0..4_u64), 1..80),
    ) {
        let (mut ipam, mut copy) = (Ipam::default(), Ipam::default());
        ipam.set_cidrs(pick(&CIDRS, &[0, 1, 3]));
        let mut now = 10;
        for (ask, is_release, later) in asks {
            now += later;
            let change = if is_release && ipam.lease(&holder(ask.id)).is_some() {
                ipam::Change::Released { holder: holder(ask.id), at: now }
            } else {
                match ipam.choose(&request(&ask, now)) {
                    Ok(Choice::New(change)) => change,
                    Ok(Choice::Held(_)) | Err(_) => continue,
                }
            };
            let json = serde_json::to_vec(&change).unwrap();
            ipam.apply(change).unwrap();
            // The copy knows neither CIDRs nor the time: what was written is enough.
            copy.apply(serde_json::from_slice(&json).unwrap()).unwrap();
            prop_assert!(ipam.leases().eq(copy.leases()));
            prop_assert!(ipam.cooling(now).eq(copy.cooling(now)));
        }
    }
}
