//! The least reading of a BGP stream that tells which prefixes come and go, and through which AS.

use crate::prefix::Prefix;

/// Octets of a message's header (RFC 4271 §4.1).
pub const HEADER: usize = 19;
/// Message types.
pub mod kind {
    /// OPEN.
    pub const OPEN: u8 = 1;
    /// UPDATE.
    pub const UPDATE: u8 = 2;
    /// NOTIFICATION.
    pub const NOTIFICATION: u8 = 3;
    /// KEEPALIVE.
    pub const KEEPALIVE: u8 = 4;
}

/// The stream is not BGP, or a length in it points outside of its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Cuts the first message off: its type, its body and what follows; `None` if it is not all there.
///
/// # Errors
/// If the length in its header can't be one.
#[expect(clippy::type_complexity, reason = "three parts of one slice")]
pub fn message(bytes: &[u8]) -> Result<Option<(u8, &[u8], &[u8])>, Malformed> {
    let Some(&[high, low, kind]) = bytes.get(16..HEADER) else {
        return Ok(None);
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length < HEADER {
        return Err(Malformed);
    }
    let Some((whole, rest)) = bytes.split_at_checked(length) else {
        return Ok(None);
    };
    Ok(Some((kind, whole.get(HEADER..).unwrap_or_default(), rest)))
}

/// What an UPDATE says about IPv4 unicast.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Update<'a> {
    /// Prefixes withdrawn, by the classic field and by MP_UNREACH_NLRI.
    pub withdrawn: [&'a [u8]; 2],
    /// Prefixes announced, by the classic field and by MP_REACH_NLRI.
    pub announced: [&'a [u8]; 2],
    /// The second AS of the path: who announced it to the daemon that put its own AS in front.
    pub source: Option<u32>,
}

impl<'a> Update<'a> {
    /// Finds the fields of an UPDATE's body.
    ///
    /// # Errors
    /// If lengths don't fit.
    pub fn read(body: &'a [u8]) -> Result<Self, Malformed> {
        let (withdrawn, body) = sized(body)?;
        let (mut attributes, nlri) = sized(body)?;
        let mut update = Self {
            withdrawn: [withdrawn, &[]],
            announced: [nlri, &[]],
            source: None,
        };
        while let Some((code, value, rest)) = attribute(attributes)? {
            match code {
                2 => update.source = second_as(value),
                14 => update.announced[1] = reached(value),
                15 => update.withdrawn[1] = value.strip_prefix(&IPV4_UNICAST).unwrap_or_default(),
                _ => {}
            }
            attributes = rest;
        }
        Ok(update)
    }
}

const IPV4_UNICAST: [u8; 3] = [0, 1, 1];

/// The prefixes of a field; one longer than [`crate::prefix::LONGEST`] or cut short ends it as an error.
#[derive(Clone, Debug)]
pub struct Prefixes<'a>(pub &'a [u8]);

impl Iterator for Prefixes<'_> {
    type Item = Result<Prefix, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        let (&length, rest) = self.0.split_first()?;
        let octets = usize::from(length.div_ceil(8));
        let Some((address, rest)) = rest.split_at_checked(octets) else {
            self.0 = &[];
            return Some(Err(Malformed));
        };
        self.0 = rest;
        let bits = match *address {
            [a, b, c] => u32::from_be_bytes([a, b, c, 0]),
            [a, b] => u32::from_be_bytes([a, b, 0, 0]),
            [a] => u32::from_be_bytes([a, 0, 0, 0]),
            [] => 0,
            _ => {
                self.0 = &[];
                return Some(Err(Malformed));
            }
        };
        Some(Prefix::new(bits, length).ok_or(Malformed))
    }
}

/// A field that begins with its length in two octets, and what follows it.
fn sized(bytes: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    let (length, rest) = bytes.split_first_chunk::<2>().ok_or(Malformed)?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
        .ok_or(Malformed)
}

#[expect(clippy::type_complexity, reason = "three parts of one slice")]
fn attribute(bytes: &[u8]) -> Result<Option<(u8, &[u8], &[u8])>, Malformed> {
    let Some((&[flags, code], rest)) = bytes.split_first_chunk::<2>() else {
        return if bytes.is_empty() {
            Ok(None)
        } else {
            Err(Malformed)
        };
    };
    const EXTENDED: u8 = 0x10;
    if flags & EXTENDED != 0 {
        let (value, rest) = sized(rest)?;
        return Ok(Some((code, value, rest)));
    }
    let (&length, rest) = rest.split_first().ok_or(Malformed)?;
    let (value, rest) = rest
        .split_at_checked(usize::from(length))
        .ok_or(Malformed)?;
    Ok(Some((code, value, rest)))
}

/// The second AS of a path of four-octet numbers whose first segment is a sequence.
fn second_as(path: &[u8]) -> Option<u32> {
    let second = path.get(6..10)?;
    (path.get(1).copied()? >= 2).then_some(u32::from_be_bytes(second.try_into().ok()?))
}

/// The prefixes of an MP_REACH_NLRI of IPv4 unicast.
fn reached(value: &[u8]) -> &[u8] {
    let after = value
        .strip_prefix(&IPV4_UNICAST)
        .and_then(<[u8]>::split_first);
    after
        .and_then(|(&length, rest)| rest.get(usize::from(length) + 1..))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests;
