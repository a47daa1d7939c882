//! All that was found out about one path: what the kernel says before, and what was seen of the probes.

use std::net::IpAddr;

use routes::{LinkInfo, Mac, Neighbour, SeenRoute, Way};

use super::packet::{Kind, Transport};
use super::rules::RulePlace;
use super::watch::{Direction, Place, Sighting};

/// Who sends, and to whom.
#[derive(Clone, Debug)]
pub(super) struct Ends {
    /// The pod that sends, as `namespace/name`.
    pub(super) pod: String,
    pub(super) from: IpAddr,
    pub(super) to: IpAddr,
    /// Of ICMP 0.
    pub(super) port: u16,
    pub(super) transport: Transport,
    /// The target's name, or its address.
    pub(super) target: String,
    /// As it was asked for, with port and protocol.
    pub(super) asked: String,
    /// Where the target runs, if it is a pod and that is known.
    pub(super) target_node: Option<String>,
}

/// The pod that sends, seen from inside.
#[derive(Clone, Debug)]
pub(super) struct PodFacts {
    /// Its end of the link.
    pub(super) link: LinkInfo,
    /// The command before a command that is to run in its namespace.
    pub(super) enter: String,
    pub(super) has_address: bool,
    pub(super) way: Way,
    /// The first hop of the pod, after the probes.
    pub(super) neighbour: Option<Neighbour>,
}

/// A pod of this node that is to get it.
#[derive(Clone, Debug)]
pub(super) struct TargetFacts {
    /// Its end of the link.
    pub(super) link: LinkInfo,
    /// As [`PodFacts::enter`].
    pub(super) enter: String,
}

/// The node, as far as this path goes.
#[derive(Clone, Debug)]
pub(super) struct NodeFacts {
    pub(super) name: Option<String>,
    pub(super) links: Vec<LinkInfo>,
    /// The index of the pod's host end.
    pub(super) host_end: u32,
    /// The same of the target, where it is a pod of this node.
    pub(super) target_end: Option<u32>,
    /// net.ipv4.ip_forward, or net.ipv6.conf.all.forwarding.
    pub(super) forwards: bool,
    /// The same for the host end alone.
    pub(super) host_end_forwards: bool,
    /// Where a packet of the pod goes, as the kernel looks it up.
    pub(super) way: Way,
    /// Where a packet of the target would go that came by the link by which the probe left.
    pub(super) way_back: Option<Way>,
    /// The route of table main that matches best.
    pub(super) route: Option<SeenRoute>,
    /// The next hop, after the probes.
    pub(super) neighbour: Option<Neighbour>,
    /// The tunnel, if it goes into one; of what arrives, the one for the answer.
    pub(super) tunnel: Option<TunnelFacts>,
    /// Addresses of this node.
    pub(super) own: Vec<IpAddr>,
}

/// The tunnel into which the node sends it.
#[derive(Clone, Debug)]
pub(super) struct TunnelFacts {
    /// Its device.
    pub(super) device: LinkInfo,
    /// The next hop inside of it.
    pub(super) gateway: IpAddr,
    /// Of VXLAN, the link-layer address of that one; none where no entry says it.
    pub(super) mac: Option<Mac>,
    /// The other end's address on the network between the nodes, where the entries say it.
    pub(super) remote: Option<IpAddr>,
    /// How the kernel would send there.
    pub(super) way: Option<Way>,
    /// The next hop there, after the probes.
    pub(super) neighbour: Option<Neighbour>,
}

/// What the policies say of one side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Side {
    pub(super) allowed: bool,
    pub(super) by: String,
    pub(super) subject: Option<String>,
    pub(super) node: Option<String>,
    pub(super) local: bool,
}

/// What the agent says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sides {
    pub(super) egress: Side,
    pub(super) ingress: Side,
}

/// What a probe was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To get there.
    Reach,
    /// To die at a router.
    Hops(u8),
    /// To get there with so many octets.
    Size(usize),
}

/// A probe that was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sent {
    pub(super) number: u16,
    pub(super) purpose: Purpose,
    /// What the pod's kernel said against it.
    pub(super) error: Option<String>,
}

/// All of it.
#[derive(Clone, Debug)]
pub(super) struct Evidence {
    pub(super) ends: Ends,
    /// The pod that sends; none where it is not of this node.
    pub(super) pod: Option<PodFacts>,
    pub(super) node: NodeFacts,
    /// The target, where it is a pod of this node.
    pub(super) target: Option<TargetFacts>,
    pub(super) policy: Option<Sides>,
    /// Rules that dropped more after the probes than before.
    pub(super) risen: Vec<RulePlace>,
    pub(super) sent: Vec<Sent>,
    pub(super) sightings: Vec<Sighting>,
}

impl Evidence {
    /// It comes from elsewhere, and nothing was sent from here.
    pub(super) fn is_arriving(&self) -> bool {
        self.pod.is_none()
    }

    /// The numbers of the probes of one purpose.
    pub(super) fn numbers(&self, purpose: Purpose) -> impl Iterator<Item = u16> {
        let of_it = self.sent.iter().filter(move |sent| sent.purpose == purpose);
        of_it.map(|sent| sent.number)
    }

    fn reaching(&self, number: u16) -> bool {
        self.numbers(Purpose::Reach).any(|one| one == number)
    }

    /// Sightings of probes that were to get there.
    pub(super) fn probes(
        &self,
        place: Place,
        direction: Direction,
    ) -> impl Iterator<Item = &Sighting> {
        self.sightings.iter().filter(move |one| {
            let is_probe = matches!(one.seen.kind, Kind::Probe(number) if self.reaching(number));
            one.place == place && one.direction == direction && is_probe
        })
    }

    /// Sightings of the target's answers to them.
    pub(super) fn answers(
        &self,
        place: Place,
        direction: Direction,
    ) -> impl Iterator<Item = &Sighting> {
        self.sightings.iter().filter(move |one| {
            let is_answer = match one.seen.kind {
                Kind::Accepted(number) | Kind::Refused(number) => self.reaching(number),
                Kind::Answered(number) => number.is_none_or(|number| self.reaching(number)),
                Kind::Probe(_) | Kind::Error { .. } => false,
            };
            one.place == place && one.direction == direction && is_answer
        })
    }

    /// The link of that index.
    pub(super) fn link(&self, index: u32) -> Option<&LinkInfo> {
        self.node.links.iter().find(|link| link.index == index)
    }

    /// Its name.
    pub(super) fn link_name(&self, index: u32) -> String {
        self.link(index)
            .map_or_else(|| format!("if{index}"), |link| link.name.clone())
    }
}
