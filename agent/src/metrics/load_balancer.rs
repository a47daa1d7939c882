//! What `/metrics` says of load balancers' addresses; without that feature nothing.

use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::gauges;
use crate::load_balancer::PoolReport;
use crate::report::Report;

/// Registers what there is: every agent sees all of it, so one is enough to ask. Pools are named, Services are not.
pub(super) fn register(report: &Report, registry: &mut Registry) {
    let Some(balancer) = &report.load_balancer else {
        return;
    };
    for (name, help, value) in [
        (
            "load_balancer_services",
            "Services of type LoadBalancer that are given addresses here",
            balancer.services,
        ),
        (
            "load_balancer_services_allocated",
            "Of these, those with all the addresses that they should have",
            balancer.allocated,
        ),
    ] {
        let gauge: Gauge = Gauge::default();
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        registry.register(name, help, gauge);
    }
    let problems = balancer.problems.iter();
    let problems = problems.map(|(reason, count)| (reason, u64::try_from(*count).ok()));
    let help = "Services that lack an address, or have another than they ask for, by the reason";
    let name = "load_balancer_services_with_problems";
    gauges(registry, (name, help, None), "reason", problems);
    for (name, help, value) in POOLS {
        let pools = balancer.pools.iter();
        let values = pools.map(|pool| (&pool.name, Some(value(pool))));
        gauges(registry, (name, help, None), "pool", values);
    }
}

type OfPool = (&'static str, &'static str, fn(&PoolReport) -> u64);

const POOLS: [OfPool; 2] = [
    (
        "load_balancer_pool_addresses_held",
        "Addresses of an IPPool that Services have",
        |pool| pool.held,
    ),
    (
        "load_balancer_pool_addresses_free",
        "Addresses of an IPPool that the next Service could be given",
        |pool| pool.free,
    ),
];
