//! AGGREGATOR (RFC 4271 §5.1.7) and AS4_AGGREGATOR (RFC 6793 §3).

use std::net::Ipv4Addr;

use bytes::{BufMut, BytesMut};

use super::table::Fault;
use crate::wire::notification::update as subcode;
use crate::wire::open::AS_TRANS;
use crate::wire::reader::Reader;
use crate::wire::{Asn, WireContext};

/// The AS and the router that aggregated.
pub(super) type Aggregator = (Asn, Ipv4Addr);

/// Reads either attribute: its length says how long its AS is, as the table has let only the right one through.
pub(super) fn decode(value: &[u8]) -> Result<Aggregator, Fault> {
    let mut reader = Reader::new(value);
    let asn = if value.len() == 6 {
        reader.u16().map(u32::from)
    } else {
        reader.u32()
    };
    let (Ok(asn), Ok(router), true) = (asn, reader.u32(), reader.is_empty()) else {
        return Err(Fault::LENGTH);
    };
    if asn == 0 {
        return Err(Fault::new(subcode::OPTIONAL_ATTRIBUTE, "AS 0"));
    }
    Ok((Asn(asn), Ipv4Addr::from_bits(router)))
}

/// Writes the value of AGGREGATOR as the peer can read it.
pub(super) fn encode((asn, router): Aggregator, ctx: &WireContext, out: &mut BytesMut) {
    if ctx.four_byte_as {
        out.put_u32(asn.0);
    } else {
        out.put_u16(u16::try_from(asn.0).unwrap_or(AS_TRANS));
    }
    out.put_u32(router.to_bits());
}

/// Whether AS4_AGGREGATOR has to tell the peer what AGGREGATOR cannot.
pub(super) fn needs_as4((asn, _): Aggregator, ctx: &WireContext) -> bool {
    !ctx.four_byte_as && asn.0 > u32::from(u16::MAX)
}
