//! The capabilities of an OPEN (RFC 5492); those we don't know are kept as they came.

use bytes::{BufMut, Bytes, BytesMut};

use super::reader::{Reader, Short};
use super::{Asn, Capability, Family, GracefulRestart};

const MULTIPROTOCOL: u8 = 1;
const ROUTE_REFRESH: u8 = 2;
const GRACEFUL_RESTART: u8 = 64;
const FOUR_BYTE_AS: u8 = 65;

/// The R bit (RFC 4724 §3), in the two octets it shares with the Restart Time.
const RESTARTING: u16 = 0x8000;
/// The N bit (RFC 8538 §2).
const NOTIFICATION: u16 = 0x4000;
/// The Restart Time's twelve bits.
const RESTART_TIME: u16 = 0x0fff;
/// The F bit of a family (RFC 4724 §3).
const FORWARDING: u8 = 0x80;

/// Reads all the capabilities of one optional parameter. A known one of a wrong length is an error.
pub(super) fn decode_all(mut reader: Reader<'_>, into: &mut Vec<Capability>) -> Result<(), Short> {
    while !reader.is_empty() {
        let code = reader.u8()?;
        let len = reader.u8()?;
        into.push(decode(code, reader.sub(usize::from(len))?)?);
    }
    Ok(())
}

pub(super) fn encode(capability: &Capability, out: &mut BytesMut) {
    match capability {
        Capability::Multiprotocol(family) => {
            put(out, MULTIPROTOCOL, |out| {
                out.put_u16(family.afi);
                out.put_u8(0);
                out.put_u8(family.safi);
            });
        }
        Capability::RouteRefresh => put(out, ROUTE_REFRESH, |_| {}),
        Capability::GracefulRestart(restart) => {
            put(out, GRACEFUL_RESTART, |out| encode_restart(restart, out));
        }
        Capability::FourByteAs(asn) => put(out, FOUR_BYTE_AS, |out| out.put_u32(asn.0)),
        Capability::Unknown { code, value } => put(out, *code, |out| out.put_slice(value)),
    }
}

fn decode(code: u8, mut value: Reader<'_>) -> Result<Capability, Short> {
    let capability = match code {
        MULTIPROTOCOL => {
            let afi = value.u16()?;
            value.u8()?;
            Capability::Multiprotocol(Family {
                afi,
                safi: value.u8()?,
            })
        }
        ROUTE_REFRESH => Capability::RouteRefresh,
        GRACEFUL_RESTART => Capability::GracefulRestart(decode_restart(&mut value)?),
        FOUR_BYTE_AS => Capability::FourByteAs(Asn(value.u32()?)),
        _ => Capability::Unknown {
            code,
            value: Bytes::copy_from_slice(value.rest()),
        },
    };
    value.finish()?;
    Ok(capability)
}

fn decode_restart(value: &mut Reader<'_>) -> Result<GracefulRestart, Short> {
    let head = value.u16()?;
    let mut families = Vec::new();
    while !value.is_empty() {
        let family = Family {
            afi: value.u16()?,
            safi: value.u8()?,
        };
        families.push((family, value.u8()? & FORWARDING != 0));
    }
    Ok(GracefulRestart {
        restarting: head & RESTARTING != 0,
        notification: head & NOTIFICATION != 0,
        restart_time: head & RESTART_TIME,
        families,
    })
}

fn encode_restart(restart: &GracefulRestart, out: &mut BytesMut) {
    let mut head = restart.restart_time.min(RESTART_TIME);
    if restart.restarting {
        head |= RESTARTING;
    }
    if restart.notification {
        head |= NOTIFICATION;
    }
    out.put_u16(head);
    for (family, forwarding) in &restart.families {
        out.put_u16(family.afi);
        out.put_u8(family.safi);
        out.put_u8(if *forwarding { FORWARDING } else { 0 });
    }
}

/// A capability whose value `value` writes: at most 255 octets.
fn put(out: &mut BytesMut, code: u8, value: impl FnOnce(&mut BytesMut)) {
    let at = out.len();
    out.put_slice(&[code, 0]);
    value(out);
    let len = out.len() - at - 2;
    debug_assert!(len <= 255, "capability {code} of {len} octets");
    super::writer::overwrite(out, at + 1, &[u8::try_from(len).unwrap_or(u8::MAX)]);
}
