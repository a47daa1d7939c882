//! Messages of a peer, built from a fuzzer's bytes so that most of them are taken, and some garbage.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use bgp_proto::wire::{
    AddPathMode, AsPathSegment, Asn, Capability, Family, GracefulRestart, LongLivedFamily, Message,
    Nlri, Notification, Open, Origin, PathAttributes, RefreshKind, Role, RouteRefresh, SegmentKind,
    WireContext, encode_end_of_rib, encode_updates, encode_withdrawals,
};
use bytes::{Bytes, BytesMut};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::bgp_input::Input;

const FAMILIES: [Family; 2] = [Family::IPV4_UNICAST, Family::IPV6_UNICAST];

/// How the other side of a session reads and writes.
pub fn mirrored(context: &WireContext) -> WireContext {
    WireContext {
        add_path_receive: context.add_path_send.clone(),
        add_path_send: context.add_path_receive.clone(),
        ..context.clone()
    }
}

pub fn encoded(message: &Message) -> Bytes {
    let mut out = BytesMut::new();
    message.encode(&WireContext::default(), &mut out);
    out.freeze()
}

/// An OPEN of this AS: each bit of the input is a capability.
pub fn open(input: &mut Input<'_>, asn: Asn) -> Message {
    let wanted = input.u16();
    let has = |bit: u16| wanted & 1 << bit != 0;
    let mut capabilities = Vec::new();
    if !has(0) {
        capabilities.extend(FAMILIES.map(Capability::Multiprotocol));
        capabilities.push(Capability::FourByteAs(asn));
        capabilities.push(Capability::RouteRefresh);
    }
    if has(1) {
        capabilities.push(Capability::GracefulRestart(GracefulRestart {
            restarting: has(2),
            notification: has(3),
            restart_time: u16::from(input.u8()),
            families: FAMILIES.map(|family| (family, has(4))).to_vec(),
        }));
    }
    if has(5) {
        let modes = [AddPathMode::Receive, AddPathMode::Send, AddPathMode::Both];
        let mode = modes[usize::from(input.u8()) % 3];
        capabilities.push(Capability::AddPath(FAMILIES.map(|f| (f, mode)).to_vec()));
    }
    if has(6) {
        capabilities.push(Capability::LongLivedGracefulRestart(
            FAMILIES
                .map(|family| LongLivedFamily {
                    family,
                    forwarding: has(4),
                    stale_time: u32::from(input.u8()),
                })
                .to_vec(),
        ));
    }
    if has(7) {
        capabilities.push(Capability::ExtendedMessage);
        capabilities.push(Capability::EnhancedRouteRefresh);
        capabilities.push(Capability::ExtendedNextHop(vec![(Family::IPV4_UNICAST, 2)]));
    }
    if has(8) {
        capabilities.push(Capability::Role(Role::Customer));
    }
    if has(9) {
        let (code, value) = (input.u8() | 0x80, Bytes::copy_from_slice(input.bytes(5)));
        capabilities.push(Capability::Unknown { code, value });
    }
    Message::Open(Open {
        asn: if has(10) && has(11) && has(12) {
            Asn(u32::from(input.u16()))
        } else {
            asn
        },
        hold_time: [0, 3, 9, 90, 240, 0xffff, 30, 180][usize::from(input.u8() % 8)],
        bgp_id: Ipv4Addr::new(10, 0, 0, input.u8() | 1),
        capabilities,
    })
}

