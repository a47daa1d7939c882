//! A new MTU for pods that run: both ends of their links, in an order that loses no packet.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use netlink_packet_core::NLM_F_REPLACE;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use netlink_packet_route::route::{
    RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteProtocol,
};
use netlink_packet_route::{AddressFamily, route::RouteType};
use nix::sched::{CloneFlags, setns};

use super::{GATEWAY_V6, Steps};
use crate::batch::{Attributes, Batch, attribute, word};
use crate::conn::Conn;
use crate::links::{self, LINK_PREFIX, LinkInfo, blocking};
use crate::path::holders;
use crate::{Error, PROTOCOL};

/// What IPv6 needs (RFC 8200 §5): below it the kernel takes IPv6 off an interface.
pub const LEAST_MTU_V6: u32 = 1280;
/// Stands in a host end's alias while its pod's routes are held to an MTU: a killed run's work is found by it.
const UNDER_WAY: &str = "portolan: the MTU changes";
const NAMESPACES: &str = "/run/netns";
const RTM_GETNSID: u16 = 90;
const NETNSA_NSID: u16 = 1;
const NETNSA_FD: u16 = 3;
const RTAX_MTU: u32 = 2;

/// What became of one running pod's MTU.
#[derive(Debug)]
pub struct MtuOutcome {
    /// The host end's name.
    pub host_interface: String,
    /// What both ends have now; or why they keep what they had.
    pub outcome: Result<u32, Error>,
}

/// Gives every pod's link the MTU, at least [`LEAST_MTU_V6`] where the pod has IPv6; tells those that had another.
///
/// A pod's end is changed from inside its namespace, which is looked for in /run/netns and /proc and entered by a
/// thread of its own: that takes CAP_SYS_ADMIN. Where it can't be entered both ends stay: a host end that takes less
/// than its pod sends would drop silently what is now answered by "too big".
///
/// # Errors
/// When the kernel can't be asked for its links.
pub async fn set_pod_mtus(mtu: u32) -> Result<Vec<MtuOutcome>, Error> {
    let mut host = Conn::open()?;
    blocking(move || {
        let mut due = Vec::new();
        let gateways = holders(&mut host, &BTreeSet::from([GATEWAY_V6.into()]))?;
        for link in links::dump(&mut host)? {
            // One that is down is being made: who makes it looks at the MTU once more.
            if link.up && link.kind == "veth" && link.name.starts_with(LINK_PREFIX) {
                let wanted = pod_mtu(mtu, gateways.contains(&link.index));
                due.extend(Pair::find(&mut host, link, wanted)?);
            }
        }
        if due.is_empty() {
            return Ok(Vec::new());
        }
        let namespaces = namespaces(&mut host)?;
        let mut outcomes = Vec::new();
        for pair in due {
            let host_interface = pair.host.name.clone();
            let outcome = pair.change(&mut host, &namespaces);
            outcomes.push(MtuOutcome {
                host_interface,
                outcome,
            });
        }
        Ok(outcomes)
    })
    .await
}

/// The MTU for a pod when the path has this one.
#[must_use]
pub fn pod_mtu(path: u32, has_v6: bool) -> u32 {
    if has_v6 { path.max(LEAST_MTU_V6) } else { path }
}

/// A link whose MTU is not what it should be, at one end at least.
struct Pair {
    host: LinkInfo,
    namespace: i32,
    pod: LinkInfo,
    wanted: u32,
}

impl Pair {
    /// `None` for a link that is as it should be, or whose other end is out of sight.
    fn find(host: &mut Conn, link: LinkInfo, wanted: u32) -> Result<Option<Self>, Error> {
        let Some((index, namespace)) = link.peer else {
            return Ok(None);
        };
        let Some(pod) = other_end(host, index, namespace)? else {
            return Ok(None);
        };
        // A pod's end below the host's was lowered by a plugin behind ours, or by the pod: it stays so until the path changes.
        let fine = link.mtu == wanted && pod.mtu <= wanted && link.alias != UNDER_WAY;
        Ok((!fine).then_some(Self {
            host: link,
            namespace,
            pod,
            wanted,
        }))
    }

    /// What the pod sends shrinks first, by its routes, and grows last: neither end ever gets what it would drop.
    fn change(&self, host: &mut Conn, namespaces: &Namespaces) -> Result<u32, Error> {
        let name = &self.host.name;
        let (namespace, _) = namespaces.get(&self.namespace).ok_or_else(|| {
            let why = "its pod's network namespace is neither in /run/netns nor in /proc";
            Error::Name {
                name: name.clone(),
                why,
            }
        })?;
        let mut pod = enter(namespace)?;
        let least = self.wanted.min(self.pod.mtu).min(self.host.mtu);
        set(host, self.host.index, alias(UNDER_WAY), name)?;
        let routes = own_routes(&mut pod, self.pod.index)?;
        hold(&mut pod, &routes, Some(least), name)?;
        let (to_host, to_pod) = (LinkAttribute::Mtu(self.wanted), "the pod's end of");
        if self.wanted > self.pod.mtu {
            set(&mut pod, self.pod.index, to_host.clone(), to_pod)?;
            set(host, self.host.index, to_host, name)?;
        } else {
            set(host, self.host.index, to_host.clone(), name)?;
            set(&mut pod, self.pod.index, to_host, to_pod)?;
        }
        hold(&mut pod, &routes, None, name)?;
        set(host, self.host.index, alias(""), name)?;
        Ok(self.wanted)
    }
}

fn alias(text: &str) -> LinkAttribute {
    LinkAttribute::IfAlias(text.to_owned())
}

