//! Addresses that change on the way, as rules of the nat table: a function of who wants what, no path matters.
//!
//! [`host_port`] is what the CNI capability `portMappings` asks for: ports of the node that lead to pods;
//! `docs/design/host-ports.md` shows the chains. [`egress`] is what `natOutgoing` of an IPPool asks for: pods that reach the
//! outside with their node's address; `docs/design/egress.md` shows those. [`tunnel_guard`] keeps who is no node out of the
//! tunnels between nodes, in the filter table; `docs/design/overlay.md` tells of it. [`proxy`] is what Services ask for
//! (`docs/design/services.md`), [`stray_guard`] drops what they do not, and [`layer2`] says which node answers for an address by ARP
//! and neighbour discovery (`docs/design/load-balancer.md`).

pub mod egress;
mod family_rules;
pub mod host_port;
pub mod layer2;
pub mod proxy;
pub mod stray_guard;
pub mod tunnel_guard;

pub use family_rules::FamilyRules;
