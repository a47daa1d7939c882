//! The newest denied packets, numbered; older ones make room.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Mutex;

use serde::{Deserialize, Serialize};

/// So many are kept.
pub(super) const KEPT: usize = 1_000;

/// A denied packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Dropped {
    /// Its number since the agent started.
    pub(crate) number: u64,
    /// Microseconds since 1970.
    pub(crate) time_micros: u64,
    /// The policies that denied it, or none of which allowed it; empty where that is not known any more.
    pub(crate) policies: Vec<String>,
    /// `ingress` or `egress`, seen from the pod that is policed.
    pub(crate) direction: String,
    /// The chain that dropped it.
    pub(crate) chain: String,
    /// By which interface it came.
    pub(crate) input: Option<String>,
    /// By which it was to leave.
    pub(crate) output: Option<String>,
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    /// The pod with the source address, as `namespace/name`.
    pub(crate) from_pod: Option<String>,
    /// The pod with the destination address.
    pub(crate) to_pod: Option<String>,
    /// `tcp`, `udp`, `sctp`, `icmp`, `icmpv6` or a number.
    pub(crate) protocol: String,
    pub(crate) source_port: Option<u16>,
    pub(crate) destination_port: Option<u16>,
}

/// What `portolan policy drops` is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct DropsAnswer {
    /// The number to ask from next.
    pub(crate) next: u64,
    /// Those asked for that have made room since.
    pub(crate) missed: u64,
    /// Those that the kernel could not hand over, since the agent started.
    pub(crate) lost: u64,
    /// In their order.
    pub(crate) packets: Vec<Dropped>,
}

/// What the metrics count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DropsReport {
    /// Denied packets seen; the kernel shows no more than the rate.
    pub(crate) seen: u64,
    /// Those that the kernel could not hand over.
    pub(crate) lost: u64,
}

/// Shared by the task, which adds, and the core, which answers.
#[derive(Debug, Default)]
pub(crate) struct Ring(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    packets: VecDeque<Dropped>,
    next: u64,
    lost: u64,
}

impl Ring {
    /// Adds a packet and numbers it; `lost` is how many were lost in all.
    pub(super) fn push(&self, packet: Dropped, lost: u64) {
        let mut kept = self.lock();
        let number = kept.next;
        kept.next += 1;
        kept.lost = lost;
        if kept.packets.len() == KEPT {
            kept.packets.pop_front();
        }
        kept.packets.push_back(Dropped { number, ..packet });
    }

    /// Those with a number from `since` on.
    pub(super) fn since(&self, since: u64) -> DropsAnswer {
        let kept = self.lock();
        let oldest = kept
            .packets
            .front()
            .map_or(kept.next, |packet| packet.number);
        let wanted = kept.packets.iter().filter(|packet| packet.number >= since);
        DropsAnswer {
            next: kept.next,
            missed: oldest.saturating_sub(since),
            lost: kept.lost,
            packets: wanted.cloned().collect(),
        }
    }

    /// What the metrics count.
    pub(crate) fn report(&self) -> DropsReport {
        let kept = self.lock();
        DropsReport {
            seen: kept.next,
            lost: kept.lost,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Kept> {
        // Nothing that holds it can panic half way; what is in it is whole.
        self.0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::drops) fn example() -> Dropped {
        Dropped {
            number: 0,
            time_micros: 1_700_000_000_250_000,
            policies: vec!["NetworkPolicy shop/db-only-from-web".to_owned()],
            direction: "ingress".to_owned(),
            chain: "PTL-GI-0123".to_owned(),
            input: Some("eth0".to_owned()),
            output: Some("ptl1".to_owned()),
            source: "10.0.0.1".parse().unwrap(),
            destination: "fd00::2".parse().unwrap(),
            from_pod: None,
            to_pod: Some("shop/db".to_owned()),
            protocol: "tcp".to_owned(),
            source_port: Some(40_000),
            destination_port: Some(5432),
        }
    }

    #[test]
    fn the_newest_thousand_are_kept_and_the_others_counted_as_missed() {
        let ring = Ring::default();
        for _ in 0..KEPT + 7 {
            ring.push(example(), 3);
        }
        let answer = ring.since(0);
        assert_eq!(
            (answer.missed, answer.packets.len(), answer.next),
            (7, KEPT, 1_007)
        );
        assert_eq!(answer.packets[0].number, 7);
        let answer = ring.since(answer.next);
        assert_eq!((answer.missed, answer.packets.len()), (0, 0));
        ring.push(example(), 4);
        assert_eq!(ring.since(answer.next).packets[0].number, 1_007);
        assert_eq!(
            ring.report(),
            DropsReport {
                seen: 1_008,
                lost: 4
            }
        );
    }
}
