//! The decision process by elimination (RFC 4271 §9.1.2.2); not an order, because MED compares only within a neighbour AS.

use std::net::{Ipv4Addr, SocketAddr};

use smallvec::SmallVec;

use super::attributes::DecisionKey;
use crate::wire::PathAttributes;

/// LOCAL_PREF where a peer of our own AS sent none, and for every path of an external peer (RFC 4271 §5.1.5).
pub(super) const DEFAULT_LOCAL_PREF: u32 = 100;

/// A usable path to one prefix, as the decision process sees it.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// Originated here: comes before anything learned.
    local: bool,
    external: bool,
    key: DecisionKey,
    igp_cost: u32,
    router_id: Ipv4Addr,
    cluster_list_length: usize,
    address: Option<SocketAddr>,
}

impl Candidate {
    /// A path learned from the peer at `address`; `external` if it is in another AS.
    #[must_use]
    pub fn learned(
        attributes: &PathAttributes,
        external: bool,
        igp_cost: u32,
        peer_id: Ipv4Addr,
        address: SocketAddr,
    ) -> Self {
        let key = DecisionKey::new(attributes);
        Self::with_key(attributes, key, (external, igp_cost), peer_id, address)
    }

    /// Like `learned`, with the key that was computed when the attributes were interned.
    pub(super) fn with_key(
        attributes: &PathAttributes,
        key: DecisionKey,
        (external, igp_cost): (bool, u32),
        peer_id: Ipv4Addr,
        address: SocketAddr,
    ) -> Self {
        Self {
            local: false,
            external,
            key,
            igp_cost,
            // RFC 4456 §9: a reflected route is judged by who originated it.
            router_id: attributes.originator_id.unwrap_or(peer_id),
            cluster_list_length: attributes.cluster_list.len(),
            address: Some(address),
        }
    }

    /// A path originated here.
    #[must_use]
    pub fn local(attributes: &PathAttributes) -> Self {
        Self {
            local: true,
            external: false,
            key: DecisionKey::new(attributes),
            igp_cost: 0,
            router_id: Ipv4Addr::UNSPECIFIED,
            cluster_list_length: 0,
            address: None,
        }
    }

    fn local_pref(&self) -> u32 {
        match self.key.local_pref {
            Some(value) if !self.external => value,
            _ => DEFAULT_LOCAL_PREF,
        }
    }
}

/// The index of the best candidate, whatever order they are in; `None` if there are none.
#[must_use]
pub fn decide(candidates: &[Candidate]) -> Option<usize> {
    let mut left: Survivors<'_> = candidates.iter().enumerate().collect();
    if left.len() > 1 {
        keep_lowest(&mut left, |c| !c.local);
        keep_lowest(&mut left, |c| u32::MAX - c.local_pref());
        keep_lowest(&mut left, |c| c.key.as_path_length);
        keep_lowest(&mut left, |c| c.key.origin);
        keep_lowest_med_of_each_neighbour(&mut left);
        keep_lowest(&mut left, |c| !c.external);
        keep_lowest(&mut left, |c| c.igp_cost);
        keep_lowest(&mut left, |c| c.router_id);
        keep_lowest(&mut left, |c| c.cluster_list_length);
        keep_lowest(&mut left, |c| c.address);
    }
    left.first().map(|(index, _)| *index)
}

type Survivors<'a> = SmallVec<[(usize, &'a Candidate); 8]>;

fn keep_lowest<K: Ord>(left: &mut Survivors<'_>, key: impl Fn(&Candidate) -> K) {
    if left.len() > 1
        && let Some(lowest) = left.iter().map(|(_, c)| key(c)).min()
    {
        left.retain(|(_, c)| key(c) == lowest);
    }
}

