//! Tests of what answers mean, how long, and how much is held.
#![allow(
    clippy::disallowed_methods,
    reason = "an Instant to count from, which nothing hangs on"
)]

use api::LabelSelector;
use api::resources::{
    ClusterAction, ClusterNetworkPolicy, ClusterRule, ClusterSubject, NamespacedPods, Node, Tier,
};
use proptest::prelude::*;

use super::*;
use crate::domain_answer::DnsRecord;

fn policy(name: &str, names: &[&str]) -> ClusterNetworkPolicy {
    let any = LabelSelector::default();
    let names = names.iter().map(|name| DomainName::new(name).unwrap());
    ClusterNetworkPolicy {
        name: name.to_owned(),
        tier: Tier::Admin,
        priority: 1,
        subject: ClusterSubject::Pods(NamespacedPods {
            namespaces: any.clone(),
            pods: any,
        }),
        ingress: Vec::new(),
        egress: vec![ClusterRule {
            name: String::new(),
            action: ClusterAction::Accept,
            peers: vec![ClusterPeer::DomainNames(names.collect())],
            protocols: None,
        }],
    }
}

fn objects(policies: &[(&str, &[&str])]) -> Objects {
    let mut objects = Objects::default();
    for (name, names) in policies {
        let policy = policy(name, names);
        objects.cluster_policies.insert(policy.name.clone(), policy);
    }
    objects
}

fn cache(policies: &[(&str, &[&str])]) -> DomainCache {
    small(policies, DomainLimits::default())
}

fn small(policies: &[(&str, &[&str])], limits: DomainLimits) -> DomainCache {
    let mut cache = DomainCache::new(limits);
    cache.follow(&objects(policies));
    cache
}

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// `owner ttl address` or `owner ttl alias`.
fn answer(question: &str, records: &[(&str, u64, &str)]) -> DnsAnswer {
    let records = records.iter().map(|(owner, ttl, data)| DnsRecord {
        owner: (*owner).to_owned(),
        ttl: at(*ttl),
        data: data
            .parse()
            .map_or_else(|_| DnsData::Alias((*data).to_owned()), DnsData::Address),
    });
    DnsAnswer {
        question: question.to_owned(),
        records: records.collect(),
        truncated: false,
    }
}

fn held(cache: &DomainCache, name: &str) -> Vec<String> {
    let addresses = cache.addresses();
    let held = addresses.get(&DomainName::new(name).unwrap());
    held.into_iter()
        .flatten()
        .map(ToString::to_string)
        .collect()
}

#[test]
fn the_name_that_was_asked_for_counts_and_not_what_an_alias_points_to() {
    let mut cache = cache(&[("p", &["www.a.test", "*.b.test", "cdn.test"])]);
    let now = Instant::now();
    let records = [
        ("edge.cdn.test", 30, "192.0.2.1"),
        ("edge.cdn.test", 30, "2001:db8::1"),
        ("other.test", 30, "192.0.2.9"),
        ("cdn.test", 30, "edge.cdn.test"),
        ("www.a.test", 30, "cdn.test"),
    ];
    let learned = cache.handle_answer(now, &answer("www.a.test", &records));
    assert!(learned.wanted && learned.changed);
    assert_eq!(held(&cache, "www.a.test"), ["192.0.2.1", "2001:db8::1"]);
    assert!(held(&cache, "cdn.test").is_empty() && held(&cache, "*.b.test").is_empty());
    let again = cache.handle_answer(now, &answer("www.a.test", &records));
    assert!(again.wanted && !again.changed);
    let elsewhere = cache.handle_answer(now, &answer("x.a.test", &[("x.a.test", 1, "192.0.2.3")]));
    assert_eq!(elsewhere, Learned::default());
}

