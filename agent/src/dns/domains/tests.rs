//! Tests of what the core does with answers, restarts and the end of addresses.

use api::LabelSelector;
use api::resources::{
    ClusterAction, ClusterNetworkPolicy, ClusterPeer, ClusterRule, ClusterSubject, NamespacedPods,
    Tier,
};
use api::{Change, Key, Resource};
use policy::{DnsData, DnsRecord};

use super::*;

fn index(names: &[&str]) -> policy::Index {
    let any = LabelSelector::default();
    let names = names.iter().map(|name| DomainName::new(name).unwrap());
    let policy = ClusterNetworkPolicy {
        name: "p".to_owned(),
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
    };
    let mut index = policy::Index::new();
    index.handle(&Change {
        key: Key::ClusterNetworkPolicy("p".to_owned()),
        value: Some(Resource::ClusterNetworkPolicy(policy)),
    });
    index
}

fn answer(name: &str, address: &str) -> DnsAnswer {
    DnsAnswer {
        question: name.to_owned(),
        records: vec![DnsRecord {
            owner: name.to_owned(),
            ttl: Duration::from_secs(5),
            data: DnsData::Address(address.parse().unwrap()),
        }],
        truncated: false,
    }
}

fn held(index: &policy::Index) -> Vec<String> {
    let all = index.objects().domain_addresses.values().flatten();
    all.map(ToString::to_string).collect()
}

#[test]
fn an_answer_waits_for_the_publication_that_holds_it_and_the_same_again_for_no_later_one() {
    let mut index = index(&["*.a.test"]);
    let mut domains = Domains::new();
    let now = Instant::now();
    domains.prepare(&mut index, 3);
    assert_eq!(
        domains.handle_answer(now, answer("x.a.test", "192.0.2.1")),
        None
    );
    domains.prepare(&mut index, 4);
    assert_eq!(held(&index), ["192.0.2.1"]);
    domains.prepare(&mut index, 9);
    assert_eq!(
        domains.handle_answer(now, answer("x.a.test", "192.0.2.1")),
        Some(4)
    );
    assert_eq!(domains.report().addresses, 1);
}

#[test]
fn answers_before_the_policies_are_known_count_and_are_bounded() {
    let mut index = index(&["*.a.test"]);
    let mut domains = Domains::new();
    let now = Instant::now();
    assert!(domains.names().borrow().is_none());
    for number in 0..2 * EARLY {
        let address = format!("192.0.2.{}", number % 256);
        assert_eq!(
            domains.handle_answer(now, answer("x.a.test", &address)),
            Some(0)
        );
    }
    assert_eq!(domains.early.len(), EARLY);
    domains.prepare(&mut index, 1);
    assert_eq!(held(&index).len(), 256);
    assert_eq!(
        domains.names().borrow().as_deref().map(BTreeSet::len),
        Some(1)
    );
}

#[test]
fn what_an_earlier_run_left_in_the_sets_is_in_the_first_publication() {
    let mut index = index(&["*.a.test"]);
    let mut domains = Domains::new();
    let now = Instant::now();
    let name = DomainName::new("*.a.test").unwrap();
    let set = |family, words: &str, address: &str| {
        let name = set_name(family, &name);
        let options = "hashsize 1024 maxelem 65536 bucketsize 12 initval 0x1";
        let name = name.as_str();
        format!("create {name} hash:ip family {words} {options}\nadd {name} {address}\n")
    };
    let listing = set(Family::V4, "inet", "192.0.2.1")
        + &set(Family::V6, "inet6", "2001:db8::1")
        + "create other hash:ip family inet hashsize 1024 maxelem 65536\nadd other 192.0.2.9\n";
    domains.restore(now, netfilter::parse_sets(&listing).unwrap());
    domains.prepare(&mut index, 1);
    assert_eq!(held(&index), ["192.0.2.1", "2001:db8::1"]);
}

#[test]
fn the_end_of_addresses_is_looked_for_together_and_waits_for_flows() {
    let mut index = index(&["*.a.test"]);
    let mut domains = Domains::new();
    let now = Instant::now();
    domains.prepare(&mut index, 1);
    assert_eq!(domains.poll_timeout(), None);
    domains.handle_answer(now, answer("x.a.test", "192.0.2.1"));
    domains.handle_answer(now, answer("y.a.test", "192.0.2.2"));
    let due = now + Duration::from_secs(65);
    assert_eq!(domains.poll_timeout(), Some(due));
    domains.next_expiry = Some(due + EXPIRY_PAUSE);
    assert_eq!(domains.poll_timeout(), Some(due + EXPIRY_PAUSE));
    let used = BTreeSet::from(["192.0.2.1".parse().unwrap()]);
    assert!(domains.handle_flows(due, &used));
    domains.prepare(&mut index, 2);
    assert_eq!(held(&index), ["192.0.2.1"]);
    assert!(!domains.handle_flows(due, &used));
}
