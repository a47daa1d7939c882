//! What `/metrics` says: the present state as gauges, and what adds up as counters; docs/metrics.md lists them.

mod layer2;
mod load_balancer;
mod service;

use std::fmt;
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use crate::report::{Listener, Report, Session};

/// Renders the report; pods are counted, and never named.
///
/// # Errors
/// None that these types have.
pub(crate) fn render(report: &Report) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("portolan");
    node(report, &mut registry);
    for (name, help, unit, value) in SESSION_GAUGES {
        let values = report
            .sessions
            .iter()
            .map(|session| (&session.name, value(session)));
        gauges(&mut registry, (name, help, unit.clone()), "peer", values);
    }
    for (name, help, value) in SESSION_COUNTERS {
        let values = report
            .sessions
            .iter()
            .map(|session| (&session.name, value(session)));
        counters(&mut registry, (name, help), "peer", values);
    }
    shown(report, &mut registry);
    service::register(report, &mut registry);
    load_balancer::register(report, &mut registry);
    layer2::register(report, &mut registry);
    let listeners = || report.listeners.iter();
    gauges(
        &mut registry,
        (
            "bgp_listener_up",
            "1 if connections are taken at this address",
            None,
        ),
        "address",
        listeners().map(|held| (&held.address, Some(u64::from(held.error.is_none())))),
    );
    counters(
        &mut registry,
        (
            "bgp_connections_refused",
            "Connections closed unread because they came from no configured peer",
        ),
        "address",
        listeners().map(|held: &Listener| (&held.address, held.refused)),
    );
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

/// Name, help, unit, and the value where there is one.
type SessionGauge = (
    &'static str,
    &'static str,
    Option<Unit>,
    fn(&Session) -> Option<u64>,
);

const SESSION_GAUGES: &[SessionGauge] = &[
    (
        "bgp_session_established",
        "1 if the session is Established",
        None,
        |session| Some(u64::from(session.state == "Established")),
    ),
    (
        "bgp_session_state",
        "State of the session: 1 Idle, 2 Connect, 3 Active, 4 OpenSent, 5 OpenConfirm, 6 Established",
        None,
        state,
    ),
    (
        "bgp_session_uptime",
        "For how long the session has been Established",
        Some(Unit::Seconds),
        |session| session.established_seconds,
    ),
    (
        "bgp_session_hold_time",
        "HoldTime that was agreed on",
        Some(Unit::Seconds),
        |session| session.hold_time_seconds,
    ),
    (
        "bgp_session_bfd_up",
        "1 if BFD says that the path to the peer is there; absent without BFD",
        None,
        |session| session.bfd_up.map(u64::from),
    ),
    (
        "bgp_prefixes_received",
        "Prefixes that the peer announces",
        None,
        |session| count(session.prefixes_received),
    ),
    (
        "bgp_prefixes_accepted",
        "Of these, those that may be used",
        None,
        |session| count(session.prefixes_accepted),
    ),
    (
        "bgp_prefixes_rejected",
        "Of these, those that filters, safe defaults or loop checks reject",
        None,
        |session| count(session.prefixes_rejected),
    ),
    (
        "bgp_prefixes_stale",
        "Of these, those kept from before the session was lost",
        None,
        |session| count(session.prefixes_stale),
    ),
    (
        "bgp_prefixes_sent",
        "Prefixes announced to the peer",
        None,
        |session| count(session.prefixes_sent),
    ),
    (
        "bgp_prefixes_limit",
        "How many prefixes of each address family the peer may announce",
        None,
        |session| Some(u64::from(session.max_prefixes)),
    ),
];

type SessionCounter = (&'static str, &'static str, fn(&Session) -> u64);

const SESSION_COUNTERS: &[SessionCounter] = &[
    (
        "bgp_session_flaps",
        "How often the session went from Established to down",
        |session| session.flaps,
    ),
    (
        "bgp_updates_received",
        "UPDATE messages received",
        |session| session.updates_received,
    ),
    ("bgp_updates_sent", "UPDATE messages sent", |session| {
        session.updates_sent
    }),
];

