//! Looks at one network namespace, the caller's or a pod's: links, addresses, neighbours, and where a packet would go. It changes nothing.

use std::fs::File;
use std::net::IpAddr;
use std::path::PathBuf;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{RouteAttribute, RouteMessage, RouteType};

use crate::conn::Conn;
use crate::links::{self, LinkInfo};
use crate::pod::{family, namespaces, other_end, route_to};
use crate::survey::gateway;
use crate::tunnel::read::forwarding;
use crate::{Error, Mac};

/// A namespace that is looked at. Its calls wait for the kernel.
#[derive(Debug)]
pub struct Looker {
    conn: Conn,
}

/// A packet, as far as routing needs to know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Question {
    /// Where it goes.
    pub to: IpAddr,
    /// Where it comes from.
    pub from: Option<IpAddr>,
    /// The link by which it comes; none for one that starts here.
    pub arrives_by: Option<u32>,
}

/// Where the kernel would send a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// Out by a link, to a gateway or straight to the destination.
    Out {
        /// The link's index.
        link: u32,
        /// None where the destination itself is on the link.
        gateway: Option<IpAddr>,
    },
    /// To this namespace itself.
    Local,
    /// Nowhere.
    Nowhere(NoWay),
}

/// Why the kernel would drop it instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum NoWay {
    /// No route leads there, or the link by which it came does not forward.
    NoRoute,
    /// A blackhole route: without a word.
    Blackhole,
    /// An unreachable route: the sender is told.
    Unreachable,
    /// A prohibit route: the sender is told.
    Prohibit,
    /// Its source is not to come by that link (rp_filter).
    ReversePath,
    /// The kernel's error number, where it is none of these.
    Other(i32),
}

/// A pod's end of its link, and how to get there.
#[derive(Debug)]
pub struct PodEnd {
    /// The pod's network namespace.
    pub namespace: File,
    /// A path of it.
    pub path: PathBuf,
    /// The end.
    pub link: LinkInfo,
}

/// What is known of a neighbour on a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Neighbour {
    /// Its link-layer address, if it is known.
    pub mac: Option<Mac>,
    /// Whether it was asked for and did not answer.
    pub silent: bool,
}

impl Looker {
    /// Looks at the calling thread's network namespace, whatever thread asks later.
    ///
    /// # Errors
    /// When there can be no socket.
    pub fn open() -> Result<Self, Error> {
        Ok(Self {
            conn: Conn::open()?,
        })
    }

    /// All links.
    ///
    /// # Errors
    /// When the kernel can't be asked.
    pub fn links(&mut self) -> Result<Vec<LinkInfo>, Error> {
        links::dump(&mut self.conn)
    }

    /// All addresses, each with its link.
    ///
    /// # Errors
    /// When the kernel can't be asked.
    pub fn addresses(&mut self) -> Result<Vec<(u32, IpAddr)>, Error> {
        let all = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        self.conn.dump(&all, "listing addresses", |message| {
            let RouteNetlinkMessage::NewAddress(found) = message else {
                return None;
            };
            let mut attributes = found.attributes.iter();
            let address = attributes.find_map(|attribute| match attribute {
                AddressAttribute::Local(address) | AddressAttribute::Address(address) => {
                    Some(*address)
                }
                _ => None,
            })?;
            Some((found.header.index, address))
        })
    }

    /// What is known of a neighbour; `None` where it was never asked for.
    ///
    /// # Errors
    /// When the kernel can't be asked.
    pub fn neighbour(&mut self, link: u32, address: IpAddr) -> Result<Option<Neighbour>, Error> {
        let mut all = NeighbourMessage::default();
        all.header.family = family(address);
        let all = RouteNetlinkMessage::GetNeighbour(all);
        let destination = NeighbourAttribute::Destination(NeighbourAddress::from(address));
        let found = self.conn.dump(&all, "listing neighbours", |message| {
            let RouteNetlinkMessage::NewNeighbour(found) = message else {
                return None;
            };
            let is_it = found.header.ifindex == link && found.attributes.contains(&destination);
            is_it.then(|| Neighbour {
                mac: found
                    .attributes
                    .iter()
                    .find_map(|attribute| match attribute {
                        NeighbourAttribute::LinkLayerAddress(mac) => mac.as_slice().try_into().ok(),
                        _ => None,
                    }),
                silent: matches!(
                    found.header.state,
                    NeighbourState::Incomplete | NeighbourState::Failed
                ),
            })
        })?;
        Ok(found.into_iter().next())
    }

