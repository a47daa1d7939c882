//! How load balancers' addresses stand, in numbers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::State;

/// What `portolan status` and metrics say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LoadBalancerReport {
    /// Services of type LoadBalancer that are this project's to serve.
    pub(crate) services: usize,
    /// Those with all the addresses that they should have.
    pub(crate) allocated: usize,
    /// The others, by the first reason.
    pub(crate) problems: BTreeMap<String, usize>,
    /// The pools.
    pub(crate) pools: Vec<PoolReport>,
}

/// How full a pool is. Numbers above 2^64 - 1 are told as that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PoolReport {
    pub(crate) name: String,
    pub(crate) cidr: String,
    pub(crate) held: u64,
    pub(crate) free: u64,
}

#[cfg(test)]
impl LoadBalancerReport {
    /// One with something of everything.
    pub(crate) fn example() -> Self {
        Self {
            services: 3,
            allocated: 2,
            problems: BTreeMap::from([("PoolExhausted".to_owned(), 1)]),
            pools: vec![PoolReport {
                name: "outside".to_owned(),
                cidr: "198.51.100.0/24".to_owned(),
                held: 2,
                free: 252,
            }],
        }
    }
}

impl LoadBalancerReport {
    pub(crate) fn of(state: &State) -> Self {
        let mut report = Self {
            services: state.allocated.len(),
            pools: pools(state),
            ..Self::default()
        };
        for allocation in state.allocated.values() {
            match allocation.problems.first() {
                None => report.allocated += 1,
                Some(problem) => {
                    let reason = problem.reason().to_owned();
                    *report.problems.entry(reason).or_default() += 1;
                }
            }
        }
        report
    }
}

/// How full each pool is, by name.
pub(crate) fn pools(state: &State) -> Vec<PoolReport> {
    let number = |number: u128| u64::try_from(number).unwrap_or(u64::MAX);
    let pools = state.pools.iter().map(|pool| PoolReport {
        name: pool.name.clone(),
        cidr: pool.cidr.to_string(),
        held: number(pool.held),
        free: number(pool.free),
    });
    pools.collect()
}
