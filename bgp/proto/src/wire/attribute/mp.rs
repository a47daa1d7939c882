//! MP_REACH_NLRI and MP_UNREACH_NLRI (RFC 4760 §3, §4), with the next hops of IPv6 (RFC 2545 §3).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytes::{BufMut, BytesMut};

use super::table::{Fault, OPTIONAL, code};
use crate::wire::nlri::{self, PathIds};
use crate::wire::notification::update as subcode;
use crate::wire::reader::{Reader, Short};
use crate::wire::writer::put_attribute;
use crate::wire::{Family, Nlri, PathAttributes, WireContext};

/// AFI, SAFI, an empty next hop with its length, and the reserved octet.
const MIN_REACH: usize = 5;

/// What one of the two attributes carried.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::wire) enum Reach<T> {
    /// A family that is not spoken on this session.
    Ignored,
    /// A family that is.
    Routes(T),
}

/// The content of MP_REACH_NLRI.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::wire) struct Announced {
    pub(in crate::wire) next_hop: IpAddr,
    pub(in crate::wire) link_local: Option<Ipv6Addr>,
    pub(in crate::wire) prefixes: Vec<Nlri>,
}

/// The content of MP_UNREACH_NLRI.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::wire) struct Withdrawn {
    pub(in crate::wire) family: Family,
    pub(in crate::wire) prefixes: Vec<Nlri>,
}

pub(super) fn decode_reach(value: &[u8], ctx: &WireContext) -> Result<Reach<Announced>, Fault> {
    let mut reader = Reader::new(value);
    let short = |Short| malformed("too short");
    // Of any family (RFC 7606 §5.3).
    if value.len() < MIN_REACH {
        return Err(short(Short));
    }
    let family = family(&mut reader).map_err(short)?;
    if !taken(family, ctx) {
        return Ok(Reach::Ignored);
    }
    let len = reader.u8().map_err(short)?;
    let hop = reader.sub(usize::from(len)).map_err(short)?;
    // Reserved; once a count of SNPAs, always zero.
    reader.u8().map_err(short)?;
    let (next_hop, link_local) = next_hop(family, hop, ctx)
        .ok_or(malformed("next hop has a length its family does not have"))?;
    let prefixes = prefixes(family, &mut reader, ctx)?;
    Ok(Reach::Routes(Announced {
        next_hop,
        link_local,
        prefixes,
    }))
}

pub(super) fn decode_unreach(value: &[u8], ctx: &WireContext) -> Result<Reach<Withdrawn>, Fault> {
    let mut reader = Reader::new(value);
    let family = family(&mut reader).map_err(|Short| malformed("too short"))?;
    if !taken(family, ctx) {
        return Ok(Reach::Ignored);
    }
    let prefixes = prefixes(family, &mut reader, ctx)?;
    Ok(Reach::Routes(Withdrawn { family, prefixes }))
}

/// Writes MP_REACH_NLRI; all the prefixes are of `family`.
pub(in crate::wire) fn put_reach<'a>(
    family: Family,
    attributes: &PathAttributes,
    prefixes: impl Iterator<Item = &'a Nlri>,
    ctx: &WireContext,
    out: &mut BytesMut,
) {
    let ids = PathIds::sent(family, ctx);
    put_attribute(out, OPTIONAL, code::MP_REACH, |out| {
        put_family(family, out);
        match (attributes.next_hop, attributes.link_local_next_hop) {
            (IpAddr::V4(hop), _) if family.afi == Family::IPV4_UNICAST.afi => {
                out.put_u8(4);
                out.put_slice(&hop.octets());
            }
            (IpAddr::V4(hop), _) => {
                out.put_u8(16);
                out.put_slice(&hop.to_ipv6_mapped().octets());
            }
            (IpAddr::V6(hop), None) => {
                out.put_u8(16);
                out.put_slice(&hop.octets());
            }
            (IpAddr::V6(hop), Some(link_local)) => {
                out.put_u8(32);
                out.put_slice(&hop.octets());
                out.put_slice(&link_local.octets());
            }
        }
        out.put_u8(0);
        prefixes.for_each(|nlri| nlri::encode(nlri, ids, out));
    });
}

/// Writes MP_UNREACH_NLRI; all the prefixes are of `family`. Without any it is an End-of-RIB.
pub(in crate::wire) fn put_unreach<'a>(
    family: Family,
    prefixes: impl Iterator<Item = &'a Nlri>,
    ctx: &WireContext,
    out: &mut BytesMut,
) {
    let ids = PathIds::sent(family, ctx);
    put_attribute(out, OPTIONAL, code::MP_UNREACH, |out| {
        put_family(family, out);
        prefixes.for_each(|nlri| nlri::encode(nlri, ids, out));
    });
}

fn taken(family: Family, ctx: &WireContext) -> bool {
    nlri::spoken(family) && ctx.families.contains(&family)
}

fn family(reader: &mut Reader<'_>) -> Result<Family, Short> {
    Ok(Family {
        afi: reader.u16()?,
        safi: reader.u8()?,
    })
}

fn put_family(family: Family, out: &mut BytesMut) {
    out.put_u16(family.afi);
    out.put_u8(family.safi);
}

fn prefixes(
    family: Family,
    reader: &mut Reader<'_>,
    ctx: &WireContext,
) -> Result<Vec<Nlri>, Fault> {
    let mut prefixes = Vec::new();
    nlri::decode(family, reader.rest(), ctx, &mut prefixes)
        .map_err(|Short| malformed("prefix cannot be read"))?;
    Ok(prefixes)
}

/// The next hop, and the link-local one beside it. Peers without a global address put `::` or the link-local one first.
fn next_hop(
    family: Family,
    mut hop: Reader<'_>,
    ctx: &WireContext,
) -> Option<(IpAddr, Option<Ipv6Addr>)> {
    let may_be_v6 = family != Family::IPV4_UNICAST || ctx.extended_next_hop.contains(&family);
    if family == Family::IPV4_UNICAST && (!may_be_v6 || hop.peek().len() == 4) {
        let address = Ipv4Addr::from(hop.take_array::<4>().ok()?);
        hop.finish().ok()?;
        return Some((address.into(), None));
    }
    let global = Ipv6Addr::from(hop.take_array::<16>().ok()?);
    if hop.is_empty() {
        return Some((global.into(), None));
    }
    let second = Ipv6Addr::from(hop.take_array::<16>().ok()?);
    hop.finish().ok()?;
    let link_local = second.is_unicast_link_local().then_some(second);
    let first = match link_local {
        Some(link_local) if global.is_unspecified() => link_local,
        _ => global,
    };
    Some((first.into(), link_local))
}

fn malformed(reason: &'static str) -> Fault {
    Fault::new(subcode::OPTIONAL_ATTRIBUTE, reason)
}
