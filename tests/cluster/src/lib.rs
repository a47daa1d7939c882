//! The test cluster: real Kubernetes programs, built by `scripts/build-kubernetes`, each run with folders and addresses of its own.

pub mod agents;
mod certificates;
pub mod cgroups;
pub mod cluster;
pub mod containerd;
mod control_plane;
pub mod dns;
pub mod fabric;
pub mod host;
pub mod image;
pub mod kubelet;
pub mod node;
pub mod pods;
pub mod portolan;
mod programs;
mod scratch;
mod site;
mod spawner;

pub use certificates::{Authority, Identity};
pub use control_plane::{ControlPlane, Options, Request};
pub use programs::Programs;
pub use scratch::Scratch;
pub use site::{Place, Site};
pub use spawner::start;
