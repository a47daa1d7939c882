//! What the kernel says of next hops decides which routes are used (RFC 4271 §9.1.2.1).

use std::time::Duration;

use super::lab::Lab;
use super::nodes::{address, peer, peer_name, pod_cidr};
use crate::rib::NextHopState;

const SOON: Duration = Duration::from_secs(20);

#[test]
fn a_route_is_not_used_while_its_next_hop_cannot_be_reached() {
    let mut lab = Lab::mesh(3, 70);
    lab.run_until(SOON * 2, "routes", |lab| lab.all_up() && lab.converged());
    let tell = |lab: &mut Lab, state| {
        lab.with(0, |speaker, _, _| {
            assert!(speaker.next_hops().contains(&address(1)));
            speaker.handle_next_hops([(address(1), state), (address(9), state)]);
        });
        lab.run(Duration::from_secs(1));
    };
    tell(&mut lab, NextHopState::Unreachable);
    assert!(!lab.nodes[0].routes.contains_key(&pod_cidr(1)));
    assert!(
        lab.nodes[0].routes.contains_key(&pod_cidr(2)),
        "another's stays"
    );
    assert!(lab.is_up(0, 1), "the session is not concerned");
    lab.with(0, |speaker, _, _| {
        let told = speaker.explain(pod_cidr(1));
        assert!(!told.paths[0].path.reachable);
    });
    tell(&mut lab, NextHopState::Reachable { igp_cost: 7 });
    assert!(lab.converged());
}

#[test]
fn the_nearer_next_hop_wins() {
    let mut lab = Lab::mesh(3, 71);
    for node in [1, 2] {
        lab.configure(node, |config| {
            config
                .originate
                .insert("10.99.0.0/16".parse().unwrap(), Default::default());
        });
    }
    lab.run_until(SOON * 2, "routes", |lab| lab.all_up() && lab.converged());
    let used = |lab: &Lab| {
        lab.nodes[0].routes[&"10.99.0.0/16".parse().unwrap()]
            .iter()
            .map(|hop| hop.address)
            .collect::<Vec<_>>()
    };
    for (near, far) in [(1, 2), (2, 1)] {
        lab.with(0, |speaker, _, _| {
            speaker.handle_next_hops([
                (address(near), NextHopState::Reachable { igp_cost: 10 }),
                (address(far), NextHopState::Reachable { igp_cost: 20 }),
            ]);
        });
        lab.run(Duration::from_secs(1));
        assert_eq!(used(&lab), [address(near)]);
    }
    // A next hop of a peer that is gone is no longer tracked.
    lab.configure(0, |config| {
        config.peers.remove(&peer_name(1));
        config.peers.insert(peer_name(2), peer(64_512));
    });
    lab.run(Duration::from_secs(1));
    lab.with(0, |speaker, _, _| {
        assert!(!speaker.next_hops().contains(&address(1)));
    });
}
