//! The message header (RFC 4271 §4.1) and its errors (§6.1).

use bytes::{BufMut, Bytes, BytesMut};

use super::notification::{code, header as subcode};
use super::reader::Reader;
use super::writer::{clamp, overwrite};
use super::{Message, Notification, WireContext};

/// Octets of the header.
pub const HEADER_LEN: usize = 19;

/// The longest message in octets, header included, where extended messages are not agreed on.
pub const MAX_MESSAGE_LEN: usize = 4096;

/// The longest message in octets, header included, where they are (RFC 8654 §4); OPEN and KEEPALIVE stay shorter.
pub const MAX_EXTENDED_MESSAGE_LEN: usize = 65535;

/// The Marker: all ones.
const MARKER: [u8; 16] = [0xff; 16];

/// The Type octet of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MessageKind {
    /// Type 1.
    Open,
    /// Type 2.
    Update,
    /// Type 3.
    Notification,
    /// Type 4.
    Keepalive,
    /// Type 5 (RFC 2918).
    RouteRefresh,
}

impl MessageKind {
    /// The Type octet.
    #[must_use]
    pub fn octet(self) -> u8 {
        match self {
            Self::Open => 1,
            Self::Update => 2,
            Self::Notification => 3,
            Self::Keepalive => 4,
            Self::RouteRefresh => 5,
        }
    }

    /// The kind of a Type octet, if it is one.
    #[must_use]
    pub fn of_octet(octet: u8) -> Option<Self> {
        Some(match octet {
            1 => Self::Open,
            2 => Self::Update,
            3 => Self::Notification,
            4 => Self::Keepalive,
            5 => Self::RouteRefresh,
            _ => return None,
        })
    }

    /// The most octets of a message of this kind on a session, header included (RFC 4271 §4.1, RFC 8654 §4).
    #[must_use]
    pub fn max_len(self, ctx: &WireContext) -> usize {
        match self {
            Self::Open | Self::Keepalive => MAX_MESSAGE_LEN,
            _ if !ctx.extended_messages => MAX_MESSAGE_LEN,
            Self::Update | Self::Notification | Self::RouteRefresh => MAX_EXTENDED_MESSAGE_LEN,
        }
    }

    /// Whether a message of this kind may be `len` octets long, header included (RFC 4271 §6.1).
    fn allows_len(self, len: usize, ctx: &WireContext) -> bool {
        let shortest = match self {
            Self::Open => 29,
            Self::Update => 23,
            Self::Notification => 21,
            Self::Keepalive => return len == HEADER_LEN,
            // Its own error is made by its own decoder (RFC 7313 §5).
            Self::RouteRefresh if ctx.enhanced_route_refresh => HEADER_LEN,
            Self::RouteRefresh => return len == 23,
        };
        (shortest..=self.max_len(ctx)).contains(&len)
    }
}

impl Message {
    /// The kind of this message.
    #[must_use]
    pub fn kind(&self) -> MessageKind {
        match self {
            Self::Open(_) => MessageKind::Open,
            Self::Update(_) => MessageKind::Update,
            Self::Notification(_) => MessageKind::Notification,
            Self::Keepalive => MessageKind::Keepalive,
            Self::RouteRefresh(_) => MessageKind::RouteRefresh,
        }
    }
}

/// Reads a header: the kind, and the octets of the whole message. `None`: not all of the header is here.
pub(super) fn decode(
    bytes: &[u8],
    ctx: &WireContext,
) -> Result<Option<(MessageKind, usize)>, Notification> {
    let mut reader = Reader::new(bytes);
    let marker = bytes.get(..MARKER.len()).unwrap_or(bytes);
    if marker.iter().any(|octet| *octet != 0xff) {
        return Err(Notification::new(code::HEADER, subcode::NOT_SYNCHRONIZED));
    }
    let (Ok(_), Ok(len), Ok(kind)) = (reader.take(MARKER.len()), reader.u16(), reader.u8()) else {
        return Ok(None);
    };
    let octets = usize::from(len);
    let longest = MessageKind::Update.max_len(ctx);
    if !(HEADER_LEN..=longest).contains(&octets) {
        return Err(bad_length(len));
    }
    let Some(known) = MessageKind::of_octet(kind) else {
        let data = Bytes::copy_from_slice(&[kind]);
        return Err(Notification::new(code::HEADER, subcode::BAD_TYPE).with_data(data));
    };
    if !known.allows_len(octets, ctx) {
        return Err(bad_length(len));
    }
    Ok(Some((known, octets)))
}

/// Bad Message Length, with the length that was bad.
pub(super) fn bad_length(len: u16) -> Notification {
    let data = Bytes::copy_from_slice(&len.to_be_bytes());
    Notification::new(code::HEADER, subcode::BAD_LENGTH).with_data(data)
}

/// Writes a message: the header, then what `body` writes.
pub(super) fn put_message(out: &mut BytesMut, kind: MessageKind, body: impl FnOnce(&mut BytesMut)) {
    let at = out.len();
    out.put_slice(&MARKER);
    out.put_u16(0);
    out.put_u8(kind.octet());
    body(out);
    let len = out.len() - at;
    debug_assert!(
        len <= MAX_EXTENDED_MESSAGE_LEN,
        "a {kind:?} of {len} octets"
    );
    overwrite(out, at + MARKER.len(), &clamp(len).to_be_bytes());
}
