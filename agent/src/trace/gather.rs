//! Finds out about one path: who the ends are, what the kernel says of the way, and what becomes of probes.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use ::ipam::Lease;
use anyhow::{Context, anyhow, bail};
use api::NamespacedName;
use routes::{LinkInfo, Looker, PodEnd, Question, Way};

use super::evidence::{Ends, Evidence, NodeFacts, PodFacts, Side, Sides, TargetFacts};
use super::packet::{Kind, Transport, Tuple};
use super::rules::{self, Shape};
use super::sender::Sender;
use super::session::Session;
use super::watch::{Direction, Place, Sought, Watch, inside};
use super::ways::{arriving, forwards, node_way, own, route_to, tunnel};
use crate::attachments::{host_interface, peek};
use crate::control;
use crate::doctor::bound;
use crate::policy::{Destination, FlowView, PolicyAnswer, PolicyQuestion, PortName, Protocol};
use crate::policy::{Place as Who, SideView};

/// The agent reads its rules back for its answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is asked for.
#[derive(Clone, Debug)]
pub(super) struct Request<'a> {
    pub(super) to: &'a Destination,
    /// As it was written.
    pub(super) asked: &'a str,
    /// IPv6 rather than IPv4.
    pub(super) v6: bool,
    pub(super) run_dir: &'a Path,
    pub(super) state_dir: &'a Path,
    /// For how long an answer is waited for.
    pub(super) patience: Duration,
}

/// What is known before a probe is sent.
struct Start {
    ends: Ends,
    policy: Option<Sides>,
    /// Host ends of the pod that sends, and of the target if it is of this node.
    host_ends: (String, Option<String>),
    node: Option<String>,
}

/// Finds all of it out.
///
/// # Errors
/// If the pod is not of this node, the target is not known, or namespaces cannot be entered.
pub(super) fn gather(request: &Request<'_>, pod: &NamespacedName) -> anyhow::Result<Evidence> {
    let start = Start::find(request, pod)?;
    let mut host = Looker::open()?;
    let links = host.links()?;
    let (host_end, pod) = pod_end(&mut host, &links, &start.host_ends.0)?;
    let target = match &start.host_ends.1 {
        Some(name) => pod_end(&mut host, &links, name).ok(),
        None => None,
    };
    let ends = &start.ends;
    let tuple = Tuple {
        transport: ends.transport,
        from: ends.from,
        to: ends.to,
        from_port: port_like(),
        to_port: ends.port,
        mark: port_like(),
    };
    let before = rules::read();
    let session = match Sender::open(Some(&pod.namespace), tuple) {
        Ok(sender) => Some(probed(request, sender, &pod, target.as_ref())?),
        // The pod does not have its address: that is told.
        Err(error) if error.kind() == std::io::ErrorKind::AddrNotAvailable => None,
        Err(error) => {
            return Err(error).context(
                "cannot send from the pod's namespace; this must run as root on the node",
            );
        }
    };
    let after = rules::read();
    let (sent, sightings) = session.map_or_else(Default::default, |session| {
        (session.sent, session.sightings)
    });
    let mut evidence = Evidence {
        pod: Some(pod_facts(&pod, ends)?),
        node: node_facts(
            &mut host,
            &start,
            host_end.index,
            target.as_ref().map(|(end, _)| end.index),
        )?,
        target: match &target {
            Some((_, end)) => Some(target_facts(end)?),
            None => None,
        },
        policy: start.policy,
        risen: Vec::new(),
        ends: start.ends,
        sent,
        sightings,
    };
    way_back(&mut host, &mut evidence)?;
    if let (Some(before), Some(after)) = (before, after) {
        let shapes = shapes(&evidence, host_end.name);
        evidence.risen = rules::risen(&before, &after, &shapes);
    }
    Ok(evidence)
}

