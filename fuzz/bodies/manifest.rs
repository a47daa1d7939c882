//! What must hold of reading an object of a manifest, for any JSON; run by libFuzzer, and on stable over the committed corpus.

use api::resources::{
    ClusterNetworkPolicy, ClusterPeer, ClusterPort, ClusterSubject, IpPool, IpamBlock, Peer,
    PolicyRule, PortMatch,
};
use api::{Resource, parse};
use serde_json::Value;

/// Reads the bytes as one object. Panics when something does not hold.
pub fn check(data: &[u8]) {
    let Ok(value) = serde_json::from_slice::<Value>(data) else {
        return;
    };
    let field = |name| value.get(name).and_then(Value::as_str).unwrap_or_default();
    let (kind, api_version) = (field("kind").to_owned(), field("apiVersion").to_owned());
    let first = parse(&kind, &api_version, value.clone());
    assert_eq!(first, parse(&kind, &api_version, value), "the same again");
    match first {
        Err(error) => check_text(&error.to_string()),
        Ok(None) => {}
        Ok(Some((key, resource))) => {
            check_text(&key.to_string());
            match resource {
                Resource::ClusterNetworkPolicy(policy) => check_cluster(&policy),
                Resource::NetworkPolicy(policy) => {
                    let rules = policy.ingress.iter().chain(&policy.egress);
                    rules.flatten().for_each(check_rule);
                }
                Resource::IpPool(pool) => check_pool(&pool),
                Resource::IpamBlock(block) => {
                    assert_eq!(IpamBlock::try_from(block.manifest()), Ok(block));
                }
                _ => {}
            }
        }
    }
}

/// The first and the last block are blocks of the pool, and there is none behind.
fn check_pool(pool: &IpPool) {
    for number in [0, pool.block_count() - 1] {
        assert!(
            pool.block(number)
                .is_some_and(|block| pool.has_block(&block))
        );
    }
    assert_eq!(pool.block(pool.block_count()), None);
}

/// A message is one line, and steers no terminal.
fn check_text(text: &str) {
    assert!(!text.contains(char::is_control), "{text:?}");
}

/// An empty list would mean everybody.
fn check_rule(rule: &PolicyRule) {
    assert!(rule.peers.as_ref().is_none_or(|peers| !peers.is_empty()));
    assert!(rule.ports.as_ref().is_none_or(|ports| !ports.is_empty()));
    for peer in rule.peers.iter().flatten() {
        match peer {
            Peer::Unsupported(why) => check_text(why),
            Peer::IpBlock(block) => {
                assert_eq!(block.cidr, block.cidr.trunc());
                assert!(block.except.iter().all(|net| block.cidr.contains(net)));
            }
            Peer::Pods { .. } => {}
        }
    }
    for port in rule.ports.iter().flatten() {
        match &port.port {
            PortMatch::Unsupported(why) => check_text(why),
            PortMatch::Range(first, last) => assert!(0 < *first && first <= last),
            PortMatch::Named(_) | PortMatch::Any => {}
        }
    }
}

fn check_cluster(policy: &ClusterNetworkPolicy) {
    assert!(policy.priority <= 1000);
    assert!(policy.ingress.len() <= 25 && policy.egress.len() <= 25);
    if let ClusterSubject::Unsupported(why) = &policy.subject {
        check_text(why);
    }
    for rule in policy.ingress.iter().chain(&policy.egress) {
        assert!((1..=25).contains(&rule.peers.len()));
        for peer in &rule.peers {
            match peer {
                ClusterPeer::Unsupported(why) => check_text(why),
                ClusterPeer::Networks(nets) => {
                    assert!((1..=25).contains(&nets.len()));
                    assert!(nets.iter().all(|net| *net == net.trunc()));
                }
                ClusterPeer::DomainNames(names) => assert!((1..=25).contains(&names.len())),
                ClusterPeer::Pods(_) | ClusterPeer::Nodes(_) => {}
            }
        }
        let ports = rule.protocols.iter();
        assert!(ports.clone().all(|ports| (1..=25).contains(&ports.len())));
        for port in ports.flatten() {
            match port {
                ClusterPort::Unsupported(why) => check_text(why),
                ClusterPort::Port(port) => match port.port {
                    PortMatch::Range(first, last) => assert!(0 < first && first <= last),
                    _ => panic!("{port:?}"),
                },
                ClusterPort::Named(name) => assert!(name.len() <= 15),
            }
        }
    }
    let only_pods =
        |peer: &ClusterPeer| matches!(peer, ClusterPeer::Pods(_) | ClusterPeer::Unsupported(_));
    assert!(
        policy
            .ingress
            .iter()
            .all(|rule| rule.peers.iter().all(only_pods))
    );
}
