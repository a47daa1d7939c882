//! What changes of objects would mean for pods that are there and for connections that are open: `portolan policy try`.
//!
//! Built on the reference evaluator alone. Sorted, and bounded: what was left out is counted.

mod ports;
#[cfg(test)]
mod tests;
mod touched;

use std::collections::BTreeMap;
use std::net::IpAddr;

use api::{Change, NamespacedName};

use crate::{Direction, Entry, Evaluator, Flow, Objects, Settings};
use netfilter::Family;
use ports::Points;
pub use ports::Span;
use touched::Touched;

/// At most so many changes of each kind are shown.
const MAX_SHOWN: usize = 1_000;
/// At most so many connections between pods are judged (before and after); further pairs are counted only.
const MAX_JUDGED: usize = 200_000;

/// What would change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Pods that NetworkPolicies would isolate or no longer isolate.
    pub isolation: Listed<IsolationChange>,
    /// New connections between pods that would be allowed or denied.
    pub connections: Listed<ConnectionChange>,
    /// Pairs of pods that were not looked at any more: there were too many.
    pub pairs_left_out: usize,
    /// Open connections that would be cut, or allowed where they are denied now.
    pub flows: Listed<FlowChange>,
}

/// The first changes of a kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed<T> {
    /// Sorted.
    pub shown: Vec<T>,
    /// How many more there are.
    pub left_out: usize,
}

/// A pod that becomes isolated or free in a direction.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct IsolationChange {
    /// Which pod.
    pub pod: NamespacedName,
    /// In which direction.
    pub direction: Direction,
    /// Whether a NetworkPolicy isolates it then.
    pub isolated: bool,
}

/// New connections between two pods that are judged otherwise then.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConnectionChange {
    /// Who opens them.
    pub source: NamespacedName,
    /// Who is asked.
    pub destination: NamespacedName,
    /// Whether they are allowed then.
    pub allowed: bool,
    /// Which ones, sorted.
    pub spans: Vec<Span>,
    /// By which addresses; `None`: of every family that both pods have.
    pub family: Option<Family>,
}

/// An open connection that is judged otherwise then.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FlowChange {
    /// The connection.
    pub entry: Entry,
    /// Whether it is allowed then; if not, it is cut.
    pub allowed: bool,
}

impl<T> Default for Listed<T> {
    fn default() -> Self {
        Self {
            shown: Vec::new(),
            left_out: 0,
        }
    }
}

impl<T: Ord> Listed<T> {
    fn of(mut all: Vec<T>) -> Self {
        all.sort();
        let left_out = all.len().saturating_sub(MAX_SHOWN);
        all.truncate(MAX_SHOWN);
        Self {
            shown: all,
            left_out,
        }
    }
}

/// Says what changes would mean. Pods that only one of the states has are not compared.
pub fn difference(
    objects: &Objects,
    settings: &Settings,
    changes: &[Change],
    flows: &[Entry],
) -> Difference {
    let mut after = objects.clone();
    for change in changes {
        after.handle(change);
    }
    let compared = Compared::new(
        Evaluator::new(objects, settings),
        Evaluator::new(&after, settings),
    );
    let touched = Touched::by(&compared, objects, &after, changes);
    let (connections, pairs_left_out) = compared.connections(&touched);
    Difference {
        isolation: Listed::of(compared.isolation(&touched)),
        connections: Listed::of(connections),
        pairs_left_out,
        flows: Listed::of(compared.flows(flows)),
    }
}

/// Both states, and the pods that are in both.
struct Compared<'a> {
    before: Evaluator<'a>,
    after: Evaluator<'a>,
    /// With the addresses that they have in both.
    pods: BTreeMap<&'a NamespacedName, Vec<IpAddr>>,
}

impl<'a> Compared<'a> {
    fn new(before: Evaluator<'a>, after: Evaluator<'a>) -> Self {
        let mut pods = before.pods();
        let later = after.pods();
        for (pod, addresses) in &mut pods {
            let kept = later.get(pod);
            addresses.retain(|address| kept.is_some_and(|list| list.contains(address)));
        }
        pods.retain(|_, addresses| !addresses.is_empty());
        Self {
            before,
            after,
            pods,
        }
    }

    fn isolation(&self, touched: &Touched<'a>) -> Vec<IsolationChange> {
        let mut changes = Vec::new();
        for direction in [Direction::Ingress, Direction::Egress] {
            for pod in touched.in_direction(direction) {
                let Some(address) = self.pods.get(pod).and_then(|list| list.first()) else {
                    continue;
                };
                let before = self.before.isolates(direction, *address);
                let isolated = self.after.isolates(direction, *address);
                if before != isolated {
                    changes.push(IsolationChange {
                        pod: (*pod).clone(),
                        direction,
                        isolated,
                    });
                }
            }
        }
        changes
    }

