//! Sessions and messages at random, all of them such that both codecs can say them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use bgp_proto::wire::{
    AddPathMode, AsPathSegment, Asn, Capability, Family, GracefulRestart, LargeCommunity,
    LongLivedFamily, Nlri, Notification, Open, Origin, PathAttributes, RefreshKind, Role,
    RouteRefresh, SegmentKind, UnknownAttribute, Update, WireContext,
};
use bytes::Bytes;
use ipnet::{Ipv4Net, Ipv6Net};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::subsequence;

pub const BOTH: [Family; 2] = [Family::IPV4_UNICAST, Family::IPV6_UNICAST];

/// One session as both ends see it: `ours` sends, `theirs` receives.
#[derive(Clone, Debug)]
pub struct Session {
    pub ours: WireContext,
    pub theirs: WireContext,
}

impl Default for Session {
    fn default() -> Self {
        Self::of(true, false, Vec::new())
    }
}

impl Session {
    fn of(four_byte_as: bool, internal: bool, add_path: Vec<Family>) -> Self {
        let ours = WireContext {
            four_byte_as,
            internal,
            families: BOTH.to_vec(),
            extended_next_hop: vec![Family::IPV4_UNICAST],
            extended_messages: true,
            add_path_send: add_path.clone(),
            ..WireContext::default()
        };
        let theirs = WireContext {
            add_path_send: Vec::new(),
            add_path_receive: add_path,
            ..ours.clone()
        };
        Self { ours, theirs }
    }
}

pub fn session() -> impl Strategy<Value = Session> {
    (
        any::<bool>(),
        any::<bool>(),
        subsequence(BOTH.to_vec(), 0..=2),
    )
        .prop_map(|(four, internal, add_path)| Session::of(four, internal, add_path))
}

fn family() -> impl Strategy<Value = Family> {
    prop_oneof![Just(BOTH[0]), Just(BOTH[1])]
}

fn asn() -> impl Strategy<Value = Asn> {
    prop_oneof![1..23456u32, 23457..65536u32, 65536..=u32::MAX].prop_map(Asn)
}

fn capability() -> impl Strategy<Value = Capability> {
    let flags = (any::<bool>(), any::<bool>(), 0..4096u16);
    let restart = (flags, vec((family(), any::<bool>()), 0..3)).prop_map(
        |((restarting, notification, restart_time), families)| GracefulRestart {
            restarting,
            notification,
            restart_time,
            families,
        },
    );
    let mode = prop_oneof![
        Just(AddPathMode::Receive),
        Just(AddPathMode::Send),
        Just(AddPathMode::Both)
    ];
    let long_lived =
        (family(), any::<bool>(), 0..1u32 << 24).prop_map(|(family, forwarding, stale_time)| {
            LongLivedFamily {
                family,
                forwarding,
                stale_time,
            }
        });
    let role = prop_oneof![
        Just(Role::Provider),
        Just(Role::RouteServer),
        Just(Role::RouteServerClient),
        Just(Role::Customer),
        Just(Role::Peer),
    ];
    let next_hops = vec((family(), 1..=2u16), 1..4);
    prop_oneof![
        family().prop_map(Capability::Multiprotocol),
        Just(Capability::RouteRefresh),
        next_hops.prop_map(Capability::ExtendedNextHop),
        Just(Capability::ExtendedMessage),
        role.prop_map(Capability::Role),
        restart.prop_map(Capability::GracefulRestart),
        vec((family(), mode), 1..4).prop_map(Capability::AddPath),
        Just(Capability::EnhancedRouteRefresh),
        vec(long_lived, 1..4).prop_map(Capability::LongLivedGracefulRestart),
        (200..=250u8, vec(any::<u8>(), 0..100)).prop_map(|(code, value)| Capability::Unknown {
            code,
            value: value.into()
        }),
    ]
}

