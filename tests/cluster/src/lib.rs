//! The test cluster: real Kubernetes programs, built by `scripts/build-kubernetes`, each run with folders and addresses of its own.

mod certificates;
mod control_plane;
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
