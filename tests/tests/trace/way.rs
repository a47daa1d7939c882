//! What is broken on the way: routes of this node, its uplinks, routers, and links that are too narrow.

use tests::netns::{Netns, join};

use crate::path::Path;

const DB: &str = "shop/web shop/db:8080";
const NODE: &str = "node node1";
/// Documentation's (RFC 5737): nothing leads there unless a route is made.
const NOWHERE: &str = "shop/web 203.0.113.9:80";

pub(crate) fn routes(path: &mut Path) {
    path.ends(
        NOWHERE,
        "route-missing",
        NODE,
        "there is no route to 203.0.113.9",
    );
    for kind in ["blackhole", "unreachable", "prohibit"] {
        path.ip(&format!("route add {kind} 10.244.2.0/24 metric 10"));
        path.ends_and_mends(
            DB,
            "route-nowhere",
            NODE,
            "the route 10.244.2.0/24 (protocol 3, metric 10) refuses it",
        );
    }
    path.ends(
        "shop/web 10.244.1.250:80",
        "route-nowhere",
        NODE,
        "10.244.1.0/24 (ours) refuses it",
    );
    path.ip("route add 203.0.113.0/24 via 10.10.1.99");
    path.ends(
        NOWHERE,
        "next-hop",
        "next hop 10.10.1.99",
        "does not answer for its address on uplink",
    );
    path.ip("route del 203.0.113.0/24");
}

/// Another link: to a router that knows nothing, then to the ToR, by which answers come back.
pub(crate) fn second_uplink(path: &mut Path) {
    let sink = Netns::new("trc", "sink").unwrap();
    join((&sink, "node1"), (path.node(), "second")).unwrap();
    sink.ip("addr add 10.10.9.1/24 dev node1").unwrap();
    path.ip("addr add 10.10.9.2/24 dev second");
    let db = path.address("shop/db");
    path.ip(&format!("route add {db} via 10.10.9.1"));
    path.ends_and_mends(
        DB,
        "route-foreign",
        NODE,
        &format!("the route {db}/32 (protocol 3, metric 0) takes it to 10.10.9.1"),
    );
    path.ip("route add 203.0.113.0/24 via 10.10.9.1");
    sink.ip("link set node1 down").unwrap();
    path.ends(
        NOWHERE,
        "link-down",
        NODE,
        "second, by which it is to leave, is down",
    );
    path.ip("link del second");

    let tor = &path.lab.tor;
    join((tor, "again"), (path.node(), "second")).unwrap();
    tor.ip("addr add 10.10.9.1/24 dev again").unwrap();
    path.ip("addr add 10.10.9.2/24 dev second");
    path.lab
        .tor
        .ip("route add 10.244.1.0/24 via 10.10.9.2 metric 1")
        .unwrap();
    path.reached(DB);
    path.node()
        .sysctl("net.ipv4.conf.second.rp_filter", "1")
        .unwrap();
    path.ends_and_mends(DB, "reverse-path", NODE, "what comes by second is dropped");
    path.lab.tor.ip("link del again").unwrap();
    path.node()
        .sysctl("net.ipv4.conf.all.rp_filter", "0")
        .unwrap();
    path.reached(DB);
}

pub(crate) fn routers(path: &mut Path) {
    path.lab
        .tor
        .ip("route add blackhole 10.244.2.0/24 metric 1")
        .unwrap();
    path.ends(
        DB,
        "router",
        "behind 10.10.1.1",
        "it left this node by uplink",
    );
    path.lab
        .tor
        .ip("route del blackhole 10.244.2.0/24 metric 1")
        .unwrap();
    path.lab
        .tor
        .ip("route add prohibit 10.244.2.0/24 metric 1")
        .unwrap();
    path.ends(
        DB,
        "router-refused",
        "router 10.10.1.1",
        "forbidden there by an administrator",
    );
    path.lab
        .tor
        .ip("route del prohibit 10.244.2.0/24 metric 1")
        .unwrap();
    path.reached(DB);
    // The ToR lets it through, and the other node drops it.
    let other = &path.lab.nodes[1].netns;
    other.sysctl("net.ipv4.ip_forward", "0").unwrap();
    path.ends(DB, "router", "behind 10.10.1.1", "nothing comes back");
    path.lab.nodes[1]
        .netns
        .sysctl("net.ipv4.ip_forward", "1")
        .unwrap();
    path.reached(DB);
}

pub(crate) fn narrow_links(path: &mut Path) {
    path.reached(DB);
    path.lab.tor.ip("link set node2 mtu 1300").unwrap();
    let remedy = path.ends(
        DB,
        "mtu",
        "router 10.10.1.1",
        "its next link takes 1300 octets",
    );
    assert!(remedy.contains("--mtu 1300"), "{remedy}");
    path.lab.tor.ip("link set node2 mtu 1500").unwrap();
    path.reached(DB);
    // What comes to an end of a veth that takes less is dropped without a word.
    path.lab.outside.ip("link set eth0 mtu 1400").unwrap();
    path.ends(
        "shop/web 192.0.2.10:8080",
        "mtu",
        "target 192.0.2.10",
        "1500 octets vanish without a word; 1400 octets pass",
    );
    path.lab.outside.ip("link set eth0 mtu 1500").unwrap();
    path.reached("shop/web 192.0.2.10:8080");
}
