//! What `/metrics` says of Services; without that feature nothing.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use crate::report::Report;

/// Registers what there is. No Service's name is a label: there may be ten thousand.
pub(super) fn register(report: &Report, registry: &mut Registry) {
    let Some(services) = &report.services else {
        return;
    };
    for (name, help, value) in [
        (
            "service_services",
            "Services that this node serves",
            services.services,
        ),
        (
            "service_ports",
            "Ports of Services, by address family",
            services.ports,
        ),
        (
            "service_endpoints",
            "Endpoints that somebody on this node asks, by port and address family",
            services.endpoints,
        ),
        (
            "service_ports_without_endpoints",
            "Ports that nobody answers",
            services.without_endpoints,
        ),
        (
            "service_health_ports",
            "Ports at which load balancers are answered",
            services.health_ports,
        ),
        (
            "service_health_ports_refused",
            "Such ports that cannot be had",
            services.health_ports_refused,
        ),
    ] {
        let gauge: Gauge = Gauge::default();
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        registry.register(name, help, gauge);
    }
    for (name, help, value) in [
        (
            "service_flows_stale",
            "UDP flows deleted from conntrack because no endpoint of their Service answered them",
            services.flows_stale,
        ),
        (
            "service_health_checks_passed",
            "Answers to load balancers that this node has endpoints of a Service",
            services.answered_healthy,
        ),
        (
            "service_health_checks_failed",
            "Answers to load balancers that it has none",
            services.answered_unhealthy,
        ),
    ] {
        let counter: Counter = Counter::default();
        counter.inc_by(value);
        registry.register(name, help, counter);
    }
    let help = "Time from a change of endpoints, as its EndpointSlice says, to its being in force";
    registry.register_with_unit(
        "service_programming",
        help,
        Unit::Seconds,
        services.programming.clone(),
    );
}
