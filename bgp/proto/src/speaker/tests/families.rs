//! IPv4 and IPv6 routes over one session, whichever family the session itself is of (RFC 4760, 2545, 8950).

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use ipnet::IpNet;

use super::lab::Lab;
use super::nodes::{address, pod_cidr};
use crate::rib::Originated;

const SOON: Duration = Duration::from_secs(20);

fn address_v6(node: usize) -> IpAddr {
    let last = u16::try_from(node + 1).unwrap();
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last).into()
}

fn pod_cidr_v6(node: usize) -> IpNet {
    format!("2001:db8:{}::/48", node + 100).parse().unwrap()
}

/// Two external peers with both kinds of Pod CIDR; `told`: they know their own addresses of both families.
fn dual_stack(told: bool, session: fn(usize) -> IpAddr) -> Lab {
    let mut lab = Lab::pair(60, |to_second, to_first| {
        if told {
            to_second.own_addresses = vec![address(0), address_v6(0)];
            to_first.own_addresses = vec![address(1), address_v6(1)];
        }
    });
    lab.address_of = session;
    for node in 0..2 {
        lab.configure(node, |config| {
            config
                .originate
                .insert(pod_cidr_v6(node), Originated::default());
        });
    }
    lab.run_until(SOON, "a session and the routes of its own family", |lab| {
        lab.all_up() && lab.converged()
    });
    lab.run(Duration::from_secs(1));
    lab
}

fn gateways(lab: &Lab, node: usize, prefix: IpNet) -> Vec<IpAddr> {
    let held = lab.nodes[node].routes.get(&prefix);
    held.map_or(Vec::new(), |hops| {
        hops.iter().map(|hop| hop.address).collect()
    })
}

#[test]
fn a_session_over_ipv4_carries_ipv6_routes_with_an_ipv6_next_hop() {
    let lab = dual_stack(true, address);
    for (node, other) in [(0, 1), (1, 0)] {
        assert_eq!(gateways(&lab, node, pod_cidr(other)), [address(other)]);
        assert_eq!(
            gateways(&lab, node, pod_cidr_v6(other)),
            [address_v6(other)]
        );
    }
}

#[test]
fn a_session_over_ipv6_carries_ipv4_routes_with_an_ipv6_next_hop_as_rfc_8950_allows() {
    let lab = dual_stack(true, address_v6);
    for (node, other) in [(0, 1), (1, 0)] {
        assert_eq!(gateways(&lab, node, pod_cidr(other)), [address_v6(other)]);
        assert_eq!(
            gateways(&lab, node, pod_cidr_v6(other)),
            [address_v6(other)]
        );
    }
}

#[test]
fn without_an_ipv6_address_of_its_own_a_node_announces_no_ipv6_route_over_ipv4() {
    let lab = dual_stack(false, address);
    assert_eq!(gateways(&lab, 0, pod_cidr(1)), [address(1)]);
    assert_eq!(gateways(&lab, 0, pod_cidr_v6(1)), Vec::<IpAddr>::new());
}
