//! Sets of next hops, each held once; and the weights of unequal links.

use std::net::IpAddr;

use hashbrown::HashMap;
use rustc_hash::FxSeededState;
use smallvec::SmallVec;

use super::hash::Seed;

/// Where packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NextHop {
    /// The gateway.
    pub address: IpAddr,
    /// The interface it is on, by index; always given for a link-local address of an unnumbered session.
    pub link: Option<u32>,
    /// Its share of the traffic among those of its prefix.
    pub weight: u8,
}

/// The next hops of one prefix, in order.
pub type NextHops = SmallVec<[NextHop; 1]>;

/// All sets that prefixes have; id 0 is the empty one.
#[derive(Debug)]
pub(super) struct NextHopSets {
    sets: Vec<(NextHops, u32)>,
    free: Vec<u32>,
    ids: HashMap<NextHops, u32, FxSeededState>,
    last: u32,
}

impl NextHopSets {
    pub(super) fn new(seed: Seed) -> Self {
        Self {
            sets: vec![(NextHops::new(), 0)],
            free: Vec::new(),
            ids: HashMap::with_hasher(FxSeededState::with_seed(seed.word(1) as usize)),
            last: 0,
        }
    }

    pub(super) fn get(&self, id: u32) -> &[NextHop] {
        self.sets.get(id as usize).map_or(&[], |(set, _)| set)
    }

    /// The id of a set, held once more.
    pub(super) fn hold(&mut self, set: &NextHops) -> u32 {
        if set.is_empty() {
            return 0;
        }
        if self.get(self.last) != set.as_slice() {
            self.last = match self.ids.get(set) {
                Some(id) => *id,
                None => self.add(set.clone()),
            };
        }
        if let Some((_, holders)) = self.sets.get_mut(self.last as usize) {
            *holders += 1;
        }
        self.last
    }

    pub(super) fn release(&mut self, id: u32) {
        if id == 0 {
            return;
        }
        let Some((set, holders)) = self.sets.get_mut(id as usize) else {
            return;
        };
        *holders -= 1;
        if *holders == 0 {
            self.ids.remove(set);
            set.clear();
            self.free.push(id);
        }
    }

    fn add(&mut self, set: NextHops) -> u32 {
        let id = match self.free.pop() {
            Some(id) => id,
            None => {
                self.sets.push((NextHops::new(), 0));
                u32::try_from(self.sets.len() - 1).expect("fewer sets than ids")
            }
        };
        if let Some(place) = self.sets.get_mut(id as usize) {
            place.0 = set.clone();
        }
        self.ids.insert(set, id);
        id
    }
}

/// The link bandwidth of extended communities, in octets a second (draft-ietf-idr-link-bandwidth §3).
pub(super) fn bandwidth(extended_communities: &[u64]) -> Option<f32> {
    extended_communities.iter().find_map(|community| {
        let bandwidth = f32::from_bits(*community as u32);
        let is_one = matches!(community >> 48, 0x4004 | 0x0004);
        (is_one && bandwidth.is_finite() && bandwidth > 0.0).then_some(bandwidth)
    })
}

/// Weights in proportion to bandwidths, in smallest terms; all 1 unless every link has a bandwidth.
pub(super) fn weights(bandwidths: &[Option<f32>]) -> SmallVec<[u8; 4]> {
    let known: Option<SmallVec<[f32; 4]>> = bandwidths.iter().copied().collect();
    let Some(known) = known else {
        return bandwidths.iter().map(|_| 1).collect();
    };
    let widest = known.iter().copied().fold(f32::MIN_POSITIVE, f32::max);
    // A share of what an octet can say; the cast saturates.
    let mut weights: SmallVec<[u8; 4]> = known
        .iter()
        .map(|bandwidth| ((bandwidth / widest * 255.0).round() as u8).max(1))
        .collect();
    let common = weights.iter().copied().fold(0, greatest_common_divisor);
    for weight in &mut weights {
        *weight /= common.max(1);
    }
    weights
}

fn greatest_common_divisor(one: u8, other: u8) -> u8 {
    if other == 0 {
        one
    } else {
        greatest_common_divisor(other, one % other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(last: &[u8]) -> NextHops {
        let hop = |last: &u8| NextHop {
            address: [10, 0, 0, *last].into(),
            link: None,
            weight: 1,
        };
        last.iter().map(hop).collect()
    }

    #[test]
    fn equal_sets_have_one_id_while_somebody_holds_them() {
        let mut sets = NextHopSets::new(Seed::new(1));
        let one = sets.hold(&set(&[1]));
        let two = sets.hold(&set(&[1, 2]));
        assert_eq!(sets.hold(&set(&[1])), one);
        assert_ne!(one, two);
        assert_eq!(sets.hold(&set(&[])), 0);
        sets.release(one);
        assert_eq!(sets.get(one), set(&[1]).as_slice());
        sets.release(one);
        assert_eq!(sets.hold(&set(&[3])), one, "free again");
        assert_eq!(sets.hold(&set(&[1, 2])), two);
    }

    #[test]
    fn weights_are_in_proportion_only_if_all_are_known() {
        let gigabit = |n: f32| Some(n * 125_000_000.0);
        assert_eq!(weights(&[gigabit(10.0), gigabit(10.0)])[..], [1, 1]);
        assert_eq!(weights(&[gigabit(10.0), gigabit(40.0)])[..], [64, 255]);
        assert_eq!(weights(&[gigabit(1.0), gigabit(3.0)])[..], [1, 3]);
        assert_eq!(weights(&[gigabit(10.0), None])[..], [1, 1]);
        assert_eq!(weights(&[gigabit(0.001), gigabit(100.0)])[..], [1, 255]);
    }

    #[test]
    fn link_bandwidth_is_read_transitive_or_not() {
        let value = u64::from(1.25e9f32.to_bits());
        for kind in [0x4004_u64, 0x0004] {
            let community = kind << 48 | 64_512 << 32 | value;
            assert_eq!(bandwidth(&[7, community]), Some(1.25e9));
        }
        assert_eq!(bandwidth(&[0x0002 << 48 | value]), None, "a route target");
        assert_eq!(bandwidth(&[0x4004 << 48]), None, "zero is no bandwidth");
    }
}
