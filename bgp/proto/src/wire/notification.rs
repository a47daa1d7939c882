//! NOTIFICATION (RFC 4271 §4.5): its codes by name, how it is made, and how people read it.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};

use super::header::bad_length;
use super::reader::{Reader, Short};
use super::writer::clamp;
use super::{HEADER_LEN, MAX_MESSAGE_LEN, Notification};

/// Error codes (RFC 4271 §4.5).
pub mod code {
    /// Message Header Error.
    pub const HEADER: u8 = 1;
    /// OPEN Message Error.
    pub const OPEN: u8 = 2;
    /// UPDATE Message Error.
    pub const UPDATE: u8 = 3;
    /// Hold Timer Expired.
    pub const HOLD_TIMER_EXPIRED: u8 = 4;
    /// Finite State Machine Error.
    pub const FSM: u8 = 5;
    /// Cease.
    pub const CEASE: u8 = 6;
    /// ROUTE-REFRESH Message Error (RFC 7313).
    pub const ROUTE_REFRESH: u8 = 7;
    /// Send Hold Timer Expired (RFC 9687).
    pub const SEND_HOLD_TIMER_EXPIRED: u8 = 8;
}

/// Subcodes of a Message Header Error.
pub mod header {
    /// Connection Not Synchronized.
    pub const NOT_SYNCHRONIZED: u8 = 1;
    /// Bad Message Length.
    pub const BAD_LENGTH: u8 = 2;
    /// Bad Message Type.
    pub const BAD_TYPE: u8 = 3;
}

/// Subcodes of an OPEN Message Error.
pub mod open {
    /// Unspecific.
    pub const UNSPECIFIC: u8 = 0;
    /// Unsupported Version Number.
    pub const UNSUPPORTED_VERSION: u8 = 1;
    /// Bad Peer AS.
    pub const BAD_PEER_AS: u8 = 2;
    /// Bad BGP Identifier.
    pub const BAD_BGP_ID: u8 = 3;
    /// Unsupported Optional Parameter.
    pub const UNSUPPORTED_PARAMETER: u8 = 4;
    /// Unacceptable Hold Time.
    pub const UNACCEPTABLE_HOLD_TIME: u8 = 6;
    /// Unsupported Capability (RFC 5492).
    pub const UNSUPPORTED_CAPABILITY: u8 = 7;
    /// Role Mismatch (RFC 9234).
    pub const ROLE_MISMATCH: u8 = 11;
}

/// Subcodes of an UPDATE Message Error.
pub mod update {
    /// Malformed Attribute List.
    pub const MALFORMED_LIST: u8 = 1;
    /// Unrecognized Well-known Attribute.
    pub const UNRECOGNIZED_WELL_KNOWN: u8 = 2;
    /// Missing Well-known Attribute.
    pub const MISSING_WELL_KNOWN: u8 = 3;
    /// Attribute Flags Error.
    pub const FLAGS: u8 = 4;
    /// Attribute Length Error.
    pub const LENGTH: u8 = 5;
    /// Invalid ORIGIN Attribute.
    pub const INVALID_ORIGIN: u8 = 6;
    /// Invalid NEXT_HOP Attribute.
    pub const INVALID_NEXT_HOP: u8 = 8;
    /// Optional Attribute Error.
    pub const OPTIONAL_ATTRIBUTE: u8 = 9;
    /// Invalid Network Field.
    pub const INVALID_NETWORK: u8 = 10;
    /// Malformed AS_PATH.
    pub const MALFORMED_AS_PATH: u8 = 11;
}

/// Subcodes of a Finite State Machine Error (RFC 6608).
pub mod fsm {
    /// Receive Unexpected Message in OpenSent State.
    pub const UNEXPECTED_IN_OPEN_SENT: u8 = 1;
    /// Receive Unexpected Message in OpenConfirm State.
    pub const UNEXPECTED_IN_OPEN_CONFIRM: u8 = 2;
    /// Receive Unexpected Message in Established State.
    pub const UNEXPECTED_IN_ESTABLISHED: u8 = 3;
}

/// Subcodes of a ROUTE-REFRESH Message Error (RFC 7313 §5).
pub mod route_refresh {
    /// Invalid Message Length.
    pub const INVALID_LENGTH: u8 = 1;
}

