//! The lab harness: network namespaces as nodes, ToRs and pods, and the real programs in them.

pub mod agent;
pub mod bird;
pub mod cni;
pub mod cnitool;
pub mod containerd;
pub mod datagrams;
pub mod fabric;
pub mod flow;
pub mod forge;
pub mod frr;
pub mod gobgp;
pub mod lab;
pub mod netns;
pub mod nic;
pub mod one_node;
pub mod openbgpd;
pub mod policy_lab;
pub mod process;
pub mod rack;
pub mod reach;
pub mod root;
pub mod runtime;
pub mod seen;
pub mod snapshot;
pub mod station;
pub mod wait;
