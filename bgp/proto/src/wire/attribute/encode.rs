//! Writes the attributes of a route, in the order of their codes.

use std::net::IpAddr;

use bytes::{BufMut, BytesMut};

use super::as_path::{self, AsSize};
use super::table::{self, OPTIONAL, PARTIAL, TRANSITIVE, code};
use super::{aggregator, communities, origin};
use crate::wire::writer::put_attribute;
use crate::wire::{PathAttributes, WireContext};

/// Writes all attributes but MP_REACH_NLRI, in the order of their codes; NEXT_HOP only for the NLRI field's sake.
pub(in crate::wire) fn encode(
    attributes: &PathAttributes,
    with_next_hop: bool,
    ctx: &WireContext,
    out: &mut BytesMut,
) {
    put(out, code::ORIGIN, |out| {
        out.put_u8(origin::octet(attributes.origin))
    });
    put(out, code::AS_PATH, |out| {
        as_path::encode(&attributes.as_path, AsSize::of(ctx), out);
    });
    if let (true, IpAddr::V4(hop)) = (with_next_hop, attributes.next_hop) {
        put(out, code::NEXT_HOP, |out| out.put_slice(&hop.octets()));
    }
    if let Some(med) = attributes.med {
        put(out, code::MED, |out| out.put_u32(med));
    }
    if let Some(local_pref) = attributes.local_pref {
        put(out, code::LOCAL_PREF, |out| out.put_u32(local_pref));
    }
    if attributes.atomic_aggregate {
        put(out, code::ATOMIC_AGGREGATE, |_| {});
    }
    if let Some(aggregator) = attributes.aggregator {
        put_partial(attributes, out, code::AGGREGATOR, |out| {
            aggregator::encode(aggregator, ctx, out)
        });
    }
    if !attributes.communities.is_empty() {
        put_partial(attributes, out, code::COMMUNITIES, |out| {
            attributes
                .communities
                .iter()
                .for_each(|community| out.put_u32(*community));
        });
    }
    if let Some(id) = attributes.originator_id {
        put(out, code::ORIGINATOR_ID, |out| out.put_u32(id.to_bits()));
    }
    if !attributes.cluster_list.is_empty() {
        put(out, code::CLUSTER_LIST, |out| {
            attributes
                .cluster_list
                .iter()
                .for_each(|id| out.put_u32(id.to_bits()));
        });
    }
    encode_communities(attributes, ctx, out);
    for unknown in &attributes.unknown {
        put_attribute(out, unknown.flags, unknown.code, |out| {
            out.put_slice(&unknown.value)
        });
    }
}

/// The kinds of communities that have codes from 16 on, and what stands between and behind them.
fn encode_communities(attributes: &PathAttributes, ctx: &WireContext, out: &mut BytesMut) {
    if !attributes.extended_communities.is_empty() {
        put_partial(attributes, out, code::EXTENDED_COMMUNITIES, |out| {
            let all = attributes.extended_communities.iter();
            all.for_each(|community| out.put_u64(*community));
        });
    }
    encode_as4(attributes, ctx, out);
    if !attributes.large_communities.is_empty() {
        put_partial(attributes, out, code::LARGE_COMMUNITIES, |out| {
            communities::encode_large(&attributes.large_communities, out);
        });
    }
    if let Some(asn) = attributes.only_to_customer {
        put_partial(attributes, out, code::ONLY_TO_CUSTOMER, |out| {
            out.put_u32(asn.0)
        });
    }
}

/// What a two-octet peer passes on for us (RFC 6793 §4.2.2).
fn encode_as4(attributes: &PathAttributes, ctx: &WireContext, out: &mut BytesMut) {
    let flags = OPTIONAL | TRANSITIVE;
    if let (false, Some(path)) = (ctx.four_byte_as, as_path::as4_path(&attributes.as_path)) {
        put_attribute(out, flags, code::AS4_PATH, |out| {
            as_path::encode(&path, AsSize::Four, out);
        });
    }
    if let Some((asn, router)) = attributes.aggregator
        && aggregator::needs_as4((asn, router), ctx)
    {
        put_attribute(out, flags, code::AS4_AGGREGATOR, |out| {
            out.put_u32(asn.0);
            out.put_u32(router.to_bits());
        });
    }
}

fn put(out: &mut BytesMut, code: u8, value: impl FnOnce(&mut BytesMut)) {
    if let Some(row) = table::find(code) {
        put_attribute(out, row.flags, code, value);
    }
}

/// An optional transitive attribute, with the Partial bit if it came with one.
fn put_partial(
    attributes: &PathAttributes,
    out: &mut BytesMut,
    code: u8,
    value: impl FnOnce(&mut BytesMut),
) {
    if let Some(row) = table::find(code) {
        let partial = attributes.partial & row.partial_bit() != 0;
        let flags = row.flags | if partial { PARTIAL } else { 0 };
        put_attribute(out, flags, code, value);
    }
}