#[test]
fn aliases_in_a_circle_and_without_end_are_left_behind() {
    let mut cache = cache(&[("p", &["a.test"])]);
    let circle = [
        ("a.test", 1, "b.test"),
        ("b.test", 1, "a.test"),
        ("b.test", 1, "192.0.2.1"),
    ];
    cache.handle_answer(Instant::now(), &answer("a.test", &circle));
    assert_eq!(held(&cache, "a.test"), ["192.0.2.1"]);
    let names: Vec<String> = (0..40).map(|n| format!("n{n}.test")).collect();
    let mut records = vec![("a.test", 1, "n0.test"), ("n39.test", 1, "192.0.2.2")];
    for pair in names.windows(2) {
        records.push((&pair[0], 1, &pair[1]));
    }
    cache.handle_answer(Instant::now(), &answer("a.test", &records));
    assert_eq!(held(&cache, "a.test"), ["192.0.2.1"]);
}

#[test]
fn an_address_holds_for_its_ttl_and_a_minute_to_the_instant() {
    let mut cache = cache(&[("p", &["a.test"])]);
    let now = Instant::now();
    let records = [
        ("a.test", 10, "c.test"),
        ("c.test", 500, "192.0.2.1"),
        ("a.test", 40, "192.0.2.2"),
    ];
    cache.handle_answer(now, &answer("a.test", &records));
    assert_eq!(cache.poll_timeout(), Some(now + at(70)));
    assert!(!cache.handle_timeout(now + at(70) - Duration::from_nanos(1)));
    assert_eq!(cache.due(now + at(70)).len(), 1);
    assert!(cache.handle_timeout(now + at(70)));
    assert_eq!(held(&cache, "a.test"), ["192.0.2.2"]);
    cache.handle_answer(
        now + at(90),
        &answer("a.test", &[("a.test", 0, "192.0.2.2")]),
    );
    assert_eq!(cache.poll_timeout(), Some(now + at(150)), "asked again");
    cache.handle_answer(
        now,
        &answer("a.test", &[("a.test", u64::from(u32::MAX), "192.0.2.2")]),
    );
    assert_eq!(cache.poll_timeout(), Some(now + LONGEST_TTL + GRACE));
}

#[test]
fn an_address_that_a_live_flow_uses_holds_on() {
    let mut cache = cache(&[("p", &["a.test"])]);
    let now = Instant::now();
    cache.handle_answer(
        now,
        &answer(
            "a.test",
            &[("a.test", 0, "192.0.2.1"), ("a.test", 0, "192.0.2.2")],
        ),
    );
    let later = now + at(60);
    let used = BTreeSet::from(["192.0.2.1".parse().unwrap()]);
    assert_eq!(cache.due(later).len(), 2);
    cache.keep(later, &used);
    assert!(cache.handle_timeout(later));
    assert_eq!(held(&cache, "a.test"), ["192.0.2.1"]);
    assert!(cache.handle_timeout(later + KEPT));
    assert!(held(&cache, "a.test").is_empty() && cache.poll_timeout().is_none());
}

