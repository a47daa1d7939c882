//! Services: which packet goes to which endpoint, by the rules of `reference` §5, in one typed model for all back ends.
//!
//! ```text
//! Service, EndpointSlice ─► Index ─touched names─► Model ─changed names─► iptables::Compiler ─► Ruleset
//!          this node ────────┘     endpoints::choose ┘        ├─► ipvs::Compiler ─► virtual services
//!                                                             └─► health, stale_flows
//! ```
//! Every step costs what changed; what is compiled is the same whatever way led there. `docs/design/services.md` tells why.

pub mod announce;
pub mod endpoints;
pub mod health;
pub mod index;
pub mod iptables;
pub mod ipvs;
pub mod model;
pub mod nftables;
pub mod stale_flows;

use std::fmt;

use api::NamespacedName;
use api::resources::Protocol;

/// One port of a Service, by the name that people and kube-proxy's chains know it by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortName {
    /// The Service.
    pub service: NamespacedName,
    /// The port's name, which may be "".
    pub port: String,
    /// Its protocol: one name may stand for several.
    pub protocol: Protocol,
}

impl fmt::Display for PortName {
    /// `namespace/name:port`, or `namespace/name` where the port has no name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { service, port, .. } = self;
        match port.as_str() {
            "" => write!(f, "{service}"),
            port => write!(f, "{service}:{port}"),
        }
    }
}

/// A protocol's name as kube-proxy hashes it and iptables takes it.
pub(crate) fn protocol_word(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    }
}

#[cfg(test)]
pub(crate) mod tests;
