//! CIDRs as older API servers let them be stored: host bits set, octets and lengths with leading zeros.

use std::net::Ipv4Addr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Reads a CIDR the way Kubernetes reads its legacy fields (leading zeros are decimal) and clears
/// the host bits. An IPv4-mapped IPv6 CIDR is refused: no packet bears such an address.
pub(in crate::resources) fn read(text: &str) -> Option<IpNet> {
    let (address, length) = text.split_once('/')?;
    if length.is_empty() || length.len() > 8 || !length.bytes().all(|c| c.is_ascii_digit()) {
        return None;
    }
    let length: u8 = length.parse::<u32>().ok()?.try_into().ok()?;
    if address.contains(':') {
        let address: std::net::Ipv6Addr = address.parse().ok()?;
        if address.to_ipv4_mapped().is_some() {
            return None;
        }
        return Ipv6Net::new(address, length)
            .ok()
            .map(|net| IpNet::V6(net.trunc()));
    }
    let address = sloppy_ipv4(address)?;
    Ipv4Net::new(address, length)
        .ok()
        .map(|net| IpNet::V4(net.trunc()))
}

fn sloppy_ipv4(text: &str) -> Option<Ipv4Addr> {
    let mut octets = [0_u8; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        let part = parts.next()?;
        if part.is_empty() || part.len() > 8 || !part.bytes().all(|c| c.is_ascii_digit()) {
            return None;
        }
        *octet = part.parse::<u32>().ok()?.try_into().ok()?;
    }
    parts.next().is_none().then(|| Ipv4Addr::from(octets))
}
