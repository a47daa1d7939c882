//! Requests that go to the kernel in one send, encoded into one buffer that is used again.

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;

/// Bytes in one send. The kernel's rate no longer grows beyond 8 KiB; the default send buffer holds 208 KiB.
pub(crate) const BATCH_BYTES: usize = 60 * 1024;
/// Bytes of a message's head (struct nlmsghdr).
pub(crate) const HEADER: usize = 16;

/// Requests to be sent as one; only the last asks for an acknowledgement, refusals come anyway.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    bytes: Vec<u8>,
    last: usize,
    count: u32,
}

impl Batch {
    /// Adds a message of the library's kinds.
    pub(crate) fn push(&mut self, message: RouteNetlinkMessage, flags: u16) {
        self.last = self.bytes.len();
        self.count += 1;
        self.bytes
            .extend_from_slice(&serialized(message, NLM_F_REQUEST | flags, 0));
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// Adds a message whose body `body` appends; every append must end at a multiple of four.
    pub(crate) fn push_with(&mut self, kind: u16, flags: u16, body: impl FnOnce(&mut Vec<u8>)) {
        self.last = self.bytes.len();
        self.count += 1;
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes
            .extend_from_slice(&(NLM_F_REQUEST | flags).to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 8]);
        body(&mut self.bytes);
        let length = u32::try_from(self.bytes.len() - self.last).unwrap_or(u32::MAX);
        put(&mut self.bytes, self.last, &length.to_ne_bytes());
    }

    pub(crate) fn is_full(&self) -> bool {
        self.bytes.len() >= BATCH_BYTES
    }

    /// How many requests there are.
    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    /// Empties it and keeps the memory.
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.last = 0;
        self.count = 0;
    }

    /// Numbers the requests from `first` on, makes the last one ask for an answer, and returns what to send.
    pub(crate) fn seal(&mut self, first: u32) -> &[u8] {
        let (mut at, mut sequence) = (0, first);
        while let Some(length) = word(&self.bytes, at) {
            put(&mut self.bytes, at + 8, &sequence.to_ne_bytes());
            sequence = sequence.wrapping_add(1);
            at += (length as usize).max(HEADER).next_multiple_of(4);
        }
        if let Some(flags) = half(&self.bytes, self.last + 6) {
            let flags = flags | NLM_F_ACK;
            put(&mut self.bytes, self.last + 6, &flags.to_ne_bytes());
        }
        &self.bytes
    }
}

/// Appends one attribute.
pub(crate) fn attribute(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
    out.extend_from_slice(&length.to_ne_bytes());
    out.extend_from_slice(&kind.to_ne_bytes());
    out.extend_from_slice(value);
    out.resize(out.len().next_multiple_of(4), 0);
}

/// Appends one attribute that holds others, which `inside` appends.
pub(crate) fn nested(out: &mut Vec<u8>, kind: u16, inside: impl FnOnce(&mut Vec<u8>)) {
    const NLA_F_NESTED: u16 = 0x8000;
    let start = out.len();
    out.extend_from_slice(&[0; 2]);
    out.extend_from_slice(&(kind | NLA_F_NESTED).to_ne_bytes());
    inside(out);
    let length = u16::try_from(out.len() - start).unwrap_or(u16::MAX);
    put(out, start, &length.to_ne_bytes());
}

/// A message of the library's kinds as bytes.
pub(crate) fn serialized(message: RouteNetlinkMessage, flags: u16, sequence: u32) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.flags = flags;
    header.sequence_number = sequence;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

/// The attributes of a message, kind (without its flag bits) and value; ends at the first malformed one.
pub(crate) struct Attributes<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::from(half(self.0, 0)?);
        let kind = half(self.0, 2)? & 0x3fff;
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

/// Four bytes in the host's order.
pub(crate) fn word(data: &[u8], at: usize) -> Option<u32> {
    data.get(at..at + 4)?
        .try_into()
        .ok()
        .map(u32::from_ne_bytes)
}

/// Two bytes in the host's order.
pub(crate) fn half(data: &[u8], at: usize) -> Option<u16> {
    data.get(at..at + 2)?
        .try_into()
        .ok()
        .map(u16::from_ne_bytes)
}

fn put(data: &mut [u8], at: usize, value: &[u8]) {
    if let Some(field) = data.get_mut(at..at + value.len()) {
        field.copy_from_slice(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_numbers_its_requests_and_asks_once() {
        let mut batch = Batch::default();
        for n in 0..3u8 {
            batch.push_with(24, 0x400, |out| attribute(out, 1, &[n; 3]));
        }
        let sealed = batch.seal(7).to_vec();
        let message = |n: usize| sealed.get(n * 24..n * 24 + 24).unwrap();
        for n in 0..3 {
            assert_eq!(word(message(n), 0), Some(24));
            assert_eq!(half(message(n), 4), Some(24));
            assert_eq!(word(message(n), 8), Some(7 + u32::try_from(n).unwrap()));
            let flags = half(message(n), 6).unwrap();
            assert_eq!(flags & NLM_F_ACK != 0, n == 2);
            assert_eq!(flags & !NLM_F_ACK, 0x401);
            let value = [u8::try_from(n).unwrap(); 3];
            let all: Vec<_> = Attributes(message(n).get(16..).unwrap()).collect();
            assert_eq!(all, [(1, value.as_slice())]);
        }
        batch.clear();
        assert!(batch.count() == 0 && batch.seal(1).is_empty());
    }
}
