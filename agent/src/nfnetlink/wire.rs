//! The octets of nfnetlink: requests are built, and messages taken apart, within their bounds.

use std::time::Duration;

/// The message says how a request went.
const NLMSG_ERROR: u16 = 2;
/// Messages below this are netlink's own.
const NLMSG_MIN_TYPE: u16 = 16;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
/// The length of `struct nlmsghdr`, and of `struct nfgenmsg` after it.
const HEADER: usize = 16;
const FAMILY_HEADER: usize = 4;
/// An attribute's type without the bits for nesting and byte order.
const TYPE: u16 = 0x3fff;

/// A request that grows by its attributes.
#[derive(Clone, Debug)]
pub(super) struct Request {
    octets: Vec<u8>,
}

impl Request {
    /// A request that the kernel answers by an acknowledgement.
    pub(super) fn acknowledged(subsystem: u8, kind: u8, resource: u16) -> Self {
        Self::new(subsystem, kind, NLM_F_REQUEST | NLM_F_ACK, resource)
    }

    /// A request that the kernel answers only if it fails.
    pub(super) fn silent(subsystem: u8, kind: u8, resource: u16) -> Self {
        Self::new(subsystem, kind, NLM_F_REQUEST, resource)
    }

    fn new(subsystem: u8, kind: u8, flags: u16, resource: u16) -> Self {
        let mut octets = vec![0; 4];
        octets.extend(u16::from_be_bytes([subsystem, kind]).to_ne_bytes());
        octets.extend(flags.to_ne_bytes());
        octets.extend([0; 8]);
        // AF_UNSPEC, version 0.
        octets.extend([0, 0]);
        octets.extend(resource.to_be_bytes());
        Self { octets }
    }

    /// Adds an attribute.
    #[must_use]
    pub(super) fn with(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(value.len() + 4).expect("our attributes are a few octets");
        self.octets.extend(length.to_ne_bytes());
        self.octets.extend(kind.to_ne_bytes());
        self.octets.extend(value);
        self.octets.resize(self.octets.len().next_multiple_of(4), 0);
        self
    }

    /// The message.
    pub(super) fn finish(mut self) -> Vec<u8> {
        let length = u32::try_from(self.octets.len()).expect("our requests are short");
        if let Some(field) = self.octets.get_mut(..4) {
            field.copy_from_slice(&length.to_ne_bytes());
        }
        self.octets
    }
}

/// One message of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Received<'a> {
    /// How a request went: 0, or what is wrong.
    Answer(i32),
    /// A packet, or whatever the subsystem says.
    Message {
        subsystem: u8,
        kind: u8,
        attributes: Attributes<'a>,
    },
}

/// The messages of one datagram; ends at what is cut short.
pub(super) fn messages(datagram: &[u8]) -> impl Iterator<Item = Received<'_>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        loop {
            let length = usize::try_from(u32::from_ne_bytes(array(rest, 0)?)).ok()?;
            let kind = u16::from_ne_bytes(array(rest, 4)?);
            let body = rest.get(HEADER..length)?;
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            if kind == NLMSG_ERROR {
                return Some(Received::Answer(i32::from_ne_bytes(array(body, 0)?)));
            }
            if kind < NLMSG_MIN_TYPE {
                continue;
            }
            let [subsystem, kind] = kind.to_be_bytes();
            return Some(Received::Message {
                subsystem,
                kind,
                attributes: Attributes(body.get(FAMILY_HEADER..)?),
            });
        }
    })
}

/// The attributes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Attributes<'a>(&'a [u8]);

impl<'a> Attributes<'a> {
    /// The first attribute of a type.
    pub(super) fn get(self, kind: u16) -> Option<&'a [u8]> {
        self.iter()
            .find(|(of, _)| *of == kind)
            .map(|(_, value)| value)
    }

    /// A number in network order.
    pub(super) fn number(self, kind: u16) -> Option<u32> {
        Some(u32::from_be_bytes(array(self.get(kind)?, 0)?))
    }

    /// A point in time since 1970, as seconds and microseconds.
    pub(super) fn time(self, kind: u16) -> Option<Duration> {
        let value = self.get(kind)?;
        let seconds = u64::from_be_bytes(array(value, 0)?);
        let micros = u64::from_be_bytes(array(value, 8)?);
        Duration::from_secs(seconds).checked_add(Duration::from_micros(micros))
    }

    fn iter(self) -> impl Iterator<Item = (u16, &'a [u8])> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let length = usize::from(u16::from_ne_bytes(array(rest, 0)?));
            let kind = u16::from_ne_bytes(array(rest, 2)?) & TYPE;
            let value = rest.get(4..length)?;
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            Some((kind, value))
        })
    }
}

/// So many octets from there on.
pub(super) fn array<const N: usize>(octets: &[u8], at: usize) -> Option<[u8; N]> {
    octets.get(at..)?.first_chunk().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_built_is_taken_apart_again() {
        let one = Request::acknowledged(3, 2, 7)
            .with(1, &[1, 2, 3])
            .with(5, &9_u32.to_be_bytes());
        let mut datagram = one.finish();
        assert_eq!(datagram.len() % 4, 0);
        datagram.extend(Request::silent(4, 0, 1).finish());
        let found: Vec<_> = messages(&datagram).collect();
        let Received::Message {
            subsystem: 3,
            kind: 2,
            attributes,
        } = found[0]
        else {
            panic!("{found:?}")
        };
        assert_eq!(attributes.get(1), Some(&[1, 2, 3][..]));
        assert_eq!(
            (
                attributes.number(5),
                attributes.number(1),
                attributes.get(2)
            ),
            (Some(9), None, None)
        );
        assert!(matches!(
            found[1],
            Received::Message {
                subsystem: 4,
                kind: 0,
                ..
            }
        ));
        assert_eq!(found.len(), 2);
    }

    #[test]
    fn what_is_cut_short_ends_the_reading() {
        let whole = Request::acknowledged(3, 0, 0).with(1, &[0; 40]).finish();
        for length in 0..whole.len() {
            assert_eq!(messages(&whole[..length]).count(), 0, "{length}");
        }
        let mut lying = whole;
        for length in [0_u16, 3, 9, 400] {
            lying[20..22].copy_from_slice(&length.to_ne_bytes());
            for message in messages(&lying) {
                let Received::Message { attributes, .. } = message else {
                    panic!()
                };
                assert!(attributes.get(1).is_none_or(|value| value.len() < 40));
            }
        }
        assert_eq!(messages(&[0; 64]).count(), 0);
    }
}
