//! Which of two connections with one peer survives (RFC 4271 §6.8, RFC 6286 §2.3), decided so that both ends agree.
//!
//! The loser is only closed on evidence that the winner works at the other end too: an OPEN that came in on it. The
//! end that sent this OPEN decides by the same rule, so it never closes the winner. Where we have sent our OPEN on a
//! winner that is still silent, the loser may go on but does not make the peer commit itself to it.

use std::net::Ipv4Addr;

use super::connection::Phase;
use super::output::Direction;
use crate::wire::Asn;

/// What to do with the connection on which an OPEN has come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Go on, whatever the other does.
    Proceed,
    /// Go on, but hold back the KEEPALIVE: the other connection should win.
    Yield,
    /// Go on and close the other with Cease, Connection Collision Resolution.
    CloseOther,
    /// Close this one with Cease, Connection Collision Resolution.
    CloseThis,
}

/// The connection that wins: the one dialled by the end with the higher BGP Identifier, then the higher AS.
pub(super) fn winner(local: (Ipv4Addr, Asn), peer: (Ipv4Addr, Asn)) -> Direction {
    let rank = |(id, asn): (Ipv4Addr, Asn)| (u32::from(id), asn);
    if rank(local) > rank(peer) {
        Direction::Outgoing
    } else {
        Direction::Incoming
    }
}

/// Judges a connection in phase `this` on which an OPEN came in, beside another in phase `other`. `restartable` says
/// that the Established one was told of Graceful Restart, so that a new OPEN means a restarted peer (RFC 4724 §5).
pub(super) fn judge(this: Phase, wins: bool, other: Option<Phase>, restartable: bool) -> Verdict {
    match other {
        None | Some(Phase::Tracked) => Verdict::Proceed,
        Some(Phase::OpenSent | Phase::OpenConfirm) if wins => Verdict::CloseOther,
        Some(Phase::OpenSent) => Verdict::Yield,
        Some(Phase::OpenConfirm) => Verdict::CloseThis,
        Some(Phase::Established) => {
            // Tracked: we sent no OPEN here, so the peer cannot have chosen it over the Established one.
            let goes_on = if this == Phase::Tracked {
                restartable
            } else {
                wins
            };
            if goes_on {
                Verdict::Proceed
            } else {
                Verdict::CloseThis
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wins(local: [u8; 4], local_as: u32, peer: [u8; 4], peer_as: u32) -> Direction {
        winner((local.into(), Asn(local_as)), (peer.into(), Asn(peer_as)))
    }

    #[test]
    fn identifiers_are_compared_as_unsigned_numbers() {
        assert_eq!(
            wins([10, 0, 0, 2], 1, [9, 255, 255, 255], 2),
            Direction::Outgoing
        );
        assert_eq!(
            wins([10, 0, 0, 2], 1, [200, 0, 0, 1], 2),
            Direction::Incoming
        );
        assert_eq!(
            wins([128, 0, 0, 0], 1, [127, 255, 255, 255], 2),
            Direction::Outgoing
        );
    }

    #[test]
    fn equal_identifiers_leave_it_to_the_higher_as() {
        assert_eq!(
            wins([1, 1, 1, 1], 70_000, [1, 1, 1, 1], 65_000),
            Direction::Outgoing
        );
        assert_eq!(
            wins([1, 1, 1, 1], 65_000, [1, 1, 1, 1], 70_000),
            Direction::Incoming
        );
    }

    #[test]
    fn both_ends_name_the_same_connection() {
        for (a, b) in [([1, 0, 0, 1], [1, 0, 0, 2]), ([255, 0, 0, 1], [1, 0, 0, 2])] {
            assert_eq!(wins(a, 1, b, 2), wins(b, 2, a, 1).other());
        }
    }

    #[test]
    fn the_table_of_verdicts() {
        use Phase::{Established, OpenConfirm, OpenSent, Tracked};
        use Verdict::{CloseOther, CloseThis, Proceed, Yield};
        let rows = [
            (OpenSent, true, None, false, Proceed),
            (OpenSent, false, None, false, Proceed),
            (OpenSent, true, Some(OpenSent), false, CloseOther),
            (OpenSent, false, Some(OpenSent), false, Yield),
            (OpenSent, true, Some(OpenConfirm), false, CloseOther),
            (OpenSent, false, Some(OpenConfirm), false, CloseThis),
            (OpenSent, true, Some(Established), false, Proceed),
            (OpenSent, false, Some(Established), false, CloseThis),
            (OpenSent, false, Some(Established), true, CloseThis),
            (Tracked, true, Some(Established), false, CloseThis),
            (Tracked, false, Some(Established), false, CloseThis),
            (Tracked, true, Some(Established), true, Proceed),
            (Tracked, false, Some(Established), true, Proceed),
        ];
        for (this, wins, other, restartable, verdict) in rows {
            assert_eq!(
                judge(this, wins, other, restartable),
                verdict,
                "{this:?} {wins} {other:?}"
            );
        }
    }
}
