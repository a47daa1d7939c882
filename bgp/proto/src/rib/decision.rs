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
    address: Option<SocketAddr>,
    path_id: u32,
}

/// A step of the decision process, in the order in which they are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// Long-lived stale paths are the last choice (RFC 9494 §4.3).
    LongLivedStale,
    /// What is originated here comes before what is learned.
    Originated,
    /// The degree of preference (§9.1.1).
    LocalPref,
    /// a.
    AsPathLength,
    /// b.
    Origin,
    /// c.
    Med,
    /// d.
    External,
    /// e.
    IgpCost,
    /// f; of the originator where the path was reflected (RFC 4456 §9).
    RouterId,
    /// RFC 4456 §9.
    ClusterListLength,
    /// g.
    PeerAddress,
    /// Several paths of one peer (RFC 7911).
    PathId,
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
        Self::with_key(key, (external, igp_cost), peer_id, address, 0)
    }

    /// Like `learned`, with what the store read of the attributes.
    pub(super) fn with_key(
        key: DecisionKey,
        (external, igp_cost): (bool, u32),
        peer_id: Ipv4Addr,
        address: SocketAddr,
        path_id: u32,
    ) -> Self {
        Self {
            local: false,
            external,
            key,
            igp_cost,
            router_id: key.originator_id.unwrap_or(peer_id),
            address: Some(address),
            path_id,
        }
    }

    /// A path originated here.
    #[must_use]
    pub fn local(attributes: &PathAttributes) -> Self {
        Self::local_with_key(DecisionKey::new(attributes))
    }

    pub(super) fn local_with_key(key: DecisionKey) -> Self {
        Self {
            local: true,
            external: false,
            key,
            igp_cost: 0,
            router_id: Ipv4Addr::UNSPECIFIED,
            address: None,
            path_id: 0,
        }
    }

    /// RFC 8326 §4: a path that is about to go is the last choice among those of its kind.
    fn local_pref(&self) -> u32 {
        if self.key.shutting_down {
            return 0;
        }
        self.key.local_pref.unwrap_or(DEFAULT_LOCAL_PREF)
    }

    /// The index of the one that put this candidate out at a step, if the best of all is not it.
    pub(super) fn beaten_at(&self, step: Step, best: usize, all: &[Self]) -> Option<usize> {
        if step != Step::Med {
            return Some(best);
        }
        let beats = |other: &Self| {
            other.key.neighbour == self.key.neighbour && other.key.med < self.key.med
        };
        all.iter().position(beats)
    }

    /// What a step compares, in words for people.
    pub(super) fn value_at(&self, step: Step) -> String {
        match step {
            Step::LongLivedStale => yes_no(self.key.long_lived_stale).into(),
            Step::Originated => yes_no(self.local).into(),
            Step::LocalPref => self.local_pref().to_string(),
            Step::AsPathLength => self.key.as_path_length.to_string(),
            Step::Origin => format!("{:?}", self.key.origin).to_uppercase(),
            Step::Med => self.key.med.to_string(),
            Step::External => if self.external {
                "external"
            } else {
                "internal"
            }
            .into(),
            Step::IgpCost => self.igp_cost.to_string(),
            Step::RouterId => self.router_id.to_string(),
            Step::ClusterListLength => self.key.cluster_list_length.to_string(),
            Step::PeerAddress => self
                .address
                .map_or_else(|| "-".into(), |address| address.to_string()),
            Step::PathId => self.path_id.to_string(),
        }
    }
}

fn yes_no(value: bool) -> &'static str {
    if value { "yes" } else { "no" }
}

/// The index of the best candidate, whatever order they are in; `None` if there are none.
#[must_use]
pub fn decide(candidates: &[Candidate]) -> Option<usize> {
    outcome(candidates).map(|outcome| outcome.best)
}

/// Like [`decide_with`] for who need not know where the others lost: steps one after the other that each keep the
/// lowest are one comparison.
pub(super) fn outcome(candidates: &[Candidate]) -> Option<Outcome> {
    let before_med = |c: &Candidate| {
        let key = &c.key;
        let preference = (key.long_lived_stale, !c.local, u32::MAX - c.local_pref());
        (preference, key.as_path_length, key.origin)
    };
    let lowest = candidates.iter().map(before_med).min()?;
    let mut left: SmallVec<[usize; 16]> = SmallVec::new();
    left.extend(
        (0..)
            .zip(candidates)
            .filter_map(|(index, c)| (before_med(c) == lowest).then_some(index)),
    );
    let at = |index: usize| candidates.get(index);
    let med = |index: usize| at(index).map_or(0, |c| c.key.med);
    if left
        .iter()
        .any(|index| med(*index) != med(left.first().copied().unwrap_or_default()))
    {
        let all = left.clone();
        let neighbour = |index: usize| at(index).and_then(|c| c.key.neighbour);
        left.retain(|index| {
            let beaten =
                |other: &usize| neighbour(*other) == neighbour(*index) && med(*other) < med(*index);
            !all.iter().any(beaten)
        });
    }
    let cost = |index: &usize| at(*index).map(|c| (!c.external, c.igp_cost));
    let lowest = left.iter().map(cost).min()?;
    left.retain(|index| cost(index) == lowest);
    let best = left.iter().copied().min_by_key(|index| {
        at(*index).map(|c| (c.router_id, c.key.cluster_list_length, c.address, c.path_id))
    })?;
    Some(Outcome { best, equal: left })
}

