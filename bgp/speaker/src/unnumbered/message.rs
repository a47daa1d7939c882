//! The two messages of neighbour discovery that are spoken here (RFC 4861 §4.1, §4.2), without their checksums.

use std::net::Ipv6Addr;

const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
/// What a packet that no router has forwarded bears.
const HOP_LIMIT: u8 = 255;
const SOLICITATION_LEN: usize = 8;
const ADVERTISEMENT_LEN: usize = 16;

/// A message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// Somebody asks for advertisements.
    Solicitation,
    /// Somebody is a router, or says so.
    Advertisement,
}

impl Message {
    /// Its octets. The kernel puts in the checksum.
    pub(super) fn encode(self) -> &'static [u8] {
        match self {
            Self::Solicitation => &[ROUTER_SOLICITATION, 0, 0, 0, 0, 0, 0, 0],
            // Hop limit unspecified, no flags, router lifetime 0, reachable time and retransmission timer unspecified.
            Self::Advertisement => &[
                ROUTER_ADVERTISEMENT,
                0,
                0,
                0,
                0,
                0,
                0,
                0,
                0,
                0,
                0,
                0,
                0,
                0,
                0,
                0,
            ],
        }
    }

    /// A valid message (RFC 4861 §6.1.1, §6.1.2) from a neighbour. The kernel has checked the checksum.
    pub(super) fn decode(octets: &[u8], from: Ipv6Addr, hop_limit: u8) -> Option<Self> {
        if hop_limit != HOP_LIMIT {
            return None;
        }
        let (message, len) = match octets {
            [ROUTER_SOLICITATION, 0, ..] => (Self::Solicitation, SOLICITATION_LEN),
            [ROUTER_ADVERTISEMENT, 0, ..] => (Self::Advertisement, ADVERTISEMENT_LEN),
            _ => return None,
        };
        let from_whom = match message {
            Self::Solicitation => from.is_unspecified() || from.is_unicast_link_local(),
            Self::Advertisement => from.is_unicast_link_local(),
        };
        (from_whom && options_are_whole(octets.get(len..)?)).then_some(message)
    }
}

/// Type, length in units of 8 octets (0 is invalid), the rest.
fn options_are_whole(mut options: &[u8]) -> bool {
    while let &[_, units, ..] = options {
        let len = usize::from(units) * 8;
        match options.get(len..) {
            Some(rest) if len > 0 => options = rest,
            _ => return false,
        }
    }
    options.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEIGHBOUR: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

    #[test]
    fn what_is_sent_is_understood() {
        for message in [Message::Solicitation, Message::Advertisement] {
            assert_eq!(
                Message::decode(message.encode(), NEIGHBOUR, 255),
                Some(message)
            );
        }
    }

    #[test]
    fn what_the_rfc_calls_invalid_is_not_taken() {
        let good = Message::Advertisement.encode();
        let global = "2001:db8::1".parse().unwrap();
        assert_eq!(
            Message::decode(good, NEIGHBOUR, 254),
            None,
            "crossed a router"
        );
        assert_eq!(Message::decode(good, global, 255), None, "not link-local");
        for len in 0..good.len() {
            assert_eq!(
                Message::decode(good.get(..len).unwrap(), NEIGHBOUR, 255),
                None,
                "{len}"
            );
        }
        let with = |tail: &[u8]| Message::decode(&[good, tail].concat(), NEIGHBOUR, 255);
        assert_eq!(
            with(&[1, 1, 0, 0, 0, 0, 0, 0]),
            Some(Message::Advertisement)
        );
        assert_eq!(
            with(&[1, 0, 0, 0, 0, 0, 0, 0]),
            None,
            "an option of no length"
        );
        assert_eq!(
            with(&[1, 2, 0, 0, 0, 0, 0, 0]),
            None,
            "an option longer than the message"
        );
        assert_eq!(with(&[1]), None, "half an option");
        let mut code = good.to_vec();
        code.splice(1..2, [1]);
        assert_eq!(Message::decode(&code, NEIGHBOUR, 255), None, "a code");
        let anyone = Ipv6Addr::UNSPECIFIED;
        assert_eq!(
            Message::decode(Message::Solicitation.encode(), anyone, 255),
            Some(Message::Solicitation)
        );
    }
}
