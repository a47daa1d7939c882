//! What is counted: by each worker for itself, added up when somebody asks.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::StatusCode;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use super::answer::Why;

/// Upper bounds of the times of requests, in microseconds; the last bucket has none.
const BOUNDS: [u64; 12] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000, 5_000_000,
    30_000_000,
];

/// Why a request was not answered by an endpoint, in the order of its counters.
const WHYS: [Why; 11] = [
    Why::BadRequest,
    Why::Method,
    Why::TooLarge,
    Why::SlowBody,
    Why::NoRoute,
    Why::NoEndpoint,
    Why::Connect,
    Why::ConnectTimeout,
    Why::Reset,
    Why::Timeout,
    Why::Redirect,
];

/// One worker's counters. Nobody else writes them: an addition costs what a plain one does.
#[derive(Debug, Default)]
pub struct Numbers {
    classes: [AtomicU64; 5],
    whys: [AtomicU64; WHYS.len()],
    times: [AtomicU64; BOUNDS.len() + 1],
    microseconds: AtomicU64,
    in_flight: AtomicU64,
    opened: AtomicU64,
    closed: AtomicU64,
    refused: AtomicU64,
    cut: AtomicU64,
    idled: AtomicU64,
    handshakes: AtomicU64,
    connected: AtomicU64,
    unconnected: AtomicU64,
    repeated: AtomicU64,
    tunnels: AtomicU64,
    lost_lines: AtomicU64,
}

fn add(counter: &AtomicU64, amount: u64) {
    counter.store(
        counter.load(Ordering::Relaxed).wrapping_add(amount),
        Ordering::Relaxed,
    );
}

impl Numbers {
    pub(super) fn request_began(&self) {
        add(&self.in_flight, 1);
    }

    pub(super) fn request_ended(
        &self,
        status: StatusCode,
        why: Option<Why>,
        took: Duration,
        lost: u64,
    ) {
        add(&self.in_flight, u64::MAX);
        let class = usize::from(status.as_u16() / 100).saturating_sub(1);
        if let Some(counter) = self.classes.get(class) {
            add(counter, 1);
        }
        let why = why.and_then(|why| WHYS.iter().position(|known| *known == why));
        if let Some(counter) = why.and_then(|index| self.whys.get(index)) {
            add(counter, 1);
        }
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS
            .iter()
            .position(|bound| took <= *bound)
            .unwrap_or(BOUNDS.len());
        if let Some(counter) = self.times.get(bucket) {
            add(counter, 1);
        }
        add(&self.microseconds, took);
        self.lines_lost(lost);
    }

    pub(super) fn lines_lost(&self, lost: u64) {
        if lost > 0 {
            add(&self.lost_lines, lost);
        }
    }

    pub(super) fn connection_opened(&self) {
        add(&self.opened, 1);
    }

    pub(super) fn connection_closed(&self) {
        add(&self.closed, 1);
    }

    pub(super) fn connection_refused(&self) {
        add(&self.refused, 1);
    }

    pub(super) fn timed_out(&self, is_cut: bool) {
        add(if is_cut { &self.cut } else { &self.idled }, 1);
    }

    pub(super) fn handshake_failed(&self) {
        add(&self.handshakes, 1);
    }

    pub(super) fn connected(&self, is_connected: bool) {
        add(
            if is_connected {
                &self.connected
            } else {
                &self.unconnected
            },
            1,
        );
    }

    pub(super) fn repeated(&self) {
        add(&self.repeated, 1);
    }

    pub(super) fn tunnel(&self) {
        add(&self.tunnels, 1);
    }
}

/// All workers' counters.
#[derive(Clone)]
pub struct Total(pub Arc<[Arc<Numbers>]>);

impl fmt::Debug for Total {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Total({} workers)", self.0.len())
    }
}

impl Total {
    fn sum(&self, pick: impl Fn(&Numbers) -> &AtomicU64) -> u64 {
        let values = self
            .0
            .iter()
            .map(|numbers| pick(numbers).load(Ordering::Relaxed));
        values.fold(0, u64::wrapping_add)
    }
}

