//! What the allocator promises, case by case.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

use std::collections::BTreeSet;
use std::net::IpAddr;

use api::NamespacedName;
use ipam::{COOL_DOWN, Change, Choice, Error, Holder, Ipam, Request, Snapshot, Span};
use ipnet::IpNet;

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

fn ips(addresses: &[&str]) -> Vec<IpAddr> {
    addresses.iter().map(|ip| ip.parse().unwrap()).collect()
}

fn give(ipam: &mut Ipam, request: &Request) -> Result<Vec<String>, Error> {
    let lease = ipam.allocate(request)?;
    Ok(lease.addresses.iter().map(ToString::to_string).collect())
}

fn add(ipam: &mut Ipam, id: impl ToString, fixed: &[&str]) -> Result<Vec<String>, Error> {
    let fixed = ips(fixed);
    let request = Request::new(holder(id), 0);
    give(ipam, &Request { fixed, ..request })
}

fn add_at(ipam: &mut Ipam, id: impl ToString, now: u64) -> Result<Vec<String>, Error> {
    give(ipam, &Request::new(holder(id), now))
}

/// A request of a pod whose UID the runtime says.
fn of_pod(id: impl ToString, name: &str, uid: &str, now: u64) -> Request {
    Request {
        pod: Some(NamespacedName::new("web", name)),
        uid: uid.to_owned(),
        ..Request::new(holder(id), now)
    }
}

fn span(first: &str, last: &str) -> Span {
    Span::new(first.parse().unwrap(), last.parse().unwrap()).unwrap()
}

#[test]
fn addresses_go_round_from_the_first_host_s_to_the_last() {
    let mut ipam = ipam(&["10.0.0.0/29"]);
    for n in 1..=6 {
        assert_eq!(add(&mut ipam, n, &[]).unwrap(), [format!("10.0.0.{n}")]);
    }
    ipam.release(&holder(5), 0);
    ipam.release(&holder(2), 0);
    assert_eq!(add(&mut ipam, "a", &[]).unwrap(), ["10.0.0.2"]);
    assert_eq!(add(&mut ipam, "b", &[]).unwrap(), ["10.0.0.5"]);
}

