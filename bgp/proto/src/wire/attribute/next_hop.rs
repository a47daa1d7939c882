//! NEXT_HOP (RFC 4271 §5.1.3), and which next hops no route can have, of either family.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::scalar;
use super::table::Fault;
use crate::wire::notification::update as subcode;

pub(super) fn decode(value: &[u8]) -> Result<Ipv4Addr, Fault> {
    scalar::decode(value).map(Ipv4Addr::from_bits)
}

/// That a packet could be sent there (RFC 4271 §6.3, "semantically correct").
pub(in crate::wire) fn check(next_hop: IpAddr) -> Result<(), Fault> {
    let usable = match next_hop {
        IpAddr::V4(address) => usable_v4(address),
        IpAddr::V6(address) => usable_v6(address),
    };
    if usable {
        return Ok(());
    }
    Err(Fault::new(
        subcode::INVALID_NEXT_HOP,
        "next hop is no unicast address of a neighbour",
    ))
}

fn usable_v4(address: Ipv4Addr) -> bool {
    // 0/8, 127/8, multicast and class E with the limited broadcast.
    let [first, ..] = address.octets();
    first != 0 && first != 127 && first < 224
}

fn usable_v6(address: Ipv6Addr) -> bool {
    match address.to_ipv4_mapped() {
        Some(mapped) => usable_v4(mapped),
        None => !address.is_unspecified() && !address.is_loopback() && !address.is_multicast(),
    }
}