#[test]
fn addresses_of_pods_and_nodes_and_of_no_host_are_refused() {
    let mut objects = objects(&[("p", &["a.test"])]);
    let node = Node {
        name: "n1".to_owned(),
        labels: api::Labels::new(),
        internal_ips: Vec::new(),
        addresses: vec!["203.0.113.5".parse().unwrap()],
        pod_cidrs: vec!["10.244.0.0/24".parse().unwrap()],
        as_number: None,
        router_id: None,
        cluster_id: None,
        bgp_drain: false,
        leaving: None,
    };
    let mut cache = cache(&[("p", &["a.test"])]);
    let now = Instant::now();
    cache.handle_answer(
        now,
        &answer(
            "a.test",
            &[("a.test", 5, "10.244.0.7"), ("a.test", 5, "192.0.2.1")],
        ),
    );
    objects.nodes.insert("n1".to_owned(), node);
    cache.follow(&objects);
    assert_eq!(held(&cache, "a.test"), ["192.0.2.1"], "the node came later");
    let pool = |name: &str, cidr: &str, uses: &str| {
        let manifest = serde_json::json!({"metadata": {"name": name},
            "spec": {"cidr": cidr, "allowedUses": [uses]}});
        let (key, pool) = api::parse("IPPool", "portolan.io/v1alpha1", manifest)
            .unwrap()
            .unwrap();
        api::Change {
            key,
            value: Some(pool),
        }
    };
    objects.handle(&pool("pods", "10.48.0.0/16", "Workload"));
    objects.handle(&pool("services", "198.51.100.0/24", "LoadBalancer"));
    cache.follow(&objects);
    let outside = answer("a.test", &[("a.test", 5, "198.51.100.7")]);
    assert_eq!(cache.handle_answer(now, &outside).refused, 0);
    let bad = [
        "10.244.0.8",
        "10.48.0.8",
        "203.0.113.5",
        "127.0.0.1",
        "169.254.169.254",
        "224.0.0.1",
        "0.0.0.0",
        "255.255.255.255",
        "::1",
        "::",
        "fe80::1",
        "ff02::1",
        "::ffff:10.0.0.1",
        "::7f00:1",
    ];
    let records: Vec<_> = bad.iter().map(|address| ("a.test", 5, *address)).collect();
    let learned = cache.handle_answer(now, &answer("a.test", &records));
    assert_eq!((learned.refused, learned.changed), (bad.len(), false));
    let left = bad.iter().map(|address| address.parse().unwrap()).collect();
    cache.adopt(
        now,
        &BTreeMap::from([(DomainName::new("a.test").unwrap(), left)]),
    );
    assert_eq!(held(&cache, "a.test"), ["192.0.2.1", "198.51.100.7"]);
}

