//! A pod's link: a veth pair, its pod end made straight in the pod's namespace, with addresses, gateway and routes.

mod check;
mod mtu;
mod request;
mod shape;

pub use check::check_pod_link;
pub use mtu::{LEAST_MTU_V6, MtuOutcome, pod_mtu, set_pod_mtus};
pub(crate) use mtu::{namespaces, other_end};
pub(crate) use request::{family, route_to};
pub use shape::Shaping;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netlink_packet_route::RouteNetlinkMessage;
use nix::errno::Errno;

use crate::batch::Batch;
use crate::conn::Conn;
use crate::links::{self, LinkInfo, blocking, check_name, check_ours};
use crate::{Error, sysctl};

/// Every pod's IPv4 gateway. No interface holds it, so that the node never sends from it; a route of the local table by
/// each host end lets the node answer for it, should a pod have lost its permanent neighbour entry.
pub const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// Every pod's IPv6 gateway; each host end holds it.
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
/// Every host end's link-layer address: the pod's neighbour entries outlive a host end made anew.
pub const HOST_MAC: [u8; 6] = [0xee; 6];
const LOOPBACK_INDEX: u32 = 1;
/// Far beyond what the kernel's work has been seen to take: some milliseconds under load.
const WAIT: Duration = Duration::from_secs(2);
const STEP: Duration = Duration::from_micros(200);
const MTU_RANGE: std::ops::RangeInclusive<u32> = 68..=65535;

/// What a pod's link should be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodLink {
    /// Name of the host end, `ptl` and a hash.
    pub host_interface: String,
    /// Name inside the pod, such as `eth0`.
    pub pod_interface: String,
    /// The pod's addresses, of either family.
    pub addresses: Vec<IpAddr>,
    /// MTU of both ends in bytes; the kernel's default if none.
    pub mtu: Option<u32>,
    /// Link-layer address of the pod end; one of the kernel's making if none.
    pub mac: Option<[u8; 6]>,
    /// Whether the node may send from 127.0.0.1 through the host end (route_localnet): for host ports of this pod.
    pub localnet: bool,
    /// The limit of what the pod receives.
    pub ingress: Option<Shaping>,
    /// The limit of what the pod sends.
    pub egress: Option<Shaping>,
    /// Where the pod gets by its gateway; everywhere, in a family without any.
    pub routes: Vec<IpNet>,
}

impl PodLink {
    fn has_v6(&self) -> bool {
        self.addresses.iter().any(IpAddr::is_ipv6)
    }

    /// The gateways of the pod's families, each with what it leads to.
    fn gateways(&self) -> Vec<(IpAddr, Vec<IpNet>)> {
        let families: [(bool, IpAddr, IpNet); 2] = [
            (self.has_v4(), GATEWAY_V4.into(), Ipv4Net::default().into()),
            (self.has_v6(), GATEWAY_V6.into(), Ipv6Net::default().into()),
        ];
        let present = families.into_iter().filter(|(has, _, _)| *has);
        present
            .map(|(_, gateway, everywhere)| {
                let own = |net: &&IpNet| net.addr().is_ipv4() == gateway.is_ipv4();
                let mut to: Vec<IpNet> = self.routes.iter().filter(own).map(IpNet::trunc).collect();
                if to.is_empty() {
                    to.push(everywhere);
                }
                (gateway, to)
            })
            .collect()
    }

    /// Where the pod gets by its gateways, each destination with its gateway: what a CNI result says.
    #[must_use]
    pub fn destinations(&self) -> Vec<(IpNet, IpAddr)> {
        let all = self.gateways().into_iter();
        all.flat_map(|(gateway, to)| to.into_iter().map(move |net| (net, gateway)))
            .collect()
    }

    fn has_v4(&self) -> bool {
        self.addresses.iter().any(IpAddr::is_ipv4)
    }

