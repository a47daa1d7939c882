//! TCP MD5 (RFC 2385) on the real kernel: who may connect with which key.
#![allow(clippy::unwrap_used, reason = "a test")]

mod places;

use std::time::Duration;

use bgp_speaker::listener::{Admission, AdmittedSet};
use bgp_speaker::socket::{Password, SocketOptions, dial};
use places::{PORT, Server, at, eventually, keys, neighbours, possible};

/// A refused SYN is answered by nothing, so that a dial that is to fail is given this long.
const SHORT: Duration = Duration::from_millis(1500);

fn everyone() -> AdmittedSet {
    let mut set = AdmittedSet::default();
    for net in ["0.0.0.0/0", "::/0"] {
        set.admit(net.parse().unwrap(), Admission::default());
    }
    set
}

fn with(key: Option<&str>) -> SocketOptions {
    SocketOptions {
        password: key.map(|key| Password::new(key).unwrap()),
        interface: Some("eth0".to_owned()),
        ..SocketOptions::default()
    }
}

/// Whether `a` gets through to a listener on `b`'s `address` that has these keys.
fn connects(
    address: &'static str,
    of_listener: &'static [(&str, &str)],
    key: Option<&'static str>,
) -> bool {
    let (a, b) = neighbours();
    let listen = if address.contains(':') {
        "[::]"
    } else {
        "0.0.0.0"
    };
    let server = b.run(async move || {
        Server::start(&format!("{listen}:{PORT}"), everyone(), keys(of_listener)).await
    });
    let remote = at(&format!("{address}:{PORT}"));
    let connected = a.run(async move || {
        let dialled = tokio::time::timeout(SHORT, dial(remote, &with(key))).await;
        dialled.is_ok_and(|result| result.is_ok())
    });
    assert_eq!(server.refused(), 0);
    connected
}

#[test]
fn a_connection_needs_the_key_of_its_address_and_no_other() {
    if !possible() {
        return;
    }
    for (address, peer) in [
        ("192.0.2.2", "192.0.2.1/32"),
        ("[2001:db8::2]", "2001:db8::1/128"),
        ("[fe80::2]", "fe80::1/128"),
    ] {
        let peer: &'static [(&str, &str)] = Box::leak(Box::new([(peer, "sesame")]));
        assert!(
            connects(address, peer, Some("sesame")),
            "{address}: right key"
        );
        assert!(
            !connects(address, peer, Some("mustard")),
            "{address}: wrong key"
        );
        assert!(!connects(address, peer, None), "{address}: no key");
        assert!(
            !connects(address, &[], Some("sesame")),
            "{address}: a key too many"
        );
        assert!(connects(address, &[], None), "{address}: no keys at all");
    }
}

#[test]
fn a_key_of_a_prefix_is_everyones_in_it_and_the_longest_prefix_decides() {
    if !possible() {
        return;
    }
    let range: &[(&str, &str)] = &[("192.0.2.0/24", "range"), ("198.51.100.0/24", "other")];
    assert!(connects("192.0.2.2", range, Some("range")));
    assert!(!connects("192.0.2.2", range, Some("other")));
    let both: &[(&str, &str)] = &[("192.0.2.0/24", "range"), ("192.0.2.1/32", "own")];
    assert!(connects("192.0.2.2", both, Some("own")));
    assert!(!connects("192.0.2.2", both, Some("range")));
    let v6: &[(&str, &str)] = &[("2001:db8::/64", "range")];
    assert!(connects("[2001:db8::2]", v6, Some("range")));
    assert!(!connects("[2001:db8::2]", v6, None));
}

#[test]
fn keys_change_while_the_listener_listens() {
    if !possible() {
        return;
    }
    let (a, b) = neighbours();
    let mut server =
        b.run(async || Server::start(&format!("0.0.0.0:{PORT}"), everyone(), keys(&[])).await);
    let mut try_all = |of_listener: &'static [(&str, &str)]| {
        server.listener.set_keys(keys(of_listener)).unwrap();
        [None, Some("old"), Some("new")].map(|key| {
            let connected = a.run(async move || {
                let remote = at(&format!("192.0.2.2:{PORT}"));
                let dialled = tokio::time::timeout(SHORT, dial(remote, &with(key))).await;
                dialled.is_ok_and(|result| result.is_ok())
            });
            while server.accepted.try_recv().is_ok() {}
            connected
        })
    };
    let one: &[(&str, &str)] = &[("192.0.2.1/32", "old")];
    let other: &[(&str, &str)] = &[("192.0.2.1/32", "new")];
    assert_eq!(try_all(&[]), [true, false, false]);
    assert_eq!(try_all(one), [false, true, false]);
    assert_eq!(try_all(other), [false, false, true]);
    assert_eq!(try_all(&[("192.0.2.0/24", "old")]), [false, true, false]);
    assert_eq!(try_all(&[]), [true, false, false]);
}

#[test]
fn a_key_the_kernel_refuses_is_an_error_and_closes_that_peer_out() {
    if !possible() {
        return;
    }
    let (a, b) = neighbours();
    // Room for some keys only.
    let many: Vec<(String, &str)> = (0..2000)
        .map(|n| (format!("10.0.{}.{}/32", n / 250, n % 250), "key"))
        .chain([("192.0.2.1/32".to_owned(), "key")])
        .collect();
    let many = many
        .iter()
        .map(|(net, key)| (net.parse().unwrap(), Password::new(key).unwrap()))
        .collect();
    let server =
        b.run(async || Server::start(&format!("0.0.0.0:{PORT}"), everyone(), keys(&[])).await);
    let errors = server.listener.set_keys(many).unwrap_err();
    let text = errors.first().unwrap().to_string();
    assert!(text.starts_with("peer 10.0."), "{text}");
    assert!(text.contains("optmem_max"), "{text}");
    assert!(
        server
            .listener
            .status()
            .error
            .unwrap()
            .contains("192.0.2.1/32")
    );
    // The kernel has no key for this one: without the refusal it would be let in.
    a.run(async || {
        dial(at(&format!("192.0.2.2:{PORT}")), &with(None))
            .await
            .map(drop)
    })
    .unwrap();
    eventually(|| server.refused() == 1);
}

#[test]
fn errors_of_a_dial_name_the_peer_and_what_was_wrong() {
    if !possible() {
        return;
    }
    let (a, _b) = neighbours();
    let failing = [
        (
            SocketOptions {
                interface: Some("eth9".to_owned()),
                ..with(None)
            },
            "interface eth9",
        ),
        (
            SocketOptions {
                source: Some("203.0.113.1".parse().unwrap()),
                ..with(None)
            },
            "source address 203.0.113.1",
        ),
    ];
    for (options, what) in failing {
        let error = a.run(async move || {
            dial(at("192.0.2.2:179"), &options)
                .await
                .unwrap_err()
                .to_string()
        });
        assert!(
            error.contains("peer 192.0.2.2:179") && error.contains(what),
            "{error}"
        );
    }
}
