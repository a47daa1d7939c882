//! The benchmark: a generator and sink that speak plain BGP, and the rows that put each daemon under the same load.

mod attach;
pub mod daemon;
pub mod figures;
mod fleet;
mod ingress;
pub mod interrupt;
pub mod kernel_routes;
pub mod machine;
mod overlay;
pub mod peer;
pub mod policy;
pub mod prefix;
pub mod random;
pub mod report;
pub mod rig;
pub mod rows;
mod services;
pub mod sink;
pub mod table;
pub mod usage;
pub mod walk;
