//! OPEN (RFC 4271 §4.2), its optional parameters in both forms (RFC 9072), and its errors (§6.2).

use std::net::Ipv4Addr;

use bytes::{BufMut, Bytes, BytesMut};

use super::notification::open as subcode;
use super::reader::{Reader, Short};
use super::writer::put_sized;
use super::{Asn, Capability, Notification, Open, capability};

/// The only version spoken.
const VERSION: u8 = 4;
/// What stands in a two-octet field for an AS that does not fit it (RFC 6793 §9).
pub(super) const AS_TRANS: u16 = 23456;
/// The optional parameter that carries capabilities (RFC 5492 §4).
const CAPABILITIES: u8 = 2;
/// In place of the parameters' length and of the first parameter's type: the extended form (RFC 9072 §2).
const EXTENDED: u8 = 255;
/// The most octets of capabilities that fit one parameter of the plain form.
const MAX_PLAIN: usize = 253;

pub(super) fn decode(body: &[u8]) -> Result<Open, Notification> {
    let mut reader = Reader::new(body);
    let malformed = |Short| Notification::open_error(subcode::UNSPECIFIC);
    if reader.u8().map_err(malformed)? != VERSION {
        let data = Bytes::from_static(&[0, VERSION]);
        return Err(Notification::open_error(subcode::UNSUPPORTED_VERSION).with_data(data));
    }
    let two_octet_as = reader.u16().map_err(malformed)?;
    let hold_time = reader.u16().map_err(malformed)?;
    let bgp_id = Ipv4Addr::from_bits(reader.u32().map_err(malformed)?);
    let capabilities = parameters(reader)?;
    let asn = capabilities
        .iter()
        .find_map(|capability| match capability {
            Capability::FourByteAs(asn) => Some(*asn),
            _ => None,
        })
        .unwrap_or(Asn(u32::from(two_octet_as)));
    // AS 0 is nobody's (RFC 7607).
    if asn.0 == 0 || two_octet_as == 0 {
        return Err(Notification::open_error(subcode::BAD_PEER_AS));
    }
    if matches!(hold_time, 1 | 2) {
        return Err(Notification::open_error(subcode::UNACCEPTABLE_HOLD_TIME));
    }
    if bgp_id.is_unspecified() {
        return Err(Notification::open_error(subcode::BAD_BGP_ID));
    }
    Ok(Open {
        asn,
        hold_time,
        bgp_id,
        capabilities,
    })
}

pub(super) fn encode(open: &Open, out: &mut BytesMut) {
    out.put_u8(VERSION);
    out.put_u16(u16::try_from(open.asn.0).unwrap_or(AS_TRANS));
    out.put_u16(open.hold_time);
    out.put_u32(open.bgp_id.to_bits());
    let mut capabilities = BytesMut::new();
    for capability in &open.capabilities {
        capability::encode(capability, &mut capabilities);
    }
    match u8::try_from(capabilities.len()) {
        Ok(0) => out.put_u8(0),
        Ok(len) if usize::from(len) <= MAX_PLAIN => {
            out.put_slice(&[len + 2, CAPABILITIES, len]);
            out.put_slice(&capabilities);
        }
        _ => {
            out.put_slice(&[EXTENDED, EXTENDED]);
            put_sized(out, |out| {
                out.put_u8(CAPABILITIES);
                put_sized(out, |out| out.put_slice(&capabilities));
            });
        }
    }
}

/// The optional parameters: everything that is left of the OPEN.
fn parameters(mut reader: Reader<'_>) -> Result<Vec<Capability>, Notification> {
    let malformed = |Short| Notification::open_error(subcode::UNSPECIFIC);
    let len = reader.u8().map_err(malformed)?;
    // The type alone tells; the length before it says nothing then, but that there are parameters (RFC 9072 §2).
    let extended = len != 0 && reader.peek().first() == Some(&EXTENDED);
    let len = if extended {
        reader.u8().and_then(|_| reader.u16()).map_err(malformed)?
    } else {
        u16::from(len)
    };
    let mut list = reader.sub(usize::from(len)).map_err(malformed)?;
    reader.finish().map_err(malformed)?;
    let mut capabilities = Vec::new();
    while !list.is_empty() {
        let kind = list.u8().map_err(malformed)?;
        let len = if extended {
            list.u16()
        } else {
            list.u8().map(u16::from)
        };
        let value = len
            .and_then(|len| list.sub(usize::from(len)))
            .map_err(malformed)?;
        if kind != CAPABILITIES {
            return Err(Notification::open_error(subcode::UNSUPPORTED_PARAMETER));
        }
        capability::decode_all(value, &mut capabilities).map_err(malformed)?;
    }
    Ok(capabilities)
}
