//! The device of each kind of tunnel, made and kept by what a demand says.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use ::overlay::{Demand, Kind, Route};
use ipnet::IpNet;
use routes::{Gateway, Target, TunnelReport, Ways};
use tracing::info;

use super::{ipip, vxlan};

/// Of so many nodes the way is looked up for its MTU.
const LOOKED_UP: usize = 256;
/// What is taken for the underlay's MTU in bytes while nothing leads out.
const USUAL_MTU: u32 = 1500;

/// What came of it.
#[derive(Debug)]
pub(super) struct Carried {
    /// Where each prefix goes.
    pub(super) routes: BTreeMap<IpNet, Target>,
    pub(super) report: TunnelReport,
    /// The other ends are known to be there: no route needs to wait for them.
    pub(super) is_ready: bool,
    /// When it is to be looked at again, if soon.
    pub(super) again: Option<Duration>,
}

/// Makes the plan from the node's present subnets, and the device and its entries what the plan says.
pub(super) async fn carry_out(demand: &Demand) -> Result<Carried, routes::Error> {
    let plan = demand.plan(&routes::subnets_of(&demand.local).await?);
    let mtu = mtu_of(demand, plan.peers.values().map(|peer| peer.underlay)).await?;
    let report = match demand.kind {
        Kind::Vxlan => vxlan::apply(demand, &plan, mtu).await?,
        Kind::Ipip => ipip::apply(demand, &plan, mtu).await?,
        // It has keys, and so a task of its own.
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
    let routes = plan.routes.iter();
    let routes = routes.map(|(prefix, route)| (*prefix, target(demand.kind, *route)));
    Ok(Carried {
        routes: routes.collect(),
        report,
        is_ready: false,
        again: None,
    })
}

/// The MTU of what is sent through a tunnel.
pub(super) async fn mtu_of(
    demand: &Demand,
    underlays: impl Iterator<Item = IpAddr>,
) -> Result<u32, routes::Error> {
    let ways = Ways {
        own: BTreeSet::from([demand.local]),
        to: underlays.take(LOOKED_UP).collect(),
        interfaces: BTreeSet::new(),
    };
    let path = routes::path_mtu(&ways).await?;
    let outer = path.map_or(USUAL_MTU, |path| path.mtu);
    Ok(outer.saturating_sub(demand.overhead()))
}

fn target(kind: Kind, route: Route) -> Target {
    match route {
        Route::Direct(address) => Target::Gateways(vec![Gateway::new(address)]),
        Route::Tunnel(gateway) => Target::Onlink {
            interface: kind.device().to_owned(),
            gateway,
        },
    }
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
        Kind::WireGuard => {
            let first = routes::delete_wireguard(0).await?;
            Ok(routes::delete_wireguard(1).await? || first)
        }
    }
}