#[test]
fn an_address_given_back_rests_until_the_others_were_given() {
    let mut ipam = ipam(&["10.0.0.0/29"]);
    let mut given = Vec::new();
    for n in 0..12 {
        let now = n * COOL_DOWN;
        given.extend(add_at(&mut ipam, n, now).unwrap());
        ipam.release(&holder(n), now);
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
    ipam.release(&holder(0), 0);
    assert_eq!(add(&mut ipam, 4, &[]).unwrap(), ["10.0.0.1"]);
}

#[test]
fn the_smallest_cidrs_have_the_addresses_they_have() {
    for (cidr, count) in [("10.0.0.0/30", 2), ("10.0.0.0/31", 2), ("10.0.0.0/32", 1)]
        .into_iter()
        .chain([("fd00::/126", 3), ("fd00::/127", 2), ("fd00::/128", 1)])
    {
        let mut ipam = ipam(&[cidr]);
        assert_eq!(ipam.usage(0).next().unwrap().usable, count, "{cidr}");
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
        "this node has no Pod CIDR yet: give its Node object spec.podCIDRs, or make an IPPool for it"
    );
}

#[test]
fn an_address_rests_for_the_cool_down_and_not_longer_when_the_clock_steps_back() {
    let mut ipam = ipam(&["10.0.0.0/29"]);
    ipam.set_cool_down(10);
    for n in 1..=5 {
        add_at(&mut ipam, n, 100).unwrap();
    }
    ipam.release(&holder(1), 100);
    assert_eq!(add_at(&mut ipam, "a", 109).unwrap(), ["10.0.0.6"]);
    ipam.release(&holder("a"), 109);
    assert_eq!(ipam.cooling(109).count(), 2);
    assert_eq!(add_at(&mut ipam, "b", 110).unwrap(), ["10.0.0.1"]);
    // Given back at 109, and now it is 50: it rests until 60.
    assert_eq!(ipam.cooling(50).count(), 1);
    ipam.release(&holder(2), 50);
    assert_eq!(add_at(&mut ipam, "c", 50).unwrap(), ["10.0.0.2"]);
    assert!(
        ipam.cooling(59)
            .any(|entry| entry.address == ips(&["10.0.0.6"])[0])
    );
    assert_eq!(ipam.cooling(60).count(), 0);
    assert_eq!(add_at(&mut ipam, "d", 60).unwrap(), ["10.0.0.6"]);
}

#[test]
fn when_all_else_is_held_the_one_that_has_rested_longest_is_given() {
    let mut ipam = ipam(&["10.0.0.0/29"]);
    for n in 1..=6 {
        add_at(&mut ipam, n, 100).unwrap();
    }
    for (now, n) in [(100, 4), (101, 2), (102, 6)] {
        ipam.release(&holder(n), now);
    }
    assert_eq!(ipam.usage(102).next().unwrap().cooling, 3);
    for (id, given) in [("a", 4), ("b", 2), ("c", 6)] {
        assert_eq!(
            add_at(&mut ipam, id, 103).unwrap(),
            [format!("10.0.0.{given}")]
        );
    }
    assert!(matches!(
        add_at(&mut ipam, "d", 103),
        Err(Error::Exhausted { held: 6, .. })
    ));
}

#[test]
fn a_resting_address_is_had_by_the_same_pod_and_by_who_names_it() {
    let mut ipam = ipam(&["10.0.0.0/24"]);
    assert_eq!(
        give(&mut ipam, &of_pod(1, "a", "u1", 100)).unwrap(),
        ["10.0.0.1"]
    );
    assert_eq!(
        give(&mut ipam, &of_pod(2, "b", "", 100)).unwrap(),
        ["10.0.0.2"]
    );
    ipam.release(&holder(1), 100);
    ipam.release(&holder(2), 100);
    // Another UID is another pod; without one nobody knows.
    assert_eq!(
        give(&mut ipam, &of_pod(3, "a", "u2", 101)).unwrap(),
        ["10.0.0.3"]
    );
    assert_eq!(
        give(&mut ipam, &of_pod(4, "b", "", 101)).unwrap(),
        ["10.0.0.4"]
    );
    assert_eq!(
        give(&mut ipam, &of_pod(5, "a", "u1", 101)).unwrap(),
        ["10.0.0.1"]
    );
    assert_eq!(add(&mut ipam, 6, &["10.0.0.2"]).unwrap(), ["10.0.0.2"]);
    assert_eq!(ipam.cooling(101).count(), 0);
    // Neither moved the round.
    assert_eq!(add_at(&mut ipam, 7, 101).unwrap(), ["10.0.0.5"]);
}

#[test]
fn a_reserved_address_is_given_to_nobody_but_who_names_it() {
    let mut ipam = ipam(&["10.0.0.0/29", "fd00::/125"]);
    ipam.set_reserved(nets(&[
        "10.0.0.1/32",
        "10.0.0.4/30",
        "fd00::/126",
        "192.0.2.0/24",
    ]));
    assert_eq!(add(&mut ipam, 1, &[]).unwrap(), ["10.0.0.2", "fd00::4"]);
    assert_eq!(
        add(&mut ipam, 2, &["10.0.0.5"]).unwrap(),
        ["10.0.0.5", "fd00::5"]
    );
    let [v4, v6] = [0, 1].map(|at| ipam.usage(0).nth(at).unwrap());
    assert_eq!(
        (v4.held, v4.cooling, v4.reserved, v4.usable, v4.free()),
        (2, 0, 3, 6, 1)
    );
    assert_eq!((v6.held, v6.reserved, v6.usable, v6.free()), (2, 3, 7, 2));
    // Given back, it rests; then it is reserved again, not free, even when nothing else is left.
    ipam.release(&holder(2), 0);
    let v4 = ipam.usage(0).next().unwrap();
    assert_eq!((v4.held, v4.cooling, v4.reserved), (1, 1, 3));
    assert_eq!(add(&mut ipam, 3, &[]).unwrap()[0], "10.0.0.3");
    assert_eq!(
        add(&mut ipam, 4, &[]).unwrap_err().to_string(),
        "no address is left in 10.0.0.0/29: 2 are held and 3 reserved; delete pods here, or give the node a larger or a further Pod CIDR"
    );
    ipam.set_reserved(Vec::new());
    assert_eq!(add(&mut ipam, 4, &[]).unwrap()[0], "10.0.0.4");
}

#[test]
fn a_fixed_address_from_elsewhere_needs_a_cidr_that_allows_it() {
    let mut ipam = ipam(&["10.0.0.0/24"]);
    let outside = add(&mut ipam, 1, &["10.9.0.7"]).unwrap_err();
    assert!(matches!(&outside, Error::FixedOutside { .. }), "{outside}");
    assert!(!outside.may_pass());
    ipam.set_elsewhere(nets(&["10.0.0.0/8", "fd00:9::/64"]));
    assert_eq!(add(&mut ipam, 1, &["10.9.0.7"]).unwrap(), ["10.9.0.7"]);
    let held = add(&mut ipam, 2, &["10.9.0.7"]).unwrap_err();
    assert!(matches!(held, Error::FixedHeld { .. }) && held.may_pass());
    // The pool around this node's CIDR lends out neither its network nor its broadcast address.
    assert!(add(&mut ipam, 2, &["10.0.0.0"]).is_err());
    assert!(add(&mut ipam, 2, &["10.0.0.255"]).is_err());
    // Of a family the node has no CIDR of.
    assert_eq!(
        add(&mut ipam, 3, &["fd00:9::5"]).unwrap(),
        ["10.0.0.1", "fd00:9::5"]
    );
    assert_eq!(add(&mut ipam, 4, &[]).unwrap(), ["10.0.0.2"]);
}

#[test]
fn ranges_give_one_address_of_each_set_and_the_other_family_as_usual() {
    let mut ipam = ipam(&["10.0.0.0/24", "10.0.2.0/24", "fd00::/64"]);
    let ask = |id: u32, ranges: Vec<Vec<Span>>, fixed: &[&str]| Request {
        ranges,
        fixed: ips(fixed),
        ..Request::new(holder(id), 0)
    };
    let upper = vec![
        span("10.0.0.128", "10.0.0.129"),
        span("10.0.2.9", "10.0.2.9"),
    ];
    for (id, v4, v6) in [
        (1, "10.0.0.128", 1),
        (2, "10.0.0.129", 2),
        (3, "10.0.2.9", 3),
    ] {
        let given = give(&mut ipam, &ask(id, vec![upper.clone()], &[])).unwrap();
        assert_eq!(given, [v4.to_owned(), format!("fd00::{v6}")]);
    }
    let error = give(&mut ipam, &ask(4, vec![upper], &[])).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("10.0.0.128-10.0.0.129, 10.0.2.9: all 3 are held"),
        "{error}"
    );
    let two = vec![
        vec![span("10.0.0.7", "10.0.0.9")],
        vec![span("10.0.0.7", "10.0.0.8")],
    ];
    let given = give(&mut ipam, &ask(5, two.clone(), &["10.0.0.7"])).unwrap();
    assert_eq!(given, ["10.0.0.7", "10.0.0.8", "fd00::4"]);
    let error = give(&mut ipam, &ask(6, two, &["10.0.0.99"])).unwrap_err();
    assert_eq!(
        error,
        Error::FixedOutsideRanges {
            address: ips(&["10.0.0.99"])[0]
        }
    );
    // A wide subnet means what this node has of it.
    let wide = Span::of_subnet("10.0.0.0/16".parse().unwrap(), None, None).unwrap();
    assert_eq!(
        give(&mut ipam, &ask(7, vec![vec![wide]], &[])).unwrap()[0],
        "10.0.0.1"
    );
    for (set, said) in [
        (
            vec![span("10.0.1.1", "10.0.1.9")],
            "Pod CIDRs (10.0.0.0/24, 10.0.2.0/24, fd00::/64) have none",
        ),
        (
            vec![span("10.0.0.1", "10.0.0.9"), span("fd00::1", "fd00::2")],
            "two families",
        ),
        (Vec::new(), "have none"),
    ] {
        let error = give(&mut ipam, &ask(8, vec![set], &[])).unwrap_err();
        assert!(error.to_string().contains(said), "{error}");
    }
}