/// A counter: its name, what it counts, where it is.
type Named = (&'static str, &'static str, fn(&Numbers) -> &AtomicU64);

const COUNTERS: [Named; 10] = [
    (
        "connections_accepted",
        "Connections of clients that were accepted",
        |n| &n.opened,
    ),
    (
        "connections_refused",
        "Connections of clients above the limit",
        |n| &n.refused,
    ),
    (
        "connections_cut",
        "Connections of clients that sent too slowly",
        |n| &n.cut,
    ),
    (
        "connections_idled",
        "Connections of clients without a request for too long",
        |n| &n.idled,
    ),
    ("tls_handshakes_failed", "TLS handshakes that failed", |n| {
        &n.handshakes
    }),
    ("endpoint_connections", "Connections to endpoints", |n| {
        &n.connected
    }),
    (
        "endpoint_connections_failed",
        "Connections to endpoints that failed",
        |n| &n.unconnected,
    ),
    (
        "requests_repeated",
        "Requests that were sent to another endpoint or once more",
        |n| &n.repeated,
    ),
    (
        "tunnels",
        "Connections that became tunnels (websockets)",
        |n| &n.tunnels,
    ),
    (
        "access_log_lost",
        "Lines of the access log that were lost",
        |n| &n.lost_lines,
    ),
];

impl Collector for Total {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        self.families(&mut encoder)?;
        self.times(&mut encoder)?;
        for (name, help, pick) in COUNTERS {
            let name = format!("portolan_ingress_{name}");
            let one = encoder.encode_descriptor(&name, help, None, MetricType::Counter)?;
            ConstCounter::new(self.sum(pick)).encode(one)?;
        }
        let open = self.sum(|numbers| &numbers.opened);
        let open = open.wrapping_sub(self.sum(|numbers| &numbers.closed));
        let in_flight = self.sum(|numbers| &numbers.in_flight);
        for (name, help, value) in [
            (
                "portolan_ingress_connections",
                "Connections of clients now",
                open,
            ),
            (
                "portolan_ingress_requests_in_flight",
                "Requests under way",
                in_flight,
            ),
        ] {
            let one = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(i64::try_from(value).unwrap_or_default()).encode(one)?;
        }
        Ok(())
    }
}

impl Total {
    fn families(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut family = encoder.encode_descriptor(
            "portolan_ingress_requests",
            "Requests that were answered, by class of status",
            None,
            MetricType::Counter,
        )?;
        for (index, class) in ["1xx", "2xx", "3xx", "4xx", "5xx"].into_iter().enumerate() {
            let count = self.sum(|numbers| numbers.classes.get(index).unwrap_or(&numbers.opened));
            let labels = [("code", class)];
            let one = family.encode_family(&labels)?;
            ConstCounter::new(count).encode(one)?;
        }
        let mut family = encoder.encode_descriptor(
            "portolan_ingress_own_answers",
            "Requests that no endpoint answered, by reason",
            None,
            MetricType::Counter,
        )?;
        for (index, why) in WHYS.into_iter().enumerate() {
            let count = self.sum(|numbers| numbers.whys.get(index).unwrap_or(&numbers.opened));
            let labels = [("reason", why.as_str())];
            let one = family.encode_family(&labels)?;
            ConstCounter::new(count).encode(one)?;
        }
        Ok(())
    }

    fn times(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut histogram = encoder.encode_descriptor(
            "portolan_ingress_request_seconds",
            "From a request's head to the end of its response",
            None,
            MetricType::Histogram,
        )?;
        let bounds = BOUNDS
            .iter()
            .map(|bound| Duration::from_micros(*bound).as_secs_f64());
        let buckets: Vec<(f64, u64)> = bounds
            .chain([f64::INFINITY])
            .enumerate()
            .map(|(index, bound)| {
                (
                    bound,
                    self.sum(|numbers| numbers.times.get(index).unwrap_or(&numbers.opened)),
                )
            })
            .collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        let seconds =
            Duration::from_micros(self.sum(|numbers| &numbers.microseconds)).as_secs_f64();
        histogram.encode_histogram::<[(&str, &str); 0]>(seconds, count, &buckets, None)
    }
}
