//! The capabilities of an OPEN (RFC 5492); those we don't know are kept as they came.

use bytes::{BufMut, Bytes, BytesMut};

use super::reader::{Reader, Short};
use super::{AddPathMode, Asn, Capability, Family, GracefulRestart, LongLivedFamily, Role};

const MULTIPROTOCOL: u8 = 1;
const ROUTE_REFRESH: u8 = 2;
const EXTENDED_NEXT_HOP: u8 = 5;
const EXTENDED_MESSAGE: u8 = 6;
const ROLE: u8 = 9;
const GRACEFUL_RESTART: u8 = 64;
const FOUR_BYTE_AS: u8 = 65;
const ADD_PATH: u8 = 69;
const ENHANCED_ROUTE_REFRESH: u8 = 70;
const LONG_LIVED_GRACEFUL_RESTART: u8 = 71;

/// The R bit (RFC 4724 §3), in the two octets it shares with the Restart Time.
const RESTARTING: u16 = 0x8000;
/// The N bit (RFC 8538 §2).
const NOTIFICATION: u16 = 0x4000;
/// The Restart Time's twelve bits.
const RESTART_TIME: u16 = 0x0fff;
/// The F bit of a family (RFC 4724 §3, RFC 9494 §3.1).
const FORWARDING: u8 = 0x80;

/// The most seconds a Long-Lived Stale Time of 24 bits says.
const MAX_STALE_TIME: u32 = 0x00ff_ffff;

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
        Capability::ExtendedNextHop(families) => {
            put(out, EXTENDED_NEXT_HOP, |out| {
                for (family, next_hop_afi) in families {
                    out.put_u16(family.afi);
                    out.put_u16(family.safi.into());
                    out.put_u16(*next_hop_afi);
                }
            });
        }
        Capability::ExtendedMessage => put(out, EXTENDED_MESSAGE, |_| {}),
        Capability::Role(role) => put(out, ROLE, |out| out.put_u8(role_octet(*role))),
        Capability::AddPath(families) => {
            put(out, ADD_PATH, |out| {
                for (family, mode) in families {
                    put_family(*family, out);
                    out.put_u8(mode_octet(*mode));
                }
            });
        }
        Capability::EnhancedRouteRefresh => put(out, ENHANCED_ROUTE_REFRESH, |_| {}),
        Capability::LongLivedGracefulRestart(families) => {
            put(out, LONG_LIVED_GRACEFUL_RESTART, |out| {
                families
                    .iter()
                    .for_each(|family| encode_long_lived(family, out));
            });
        }
        Capability::GracefulRestart(restart) => {
            put(out, GRACEFUL_RESTART, |out| encode_restart(restart, out));
        }
        Capability::FourByteAs(asn) => put(out, FOUR_BYTE_AS, |out| out.put_u32(asn.0)),
        Capability::Unknown { code, value } => put(out, *code, |out| out.put_slice(value)),
    }
}

fn decode(code: u8, mut value: Reader<'_>) -> Result<Capability, Short> {
    let whole = value;
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
        EXTENDED_NEXT_HOP => Capability::ExtendedNextHop(decode_next_hops(&mut value)?),
        EXTENDED_MESSAGE => Capability::ExtendedMessage,
        ROLE => Capability::Role(role(value.u8()?)),
        ADD_PATH => match decode_add_path(&mut value)? {
            Some(families) => Capability::AddPath(families),
            None => unknown(code, whole),
        },
        ENHANCED_ROUTE_REFRESH => Capability::EnhancedRouteRefresh,
        LONG_LIVED_GRACEFUL_RESTART => {
            Capability::LongLivedGracefulRestart(decode_long_lived(&mut value)?)
        }
        GRACEFUL_RESTART => Capability::GracefulRestart(decode_restart(&mut value)?),
        FOUR_BYTE_AS => Capability::FourByteAs(Asn(value.u32()?)),
        _ => unknown(code, Reader::new(value.rest())),
    };
    value.finish()?;
    Ok(capability)
}

fn decode_restart(value: &mut Reader<'_>) -> Result<GracefulRestart, Short> {
    let head = value.u16()?;
    let mut families = Vec::new();
    while !value.is_empty() {
        families.push((family(value)?, value.u8()? & FORWARDING != 0));
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
        put_family(*family, out);
        out.put_u8(if *forwarding { FORWARDING } else { 0 });
    }
}

/// The families whose next hop may be of another AFI; a SAFI that needs two octets is nobody's, and left out.
fn decode_next_hops(value: &mut Reader<'_>) -> Result<Vec<(Family, u16)>, Short> {
    let mut families = Vec::new();
    while !value.is_empty() {
        let (afi, safi, next_hop_afi) = (value.u16()?, value.u16()?, value.u16()?);
        if let Ok(safi) = u8::try_from(safi) {
            families.push((Family { afi, safi }, next_hop_afi));
        }
    }
    Ok(families)
}

/// `None`: a Send/Receive value nobody knows, for which the capability counts as not understood (RFC 7911 §4).
fn decode_add_path(value: &mut Reader<'_>) -> Result<Option<Vec<(Family, AddPathMode)>>, Short> {
    let mut families = Vec::new();
    let mut understood = true;
    while !value.is_empty() {
        let family = family(value)?;
        match value.u8()? {
            1 => families.push((family, AddPathMode::Receive)),
            2 => families.push((family, AddPathMode::Send)),
            3 => families.push((family, AddPathMode::Both)),
            _ => understood = false,
        }
    }
    Ok(understood.then_some(families))
}

fn mode_octet(mode: AddPathMode) -> u8 {
    match mode {
        AddPathMode::Receive => 1,
        AddPathMode::Send => 2,
        AddPathMode::Both => 3,
    }
}

fn decode_long_lived(value: &mut Reader<'_>) -> Result<Vec<LongLivedFamily>, Short> {
    let mut families = Vec::new();
    while !value.is_empty() {
        families.push(LongLivedFamily {
            family: family(value)?,
            forwarding: value.u8()? & FORWARDING != 0,
            stale_time: u32::from(value.u8()?) << 16 | u32::from(value.u16()?),
        });
    }
    Ok(families)
}

fn encode_long_lived(family: &LongLivedFamily, out: &mut BytesMut) {
    put_family(family.family, out);
    let flags = if family.forwarding { FORWARDING } else { 0 };
    let time = family.stale_time.min(MAX_STALE_TIME);
    out.put_u32(u32::from(flags) << 24 | time);
}

fn role(octet: u8) -> Role {
    match octet {
        0 => Role::Provider,
        1 => Role::RouteServer,
        2 => Role::RouteServerClient,
        3 => Role::Customer,
        4 => Role::Peer,
        other => Role::Unassigned(other),
    }
}

fn role_octet(role: Role) -> u8 {
    match role {
        Role::Provider => 0,
        Role::RouteServer => 1,
        Role::RouteServerClient => 2,
        Role::Customer => 3,
        Role::Peer => 4,
        Role::Unassigned(octet) => octet,
    }
}

fn family(value: &mut Reader<'_>) -> Result<Family, Short> {
    Ok(Family {
        afi: value.u16()?,
        safi: value.u8()?,
    })
}

fn put_family(family: Family, out: &mut BytesMut) {
    out.put_u16(family.afi);
    out.put_u8(family.safi);
}

fn unknown(code: u8, mut value: Reader<'_>) -> Capability {
    Capability::Unknown {
        code,
        value: Bytes::copy_from_slice(value.rest()),
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
