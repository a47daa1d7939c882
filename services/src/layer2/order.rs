//! In which order nodes come for an address: rendezvous hashing, so that nodes that come and go change nothing for addresses of others.

use std::net::IpAddr;

use sha2::{Digest as _, Sha256};

/// The nodes, the first one first. Every node comes to the same, and each address to another order.
pub fn order<'a>(address: IpAddr, nodes: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let mut ranked: Vec<_> = nodes
        .into_iter()
        .map(|node| (weight(address, node), node))
        .collect();
    ranked.sort();
    ranked.dedup();
    ranked
        .into_iter()
        .map(|(_, node)| node.to_owned())
        .collect()
}

fn weight(address: IpAddr, node: &str) -> Vec<u8> {
    let hash = Sha256::new()
        .chain_update(address.to_string())
        .chain_update([0]);
    hash.chain_update(node).finalize().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_spread_and_a_node_that_goes_moves_only_its_own() {
        let nodes = ["n1", "n2", "n3", "n4"];
        let mut first = [0; 4];
        for last in 0..=255 {
            let address = IpAddr::from([192, 0, 2, last]);
            let all = order(address, nodes);
            let holder = nodes.iter().position(|node| *node == all[0]).unwrap();
            first[holder] += 1;
            for gone in nodes {
                let left = order(address, nodes.into_iter().filter(|node| *node != gone));
                let expected: Vec<_> = all.iter().filter(|node| *node != gone).cloned().collect();
                assert_eq!(left, expected);
            }
        }
        assert!(
            first.iter().all(|count| (40..90).contains(count)),
            "{first:?}"
        );
    }
}
