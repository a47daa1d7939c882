//! The Kubernetes source against the real kube-apiserver: streamed lists and pages, outages, compaction, thousands of pods.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod crowd;
#[path = "../../../../datastore/tests/kubernetes/heard.rs"]
mod heard;
mod outages;
mod refused;
mod rotation;
mod services;
mod watched;