#[test]
fn a_range_of_a_subnet_has_its_ends_inside_it() {
    let of = |subnet: &str, start: Option<&str>, end: Option<&str>| {
        let parse = |ip: Option<&str>| ip.map(|ip| ip.parse().unwrap());
        Span::of_subnet(subnet.parse().unwrap(), parse(start), parse(end))
            .map(|span| span.to_string())
    };
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(of("10.0.0.0/24", None, None), some("10.0.0.1-10.0.0.254"));
    assert_eq!(
        of("10.0.0.0/24", Some("10.0.0.9"), None),
        some("10.0.0.9-10.0.0.254")
    );
    assert_eq!(
        of("fd00::/126", None, Some("fd00::2")),
        some("fd00::1-fd00::2")
    );
    assert_eq!(of("10.0.0.5/32", None, None), some("10.0.0.5"));
    assert_eq!(of("10.0.0.0/24", Some("10.0.1.9"), None), None);
    assert_eq!(of("10.0.0.0/24", Some("10.0.0.9"), Some("10.0.0.8")), None);
    assert_eq!(of("10.0.0.0/24", Some("fd00::1"), None), None);
}

#[test]
fn what_another_plugin_gave_is_held_wherever_it_is() {
    let mut ipam = ipam(&["10.0.0.0/24"]);
    let ask = |id: u32, given: &[&str]| Request {
        given: ips(given),
        fixed: ips(&["10.0.0.200"]),
        ..Request::new(holder(id), 0)
    };
    let others = ["10.0.0.1", "192.0.2.9", "192.0.2.9", "fd00::1"];
    assert_eq!(
        give(&mut ipam, &ask(1, &others)).unwrap(),
        ["10.0.0.1", "192.0.2.9", "fd00::1"]
    );
    assert_eq!(add(&mut ipam, 2, &[]).unwrap(), ["10.0.0.2"]);
    let error = give(&mut ipam, &ask(3, &["192.0.2.9"])).unwrap_err();
    assert!(
        error.to_string().contains("the IPAM plugin gave 192.0.2.9"),
        "{error}"
    );
    assert!(matches!(
        give(&mut ipam, &ask(1, &["192.0.2.8"])),
        Err(Error::HoldsOthers { .. })
    ));
    // Without any CIDR, as well.
    assert_eq!(
        give(&mut Ipam::default(), &ask(1, &others[..1])).unwrap(),
        ["10.0.0.1"]
    );
}

