//! What `portolan service` is answered from: a copy of what is known.

use std::net::IpAddr;
use std::sync::Arc;

use api::resources::Service;
use ipnet::IpNet;
use services::proxy::announce::{Elsewhere, Unfit};
use services::proxy::index::Place;
use services::proxy::model::Served;

/// Each Service, and what of it this node serves.
#[derive(Clone, Debug)]
pub(crate) struct ServiceState {
    /// Whether the sources have said all they hold.
    pub(crate) in_sync: bool,
    /// The node's addresses that answer at node ports; empty: all.
    pub(crate) node_port_addresses: Vec<IpNet>,
    /// The addresses of this node, as its Node has them.
    pub(crate) node_addresses: Vec<IpAddr>,
    /// By their names.
    pub(crate) services: Vec<(Arc<Service>, Option<Arc<Served>>)>,
    /// How the one that was asked for is announced.
    pub(crate) announced: Option<Announced>,
}

/// What tells of one Service who announces it.
#[derive(Clone, Debug)]
pub(crate) struct Announced {
    pub(crate) service: Elsewhere,
    /// All nodes, by name, and why each takes no part, if it doesn't.
    pub(crate) nodes: Vec<(Place, Option<Unfit>)>,
}
