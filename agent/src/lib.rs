//! The node agent: wires sources, speaker, policy, routes and the CNI socket together.

mod attachments;
mod bgp;
mod bgp_status;
pub mod cli;
mod cni;
mod cni_install;
mod conntrack;
mod control;
mod core;
mod dns;
mod drops;
mod events;
mod exec;
mod firewall;
mod http;
mod message;
mod metrics;
mod nexthops;
mod nfnetlink;
mod policy;
mod report;
mod routing;
mod run;
mod shell;
mod sockets;
mod speaker;
mod status;