#[test]
fn a_choice_changes_nothing_and_a_change_that_does_not_fit_is_refused() {
    let mut ipam = ipam(&["10.0.0.0/24"]);
    let before = ipam.snapshot();
    let Choice::New(change) = ipam.choose(&Request::new(holder("a"), 5)).unwrap() else {
        panic!("nobody holds anything");
    };
    assert_eq!(ipam.snapshot(), before);
    let json = serde_json::to_string(&change).unwrap();
    assert_eq!(
        json,
        r#"{"given":{"lease":{"containerId":"a","interface":"eth0","addresses":["10.0.0.1"],"since":5},"round":["10.0.0.1"]}}"#
    );
    let read: Change = serde_json::from_str(&json).unwrap();
    assert_eq!(read, change);
    ipam.apply(change.clone()).unwrap();
    let before = ipam.snapshot();
    let mut other = serde_json::from_str::<serde_json::Value>(&json).unwrap();
    other["given"]["lease"]["containerId"] = "b".into();
    let twice: Change = serde_json::from_value(other.clone()).unwrap();
    assert!(
        ipam.apply(twice)
            .unwrap_err()
            .to_string()
            .contains("10.0.0.1 is there twice")
    );
    other["given"]["lease"]["addresses"] = serde_json::json!(["10.0.0.8", "10.0.0.8"]);
    let double: Change = serde_json::from_value(other).unwrap();
    assert!(
        ipam.apply(double)
            .unwrap_err()
            .to_string()
            .contains("10.0.0.8 is there twice")
    );
    assert!(
        ipam.apply(change)
            .unwrap_err()
            .to_string()
            .contains("container a is there twice")
    );
    let gone = Change::Released {
        holder: holder("b"),
        at: 9,
    };
    assert_eq!(
        serde_json::to_string(&gone).unwrap(),
        r#"{"released":{"holder":{"containerId":"b","interface":"eth0"},"at":9}}"#
    );
    assert!(
        ipam.apply(gone)
            .unwrap_err()
            .to_string()
            .contains("does not hold")
    );
    assert_eq!(ipam.snapshot(), before);
}