    /// The other ends that a VXLAN device knows, by the link-layer addresses that lead to them.
    ///
    /// # Errors
    /// When the kernel can't be asked.
    pub fn forwarding(&mut self, link: u32) -> Result<Vec<(Mac, IpAddr)>, Error> {
        let found = forwarding(&mut self.conn, link)?;
        Ok(found.into_iter().collect())
    }

    /// Where the kernel would send a packet.
    ///
    /// # Errors
    /// When the kernel can't be asked.
    pub fn way(&mut self, question: &Question) -> Result<Way, Error> {
        let mut message = route_to(question.to);
        if let RouteNetlinkMessage::GetRoute(route) = &mut message {
            if let Some(from) = question.from {
                route.header.source_prefix_length = if from.is_ipv4() { 32 } else { 128 };
                route.attributes.push(RouteAttribute::Source(from.into()));
            }
            if let Some(link) = question.arrives_by {
                route.attributes.push(RouteAttribute::Iif(link));
            }
        }
        match self.conn.ask(message, "looking a route up") {
            Ok(Some(RouteNetlinkMessage::NewRoute(route))) => Ok(way(&route)),
            Ok(_) => Ok(Way::Nowhere(NoWay::NoRoute)),
            Err(Error::Refused { source, .. }) => {
                Ok(Way::Nowhere(refusal(source.raw_os_error().unwrap_or(0))))
            }
            Err(error) => Err(error),
        }
    }

    /// The namespace in which the other end of a pod's link is; `None` where it is neither in /run/netns nor in /proc.
    ///
    /// # Errors
    /// When the kernel can't be asked.
    pub fn pod_end(&mut self, host_end: &LinkInfo) -> Result<Option<PodEnd>, Error> {
        let Some((index, number)) = host_end.peer else {
            return Ok(None);
        };
        let Some(end) = other_end(&mut self.conn, index, number)? else {
            return Ok(None);
        };
        let namespace = namespaces(&mut self.conn)?.remove(&number);
        Ok(namespace.map(|(namespace, path)| PodEnd {
            namespace,
            path,
            link: end,
        }))
    }
}

fn way(route: &RouteMessage) -> Way {
    match route.header.kind {
        RouteType::Local | RouteType::Broadcast | RouteType::Anycast | RouteType::Multicast => {
            return Way::Local;
        }
        RouteType::BlackHole => return Way::Nowhere(NoWay::Blackhole),
        RouteType::Unreachable => return Way::Nowhere(NoWay::Unreachable),
        RouteType::Prohibit => return Way::Nowhere(NoWay::Prohibit),
        _ => {}
    }
    let link = route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Oif(link) => Some(*link),
            _ => None,
        });
    let gateway = route.attributes.iter().find_map(gateway);
    link.map_or(Way::Nowhere(NoWay::NoRoute), |link| Way::Out {
        link,
        gateway,
    })
}

fn refusal(errno: i32) -> NoWay {
    use nix::errno::Errno;
    match Errno::from_raw(errno) {
        Errno::ENETUNREACH => NoWay::NoRoute,
        Errno::EHOSTUNREACH => NoWay::Unreachable,
        Errno::EINVAL => NoWay::Blackhole,
        Errno::EACCES => NoWay::Prohibit,
        Errno::EXDEV => NoWay::ReversePath,
        _ => NoWay::Other(errno),
    }
}