/// The probes and their answers, as rules of this node meet them.
fn shapes(evidence: &Evidence, host_end: String) -> Vec<Shape> {
    let ends = &evidence.ends;
    let left = || evidence.probes(Place::Node, Direction::Out);
    let from: Vec<IpAddr> = left().map(|one| one.seen.from).chain([ends.from]).collect();
    let to: Vec<IpAddr> = left().map(|one| one.seen.to).chain([ends.to]).collect();
    let protocol = ends.transport.name(ends.from.is_ipv4());
    let forth = Shape {
        from: from.clone(),
        to: to.clone(),
        protocol,
        arrives_by: Some(host_end),
    };
    let back = Shape {
        from: to,
        to: from,
        protocol,
        arrives_by: None,
    };
    let mut shapes = vec![forth, back];
    shapes.extend(rules::of_tunnels(&evidence.sightings));
    let tunnel = evidence.node.tunnel.as_ref();
    if let Some(remote) = tunnel.and_then(|tunnel| tunnel.remote) {
        for own in &evidence.node.own {
            shapes.extend(rules::between(*own, remote));
        }
    }
    shapes
}

/// What tells this run from others; ports of ICMP, too. It needs to be no secret.
pub(super) fn port_like() -> u16 {
    use std::hash::{BuildHasher, RandomState};
    let [.., high, low] = RandomState::new()
        .hash_one(std::process::id())
        .to_be_bytes();
    // Neither 0 nor what lengths and small numbers in headers look like.
    u16::from_be_bytes([high | 0x80, low | 1])
}

fn probed(
    request: &Request<'_>,
    sender: Sender,
    pod: &PodEnd,
    target: Option<&(LinkInfo, PodEnd)>,
) -> anyhow::Result<Session> {
    let tuple = sender.tuple();
    let watch = |place, namespace| {
        Watch::open(place, Sought::Run(tuple), namespace)
            .with_context(|| "cannot watch links; this must run as root on the node".to_owned())
    };
    let mut watches = vec![
        watch(Place::Source, Some(&pod.namespace))?,
        watch(Place::Node, None)?,
    ];
    if let Some((_, end)) = target {
        watches.push(watch(Place::Target, Some(&end.namespace))?);
    }
    let mut session = Session::new(sender, watches, request.patience);
    let size = usize::try_from(pod.link.mtu).unwrap_or(1500);
    session.run(size)?;
    Ok(session)
}

impl Start {
    fn find(request: &Request<'_>, pod: &NamespacedName) -> anyhow::Result<Self> {
        let asked = explained(request, &pod.to_string());
        let (node, flow) = match &asked {
            Ok((node, flow)) => (Some(node.clone()), flow.as_ref()),
            Err(_) => (None, None),
        };
        let leases = peek(request.state_dir).context("who has which address is not known")?;
        let source = lease_of(&leases, pod).ok_or_else(|| {
            anyhow!(
                "no pod {} is attached to this node: run this on the node where it runs (kubectl get pod -o wide)",
                pod
            )
        })?;
        let from = of_family(source, request.v6).ok_or_else(|| {
            let other = if request.v6 { "-4" } else { "-6" };
            anyhow!("pod {} has no address of that family: try {other}", pod)
        })?;
        let to = target_address(request, &leases, flow, asked.as_ref().err())?;
        if from.is_ipv4() != to.is_ipv4() {
            bail!(
                "{from} and {to} are of two families: try {}",
                if request.v6 { "-4" } else { "-6" }
            );
        }
        if from == to {
            bail!("{to} is the pod's own address: what it sends there does not leave it");
        }
        let holder = leases.iter().find(|lease| lease.addresses.contains(&to));
        let policy = flow.and_then(sides);
        let target_node = policy.as_ref().and_then(|sides| sides.ingress.node.clone());
        let name = match (
            &request.to.place,
            holder.and_then(|lease| lease.pod.as_ref()),
        ) {
            (Who::Pod(name), _) | (Who::Address(_), Some(name)) => name.to_string(),
            (Who::Address(address), None) => address.to_string(),
        };
        Ok(Self {
            host_ends: (
                host_interface(&source.holder),
                holder.map(|lease| host_interface(&lease.holder)),
            ),
            ends: Ends {
                pod: pod.to_string(),
                from,
                to,
                port: port(request, flow)?,
                transport: transport(request.to.protocol)?,
                target: name,
                asked: request.asked.to_owned(),
                target_node,
            },
            policy,
            node,
        })
    }
}