    fn check(&self) -> Result<(), Error> {
        check_ours(&self.host_interface)?;
        check_name(&self.pod_interface)?;
        if self.mtu.is_some_and(|mtu| !MTU_RANGE.contains(&mtu)) {
            let name = self.host_interface.clone();
            return Err(Error::Name {
                name,
                why: "its MTU must be between 68 and 65535",
            });
        }
        if self.mac.is_some_and(|mac| !is_unicast(mac)) {
            let name = self.pod_interface.clone();
            return Err(Error::Name {
                name,
                why: "its link-layer address must be one of a single station, and not all zeros",
            });
        }
        Ok(())
    }
}

/// Whether one station can bear this link-layer address.
fn is_unicast(mac: [u8; 6]) -> bool {
    let [first, ..] = mac;
    first & 1 == 0 && mac != [0; 6]
}

/// What a pod's link has become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PodLinkState {
    /// Index of the host end in the host's namespace.
    pub host_index: u32,
    /// Link-layer address of the host end.
    pub host_mac: [u8; 6],
    /// Link-layer address of the pod end.
    pub pod_mac: [u8; 6],
    /// MTU in bytes.
    pub mtu: u32,
}

/// A pod's link that is whole but for the host end being down: it carries nothing yet.
///
/// [`raise_pod_link`] opens it; who drops it instead owes a [`crate::delete_link`].
#[derive(Debug)]
#[must_use = "a made link carries nothing until it is raised"]
pub struct MadePodLink {
    maker: Maker,
    state: PodLinkState,
}

impl MadePodLink {
    /// What the link is, with all that a CNI result needs.
    #[must_use]
    pub fn state(&self) -> PodLinkState {
        self.state
    }
}

/// Makes a pod's link and raises it, whole or not at all; the route to it is [`crate::RouteTable`]'s.
///
/// # Errors
/// As [`make_pod_link`] and [`raise_pod_link`].
pub async fn create_pod_link(
    link: &PodLink,
    netns: impl AsFd,
    pod_netlink: OwnedFd,
) -> Result<PodLinkState, Error> {
    raise_pod_link(make_pod_link(link, netns, pod_netlink).await?).await
}

/// Makes a pod's link, but for the host end, which stays down: the pod has its addresses and routes, and not one packet passes.
///
/// `netns` is the pod's network namespace, `pod_netlink` a NETLINK_ROUTE socket made inside it.
/// The host end is made in the calling thread's namespace; one left by a crashed run is deleted first.
///
/// # Errors
/// When the pod already has such an interface or the kernel refuses a step; then nothing is left.
pub async fn make_pod_link(
    link: &PodLink,
    netns: impl AsFd,
    pod_netlink: OwnedFd,
) -> Result<MadePodLink, Error> {
    link.check()?;
    let netns = netns
        .as_fd()
        .try_clone_to_owned()
        .map_err(|e| Error::Socket("netns", e))?;
    let host = Conn::open()?;
    let pod = Conn::given(pod_netlink)?;
    let link = link.clone();
    // In one piece off the runtime: dropping this future half-way leaves no half-made link unknown to the rollback.
    blocking(move || Maker { link, host, pod }.make(&netns)).await
}

/// Sets a made link's host end up, and waits until packets pass.
///
/// # Errors
/// When the kernel refuses; then the link is deleted.
pub async fn raise_pod_link(made: MadePodLink) -> Result<PodLinkState, Error> {
    blocking(move || {
        let MadePodLink { mut maker, state } = made;
        let raised = maker.raise(state.host_index);
        maker.or_delete(raised).map(|()| state)
    })
    .await
}

#[derive(Debug)]
struct Maker {
    link: PodLink,
    host: Conn,
    pod: Conn,
}

impl Maker {
    fn make(mut self, netns: &OwnedFd) -> Result<MadePodLink, Error> {
        self.make_pair(netns)?;
        let furnished = self.furnish();
        let state = self.or_delete(furnished)?;
        Ok(MadePodLink { maker: self, state })
    }

