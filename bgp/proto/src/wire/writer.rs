//! Writing things that carry their own length: the length is filled in when the content is there.

use bytes::{BufMut, BytesMut};

/// The Extended Length bit of the attribute flags (RFC 4271 §4.3).
pub(super) const EXTENDED_LENGTH: u8 = 0x10;

/// Writes `content` behind a two-octet length.
pub(super) fn put_sized(out: &mut BytesMut, content: impl FnOnce(&mut BytesMut)) {
    let at = out.len();
    out.put_u16(0);
    content(out);
    let len = out.len() - at - 2;
    overwrite(out, at, &clamp(len).to_be_bytes());
}

/// Writes a path attribute; the Extended Length bit is set exactly when the value is longer than 255.
pub(super) fn put_attribute(
    out: &mut BytesMut,
    flags: u8,
    code: u8,
    value: impl FnOnce(&mut BytesMut),
) {
    let at = out.len();
    out.put_slice(&[flags & !EXTENDED_LENGTH, code, 0]);
    value(out);
    let len = out.len() - at - 3;
    if let Ok(short) = u8::try_from(len) {
        overwrite(out, at + 2, &[short]);
        return;
    }
    out.put_u8(0);
    if let Some(tail) = out.get_mut(at + 3..) {
        tail.copy_within(..len, 1);
    }
    let [high, low] = clamp(len).to_be_bytes();
    overwrite(out, at, &[flags | EXTENDED_LENGTH, code, high, low]);
}

/// Replaces bytes that were written before.
pub(super) fn overwrite(out: &mut BytesMut, at: usize, bytes: &[u8]) {
    let place = out
        .get_mut(at..at + bytes.len())
        .expect("the place was written before");
    place.copy_from_slice(bytes);
}

/// A length as the two octets that carry it; what is longer than a message was refused by the caller.
pub(super) fn clamp(len: usize) -> u16 {
    debug_assert!(
        len <= usize::from(u16::MAX),
        "{len} octets in a two-octet length"
    );
    u16::try_from(len).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attribute_of_256_octets_has_an_extended_length() {
        for (len, header) in [(255, vec![0xc0, 99, 255]), (256, vec![0xd0, 99, 1, 0])] {
            let mut out = BytesMut::from(&b"before"[..]);
            let value: Vec<u8> = (0..len).map(|n: usize| n.to_le_bytes()[0]).collect();
            put_attribute(&mut out, 0xc0, 99, |out| out.put_slice(&value));
            assert_eq!(out, [b"before".to_vec(), header, value].concat());
        }
    }
}