/// Subcodes of Cease (RFC 4486; 9 from RFC 8538, 10 from RFC 9384).
pub mod cease {
    /// Maximum Number of Prefixes Reached.
    pub const MAXIMUM_PREFIXES: u8 = 1;
    /// Administrative Shutdown.
    pub const ADMINISTRATIVE_SHUTDOWN: u8 = 2;
    /// Peer De-configured.
    pub const PEER_DECONFIGURED: u8 = 3;
    /// Administrative Reset.
    pub const ADMINISTRATIVE_RESET: u8 = 4;
    /// Connection Rejected.
    pub const CONNECTION_REJECTED: u8 = 5;
    /// Other Configuration Change.
    pub const CONFIGURATION_CHANGE: u8 = 6;
    /// Connection Collision Resolution.
    pub const COLLISION: u8 = 7;
    /// Out of Resources.
    pub const OUT_OF_RESOURCES: u8 = 8;
    /// Hard Reset.
    pub const HARD_RESET: u8 = 9;
    /// BFD Down.
    pub const BFD_DOWN: u8 = 10;
}

/// The longest Shutdown Communication in octets (RFC 9003 §2).
const MAX_SHUTDOWN_TEXT: usize = 255;

impl Notification {
    /// A NOTIFICATION without data.
    #[must_use]
    pub fn new(code: u8, subcode: u8) -> Self {
        Self {
            code,
            subcode,
            data: Bytes::new(),
        }
    }

    /// The same with this data; what would not fit a message is cut off.
    #[must_use]
    pub fn with_data(self, data: Bytes) -> Self {
        Self {
            data: data.slice(..data.len().min(MAX_MESSAGE_LEN - HEADER_LEN - 2)),
            ..self
        }
    }

    /// Hold Timer Expired.
    #[must_use]
    pub fn hold_timer_expired() -> Self {
        Self::new(code::HOLD_TIMER_EXPIRED, 0)
    }

    /// Send Hold Timer Expired (RFC 9687).
    #[must_use]
    pub fn send_hold_timer_expired() -> Self {
        Self::new(code::SEND_HOLD_TIMER_EXPIRED, 0)
    }

    /// An OPEN Message Error with one of the subcodes in [`open`].
    #[must_use]
    pub fn open_error(subcode: u8) -> Self {
        Self::new(code::OPEN, subcode)
    }

    /// An UPDATE Message Error with one of the subcodes in [`update`].
    #[must_use]
    pub fn update_error(subcode: u8) -> Self {
        Self::new(code::UPDATE, subcode)
    }

    /// A Finite State Machine Error with one of the subcodes in [`fsm`].
    #[must_use]
    pub fn fsm_error(subcode: u8) -> Self {
        Self::new(code::FSM, subcode)
    }

    /// Cease with one of the subcodes in [`cease`].
    #[must_use]
    pub fn cease(subcode: u8) -> Self {
        Self::new(code::CEASE, subcode)
    }

    /// Cease with a Shutdown Communication (RFC 9003), for subcodes 2 and 4; cut at 255 octets.
    #[must_use]
    pub fn cease_with_text(subcode: u8, text: &str) -> Self {
        let mut end = text.len().min(MAX_SHUTDOWN_TEXT);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let text = text.get(..end).unwrap_or_default();
        let mut data = BytesMut::with_capacity(1 + text.len());
        data.put_u8(u8::try_from(text.len()).unwrap_or(u8::MAX));
        data.put_slice(text.as_bytes());
        Self::cease(subcode).with_data(data.freeze())
    }

    /// Cease, Hard Reset (RFC 8538 §3): ends the session with all its routes, for the reason that `inner` states.
    #[must_use]
    pub fn hard_reset(inner: &Self) -> Self {
        let mut data = BytesMut::with_capacity(2 + inner.data.len());
        inner.encode(&mut data);
        Self::cease(cease::HARD_RESET).with_data(data.freeze())
    }

    /// Whether it is a Hard Reset, over which no route is kept (RFC 8538 §4).
    #[must_use]
    pub fn is_hard_reset(&self) -> bool {
        self.code == code::CEASE && self.subcode == cease::HARD_RESET
    }

    /// The reason inside a Hard Reset; `None` for others, and for one that does not say.
    #[must_use]
    pub fn encapsulated(&self) -> Option<Self> {
        if !self.is_hard_reset() {
            return None;
        }
        let code = *self.data.first()?;
        let subcode = *self.data.get(1)?;
        Some(Self {
            code,
            subcode,
            data: self.data.slice(2..),
        })
    }

    /// The Shutdown Communication (RFC 9003) the peer sent with its Cease, if there is one and it is text; that of a
    /// Hard Reset is inside what it encapsulates. It is the peer's word: control characters are in it as they came.
    #[must_use]
    pub fn shutdown_text(&self) -> Option<&str> {
        std::str::from_utf8(self.shutdown_communication()?).ok()
    }

    /// The octets of a Shutdown Communication, never none.
    fn shutdown_communication(&self) -> Option<&[u8]> {
        let told = [cease::ADMINISTRATIVE_SHUTDOWN, cease::ADMINISTRATIVE_RESET];
        if self.code != code::CEASE || !told.contains(&self.subcode) {
            return None;
        }
        let (len, text) = self.data.split_first()?;
        let text = text.get(..usize::from(*len))?;
        (!text.is_empty()).then_some(text)
    }