/// Reads the other end of a veth without entering its namespace.
pub(crate) fn other_end(
    host: &mut Conn,
    index: u32,
    namespace: i32,
) -> Result<Option<LinkInfo>, Error> {
    let mut question = LinkMessage::default();
    question.header.index = index;
    let place = LinkAttribute::IfNetnsId(namespace);
    question.attributes.push(place);
    let question = RouteNetlinkMessage::GetLink(question);
    match host.ask(question, "looking for the pod's end of a link") {
        Ok(Some(RouteNetlinkMessage::NewLink(link))) => Ok(Some(links::described(&link))),
        // A namespace that went meanwhile takes its number along.
        Ok(_) | Err(Error::Refused { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

fn set(conn: &mut Conn, index: u32, what: LinkAttribute, name: &str) -> Result<(), Error> {
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.attributes.push(what);
    let mut steps = Steps::default();
    steps.add(RouteNetlinkMessage::SetLink(link), 0, || {
        format!("the MTU of {name}")
    });
    steps.run(conn)
}

/// The pod's routes that we made.
fn own_routes(pod: &mut Conn, index: u32) -> Result<Vec<RouteMessage>, Error> {
    let mut own = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut all = RouteMessage::default();
        all.header.address_family = family;
        let all = RouteNetlinkMessage::GetRoute(all);
        own.extend(
            pod.dump(&all, "listing the pod's routes", |message| match message {
                RouteNetlinkMessage::NewRoute(route) => {
                    is_own(&route, index).then(|| rewritable(route))
                }
                _ => None,
            })?,
        );
    }
    Ok(own)
}

fn is_own(route: &RouteMessage, index: u32) -> bool {
    route.header.table == RouteHeader::RT_TABLE_MAIN
        && route.header.protocol == RouteProtocol::Other(PROTOCOL)
        && route.header.kind == RouteType::Unicast
        && route.attributes.contains(&RouteAttribute::Oif(index))
}

/// Leaves what a request may say.
fn rewritable(mut route: RouteMessage) -> RouteMessage {
    route.header.flags &= RouteFlags::Onlink;
    route.attributes.retain(|attribute| {
        matches!(
            attribute,
            RouteAttribute::Oif(_)
                | RouteAttribute::Destination(_)
                | RouteAttribute::Gateway(_)
                | RouteAttribute::Priority(_)
        )
    });
    route
}

/// Writes the pod's routes in place, with an MTU of their own or without.
fn hold(
    pod: &mut Conn,
    routes: &[RouteMessage],
    mtu: Option<u32>,
    name: &str,
) -> Result<(), Error> {
    let mut steps = Steps::default();
    for route in routes {
        let mut route = route.clone();
        if let Some(mtu) = mtu {
            // Locked, for else the kernel lifts an IPv6 route's with the interface's.
            let metrics = vec![RouteMetric::Lock(1 << RTAX_MTU), RouteMetric::Mtu(mtu)];
            route.attributes.push(RouteAttribute::Metrics(metrics));
        }
        let message = RouteNetlinkMessage::NewRoute(route);
        steps.add(message, NLM_F_REPLACE, || {
            format!("the MTU of the routes of the pod behind {name}")
        });
    }
    steps.run(pod)
}

/// A socket inside a namespace, made by a thread that enters it and ends.
fn enter(namespace: &File) -> Result<Conn, Error> {
    std::thread::scope(|scope| {
        let inside = scope.spawn(|| {
            setns(namespace, CloneFlags::CLONE_NEWNET)
                .map_err(|e| Error::Socket("enter the pod's namespace", e.into()))?;
            Conn::open()
        });
        inside.join().unwrap_or(Err(Error::Stopped))
    })
}

/// Network namespaces by the numbers that the host's gives them, each with the path by which it was found.
pub(crate) type Namespaces = BTreeMap<i32, (File, PathBuf)>;

/// The network namespaces in sight.
pub(crate) fn namespaces(host: &mut Conn) -> Result<Namespaces, Error> {
    let mut found = BTreeMap::new();
    let mut seen = BTreeSet::new();
    let named = folder(NAMESPACES);
    let processes = folder("/proc").map(|process| process.join("ns/net"));
    for path in named.chain(processes) {
        // Other files are simply not there, or gone by now.
        let Ok(inode) = fs::metadata(&path).map(|metadata| metadata.ino()) else {
            continue;
        };
        if !seen.insert(inode) {
            continue;
        }
        let Ok(file) = File::open(&path) else {
            continue;
        };
        if let Some(number) = number_of(host, &file)? {
            found.entry(number).or_insert((file, path));
        }
    }
    Ok(found)
}

fn folder(path: &str) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten();
    entries.filter_map(|entry| Some(entry.ok()?.path()))
}

/// `None` for a file that is no network namespace, or one without a number.
fn number_of(host: &mut Conn, file: &File) -> Result<Option<i32>, Error> {
    let mut batch = Batch::default();
    let Ok(descriptor) = u32::try_from(file.as_raw_fd()) else {
        return Ok(None);
    };
    batch.push_with(RTM_GETNSID, 0, |out| {
        out.extend_from_slice(&[0; 4]);
        attribute(out, NETNSA_FD, &descriptor.to_ne_bytes());
    });
    let mut number = None;
    host.converse(&mut batch, |_, _, payload| {
        let mut attributes = Attributes(payload.get(4..).unwrap_or_default());
        let value = attributes.find(|(kind, _)| *kind == NETNSA_NSID);
        number = value.and_then(|(_, value)| word(value, 0));
    })?;
    Ok(number.map(u32::cast_signed).filter(|number| *number >= 0))
}
