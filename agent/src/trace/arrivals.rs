//! Finds out about one path from its other end: what others send to a pod of this node is watched, and the kernel is asked.

use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use ::ipam::Lease;
use anyhow::{Context, bail};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use routes::{LinkInfo, Looker, Question, Way};

use super::evidence::{Ends, Evidence, NodeFacts, Purpose, Sent};
use super::gather::{self, Request};
use super::packet::Kind;
use super::packet::flow::Flow;
use super::rules::{self, Shape};
use super::watch::{Direction, Place, Sighting, Sought, Watch};
use super::ways;
use crate::attachments::{host_interface, peek};
use crate::policy::Place as Who;

/// More of one connection says nothing new.
const ENOUGH: usize = 2000;
/// What comes late: rules' counters, and answers of programs.
const SETTLES: Duration = Duration::from_millis(700);

/// Finds all of it out; waits so long for somebody who sends.
///
/// # Errors
/// If the target is no pod of this node, the sender is not known, or links cannot be watched.
pub(super) fn gather(
    request: &Request<'_>,
    sender: &Who,
    wait: Duration,
) -> anyhow::Result<Evidence> {
    let start = Start::find(request, sender)?;
    let mut host = Looker::open()?;
    let links = host.links()?;
    let (target_end, pod) = gather::pod_end(&mut host, &links, &start.host_end)?;
    let flow = start.flow;
    let before = rules::read();
    let mut watches = Vec::new();
    for (place, namespace) in [(Place::Node, None), (Place::Target, Some(&pod.namespace))] {
        let watch = Watch::open(place, Sought::Flow(flow), namespace);
        watches.push(watch.context("cannot watch links; this must run as root on the node")?);
    }
    let sightings = watch(&mut watches, target_end.index, wait)?;
    let after = rules::read();
    let mut evidence = Evidence {
        node: node_facts(&mut host, &start, &sightings, &target_end)?,
        target: Some(gather::target_facts(&pod)?),
        ends: start.ends,
        pod: None,
        policy: start.policy,
        risen: Vec::new(),
        sent: vec![Sent {
            number: 0,
            purpose: Purpose::Reach,
            error: None,
        }],
        sightings,
    };
    if let (Some(before), Some(after)) = (before, after) {
        evidence.risen = rules::risen(&before, &after, &shapes(&evidence));
    }
    Ok(evidence)
}

/// What is known before anything comes.
struct Start {
    ends: Ends,
    flow: Flow,
    policy: Option<super::evidence::Sides>,
    host_end: String,
    node: Option<String>,
}

impl Start {
    fn find(request: &Request<'_>, sender: &Who) -> anyhow::Result<Self> {
        let name = match sender {
            Who::Pod(pod) => pod.to_string(),
            Who::Address(address) => address.to_string(),
        };
        let asked = gather::explained(request, &name);
        let (node, flow) = match &asked {
            Ok((node, flow)) => (Some(node.clone()), flow.as_ref()),
            Err(_) => (None, None),
        };
        let leases = peek(request.state_dir).context("who has which address is not known")?;
        let lease = target(&leases, request)?;
        let to = gather::of_family(lease, request.v6);
        let to = to.context("the pod has no address of that family")?;
        let from = match sender {
            Who::Address(address) => *address,
            Who::Pod(pod) => {
                let here = gather::lease_of(&leases, pod)
                    .and_then(|lease| gather::of_family(lease, request.v6));
                let said = || flow.and_then(|flow| flow.source.parse().ok());
                here.or_else(said).with_context(|| {
                    format!("the address of pod {pod} is not known: give the address instead")
                })?
            }
        };
        if from.is_ipv4() != to.is_ipv4() {
            bail!("{from} and {to} are of two families: try -4 or -6");
        }
        let transport = gather::transport(request.to.protocol)?;
        let port = gather::port(request, flow)?;
        Ok(Self {
            flow: Flow {
                transport,
                from,
                to,
                port,
            },
            ends: Ends {
                pod: name,
                from,
                to,
                port,
                transport,
                target: lease
                    .pod
                    .as_ref()
                    .map_or_else(|| to.to_string(), ToString::to_string),
                asked: request.asked.to_owned(),
                target_node: None,
            },
            policy: flow.and_then(gather::sides),
            host_end: host_interface(&lease.holder),
            node,
        })
    }
}