/// The best candidate, and those as good as it up to the steps that only break ties.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) best: usize,
    /// In the order they were given; the best one is among them.
    pub(super) equal: SmallVec<[usize; 16]>,
}

/// Like [`decide`]; `lost` hears of every candidate that goes out, and at which step.
pub(super) fn decide_with(
    candidates: &[Candidate],
    lost: &mut dyn FnMut(usize, Step),
) -> Option<Outcome> {
    let mut left = Left {
        candidates: candidates.iter().enumerate().collect(),
        lost,
    };
    left.lowest(Step::LongLivedStale, |c| c.key.long_lived_stale);
    left.lowest(Step::Originated, |c| !c.local);
    left.lowest(Step::LocalPref, |c| u32::MAX - c.local_pref());
    left.lowest(Step::AsPathLength, |c| c.key.as_path_length);
    left.lowest(Step::Origin, |c| c.key.origin);
    left.lowest_med_of_each_neighbour();
    left.lowest(Step::External, |c| !c.external);
    left.lowest(Step::IgpCost, |c| c.igp_cost);
    let equal = left.candidates.iter().map(|(index, _)| *index).collect();
    left.lowest(Step::RouterId, |c| c.router_id);
    left.lowest(Step::ClusterListLength, |c| c.key.cluster_list_length);
    left.lowest(Step::PeerAddress, |c| c.address);
    left.lowest(Step::PathId, |c| c.path_id);
    let best = left.candidates.first()?.0;
    Some(Outcome { best, equal })
}

/// The best `count` candidates, the best first: each is the best of those that are left.
pub(super) fn best_of(candidates: &[Candidate], count: usize) -> SmallVec<[usize; 4]> {
    let mut left: SmallVec<[(usize, Candidate); 8]> =
        candidates.iter().copied().enumerate().collect();
    let mut best = SmallVec::new();
    while best.len() < count {
        let now: SmallVec<[Candidate; 8]> = left.iter().map(|(_, c)| *c).collect();
        let Some(next) = decide(&now) else { break };
        best.push(left.remove(next).0);
    }
    best
}

/// Those not yet eliminated.
struct Left<'a> {
    candidates: SmallVec<[(usize, &'a Candidate); 16]>,
    lost: &'a mut dyn FnMut(usize, Step),
}

impl Left<'_> {
    fn lowest<K: Ord>(&mut self, step: Step, key: impl Fn(&Candidate) -> K) {
        if self.candidates.len() > 1
            && let Some(lowest) = self.candidates.iter().map(|(_, c)| key(c)).min()
        {
            self.keep(step, |c| key(c) == lowest);
        }
    }

    /// RFC 4271 §9.1.2.2 c: a path goes if another from the same neighbour AS has a lower MED.
    fn lowest_med_of_each_neighbour(&mut self) {
        if self.candidates.len() < 2 {
            return;
        }
        let all = self.candidates.clone();
        self.keep(Step::Med, |c| {
            let beaten = |other: &Candidate| {
                other.key.neighbour == c.key.neighbour && other.key.med < c.key.med
            };
            !all.iter().any(|(_, other)| beaten(other))
        });
    }

    fn keep(&mut self, step: Step, keeps: impl Fn(&Candidate) -> bool) {
        let lost = &mut self.lost;
        self.candidates.retain(|(index, c)| {
            let keeps = keeps(c);
            if !keeps {
                lost(*index, step);
            }
            keeps
        });
    }
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

    proptest::proptest! {
        #[test]
        fn the_quick_way_decides_as_the_one_step_by_step(
            paths in proptest::collection::vec((0u32..3, 0u32..3, 98u32..101, 0u8..3, 0u16..3), 0..9)
        ) {
            let all: Vec<Candidate> = paths
                .into_iter()
                .map(|(neighbour, med, local_pref, peer, port)| {
                    candidate(&with(&[neighbour, 9], |p| {
                        p.attributes.med = Some(med);
                        p.attributes.local_pref = Some(local_pref.max(99));
                        p.external = med != 2;
                        p.igp_cost = u32::from(port % 2);
                        p.peer_id = [peer; 4];
                        p.port = port;
                    }))
                })
                .collect();
            proptest::prop_assert_eq!(outcome(&all), decide_with(&all, &mut |_, _| {}));
        }
    }

    #[test]
    fn nothing_is_best_of_nothing() {
        assert_eq!(decide(&[]), None);
    }
}
