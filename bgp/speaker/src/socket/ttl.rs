//! Which TTL packets bear and must bear: how far a session may reach.

use std::num::NonZeroU8;

/// The TTL (IPv4) or hop limit (IPv6) of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ttl {
    /// Packets are sent with this one; what comes in may have any.
    Hops(NonZeroU8),
    /// GTSM (RFC 5082): sent with 255, and nothing is taken that crossed as many routers as this or more, so 1 means
    /// a neighbour on the link.
    Security(NonZeroU8),
}

/// What internal peers get: the kernel's own default.
const FAR: NonZeroU8 = NonZeroU8::new(64).expect("64 is not 0");

impl Ttl {
    /// What a peer gets: GTSM if asked for, else as many hops as `multihop` says, else one for an external peer
    /// (RFC 4271 §5.1.3: it shares a link with us) and 64 for an internal one.
    #[must_use]
    pub fn of_peer(
        external: bool,
        multihop: Option<NonZeroU8>,
        ttl_security: Option<NonZeroU8>,
    ) -> Self {
        let default = if external { NonZeroU8::MIN } else { FAR };
        match ttl_security {
            Some(hops) => Self::Security(hops),
            None => Self::Hops(multihop.unwrap_or(default)),
        }
    }

    /// With which TTL packets leave.
    pub(super) fn sent(self) -> u8 {
        match self {
            Self::Hops(hops) => hops.get(),
            Self::Security(_) => u8::MAX,
        }
    }

    /// The lowest TTL taken; 0: any.
    pub(super) fn lowest(self) -> u8 {
        match self {
            Self::Hops(_) => 0,
            Self::Security(hops) => u8::MAX - (hops.get() - 1),
        }
    }
}

impl Default for Ttl {
    fn default() -> Self {
        Self::Hops(FAR)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn security_of_one_hop_takes_255_only() {
        let one = Ttl::Security(NonZeroU8::MIN);
        assert_eq!((one.sent(), one.lowest()), (255, 255));
        let all = Ttl::Security(NonZeroU8::MAX);
        assert_eq!((all.sent(), all.lowest()), (255, 1));
    }

    #[test]
    fn an_external_peer_is_one_hop_away_unless_told_otherwise() {
        let three = NonZeroU8::new(3);
        assert_eq!(Ttl::of_peer(true, None, None).sent(), 1);
        assert_eq!(Ttl::of_peer(true, three, None).sent(), 3);
        assert_eq!(Ttl::of_peer(false, None, None).sent(), 64);
        assert_eq!(Ttl::of_peer(false, None, three).lowest(), 253);
    }
}
