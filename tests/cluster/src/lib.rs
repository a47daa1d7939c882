//! The test cluster: real Kubernetes programs, built by `scripts/build-kubernetes`, each run with folders and addresses of its own.

pub mod agents;
pub mod asking;
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
pub mod kustomization;
pub mod leftovers;
pub mod node;
pub mod pods;
pub mod portolan;
pub mod programs;
mod scratch;
mod site;
mod spawner;
pub mod tally;
mod timeline;
mod traces;

pub use certificates::{Authority, Identity};
pub use control_plane::{ControlPlane, Options, Request, refused};
pub use programs::Programs;
pub use scratch::Scratch;
pub use site::{Place, Site};
pub use spawner::start;
pub use timeline::Timeline;
