//! The kernel's side by netlink: routes of ours, pods' links, conntrack, notices of change; it knows no BGP and no Kubernetes.

mod batch;
mod conn;
pub mod conntrack;
mod failures;
mod generic;
mod intern;
mod ipip;
pub mod ipvs;
mod links;
mod look;
mod monitor;
mod nexthops;
mod nftables;
mod offload;
mod own_addresses;
mod pace;
mod path;
mod pod;
pub mod rule_notices;
mod survey;
mod sysctl;
mod table;
mod target;
mod tracker;
mod tunnel;
mod wire;
mod wireguard;

pub use ipip::{IPIP, Ipip, apply_ipip, delete_ipip, ipip_local};
pub use links::{
    LINK_PREFIX, LinkInfo, SHAPER_PREFIX, delete_link, delete_link_at, delete_lone_shapers,
    pod_links, shapers,
};
pub use look::{Looker, Neighbour, NoWay, PodEnd, Question, Way};
pub use monitor::{Monitor, Notice};
pub use nftables::{NfTables, NftRequest};
pub use offload::leave_checksums_to_device;
pub use own_addresses::{TakenReport, packets_taken_for, take_packets_for};
pub use path::{PathMtu, Ways, path_mtu, subnets_of};
pub use pod::{
    GATEWAY_V4, GATEWAY_V6, HOST_MAC, LEAST_MTU_V6, MadePodLink, MtuOutcome, PodLink, PodLinkState,
    Shaping, check_pod_link, create_pod_link, make_pod_link, pod_mtu, raise_pod_link, set_pod_mtus,
};
pub use survey::{SeenRoute, Survey, survey};
pub use sysctl::{Sysctl, SysctlOutcome, host_sysctls, ipvs_sysctls};
pub use table::{Clash, Options, Repointed, Report, RouteTable, RouteView, Status, Sweep};
pub use target::{Gateway, Target};
pub use tracker::{NextHopTracker, Reach};
pub use tunnel::{
    Mac, TUNNEL, Tunnel, TunnelPeer, TunnelReport, VNI, VXLAN_PORT, apply_tunnel, delete_tunnel,
    tunnel_local,
};
pub use wireguard::{
    PrivateKey, PublicKey, WIREGUARD, WireGuard, WireGuardPeer, WireGuardReport, WireGuardTraffic,
    apply_wireguard, delete_wireguard,
};

use std::io;

/// The protocol number (rtm_protocol) that marks a route as ours.
pub const PROTOCOL: u8 = 179;
/// The metric (RTA_PRIORITY) every route of ours bears: with the protocol it is our mark.
pub const METRIC: u32 = 179;

/// What went wrong at the kernel, by what the caller does next.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A socket could not be opened, sent to or read: nothing is known of what the kernel did.
    #[error("netlink, {0}: {1}")]
    Socket(&'static str, #[source] io::Error),
    /// The kernel refused one request; what it concerned, and why.
    #[error("{what}: {source}{}", if .said.is_empty() { String::new() } else { format!(" ({})", .said) })]
    Refused {
        /// The request, in words.
        what: String,
        /// The kernel's error number.
        #[source]
        source: io::Error,
        /// The kernel's own sentence (extended ack), or nothing.
        said: String,
    },
    /// The kernel answered what cannot be understood.
    #[error("netlink answered what can't be read: {0}")]
    Garbled(String),
    /// An interface name that isn't one, or that isn't ours to touch.
    #[error("interface {name:?}: {why}")]
    Name {
        /// The name as given.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The pod already has an interface of that name, which isn't from us.
    #[error("the pod already has an interface {0}; remove it or ask for another name")]
    PodInterfaceExists(String),
    /// The tunnel's device can't be made: something else is in its place.
    #[error("the tunnel {name}: {why}")]
    TunnelClash {
        /// The device's name.
        name: &'static str,
        /// What is in the way, and what to do.
        why: String,
    },
    /// The kernel lacks a driver.
    #[error("this kernel has no {what}: {way_out}")]
    NoDriver {
        /// What it lacks.
        what: &'static str,
        /// What to do.
        way_out: &'static str,
    },
    /// The interface is not there.
    #[error("no interface {0}")]
    NoInterface(String),
    /// The blocking task was cancelled: the runtime is shutting down.
    #[error("stopped while speaking to the kernel")]
    Stopped,
}