pub fn open() -> impl Strategy<Value = Open> {
    let hold_time = prop_oneof![Just(0), 3..=u16::MAX];
    (asn(), hold_time, 1..=u32::MAX, vec(capability(), 0..12)).prop_map(
        |(asn, hold_time, id, mut capabilities)| {
            capabilities.push(Capability::FourByteAs(asn));
            Open {
                asn,
                hold_time,
                bgp_id: id.into(),
                capabilities,
            }
        },
    )
}

pub fn refresh() -> impl Strategy<Value = RouteRefresh> {
    let kind = prop_oneof![
        Just(RefreshKind::Request),
        Just(RefreshKind::Begin),
        Just(RefreshKind::End)
    ];
    (family(), kind).prop_map(|(family, kind)| RouteRefresh { family, kind })
}

pub fn notification() -> impl Strategy<Value = Notification> {
    (1..9u8, any::<u8>(), vec(any::<u8>(), 0..300)).prop_map(|(code, subcode, data)| Notification {
        code,
        subcode,
        data: data.into(),
    })
}

fn v4() -> impl Strategy<Value = Nlri> {
    (any::<u32>(), 0..=32u8, any::<u32>()).prop_map(|(address, len, path_id)| Nlri {
        prefix: Ipv4Net::new(address.into(), len).unwrap().trunc().into(),
        path_id,
    })
}

fn v6() -> impl Strategy<Value = Nlri> {
    (any::<u128>(), 0..=128u8, any::<u32>()).prop_map(|(address, len, path_id)| Nlri {
        prefix: Ipv6Net::new(address.into(), len).unwrap().trunc().into(),
        path_id,
    })
}

/// No AS_SET: RFC 9774 §3 has them withdrawn, which they do and we do not (it is out of this project's scope).
/// No two sequences side by side: on a two-octet session they come back as one.
fn path() -> impl Strategy<Value = Vec<AsPathSegment>> {
    vec(asn(), 0..8).prop_map(|asns| {
        let kind = SegmentKind::Sequence;
        let segment = AsPathSegment { kind, asns };
        if segment.asns.is_empty() {
            Vec::new()
        } else {
            vec![segment]
        }
    })
}

fn unknown() -> impl Strategy<Value = Vec<UnknownAttribute>> {
    let value = vec(any::<u8>(), 0..300).prop_map(Bytes::from);
    proptest::collection::btree_map(200..=250u8, value, 0..3).prop_map(|all| {
        let of = |(code, value)| UnknownAttribute {
            flags: 0xe0,
            code,
            value,
        };
        all.into_iter().map(of).collect()
    })
}

fn large() -> impl Strategy<Value = LargeCommunity> {
    any::<[u32; 3]>().prop_map(|[global, local1, local2]| LargeCommunity {
        global,
        local1,
        local2,
    })
}

fn attributes() -> impl Strategy<Value = PathAttributes> {
    let origin = prop_oneof![
        Just(Origin::Igp),
        Just(Origin::Egp),
        Just(Origin::Incomplete)
    ];
    let scalars = (
        option::of(any::<u32>()),
        option::of(any::<u32>()),
        any::<bool>(),
        option::of((asn(), any::<Ipv4Addr>())),
        option::of(any::<u32>().prop_map(Asn)),
    );
    let lists = (
        vec(any::<u32>(), 0..20),
        vec(any::<u64>(), 0..10),
        proptest::collection::btree_set(large(), 0..10),
        vec(any::<Ipv4Addr>(), 0..4),
    );
    let rest = (option::of(any::<Ipv4Addr>()), unknown());
    (origin, path(), scalars, lists, rest).prop_map(|(origin, as_path, scalars, lists, rest)| {
        let (med, local_pref, atomic_aggregate, aggregator, only_to_customer) = scalars;
        let (communities, extended_communities, large, cluster_list) = lists;
        let (originator_id, unknown) = rest;
        PathAttributes {
            origin,
            as_path,
            med,
            local_pref,
            atomic_aggregate,
            aggregator,
            communities,
            originator_id,
            cluster_list,
            extended_communities,
            large_communities: large.into_iter().collect(),
            only_to_customer,
            unknown,
            ..PathAttributes::originated(Ipv4Addr::UNSPECIFIED.into())
        }
    })
}

