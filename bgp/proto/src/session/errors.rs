//! The NOTIFICATIONs the state machine itself needs, made and recognised.

use bytes::Bytes;

use super::connection::Phase;
use crate::wire::notification::{cease, code, fsm, open};
use crate::wire::{Message, Notification};

/// RFC 5492 §5; `capabilities` are those we need, as on the wire.
pub(super) fn unsupported_capability(capabilities: Vec<u8>) -> Notification {
    Notification::open_error(open::UNSUPPORTED_CAPABILITY).with_data(Bytes::from(capabilities))
}

/// RFC 4486 §4.
pub(super) fn collision() -> Notification {
    Notification::cease(cease::COLLISION)
}

/// RFC 6608: a message that has no place in this phase; its type is the data.
pub(super) fn unexpected_message(phase: Phase, message: &Message) -> Notification {
    let subcode = match phase {
        Phase::Tracked | Phase::OpenSent => fsm::UNEXPECTED_IN_OPEN_SENT,
        Phase::OpenConfirm => fsm::UNEXPECTED_IN_OPEN_CONFIRM,
        Phase::Established => fsm::UNEXPECTED_IN_ESTABLISHED,
    };
    Notification::fsm_error(subcode).with_data(Bytes::copy_from_slice(&[message.kind().octet()]))
}

/// The peer lost this connection to the other; no failure of the session.
pub(super) fn is_collision(notification: &Notification) -> bool {
    (notification.code, notification.subcode) == (code::CEASE, cease::COLLISION)
}

/// The peer does not take our capabilities (RFC 5492 §3 and §5).
pub(super) fn rejects_capabilities(notification: &Notification) -> bool {
    notification.code == code::OPEN
        && matches!(
            notification.subcode,
            open::UNSUPPORTED_PARAMETER | open::UNSUPPORTED_CAPABILITY
        )
}

/// RFC 9384.
pub(super) fn bfd_down() -> Notification {
    Notification::cease(cease::BFD_DOWN)
}

/// What is sent to a peer that would else take `notification` for the start of a graceful restart (RFC 8538 §5.1).
pub(super) fn hardened(notification: Notification) -> Notification {
    let lasts = [
        cease::MAXIMUM_PREFIXES,
        cease::ADMINISTRATIVE_SHUTDOWN,
        cease::PEER_DECONFIGURED,
    ];
    if notification.code != code::CEASE || !lasts.contains(&notification.subcode) {
        return notification;
    }
    Notification::hard_reset(&notification)
}

/// For people: the numbers and their names, with the Shutdown Communication (RFC 9003) and what a Hard Reset carries.
pub(super) fn describe(notification: &Notification) -> String {
    let Notification { code, subcode, .. } = notification;
    format!("NOTIFICATION {code}/{subcode} ({notification})")
}
