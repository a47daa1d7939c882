//! Packs any number of prefixes into as few UPDATEs as will hold them.

use std::iter::Peekable;
use std::sync::Arc;

use bytes::{BufMut, BytesMut};
use ipnet::IpNet;

use super::attribute::{self, put_reach, put_unreach};
use super::header::put_message;
use super::update::{family_of, is_classic};
use super::writer::put_sized;
use super::{Family, HEADER_LEN, MAX_MESSAGE_LEN, MessageKind, PathAttributes, WireContext, nlri};

/// What is left of a message for attributes and prefixes: all but the header and two lengths.
const ROOM: usize = MAX_MESSAGE_LEN - HEADER_LEN - 4;
/// The flags, code and extended length of an attribute, with AFI and SAFI.
const MULTI_HEAD: usize = 4 + 3;
/// The longest next hop with its length, and the reserved octet, of MP_REACH_NLRI.
const NEXT_HOP_ROOM: usize = 1 + 32 + 1;

/// Appends UPDATEs of at most 4096 octets that announce all of `prefixes` with `attributes`, and says how many.
///
/// IPv4 prefixes with an IPv4 next hop go into the NLRI field, all others into MP_REACH_NLRI. If the attributes
/// are so long that no prefix fits beside them, the prefixes can't be announced (RFC 4271 §9.2) and are withdrawn
/// instead, so that the peer is not left with an older route.
pub fn encode_updates(
    attributes: &Arc<PathAttributes>,
    prefixes: &[IpNet],
    ctx: &WireContext,
    out: &mut BytesMut,
) -> usize {
    let classic = || prefixes.iter().filter(|net| is_classic(net, attributes));
    let multi = |family| {
        prefixes
            .iter()
            .filter(move |net| !is_classic(net, attributes) && family_of(net) == family)
    };
    let mut shared = BytesMut::with_capacity(128);
    let mut messages = 0;
    if classic().next().is_some() {
        attribute::encode(attributes, true, ctx, &mut shared);
        let room = ROOM.saturating_sub(shared.len());
        let (sent, rest) = pack(classic(), room, out, |batch, out| {
            out.put_u16(0);
            put_sized(out, |out| out.put_slice(&shared));
            batch.for_each(|net| nlri::encode(net, out));
        });
        messages += sent + withdraw(rest, out);
    }
    for family in [Family::IPV4_UNICAST, Family::IPV6_UNICAST] {
        if multi(family).next().is_none() {
            continue;
        }
        shared.clear();
        attribute::encode(attributes, false, ctx, &mut shared);
        let room = ROOM.saturating_sub(shared.len() + MULTI_HEAD + NEXT_HOP_ROOM);
        let (sent, rest) = pack(multi(family), room, out, |batch, out| {
            out.put_u16(0);
            put_sized(out, |out| {
                put_reach(family, attributes, batch, out);
                out.put_slice(&shared);
            });
        });
        messages += sent + withdraw(rest, out);
    }
    messages
}

/// Appends UPDATEs of at most 4096 octets that withdraw all of `prefixes`, and says how many.
pub fn encode_withdrawals(prefixes: &[IpNet], _ctx: &WireContext, out: &mut BytesMut) -> usize {
    withdraw(prefixes.iter(), out)
}

/// Appends the End-of-RIB marker of a family (RFC 4724 §2).
pub fn encode_end_of_rib(family: Family, _ctx: &WireContext, out: &mut BytesMut) {
    put_message(out, MessageKind::Update, |out| {
        out.put_u16(0);
        put_sized(out, |out| {
            if family != Family::IPV4_UNICAST {
                put_unreach(family, std::iter::empty(), out);
            }
        });
    });
}

fn withdraw<'a>(prefixes: impl Iterator<Item = &'a IpNet> + Clone, out: &mut BytesMut) -> usize {
    let v4 = prefixes.clone().filter(|net| matches!(net, IpNet::V4(_)));
    let (classic, _) = pack(v4, ROOM, out, |batch, out| {
        put_sized(out, |out| batch.for_each(|net| nlri::encode(net, out)));
        out.put_u16(0);
    });
    let v6 = prefixes.filter(|net| matches!(net, IpNet::V6(_)));
    let (multi, _) = pack(v6, ROOM - MULTI_HEAD, out, |batch, out| {
        out.put_u16(0);
        put_sized(out, |out| put_unreach(Family::IPV6_UNICAST, batch, out));
    });
    classic + multi
}

/// Writes one UPDATE for each batch of prefixes that fits `room` octets; says how many, and gives back what is
/// left from the first prefix on that alone does not fit.
fn pack<'a, I: Iterator<Item = &'a IpNet>>(
    prefixes: I,
    room: usize,
    out: &mut BytesMut,
    body: impl Fn(&mut dyn Iterator<Item = &'a IpNet>, &mut BytesMut),
) -> (usize, Peekable<I>) {
    let mut prefixes = prefixes.peekable();
    let mut messages = 0;
    while prefixes
        .peek()
        .is_some_and(|net| nlri::encoded_len(net) <= room)
    {
        let mut left = room;
        let mut batch = std::iter::from_fn(|| {
            let net = prefixes.next_if(|net| nlri::encoded_len(net) <= left)?;
            left -= nlri::encoded_len(net);
            Some(net)
        });
        put_message(out, MessageKind::Update, |out| body(&mut batch, out));
        messages += 1;
    }
    (messages, prefixes)
}
