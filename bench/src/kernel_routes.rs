//! Which interfaces the IPv4 routes in a namespace's kernel use, by a dump that can stop at the first that matters.

use std::ops::ControlFlow;
use std::os::fd::{AsRawFd as _, OwnedFd};

use ::tests::netns::Netns;
use anyhow::{Context as _, Result, bail};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket,
};

/// `NLM_F_REQUEST | NLM_F_DUMP`.
const DUMP: u16 = 0x301;
const RTM_GETROUTE: u16 = 26;
const RTM_NEWROUTE: u16 = 24;
const NLMSG_DONE: u16 = 3;
const NLMSG_ERROR: u16 = 2;
const RTA_OIF: u16 = 4;
const RTA_MULTIPATH: u16 = 9;
const AF_INET: u8 = 2;

/// The index of an interface of the namespace.
///
/// # Errors
/// When there is none of this name.
pub fn index_of(netns: &Netns, interface: &str) -> Result<u32> {
    let shown = netns.ip_json(&format!("link show dev {interface}"))?;
    let index = shown
        .pointer("/0/ifindex")
        .and_then(serde_json::Value::as_u64);
    Ok(u32::try_from(index.context("no ifindex")?)?)
}

/// How many routes that are not of the link itself use this interface, alone or among others.
///
/// # Errors
/// When the kernel can't be asked.
pub fn count_by(netns: &Netns, interface: u32) -> Result<usize> {
    let mut count = 0;
    dump(netns, |interfaces| {
        count += usize::from(interfaces.contains(&interface));
        ControlFlow::Continue(())
    })?;
    Ok(count)
}

/// Whether any does.
///
/// # Errors
/// When the kernel can't be asked.
pub fn any_by(netns: &Netns, interface: u32) -> Result<bool> {
    let mut any = false;
    dump(netns, |interfaces| {
        any = interfaces.contains(&interface);
        if any {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    })?;
    Ok(any)
}

/// Calls `visit` with the interfaces of each route until it breaks.
fn dump(netns: &Netns, mut visit: impl FnMut(&[u32]) -> ControlFlow<()>) -> Result<()> {
    let asked: Result<OwnedFd> = netns.inside(|| {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkRoute,
        )?;
        send(socket.as_raw_fd(), &request(), MsgFlags::empty())?;
        Ok(socket)
    })?;
    let socket = asked?;
    let mut buffer = vec![0; 64 * 1024];
    let mut interfaces = Vec::new();
    loop {
        let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        let mut rest = buffer.get(..length).unwrap_or_default();
        while let Some((kind, body, after)) = message(rest) {
            rest = after;
            match kind {
                NLMSG_DONE => return Ok(()),
                NLMSG_ERROR => bail!("the kernel refuses to dump its routes"),
                RTM_NEWROUTE => {
                    interfaces.clear();
                    read_route(body, &mut interfaces);
                    if visit(&interfaces).is_break() {
                        return Ok(());
                    }
                }
                _ => {}
            }
        }
    }
}

fn request() -> Vec<u8> {
    let mut bytes = Vec::with_capacity(28);
    bytes.extend(28_u32.to_ne_bytes());
    bytes.extend(RTM_GETROUTE.to_ne_bytes());
    bytes.extend(DUMP.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.push(AF_INET);
    bytes.extend([0; 11]);
    bytes
}

/// The type and body of the first netlink message, and what follows it.
fn message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = usize::try_from(u32_at(bytes, 0)?).ok()?;
    let kind = u16_at(bytes, 4)?;
    let body = bytes.get(16..length)?;
    let after = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((kind, body, after))
}

/// The interfaces of a route of scope `universe`; none of others.
fn read_route(body: &[u8], interfaces: &mut Vec<u32>) {
    const UNIVERSE: u8 = 0;
    if body.get(6) != Some(&UNIVERSE) {
        return;
    }
    let mut rest = body.get(12..).unwrap_or_default();
    while let Some((code, value, after)) = attribute(rest) {
        rest = after;
        match code {
            RTA_OIF => interfaces.extend(u32_at(value, 0)),
            RTA_MULTIPATH => read_hops(value, interfaces),
            _ => {}
        }
    }
}

/// The interfaces of `struct rtnexthop`s.
fn read_hops(mut hops: &[u8], interfaces: &mut Vec<u32>) {
    while let (Some(length), Some(index)) = (u16_at(hops, 0), u32_at(hops, 4)) {
        interfaces.push(index);
        let next = usize::from(length.max(8)).next_multiple_of(4);
        hops = hops.get(next..).unwrap_or_default();
    }
}

fn attribute(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = usize::from(u16_at(bytes, 0)?);
    let value = bytes.get(4..length)?;
    let after = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((u16_at(bytes, 2)?, value, after))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_of_two_next_hops_names_both_interfaces() {
        let mut body = vec![AF_INET, 24, 0, 0, 254, 179, 0, 1, 0, 0, 0, 0];
        let hop = |index: u32| {
            let mut bytes = 16_u16.to_ne_bytes().to_vec();
            bytes.extend([0, 0]);
            bytes.extend(index.to_ne_bytes());
            bytes.extend([8, 0, 5, 0, 10, 0, 0, 1]);
            bytes
        };
        let hops = [hop(3), hop(9)].concat();
        body.extend(u16::try_from(hops.len() + 4).unwrap().to_ne_bytes());
        body.extend(RTA_MULTIPATH.to_ne_bytes());
        body.extend(hops);
        let mut interfaces = Vec::new();
        read_route(&body, &mut interfaces);
        assert_eq!(interfaces, [3, 9]);
    }

    #[test]
    fn the_link_s_own_routes_do_not_count() {
        let mut body = vec![AF_INET, 24, 0, 0, 254, 2, 253, 1, 0, 0, 0, 0];
        body.extend([8, 0, 4, 0, 3, 0, 0, 0]);
        let mut interfaces = Vec::new();
        read_route(&body, &mut interfaces);
        assert_eq!(interfaces, [0_u32; 0]);
    }

    #[test]
    fn a_namespace_s_routes_are_counted_by_interface() {
        ::tests::require_root!();
        let (left, right) = (
            Netns::new("dump", "l").unwrap(),
            Netns::new("dump", "r").unwrap(),
        );
        for link in 0..2 {
            let name = format!("d{link}");
            ::tests::netns::join((&left, &name), (&right, &name)).unwrap();
            left.ip(&format!("addr add 10.99.{link}.1/24 dev {name}"))
                .unwrap();
        }
        left.ip("route add 1.0.0.0/24 via 10.99.0.2").unwrap();
        left.ip("route add 1.0.1.0/24 nexthop via 10.99.0.2 nexthop via 10.99.1.2")
            .unwrap();
        left.ip("nexthop add id 1 via 10.99.0.2 dev d0").unwrap();
        left.ip("nexthop add id 2 via 10.99.1.2 dev d1").unwrap();
        left.ip("nexthop add id 3 group 1/2").unwrap();
        left.ip("route add 1.0.2.0/24 nhid 3").unwrap();
        let by = |name| index_of(&left, name).unwrap();
        assert_eq!(count_by(&left, by("d0")).unwrap(), 3);
        assert_eq!(count_by(&left, by("d1")).unwrap(), 2);
        assert!(any_by(&left, by("d1")).unwrap());
        assert!(!any_by(&left, 999).unwrap());
    }
}
