//! UPDATE (RFC 4271 §4.3), its errors as RFC 7606 revised them, and End-of-RIB (RFC 4724 §2).

use std::net::IpAddr;
use std::sync::Arc;

use bytes::BytesMut;
use ipnet::IpNet;

use super::attribute::table::code;
use super::attribute::{self, AttributeSet, NextHops, Reach, put_reach, put_unreach};
use super::header::put_message;
use super::nlri::{self, PathIds};
use super::notification::update as subcode;
use super::reader::{Reader, Short};
use super::writer::put_sized;
use super::{
    Family, MessageKind, Nlri, Notification, PathAttributes, Update, WireContext, encode_end_of_rib,
};

/// Decodes an UPDATE; the second one holds the routes of the NLRI field if MP_REACH_NLRI announces routes too.
pub(super) fn decode(
    body: &[u8],
    ctx: &WireContext,
) -> Result<(Update, Option<Update>), Notification> {
    let fields = Fields::split(body)?;
    let mut update = Update::default();
    let ids = PathIds::received(Family::IPV4_UNICAST, ctx);
    nlri::decode_ipv4(fields.withdrawn, ids, &mut update.withdrawn).map_err(bad_network)?;
    let mut classic = Vec::new();
    nlri::decode_ipv4(fields.nlri, ids, &mut classic).map_err(bad_network)?;
    let mut set = AttributeSet::default();
    set.decode(fields.attributes, ctx)?;
    update.end_of_rib = end_of_rib(&fields, &set);
    if let Some(Reach::Routes(unreach)) = set.unreach.take() {
        update.withdrawn.extend(unreach.prefixes);
    }
    let (multi, multi_hops, ignored) = match set.reach.take() {
        Some(Reach::Routes(reach)) => {
            let hops = NextHops {
                next_hop: reach.next_hop,
                link_local: reach.link_local,
            };
            (reach.prefixes, Some(hops), false)
        }
        Some(Reach::Ignored) => (Vec::new(), None, true),
        None => (Vec::new(), None, false),
    };
    check_routes(&mut set, &classic, &multi, multi_hops);
    update.errors = std::mem::take(&mut set.errors);
    if let Some(notification) = set.withdraw.take() {
        // Without a reachable prefix there is nothing to withdraw, and perhaps one we could not see (§5.2).
        if classic.is_empty() && multi.is_empty() && !ignored {
            return Err(notification);
        }
        update.withdrawn.extend(multi);
        update.withdrawn.extend(classic);
        return Ok((update, None));
    }
    let classic_hops = set
        .next_hop
        .map(|next_hop| NextHops {
            next_hop: next_hop.into(),
            link_local: None,
        })
        .filter(|_| !classic.is_empty());
    match (multi_hops.filter(|_| !multi.is_empty()), classic_hops) {
        (None, None) => Ok((update, None)),
        (Some(hops), None) => Ok((announce(update, set, hops, multi)?, None)),
        (None, Some(hops)) => Ok((announce(update, set, hops, classic)?, None)),
        (Some(multi_hops), Some(classic_hops)) => {
            let first = announce(update, set, multi_hops, multi)?;
            let second = first.attributes.as_deref().map(|attributes| Update {
                announced: classic,
                attributes: Some(Arc::new(PathAttributes {
                    next_hop: classic_hops.next_hop,
                    link_local_next_hop: None,
                    ..attributes.clone()
                })),
                ..Update::default()
            });
            Ok((first, second))
        }
    }
}

/// Encodes an UPDATE that fits one message. One that says nothing is not written at all.
pub(super) fn encode(update: &Update, ctx: &WireContext, out: &mut BytesMut) {
    if !update.withdrawn.is_empty() || !update.announced.is_empty() {
        put_message(out, MessageKind::Update, |out| {
            encode_body(update, ctx, out)
        });
    }
    if let Some(family) = update.end_of_rib {
        encode_end_of_rib(family, ctx, out);
    }
}

/// Whether a prefix goes into the fields of RFC 4271 when announced with these attributes.
pub(super) fn is_classic(nlri: &Nlri, attributes: &PathAttributes) -> bool {
    matches!(
        (nlri.prefix, attributes.next_hop),
        (IpNet::V4(_), IpAddr::V4(_))
    )
}