/// What was taken back, answers of the DNS, and denied packets.
fn shown(report: &Report, registry: &mut Registry) {
    let (dns, drops) = (&report.dns, &report.drops);
    counters(
        registry,
        (
            "dns_answers",
            "Answers of the DNS to pods that a policy with domain names selects, by what became of them",
        ),
        "outcome",
        dns.answers.iter().map(|(outcome, count)| (outcome, *count)),
    );
    let single = [
        (
            "dns_answers_truncated",
            "Answers with the TC bit to names that policies give: the rest comes by TCP, unseen",
            dns.truncated,
        ),
        (
            "dns_queue_overruns",
            "How often there was no room for more answers, which went on unread",
            dns.overruns,
        ),
        (
            "dns_addresses_refused",
            "Addresses of pods, nodes or no host in answers",
            dns.refused,
        ),
        (
            "dns_addresses_evicted",
            "Addresses let go because a limit was reached",
            dns.evicted,
        ),
        (
            "ipam_attachments_reclaimed",
            "Attachments released because their host ends were gone and no runtime said so",
            report.ipam.attachments_reclaimed,
        ),
        (
            "ipam_host_ends_reclaimed",
            "Host ends of pods deleted because no attachment had them",
            report.ipam.host_ends_reclaimed,
        ),
        (
            "policy_dropped_packets_seen",
            "Denied packets that were shown, with --drop-log; the kernel shows no more than the rate",
            drops.seen,
        ),
        (
            "policy_drop_log_lost",
            "Denied packets that the kernel could not hand over",
            drops.lost,
        ),
    ];
    for (name, help, value) in single {
        let counter: Counter = Counter::default();
        counter.inc_by(value);
        registry.register(name, help, counter);
    }
    let gauges = [
        ("dns_names", "Domain names that policies give", dns.names),
        (
            "dns_addresses",
            "Addresses that the domain names of policies stand for now",
            dns.addresses,
        ),
    ];
    for (name, help, value) in gauges {
        let gauge: Gauge = Gauge::default();
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        registry.register(name, help, gauge);
    }
}

fn node(report: &Report, registry: &mut Registry) {
    let (routes, policy) = (&report.routes, &report.policy);
    let single = [
        (
            "agent_ready",
            "1 if the present state is in the kernel",
            usize::from(report.ready),
        ),
        ("agent_problems", "Problems of inputs", problems(report)),
        (
            "source_in_sync",
            "1 once everything that the source held at the start is known",
            usize::from(report.sources.iter().all(|source| source.in_sync)),
        ),
        (
            "cni_endpoints",
            "Pod attachments of this node",
            report.endpoints.len(),
        ),
        (
            "routes_desired",
            "Routes that are to be in the kernel",
            routes.desired,
        ),
        (
            "routes_installed",
            "Routes of ours in the kernel",
            routes.in_kernel,
        ),
        (
            "routes_learned",
            "Routes that BGP has learned for the kernel",
            routes.learned,
        ),
        (
            "routes_failed",
            "Routes that could not be written",
            routes.failed.len(),
        ),
        (
            "routes_clashes",
            "Routes in whose place another's route is",
            routes.clashes,
        ),
        (
            "routes_kept_out",
            "Learned routes that are kept out of the kernel because tunnels lead there",
            routes.kept_out.values().sum(),
        ),
        (
            "routes_initial_sync",
            "1 once peers have said all they had since the agent started",
            usize::from(routes.initial_sync),
        ),
        ("policy_policies", "NetworkPolicies known", policy.policies),
        ("policy_chains", "Chains of ours", policy.chains),
        ("policy_sets", "Sets of ours", policy.sets),
        (
            "policy_problems",
            "Parts of policies that are not in force as written",
            policy.unsupported.len(),
        ),
    ];
    for (name, help, value) in single {
        let gauge: Gauge = Gauge::default();
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        registry.register(name, help, gauge);
    }
    source_away(report, registry);
    let downs: Counter = Counter::default();
    downs.inc_by(routes.gateway_downs);
    let help = "Gateways that BFD lost, and from which packets were turned away at once";
    registry.register("routes_gateway_downs", help, downs);
    let apply: Gauge<f64, std::sync::atomic::AtomicU64> = Gauge::default();
    apply.set(Duration::from_millis(policy.last_apply_milliseconds).as_secs_f64());
    let help = "Time of the last write";
    registry.register_with_unit("policy_last_apply", help, Unit::Seconds, apply);
    policy_times(report, registry);
}

fn source_away(report: &Report, registry: &mut Registry) {
    let away: Gauge<f64, std::sync::atomic::AtomicU64> = Gauge::default();
    let sources = report.sources.iter();
    let longest = sources.filter_map(|source| source.away_seconds).max();
    away.set(Duration::from_secs(longest.unwrap_or(0)).as_secs_f64());
    let help = "For how long the API server has been away; 0 while it answers, and for a directory";
    registry.register_with_unit("source_away", help, Unit::Seconds, away);
}

fn policy_times(report: &Report, registry: &mut Registry) {
    let policy = &report.policy;
    for (name, help, value) in [
        (
            "policy_repairs",
            "Times that another's damage to our rules was repaired",
            policy.repairs,
        ),
        (
            "policy_read_backs",
            "Times that the kernel was read back",
            policy.read_backs,
        ),
        (
            "policy_flows_cut",
            "Flows deleted from conntrack because policy denies them now",
            policy.flows_cut,
        ),
        (
            "policy_flows_orphaned",
            "Flows deleted from conntrack because their pod is gone",
            policy.flows_orphaned,
        ),
    ] {
        let counter: Counter = Counter::default();
        counter.inc_by(value);
        registry.register(name, help, counter);
    }
    for (name, help, times) in [
        (
            "policy_apply",
            "Time of each write of chains and sets",
            &policy.apply,
        ),
        (
            "policy_event_to_kernel",
            "Time from a change's arrival to its being in force",
            &policy.event_to_kernel,
        ),
        (
            "policy_cut_duration",
            "Time of each look at the flows after a change, deletions included",
            &policy.cut,
        ),
    ] {
        registry.register_with_unit(name, help, Unit::Seconds, times.clone());
    }
}