/// Anything a peer may say on a session, as its other side would write it.
pub fn message(input: &mut Input<'_>, asn: Asn, context: &WireContext) -> Bytes {
    let mut out = BytesMut::new();
    match input.u8() % 24 {
        0 => open(input, asn).encode(&WireContext::default(), &mut out),
        1 | 2 => Message::Keepalive.encode(context, &mut out),
        3..=13 | 21.. => {
            let attributes = Arc::new(attributes(input, asn, context));
            let prefixes = prefixes(input, context);
            encode_updates(&attributes, &prefixes, context, &mut out);
        }
        14 | 15 => {
            encode_withdrawals(&prefixes(input, context), context, &mut out);
        }
        16 => encode_end_of_rib(FAMILIES[usize::from(input.u8() % 2)], context, &mut out),
        17 | 18 => {
            let kinds = [RefreshKind::Request, RefreshKind::Begin, RefreshKind::End];
            let refresh = RouteRefresh {
                family: FAMILIES[usize::from(input.u8() % 2)],
                kind: kinds[usize::from(input.u8() % 3)],
            };
            Message::RouteRefresh(refresh).encode(context, &mut out);
        }
        19 => {
            let notification = Notification {
                code: input.u8() % 8,
                subcode: input.u8() % 12,
                data: Bytes::copy_from_slice(input.bytes(8)),
            };
            Message::Notification(notification).encode(context, &mut out);
        }
        _ => return garbage(input),
    }
    // One octet of some messages is another: what a decoder would never be sent by a friend.
    if input.u8().is_multiple_of(64) && !out.is_empty() {
        let at = usize::from(input.u16()) % out.len();
        out[at] ^= input.u8();
    }
    out.freeze()
}

/// Octets under a good header, or under none.
fn garbage(input: &mut Input<'_>) -> Bytes {
    let (kind, length) = (input.u8(), input.u8() % 64);
    let body = input.bytes(usize::from(length));
    let mut out = BytesMut::new();
    if kind < 0xf0 {
        out.extend_from_slice(&[0xff; 16]);
        out.extend_from_slice(&[0, 19 + body.len() as u8, kind % 7]);
    }
    out.extend_from_slice(body);
    out.freeze()
}

fn attributes(input: &mut Input<'_>, asn: Asn, context: &WireContext) -> PathAttributes {
    let has = input.u16();
    let bit = |bit: u16| has & 1 << bit != 0;
    let next_hop = if bit(0) {
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9))
    } else {
        IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1 + input.u8() % 6))
    };
    let mut asns = vec![asn; usize::from(!context.internal)];
    asns.extend((0..input.u8() % 4).map(|_| Asn(65_000 + u32::from(input.u8() % 8))));
    let segment = AsPathSegment {
        kind: SegmentKind::Sequence,
        asns,
    };
    let community = [
        0xffff_ff01,
        0xffff_ff02,
        0xffff_ff03,
        0xffff_0000,
        0xffff_0007,
        7,
    ];
    PathAttributes {
        origin: [Origin::Igp, Origin::Egp, Origin::Incomplete][usize::from(input.u8() % 3)],
        as_path: Some(segment)
            .filter(|segment| !segment.asns.is_empty())
            .into_iter()
            .collect(),
        med: bit(1).then(|| u32::from(input.u8() % 4)),
        local_pref: context.internal.then(|| 100 + u32::from(input.u8() % 3)),
        atomic_aggregate: bit(2),
        communities: (0..has >> 14)
            .map(|_| community[usize::from(input.u8()) % community.len()])
            .collect(),
        originator_id: (context.internal && bit(3))
            .then(|| Ipv4Addr::new(10, 0, 0, input.u8() | 1)),
        cluster_list: if context.internal && bit(4) {
            vec![Ipv4Addr::new(10, 0, 0, 1 + input.u8() % 6)]
        } else {
            Vec::new()
        },
        only_to_customer: (bit(5) && !context.internal).then_some(asn),
        ..PathAttributes::originated(next_hop)
    }
}

fn prefixes(input: &mut Input<'_>, context: &WireContext) -> Vec<Nlri> {
    let of = |input: &mut Input<'_>| {
        let (kind, number) = (input.u8(), input.u8() % 16);
        let (prefix, family): (IpNet, _) = if kind & 1 == 0 {
            let net = Ipv4Net::new(Ipv4Addr::new(192, 168, number, 0), 24 + kind / 2 % 3);
            (net.unwrap().into(), Family::IPV4_UNICAST)
        } else {
            let address = Ipv6Addr::new(0xfd00, u16::from(number), 0, 0, 0, 0, 0, 0);
            (
                Ipv6Net::new(address, 64).unwrap().into(),
                Family::IPV6_UNICAST,
            )
        };
        let several = context.add_path_send.contains(&family);
        let path_id = u32::from(kind >> 5) * u32::from(several);
        Nlri { prefix, path_id }
    };
    (0..=input.u8() % 6).map(|_| of(input)).collect()
}