    pub(super) fn decode(body: &[u8]) -> Result<Self, Self> {
        let mut reader = Reader::new(body);
        let too_short = |Short| bad_length(clamp(HEADER_LEN + body.len()));
        let code = reader.u8().map_err(too_short)?;
        let subcode = reader.u8().map_err(too_short)?;
        Ok(Self {
            code,
            subcode,
            data: Bytes::copy_from_slice(reader.rest()),
        })
    }

    pub(super) fn encode(&self, out: &mut BytesMut) {
        out.put_u8(self.code);
        out.put_u8(self.subcode);
        out.put_slice(&self.data);
    }
}

impl std::error::Error for Notification {}

/// The RFCs' own words: `Hold Timer Expired`, `Cease: Administrative Shutdown "maintenance"`.
impl fmt::Display for Notification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fmt_alone(f)?;
        match self.encapsulated() {
            // One inside another inside another is a peer's joke: one level is shown.
            Some(inner) => {
                f.write_str(" (")?;
                inner.fmt_alone(f)?;
                f.write_str(")")
            }
            None => Ok(()),
        }
    }
}

impl Notification {
    /// All but what it encapsulates.
    fn fmt_alone(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match code_name(self.code) {
            Some(name) => f.write_str(name)?,
            None => write!(f, "error code {}", self.code)?,
        }
        match subcode_name(self.code, self.subcode) {
            Some(name) => write!(f, ": {name}")?,
            None if self.subcode == 0 => {}
            None => write!(f, ": subcode {}", self.subcode)?,
        }
        let Some(communication) = self.shutdown_communication() else {
            return Ok(());
        };
        match std::str::from_utf8(communication) {
            Ok(text) => write!(f, " {text:?}"),
            Err(_) => {
                f.write_str(" (not text: 0x")?;
                communication
                    .iter()
                    .try_for_each(|octet| write!(f, "{octet:02x}"))?;
                f.write_str(")")
            }
        }
    }
}

fn code_name(code: u8) -> Option<&'static str> {
    Some(match code {
        code::HEADER => "Message Header Error",
        code::OPEN => "OPEN Message Error",
        code::UPDATE => "UPDATE Message Error",
        code::HOLD_TIMER_EXPIRED => "Hold Timer Expired",
        code::FSM => "Finite State Machine Error",
        code::CEASE => "Cease",
        code::ROUTE_REFRESH => "ROUTE-REFRESH Message Error",
        code::SEND_HOLD_TIMER_EXPIRED => "Send Hold Timer Expired",
        _ => return None,
    })
}

