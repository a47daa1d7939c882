//! Whether packets as large as the pod's interface takes get there, too.

use std::collections::BTreeSet;

use super::super::catalog::MTU;
use super::super::evidence::{Evidence, Purpose};
use super::super::packet::{IcmpError, Kind, Transport};
use super::super::watch::Place;
use super::{Step, Walk};

pub(super) fn judge(walk: &mut Walk<'_>) -> Step {
    let e = walk.evidence;
    let sizes: Vec<(u16, usize)> = e
        .sent
        .iter()
        .filter_map(|sent| match sent.purpose {
            Purpose::Size(size) => Some((sent.number, size)),
            Purpose::Reach | Purpose::Hops(_) => None,
        })
        .collect();
    let Some((first, largest)) = sizes.first().copied() else {
        return Step::On;
    };
    let answered = answered(e);
    if answered.contains(&first) {
        walk.passed(
            walk.target(),
            format!("packets of {largest} octets get there, too"),
        );
        return Step::Reached;
    }
    let passed = sizes
        .iter()
        .filter(|(number, _)| answered.contains(number))
        .map(|(_, size)| *size)
        .max();
    let said = e.sightings.iter().find_map(|one| match one.seen.kind {
        Kind::Error {
            number,
            error: IcmpError::TooLarge(mtu),
        } if sizes.iter().any(|(of, _)| *of == number) => Some((one.seen.from, mtu)),
        _ => None,
    });
    let least = passed.map_or_else(String::new, |size| format!("; {size} octets pass"));
    let agent = |mtu: String| format!("start the agents with --mtu {mtu}, or widen that link");
    match said {
        Some((from, mtu)) => MTU
            .at(
                format!("router {from}"),
                format!("{from} says that its next link takes {mtu} octets, the pod sends {largest}{least}"),
                "a link on the way is narrower than this node's; connections live on only where that word comes back",
                agent(mtu.to_string()),
            )
            .into(),
        // Programs need not answer a datagram of that length, or data in a SYN.
        None if e.ends.transport == Transport::Udp || passed.is_none() => {
            walk.passed(walk.target(), format!("whether {largest} octets get there is not answered"));
            Step::Reached
        }
        None => MTU
            .at(
                walk.target(),
                format!("{largest} octets vanish without a word{least}"),
                "a link on the way is narrower than this node's, and nobody says so (a tunnel, or ICMP is filtered): connections hang \
                 once there is much to send",
                agent(passed.map_or_else(|| "BYTES".to_owned(), |size| size.to_string())),
            )
            .into(),
    }
}

/// The probes that the target answered.
fn answered(e: &Evidence) -> BTreeSet<u16> {
    let here = e.sightings.iter().filter(|one| one.place == Place::Source);
    here.filter_map(|one| match one.seen.kind {
        Kind::Accepted(number) | Kind::Refused(number) => Some(number),
        Kind::Answered(number) => number,
        Kind::Error {
            number,
            error: IcmpError::PortClosed,
        } => Some(number),
        Kind::Probe(_) | Kind::Error { .. } => None,
    })
    .collect()
}