    fn or_delete<T>(&mut self, outcome: Result<T, Error>) -> Result<T, Error> {
        if outcome.is_err()
            && let Err(error) = links::delete(&mut self.host, &self.link.host_interface)
        {
            tracing::warn!(%error, "a half-made pod link could not be deleted");
        }
        outcome
    }

    fn make_pair(&mut self, netns: &OwnedFd) -> Result<(), Error> {
        let mut batch = Batch::default();
        let (message, flags) = request::pair(&self.link, netns.as_raw_fd());
        batch.push(message, flags);
        let Some(refusal) = self.host.transact(&mut batch)?.remove(&0) else {
            return Ok(());
        };
        let what = format!("making interface {}", self.link.host_interface);
        if !refusal.is(Errno::EEXIST) {
            return Err(refusal.into_error(what));
        }
        // Either end may be the one that exists. Ours is from an ADD that crashed, and takes its pod end along.
        let left = links::delete(&mut self.host, &self.link.host_interface)?;
        if links::find(&mut self.pod, &self.link.pod_interface)?.is_some() {
            return Err(Error::PodInterfaceExists(self.link.pod_interface.clone()));
        }
        if !left {
            return Err(refusal.into_error(what));
        }
        match self.host.transact(&mut batch)?.remove(&0) {
            None => Ok(()),
            Some(refusal) => Err(refusal.into_error(what)),
        }
    }

    fn furnish(&mut self) -> Result<PodLinkState, Error> {
        let host = self.end(true)?;
        let pod = self.end(false)?;
        self.furnish_host(host.index)?;
        self.furnish_pod(pod.index)?;
        self.await_addresses()?;
        Ok(PodLinkState {
            host_index: host.index,
            host_mac: host.mac.unwrap_or(HOST_MAC),
            pod_mac: pod.mac.unwrap_or_default(),
            mtu: pod.mtu,
        })
    }

    fn end(&mut self, host: bool) -> Result<LinkInfo, Error> {
        let (conn, name) = if host {
            (&mut self.host, &self.link.host_interface)
        } else {
            (&mut self.pod, &self.link.pod_interface)
        };
        links::find(conn, name)?.ok_or_else(|| Error::NoInterface(name.clone()))
    }

    fn furnish_host(&mut self, index: u32) -> Result<(), Error> {
        let name = &self.link.host_interface;
        if self.link.has_v6() {
            // accept_ra: a pod must not give its node a default route.
            for (switch, value) in [("accept_ra", "0"), ("disable_ipv6", "0")] {
                if let Err(error) = sysctl::interface_v6(name, switch, value) {
                    tracing::debug!(%name, switch, %error, "an IPv6 switch can't be set");
                }
            }
        }
        let mut steps = Steps::default();
        let settings = request::host_settings(index, &self.link);
        steps.add(settings, 0, || format!("the settings of {name}"));
        if self.link.has_v4() {
            let (message, flags) = request::own_gateway(index);
            steps.add(message, flags, || {
                format!("taking {GATEWAY_V4} by {name} for the node's own")
            });
        }
        if self.link.has_v6() {
            let (message, flags) = request::address(index, GATEWAY_V6.into(), 64);
            steps.add(message, flags, || {
                format!("giving {name} address {GATEWAY_V6}")
            });
        }
        steps.run(&mut self.host)?;
        if self.link.ingress.is_none() && self.link.egress.is_none() {
            return Ok(());
        }
        shape::apply(&mut self.host, &self.link, index)
    }

    fn raise(&mut self, index: u32) -> Result<(), Error> {
        let name = &self.link.host_interface;
        let mut steps = Steps::default();
        steps.add(links::up(index), 0, || format!("setting {name} up"));
        steps.run(&mut self.host)?;
        if self.link.has_v6() {
            // The pod's answers to neighbour discovery go there.
            let gateway = request::route_by_link(GATEWAY_V6.into(), index);
            await_local(&mut self.host, &gateway, GATEWAY_V6.into())?;
        }
        self.await_carrier()
    }

