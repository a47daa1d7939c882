//! The NOTIFICATIONs the state machine itself needs, made and recognised.

use bytes::{BufMut as _, Bytes, BytesMut};

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

/// RFC 8538 §3: the session is not to be resumed. The real reason is inside.
pub(super) fn is_hard_reset(notification: &Notification) -> bool {
    (notification.code, notification.subcode) == (code::CEASE, cease::HARD_RESET)
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
    let mut inside = BytesMut::with_capacity(2 + notification.data.len());
    inside.put_slice(&[notification.code, notification.subcode]);
    inside.put_slice(&notification.data);
    Notification::cease(cease::HARD_RESET).with_data(inside.freeze())
}

/// The reason a Hard Reset carries.
fn inside(notification: &Notification) -> Option<Notification> {
    if !is_hard_reset(notification) {
        return None;
    }
    let &[code, subcode, ..] = &*notification.data else {
        return None;
    };
    Some(Notification::new(code, subcode).with_data(notification.data.slice(2..)))
}

/// For people: the numbers and their names, the Shutdown Communication (RFC 9003), what a Hard Reset carries.
pub(super) fn describe(notification: &Notification) -> String {
    let Notification { code, subcode, .. } = notification;
    match inside(notification) {
        Some(inside) => format!("NOTIFICATION {code}/{subcode} ({notification}, {inside})"),
        None => format!("NOTIFICATION {code}/{subcode} ({notification})"),
    }
}
