//! Tests of reading IPPool, IPReservation and IPAMBlock.

use super::*;
use crate::crd::{AllowedUse, Encapsulation};

fn pool(spec: Value) -> Result<IpPool, ParseError> {
    let rest = json!({"metadata": {"name": "pods"}, "spec": spec});
    match read("portolan.io/v1alpha1", "IPPool", rest)? {
        Resource::IpPool(pool) => Ok(pool),
        other => panic!("{other:?}"),
    }
}

fn block(name: &str, spec: Value) -> Result<IpamBlock, ParseError> {
    let rest = json!({"metadata": {"name": name}, "spec": spec});
    match read("portolan.io/v1alpha1", "IPAMBlock", rest)? {
        Resource::IpamBlock(block) => Ok(block),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_pool_is_for_pods_of_every_node_in_blocks_of_64_unless_it_says_otherwise() {
    let v4 = pool(json!({"cidr": "10.48.0.7/16"})).expect("a pool");
    assert_eq!(v4.cidr.to_string(), "10.48.0.0/16");
    assert_eq!((v4.block_size, v4.block_count()), (26, 1024));
    assert_eq!(v4.encapsulation, Encapsulation::None);
    assert!(v4.is_for_pods() && !v4.nat_outgoing && !v4.disabled);
    assert!(v4.node_selector.matches(&crate::Labels::new()));
    let v6 = pool(json!({"cidr": "fd00:48::/64"})).expect("a pool");
    assert_eq!((v6.block_size, v6.block_count()), (122, 1 << 58));
    let all = pool(
        json!({"cidr": "10.48.0.0/20", "blockSize": 24, "encapsulation": "VXLANCrossSubnet",
        "natOutgoing": true, "nodeSelector": "rack == 'r1'", "allowedUses": ["LoadBalancer"],
        "disabled": true}),
    )
    .expect("a pool");
    assert_eq!(all.encapsulation, Encapsulation::VxlanCrossSubnet);
    assert!(!all.is_for_pods() && all.nat_outgoing && all.disabled);
    assert_eq!(all.allowed_uses, [AllowedUse::LoadBalancer].into());
    assert!(!all.node_selector.matches(&crate::Labels::new()));
    assert_eq!(all.layer2, None);
    let layer2 = json!({"interfaces": ["eth1"]});
    let layer2 = json!({"cidr": "10.48.0.0/20", "allowedUses": ["LoadBalancer"], "layer2": layer2});
    let layer2 = pool(layer2).expect("a pool").layer2;
    assert_eq!(layer2, Some(["eth1".to_owned()].into()));
}

#[test]
fn what_a_pools_pods_reach_with_their_own_address_is_of_the_pools_family() {
    let of = |cidr: &str, exceptions: Value| {
        pool(json!({"cidr": cidr, "natOutgoing": true, "nonMasqueradeCIDRs": exceptions}))
    };
    let exceptions = json!(["198.51.100.7/24", "198.51.100.0/24", "0.0.0.0/0"]);
    let read = of("10.48.0.0/16", exceptions).expect("a pool");
    let texts: Vec<_> = read
        .non_masquerade_cidrs
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(texts, ["0.0.0.0/0", "198.51.100.0/24"]);
    let read = of("fd48::/64", json!(["2001:db8::/32"])).expect("a pool");
    assert_eq!(read.non_masquerade_cidrs.len(), 1);
    let many: Vec<String> = (0..257)
        .map(|n| format!("198.51.{}.{}/32", n / 256, n % 256))
        .collect();
    for (cidr, exceptions, said) in [
        (
            "10.48.0.0/16",
            json!(["2001:db8::/32"]),
            "is not of the family of 10.48.0.0/16",
        ),
        (
            "fd48::/64",
            json!(["198.51.100.0/24"]),
            "is not of the family of fd48::/64",
        ),
        (
            "10.48.0.0/16",
            json!(["198.51.100.0"]),
            "\"198.51.100.0\" is no CIDR",
        ),
        ("10.48.0.0/16", json!(["a\n-j ACCEPT"]), "is no CIDR"),
        ("10.48.0.0/16", json!(many), "more than 256 entries"),
    ] {
        let text = of(cidr, exceptions).expect_err(said).to_string();
        assert!(
            text.contains(said) && text.contains("IPPool pods"),
            "{text}"
        );
        assert!(text.contains("spec.nonMasqueradeCIDRs"), "{text}");
    }
}

#[test]
fn a_pools_blocks_fill_it_and_no_other_prefix_is_one_of_them() {
    let of = |cidr: &str, size: u8| pool(json!({"cidr": cidr, "blockSize": size})).expect("a pool");
    let small = of("10.48.0.0/24", 26);
    let blocks: Vec<_> = (0..=small.block_count())
        .map(|number| small.block(number))
        .collect();
    let text: Vec<_> = blocks.iter().flatten().map(ToString::to_string).collect();
    assert_eq!(
        text,
        [
            "10.48.0.0/26",
            "10.48.0.64/26",
            "10.48.0.128/26",
            "10.48.0.192/26"
        ]
    );
    assert_eq!(blocks.len(), 5, "the last one is none");
    assert!(blocks.iter().flatten().all(|block| small.has_block(block)));
    for (number, block) in (0..).zip(blocks.iter().flatten()) {
        for address in [block.network(), block.broadcast()] {
            assert_eq!(small.block_number(address), Some(number));
        }
    }
    assert_eq!(small.block_number([10, 48, 1, 0].into()), None);
    for other in [
        "10.48.0.0/25",
        "10.48.0.0/27",
        "10.48.1.0/26",
        "10.48.0.1/26",
        "fd00::/122",
    ] {
        assert!(!small.has_block(&other.parse().expect("a CIDR")), "{other}");
    }
    let whole = of("10.48.0.0/26", 26);
    assert_eq!((whole.block_count(), whole.block(0)), (1, Some(whole.cidr)));
    assert_eq!(
        of("10.0.0.0/8", 32)
            .block((1 << 24) - 1)
            .expect("the last")
            .to_string(),
        "10.255.255.255/32"
    );
    let v6 = of("fd00::/64", 128);
    assert_eq!(
        v6.block(u128::from(u64::MAX))
            .expect("the last")
            .to_string(),
        "fd00::ffff:ffff:ffff:ffff/128"
    );
    assert_eq!(v6.block(1 << 64), None);
}

#[test]
fn wrong_pools_are_refused_by_name_and_field() {
    for (spec, part) in [
        (json!({"cidr": "10.48.0.0"}), "spec.cidr"),
        (
            json!({"cidr": "10.48.0.0/27"}),
            "a block of /26 is larger than 10.48.0.0/27: set it to 27 or more",
        ),
        (json!({"cidr": "fd00::/124"}), "set it to 124 or more"),
        (
            json!({"cidr": "10.48.0.0/16", "blockSize": 19}),
            "19 is not from 20 to 32",
        ),
        (
            json!({"cidr": "10.48.0.0/16", "blockSize": 33}),
            "33 is not from 20 to 32",
        ),
        (
            json!({"cidr": "fd00::/64", "blockSize": 64}),
            "64 is not from 116 to 128",
        ),
        (json!({"cidr": "0.0.0.0/0"}), "holds unspecified"),
        (json!({"cidr": "169.254.0.0/20"}), "holds link-local"),
        (json!({"cidr": "fe80::/64"}), "holds link-local"),
        (
            json!({"cidr": "10.48.0.0/16", "nodeSelector": "rack =="}),
            "spec.nodeSelector",
        ),
        (
            json!({"cidr": "10.48.0.0/16", "allowedUses": []}),
            "spec.allowedUses",
        ),
        (
            json!({"cidr": "10.48.0.0/16", "allowedUses": ["Pods"]}),
            "Pods",
        ),
        (
            json!({"cidr": "10.48.0.0/16", "encapsulation": "Vxlan"}),
            "Vxlan",
        ),
        (
            json!({"cidr": "10.48.0.0/16", "layer2": {}}),
            "add LoadBalancer to spec.allowedUses",
        ),
        (
            json!({"cidr": "10.48.0.0/16", "allowedUses": ["LoadBalancer"],
                "layer2": {"interfaces": ["eth0", "a name/of:none"]}}),
            "is no interface's name",
        ),
        (
            json!({"cidr": "10.48.0.0/16", "blocksize": 26}),
            "blocksize",
        ),
        (json!({}), "cidr"),
    ] {
        let error = pool(spec).expect_err(part).to_string();
        assert!(
            error.starts_with("IPPool pods: ") && error.contains(part),
            "{error}"
        );
    }
}

#[test]
fn reservations_hold_addresses_and_cidrs() {
    let of = |cidrs: Value| {
        let rest = json!({"metadata": {"name": "printers"}, "spec": {"reservedCIDRs": cidrs}});
        match read("portolan.io/v1alpha1", "IPReservation", rest)? {
            Resource::IpReservation(found) => Ok(found.cidrs),
            other => panic!("{other:?}"),
        }
    };
    let read = of(json!(["192.168.2.3", "10.0.2.3/24", "cafe:f00d::/123"])).expect("three");
    let text: Vec<_> = read.iter().map(ToString::to_string).collect();
    assert_eq!(text, ["192.168.2.3/32", "10.0.2.0/24", "cafe:f00d::/123"]);
    for wrong in [
        json!([]),
        json!(["10.0.0"]),
        json!(["10.0.0.0/33"]),
        json!(null),
        json!([1]),
    ] {
        let error: ParseError = of(wrong).expect_err("wrong");
        assert!(
            error.to_string().starts_with("IPReservation printers: "),
            "{error}"
        );
    }
}

#[test]
fn a_block_is_named_after_its_cidr() {
    for (cidr, name) in [
        ("10.48.0.64/26", "10-48-0-64-26"),
        ("fd00:48::40/122", "fd00-48--40-122"),
        ("::5:0:0/122", "0--5-0-0-122"),
    ] {
        let written = block(name, json!({"cidr": cidr, "node": "node1"})).expect(cidr);
        assert_eq!(
            (written.name().as_str(), written.node.as_str()),
            (name, "node1")
        );
        assert_eq!(IpamBlock::try_from(written.manifest()), Ok(written));
        assert!(crate::metadata::is_dns_label(name));
        assert!(block("other", json!({"cidr": cidr, "node": "node1"})).is_err());
    }
    assert!(
        block(
            "10-48-0-65-26",
            json!({"cidr": "10.48.0.65/26", "node": "node1"})
        )
        .is_err()
    );
    assert!(
        block(
            "10-48-0-64-26",
            json!({"cidr": "10.48.0.64/26", "node": "../x"})
        )
        .is_err()
    );
    assert!(block("10-48-0-64-26", json!({"cidr": "10.48.0.64/26"})).is_err());
}

proptest! {
    #[test]
    fn two_blocks_never_share_a_name(a in any::<(bool, u128, u8)>(), b in any::<(bool, u128, u8)>()) {
        let cidr = |(v4, bits, length): (bool, u128, u8)| -> ipnet::IpNet {
            let text = if v4 {
                format!("{}/{}", std::net::Ipv4Addr::from((bits >> 96) as u32), length % 33)
            } else {
                // Few bits, so that many of them have the same groups and runs of zeros in other places.
                format!("{}/{}", std::net::Ipv6Addr::from(bits & 0x000f_0000_0000_000f_0000_0000_000f_0000), length % 129)
            };
            text.parse().expect("a CIDR")
        };
        let (a, b) = (cidr(a).trunc(), cidr(b).trunc());
        prop_assert_eq!(a == b, IpamBlock::name_of(&a) == IpamBlock::name_of(&b));
    }
}
