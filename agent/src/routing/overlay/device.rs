//! The device of each kind of tunnel, made and kept by what a demand says.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ::overlay::{Demand, Kind, Plan};
use routes::{TunnelReport, Ways};
use tracing::info;

use super::{ipip, vxlan};

/// Of so many nodes the way is looked up for its MTU.
const LOOKED_UP: usize = 256;
/// What is taken for the underlay's MTU in bytes while nothing leads out.
const USUAL_MTU: u32 = 1500;

/// Makes the plan from the node's present subnets, and the device and its entries what the plan says.
pub(super) async fn carry_out(demand: &Demand) -> Result<(Plan, TunnelReport), routes::Error> {
    let plan = demand.plan(&routes::subnets_of(&demand.local).await?);
    let underlays = plan.peers.values().map(|peer| peer.underlay);
    let ways = Ways {
        own: BTreeSet::from([demand.local]),
        to: underlays.take(LOOKED_UP).collect(),
        interfaces: BTreeSet::new(),
    };
    let path = routes::path_mtu(&ways).await?;
    let outer = path.map_or(USUAL_MTU, |path| path.mtu);
    let mtu = outer.saturating_sub(demand.overhead());
    let report = match demand.kind {
        Kind::Vxlan => vxlan::apply(demand, &plan, mtu).await?,
        Kind::Ipip => ipip::apply(demand, &plan, mtu).await?,
        // Nothing asks for it: it is not built.
        Kind::WireGuard => TunnelReport::default(),
    };
    let name = demand.kind.device();
    if report.made {
        info!(name, local = %demand.local, mtu, "the tunnel's device is made");
    } else if report.written + report.deleted > 0 {
        info!(
            name,
            report.written, report.deleted, "the tunnel's entries follow"
        );
    }
    Ok((plan, report))
}

/// This node's own address that the device's packets bear, if there is a device of ours.
pub(super) async fn local(kind: Kind) -> Result<Option<IpAddr>, routes::Error> {
    match kind {
        Kind::Vxlan => routes::tunnel_local().await,
        Kind::Ipip => routes::ipip_local().await,
        Kind::WireGuard => Ok(None),
    }
}

/// Takes the device away; whether there was one of ours.
pub(in crate::routing) async fn delete(kind: Kind) -> Result<bool, routes::Error> {
    match kind {
        Kind::Vxlan => routes::delete_tunnel().await,
        Kind::Ipip => routes::delete_ipip().await,
        Kind::WireGuard => Ok(false),
    }
}
