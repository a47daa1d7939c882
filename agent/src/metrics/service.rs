//! What `/metrics` says of Services; without that feature nothing.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

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
    ] {
        let gauge: Gauge = Gauge::default();
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        registry.register(name, help, gauge);
    }
    let stale: Counter = Counter::default();
    stale.inc_by(services.flows_stale);
    let help =
        "UDP flows deleted from conntrack because no endpoint of their Service answered them";
    registry.register("service_flows_stale", help, stale);
}
