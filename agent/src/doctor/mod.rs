//! `portolan doctor`: looks at what users look at by hand when pods cannot talk, and says what mends it; it changes nothing.

mod agent;
mod bgp;
pub(crate) mod bound;
mod catalog;
mod checksums;
mod cli;
mod cni;
mod denials;
mod examine;
mod finding;
mod firewall;
mod layer2;
pub(crate) mod listing;
mod localnet;
mod name_service;
mod pods;
mod scene;
mod services;
mod silent_node;
mod switches;
mod ways;

pub(crate) use cli::{DoctorArgs, run};