fn subcode_name(code: u8, subcode: u8) -> Option<&'static str> {
    Some(match (code, subcode) {
        (code::HEADER, header::NOT_SYNCHRONIZED) => "Connection Not Synchronized",
        (code::HEADER, header::BAD_LENGTH) => "Bad Message Length",
        (code::HEADER, header::BAD_TYPE) => "Bad Message Type",
        (code::OPEN, open::UNSUPPORTED_VERSION) => "Unsupported Version Number",
        (code::OPEN, open::BAD_PEER_AS) => "Bad Peer AS",
        (code::OPEN, open::BAD_BGP_ID) => "Bad BGP Identifier",
        (code::OPEN, open::UNSUPPORTED_PARAMETER) => "Unsupported Optional Parameter",
        (code::OPEN, open::UNACCEPTABLE_HOLD_TIME) => "Unacceptable Hold Time",
        (code::OPEN, open::UNSUPPORTED_CAPABILITY) => "Unsupported Capability",
        (code::OPEN, open::ROLE_MISMATCH) => "Role Mismatch",
        (code::UPDATE, update::MALFORMED_LIST) => "Malformed Attribute List",
        (code::UPDATE, update::UNRECOGNIZED_WELL_KNOWN) => "Unrecognized Well-known Attribute",
        (code::UPDATE, update::MISSING_WELL_KNOWN) => "Missing Well-known Attribute",
        (code::UPDATE, update::FLAGS) => "Attribute Flags Error",
        (code::UPDATE, update::LENGTH) => "Attribute Length Error",
        (code::UPDATE, update::INVALID_ORIGIN) => "Invalid ORIGIN Attribute",
        (code::UPDATE, update::INVALID_NEXT_HOP) => "Invalid NEXT_HOP Attribute",
        (code::UPDATE, update::OPTIONAL_ATTRIBUTE) => "Optional Attribute Error",
        (code::UPDATE, update::INVALID_NETWORK) => "Invalid Network Field",
        (code::UPDATE, update::MALFORMED_AS_PATH) => "Malformed AS_PATH",
        (code::FSM, fsm::UNEXPECTED_IN_OPEN_SENT) => "Receive Unexpected Message in OpenSent State",
        (code::FSM, fsm::UNEXPECTED_IN_OPEN_CONFIRM) => {
            "Receive Unexpected Message in OpenConfirm State"
        }
        (code::FSM, fsm::UNEXPECTED_IN_ESTABLISHED) => {
            "Receive Unexpected Message in Established State"
        }
        (code::CEASE, cease::MAXIMUM_PREFIXES) => "Maximum Number of Prefixes Reached",
        (code::CEASE, cease::ADMINISTRATIVE_SHUTDOWN) => "Administrative Shutdown",
        (code::CEASE, cease::PEER_DECONFIGURED) => "Peer De-configured",
        (code::CEASE, cease::ADMINISTRATIVE_RESET) => "Administrative Reset",
        (code::CEASE, cease::CONNECTION_REJECTED) => "Connection Rejected",
        (code::CEASE, cease::CONFIGURATION_CHANGE) => "Other Configuration Change",
        (code::CEASE, cease::COLLISION) => "Connection Collision Resolution",
        (code::CEASE, cease::OUT_OF_RESOURCES) => "Out of Resources",
        (code::CEASE, cease::HARD_RESET) => "Hard Reset",
        (code::CEASE, cease::BFD_DOWN) => "BFD Down",
        (code::ROUTE_REFRESH, route_refresh::INVALID_LENGTH) => "Invalid Message Length",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_read_the_words_of_the_rfcs() {
        let table = [
            (Notification::hold_timer_expired(), "Hold Timer Expired"),
            (
                Notification::send_hold_timer_expired(),
                "Send Hold Timer Expired",
            ),
            (
                Notification::open_error(open::BAD_PEER_AS),
                "OPEN Message Error: Bad Peer AS",
            ),
            (
                Notification::open_error(open::UNSPECIFIC),
                "OPEN Message Error",
            ),
            (Notification::cease(77), "Cease: subcode 77"),
            (Notification::new(99, 1), "error code 99: subcode 1"),
            (
                Notification::cease_with_text(cease::ADMINISTRATIVE_SHUTDOWN, "new \"rack\"\n"),
                "Cease: Administrative Shutdown \"new \\\"rack\\\"\\n\"",
            ),
            (
                Notification::hard_reset(&Notification::cease_with_text(
                    cease::ADMINISTRATIVE_RESET,
                    "bye",
                )),
                "Cease: Hard Reset (Cease: Administrative Reset \"bye\")",
            ),
            (Notification::cease(cease::HARD_RESET), "Cease: Hard Reset"),
            (Notification::cease(cease::BFD_DOWN), "Cease: BFD Down"),
            (
                Notification::cease(cease::ADMINISTRATIVE_SHUTDOWN)
                    .with_data(Bytes::from_static(&[2, 0xc3, 0x28])),
                "Cease: Administrative Shutdown (not text: 0xc328)",
            ),
            (
                Notification::open_error(open::ROLE_MISMATCH),
                "OPEN Message Error: Role Mismatch",
            ),
        ];
        for (notification, words) in table {
            assert_eq!(notification.to_string(), words);
        }
    }

    #[test]
    fn a_long_shutdown_text_is_cut_between_characters() {
        let text = "é".repeat(200);
        let notification = Notification::cease_with_text(cease::ADMINISTRATIVE_RESET, &text);
        assert_eq!(notification.shutdown_text(), Some("é".repeat(127).as_str()));
        assert_eq!(notification.data.len(), 255);
    }

    #[test]
    fn a_hard_reset_carries_the_notification_it_stands_for() {
        let inner = Notification::cease_with_text(cease::PEER_DECONFIGURED, "gone");
        let outer = Notification::hard_reset(&inner);
        assert!(outer.is_hard_reset() && !inner.is_hard_reset());
        assert_eq!(outer.encapsulated(), Some(inner));
        for short in [vec![], vec![6]] {
            let cut = Notification::cease(cease::HARD_RESET).with_data(short.into());
            assert!(cut.is_hard_reset());
            assert_eq!(cut.encapsulated(), None);
        }
    }

    #[test]
    fn a_hard_reset_inside_a_hard_reset_is_shown_without_end_of_stack() {
        let mut nested = Notification::cease(cease::BFD_DOWN);
        for _ in 0..2000 {
            nested = Notification::hard_reset(&nested);
        }
        assert!(nested.to_string().len() < 200);
    }

    #[test]
    fn a_shutdown_text_that_lies_about_its_length_is_not_read() {
        let lie = Notification::cease(cease::ADMINISTRATIVE_SHUTDOWN)
            .with_data(Bytes::from_static(&[5, b'h', b'i']));
        assert_eq!(lie.shutdown_text(), None);
        assert_eq!(lie.to_string(), "Cease: Administrative Shutdown");
    }
}
