//! Prefixes on the wire (RFC 4271 §4.3 `<length, prefix>`), the same in every field that carries them.

use std::net::{Ipv4Addr, Ipv6Addr};

use bytes::{BufMut, BytesMut};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::reader::Short;
use super::{Family, Nlri, WireContext};

/// Octets of a Path Identifier.
const PATH_ID: usize = 4;

/// Whether the NLRI of a family bear a Path Identifier (RFC 7911 §3) in one direction of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PathIds {
    Absent,
    Present,
}

impl PathIds {
    /// In what we receive.
    pub(super) fn received(family: Family, ctx: &WireContext) -> Self {
        Self::of(ctx.add_path_receive.contains(&family))
    }

    /// In what we send.
    pub(super) fn sent(family: Family, ctx: &WireContext) -> Self {
        Self::of(ctx.add_path_send.contains(&family))
    }

    fn of(agreed: bool) -> Self {
        if agreed { Self::Present } else { Self::Absent }
    }

    fn octets(self) -> usize {
        match self {
            Self::Absent => 0,
            Self::Present => PATH_ID,
        }
    }

    /// Takes the Path Identifier off the front.
    #[inline]
    fn take(self, bytes: &mut &[u8]) -> Result<u32, Short> {
        if self == Self::Absent {
            return Ok(0);
        }
        let (id, rest) = bytes.split_first_chunk().ok_or(Short)?;
        *bytes = rest;
        Ok(u32::from_be_bytes(*id))
    }
}

/// Reads NLRI of IPv4 unicast to the end of `bytes`. Bits behind the prefix are irrelevant and cleared.
pub(super) fn decode_ipv4(bytes: &[u8], ids: PathIds, into: &mut Vec<Nlri>) -> Result<(), Short> {
    // Nearly all routes are /17 to /24: four octets each.
    into.reserve(bytes.len().div_ceil(4 + ids.octets()));
    let mut rest = bytes;
    while !rest.is_empty() {
        let path_id = ids.take(&mut rest)?;
        let (len, octets) = prefix::<4>(&mut rest)?;
        let mask = u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0);
        let address = Ipv4Addr::from_bits(u32::from_be_bytes(octets) & mask);
        let prefix = IpNet::V4(Ipv4Net::new(address, len).map_err(|_| Short)?);
        into.push(Nlri { prefix, path_id });
    }
    Ok(())
}

/// Reads NLRI of IPv6 unicast to the end of `bytes`. Bits behind the prefix are irrelevant and cleared.
pub(super) fn decode_ipv6(bytes: &[u8], ids: PathIds, into: &mut Vec<Nlri>) -> Result<(), Short> {
    // Mostly /33 to /48: seven octets each.
    into.reserve(bytes.len().div_ceil(7 + ids.octets()));
    let mut rest = bytes;
    while !rest.is_empty() {
        let path_id = ids.take(&mut rest)?;
        let (len, octets) = prefix::<16>(&mut rest)?;
        let mask = u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0);
        let address = Ipv6Addr::from_bits(u128::from_be_bytes(octets) & mask);
        let prefix = IpNet::V6(Ipv6Net::new(address, len).map_err(|_| Short)?);
        into.push(Nlri { prefix, path_id });
    }
    Ok(())
}

/// Reads NLRI of a family that [`spoken`] knows, as the peer sends them on this session.
pub(super) fn decode(
    family: Family,
    bytes: &[u8],
    ctx: &WireContext,
    into: &mut Vec<Nlri>,
) -> Result<(), Short> {
    let ids = PathIds::received(family, ctx);
    match family {
        Family::IPV4_UNICAST => decode_ipv4(bytes, ids, into),
        Family::IPV6_UNICAST => decode_ipv6(bytes, ids, into),
        _ => Err(Short),
    }
}

/// Whether prefixes of this family can be read at all.
pub(super) fn spoken(family: Family) -> bool {
    matches!(family, Family::IPV4_UNICAST | Family::IPV6_UNICAST)
}