/// RFC 4271 §9.1.2.2 c: a path goes if another from the same neighbour AS has a lower MED.
fn keep_lowest_med_of_each_neighbour(left: &mut Survivors<'_>) {
    if left.len() < 2 {
        return;
    }
    let all = left.clone();
    left.retain(|(_, c)| {
        !all.iter()
            .any(|(_, other)| other.key.neighbour == c.key.neighbour && other.key.med < c.key.med)
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rib::tests::fixtures::attributes;
    use crate::wire::Origin;

    struct Path {
        attributes: PathAttributes,
        external: bool,
        igp_cost: u32,
        peer_id: [u8; 4],
        port: u16,
    }

    fn path(asns: &[u32]) -> Path {
        Path {
            attributes: attributes(asns),
            external: true,
            igp_cost: 0,
            peer_id: [9; 4],
            port: 9,
        }
    }

    fn with(asns: &[u32], change: impl FnOnce(&mut Path)) -> Path {
        let mut path = path(asns);
        change(&mut path);
        path
    }

    fn candidate(path: &Path) -> Candidate {
        Candidate::learned(
            &path.attributes,
            path.external,
            path.igp_cost,
            path.peer_id.into(),
            SocketAddr::from(([10, 0, 0, 1], path.port)),
        )
    }

    /// Each row: the step it shows, the winner, the loser; every later step is in the loser's favour.
    fn steps() -> Vec<(&'static str, Path, Path)> {
        let worst = |asns: &[u32]| {
            with(asns, |p| {
                p.igp_cost = 9;
                p.peer_id = [99; 4];
                p.port = 99;
            })
        };
        let internal = |p: &mut Path| p.external = false;
        vec![
            (
                "local-pref",
                with(&[1, 2, 3], |p| {
                    internal(p);
                    p.attributes.local_pref = Some(200);
                }),
                with(&[1], |p| {
                    internal(p);
                    p.attributes.local_pref = Some(199);
                }),
            ),
            ("default local-pref is 100", worst(&[1, 2]), {
                with(&[1], |p| {
                    internal(p);
                    p.attributes.local_pref = Some(99);
                })
            }),
            (
                "as-path length",
                with(&[1], |p| p.attributes.origin = Origin::Incomplete),
                path(&[1, 2]),
            ),
            (
                "origin",
                with(&[1], |p| p.attributes.med = Some(5)),
                with(&[1], |p| p.attributes.origin = Origin::Egp),
            ),
            (
                "med",
                with(&[1], internal),
                with(&[1], |p| p.attributes.med = Some(1)),
            ),
            ("external", worst(&[2]), with(&[1], internal)),
            (
                "igp cost",
                with(&[1], |p| p.peer_id = [99; 4]),
                with(&[2], |p| p.igp_cost = 1),
            ),
            (
                "originator id before router id",
                with(&[1], |p| {
                    p.peer_id = [99; 4];
                    p.attributes.originator_id = Some([1; 4].into());
                    p.attributes.cluster_list = vec![[1; 4].into()];
                }),
                with(&[2], |p| p.peer_id = [2; 4]),
            ),
            (
                "cluster list length",
                with(&[1], |p| p.port = 99),
                with(&[2], |p| p.attributes.cluster_list = vec![[1; 4].into()]),
            ),
            (
                "peer address",
                with(&[1], |p| p.port = 1),
                with(&[2], |p| p.port = 2),
            ),
        ]
    }

    #[test]
    fn each_step_decides_when_all_before_it_are_equal() {
        for (step, winner, loser) in steps() {
            let (winner, loser) = (candidate(&winner), candidate(&loser));
            assert_eq!(decide(&[winner, loser]), Some(0), "{step}");
            assert_eq!(
                decide(&[loser, winner]),
                Some(1),
                "{step}, the other way round"
            );
        }
    }

    #[test]
    fn what_is_originated_here_comes_before_anything_learned() {
        let learned = with(&[], |p| {
            p.external = false;
            p.attributes.local_pref = Some(1_000);
        });
        let local = Candidate::local(&attributes(&[]));
        assert_eq!(decide(&[candidate(&learned), local]), Some(1));
    }

    #[test]
    fn med_is_not_compared_between_neighbours_and_order_does_not_matter() {
        // The classic of RFC 4451 §3.1: pairwise comparison would go round in a circle.
        let a = with(&[1], |p| {
            p.attributes.med = Some(10);
            p.peer_id = [1; 4];
        });
        let b = with(&[1], |p| {
            p.attributes.med = Some(5);
            p.peer_id = [3; 4];
        });
        let c = with(&[2], |p| {
            p.attributes.med = Some(100);
            p.peer_id = [2; 4];
        });
        let all = [candidate(&a), candidate(&b), candidate(&c)];
        for order in [
            [0, 1, 2],
            [0, 2, 1],
            [1, 0, 2],
            [1, 2, 0],
            [2, 0, 1],
            [2, 1, 0],
        ] {
            let shuffled: Vec<_> = order.iter().map(|&i| all[i]).collect();
            assert_eq!(order[decide(&shuffled).unwrap()], 2);
        }
    }

    #[test]
    fn nothing_is_best_of_nothing() {
        assert_eq!(decide(&[]), None);
    }
}
