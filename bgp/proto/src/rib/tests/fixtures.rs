//! Peers, attributes and prefixes the tests of the RIBs share.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::rib::{ExportPolicy, PeerId, PeerInfo, PeerPolicy, Rib, RibConfig};
use crate::wire::{AsPathSegment, Asn, Family, PathAttributes, SegmentKind, Update, WireContext};

pub(in crate::rib) const OUR_AS: Asn = Asn(64_513);

pub(in crate::rib) fn rib_config() -> RibConfig {
    RibConfig {
        asn: OUR_AS,
        router_id: Ipv4Addr::new(10, 0, 0, 100),
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

pub(in crate::rib) fn external_peer(n: u8) -> PeerInfo {
    PeerInfo {
        asn: Asn(65_000 + u32::from(n)),
        router_id: Ipv4Addr::new(10, 0, 0, n),
        address: ([10, 0, 0, n], 179).into(),
        local_address: Ipv4Addr::new(10, 0, 0, 100).into(),
        families: vec![Family::IPV4_UNICAST],
    }
}

pub(in crate::rib) fn internal_peer(n: u8) -> PeerInfo {
    PeerInfo {
        asn: OUR_AS,
        ..external_peer(n)
    }
}

pub(in crate::rib) fn policy() -> PeerPolicy {
    PeerPolicy {
        import_reject: BTreeSet::new(),
        max_prefixes: 100_000,
        export: ExportPolicy::default(),
    }
}

pub(in crate::rib) fn transit() -> PeerPolicy {
    PeerPolicy {
        export: ExportPolicy { transit: true },
        ..policy()
    }
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
        families: vec![Family::IPV4_UNICAST],
        ..WireContext::default()
    }
}

pub(in crate::rib) fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

pub(in crate::rib) fn nets(texts: &[&str]) -> BTreeSet<IpNet> {
    texts.iter().map(|text| net(text)).collect()
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

pub(in crate::rib) fn from(next_hop: [u8; 4], asns: &[u32]) -> PathAttributes {
    PathAttributes {
        next_hop: Ipv4Addr::from(next_hop).into(),
        ..attributes(asns)
    }
}
