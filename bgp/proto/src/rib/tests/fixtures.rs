//! Peers, attributes and prefixes the tests of the RIBs share.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ipnet::IpNet;
use proptest::prelude::*;

use crate::rib::{
    BestChange, ExportPolicy, ImportPolicy, Multipath, NextHop, Originated, PeerId, PeerInfo,
    PeerPolicy, Rib, RibConfig,
};
use crate::wire::{
    AsPathSegment, Asn, Decoder, Family, LargeCommunity, Message, Nlri, Origin, PathAttributes,
    RefreshKind, RouteRefresh, SegmentKind, UnknownAttribute, Update, WireContext,
};

pub(in crate::rib) const OUR_AS: Asn = Asn(64_513);
pub(in crate::rib) const V4: Family = Family::IPV4_UNICAST;
pub(in crate::rib) const V6: Family = Family::IPV6_UNICAST;
pub(in crate::rib) const ALL: usize = usize::MAX;

pub(in crate::rib) fn rib_config() -> RibConfig {
    RibConfig {
        asn: OUR_AS,
        router_id: Ipv4Addr::new(10, 0, 0, 100),
        cluster_id: Ipv4Addr::new(10, 0, 0, 100),
        multipath: Multipath::default(),
    }
}

pub(in crate::rib) fn attributes(asns: &[u32]) -> PathAttributes {
    let segment = AsPathSegment {
        kind: SegmentKind::Sequence,
        asns: asns.iter().map(|&asn| Asn(asn)).collect(),
    };
    PathAttributes {
        as_path: if asns.is_empty() {
            vec![]
        } else {
            vec![segment]
        },
        ..PathAttributes::originated(Ipv4Addr::new(10, 0, 0, 1).into())
    }
}

pub(in crate::rib) fn from(next_hop: [u8; 4], asns: &[u32]) -> PathAttributes {
    PathAttributes {
        next_hop: Ipv4Addr::from(next_hop).into(),
        ..attributes(asns)
    }
}

/// Attributes of every kind, with every optional part there or not.
pub(in crate::rib) fn any_attributes() -> impl Strategy<Value = PathAttributes> {
    let path = (1u8..5, prop::collection::vec(1u32.., 1..4));
    let unknown = (
        any::<u8>(),
        any::<u8>(),
        prop::collection::vec(any::<u8>(), 0..300),
    );
    let large = any::<(u32, u32, u32)>();
    let well_known = prop_oneof![any::<u32>(), 0xFFFF_0000_u32..=0xFFFF_0008];
    (
        (0u8..3, any::<IpAddr>(), any::<Option<std::net::Ipv6Addr>>()),
        prop::collection::vec(path, 0..3),
        any::<(Option<u32>, Option<u32>, bool, Option<(u32, Ipv4Addr)>)>(),
        prop::collection::vec(well_known, 0..4),
        any::<(Option<Ipv4Addr>, Option<u32>, u64)>(),
        prop::collection::vec(any::<Ipv4Addr>(), 0..3),
        prop::collection::vec(any::<u64>(), 0..3),
        prop::collection::vec(large, 0..3),
        prop::collection::vec(unknown, 0..2),
    )
        .prop_map(
            |(head, path, numbers, communities, ids, clusters, extended, large, unknown)| {
                let kind = |octet| match octet {
                    1 => SegmentKind::Set,
                    2 => SegmentKind::Sequence,
                    3 => SegmentKind::ConfedSequence,
                    _ => SegmentKind::ConfedSet,
                };
                PathAttributes {
                    origin: [Origin::Igp, Origin::Egp, Origin::Incomplete][usize::from(head.0)],
                    as_path: path
                        .into_iter()
                        .map(|(octet, asns)| AsPathSegment {
                            kind: kind(octet),
                            asns: asns.into_iter().map(Asn).collect(),
                        })
                        .collect(),
                    next_hop: head.1,
                    link_local_next_hop: head.2,
                    med: numbers.0,
                    local_pref: numbers.1,
                    atomic_aggregate: numbers.2,
                    aggregator: numbers.3.map(|(asn, router)| (Asn(asn), router)),
                    communities,
                    originator_id: ids.0,
                    cluster_list: clusters,
                    extended_communities: extended,
                    large_communities: large
                        .into_iter()
                        .map(|(global, local1, local2)| LargeCommunity {
                            global,
                            local1,
                            local2,
                        })
                        .collect(),
                    only_to_customer: ids.1.map(Asn),
                    unknown: unknown
                        .into_iter()
                        .map(|(flags, code, value)| UnknownAttribute {
                            flags,
                            code,
                            value: value.into(),
                        })
                        .collect(),
                    partial: ids.2,
                }
            },
        )
}

pub(in crate::rib) fn external_peer(n: u8) -> PeerInfo {
    PeerInfo {
        asn: Asn(65_000 + u32::from(n)),
        router_id: Ipv4Addr::new(10, 0, 0, n),
        address: ([10, 0, 0, n], 179).into(),
        local_address: Ipv4Addr::new(10, 0, 0, 100).into(),
        local_link_local: None,
        link: None,
        external: true,
        context: context(),
        enhanced_refresh: false,
        role: None,
        llgr_peer: false,
    }
}

pub(in crate::rib) fn internal_peer(n: u8) -> PeerInfo {
    PeerInfo {
        asn: OUR_AS,
        external: false,
        context: WireContext {
            internal: true,
            ..context()
        },
        ..external_peer(n)
    }
}

pub(in crate::rib) fn policy() -> PeerPolicy {
    PeerPolicy {
        name: "peer".into(),
        import: ImportPolicy::default(),
        export: ExportPolicy::default(),
        max_prefixes: 100_000,
        warn_at: None,
        route_reflector_client: false,
    }
}