pub(super) fn transport(protocol: Protocol) -> anyhow::Result<Transport> {
    match protocol {
        Protocol::Tcp => Ok(Transport::Tcp),
        Protocol::Udp => Ok(Transport::Udp),
        Protocol::Icmp => Ok(Transport::Icmp),
        Protocol::Sctp => {
            bail!("SCTP cannot be traced: try the same port with tcp or udp, or /icmp")
        }
    }
}

pub(super) fn port(request: &Request<'_>, flow: Option<&FlowView>) -> anyhow::Result<u16> {
    match &request.to.port {
        None => Ok(0),
        Some(PortName::Number(number)) => Ok(*number),
        Some(PortName::Name(name)) => flow.and_then(|flow| flow.port).with_context(|| {
            format!("the agent does not say which port {name} is: give its number")
        }),
    }
}

/// The agent's node, and what it says of the connection in the family that is asked for.
pub(super) fn explained(
    request: &Request<'_>,
    from: &str,
) -> Result<(String, Option<FlowView>), String> {
    let dir = request.run_dir.to_owned();
    let question = PolicyQuestion::Explain {
        from: from.to_owned(),
        to: request.asked.to_owned(),
    };
    let asked = bound::within(PATIENCE, move || control::ask_policy(&dir, question));
    match asked {
        Ok(Ok(PolicyAnswer::Explain(view))) => {
            let of_family = |flow: &FlowView| flow.source.contains(':') == request.v6;
            let flow = view.families.into_iter().find(of_family);
            Ok((view.node, flow))
        }
        Ok(Ok(_)) => Err("the agent answered something else".to_owned()),
        Ok(Err(error)) => Err(format!("{error:#}")),
        Err(late) => Err(late.to_string()),
    }
}

pub(super) fn sides(flow: &FlowView) -> Option<Sides> {
    let side = |direction: &str| {
        let said = flow.sides.iter().find(|side| side.direction == direction)?;
        let SideView {
            subject,
            node,
            local,
            allowed,
            decided_by,
            steps,
            ..
        } = said.clone();
        let mut asked: Vec<String> = steps.into_iter().map(|step| step.policy).collect();
        asked.dedup();
        Some(Side {
            allowed,
            by: match asked.is_empty() || allowed {
                true => decided_by,
                false => format!("{decided_by} (asked: {})", asked.join(", ")),
            },
            subject,
            node,
            local,
        })
    };
    Some(Sides {
        egress: side("egress")?,
        ingress: side("ingress")?,
    })
}

pub(super) fn lease_of<'a>(leases: &'a [Lease], pod: &NamespacedName) -> Option<&'a Lease> {
    let of_pod = leases
        .iter()
        .filter(|lease| lease.pod.as_ref() == Some(pod));
    of_pod.max_by_key(|lease| lease.since)
}

pub(super) fn of_family(lease: &Lease, v6: bool) -> Option<IpAddr> {
    let mut all = lease.addresses.iter();
    all.find(|address| address.is_ipv6() == v6).copied()
}

fn target_address(
    request: &Request<'_>,
    leases: &[Lease],
    flow: Option<&FlowView>,
    silent: Option<&String>,
) -> anyhow::Result<IpAddr> {
    let pod = match &request.to.place {
        Who::Address(address) => return Ok(*address),
        Who::Pod(pod) => pod,
    };
    let here = lease_of(leases, pod).and_then(|lease| of_family(lease, request.v6));
    let said = || flow.and_then(|flow| flow.destination.parse().ok());
    here.or_else(said).with_context(|| {
        let why = silent.map_or_else(
            || "it has no address of that family".to_owned(),
            |why| format!("the agent does not say ({why})"),
        );
        format!("the address of pod {pod} is not known: {why}; give the address instead")
    })
}

