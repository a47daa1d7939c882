//! Prefixes on the wire (RFC 4271 §4.3 `<length, prefix>`), the same in every field that carries them.

use std::net::{Ipv4Addr, Ipv6Addr};

use bytes::{BufMut, BytesMut};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::Family;
use super::reader::{Reader, Short};

/// Reads prefixes of IPv4 unicast to the end of `bytes`. Bits behind the prefix are irrelevant and cleared.
pub(super) fn decode_ipv4(bytes: &[u8], into: &mut Vec<IpNet>) -> Result<(), Short> {
    // Nearly all routes are /17 to /24: four octets each.
    into.reserve(bytes.len().div_ceil(4));
    let mut reader = Reader::new(bytes);
    while !reader.is_empty() {
        let (len, address) = prefix::<4>(&mut reader)?;
        let net = Ipv4Net::new(Ipv4Addr::from(address), len).map_err(|_| Short)?;
        into.push(IpNet::V4(net.trunc()));
    }
    Ok(())
}

/// Reads prefixes of IPv6 unicast to the end of `bytes`. Bits behind the prefix are irrelevant and cleared.
pub(super) fn decode_ipv6(bytes: &[u8], into: &mut Vec<IpNet>) -> Result<(), Short> {
    // Mostly /33 to /48: seven octets each.
    into.reserve(bytes.len().div_ceil(7));
    let mut reader = Reader::new(bytes);
    while !reader.is_empty() {
        let (len, address) = prefix::<16>(&mut reader)?;
        let net = Ipv6Net::new(Ipv6Addr::from(address), len).map_err(|_| Short)?;
        into.push(IpNet::V6(net.trunc()));
    }
    Ok(())
}

/// Reads prefixes of a family that [`spoken`] knows.
pub(super) fn decode(family: Family, bytes: &[u8], into: &mut Vec<IpNet>) -> Result<(), Short> {
    match family {
        Family::IPV4_UNICAST => decode_ipv4(bytes, into),
        Family::IPV6_UNICAST => decode_ipv6(bytes, into),
        _ => Err(Short),
    }
}

/// Whether prefixes of this family can be read at all.
pub(super) fn spoken(family: Family) -> bool {
    matches!(family, Family::IPV4_UNICAST | Family::IPV6_UNICAST)
}

/// Octets of a prefix on the wire.
pub(super) fn encoded_len(net: &IpNet) -> usize {
    1 + usize::from(net.prefix_len()).div_ceil(8)
}

pub(super) fn encode(net: &IpNet, out: &mut BytesMut) {
    out.put_u8(net.prefix_len());
    let octets = usize::from(net.prefix_len()).div_ceil(8);
    match net {
        IpNet::V4(net) => put_first(out, &net.network().octets(), octets),
        IpNet::V6(net) => put_first(out, &net.network().octets(), octets),
    }
}

fn put_first(out: &mut BytesMut, address: &[u8], octets: usize) {
    out.put_slice(address.get(..octets).unwrap_or(address));
}

/// A prefix length and as much of an address as it needs; too long a length for `N` octets is an error.
fn prefix<const N: usize>(reader: &mut Reader<'_>) -> Result<(u8, [u8; N]), Short> {
    let len = reader.u8()?;
    let octets = usize::from(len).div_ceil(8);
    let mut address = [0; N];
    let place = address.get_mut(..octets).ok_or(Short)?;
    place.copy_from_slice(reader.take(octets)?);
    Ok((len, address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_behind_the_prefix_are_cleared() {
        let mut nets = Vec::new();
        decode_ipv4(&[9, 10, 0xff], &mut nets).unwrap();
        assert_eq!(nets, ["10.128.0.0/9".parse::<IpNet>().unwrap()]);
    }

    #[test]
    fn a_length_beyond_the_address_is_an_error() {
        assert_eq!(
            decode_ipv4(&[33, 10, 0, 0, 0, 0], &mut Vec::new()),
            Err(Short)
        );
        assert_eq!(
            decode_ipv6(&[[129].as_slice(), &[0; 17]].concat(), &mut Vec::new()),
            Err(Short)
        );
    }

    #[test]
    fn a_prefix_cut_short_is_an_error() {
        assert_eq!(decode_ipv4(&[24, 10, 0], &mut Vec::new()), Err(Short));
        assert_eq!(decode_ipv6(&[64, 0x20], &mut Vec::new()), Err(Short));
    }
}
