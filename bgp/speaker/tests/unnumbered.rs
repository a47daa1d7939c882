//! Peers by interface on the real kernel: who is found at the other end of a link, and when it is gone.
#![allow(clippy::unwrap_used, reason = "a test")]

mod places;

use std::collections::BTreeSet;
use std::time::Duration;

use bgp_speaker::unnumbered::{UnnumberedEvent, spawn};
use places::{DEADLINE, Place, eventually, join, neighbours, possible};
use tokio::sync::{mpsc, watch};

/// Discovery in a place.
struct Finder {
    wanted: watch::Sender<BTreeSet<String>>,
    events: mpsc::Receiver<UnnumberedEvent>,
}

impl Finder {
    fn start(place: &Place, interfaces: &[&str]) -> Self {
        let wanted = watch::Sender::new(names(interfaces));
        let receiver = wanted.subscribe();
        let events = place.run(async move || spawn(receiver));
        Self { wanted, events }
    }

    fn next(&mut self) -> UnnumberedEvent {
        let mut event = None;
        eventually(|| {
            event = self.events.try_recv().ok();
            event.is_some()
        });
        event.unwrap()
    }

    fn finds(&mut self, interface: &str, address: &str) {
        let event = self.next();
        let UnnumberedEvent::Discovered {
            interface: on,
            ifindex,
            address: found,
        } = &event
        else {
            panic!("{event:?}");
        };
        assert_eq!(
            (on.as_str(), found.to_string().as_str()),
            (interface, address)
        );
        assert!(*ifindex > 1, "{event:?}");
    }

    fn loses(&mut self, interface: &str) {
        let interface = interface.to_owned();
        assert_eq!(self.next(), UnnumberedEvent::Lost { interface });
    }

    fn cannot_use(&mut self, interface: &str, why: &str) {
        let reason = self.refusal(interface);
        assert!(reason.contains(why), "{reason}");
    }

    /// Where `ip` is slow, an interface is looked at that is made but not up.
    fn cannot_use_once_it_is_up(&mut self, interface: &str, why: &str) {
        let mut reason = self.refusal(interface);
        if reason.contains("it is down") {
            reason = self.refusal(interface);
        }
        assert!(reason.contains(why), "{reason}");
    }

    fn refusal(&mut self, interface: &str) -> String {
        let event = self.next();
        let UnnumberedEvent::Unavailable {
            interface: on,
            reason,
        } = event
        else {
            panic!("{event:?}");
        };
        assert_eq!(on, interface);
        assert!(reason.contains(interface), "{reason}");
        reason
    }
}

fn names(interfaces: &[&str]) -> BTreeSet<String> {
    interfaces.iter().map(|&name| name.to_owned()).collect()
}

#[test]
fn two_ends_of_a_link_find_each_other_and_make_nobody_a_default_router() {
    if !possible() {
        return;
    }
    let (a, b) = neighbours();
    let start = std::time::Instant::now();
    let mut at_a = Finder::start(&a, &["eth0"]);
    let mut at_b = Finder::start(&b, &["eth0"]);
    at_a.finds("eth0", "fe80::2");
    at_b.finds("eth0", "fe80::1");
    assert!(start.elapsed() < DEADLINE / 3, "{:?}", start.elapsed());
    for place in [&a, &b] {
        let routes = place.run(async || {
            let arguments = ["-6", "route", "show", "default"];
            std::process::Command::new("ip")
                .args(arguments)
                .output()
                .unwrap()
        });
        assert_eq!(String::from_utf8(routes.stdout).unwrap(), "");
    }
}

#[test]
fn a_late_comer_is_answered_at_once() {
    if !possible() {
        return;
    }
    let (a, b) = neighbours();
    let _at_a = Finder::start(&a, &["eth0"]);
    // Past the fast advertisements: the next unasked one is ten seconds away.
    std::thread::sleep(Duration::from_secs(4));
    let start = std::time::Instant::now();
    Finder::start(&b, &["eth0"]).finds("eth0", "fe80::1");
    assert!(
        start.elapsed() < Duration::from_secs(3),
        "{:?}",
        start.elapsed()
    );
}

#[test]
fn a_link_that_goes_down_loses_its_neighbour_and_finds_it_again() {
    if !possible() {
        return;
    }
    let (a, b) = neighbours();
    let mut at_a = Finder::start(&a, &["eth0"]);
    let _at_b = Finder::start(&b, &["eth0"]);
    at_a.finds("eth0", "fe80::2");
    b.ip("link set eth0 down");
    at_a.loses("eth0");
    at_a.cannot_use("eth0", "down");
    b.ip("link set eth0 up");
    b.ip("addr replace fe80::2/64 dev eth0 nodad");
    at_a.finds("eth0", "fe80::2");
}

#[test]
fn an_interface_that_is_not_there_is_named_and_used_once_it_is() {
    if !possible() {
        return;
    }
    let (a, b) = neighbours();
    let mut at_a = Finder::start(&a, &["eth0", "eth1"]);
    at_a.cannot_use("eth1", "no such interface");
    let _at_b = Finder::start(&b, &["eth0", "eth1"]);
    at_a.finds("eth0", "fe80::2");
    join(
        (&a, "eth1", &["10.0.0.1/24"]),
        (&b, "eth1", &["fe80::3/64"]),
    );
    // An end without a link-local address has no source for advertisements.
    at_a.cannot_use_once_it_is_up("eth1", "no IPv6 link-local address");
    a.ip("addr add fe80::4/64 dev eth1 nodad");
    at_a.finds("eth1", "fe80::3");
    at_a.wanted.send_replace(names(&["eth1"]));
    at_a.loses("eth0");
}
