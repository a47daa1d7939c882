//! Ports of the node that lead to pods, as rules of the nat table: a function of who wants which, no path matters.
//!
//! [`host_port`] is what the CNI capability `portMappings` asks for; `docs/design/host-ports.md` shows the chains.

pub mod host_port;
