//! What the definition of BGPPeer refuses.

use super::{Case, case};

const ONE: &str =
    "exactly one of peerAddress, interface, peerSelector and listenRange names the peer";
const NUMBER: &str = "asNumber is external, internal or a number from 1 to 4294967294 that is not reserved (23456, 65535)";
const ADDRESS: &str = "write ip or ip:port; a link-local one with its interface, fe80::1%eth0";

/// Beside `peerAddress: 192.0.2.1, asNumber: 65001`.
const SESSION: &[(&str, &str, &str)] = &[
    (
        "multihop: 4",
        "multihop: 4, ttlSecurity: 1",
        "ttlSecurity and multihop exclude each other",
    ),
    (
        "role: Peer, strictRole: true",
        "strictRole: true",
        "strictRole needs a role",
    ),
    (
        "role: RouteServer",
        "role: Server",
        r#"supported values: "Provider", "RouteServer", "RouteServerClient", "Customer", "Peer""#,
    ),
    (
        "localASNumber: 65002",
        "localASNumber: 65001",
        "localASNumber is the peer's own AS",
    ),
    (
        "localASNumber: 65534",
        "localASNumber: 65535",
        "this AS number is reserved",
    ),
    (
        "sourceAddress: 192.0.2.7",
        "sourceAddress: eth0",
        "write an address such as 192.0.2.1 or 2001:db8::1",
    ),
    (
        "holdTime: 3s",
        "holdTime: 2s",
        "holdTime is 0s or whole seconds from 3s to 65535s",
    ),
    (
        "holdTime: '0'",
        "holdTime: '90'",
        "holdTime is 0s or whole seconds from 3s to 65535s",
    ),
    (
        "holdTime: 1m30s",
        "holdTime: 1500ms",
        "holdTime is 0s or whole seconds from 3s to 65535s",
    ),
    (
        "keepaliveTime: 1s",
        "keepaliveTime: 0.5s",
        "keepaliveTime is whole seconds, such as 30s",
    ),
    (
        "keepaliveTime: 89s",
        "keepaliveTime: 90s",
        "keepaliveTime is between 1s and the hold time",
    ),
    (
        "holdTime: 9s, keepaliveTime: 3s",
        "holdTime: 9s, keepaliveTime: 9s",
        "keepaliveTime is between 1s and the hold time",
    ),
    (
        "delayOpen: +10m",
        "delayOpen: 601s",
        "delayOpen is a duration up to 10m, such as 5s",
    ),
    (
        "bfd: {minTx: .01s}",
        "bfd: {minTx: 9ms}",
        "minTx is from 10ms to 60s",
    ),
    (
        "bfd: {minRx: 60s}",
        "bfd: {minRx: 1m1s}",
        "minRx is from 10ms to 60s",
    ),
    (
        "maxPrefixes: {restartAfter: 1s}",
        "maxPrefixes: {restartAfter: 999ms}",
        "restartAfter is whole seconds, at least 1s",
    ),
    (
        "gracefulRestart: {restartTime: 0s}",
        "gracefulRestart: {restartTime: 2h}",
        "restartTime is whole seconds up to 4095s, such as 90s",
    ),
    (
        "gracefulRestart: {longLivedStaleTime: 16777215s}",
        "gracefulRestart: {longLivedStaleTime: 16777216s}",
        "longLivedStaleTime is whole seconds up to 16777215s, such as 24h",
    ),
    (
        "filters: [a, b]",
        "filters: [a, b, a]",
        "filters names one twice: the second never decides",
    ),
];

const WHOLE: &[(&str, &str, &str)] = &[
    (
        "{peerAddress: 192.0.2.1, asNumber: 1}",
        "{asNumber: 1}",
        ONE,
    ),
    (
        "{interface: eth1, asNumber: 1}",
        "{interface: eth1, peerAddress: 192.0.2.1, asNumber: 1}",
        ONE,
    ),
    (
        "{listenRange: 192.0.2.0/24, passive: true, asNumber: 1}",
        "{listenRange: 192.0.2.0/24, passive: false, asNumber: 1}",
        "a listenRange is passive: its peers dial",
    ),
    (
        "{listenRange: 'fd00::/64', asNumber: 1}",
        "{listenRange: 192.0.2.0, asNumber: 1}",
        "write a CIDR such as 10.0.0.0/8 or fd00::/8",
    ),
    (
        "{peerAddress: 192.0.2.1, asNumber: external}",
        "{peerAddress: 192.0.2.1}",
        "asNumber is missing: a number, external or internal",
    ),
    (
        "{peerAddress: 192.0.2.1, asNumber: 4294967294}",
        "{peerAddress: 192.0.2.1, asNumber: 4294967295}",
        NUMBER,
    ),
    (
        "{peerAddress: 192.0.2.1, asNumber: internal}",
        "{peerAddress: 192.0.2.1, asNumber: other}",
        NUMBER,
    ),
    (
        "{interface: eth1, asNumber: external}",
        "{interface: eth1, asNumber: internal}",
        "asNumber cannot be internal with an interface: give a number or external",
    ),
    (
        "{peerAddress: 192.0.2.1, asNumber: internal, routeReflectorClient: true}",
        "{peerAddress: 192.0.2.1, asNumber: external, routeReflectorClient: true}",
        "routeReflectorClient is for a peer in our own AS: asNumber cannot be external",
    ),
    (
        "{peerAddress: 192.0.2.1, asNumber: external, role: Customer}",
        "{peerAddress: 192.0.2.1, asNumber: internal, role: Customer}",
        "role is for a peer in another AS: it excludes asNumber internal and routeReflectorClient",
    ),
    (
        "{peerAddress: 192.0.2.1, asNumber: external, localASNumber: 65002}",
        "{peerAddress: 192.0.2.1, asNumber: internal, localASNumber: 65002}",
        "localASNumber is for a peer in another AS: asNumber cannot be internal",
    ),
    (
        "{peerSelector: all(), asNumber: internal, sourceAddress: 192.0.2.7}",
        "{interface: eth1, asNumber: external, sourceAddress: 192.0.2.7}",
        "sourceAddress is for peers that we dial by an address: leave it out",
    ),
    (
        "{peerAddress: 'fe80::1%eth0', asNumber: external}",
        "{peerAddress: 'fe80::1', asNumber: external}",
        "the address is link-local: name its interface too, as in fe80::1%eth0",
    ),
    (
        "{peerAddress: '[2001:db8::1]:1179', asNumber: external}",
        "{peerAddress: tor1.example, asNumber: external}",
        ADDRESS,
    ),
    (
        "{peerAddress: '192.0.2.1:1179', asNumber: external}",
        "{peerAddress: '192.0.2.1/24', asNumber: external}",
        ADDRESS,
    ),
    (
        "{peerAddress: '[FE80::1%eth0.5]:1179', asNumber: external}",
        "{peerAddress: '192.0.2.1%eth0', asNumber: external}",
        ADDRESS,
    ),
];

pub(super) fn bgp_peers() -> Vec<Case> {
    let session = SESSION.iter().map(|(good, bad, says)| {
        let peer = |more| format!("{{peerAddress: 192.0.2.1, asNumber: 65001, {more}}}").leak();
        case("BGPPeer", peer(good), peer(bad), says)
    });
    let whole = WHOLE.iter();
    let whole = whole.map(|(good, bad, says)| case("BGPPeer", good, bad, says));
    session.chain(whole).collect()
}
