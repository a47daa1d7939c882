//! The IPIP device: it has no entries, since each route's gateway is the other node's own address.

use std::net::IpAddr;

use ::overlay::{Demand, Plan};
use routes::{Ipip, TunnelReport};

pub(super) async fn apply(
    demand: &Demand,
    plan: &Plan,
    mtu: u32,
) -> Result<TunnelReport, routes::Error> {
    let IpAddr::V4(local) = demand.local else {
        // No demand is made of a node without IPv4 (`Kind::carries`).
        return Ok(TunnelReport::default());
    };
    routes::apply_ipip(&Ipip {
        local,
        mtu,
        addresses: plan.addresses.clone(),
    })
    .await
}
