//! Domain names of policies: answers of the DNS are held until the addresses in them may be used.

mod counts;
mod domains;
mod flag;
mod flows;
mod left;
mod streams;
mod task;

pub(crate) use counts::DnsReport;
pub(crate) use domains::{Domains, due};
pub(crate) use flag::{ClusterDns, cluster_dns};
pub(crate) use left::read_left;
pub(crate) use task::{Task, run_task};

/// The NFQUEUE of each network namespace that answers are held in.
pub(crate) const QUEUE: u16 = 4179;
