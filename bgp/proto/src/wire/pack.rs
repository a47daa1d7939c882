//! Packs any number of prefixes into as few UPDATEs as will hold them.

use std::iter::Peekable;
use std::sync::Arc;

use bytes::{BufMut, BytesMut};

use super::attribute::{self, put_reach, put_unreach};
use super::header::put_message;
use super::nlri::{self, PathIds};
use super::update::{family_of, is_classic};
use super::writer::put_sized;
use super::{Family, HEADER_LEN, MessageKind, Nlri, PathAttributes, WireContext};

/// The flags, code and extended length of an attribute, with AFI and SAFI.
const MULTI_HEAD: usize = 4 + 3;
/// The longest next hop with its length, and the reserved octet, of MP_REACH_NLRI.
const NEXT_HOP_ROOM: usize = 1 + 32 + 1;

/// What is left of a message for attributes and prefixes: all but the header and two lengths.
fn room(ctx: &WireContext) -> usize {
    MessageKind::Update.max_len(ctx) - HEADER_LEN - 4
}

/// Appends UPDATEs as long as the session allows that announce all of `prefixes` with `attributes`, and says how many.
///
/// IPv4 prefixes with an IPv4 next hop go into the NLRI field, all others into MP_REACH_NLRI. If the attributes
/// are so long that no prefix fits beside them, the prefixes can't be announced (RFC 4271 §9.2) and are withdrawn
/// instead, so that the peer is not left with an older route.
pub fn encode_updates(
    attributes: &Arc<PathAttributes>,
    prefixes: &[Nlri],
    ctx: &WireContext,
    out: &mut BytesMut,
) -> usize {
    let classic = || prefixes.iter().filter(|nlri| is_classic(nlri, attributes));
    let multi = |family| {
        prefixes
            .iter()
            .filter(move |nlri| !is_classic(nlri, attributes) && family_of(nlri) == family)
    };
    let mut shared = BytesMut::with_capacity(128);
    let mut messages = 0;
    if classic().next().is_some() {
        let ids = PathIds::sent(Family::IPV4_UNICAST, ctx);
        attribute::encode(attributes, true, ctx, &mut shared);
        let room = room(ctx).saturating_sub(shared.len());
        let (sent, rest) = pack(classic(), room, ids, out, |batch, out| {
            out.put_u16(0);
            put_sized(out, |out| out.put_slice(&shared));
            batch.for_each(|nlri| nlri::encode(nlri, ids, out));
        });
        messages += sent + withdraw(rest, ctx, out);
    }
    for family in [Family::IPV4_UNICAST, Family::IPV6_UNICAST] {
        if multi(family).next().is_none() {
            continue;
        }
        let ids = PathIds::sent(family, ctx);
        shared.clear();
        attribute::encode(attributes, false, ctx, &mut shared);
        let room = room(ctx).saturating_sub(shared.len() + MULTI_HEAD + NEXT_HOP_ROOM);
        let (sent, rest) = pack(multi(family), room, ids, out, |batch, out| {
            out.put_u16(0);
            put_sized(out, |out| {
                put_reach(family, attributes, batch, ctx, out);
                out.put_slice(&shared);
            });
        });
        messages += sent + withdraw(rest, ctx, out);
    }
    messages
}

/// Appends UPDATEs as long as the session allows that withdraw all of `prefixes`, and says how many.
pub fn encode_withdrawals(prefixes: &[Nlri], ctx: &WireContext, out: &mut BytesMut) -> usize {
    withdraw(prefixes.iter(), ctx, out)
}

/// Appends the End-of-RIB marker of a family (RFC 4724 §2).
pub fn encode_end_of_rib(family: Family, ctx: &WireContext, out: &mut BytesMut) {
    put_message(out, MessageKind::Update, |out| {
        out.put_u16(0);
        put_sized(out, |out| {
            if family != Family::IPV4_UNICAST {
                put_unreach(family, std::iter::empty(), ctx, out);
            }
        });
    });
}

fn withdraw<'a>(
    prefixes: impl Iterator<Item = &'a Nlri> + Clone,
    ctx: &WireContext,
    out: &mut BytesMut,
) -> usize {
    let ids = PathIds::sent(Family::IPV4_UNICAST, ctx);
    let v4 = prefixes
        .clone()
        .filter(|nlri| family_of(nlri) == Family::IPV4_UNICAST);
    let (classic, _) = pack(v4, room(ctx), ids, out, |batch, out| {
        put_sized(out, |out| {
            batch.for_each(|nlri| nlri::encode(nlri, ids, out))
        });
        out.put_u16(0);
    });
    let ids = PathIds::sent(Family::IPV6_UNICAST, ctx);
    let v6 = prefixes.filter(|nlri| family_of(nlri) == Family::IPV6_UNICAST);
    let (multi, _) = pack(v6, room(ctx) - MULTI_HEAD, ids, out, |batch, out| {
        out.put_u16(0);
        put_sized(out, |out| {
            put_unreach(Family::IPV6_UNICAST, batch, ctx, out)
        });
    });
    classic + multi
}

/// Writes one UPDATE for each batch of prefixes that fits `room` octets; says how many, and gives back what is
/// left from the first prefix on that alone does not fit.
fn pack<'a, I: Iterator<Item = &'a Nlri>>(
    prefixes: I,
    room: usize,
    ids: PathIds,
    out: &mut BytesMut,
    body: impl Fn(&mut dyn Iterator<Item = &'a Nlri>, &mut BytesMut),
) -> (usize, Peekable<I>) {
    let mut prefixes = prefixes.peekable();
    let mut messages = 0;
    while prefixes
        .peek()
        .is_some_and(|nlri| nlri::encoded_len(nlri, ids) <= room)
    {
        let mut left = room;
        let mut batch = std::iter::from_fn(|| {
            let nlri = prefixes.next_if(|nlri| nlri::encoded_len(nlri, ids) <= left)?;
            left -= nlri::encoded_len(nlri, ids);
            Some(nlri)
        });
        put_message(out, MessageKind::Update, |out| body(&mut batch, out));
        messages += 1;
    }
    (messages, prefixes)
}
