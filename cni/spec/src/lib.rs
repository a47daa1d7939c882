//! The words of the Container Network Interface: environment, configuration, result, error and versions, and the
//! contract between the plugin and the agent; no I/O.

pub mod capabilities;
pub mod config;
pub mod environment;
pub mod error;
pub mod result;
pub mod socket;
pub mod version;

mod grammar;
mod legacy;

pub use capabilities::{Bandwidth, IpRange, PortMapping, PortProtocol};
pub use config::{Attachment, NetworkConfig};
pub use environment::{Command, Environment, Invocation};
pub use error::{CniError, ErrorCode};
pub use result::{AddResult, Dns, Interface, IpConfig, Route};
pub use version::CniVersion;
