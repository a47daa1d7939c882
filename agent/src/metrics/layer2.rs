//! What `/metrics` says of addresses that are answered for by ARP and neighbour discovery; without any nothing.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::report::Report;

/// Registers what there is. No address is a label.
pub(super) fn register(report: &Report, registry: &mut Registry) {
    let Some(layer2) = &report.layer2 else {
        return;
    };
    let overdue = layer2.addresses.values().filter(|one| one.is_overdue);
    for (name, help, value) in [
        (
            "l2_addresses",
            "Addresses of Services that some node is to answer for by ARP or neighbour discovery",
            layer2.addresses.len(),
        ),
        (
            "l2_addresses_answered",
            "Those that this node answers for",
            layer2.held(&report.node),
        ),
        (
            "l2_addresses_overdue",
            "Those that it answers for although its Lease has ended, as the API server does not answer",
            overdue.count(),
        ),
    ] {
        let gauge: Gauge = Gauge::default();
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        registry.register(name, help, gauge);
    }
    for (name, help, value) in [
        (
            "l2_answers",
            "Answers sent to those who asked for an address",
            layer2.answers,
        ),
        (
            "l2_announcements",
            "Frames sent to all that say that an address is here",
            layer2.announcements,
        ),
        (
            "l2_frames_unsent",
            "Frames for which an interface had no room",
            layer2.unsent,
        ),
        (
            "l2_claims",
            "Frames of others that claimed an address which this node answers for",
            layer2.claims,
        ),
        (
            "l2_addresses_taken",
            "How often this node began to answer for an address",
            layer2.taken,
        ),
        (
            "l2_lease_writes",
            "How often a Lease of an address was to be written",
            layer2.writes,
        ),
        (
            "l2_lease_writes_failed",
            "How often that failed",
            layer2.failed_writes,
        ),
    ] {
        let counter: Counter = Counter::default();
        counter.inc_by(value);
        registry.register(name, help, counter);
    }
}
