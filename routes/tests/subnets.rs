//! Subnets of the host's own interfaces, as the table finds them in a real kernel.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]
#![allow(clippy::print_stderr, reason = "a test prints why it is skipped")]

mod lab;

use ipnet::IpNet;
use lab::{in_netns, ip, uplink};
use routes::RouteTable;

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

#[test]
fn the_hosts_own_subnets_that_would_give_way_to_ours_are_known_while_their_link_is_up() {
    in_netns(|| async {
        uplink();
        ip("route add 2001:db8:77::/48 via 2001:db8::2");
        let mut table = RouteTable::open().await.unwrap();
        let subnet = net("2001:db8::/64");
        assert!(table.subnets().contains(&subnet), "{:?}", table.subnets());
        // Those of IPv4 win over ours by themselves, and what goes by a router is no subnet.
        let link_local = net("fe80::/64");
        let others = table.subnets().iter().filter(|one| **one != link_local);
        assert_eq!(others.count(), 1, "{:?}", table.subnets());
        ip("addr add 2001:db8:5::1/64 dev up0 nodad");
        table.resync().await;
        assert!(table.subnets().contains(&net("2001:db8:5::/64")));
        ip("link set up0 down");
        table.resync().await;
        assert!(!table.subnets().contains(&subnet), "{:?}", table.subnets());
    });
}