type Label = Vec<(String, String)>;

fn gauges<'a>(
    registry: &mut Registry,
    (name, help, unit): (&str, &str, Option<Unit>),
    label: &str,
    values: impl Iterator<Item = (&'a String, Option<u64>)>,
) {
    let family = Family::<Label, Gauge>::default();
    for (of, value) in values {
        if let Some(value) = value {
            family
                .get_or_create(&vec![(label.to_owned(), of.clone())])
                .set(i64::try_from(value).unwrap_or(i64::MAX));
        }
    }
    match unit {
        Some(unit) => registry.register_with_unit(name, help, unit, family),
        None => registry.register(name, help, family),
    }
}

fn counters<'a>(
    registry: &mut Registry,
    (name, help): (&str, &str),
    label: &str,
    values: impl Iterator<Item = (&'a String, u64)>,
) {
    let family = Family::<Label, Counter>::default();
    for (of, value) in values {
        family
            .get_or_create(&vec![(label.to_owned(), of.clone())])
            .inc_by(value);
    }
    registry.register(name, help, family);
}

fn count(value: usize) -> Option<u64> {
    u64::try_from(value).ok()
}

/// As BGP4-MIB counts them (RFC 4273, bgpPeerState).
fn state(session: &Session) -> Option<u64> {
    let names = [
        "Idle",
        "Connect",
        "Active",
        "OpenSent",
        "OpenConfirm",
        "Established",
    ];
    let at = names.iter().position(|name| *name == session.state)?;
    count(at + 1)
}

fn problems(report: &Report) -> usize {
    let of_sources = report.sources.iter().map(|source| source.problems.len());
    report.errors.len() + report.policy.unsupported.len() + of_sources.sum::<usize>()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn text() -> String {
        render(&crate::report::tests::example()).unwrap()
    }

    #[test]
    fn metrics_name_the_part_and_the_unit_and_no_pod() {
        let text = text();
        for line in [
            "portolan_bgp_session_established{peer=\"tor\"} 1",
            "portolan_bgp_session_state{peer=\"tor\"} 6",
            "portolan_bgp_session_uptime_seconds{peer=\"tor\"} 5",
            "portolan_bgp_prefixes_accepted{peer=\"tor\"} 3",
            "portolan_bgp_prefixes_stale{peer=\"tor\"} 2",
            "portolan_bgp_session_flaps_total{peer=\"tor\"} 1",
            "portolan_bgp_connections_refused_total{address=\"10.0.0.9:179\"} 7",
            "portolan_bgp_listener_up{address=\"10.0.0.9:179\"} 1",
            "portolan_routes_gateway_downs_total 1",
            "portolan_policy_last_apply_seconds 0.012",
            "portolan_agent_problems 1",
        ] {
            assert!(
                text.lines().any(|said| said == line),
                "{line} is not in\n{text}"
            );
        }
        assert!(!text.contains("web"), "{text}");
    }

    #[test]
    fn what_does_not_hold_is_not_there() {
        let mut report = crate::report::tests::example();
        for session in &mut report.sessions {
            "Active".clone_into(&mut session.state);
            session.established_seconds = None;
            session.bfd_up = None;
        }
        let text = render(&report).unwrap();
        assert!(
            text.contains("portolan_bgp_session_state{peer=\"tor\"} 3"),
            "{text}"
        );
        for name in ["uptime_seconds{", "bfd_up{"] {
            assert!(!text.contains(name), "{name} in\n{text}");
        }
    }

    #[test]
    fn docs_metrics_md_lists_what_is_exported_and_nothing_else() {
        let exported: BTreeMap<String, String> = text()
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
            .map(|(name, kind)| {
                let total = if kind == "counter" { "_total" } else { "" };
                (format!("{name}{total}"), kind.to_owned())
            })
            .collect();
        let listed: BTreeMap<String, String> = include_str!("../../docs/metrics.md")
            .lines()
            .filter_map(|line| line.strip_prefix("| `"))
            .map(|row| {
                let (name, rest) = row.split_once('`').expect("a name in backticks");
                let kind = rest.split('|').nth(1).expect("a kind");
                (name.to_owned(), kind.trim().to_owned())
            })
            .collect();
        assert_eq!(listed, exported);
    }
}