pub(super) fn pod_end(
    host: &mut Looker,
    links: &[LinkInfo],
    name: &str,
) -> anyhow::Result<(LinkInfo, PodEnd)> {
    let link = links
        .iter()
        .find(|link| link.name == name)
        .with_context(|| {
            format!("the pod's interface {name} is gone: `portolan doctor` says more")
        })?;
    let end = host.pod_end(link)?;
    let end = end.with_context(|| {
        format!("the network namespace behind {name} is neither in /run/netns nor in /proc: run this on the node, with its /proc")
    })?;
    Ok((link.clone(), end))
}

fn enter(end: &PodEnd) -> String {
    format!("nsenter --net={}", end.path.display())
}

/// Looks at a pod from inside.
fn looker(end: &PodEnd) -> anyhow::Result<Looker> {
    let opened = inside(Some(&end.namespace), || {
        Looker::open().map_err(std::io::Error::other)
    });
    opened.context("cannot look into the pod's namespace; this must run as root on the node")
}

fn own_link(inside: &mut Looker, end: &PodEnd) -> anyhow::Result<LinkInfo> {
    let links = inside.links()?;
    let link = links.into_iter().find(|link| link.index == end.link.index);
    link.context("the pod's interface has gone meanwhile")
}

fn pod_facts(end: &PodEnd, ends: &Ends) -> anyhow::Result<PodFacts> {
    let mut pod = looker(end)?;
    let way = pod.way(&Question {
        to: ends.to,
        from: None,
        arrives_by: None,
    })?;
    let neighbour = match way {
        Way::Out { link, gateway } => pod.neighbour(link, gateway.unwrap_or(ends.to))?,
        Way::Local | Way::Nowhere(_) => None,
    };
    Ok(PodFacts {
        link: own_link(&mut pod, end)?,
        enter: enter(end),
        has_address: pod
            .addresses()?
            .iter()
            .any(|(_, address)| *address == ends.from),
        way,
        neighbour,
    })
}

pub(super) fn target_facts(end: &PodEnd) -> anyhow::Result<TargetFacts> {
    let mut pod = looker(end)?;
    Ok(TargetFacts {
        link: own_link(&mut pod, end)?,
        enter: enter(end),
    })
}

fn node_facts(
    host: &mut Looker,
    start: &Start,
    host_end: u32,
    target_end: Option<u32>,
) -> anyhow::Result<NodeFacts> {
    let ends = &start.ends;
    let is_v4 = ends.from.is_ipv4();
    let (way, neighbour) = node_way(host, ends.from, ends.to, host_end)?;
    let name = &start.host_ends.0;
    let (forwards, host_end_forwards) = forwards(is_v4, name);
    Ok(NodeFacts {
        name: start.node.clone(),
        tunnel: tunnel(host, &way, neighbour, ends.to)?,
        links: host.links()?,
        host_end,
        target_end,
        forwards,
        host_end_forwards,
        way,
        way_back: None,
        route: route_to(ends.to),
        neighbour,
        own: own(host)?,
    })
}

/// Where translation sent the probe, the kernel is asked again for the way there; and for the way of an answer that came.
fn way_back(host: &mut Looker, evidence: &mut Evidence) -> anyhow::Result<()> {
    let out = super::judge::leaving(evidence).copied();
    let ends = &evidence.ends;
    if let Some(out) = out
        && out.seen.to != ends.to
    {
        let host_end = evidence.node.host_end;
        let (way, neighbour) = node_way(host, ends.from, out.seen.to, host_end)?;
        (evidence.node.way, evidence.node.neighbour) = (way, neighbour);
    }
    let mut answers = evidence.sightings.iter().filter(|one| {
        let is_answer = matches!(
            one.seen.kind,
            Kind::Accepted(_) | Kind::Refused(_) | Kind::Answered(_)
        );
        one.place == Place::Node && one.direction == Direction::In && is_answer
    });
    let Some(answer) = answers.next() else {
        return Ok(());
    };
    let (to, from, link) = (evidence.ends.from, answer.seen.from, answer.link);
    evidence.node.way_back = Some(arriving(host, from, to, link)?);
    Ok(())
}