    /// Waits until the pod's end sends: it was up before the host's, and the kernel gives it its queue
    /// in work of its own. What it sends earlier is lost.
    fn await_carrier(&mut self) -> Result<(), Error> {
        let deadline = Instant::now() + WAIT;
        while !self.end(false)?.running {
            if Instant::now() >= deadline {
                tracing::warn!(interface = %self.link.host_interface, "a pod's link has no carrier yet");
                return Ok(());
            }
            std::thread::sleep(STEP);
        }
        Ok(())
    }

    fn await_addresses(&mut self) -> Result<(), Error> {
        for &address in self.link.addresses.iter().filter(|ip| ip.is_ipv6()) {
            await_local(&mut self.pod, &route_to(address), address)?;
        }
        Ok(())
    }

    fn furnish_pod(&mut self, index: u32) -> Result<(), Error> {
        let name = &self.link.pod_interface;
        let mut steps = Steps::default();
        steps.add(links::up(LOOPBACK_INDEX), 0, || {
            "setting the pod's lo up".to_owned()
        });
        steps.add(links::up(index), 0, || {
            format!("setting the pod's {name} up")
        });
        for &address in &self.link.addresses {
            let (message, flags) = request::address(index, address, bits(address));
            steps.add(message, flags, || {
                format!("giving the pod's {name} address {address}")
            });
        }
        for (gateway, destinations) in self.link.gateways() {
            let (message, flags) = request::neighbour(index, gateway);
            steps.add(message, flags, || {
                format!("the pod's neighbour entry of {gateway}")
            });
            let (message, flags) = request::gateway_route(index, gateway);
            steps.add(message, flags, || format!("the pod's route to {gateway}"));
            for to in destinations {
                let (message, flags) = request::route_by(index, to, gateway);
                steps.add(message, flags, || {
                    format!("the pod's route to {to} by {gateway}")
                });
            }
        }
        steps.run(&mut self.pod)
    }
}

/// Waits until a namespace takes packets to an IPv6 address as its own. Even without duplicate detection the
/// kernel writes an address's local route later, in work of its own; what comes earlier is dropped
/// (Ip6InAddrErrors), and a first SYN or neighbour solicitation costs its second.
fn await_local(
    conn: &mut Conn,
    question: &RouteNetlinkMessage,
    address: IpAddr,
) -> Result<(), Error> {
    let deadline = Instant::now() + WAIT;
    let what = format!("looking for the route to {address} itself");
    while !request::is_local(conn.ask(question.clone(), &what)?) {
        if Instant::now() >= deadline {
            tracing::warn!(%address, "an address is not in force yet");
            return Ok(());
        }
        std::thread::sleep(STEP);
    }
    Ok(())
}

/// Requests sent as one batch, each with words for its refusal.
#[derive(Default)]
struct Steps {
    batch: Batch,
    words: Vec<String>,
}

impl Steps {
    fn add(&mut self, message: RouteNetlinkMessage, flags: u16, words: impl FnOnce() -> String) {
        self.batch.push(message, flags);
        self.words.push(words());
    }

    /// Adds a request of the given kind and flags whose body `body` appends.
    fn add_with(
        &mut self,
        (kind, flags): (u16, u16),
        words: impl FnOnce() -> String,
        body: impl FnOnce(&mut Vec<u8>),
    ) {
        self.batch.push_with(kind, flags, body);
        self.words.push(words());
    }

    fn run(mut self, conn: &mut Conn) -> Result<(), Error> {
        let first = conn.transact(&mut self.batch)?.into_iter().next();
        first.map_or(Ok(()), |(place, refusal)| {
            Err(refusal.into_error(self.words.get(place).cloned().unwrap_or_default()))
        })
    }
}

fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}
