//! `portolan convert`: what Calico, kube-router and MetalLB were told, as Portolan's own objects; nothing is dropped in silence.

mod calico;
mod cli;
mod cluster;
mod communities;
mod conversion;
mod input;
mod kube_router;
mod metallb;
mod output;
mod report;
mod selectors;
#[cfg(test)]
mod tests;

pub(crate) use cli::{ConvertArgs, run};
pub use conversion::{Conversion, convert};
pub use output::Written;
pub use report::{Counts, Entry, ObjectReport, Outcome, Place};