fn target<'a>(leases: &'a [Lease], request: &Request<'_>) -> anyhow::Result<&'a Lease> {
    let found = match &request.to.place {
        Who::Pod(pod) => gather::lease_of(leases, pod),
        Who::Address(address) => leases
            .iter()
            .find(|lease| lease.addresses.contains(address)),
    };
    found.with_context(|| {
        format!(
            "{} is no pod of this node: run this where it runs (kubectl get pod -o wide)",
            request.asked
        )
    })
}

/// Until an answer left this node, or what came has settled, or nobody sends.
fn watch(watches: &mut [Watch], target_end: u32, wait: Duration) -> io::Result<Vec<Sighting>> {
    let mut seen: Vec<Sighting> = Vec::new();
    let mut end = Instant::now() + wait;
    let mut has_come = false;
    loop {
        for watch in &mut *watches {
            while seen.len() < ENOUGH {
                match watch.next(&[])? {
                    Some(sighting) => seen.push(sighting),
                    None => break,
                }
            }
        }
        let left = |one: &Sighting| {
            one.place == Place::Node
                && one.direction == Direction::Out
                && one.link != target_end
                && !matches!(one.seen.kind, Kind::Probe(_))
        };
        if !has_come && !seen.is_empty() {
            has_come = true;
            end = end.min(Instant::now() + SETTLES);
        }
        let rest = end.saturating_duration_since(Instant::now());
        if rest.is_zero() || seen.iter().any(left) {
            return Ok(seen);
        }
        let mut fds: Vec<PollFd<'_>> = watches
            .iter()
            .map(|watch| PollFd::new(watch.as_fd(), PollFlags::POLLIN))
            .collect();
        let timeout = PollTimeout::try_from(rest).unwrap_or(PollTimeout::MAX);
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn node_facts(
    host: &mut Looker,
    start: &Start,
    sightings: &[Sighting],
    target_end: &LinkInfo,
) -> anyhow::Result<NodeFacts> {
    let Flow { from, to, .. } = start.flow;
    let came = sightings.iter().filter(|one| {
        let is_probe = matches!(one.seen.kind, Kind::Probe(_));
        one.place == Place::Node && one.direction == Direction::In && is_probe
    });
    // Out of a tunnel rather than in it.
    let came_by = came
        .min_by_key(|one| one.seen.tunnel.is_some())
        .map(|one| one.link);
    let links = host.links()?;
    let name = came_by.and_then(|by| links.iter().find(|link| link.index == by));
    let name = name.map(|link| link.name.clone()).unwrap_or_default();
    let way = match came_by {
        Some(by) => ways::arriving(host, from, to, by)?,
        None => host.way(&Question {
            to,
            from: None,
            arrives_by: None,
        })?,
    };
    let (forwards, host_end_forwards) = ways::forwards(from.is_ipv4(), &name);
    let (way_back, next_back) = ways::node_way(host, to, from, target_end.index)?;
    Ok(NodeFacts {
        name: start.node.clone(),
        links,
        host_end: came_by.unwrap_or_default(),
        target_end: Some(target_end.index),
        forwards,
        host_end_forwards,
        tunnel: ways::tunnel(host, &way_back, next_back, from)?,
        way_back: Some(way_back),
        route: ways::route_to(to),
        neighbour: match way {
            Way::Out { link, gateway } => host.neighbour(link, gateway.unwrap_or(to))?,
            Way::Local | Way::Nowhere(_) => None,
        },
        way,
        own: ways::own(host)?,
    })
}

/// The packets, in the tunnel and out of it, as rules of this node meet them.
fn shapes(evidence: &Evidence) -> Vec<Shape> {
    let (from, to) = (evidence.ends.from, evidence.ends.to);
    let protocol = evidence.ends.transport.name(from.is_ipv4());
    let shape = |from: IpAddr, to: IpAddr, protocol| Shape {
        from: vec![from],
        to: vec![to],
        protocol,
        arrives_by: None,
    };
    let mut shapes = vec![shape(from, to, protocol), shape(to, from, protocol)];
    shapes.extend(rules::of_tunnels(&evidence.sightings));
    shapes
}