#[test]
fn a_snapshot_in_json_brings_back_leases_rests_and_the_place_in_the_round() {
    let mut before = ipam(&["10.0.0.0/24"]);
    before.allocate(&of_pod("a", "a-0", "u-1", 7)).unwrap();
    before.allocate(&of_pod("b", "b-0", "", 7)).unwrap();
    before.release(&holder("b"), 9);
    let json = serde_json::to_string(&before.snapshot()).unwrap();
    assert_eq!(
        json,
        r#"{"version":2,"leases":[{"containerId":"a","interface":"eth0","pod":{"namespace":"web","name":"a-0"},"uid":"u-1","addresses":["10.0.0.1"],"since":7}],"lastGiven":["10.0.0.2"],"cooling":[{"address":"10.0.0.2","since":9,"pod":{"namespace":"web","name":"b-0"}}]}"#
    );
    let mut after = Ipam::default();
    after.restore(serde_json::from_str(&json).unwrap());
    after.set_cidrs(nets(&["10.0.0.0/30"]));
    let pod = NamespacedName::new("web", "a-0");
    assert_eq!(after.lease(&holder("a")).unwrap().pod, Some(pod));
    assert_eq!(after.cooling(38).count(), 1);
    assert_eq!(after.cooling(39).count(), 0);
    after.set_cidrs(nets(&["10.0.0.0/24"]));
    assert_eq!(add_at(&mut after, "c", 9).unwrap(), ["10.0.0.3"]);
}

#[test]
fn what_an_earlier_release_wrote_is_read() {
    let json = r#"{"version":1,"leases":[{"containerId":"a","interface":"eth0","pod":{"namespace":"web","name":"a-0"},"uid":"u-1","addresses":["10.0.0.1"]}],"lastGiven":["10.0.0.2"]}"#;
    let snapshot: Snapshot = serde_json::from_str(json).unwrap();
    assert!(snapshot.is_of_older_release());
    let mut ipam = ipam(&["10.0.0.0/24"]);
    ipam.restore(snapshot);
    assert_eq!(ipam.lease(&holder("a")).unwrap().since, 0);
    assert_eq!(add(&mut ipam, "c", &[]).unwrap(), ["10.0.0.3"]);
    assert!(!ipam.snapshot().is_of_older_release());
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
    assert!(read(text(2, &[lease("a", "10.0.0.1")])).is_ok());
    assert!(read(text(3, &[])).unwrap_err().contains("form 3"));
    assert!(read(text(0, &[])).is_err());
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
    let held = lease("a", "10.0.0.1");
    let resting = format!(
        r#"{{"version":2,"leases":[{held}],"cooling":[{{"address":"10.0.0.1","since":4}}]}}"#
    );
    assert!(
        read(resting)
            .unwrap_err()
            .contains("10.0.0.1 is there twice")
    );
}

#[test]
fn a_reserved_address_that_has_rested_is_not_free() {
    let mut ipam = ipam(&["10.0.0.0/30"]);
    ipam.set_cool_down(6);
    add_at(&mut ipam, "a", 1000).unwrap();
    ipam.release(&holder("a"), 1000);
    ipam.set_reserved(nets(&["10.0.0.1/32"]));
    // Nobody has asked for an address since: what rests is settled then.
    let usage = ipam.usage(1006).next().unwrap();
    assert_eq!(
        (usage.cooling, usage.reserved, usage.free()),
        (0, 1, 1),
        "{usage:?}"
    );
}