pub(in crate::rib) fn transit() -> PeerPolicy {
    exporting(|export| export.transit = true)
}

pub(in crate::rib) fn exporting(change: impl FnOnce(&mut ExportPolicy)) -> PeerPolicy {
    let mut policy = policy();
    change(&mut policy.export);
    policy
}

pub(in crate::rib) fn importing(change: impl FnOnce(&mut ImportPolicy)) -> PeerPolicy {
    let mut policy = policy();
    change(&mut policy.import);
    policy
}

pub(in crate::rib) fn up(rib: &mut Rib, policy: PeerPolicy, info: PeerInfo) -> PeerId {
    let id = rib.add_peer(policy);
    rib.handle_peer_up(id, info);
    id
}

pub(in crate::rib) fn context() -> WireContext {
    WireContext {
        four_byte_as: true,
        internal: false,
        families: vec![V4],
        ..WireContext::default()
    }
}

pub(in crate::rib) fn both_families() -> WireContext {
    WireContext {
        families: vec![V4, V6],
        ..context()
    }
}

/// The session as the peer decodes it.
pub(in crate::rib) fn seen_by_peer(context: &WireContext) -> WireContext {
    WireContext {
        add_path_receive: context.add_path_send.clone(),
        add_path_send: context.add_path_receive.clone(),
        ..context.clone()
    }
}

pub(in crate::rib) fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

pub(in crate::rib) fn nets(texts: &[&str]) -> BTreeSet<IpNet> {
    texts.iter().map(|text| net(text)).collect()
}

pub(in crate::rib) fn own(nets: impl IntoIterator<Item = IpNet>) -> BTreeMap<IpNet, Originated> {
    let plain = |net| (net, Originated::default());
    nets.into_iter().map(plain).collect()
}

pub(in crate::rib) fn originate(rib: &mut Rib, texts: &[&str]) {
    rib.set_originated(&own(nets(texts)));
}

pub(in crate::rib) fn announce(prefixes: &[&str], attributes: PathAttributes) -> Update {
    Update {
        announced: prefixes.iter().map(|text| net(text).into()).collect(),
        attributes: Some(Arc::new(attributes)),
        ..Update::default()
    }
}

pub(in crate::rib) fn withdraw(prefixes: &[&str]) -> Update {
    Update {
        withdrawn: prefixes.iter().map(|text| net(text).into()).collect(),
        ..Update::default()
    }
}

pub(in crate::rib) fn end_of_rib() -> Update {
    Update {
        end_of_rib: Some(V4),
        ..Update::default()
    }
}

pub(in crate::rib) fn refresh(kind: RefreshKind) -> RouteRefresh {
    RouteRefresh { family: V4, kind }
}

/// Everything that is due to a peer, decoded.
pub(in crate::rib) fn messages(rib: &mut Rib, to: PeerId, context: &WireContext) -> Vec<Message> {
    let mut decoder = Decoder::default();
    loop {
        while let Some(bytes) = rib.poll_transmit(to, ALL) {
            decoder.push(&bytes);
        }
        if rib.dirty.is_empty() {
            break;
        }
    }
    let context = seen_by_peer(context);
    std::iter::from_fn(|| decoder.next(&context).unwrap()).collect()
}

/// The UPDATEs that are due to a peer.
pub(in crate::rib) fn sent(rib: &mut Rib, to: PeerId) -> Vec<Update> {
    sent_in(rib, to, &context())
}

pub(in crate::rib) fn sent_in(rib: &mut Rib, to: PeerId, context: &WireContext) -> Vec<Update> {
    let update = |message| match message {
        Message::Update(update) => update,
        other => panic!("{other:?}"),
    };
    messages(rib, to, context).into_iter().map(update).collect()
}

/// What a peer is to know in the end.
pub(in crate::rib) fn adj_rib_out(rib: &mut Rib, id: PeerId) -> BTreeMap<Nlri, PathAttributes> {
    let advertised = rib.advertised(id, ALL).into_iter();
    advertised
        .map(|(nlri, attributes)| (nlri, (*attributes).clone()))
        .collect()
}

/// The prefixes a peer is to know.
pub(in crate::rib) fn told(rib: &mut Rib, id: PeerId) -> Vec<IpNet> {
    adj_rib_out(rib, id)
        .keys()
        .map(|nlri| nlri.prefix)
        .collect()
}

/// Takes messages in as the peer would.
pub(in crate::rib) fn learn(
    known: &mut BTreeMap<Nlri, PathAttributes>,
    updates: impl IntoIterator<Item = Update>,
) {
    for update in updates {
        for nlri in &update.withdrawn {
            known.remove(nlri);
        }
        for nlri in &update.announced {
            known.insert(*nlri, (**update.attributes.as_ref().unwrap()).clone());
        }
    }
}

pub(in crate::rib) fn hop(last: u8) -> NextHop {
    NextHop {
        address: [10, 0, 0, last].into(),
        link: None,
        weight: 1,
    }
}

/// A change to so many gateways 10.0.0.n.
pub(in crate::rib) fn change(prefix: &str, hops: &[u8]) -> BestChange {
    BestChange {
        prefix: net(prefix),
        next_hops: hops.iter().map(|last| hop(*last)).collect(),
    }
}
/// One path of a prefix that has several.
pub(in crate::rib) fn path(prefix: &str, path_id: u32, attributes: PathAttributes) -> Update {
    Update {
        announced: vec![nlri(prefix, path_id)],
        ..announce(&[], attributes)
    }
}

pub(in crate::rib) fn nlri(prefix: &str, path_id: u32) -> Nlri {
    Nlri {
        prefix: net(prefix),
        path_id,
    }
}