/// An UPDATE before it is known on which session it is sent.
#[derive(Clone, Debug)]
pub struct Seed {
    attributes: PathAttributes,
    announced: Vec<Nlri>,
    withdrawn: Vec<Nlri>,
    next_hop: (IpAddr, Option<Ipv6Addr>),
}

pub fn update() -> impl Strategy<Value = Seed> {
    let hop4 = (1..120u8, any::<[u8; 3]>())
        .prop_map(|(a, [b, c, d])| (IpAddr::from([a, b, c, d]), None::<Ipv6Addr>));
    let hop6 = (any::<u64>(), option::of(any::<u64>())).prop_map(|(low, link_local)| {
        let global = Ipv6Addr::from(0x2001_0db8 << 96 | u128::from(low));
        let link_local = link_local.map(|low| Ipv6Addr::from(0xfe80 << 112 | u128::from(low)));
        (IpAddr::from(global), link_local)
    });
    let routes = prop_oneof![
        (vec(v4(), 1..30), hop4.boxed()),
        (vec(v4(), 1..30), hop6.clone().boxed()),
        (vec(v6(), 1..30), hop6.boxed()),
    ];
    (attributes(), routes, vec(v4(), 0..10), vec(v6(), 0..10)).prop_map(
        |(attributes, (announced, next_hop), v4, v6)| Seed {
            attributes,
            announced,
            withdrawn: [v4, v6].concat(),
            next_hop,
        },
    )
}

impl Seed {
    /// The UPDATE as it can be sent on a session.
    pub fn fit_for(self, session: &Session) -> Update {
        let ctx = &session.ours;
        let fit = |nlri: Nlri| {
            let v4 = nlri.prefix.addr().is_ipv4();
            let family = if v4 { BOTH[0] } else { BOTH[1] };
            if ctx.add_path_send.contains(&family) {
                nlri
            } else {
                nlri.prefix.into()
            }
        };
        let (next_hop, link_local_next_hop) = self.next_hop;
        let mut attributes = PathAttributes {
            next_hop,
            link_local_next_hop,
            ..self.attributes
        };
        if !ctx.internal {
            attributes.local_pref = None;
            attributes.originator_id = None;
            attributes.cluster_list = Vec::new();
        }
        Update {
            announced: self.announced.into_iter().map(fit).collect(),
            withdrawn: self.withdrawn.into_iter().map(fit).collect(),
            attributes: Some(Arc::new(attributes)),
            ..Update::default()
        }
    }
}

/// An attribute that may be bad, and where it is put.
#[derive(Clone, Debug)]
pub struct Bad {
    pub flags: u8,
    pub code: u8,
    pub value: Vec<u8>,
    /// In place of the one of the same code, if there is one; else it is added.
    pub replace: bool,
    /// How much longer it says it is.
    pub lie: u8,
}

pub fn bad_attribute() -> impl Strategy<Value = Bad> {
    let flags = prop_oneof![
        4 => Just(0x40u8),
        4 => Just(0x80),
        4 => Just(0xc0),
        1 => Just(0xe0),
        1 => Just(0),
    ];
    let code = prop_oneof![1..=10u8, 14..=18u8, Just(32u8), Just(35u8), 200..=205u8];
    let value = prop_oneof![
        vec(any::<u8>(), 0..25),
        vec(0..3u8, 0..25),
        proptest::sample::select(vec![1usize, 4, 4, 4, 6, 8, 12, 24])
            .prop_flat_map(|len| vec(any::<u8>(), len)),
    ];
    let lie = prop_oneof![9 => Just(0u8), 1 => 1..200u8];
    (flags, code, value, any::<bool>(), lie).prop_map(|(flags, code, value, replace, lie)| Bad {
        flags,
        code,
        value,
        replace,
        lie,
    })
}