/// The family of a prefix: all are unicast.
pub(super) fn family_of(nlri: &Nlri) -> Family {
    match nlri.prefix {
        IpNet::V4(_) => Family::IPV4_UNICAST,
        IpNet::V6(_) => Family::IPV6_UNICAST,
    }
}

fn encode_body(update: &Update, ctx: &WireContext, out: &mut BytesMut) {
    let ids = PathIds::sent(Family::IPV4_UNICAST, ctx);
    let (v4, v6): (Vec<&Nlri>, Vec<&Nlri>) = update
        .withdrawn
        .iter()
        .partition(|nlri| family_of(nlri) == Family::IPV4_UNICAST);
    put_sized(out, |out| {
        v4.iter().for_each(|nlri| nlri::encode(nlri, ids, out));
    });
    let mut classic = Vec::new();
    put_sized(out, |out| {
        if !v6.is_empty() {
            put_unreach(Family::IPV6_UNICAST, v6.into_iter(), ctx, out);
        }
        let Some(attributes) = update.attributes.as_deref() else {
            return;
        };
        let multi: Vec<&Nlri>;
        (classic, multi) = update
            .announced
            .iter()
            .partition(|nlri| is_classic(nlri, attributes));
        if let Some(first) = multi.first() {
            let family = family_of(first);
            put_reach(family, attributes, multi.iter().copied(), ctx, out);
        }
        attribute::encode(attributes, !classic.is_empty(), ctx, out);
    });
    classic.iter().for_each(|nlri| nlri::encode(nlri, ids, out));
}

/// The three fields of an UPDATE, cut by their lengths before anything in them is read.
struct Fields<'a> {
    withdrawn: &'a [u8],
    attributes: &'a [u8],
    nlri: &'a [u8],
}

impl<'a> Fields<'a> {
    fn split(body: &'a [u8]) -> Result<Self, Notification> {
        Self::read(Reader::new(body))
            .map_err(|Short| Notification::update_error(subcode::MALFORMED_LIST))
    }

    fn read(mut reader: Reader<'a>) -> Result<Self, Short> {
        let len = usize::from(reader.u16()?);
        let withdrawn = reader.take(len)?;
        let len = usize::from(reader.u16()?);
        let attributes = reader.take(len)?;
        Ok(Self {
            withdrawn,
            attributes,
            nlri: reader.rest(),
        })
    }
}

/// The family whose End-of-RIB this is: nothing in it at all, or nothing but an empty MP_UNREACH_NLRI.
fn end_of_rib(fields: &Fields<'_>, set: &AttributeSet) -> Option<Family> {
    if !fields.withdrawn.is_empty() || !fields.nlri.is_empty() {
        return None;
    }
    if fields.attributes.is_empty() {
        return Some(Family::IPV4_UNICAST);
    }
    match &set.unreach {
        Some(Reach::Routes(unreach)) if unreach.prefixes.is_empty() && set.count() == 1 => {
            Some(unreach.family)
        }
        _ => None,
    }
}

/// What must hold for there to be routes: the mandatory attributes, and next hops that can be one.
fn check_routes(
    set: &mut AttributeSet,
    classic: &[Nlri],
    multi: &[Nlri],
    multi_hops: Option<NextHops>,
) {
    if classic.is_empty() && multi.is_empty() {
        return;
    }
    set.require(&[code::ORIGIN, code::AS_PATH]);
    if !classic.is_empty() {
        set.require(&[code::NEXT_HOP]);
        if let Some(next_hop) = set.next_hop {
            set.check_next_hop(code::NEXT_HOP, next_hop.into());
        }
    }
    if let Some(hops) = multi_hops.filter(|_| !multi.is_empty()) {
        set.check_next_hop(code::MP_REACH, hops.next_hop);
    }
}

fn announce(
    update: Update,
    set: AttributeSet,
    hops: NextHops,
    announced: Vec<Nlri>,
) -> Result<Update, Notification> {
    // `check_routes` has seen to it that none is missing; were one, the peer is told so.
    let missing = || Notification::update_error(subcode::MISSING_WELL_KNOWN);
    let attributes = Arc::new(set.into_attributes(hops).ok_or_else(missing)?);
    Ok(Update {
        announced,
        attributes: Some(attributes),
        ..update
    })
}

fn bad_network(_: Short) -> Notification {
    Notification::update_error(subcode::INVALID_NETWORK)
}