    /// Every pair one of whose sides' policies may say something else now.
    fn connections(&self, touched: &Touched<'a>) -> (Vec<ConnectionChange>, usize) {
        let mut points: BTreeMap<(&NamespacedName, Direction), Points> = BTreeMap::new();
        let (mut changes, mut judged, mut left_out) = (Vec::new(), 0, 0);
        let sources = touched.in_direction(Direction::Egress);
        let destinations = touched.in_direction(Direction::Ingress);
        for (source, from) in &self.pods {
            let any = sources.contains(source);
            for (destination, to) in &self.pods {
                if source == destination || !(any || destinations.contains(destination)) {
                    continue;
                }
                if judged >= MAX_JUDGED {
                    left_out += 1;
                    continue;
                }
                let mut of = |pod: &'a NamespacedName, addresses: &[IpAddr], direction| {
                    let known = points.entry((pod, direction));
                    known
                        .or_insert_with(|| self.points(addresses, direction))
                        .clone()
                };
                let both = of(source, from, Direction::Egress)
                    .with(&of(destination, to, Direction::Ingress))
                    .with(&self.named_points(to));
                let spans = both.spans();
                let mut of_families = Vec::new();
                for (family, ends) in by_family(from, to) {
                    judged += spans.len();
                    of_families.push((family, self.changed_spans(&spans, ends)));
                }
                changes.extend(rows(source, destination, of_families));
            }
        }
        (changes, left_out)
    }

    /// The spans that are newly denied, and those that are newly allowed.
    fn changed_spans(
        &self,
        spans: &[Span],
        (source, destination): (IpAddr, IpAddr),
    ) -> [Vec<Span>; 2] {
        let (mut denied, mut allowed) = (Vec::new(), Vec::new());
        for span in spans {
            let (protocol, port) = span.example();
            let flow = Flow {
                source,
                destination,
                protocol,
                port,
            };
            match (
                self.before.evaluate(&flow).allowed,
                self.after.evaluate(&flow).allowed,
            ) {
                (true, false) => denied.push(*span),
                (false, true) => allowed.push(*span),
                (true, true) | (false, false) => {}
            }
        }
        [Span::merged(denied), Span::merged(allowed)]
    }

    fn flows(&self, entries: &[Entry]) -> Vec<FlowChange> {
        let changed = entries.iter().filter_map(|entry| {
            let has_ports = ports::has_ports(entry.protocol);
            let flow = Flow {
                source: entry.original.source,
                destination: entry.reply.source,
                protocol: entry.protocol,
                port: has_ports.then_some(entry.reply.source_port),
            };
            let allowed = self.after.evaluate(&flow).allowed;
            (allowed != self.before.evaluate(&flow).allowed).then_some(FlowChange {
                entry: *entry,
                allowed,
            })
        });
        changed.collect()
    }

    /// Where the rules that a pod's side may be asked draw lines between ports, before or after.
    fn points(&self, addresses: &[IpAddr], direction: Direction) -> Points {
        let mut points = Points::default();
        for state in [&self.before, &self.after] {
            let holder = addresses.first().and_then(|address| state.holder(*address));
            if let Some(pod) = holder {
                points.take_rules(state, pod, direction);
            }
        }
        points
    }

    fn named_points(&self, addresses: &[IpAddr]) -> Points {
        let mut points = Points::default();
        for state in [&self.before, &self.after] {
            let holder = addresses.first().and_then(|address| state.holder(*address));
            for port in holder.into_iter().flat_map(|pod| pod.named_ports()) {
                points.take(port.protocol, port.port, port.port);
            }
        }
        points
    }
}

/// The first address of each family that both have.
fn by_family(from: &[IpAddr], to: &[IpAddr]) -> Vec<(Family, (IpAddr, IpAddr))> {
    let families = [(Family::V4, true), (Family::V6, false)].into_iter();
    let ends = families.filter_map(|(family, v4)| {
        let first = |list: &[IpAddr]| list.iter().copied().find(|one| one.is_ipv4() == v4);
        Some((family, (first(from)?, first(to)?)))
    });
    ends.collect()
}

/// A row for each verdict; one for both families where they agree.
fn rows(
    source: &NamespacedName,
    destination: &NamespacedName,
    of_families: Vec<(Family, [Vec<Span>; 2])>,
) -> Vec<ConnectionChange> {
    let mut rows = Vec::new();
    let mut row = |allowed, spans: &Vec<Span>, family| {
        if !spans.is_empty() {
            rows.push(ConnectionChange {
                source: source.clone(),
                destination: destination.clone(),
                allowed,
                spans: spans.clone(),
                family,
            });
        }
    };
    let agree = of_families.windows(2).all(|pair| match pair {
        [(_, one), (_, other)] => one == other,
        _ => true,
    });
    for (family, [denied, allowed]) in of_families {
        let family = (!agree).then_some(family);
        row(false, &denied, family);
        row(true, &allowed, family);
        if agree {
            break;
        }
    }
    rows
}