#[test]
fn what_an_earlier_run_left_holds_for_an_hour_unless_it_is_asked_for_again() {
    let mut cache = cache(&[("p", &["a.test"])]);
    let now = Instant::now();
    let name = |text: &str| DomainName::new(text).unwrap();
    let left = BTreeSet::from(["192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap()]);
    let gone = BTreeSet::from(["192.0.2.3".parse().unwrap()]);
    cache.adopt(
        now,
        &BTreeMap::from([(name("a.test"), left), (name("b.test"), gone)]),
    );
    assert_eq!(held(&cache, "a.test").len(), 2);
    assert!(!cache.addresses().contains_key(&name("b.test")));
    cache.handle_answer(
        now + at(3000),
        &answer("a.test", &[("a.test", 900, "192.0.2.1")]),
    );
    assert!(cache.handle_timeout(now + ADOPTED));
    assert_eq!(held(&cache, "a.test"), ["192.0.2.1"]);
}

#[test]
fn what_no_policy_gives_any_more_goes_and_shared_names_stay() {
    let mut cache = cache(&[("p", &["a.test"]), ("q", &["a.test", "b.test"])]);
    let now = Instant::now();
    for name in ["a.test", "b.test"] {
        cache.handle_answer(now, &answer(name, &[(name, 5, "192.0.2.1")]));
    }
    cache.follow(&objects(&[("p", &["a.test"])]));
    assert_eq!(held(&cache, "a.test"), ["192.0.2.1"]);
    assert_eq!(cache.names().len(), 1);
}

#[test]
fn over_a_limit_what_ends_soonest_goes_and_the_policy_is_named() {
    let limits = DomainLimits {
        names: 2,
        addresses_per_name: 2,
        addresses_per_policy: 3,
    };
    let mut cache = small(&[("p", &["*.a.test"])], limits);
    let now = Instant::now();
    let three = [
        ("x.a.test", 9, "192.0.2.1"),
        ("x.a.test", 5, "192.0.2.2"),
        ("x.a.test", 7, "192.0.2.3"),
    ];
    let learned = cache.handle_answer(now, &answer("x.a.test", &three));
    assert_eq!(learned.evicted, 1);
    assert_eq!(held(&cache, "*.a.test"), ["192.0.2.1", "192.0.2.3"]);
    cache.handle_answer(now, &answer("y.a.test", &[("y.a.test", 20, "192.0.2.4")]));
    assert!(
        cache
            .problems()
            .iter()
            .all(|problem| problem.message.contains("2 addresses"))
    );
    let third = cache.handle_answer(now, &answer("z.a.test", &[("z.a.test", 30, "192.0.2.5")]));
    assert_eq!(third.evicted, 2, "the name x");
    assert_eq!(held(&cache, "*.a.test"), ["192.0.2.4", "192.0.2.5"]);
    let two = [("z.a.test", 30, "192.0.2.6"), ("y.a.test", 30, "192.0.2.7")];
    for (name, ttl, address) in two {
        cache.handle_answer(now, &answer(name, &[(name, ttl, address)]));
    }
    assert_eq!(
        held(&cache, "*.a.test"),
        ["192.0.2.5", "192.0.2.6", "192.0.2.7"]
    );
    let problems: Vec<String> = cache.problems().iter().map(ToString::to_string).collect();
    assert_eq!(problems.len(), 3, "{problems:?}");
    assert!(problems.iter().all(|problem| problem.contains('p')));
    cache.follow(&Objects::default());
    assert!(cache.problems().is_empty() && cache.addresses().is_empty());
}

/// Who asked for what, the TTL, the address, and when.
type Said = (u8, u64, u8, u64);

fn said() -> impl Strategy<Value = Vec<Said>> {
    prop::collection::vec((0..6_u8, 0..200_u64, 1..40_u8, 0..100_u64), 0..60)
}

fn tell(cache: &mut DomainCache, start: Instant, said: &[Said]) {
    for (name, ttl, address, when) in said {
        let name = [
            "a.test",
            "b.test",
            "x.c.test",
            "y.c.test",
            "z.y.c.test",
            "d.test",
        ][usize::from(*name)];
        let address = format!("192.0.2.{address}");
        cache.handle_answer(start + at(*when), &answer(name, &[(name, *ttl, &address)]));
    }
}

const POLICIES: &[(&str, &[&str])] = &[
    ("p", &["a.test", "*.c.test"]),
    ("q", &["b.test", "*.y.c.test", "a.test"]),
];

proptest! {
    #[test]
    fn any_order_of_answers_gives_the_same(said in said(), seed: u64) {
        let start = Instant::now();
        let (mut one, mut other) = (cache(POLICIES), cache(POLICIES));
        tell(&mut one, start, &said);
        let mut shuffled = said.clone();
        shuffled.sort_by_key(|(a, b, c, d)| seed.wrapping_mul(31 * u64::from(*a) + b + 7 * u64::from(*c) + 3 * d + 1));
        tell(&mut other, start, &shuffled);
        prop_assert_eq!(&one.known, &other.known);
        for second in 0..400 {
            one.handle_timeout(start + at(second));
            other.handle_timeout(start + at(second));
            prop_assert_eq!(one.addresses(), other.addresses());
        }
        prop_assert!(one.poll_timeout().is_none());
    }

    #[test]
    fn limits_hold_whatever_is_said(said in said()) {
        let limits = DomainLimits { names: 2, addresses_per_name: 3, addresses_per_policy: 5 };
        let mut cache = small(POLICIES, limits);
        let start = Instant::now();
        for one in &said {
            tell(&mut cache, start, std::slice::from_ref(one));
            let size = |known: &Known| known.values().map(BTreeMap::len).sum::<usize>();
            for known in cache.known.values() {
                prop_assert!(known.len() <= 2);
                prop_assert!(known.values().all(|held| (1..=3).contains(&held.len())));
            }
            for names in cache.policies.values() {
                let total: usize = names.iter().map(|name| size(&cache.known[name])).sum();
                prop_assert!(total <= 5);
            }
        }
    }

    #[test]
    fn changed_is_said_whenever_the_addresses_are_others(said in said()) {
        let mut cache = cache(POLICIES);
        let start = Instant::now();
        for (name, ttl, address, when) in said {
            let before = cache.addresses();
            let name = ["a.test", "b.test", "x.c.test", "y.c.test", "z.y.c.test", "d.test"][usize::from(name)];
            let address = format!("192.0.2.{address}");
            let learned = cache.handle_answer(start + at(when), &answer(name, &[(name, ttl, &address)]));
            prop_assert_eq!(learned.changed, before != cache.addresses());
        }
    }
}
