//! The VXLAN device: one forwarding entry for each other node, and neighbours for the gateways that routes name it by.

use ::overlay::{Demand, Plan};
use routes::{Tunnel, TunnelPeer, TunnelReport};

pub(super) async fn apply(
    demand: &Demand,
    plan: &Plan,
    mtu: u32,
) -> Result<TunnelReport, routes::Error> {
    let peers = plan.peers.iter().map(|(mac, peer)| {
        let peer = TunnelPeer {
            underlay: peer.underlay,
            neighbours: peer.neighbours.clone(),
        };
        (*mac, peer)
    });
    routes::apply_tunnel(&Tunnel {
        local: demand.local,
        mac: demand.mac,
        mtu,
        addresses: plan.addresses.clone(),
        peers: peers.collect(),
    })
    .await
}