/// Octets of an NLRI on the wire.
pub(super) fn encoded_len(nlri: &Nlri, ids: PathIds) -> usize {
    ids.octets() + 1 + usize::from(nlri.prefix.prefix_len()).div_ceil(8)
}

pub(super) fn encode(nlri: &Nlri, ids: PathIds, out: &mut BytesMut) {
    if ids == PathIds::Present {
        out.put_u32(nlri.path_id);
    }
    let len = nlri.prefix.prefix_len();
    out.put_u8(len);
    let octets = usize::from(len).div_ceil(8);
    match nlri.prefix {
        IpNet::V4(net) => put_first(out, &net.network().octets(), octets),
        IpNet::V6(net) => put_first(out, &net.network().octets(), octets),
    }
}

fn put_first(out: &mut BytesMut, address: &[u8], octets: usize) {
    out.put_slice(address.get(..octets).unwrap_or(address));
}

/// A prefix length, and an address of which only so many bits count; too long a length for `N` octets is an error.
#[inline]
fn prefix<const N: usize>(bytes: &mut &[u8]) -> Result<(u8, [u8; N]), Short> {
    let (&len, rest) = bytes.split_first().ok_or(Short)?;
    let octets = usize::from(len).div_ceil(8);
    if octets > N {
        return Err(Short);
    }
    *bytes = rest.get(octets..).ok_or(Short)?;
    // A whole address can be copied at once, where the field goes on for as long; what follows the prefix is masked off.
    if let Some(address) = rest.first_chunk() {
        return Ok((len, *address));
    }
    let mut address = [0; N];
    for (to, from) in address.iter_mut().zip(rest.iter().take(octets)) {
        *to = *from;
    }
    Ok((len, address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_behind_the_prefix_are_cleared() {
        let mut nets = Vec::new();
        decode_ipv4(&[9, 10, 0xff], PathIds::Absent, &mut nets).unwrap();
        assert_eq!(nets, [Nlri::from("10.128.0.0/9".parse::<IpNet>().unwrap())]);
    }

    #[test]
    fn a_length_beyond_the_address_is_an_error() {
        assert_eq!(
            decode_ipv4(&[33, 10, 0, 0, 0, 0], PathIds::Absent, &mut Vec::new()),
            Err(Short)
        );
        assert_eq!(
            decode_ipv6(
                &[[129].as_slice(), &[0; 17]].concat(),
                PathIds::Absent,
                &mut Vec::new()
            ),
            Err(Short)
        );
    }

    #[test]
    fn a_prefix_cut_short_is_an_error() {
        assert_eq!(
            decode_ipv4(&[24, 10, 0], PathIds::Absent, &mut Vec::new()),
            Err(Short)
        );
        assert_eq!(
            decode_ipv6(&[64, 0x20], PathIds::Absent, &mut Vec::new()),
            Err(Short)
        );
    }

    #[test]
    fn a_path_identifier_stands_before_the_length() {
        let bytes = [0, 0, 0, 7, 8, 10, 0xff, 0xff, 0xff, 0xff, 0];
        let mut read = Vec::new();
        decode_ipv4(&bytes, PathIds::Present, &mut read).unwrap();
        let expected = [("10.0.0.0/8", 7), ("0.0.0.0/0", u32::MAX)].map(|(prefix, path_id)| Nlri {
            prefix: prefix.parse().unwrap(),
            path_id,
        });
        assert_eq!(read, expected);
        let mut out = BytesMut::new();
        for nlri in &read {
            let at = out.len();
            encode(nlri, PathIds::Present, &mut out);
            assert_eq!(out.len() - at, encoded_len(nlri, PathIds::Present));
        }
        assert_eq!(out, bytes.as_slice());
        let cut = decode_ipv4(&bytes[..3], PathIds::Present, &mut Vec::new());
        assert_eq!(cut, Err(Short));
    }
}
